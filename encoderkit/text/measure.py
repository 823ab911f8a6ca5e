"""How well a tokenizer fits a text: what it does not know, and how many tokens it needs."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from encoderkit.text.alphabet import HAN_CLASS
from encoderkit.text.tokenizers import Tokenizer

MOST = 2_000_000
"""Characters that are looked at."""
_WORDS = re.compile(rf"{HAN_CLASS}|[^\s{HAN_CLASS[1:-1]}]+")


class Fit(NamedTuple):
    """What a tokenizer makes of a text."""

    unknown_rate: float
    """The share of the tokens that are [UNK]."""
    tokens_per_word: float
    """A word is what stands between spaces, and each Chinese character."""
    tokens_per_character: float
    """Spaces count as characters."""


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> Fit:
    """Encode the first `MOST` characters of `texts` and count."""
    tokens = unknown = words = characters = 0
    for text in texts:
        encoded = tokenizer.encode([line for line in text.split("\n") if line])
        tokens, unknown = tokens + len(encoded.ids), unknown + encoded.unknown
        words, characters = words + len(_WORDS.findall(text)), characters + len(text)
        if characters >= MOST:
            break
    return Fit(unknown / max(tokens, 1), tokens / max(words, 1), tokens / max(characters, 1))
