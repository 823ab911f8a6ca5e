"""The character n-grams of words, and the rows of a table that they are hashed to, exactly as fastText does it.

Bojanowski et al. 2017, section 3.2; fastText's dictionary.cc. A word is written between < and >; its n-grams are counted
in characters of UTF-8 and hashed by FNV-1a, whose bytes are signed there.
"""

from collections.abc import Sequence

import numpy as np

_BASIS, _PRIME = np.uint32(2166136261), np.uint32(16777619)
_LONGEST = 4  # bytes of a character
_END = "</s>"  # fastText's mark at the end of a line


def hashed_ngrams(words: Sequence[str], low: int, high: int, rows: int, end: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The rows of the n-grams of `low` to `high` characters of all `words` end to end (int64), and (n,) how many each has.

    `end`: "</s>" has some too, as in fastText before its files had a version. All words at once: from each first byte of a
    character on, the hash takes one more byte at a time.
    """
    encoded = [b"" if word == _END and not end else f"<{word}>".encode("utf-8", "replace") for word in words]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    data = np.frombuffer(b"".join(encoded), np.uint8)
    first = (data & 0xC0) != 0x80
    owner = np.repeat(np.arange(len(words)), sizes)
    ends = np.cumsum(sizes)
    signed = data.view(np.int8).astype(np.int32).view(np.uint32)
    last = np.append(first[1:], True)  # a character ends here
    at = np.flatnonzero(first)
    begins = at == (ends - sizes)[owner[at]]
    value, length, here = np.full(len(at), _BASIS), np.zeros(len(at), np.int64), at.copy()
    found: list[tuple[np.ndarray, np.ndarray]] = []
    for _ in range(_LONGEST * high):
        value = (value ^ signed[here]) * _PRIME
        length += last[here]
        edge = begins | (here + 1 == ends[owner[here]])  # a mark alone is no n-gram
        keep = last[here] & (length >= low) & ~((length == 1) & edge)
        found.append((owner[here[keep]], (value[keep] % np.uint32(rows)).astype(np.int64)))
        on = (length < high) | ~last[here]
        on &= here + 1 < ends[owner[here]]
        value, length, here, begins = value[on], length[on], here[on] + 1, begins[on]
        if not len(here):
            break
    owners = np.concatenate([part for part, _ in found]) if found else np.zeros(0, np.int64)
    hashes = np.concatenate([part for _, part in found]) if found else np.zeros(0, np.int64)
    order = np.argsort(owners, kind="stable")
    return hashes[order], np.bincount(owners, minlength=len(words))


class Spelled:
    """The n-grams of ids: those of the vocabulary once and for all, those of unknown words as they come.

    `words[i]` is the word of id i, None where it has no n-grams; the list may grow.
    """

    def __init__(self, words: list[str | None], low: int, high: int, rows: int) -> None:
        self._words, self._low, self._high, self._rows = words, low, high, rows
        self._flat, self._ends, self._done = _Growing(), _Growing(), 0
        self._ends.add(np.zeros(1, np.int64))

    def __call__(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) ids to the rows of all their n-grams end to end, and (N,) how many each has."""
        self._catch_up()
        ends, flat = self._ends.values, self._flat.values
        counts = ends[ids + 1] - ends[ids]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return flat[np.repeat(ends[ids], counts) + within], counts

    def _catch_up(self) -> None:
        new = self._words[self._done :]
        if new:
            flat, counts = hashed_ngrams([word or "" for word in new], self._low, self._high, self._rows)
            counts_of = np.array([word is not None for word in new])
            self._flat.add(flat[np.repeat(counts_of, counts)])
            self._ends.add(self._ends.values[-1] + np.cumsum(counts * counts_of))
            self._done = len(self._words)


class _Growing:
    """Numbers end to end, with room for more: what is added now and then is not copied each time with all before it."""

    def __init__(self) -> None:
        self._room, self._used = np.zeros(0, np.int64), 0

    @property
    def values(self) -> np.ndarray:
        """(N,) int64: all of them."""
        return self._room[: self._used]

    def add(self, more: np.ndarray) -> None:
        """Put `more` behind them."""
        if self._used + len(more) > len(self._room):
            self._room = np.concatenate([self.values, np.empty(max(self._used, len(more)), np.int64)])
        self._room[self._used : self._used + len(more)] = more
        self._used += len(more)
