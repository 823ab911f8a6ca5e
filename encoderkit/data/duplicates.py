"""Which texts stand in other data too: the same but for case, width and white space, or nearly the same.

Nearly: of the runs of three letters or digits of two texts, white space and punctuation left out, they share at least
`NEAR` of all that either has (Jaccard; Broder 1997). Found exactly, without hashing or drawing: two such texts must share
some of the rarest of their runs (prefix filtering; Chaudhuri et al. 2006; Bayardo et al. 2007), and a text most of whose
runs the others do not have at all is done with at once. Rows of several texts must be so alike in each of them, and as
wholes: questions about one passage are no copies of one another.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

NEAR = 0.75
"""A word of seven exchanged in a headline is below it, a letter or two above."""
LONGEST = 2000
"""Characters of a row that are compared: the first."""

_PORTION = 2_000_000  # characters at once
_PAIRS, _ENTRIES = 4_000_000, 10_000_000  # pairs of texts, and runs of those that may be alike, at once
_SHARED, _PART = 4, 8  # of their rarest runs two near copies must share so many, or this part of all where it is more
_BETWEEN = "\x1f"  # the texts of a row; white space, so that no text holds it
_FIRST, _LAST = "\x02", "\x03"
_OTHER = re.compile(r"[^\w\x1f]|_")

Texts = Sequence[Sequence[str]]
"""Rows of one text or several."""


def plain(row: Sequence[str]) -> str:
    """The texts of a row as one, the same for texts that differ in case, width and white space alone."""
    return _BETWEEN.join(" ".join(unicodedata.normalize("NFKC", text).casefold().split()) for text in row)


class Copies(NamedTuple):
    """For each of M rows, what it is a copy of."""

    of: np.ndarray
    """(M,) the number of the row that is most like it, or -1; of equally like ones the first."""
    likeness: np.ndarray
    """(M,) the share of its runs of letters that the two have in common, of several texts the least; 1.0 for the same text."""
    exact: np.ndarray
    """(M,) bool: the same text (`plain`)."""


def copies(known: Texts, asked: Texts, least: float = NEAR) -> Copies:
    """Which rows of `asked` are copies of rows of `known`: the same, or at least as like as `least` (above 0, up to 1)."""
    ours, theirs = [plain(row) for row in asked], [plain(row) for row in known]
    exact = _same(theirs, ours)
    of, likeness = _near(theirs, ours, least)
    return Copies(np.where(exact >= 0, exact, of), np.where(exact >= 0, 1.0, likeness), exact >= 0)


def same(known: Texts, asked: Texts) -> np.ndarray:
    """(M,) for each row of `asked` the number of the first row of `known` that is the same text (`plain`), or -1."""
    return _same([plain(row) for row in known], [plain(row) for row in asked])


def _same(known: Sequence[str], asked: Sequence[str]) -> np.ndarray:
    first = {text: i for i, text in reversed([*enumerate(known)])}
    return np.array([first.get(text, -1) for text in asked], np.int64)


class _Runs(NamedTuple):
    """The distinct runs of N texts, the rarest first in each."""

    table: csr_matrix
    """(N, V) 1 for each run of the vocabulary that a text has."""
    rare: csr_matrix
    """The same with the rarest runs of each text alone, of which a near copy must have some (`_needed`)."""
    sizes: np.ndarray
    """(N,) how many runs each text has, those that the vocabulary lacks included."""


def _near(known: Sequence[str], asked: Sequence[str], least: float) -> tuple[np.ndarray, np.ndarray]:
    of, likeness, start = np.full(len(asked), -1, np.int64), np.zeros(len(asked)), 0
    own, run = _distinct(asked)
    several = any(_BETWEEN in text for text in (*asked, *known))
    vocabulary, number, count = np.unique(run, return_inverse=True, return_counts=True)
    sizes, rank, ours = np.bincount(own, minlength=len(asked)), count, None
    for portion in _portions(known):
        row, run = _distinct(portion)
        at = np.searchsorted(vocabulary, run).clip(max=max(len(vocabulary) - 1, 0))
        there = vocabulary[at] == run if len(vocabulary) else np.zeros(len(run), bool)
        if ours is None:  # which are rare is told by the first portion: any order will do that is kept to
            count += np.bincount(at[there], minlength=len(count))
            rank = np.empty_like(count)
            rank[np.argsort(count, kind="stable")] = np.arange(len(count))
            ours = _runs(own, rank[number], sizes, len(vocabulary), least)
        many = np.bincount(row, minlength=len(portion))
        there &= (np.bincount(row[there], minlength=len(portion)) >= least * many - 1e-9)[row]  # the others cannot be copies
        theirs = _runs(row[there], rank[at[there]], many, len(vocabulary), least)
        for i, j, value in _alike(ours, theirs, least):
            if several:
                value = np.array([_of_sides(asked[int(a)], portion[int(b)]) for a, b in zip(i.tolist(), j.tolist(), strict=True)])
                enough = value >= least - 1e-9
                i, j, value = i[enough], j[enough], value[enough]
            order = np.lexsort((j, -value, i))  # each text of ours with its best first, and the first of the best
            i, j, value = i[order], j[order], value[order]
            best = np.flatnonzero(np.diff(i, prepend=-1))
            better = best[value[best] > likeness[i[best]]]
            of[i[better]], likeness[i[better]] = start + j[better], value[better]
        start += len(portion)
    return of, likeness


def _alike(ours: _Runs, theirs: _Runs, least: float) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Pairs of texts that are at least so like, some at a time: (P,) numbers of ours, of theirs, and how like they are."""
    step = max(1, _PAIRS // max(len(theirs.sizes), 1))
    for begin in range(0, len(ours.sizes), step):
        found = (ours.rare[begin : begin + step] @ theirs.rare.T).tocoo()
        rows, columns = found.row.astype(np.int64) + begin, found.col.astype(np.int64)
        small, large = np.sort(np.stack([ours.sizes[rows], theirs.sizes[columns]]), axis=0)
        shared = np.minimum(_needed(small), np.ceil(least * large - 1e-9))
        fits = (small >= least * large - 1e-9) & (found.data >= shared)
        rows, columns = rows[fits], columns[fits]
        order = np.lexsort((columns, rows))  # of equally like ones the first is found first
        rows, columns = rows[order], columns[order]
        entries = np.cumsum(ours.sizes[rows] + theirs.sizes[columns])
        cuts = [0, *(np.flatnonzero(np.diff(entries // _ENTRIES)) + 1).tolist(), len(rows)]
        for start, end in pairwise(cuts):
            i, j = rows[start:end], columns[start:end]
            both = np.asarray(ours.table[i].multiply(theirs.table[j]).sum(1)).ravel()
            value = both / (ours.sizes[i] + theirs.sizes[j] - both)
            enough = value >= least - 1e-9
            yield i[enough], j[enough], value[enough]


def _of_sides(one: str, other: str) -> float:
    """How like two rows are in the texts in which they are least so; 0 where they have not as many."""
    ours, theirs = one.split(_BETWEEN), other.split(_BETWEEN)
    return min(map(_likeness, ours, theirs)) if len(ours) == len(theirs) else 0.0


def _likeness(one: str, other: str) -> float:
    ours, theirs = _run_set(one), _run_set(other)
    return len(ours & theirs) / len(ours | theirs) if ours or theirs else 1.0


@lru_cache(maxsize=4096)
def _run_set(text: str) -> frozenset[int]:
    return frozenset(_distinct([text])[1].tolist())


def _runs(row: np.ndarray, rank: np.ndarray, sizes: np.ndarray, width: int, least: float) -> _Runs:
    """(E,) the text and the rank, rarest first, of each run that the vocabulary of `width` has."""
    order = np.lexsort((rank, row))
    row, rank = row[order], rank[order]
    known = np.bincount(row, minlength=len(sizes))
    place = np.arange(len(row)) - (np.cumsum(known) - known)[row] + (sizes - known)[row]  # what is not known is rarest
    first = place < (sizes - np.ceil(least * sizes - 1e-9) + _needed(sizes))[row]

    def matrix(part: np.ndarray) -> csr_matrix:
        return csr_matrix((np.ones(len(row[part]), np.int32), (row[part], rank[part])), shape=(len(sizes), width))

    return _Runs(matrix(np.ones(len(row), bool)), matrix(first), sizes)


def _needed(sizes: np.ndarray) -> np.ndarray:
    """How many of their rarest runs two near copies share at least, the smaller of which has `sizes`.

    Any two long texts share a few.
    """
    return np.maximum(_SHARED, sizes // _PART)


def _portions(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    ends = np.cumsum([min(len(text), LONGEST) for text in texts])
    cuts = [0, *(np.flatnonzero(np.diff(ends // _PORTION)) + 1).tolist(), len(texts)]
    return (texts[a:b] for a, b in pairwise(cuts) if b > a)


def _distinct(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(E,) the number of the text, and the run of three characters, of each run that a text has, once a text and in order."""
    marked = [f"{_FIRST}{letters}{_LAST}" if letters else "" for letters in (_OTHER.sub("", t[:LONGEST]) for t in texts)]
    codes = np.frombuffer("".join(marked).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.int64)
    row = np.repeat(np.arange(len(texts)), [len(text) for text in marked])
    run = (codes[:-2] << 42) | (codes[1:-1] << 21) | codes[2:]  # a character has 21 bits
    inside = row[:-2] == row[2:]
    row, run = row[:-2][inside], run[inside]
    order = np.lexsort((run, row))
    row, run = row[order], run[order]
    new = np.ones(len(row), bool)
    new[1:] = (row[1:] != row[:-1]) | (run[1:] != run[:-1])
    return row[new], run[new]
