"""Which characters occur in a text and which of them enter a vocabulary."""

import unicodedata
from collections.abc import Callable, Iterable
from functools import cache

import numpy as np

NEVER, WORD, OWN, OTHER_SPACE = range(4)
"""What a character is to words: it continues whatever stands before it; it makes words together with its like; it is a
word of its own (Chinese characters, punctuation, symbols); it parts words."""

HAN = (
    (0x3007, 0x3007),  # 〇 is a numeral for Unicode and a character for everybody else
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFD),
)
"""Chinese characters, first to last; the supplementary ideographic planes as a whole, so that later additions count."""

HAN_CLASS = "[" + "".join(f"{chr(a)}-{chr(b)}" for a, b in HAN) + "]"
"""The same as a regular expression."""


def is_han(code: int) -> bool:
    """Whether a code point is a Chinese character."""
    return any(first <= code <= last for first, last in HAN)


@cache
def word_class(character: str) -> int:
    """NEVER, WORD, OWN or OTHER_SPACE for one character; a plain space is WORD, as it belongs to the word behind it."""
    code = ord(character)
    if character == " ":
        return WORD
    if character.isspace():
        return OTHER_SPACE
    if 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF or 0x1F3FB <= code <= 0x1F3FF:
        return NEVER  # variation selectors and skin tones
    if is_han(code):
        return OWN
    category = unicodedata.category(character)
    if category[0] == "M" or code in (0x200C, 0x200D):
        return NEVER
    return WORD if category[0] in "LN" else OWN


@cache
def marks() -> str:
    """The marks of letters (accents, vowel signs of Indic scripts), for a class of a regular expression, whose \\w has none."""
    return "".join(chr(code) for code in range(0x300, 0x1F000) if unicodedata.category(chr(code))[0] == "M")


_UNSEEN = 255
_CLASSES = np.full(0x110000, _UNSEEN, np.uint8)  # filled in as characters are met: all of them take two seconds


def word_classes(codes: np.ndarray) -> np.ndarray:
    """`word_class` of each code point, uint8 in the shape of `codes`."""
    found = _CLASSES[codes]
    if (found == _UNSEEN).any():
        new = np.unique(codes[found == _UNSEEN])
        _CLASSES[new] = [word_class(chr(code)) for code in new.tolist()]
        found = _CLASSES[codes]
    return found


def count_characters(texts: Iterable[str]) -> dict[str, int]:
    """How often each character occurs in the composed (NFC) texts."""
    counts = np.zeros(0x110000, np.int64)
    batch: list[str] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text)
        if size > 1 << 22:
            _count(batch, counts)
            batch, size = [], 0
    _count(batch, counts)
    return {chr(code): int(counts[code]) for code in counts.nonzero()[0].tolist()}


def _count(texts: list[str], totals: np.ndarray) -> None:
    codes = np.frombuffer(composed("".join(texts)).encode("utf-32-le"), np.uint32)
    totals += np.bincount(codes, minlength=len(totals))


def composed(text: str) -> str:
    """The text with letters and their marks as one character where there is one (NFC)."""
    return unicodedata.normalize("NFC", text)


def normalized_counts(raw: dict[str, int], normalize: Callable[[str], str]) -> dict[str, int]:
    """How often each character occurs after normalising, the commonest first, ties by code point; without spaces.

    Each distinct character is normalised alone, which is exact for all but a few sequences of combining marks and
    needs no normalised copy of the text.
    """
    counts: dict[str, int] = {}
    for character, count in raw.items():
        for c in normalize(character):
            if not c.isspace():
                counts[c] = counts.get(c, 0) + count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
