"""Texts to measure with: of mixed length, cut out of a corpus one after the other."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from encoderkit.text.tokenizers import open_tokenizer

MEAN, LONGEST = 30, 128
"""Tokens of a text, special ones included: on average, and at the most."""
PORTION = 100_000
"""Words at once."""


def mixed(corpus: Path, tokenizer: Path, count: int) -> list[str]:
    """`count` texts of a corpus with spaces between its words, lengths drawn from a gamma distribution of shape 2.

    Half of them have less than 26 tokens, one in a hundred more than 95. A corpus that is too short begins again.
    """
    pieces = open_tokenizer(tokenizer)
    around = sum(map(len, pieces.template.around))
    most, found = LONGEST - around, []
    goals = iter(np.random.default_rng(17).gamma(2, (MEAN - around) / 2, count).tolist())
    goal, text, size = next(goals), list[str](), 0
    words = _words(corpus)
    while portion := list(islice(words, PORTION)):
        for word, own in zip(portion, np.diff(pieces.encode(portion).offsets).tolist(), strict=True):
            if text and (size + own / 2 > goal or size + own > most):  # the end that is nearer
                found.append(" ".join(text))
                if len(found) == count:
                    return found
                goal, text, size = next(goals), [], 0
            text.append(word)
            size += own
    raise ValueError(f"{corpus} holds no words")


def _words(corpus: Path) -> Iterator[str]:
    some = True
    while some:
        some = False
        with open(corpus, encoding="utf-8") as file:
            for line in file:
                words = line.split()
                some = some or bool(words)
                yield from words


def write(path: Path, texts: list[str]) -> None:
    """As rows {"sentence", "label"}; the labels say nothing."""
    rows = (json.dumps({"sentence": text, "label": str(i % 2)}, ensure_ascii=False) for i, text in enumerate(texts))
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def shortened(corpus: Path, megabytes: int, out: Path) -> None:
    """The first lines of a corpus, about so many megabytes."""
    with open(corpus, "rb") as source:
        out.write_bytes(source.read(megabytes * 1_000_000).rpartition(b"\n")[0] + b"\n")
