"""Pieces of long texts in the time that it takes to look characters and words up.

Of unigram a text is cut wherever no piece of the vocabulary could lie across: between two characters that stand beside one
another in no piece. The best pieces of a text are then those of its parts (the sum of scores has no term that knows of two
parts), and the parts are short and few: of Chinese one or two characters, of English a word or less. Each is cut into pieces
once and remembered. As no sum is long, pieces do not depend on how sums are rounded, which sentencepiece's of long texts do.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import chain
from typing import Any
from unicodedata import combining, decomposition, normalize

import numpy as np
import sentencepiece
from tokenizers import Tokenizer as Engine

from encoderkit.text.normalization import SPACE

Laid = tuple[np.ndarray, np.ndarray]
"""(N,) ids of texts laid end to end, (n+1,) where each text begins."""

_TEXT, _PART = 0xD800, 0xD801
"""What ends a text, and a part: nothing that a text can hold."""
_BITS = 22
"""Of a table of pairs of characters. Pairs that fall on one place are taken to stand in a piece: parts are longer, no more."""
_REMEMBERED = 1 << 25
"""Characters of parts, each part counted as 64 more: half a million parts at most, some hundred bytes each."""
CHARACTERS = 0x110000


class Characters:
    """Encodes by a tokenizer of characters: each as that would alone."""

    def __init__(self, description: Mapping[str, Any]) -> None:
        """`description`: its tokenizer.json."""
        self._engine = Engine.from_str(json.dumps(description))
        self._number, self._rows = np.full(CHARACTERS, -1, np.int32), _Rows()

    def encode(self, texts: Sequence[str]) -> Laid:
        """The ids of the texts."""
        texts, codes = composed(texts, self._engine)
        new = np.unique(codes[self._number[codes] < 0])
        if len(new):
            encodings = self._engine.encode_batch_fast(list(map(chr, new)), add_special_tokens=False)
            self._number[new] = self._rows.add([encoding.ids for encoding in encodings])
        numbers = self._number[codes]
        after = np.concatenate([np.zeros(1, np.int64), np.cumsum(self._rows.sizes(numbers))])
        return self._rows.ids(numbers), after[np.cumsum([0, *map(len, texts)])]


class Parts:
    """Encodes by a model of sentencepiece as the tokenizer.json that was made of it would."""

    def __init__(self, model: bytes, description: Mapping[str, Any]) -> None:
        """`description`: that tokenizer.json."""
        self._normalizer = sentencepiece.SentencePieceProcessor(model_proto=model)  # pyright: ignore[reportCallIssue]
        self._engine = Engine.from_str(json.dumps(description))
        self._model = self._engine.model
        steps = description["pre_tokenizer"] or {}
        self._words = any(s["type"] == "Metaspace" and s.get("split", True) for s in steps.get("pretokenizers", [steps]) if s)
        pieces = [piece for piece, _ in description["model"]["vocab"]]
        self._id = np.full(CHARACTERS, -1, np.int32)  # of the piece that is this one character
        for number, piece in enumerate(pieces):
            if len(piece) == 1:
                self._id[ord(piece)] = number
        self._beside = np.zeros(1 << _BITS, bool)
        self._beside[_pairs(codes_of(chr(_TEXT).join(piece for piece in pieces if len(piece) > 1)))] = True
        self._known: dict[str, int] = {}
        self._rows, self._held = _Rows(), 0

    def encode(self, texts: Sequence[str]) -> Laid:
        """The ids of the texts."""
        texts, _ = composed(texts, self._engine)
        normal: list[str] = self._normalizer.normalize(texts)  # pyright: ignore[reportAttributeAccessIssue]
        codes = codes_of("".join(text + chr(_TEXT) for text in normal))
        ends = self._ends_of_parts(codes)
        begins = np.concatenate([np.zeros(1, np.int64), ends + 1])[:-1]
        first = codes[begins]
        # Parts of one character that is a piece have its id, ends of texts have none, and the rest is looked up.
        piece, closing = self._id[first], np.flatnonzero(first == _TEXT)
        alone = (begins == ends) & (piece >= 0)
        rest = ~alone
        rest[closing] = False
        numbers = self._numbers(codes, begins[rest], ends[rest])
        sizes = np.ones(len(ends), np.int64)
        sizes[closing] = 0
        sizes[rest] = several = self._rows.sizes(numbers)
        after = np.cumsum(sizes)
        ids = np.empty(sizes.sum(), np.int64)
        ids[after[alone] - 1] = piece[alone]
        ids[_ranges(after[rest] - several, several)] = self._rows.ids(numbers)
        return ids, np.concatenate([np.zeros(1, np.int64), after[closing]])

    def _ends_of_parts(self, codes: np.ndarray) -> np.ndarray:
        """Where the last character of each part stands. Unknown characters beside one another are one token, and stay so."""
        unknown = self._id[codes] < 0
        across = self._beside[_pairs(codes)] | (unknown[:-1] & unknown[1:])
        closing = codes == _TEXT
        across &= ~(closing[:-1] | closing[1:])
        if self._words:
            across &= codes[1:] != ord(SPACE)
        return np.append(np.flatnonzero(~across), len(codes) - 1)[: len(codes)]

    def _numbers(self, codes: np.ndarray, begins: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """The numbers of parts in what is remembered."""
        sizes = ends - begins + 1
        between = 0 if codes.all() else _PART  # which Python is slow to decode
        spread = np.full(sizes.sum() + len(sizes), between, np.uint32)
        places = _ranges(np.cumsum(sizes + 1) - sizes - 1, sizes)
        spread[places] = codes[_ranges(begins, sizes)]
        parts = spread.tobytes().decode("utf-32-le", "surrogatepass").split(chr(between))[:-1]
        if self._held > _REMEMBERED:
            self._known, self._rows, self._held = {}, _Rows(), 0
        new = list(set(parts).difference(self._known))
        if new:
            self._held += sum(map(len, new)) + 64 * len(new)
            rows = [[token.id for token in self._model.tokenize(part)] for part in new]
            self._known.update(zip(new, self._rows.add(rows).tolist(), strict=True))
        return np.fromiter(map(self._known.__getitem__, parts), np.int64, len(parts))


def same_pieces(description: Mapping[str, Any]) -> Callable[[Laid, Laid], bool]:
    """Whether two results of a unigram's tokenizer.json are the same pieces, or of the same text others that are as likely.

    Of 慢慢慢 慢慢 + 慢 is as likely as 慢 + 慢慢: which of them comes out is a matter of rounding what stands before.
    """
    pieces, scores = ([row[side] for row in description["model"]["vocab"]] for side in (0, 1))

    def same(one: Laid, other: Laid) -> bool:
        if len(one[1]) != len(other[1]):
            return False
        for a, b in zip(*(np.split(ids, offsets[1:-1]) for ids, offsets in (one, other)), strict=True):
            if not np.array_equal(a, b):
                likely = [sum(scores[i] for i in ids) for ids in (a, b)]
                texts = ["".join(pieces[i] for i in ids) for ids in (a, b)]
                if texts[0] != texts[1] or not math.isclose(*likely, rel_tol=1e-9):
                    return False
        return True

    return same


class _Rows:
    """Rows of ids, which are looked up by their numbers."""

    def __init__(self) -> None:
        self._ids, self._ends = np.zeros(0, np.int64), np.zeros(1, np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def add(self, rows: list[list[int]]) -> np.ndarray:
        """Their numbers."""
        before, sizes = len(self), np.fromiter(map(len, rows), np.int64, len(rows))
        self._ids = np.concatenate([self._ids, np.fromiter(chain.from_iterable(rows), np.int64, sizes.sum())])
        self._ends = np.concatenate([self._ends, self._ends[-1] + np.cumsum(sizes)])
        return np.arange(before, len(self))

    def sizes(self, numbers: np.ndarray) -> np.ndarray:
        """How many ids each of these has."""
        return self._ends[numbers + 1] - self._ends[numbers]

    def ids(self, numbers: np.ndarray) -> np.ndarray:
        """Theirs, end to end."""
        return self._ids[_ranges(self._ends[numbers], self.sizes(numbers))]


def composed(texts: Sequence[str], engine: Engine) -> tuple[list[str], np.ndarray]:
    """The texts, those normalised in which a character may have to do with the one before it, and their characters end to end.

    Of all others the normaliser can be applied to each character by itself. Raises `UnicodeEncodeError` for half a pair.
    """
    texts, codes = list(texts), np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    places = np.flatnonzero(composers()[codes])
    if engine.normalizer is not None and len(places):
        for i in np.unique(np.searchsorted(np.cumsum([*map(len, texts)]), places, "right")):
            texts[i] = engine.normalizer.normalize_str(texts[i])
        codes = codes_of("".join(texts))
    return texts, codes


def codes_of(text: str) -> np.ndarray:
    """(n,) uint32 the code points of a text; half a surrogate pair is let through."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _pairs(codes: np.ndarray) -> np.ndarray:
    """A place in the table for each character with the next one."""
    mixed = (codes[:-1] * np.uint32(0x9E3779B1)) ^ (codes[1:] * np.uint32(0x85EBCA6B))
    return (mixed * np.uint32(0xC2B2AE35)) >> np.uint32(32 - _BITS)


def _ranges(begins: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The numbers of ranges, end to end."""
    before = np.cumsum(sizes) - sizes
    return np.arange(sizes.sum()) + np.repeat(begins - before, sizes)


@cache
def composers() -> np.ndarray:
    """(0x110000,) which characters may become one with what stands before them, or change places with it (UAX #15, section 9)."""
    # Neither ideographs nor whole Korean syllables, nor any character beyond, are or begin with such a one.
    codes = [*map(chr, chain(range(0x3400), range(0xA000, 0xAC00), range(0xE000, 0x20000)))]
    pairs = [found.split() for c in codes if (found := decomposition(c)) and not found.startswith("<")]
    second = {chr(int(pair[1], 16)) for pair in pairs if len(pair) == 2}
    second |= {*map(chr, range(0x1161, 0x1176)), *map(chr, range(0x11A8, 0x11C3))}  # Korean letters, composed by a formula
    first = {c: normalize("NFKD", c)[0] for c in codes if combining(c) or decomposition(c) or c in second}
    found = np.zeros(CHARACTERS, bool)
    found[[ord(c) for c, begun in first.items() if combining(begun) or begun in second]] = True
    return found
