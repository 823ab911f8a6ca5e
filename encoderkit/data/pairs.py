"""Rows of pairs: [CLS] A [SEP] B [SEP], where B follows A in a document, or only looks as if it did.

The pieces of a row are those of `blocks`, with room for one more [SEP]. Each is cut in two at the beginning of a word
when the row is seen, by the row's own generator, so that the cut is another one in each epoch, and so is what becomes of
it: B is from another document (`next`, Devlin et al. 2019, section 3.1), or before A (`order`, Lan et al. 2020, section
3.1), in one half of the pairs. A piece of a single token cannot be cut and stays as it is, without a label.
"""

from typing import Literal, NamedTuple

import numpy as np

from encoderkit.data.blocks import Row, Rows
from encoderkit.data.store import TokenStore
from encoderkit.errors import DataError

Relation = Literal["next", "order"]
TRIES = 8
"""Documents looked at for one that is long enough to take B from."""
BACK = 64
"""Tokens looked back for the beginning of a word."""


class Stretch(NamedTuple):
    """Tokens that follow one another in a document."""

    ids: np.ndarray
    starts: np.ndarray


class PairRow(NamedTuple):
    """A row that `paired` makes pairs of."""

    row: Row
    places: np.ndarray
    """(pieces,) int64: where each piece begins in the store."""
    source: "PairRows"

    @property
    def ids(self) -> np.ndarray:
        """Of the pieces, before they are cut."""
        return self.row.ids


class Paired(NamedTuple):
    """A row of n tokens with `pairs` pairs in it."""

    row: Row
    segments: np.ndarray
    """(n,) int64: 0 for [CLS] A [SEP], 1 for B [SEP]."""
    firsts: np.ndarray
    """(pairs,) int64: the place of each pair's [CLS]."""
    labels: np.ndarray
    """(pairs,) int64: 0 where B follows A in the text, 1 where not."""


class PairRows(Rows):
    """The rows of a store, or of its documents `documents` (ascending), to be made into pairs.

    Every token is in exactly one row, as in `Rows`; what is from another document (`elsewhere`) comes on top of that.
    """

    special = 3

    def __init__(
        self,
        store: TokenStore,
        length: int,
        cls: int,
        sep: int,
        documents: np.ndarray | None = None,
        packed: bool = True,
        summary: Literal["first"] = "first",
        before: Literal[0] = 0,
    ) -> None:
        super().__init__(store, length, cls, sep, documents, packed, summary, before)
        if len(self._first) < 2:
            fix = "more documents, or a larger data.dev, or objective.pairs: none"
            raise DataError("pairs of texts need at least two documents, and here is one", where=store.path, fix=fix)
        if int((self._end - self._first).max()) < 2:
            fix = "tokenize longer texts, or leave pairs out: --set objective.pairs=none"
            raise DataError("no document has two tokens, so there are no pairs of texts", where=store.path, fix=fix)

    def __getitem__(self, row: int) -> PairRow:  # pyright: ignore[reportIncompatibleMethodOverride]
        return PairRow(super().__getitem__(row), self.places(row), self)

    def elsewhere(self, place: int, size: int, rng: np.random.Generator) -> Stretch:
        """`size` tokens of another document than that of `place`, from the beginning of a word; fewer if none has as many."""
        own = int(np.searchsorted(self._first, place, "right")) - 1
        first = end = 0
        for _ in range(TRIES):
            other = int(rng.integers(len(self._first) - 1))
            other += other >= own
            if self._end[other] - self._first[other] > end - first:
                first, end = int(self._first[other]), int(self._end[other])
            if end - first >= size:
                break
        begin = first + int(rng.integers(max(end - first - size, 0) + 1))
        back = max(first, begin - BACK)
        words = np.flatnonzero(self.store.starts(back, begin + 1))
        if len(words):
            begin = back + int(words[-1])
        elif back == first:
            begin = first
        end = min(end, begin + size)
        return Stretch(self.store.ids[begin:end].astype(np.int64), self.store.starts(begin, end))


ROWS: dict[Literal["documents", "pairs"], type[Rows]] = {"documents": Rows, "pairs": PairRows}


def paired(example: PairRow, relation: Relation, rng: np.random.Generator) -> Paired:
    """The row with each of its pieces cut in two, and one half of the pairs no longer as in the text."""
    row = example.row
    begins = np.flatnonzero(row.positions == 0)
    pieces: list[list[Stretch]] = []
    labels: list[int] = []
    for place, begin, end in zip(example.places, begins, [*begins[1:], len(row.ids)], strict=True):
        whole = Stretch(row.ids[begin + 1 : end - 1], row.starts[begin + 1 : end - 1])
        if len(whole.ids) < 2:
            pieces.append([whole])
            continue
        first, second = _cut(whole, rng)
        changed = int(rng.integers(2))
        if changed and relation == "next":
            second = example.source.elsewhere(int(place), len(second.ids), rng)
        pieces.append([second, first] if changed and relation == "order" else [first, second])
        labels.append(changed)
    return _laid(pieces, np.array(labels, np.int64), int(row.ids[0]), int(row.ids[-1]))


def _cut(whole: Stretch, rng: np.random.Generator) -> tuple[Stretch, Stretch]:
    """At the beginning of a word, each as likely; anywhere if none begins within."""
    words = np.flatnonzero(whole.starts[1:]) + 1
    cut = int(words[rng.integers(len(words))]) if len(words) else int(rng.integers(1, len(whole.ids)))
    return Stretch(whole.ids[:cut], whole.starts[:cut]), Stretch(whole.ids[cut:], whole.starts[cut:])


def _laid(pieces: list[list[Stretch]], labels: np.ndarray, cls: int, sep: int) -> Paired:
    """Pieces of one or two stretches as one row."""
    size = sum(1 + sum(len(part.ids) + 1 for part in piece) for piece in pieces)
    ids, documents, positions, segments = (np.zeros(size, np.int64) for _ in range(4))
    starts, special = np.zeros(size, bool), np.zeros(size, bool)
    firsts, place = [], 0
    for number, piece in enumerate(pieces, 1):
        begin = place
        ids[place], special[place] = cls, True
        if len(piece) > 1:
            firsts.append(begin)
        for segment, part in enumerate(piece):
            after = place + 1 + len(part.ids)
            ids[place + 1 : after], starts[place + 1 : after] = part.ids, part.starts
            starts[place + 1] = True  # what is read after a special token begins a word, even in the middle of one
            ids[after], special[after] = sep, True
            segments[place + 1 : after + 1] = segment
            place = after
        place += 1
        documents[begin:place], positions[begin:place] = number, np.arange(place - begin)
    return Paired(Row(ids, documents, positions, starts, special), segments, np.array(firsts, np.int64), labels)
