"""Rows of a fixed length from a token store: documents cut into pieces, the ends packed together, nothing lost.

A document is cut into pieces of `length - 2` tokens, each between [CLS] and [SEP], or before [SEP] [CLS]. A full piece is a
row. What remains at the end of each document shares rows with the ends of others, by best fit in order of falling size over
a histogram of sizes (after Krell et al. 2021, "Efficient Sequence Packing without Cross-contamination"). The documents of a
row are numbered and their positions restart, so that an encoder can keep them apart.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from encoderkit.data.store import TokenStore
from encoderkit.errors import UsageError


class Row(NamedTuple):
    """One row, n <= length tokens, [CLS] and [SEP] included."""

    ids: np.ndarray
    """(n,) int64."""
    documents: np.ndarray
    """(n,) int64: 1, 2, 3, ... for the pieces of the row."""
    positions: np.ndarray
    """(n,) int64: the place in the piece, from 0."""
    starts: np.ndarray
    """(n,) bool: a word begins here; False at special tokens."""
    special: np.ndarray
    """(n,) bool: [CLS] or [SEP]."""
    before: np.ndarray = np.zeros(0, np.int64)
    """(m,) int64: the tokens that stand before the first piece in its document, as many as were asked for."""
    cut: np.ndarray = np.zeros((0, 2), bool)
    """(pieces, 2) bool: whether its document has text before each piece, and behind it; without rows where that is not known."""


class Rows:
    """The rows of a store, or of its documents `documents` (an index array), read from the map when asked for.

    `packed=False` gives each piece a row of its own, for encoders that cannot keep documents apart. Every token of
    every document is in exactly one row. Takes memory for the documents, not for the tokens.

    `summary`: where [CLS] stands in a piece; where it is last and the same as [SEP], that one stands alone (T5). With
    `before`, a row brings up to so many tokens of what stands before its first piece, and pieces that have a predecessor
    come first in their row.
    """

    special = 2
    """Special tokens that a piece has room for."""

    def __init__(
        self,
        store: TokenStore,
        length: int,
        cls: int,
        sep: int,
        documents: np.ndarray | None = None,
        packed: bool = True,
        summary: Literal["first", "last"] = "first",
        before: int = 0,
    ) -> None:
        self._special = (cls, sep) if summary == "first" else (sep, cls) if cls != sep else (sep,)
        self.special += len(self._special) - 2
        if length < 2 * self.special - 1:
            shape = "a token between [CLS] and [SEP]" if self.special == 2 else "a pair of texts, [CLS] A [SEP] B [SEP]"
            fix = f"--set data.length={2 * self.special - 1}, or more"
            raise UsageError(f"a row of {length} has no room for {shape}", where="data.length", fix=fix)
        self.store, self.length, self._cap, self._before = store, length, length - self.special, before
        self._lead = int(summary == "first")
        first, end = store.offsets[:-1], store.offsets[1:]
        if documents is not None:
            first, end = first[documents], end[documents]
        sizes = end - first
        self._first, self._end = (first, end) if documents is None else (_small(first), _small(end))  # the former are mapped
        self._full = _small(np.concatenate([[0], np.cumsum(sizes // self._cap)]))
        self.full_rows = int(self._full[-1])
        """Rows that hold one full piece; they come first."""
        tails = sizes % self._cap
        chosen = np.flatnonzero(tails)
        tails = tails[chosen]
        rows = pack(tails + self.special, length) if packed else np.arange(len(tails))
        whole = sizes[chosen] == tails
        order = np.lexsort((whole, rows)) if before else np.argsort(rows, kind="stable")
        self._tail_before = _small(np.minimum(before, sizes[chosen] - tails)[order]) if before else None
        self._tail_size = _small(tails[order])
        self._tail_whole = whole[order]
        self._tail_first = _small((end[chosen] - tails)[order])
        self._tail_row = _small(np.concatenate([[0], np.cumsum(np.bincount(rows))]) if len(rows) else np.zeros(1, np.int64))
        self.tokens = int(sizes.sum())
        """Of the documents, special ones not counted."""
        self.pieces = self.full_rows + len(tails)

    def __len__(self) -> int:
        return self.full_rows + len(self._tail_row) - 1

    @property
    def fill(self) -> float:
        """The share of the places in all rows that hold a token, special ones included."""
        return (self.tokens + self.special * self.pieces) / max(len(self) * self.length, 1)

    def chunks(self, size: int = 1 << 20) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All tokens of all documents, at most about `size` at a time: (n,) ids and (n,) int64 numbers of their documents.

        A document longer than `size` comes in several chunks.
        """
        held: list[np.ndarray] = []
        numbers: list[int] = []
        room = size
        for number, (first, end) in enumerate(self._bounds()):
            for start in range(first, end, size):
                piece = self.store.ids[start : min(start + size, end)]
                if len(piece) > room and held:
                    yield _joined(held, numbers)
                    held, numbers, room = [], [], size
                held.append(piece)
                numbers.append(number)
                room -= len(piece)
        if held:
            yield _joined(held, numbers)

    def _bounds(self, many: int = 1 << 16) -> Iterator[tuple[int, int]]:
        """Where each document begins and ends in the store; `many` are read at a time."""
        for low in range(0, len(self._first), many):
            yield from zip(self._first[low : low + many].tolist(), self._end[low : low + many].tolist(), strict=True)

    def __getitem__(self, row: int) -> Row:
        if not 0 <= row < len(self):
            raise IndexError(row)
        places = self.places(row)
        if row < self.full_rows:
            document = int(np.searchsorted(self._full, row, "right")) - 1
            done = (row - int(self._full[document])) * self._cap
            cut = np.array([[done > 0, int(places[0]) + self._cap < int(self._end[document])]])
            return self._single(int(places[0]), self._cap, min(self._before, done), cut)
        low, high = self._tail_row[row - self.full_rows : row - self.full_rows + 2]
        before = 0 if self._tail_before is None else int(self._tail_before[low])
        cut = np.zeros((len(places), 2), bool)  # a tail is the end of its document
        cut[:, 0] = ~self._tail_whole[low:high]
        if high - low == 1:
            return self._single(int(places[0]), int(self._tail_size[low]), before, cut)
        return self._several(places, self._tail_size[low:high].astype(np.int64), before, cut)

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """(n,) int64: the tokens of n rows, special ones included, without reading them."""
        found = np.full(len(rows), self._cap + len(self._special))
        shared = np.flatnonzero(rows >= self.full_rows)
        low, high = (self._tail_row[rows[shared] - self.full_rows + side].astype(np.int64) for side in (0, 1))
        pieces = high - low
        begin = np.cumsum(pieces) - pieces
        where = np.arange(pieces.sum()) + np.repeat(low - begin, pieces)
        found[shared] = np.add.reduceat(self._tail_size[where], begin, dtype=np.int64) + len(self._special) * pieces
        return found

    def places(self, row: int) -> np.ndarray:
        """(pieces,) int64: where the pieces of a row begin in the store."""
        if row < self.full_rows:
            document = int(np.searchsorted(self._full, row, "right")) - 1
            return self._first[document : document + 1] + np.int64(row - int(self._full[document])) * self._cap
        low, high = self._tail_row[row - self.full_rows : row - self.full_rows + 2]
        return self._tail_first[low:high].astype(np.int64)

    def _text_before(self, first: int, count: int) -> np.ndarray:
        return self.store.ids[first - count : first].astype(np.int64)

    def _single(self, first: int, size: int, before: int, cut: np.ndarray) -> Row:
        wide = size + len(self._special)
        ids = np.empty(wide, np.int64)
        inside = slice(self._lead, self._lead + size)
        special = np.ones(wide, bool)
        special[inside] = False
        ids[special] = self._special
        ids[inside] = self.store.ids[first : first + size]
        starts = np.zeros(wide, bool)
        starts[inside] = self.store.starts(first, first + size)
        documents, positions = np.ones(wide, np.int64), np.arange(wide)
        return Row(ids, documents, positions, starts, special, self._text_before(first, before), cut)

    def _several(self, first: np.ndarray, size: np.ndarray, before: int, cut: np.ndarray) -> Row:
        wide = size + len(self._special)
        begin, places = np.cumsum(wide) - wide, np.arange(wide.sum())
        documents = np.repeat(np.arange(len(wide)), wide)
        positions = places - begin[documents]
        token, count = positions - self._lead, size[documents]
        special = (token < 0) | (token >= count)
        # Where each token is in the store; a special one looks at a neighbour and is overwritten.
        where = first[documents] + np.clip(token, 0, count - 1)
        ids = self.store.ids[where].astype(np.int64)
        ids[special] = np.tile(self._special, len(wide))
        starts = (self.store.bits[where >> 3] >> (where & 7) & 1).astype(bool) & ~special
        return Row(ids, documents + 1, positions, starts, special, self._text_before(int(first[0]), before), cut)


