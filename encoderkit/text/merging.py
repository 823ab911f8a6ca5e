"""Byte-pair encoding learnt from counted words: a Python loop over the merges, numpy for all places of a merge at once.

Sennrich et al. 2016, Neural Machine Translation of Rare Words with Subword Units, section 3.2. The pieces and merges are
those of the trainer in the tokenizers library (of equally common pairs the one of lower numbers goes first). That one
takes text alone; here words come with their counts, so that each distinct word is looked at once.
"""

import heapq
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import NamedTuple, final

import numpy as np

BETWEEN, GONE = -1, -2
"""In place of a symbol: before and after each word; where a symbol was that is a part of its neighbour now."""
STEP = 32
"""Pairs are kept in hand that are up to this many times rarer than the commonest; when none is left, the next rarer ones."""
_HIGH = 1 << 32
_AT_ONCE = -(1 << 62)


class Learnt(NamedTuple):
    """What was learnt."""

    pieces: list[str]
    """By number: those that were there, then those made."""
    merges: list[tuple[int, int]]
    """Pairs of pieces, in the order in which they are to be joined."""

    def merge_names(self) -> list[tuple[str, str]]:
        """The same in words."""
        return [(self.pieces[left], self.pieces[right]) for left, right in self.merges]


class Places(NamedTuple):
    """Places sorted by the pair of symbols that stands there, a pair being left * 2^32 + right."""

    pairs: np.ndarray
    """(n,) int64, each once."""
    counts: np.ndarray
    """(n,) int64: how often it occurs."""
    starts: np.ndarray
    """(n+1,) where its places begin."""
    places: np.ndarray


@final
class Laid:
    """Words laid end to end, by their characters."""

    def __init__(self, words: Mapping[str, int]) -> None:
        """`words`: each with its count; no word holds a line end."""
        self._codes = np.frombuffer("\n".join(["", *words, ""]).encode("utf-32-le"), np.uint32)
        sizes = np.fromiter(map(len, words), np.int64, len(words)) + 1
        self._weights = np.repeat(np.fromiter(chain([0], words.values()), np.int64), np.concatenate([[1], sizes]))

    def letters(self) -> dict[str, int]:
        """How often each character occurs, the commonest first, ties by code point."""
        counts = np.bincount(self._codes, self._weights).astype(np.int64)
        counts[ord("\n") :][:1] = 0
        common = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
        return dict(zip(map(chr, common.tolist()), counts[common].tolist(), strict=True))

    def symbols(self, first: Mapping[str, int], inside: Mapping[str, int]) -> "Words":
        """In numbers: those of `first` at the start of a word, those of `inside` further on; others are left out."""
        tables = np.full((2, 0x110000), GONE, np.int32)
        for table, numbers in zip(tables, (inside, first), strict=True):
            table[[ord(c) for c in numbers if len(c) == 1]] = [n for c, n in numbers.items() if len(c) == 1]
        tables[:, ord("\n")] = BETWEEN
        begins = np.concatenate([[False], self._codes[:-1] == ord("\n")])
        return Words(tables[begins.astype(np.intp), self._codes], self._weights)


