"""The best pieces of a text by a unigram model (Kudo 2018, section 3.2), in code that numba compiles.

What the tokenizers library does, ten and more times as fast: characters become others by a table, and the best way through
each text is found over a tree of the pieces. Where no piece lies across a place, what stands before it is settled and sums
begin again, so none is long enough for its rounding to choose the pieces. One thread works on some of the texts, without
Python's lock.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer as Engine

from encoderkit.compiled import compiled
from encoderkit.text.parts import CHARACTERS, Laid, codes_of, composed, composers
from encoderkit.text.unigram import BORDER

_PENALTY = 10.0
"""By how much an unknown character is worse than the worst piece, in both libraries."""
_COMMON = np.concatenate([np.arange(*ends, dtype=np.uint32) for ends in ((1, 0xD800), (0xE000, 0xFFF0), (0x1F000, 0x1FB00))])
"""Characters that are asked about at once: texts of which one holds a new one are begun again."""
_SHARE = 1 << 16
"""Characters for which another thread is worth it."""


class Lattice:
    """Encodes by a tokenizer.json that was made of a model of sentencepiece."""

    def __init__(self, description: Mapping[str, Any], parallel: bool) -> None:
        """`description`: that tokenizer.json. `parallel`: on all cores.

        Raises `ValueError` where numba is not installed, and for what it does not do as the library does.
        """
        made = [kernel for function in (_grow, _normalise, _cut, _joined) if (kernel := compiled(function))]
        if len(made) < 4:
            raise ValueError("not compiled")
        grow, self._normalise, self._cut, self._joined = made
        self._engine = Engine.from_str(json.dumps(description))
        self._tree = _tree(description, grow)
        self._unknown, self._bytes = int(description["model"]["unk_id"]), _bytes(description["model"])
        self._table, self._learning = _Table.of(_COMMON, self._engine), Lock()
        self._threads = (os.cpu_count() or 1) if parallel else 1

    def encode(self, texts: Sequence[str]) -> Laid:
        """The ids of the texts; raises `UnicodeEncodeError` for half a pair."""
        sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        ends = np.cumsum(sizes)
        shares = min(self._threads, 1 + int(sizes.sum()) // _SHARE)
        cuts = [0, *np.searchsorted(ends, np.arange(1, shares) * ends[-1:] // shares).tolist(), len(texts)]
        if shares == 1:
            return self._encode(texts)
        with ThreadPoolExecutor(shares) as pool:
            found = list(pool.map(self._encode, (texts[a:b] for a, b in pairwise(cuts))))
        before = np.cumsum([0, *(len(ids) for ids, _ in found)])
        offsets = [offsets[1:] + start for (_, offsets), start in zip(found, before, strict=False)]
        return np.concatenate([ids for ids, _ in found]), np.concatenate([np.zeros(1, np.int64), *offsets])

    def _encode(self, texts: Sequence[str]) -> Laid:
        codes, table, tree = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32), self._table, self._tree
        ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
        offsets = np.zeros(len(texts) + 1, np.int64)
        # Each character may have a space before it. Of memory that is not written to, none is taken.
        normal = np.empty(2 * table.longest * len(codes) + 1, np.int32)
        if not self._normalise(codes, ends, table.becomes, table.characters, table.ends, normal, offsets):
            texts, codes = composed(texts, self._engine)
            ends = np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)))
            with self._learning:
                self._table = self._table.learnt(codes, self._engine)
            every = self._table
            normal = np.empty(2 * every.longest * len(codes) + 1, np.int32)
            self._normalise(codes, ends, every.others, every.characters, every.ends, normal, offsets)
        longest = int(np.diff(offsets).max(initial=0)) + 1
        room = np.empty(longest), np.empty(longest, np.int64), np.empty(longest, np.int32)
        ids = np.empty(int(offsets[-1]), np.int32)
        count = self._cut(normal, offsets, *tree, *room, ids)
        if self._bytes is None:
            return ids[: self._joined(ids, offsets, self._unknown)], offsets
        return self._spelled(ids[:count], offsets, self._bytes)

    def _spelled(self, ids: np.ndarray, offsets: np.ndarray, pieces: np.ndarray) -> Laid:
        """The same with unknown characters, which are -1 less the character, in bytes."""
        unknown = ids < 0
        if not unknown.any():
            return ids, offsets
        texts = [chr(-1 - code).encode() for code in ids[unknown].tolist()]
        sizes = np.ones(len(ids), np.int64)
        sizes[unknown] = [*map(len, texts)]
        found = np.repeat(ids, sizes)
        found[found < 0] = pieces[np.frombuffer(b"".join(texts), np.uint8)]
        return found, np.append(0, np.cumsum(sizes))[offsets]


class _Table(NamedTuple):
    """What the normaliser makes of single characters, asked when one is first seen."""

    becomes: np.ndarray
    """(0x110000,) the one character that a character becomes; -2 less the number of a row where there are others; -1 for what
    was not seen, and for what may become one with the character before it."""
    others: np.ndarray
    """The same, where that was done, with the latter too."""
    characters: np.ndarray
    """The rows, end to end."""
    ends: np.ndarray
    longest: int

    @staticmethod
    def of(codes: np.ndarray, engine: Engine) -> "_Table":
        """A table of these characters."""
        nothing = np.full(CHARACTERS, -1, np.int32)
        nothing[ord(BORDER)] = ord(BORDER)
        return _Table(nothing, nothing, np.zeros(0, np.int32), np.zeros(1, np.int64), 1).learnt(codes, engine)

    def learnt(self, codes: np.ndarray, engine: Engine) -> "_Table":
        """Another one that has all of these characters: this may be in use."""
        new = np.unique(codes[self.others[codes] == -1])
        new = new[new != ord(BORDER)]
        if not len(new):
            return self
        between = BORDER.join(["", *map(chr, new), ""])  # so that spaces are not at an end of the text, where they go
        rows = (engine.normalizer.normalize_str(between) if engine.normalizer is not None else between).split(BORDER)[1:-1]
        assert len(rows) == len(new), "nothing becomes a border"
        sizes = np.array([*map(len, rows)])
        ends = np.append(self.ends, self.ends[-1] + np.cumsum(sizes))
        characters = np.append(self.characters, codes_of("".join(rows)).astype(np.int32))
        numbers = np.arange(len(new)) + len(self.ends) - 1
        becomes, others = self.becomes.copy(), self.others.copy()
        others[new] = np.where(sizes == 1, np.append(characters, 0)[ends[numbers]], -2 - numbers)
        becomes[new] = np.where(composers()[new], -1, others[new])
        return _Table(becomes, others, characters, ends, max(self.longest, int(sizes.max(initial=0))))


class _Tree(NamedTuple):
    """The pieces by their characters: a node for each beginning of a piece, 0 for none."""

    root: np.ndarray
    """(0x110000,) the node of a first character."""
    edges: np.ndarray
    """(K,) a node, a next character and the node that they lead to, 21 bits each; the place follows from the first two."""
    piece: np.ndarray
    """(nodes,) the piece that ends here."""
    score: np.ndarray
    """(nodes,) its score; minus infinity where none does."""
    penalty: float
    """The score of an unknown character."""
    apart: bool
    """Whether a piece lies in one word."""


def _tree(description: Mapping[str, Any], grow: Callable[..., None]) -> _Tree:
    model, steps = description["model"], description["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    if len(steps) != 1 or steps[0].get("type") != "Metaspace" or steps[0].get("prepend_scheme") != "always":
        raise ValueError("not supported")
    pieces, scores = [piece for piece, _ in model["vocab"]], np.array([score for _, score in model["vocab"]])
    if not pieces or sum(map(len, pieces)) >= CHARACTERS:
        raise ValueError("not supported")
    codes, ends = codes_of("".join(pieces)).astype(np.int32), np.cumsum([*map(len, pieces)], dtype=np.int64)
    root, edges = np.zeros(CHARACTERS, np.int32), np.zeros(1 << (2 * len(codes)).bit_length(), np.int64)
    piece, score = np.zeros(len(codes) + 1, np.int32), np.full(len(codes) + 1, -np.inf)
    grow(codes, ends, scores, root, edges, piece, score)
    return _Tree(root, edges, piece, score, float(scores.min()) - _PENALTY, bool(steps[0].get("split", True)))


def _bytes(model: Mapping[str, Any]) -> np.ndarray | None:
    """(256,) the pieces of the bytes in which unknown characters are spelled, if they are."""
    if not model.get("byte_fallback"):
        return None
    number = {piece: i for i, (piece, _) in enumerate(model["vocab"])}
    try:
        return np.array([number[f"<0x{byte:02X}>"] for byte in range(256)], np.int32)
    except KeyError:
        raise ValueError("not supported") from None  # which characters are spelled would depend on their bytes


# What follows is compiled: numbers, arrays and loops. The two large numbers spread node and character over the places.


def _grow(
    codes: np.ndarray,
    ends: np.ndarray,
    scores: np.ndarray,
    root: np.ndarray,
    edges: np.ndarray,
    piece: np.ndarray,
    score: np.ndarray,
) -> None:
    """Fill the tree with the pieces, laid end to end."""
    begin, count, last = 0, 0, len(edges) - 1
    for number in range(len(ends)):
        node = 0
        for i in range(begin, ends[number]):
            if i == begin:
                if root[codes[i]] == 0:
                    count += 1
                    root[codes[i]] = count
                node = root[codes[i]]
                continue
            key = node << 21 | codes[i]
            place = ((node * 0x9E3779B1 ^ codes[i] * 0x85EBCA6B) >> 15) & last
            while edges[place] != 0 and edges[place] >> 21 != key:
                place = (place + 1) & last
            if edges[place] == 0:
                count += 1
                edges[place] = key << 21 | count
            node = edges[place] & 0x1FFFFF
        if node != 0 and score[node] == -np.inf:
            piece[node], score[node] = number, scores[number]
        begin = ends[number]


def _normalise(
    codes: np.ndarray,
    ends: np.ndarray,
    becomes: np.ndarray,
    characters: np.ndarray,
    row_ends: np.ndarray,
    normal: np.ndarray,
    offsets: np.ndarray,
) -> bool:
    """Texts to the characters of pieces, with a visible space before each word; False if there is no rule for one."""
    at, begin = 0, 0
    for text in range(len(ends)):
        space = True
        for i in range(begin, ends[text]):
            one = becomes[codes[i]]
            if one == -1:
                return False
            if one == 0x20:
                space = True
            elif one >= 0:
                normal[at] = 0x2581
                at += space
                normal[at] = one
                at, space = at + 1, False
            else:
                for j in range(row_ends[-2 - one], row_ends[-1 - one]):
                    if characters[j] == 0x20:
                        space = True
                        continue
                    normal[at] = 0x2581
                    at += space
                    normal[at] = characters[j]
                    at, space = at + 1, False
        begin = ends[text]
        offsets[text + 1] = at
    return True


def _cut(
    normal: np.ndarray,
    offsets: np.ndarray,
    root: np.ndarray,
    edges: np.ndarray,
    piece: np.ndarray,
    scores: np.ndarray,
    penalty: float,
    apart: bool,
    best: np.ndarray,
    came: np.ndarray,
    by: np.ndarray,
    ids: np.ndarray,
) -> int:
    """The pieces of normal texts, and -1 less an unknown character; `offsets` become those of the ids.

    `best`, `came` and `by` are room for one text: the score of the best way to a place, whence it comes, by which piece.
    """
    at, last, first = 0, len(edges) - 1, 0
    for text in range(len(offsets) - 1):
        low, size = first, offsets[text + 1] - first
        settled = reach = 0
        best[0] = 0.0
        for i in range(size + 1):
            if reach == i and i > 0:  # no piece lies across: what stands before is as it is
                end, count = i, 0
                while end > settled:
                    end, count = came[end], count + 1
                end, at = i, at + count
                for back in range(1, count + 1):
                    ids[at - back], end = by[end], came[end]
                settled, best[i] = i, 0.0
            if i == size:
                break
            node, j, alone = root[normal[low + i]], i + 1, False
            while node != 0:
                score = best[i] + scores[node]
                if score > -np.inf:
                    alone = alone or j == i + 1
                    while reach < j:
                        reach += 1
                        best[reach] = -np.inf
                    if score > best[j]:
                        best[j], came[j], by[j] = score, i, piece[node]
                if j == size or (apart and normal[low + j] == 0x2581):
                    break
                key = node << 21 | normal[low + j]
                place = ((node * 0x9E3779B1 ^ normal[low + j] * 0x85EBCA6B) >> 15) & last
                while edges[place] != 0 and edges[place] >> 21 != key:
                    place = (place + 1) & last
                node, j = edges[place] & 0x1FFFFF, j + 1  # 0 of a free place
            if not alone:
                while reach < i + 1:
                    reach += 1
                    best[reach] = -np.inf
                if best[i] + penalty > best[i + 1]:
                    best[i + 1], came[i + 1], by[i + 1] = best[i] + penalty, i, -1 - normal[low + i]
        first = offsets[text + 1]
        offsets[text + 1] = at
    return at


def _joined(ids: np.ndarray, offsets: np.ndarray, unknown: int) -> int:
    """What is below 0 becomes `unknown`, and those beside one another in a text become one."""
    at, begin = 0, 0
    for text in range(len(offsets) - 1):
        before = False
        for i in range(begin, offsets[text + 1]):
            if ids[i] >= 0:
                ids[at] = ids[i]
                at, before = at + 1, False
            elif not before:
                ids[at] = unknown
                at, before = at + 1, True
        begin = offsets[text + 1]
        offsets[text + 1] = at
    return at