def _small(numbers: np.ndarray) -> np.ndarray:
    """The same numbers in half the memory where they fit: these arrays are all that grows with the documents."""
    return numbers.astype(np.int32) if not len(numbers) or numbers.max() < 1 << 31 else numbers


def _joined(pieces: list[np.ndarray], numbers: list[int]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate(pieces), np.repeat(np.array(numbers, np.int64), [len(piece) for piece in pieces])


def pack(sizes: np.ndarray, length: int) -> np.ndarray:
    """(n,) the row of each of n pieces of `sizes` (1..length): best fit in order of falling size.

    Equal sizes are placed together, so the time is that of sorting, not of n searches.
    """
    order = np.argsort(-sizes, kind="stable")
    counts = np.bincount(sizes, minlength=length + 1)
    rows = np.empty(len(sizes), np.int64)
    room: list[list[np.ndarray]] = [[] for _ in range(length + 1)]  # rows by the places they have left
    made = done = 0
    for size in np.flatnonzero(counts)[::-1].tolist():
        items = order[done : done + int(counts[size])]
        done += len(items)
        for left in [left for left in range(size, length) if room[left]]:  # what is placed leaves less than `size`
            while len(items) and room[left]:
                items = _place(items, room[left].pop(), size, left, rows, room)
        if len(items):
            new = np.arange(made, made - (-len(items) // (length // size)))
            made += len(new)
            items = _place(items, new, size, length, rows, room)
    return rows


def _place(
    items: np.ndarray, bins: np.ndarray, size: int, left: int, rows: np.ndarray, room: list[list[np.ndarray]]
) -> np.ndarray:
    """Put pieces of `size` into rows that have `left` places, as many as go into each; the pieces that remain."""
    each = left // size
    used = min(len(bins), -(-len(items) // each))
    taken = items[: used * each]
    rows[taken] = bins[np.arange(len(taken)) // each]
    last = len(taken) - (used - 1) * each  # the last row may be given fewer
    for group, count in ((bins[used:], 0), (bins[: used - 1], each), (bins[used - 1 : used], last)):
        if len(group):
            room[left - count * size].append(group)
    return items[len(taken) :]