@final
class Words:
    """Distinct words laid end to end, and the places of the pairs of symbols that are common enough to be in hand."""

    def __init__(self, symbols: np.ndarray, weights: np.ndarray) -> None:
        """`symbols` (N,) int32 with BETWEEN at both ends and between words; `weights` (N,) int64: how often the word of
        each occurs."""
        self.symbols, self.weights = symbols, weights
        self.places: dict[int, np.ndarray] = {}
        """A pair to where it stood when it was last looked at; it has not come anywhere since."""
        self.least = 0
        """How often a pair in hand occurs."""

    def collect(self, least: int) -> list[tuple[int, int]]:
        """Close the gaps and take the commonest pairs in hand, none rarer than `least`: (-count, pair) of each."""
        alive = self.symbols != GONE
        self.symbols, self.weights = self.symbols[alive], self.weights[alive]
        steps = np.arange(len(self.symbols), dtype=np.int32)
        self.before, self.after = steps - 1, steps + 1
        places = np.flatnonzero((self.symbols[:-1] >= 0) & (self.symbols[1:] >= 0)).astype(np.int32)
        self.places, self.least = {}, least
        if not len(places):
            return []
        found = self._grouped(places)
        self.least = max(least, int(found.counts.max()) // STEP)
        return self._take(found)

    def find(self, pair: int) -> tuple[np.ndarray, int]:
        """Where `pair` in hand stands now, and how often it occurs; it is out of hand."""
        places = self.places.pop(pair)
        left, right = divmod(pair, _HIGH)
        here = (self.symbols.take(places) == left) & (self.symbols.take(self.after.take(places)) == right)
        places = places[here]
        return places, int(self.weights.take(places).sum())

    def merge(self, places: np.ndarray, made: int, again: bool) -> list[tuple[int, int]]:
        """Put `made` in place of the pairs at `places`, and take in hand the pairs that it is a part of.

        `again`: `made` occurs already, joined from another pair.
        """
        symbols, after, before = self.symbols, self.after, self.before
        seconds = after.take(places)
        ends = after.take(seconds)
        symbols[places], symbols[seconds] = made, GONE
        after[places], before[ends] = ends, places
        if again:
            places = np.flatnonzero(symbols == made).astype(np.int32)
            ends = after.take(places)
        lefts = before.take(places)
        others = symbols.take(lefts)
        near = np.concatenate((lefts[(others >= 0) & (others != made)], places[symbols.take(ends) >= 0]))
        return self._take(self._grouped(near)) if len(near) else []

    def apart(self, places: np.ndarray) -> np.ndarray:
        """Of places of a pair of equal symbols those that are joined, from the left: of a a a the first two alone."""
        places = np.sort(places)
        steps = np.arange(len(places))
        follows = np.concatenate([[False], self.after[places[:-1]] == places[1:]])
        return places[(steps - np.maximum.accumulate(np.where(follows, 0, steps))) % 2 == 0]

    def _grouped(self, places: np.ndarray) -> Places:
        pairs = (self.symbols.take(places).astype(np.int64) << 32) | self.symbols.take(self.after.take(places))
        order = pairs.argsort()
        pairs, places = pairs.take(order), places.take(order)
        edges = np.ones(len(pairs) + 1, bool)
        np.not_equal(pairs[1:], pairs[:-1], out=edges[1:-1])
        starts = edges.nonzero()[0]
        first = starts[:-1]
        return Places(pairs.take(first), np.add.reduceat(self.weights.take(places), first), starts, places)

    def _take(self, found: Places) -> list[tuple[int, int]]:
        taken = []
        for i in (found.counts >= self.least).nonzero()[0].tolist():
            pair = int(found.pairs[i])
            self.places[pair] = found.places[found.starts[i] : found.starts[i + 1]]
            taken.append((-int(found.counts[i]), pair))
        return taken


def learn(words: Words, pieces: Sequence[str], size: int, least: int, prefix: str = "") -> Learnt:
    """Join the commonest pair, again and again, until there are `size` pieces or no pair occurs `least` times.

    `pieces` are what the symbols of `words` stand for; `prefix` marks those that continue a word.
    """
    names = list(pieces)
    numbers = {name: i for i, name in enumerate(names)}
    merges: dict[int, tuple[int, int]] = {}
    queue = list[tuple[int, int]]()
    while len(names) < size:
        if not queue:
            queue = words.collect(least)
            heapq.heapify(queue)
            if not queue:
                break
        count, pair = heapq.heappop(queue)
        if pair not in words.places:
            continue
        places, now = words.find(pair)
        if now < -count and pair not in merges:  # others have taken some of its symbols since it was counted
            if now >= words.least:
                words.places[pair] = places
                heapq.heappush(queue, (-now, pair))
            continue
        left, right = merges[pair] = divmod(pair, _HIGH)
        name = names[left] + names[right].removeprefix(prefix)
        made = numbers.setdefault(name, len(names))
        again = made < len(names)
        if not again:
            names.append(name)
        for count, pair in words.merge(words.apart(places) if left == right else places, made, again):
            # A pair that was joined before is joined at once: so it will be when a text is cut by these merges.
            heapq.heappush(queue, (_AT_ONCE if pair in merges else count, pair))
    return Learnt(names, list(merges.values()))
