"""How often words stand near one another: the counts that GloVe fits, weighted by 1 / distance.

Pennington et al. 2014, section 4.2. Counts are sparse matrices, added up in the way of a counter in base two, so that each
is copied a few times only however long the text is. Memory is that of the pairs that occur.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy import sparse


def cooccurrences(chunks: Iterable[tuple[np.ndarray, np.ndarray]], size: int, window: int, skip: np.ndarray) -> sparse.csr_matrix:
    """(size, size) symmetric: of each pair of ids the sum of 1 / distance over all places where it is at most `window` apart.

    `chunks` are of (n,) ids and (n,) numbers of their documents, which are kept apart; ids in `skip` are left out, and do
    not count in distances.
    """
    known = np.ones(size, bool)
    known[skip] = False
    sums: list[sparse.csr_matrix | None] = []
    for ids, documents in chunks:
        kept = known[ids]
        carried = _counted(ids[kept].astype(np.int32), documents[kept], size, window)
        for level, other in enumerate(sums):
            if other is None:
                sums[level] = carried
                break
            sums[level], carried = None, carried + other
        else:
            sums.append(carried)
    total = sparse.csr_matrix((size, size), dtype=np.float64)
    for part in sums:
        total = total if part is None else total + part
    return total + total.T.tocsr()


def _counted(ids: np.ndarray, documents: np.ndarray, size: int, window: int) -> sparse.csr_matrix:
    """One direction: the earlier word is the row."""
    total = sparse.csr_matrix((size, size), dtype=np.float64)
    for distance in range(1, window + 1):
        same = documents[distance:] == documents[:-distance]
        left, right = ids[:-distance][same], ids[distance:][same]
        total = total + sparse.csr_matrix((np.full(len(left), 1 / distance), (left, right)), (size, size))
    return total


class Portion(NamedTuple):
    """Some of the counts."""

    ids: np.ndarray
    """(n,) int32: the words."""
    others: np.ndarray
    """(n,) int32: their contexts."""
    counts: np.ndarray
    """(n,) float32: how often, by 1 / distance."""
    rounds: np.ndarray
    """(n,) int64, which ascend, and from portion to portion: in a round each word, and each context, is there once at most."""


class Cells:
    """The counts that are not zero, in tiles: those of words of one group with contexts of another.

    Words are dealt into groups of about `size` at random. A tile touches few rows of the tables and each of them often, as in
    distributed matrix factorisation (Gemulla et al. 2011, section 4.1), where counts drawn at random would touch two rows each.
    Within a tile counts come by its diagonals, whose steps do not touch one another.
    """

    def __init__(self, counts: sparse.csr_matrix, size: int) -> None:
        coo = counts.tocoo()
        words = len(counts.indptr) - 1
        groups = -(-words // size)
        member, group = np.divmod(np.random.default_rng(words).permutation(words), groups)
        tile = group[coo.row] * groups + group[coo.col]
        diagonal = (member[coo.row] + member[coo.col]) % size
        rounds = tile.astype(np.int64) * size + diagonal
        order = np.argsort(rounds, kind="stable")
        sizes = np.bincount(tile)
        self._ends = np.cumsum(sizes[sizes > 0])
        self.rows, self.columns = coo.row[order].astype(np.int32), coo.col[order].astype(np.int32)
        self.counts, self.rounds = coo.data[order].astype(np.float32), rounds[order]

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> Portion:
        if not 0 <= index < len(self):
            raise IndexError(index)
        here = slice(int(self._ends[index - 1]) if index else 0, int(self._ends[index]))
        return Portion(self.rows[here], self.columns[here], self.counts[here], self.rounds[here])
