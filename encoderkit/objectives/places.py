"""Which rows of a table a batch needs, once each, and where: so that what is computed and stepped is as small as the batch."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from encoderkit.compiled import compiled


class Places(NamedTuple):
    """Ids of any shape as rows that are there once."""

    rows: Tensor
    """(R,) int64: the ids that occur, ascending."""
    which: Tensor
    """int64 in the shape of the ids: the number of each in `rows`."""
    order: Tensor
    """(N,) int64: the places, flat, sorted by row."""
    begins: Tensor
    """(R,) int64: where in `order` each row begins."""

    @staticmethod
    def of(ids: np.ndarray) -> "Places":
        """int64 ids of any shape, less than 2^31 of them."""
        flat = ids.reshape(-1)
        if len(flat) and (rank := compiled(_rank)) is not None:
            rows, begins, index, order = (np.empty_like(flat) for _ in range(4))
            count = rank(flat, np.zeros(int(flat.max()) + 1, np.int64), rows, begins, index, order)
            return Places(*map(torch.from_numpy, (rows[:count], index.reshape(ids.shape), order, begins[:count])))
        keys = np.sort(flat << 31 | np.arange(len(flat)))  # several times faster than a stable argsort, and the same
        ordered, order = keys >> 31, keys & (1 << 31) - 1
        new = np.ones(len(flat), bool)
        new[1:] = ordered[1:] != ordered[:-1]
        index = np.empty_like(flat)
        index[order] = np.cumsum(new) - 1
        begins = np.flatnonzero(new)
        return Places(*map(torch.from_numpy, (ordered[begins], index.reshape(ids.shape), order, begins)))

    def named(self, name: str) -> dict[str, Tensor]:
        """As entries of a batch's targets."""
        return {f"{name}.{key}": value for key, value in self._asdict().items()}

    @staticmethod
    def found(name: str, targets: Mapping[str, Tensor]) -> "Places":
        """From a batch's targets again."""
        return Places(**{key: targets[f"{name}.{key}"] for key in Places._fields})


class Means(NamedTuple):
    """Means of some rows each, as a sparse matrix by rows and by columns."""

    rows: Tensor
    """(R,) int64: the ids that occur, ascending."""
    members: Tensor
    """(E,) int64: of one mean after another, the numbers in `rows` of what it is of."""
    begins: Tensor
    """(N,) int64: where in `members` each mean begins."""
    means: Tensor
    """(E,) int64: of one row after another, the means that it is in."""
    row_begins: Tensor
    """(R,) int64: where in `means` each row begins."""

    @staticmethod
    def of(ids: np.ndarray, sizes: np.ndarray) -> "Means":
        """int64 (E,) ids of one mean after another, (N,) how many each has."""
        places = Places.of(ids)
        owner = np.repeat(np.arange(len(sizes)), sizes)
        order = places.order.numpy()
        begins = torch.from_numpy(np.cumsum(sizes) - sizes)
        return Means(places.rows, places.which, begins, torch.from_numpy(owner[order]), places.begins)

    def named(self, name: str) -> dict[str, Tensor]:
        """As entries of a batch's targets."""
        return {f"{name}.{key}": value for key, value in self._asdict().items()}

    @staticmethod
    def found(name: str, targets: Mapping[str, Tensor]) -> "Means":
        """From a batch's targets again."""
        return Means(**{key: targets[f"{name}.{key}"] for key in Means._fields})


class _Mean(torch.autograd.Function):
    """Bags of rows to their means; on the way back each row has the whole gradient of its means, not its share of it.

    So word2vec.c has it: a word learns as fast in a wide window as in a narrow one. With shares the vectors are much worse.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, *of: Tensor) -> Tensor:
        members, begins, *back = of
        ctx.save_for_backward(*back)
        if not len(members):
            return rows.new_zeros(len(begins), rows.shape[1])
        return F.embedding_bag(members, rows, begins, mode="mean")

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        means, begins = ctx.saved_tensors
        if not len(means):
            return gradients[0].new_zeros(0, gradients[0].shape[1]), *[None] * 4
        found = F.embedding_bag(means, gradients[0].contiguous(), begins, mode="sum")
        return found, *[None] * 4


def averaged(rows: Tensor, means: Means) -> Tensor:
    """(R, D) values of `means.rows` -> (N, D)."""
    return _Mean.apply(rows, *means[1:])  # pyright: ignore[reportReturnType]


class _Spread(torch.autograd.Function):
    """Rows to where they belong; the way back adds up over sorted places, much faster than adding to rows in any order."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, index: Tensor, order: Tensor, begins: Tensor) -> Tensor:
        ctx.save_for_backward(order, begins)
        return F.embedding(index, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        order, begins = ctx.saved_tensors
        if not len(order):  # a portion of which no word was kept
            return gradients[0].reshape(0, gradients[0].shape[-1]), None, None, None
        flat = gradients[0].reshape(len(order), -1)
        return F.embedding_bag(order, flat, begins, mode="sum"), None, None, None


def spread(rows: Tensor, places: Places) -> Tensor:
    """(R, D) values of `places.rows` -> (..., D), in the shape of the ids."""
    return _Spread.apply(rows, places.which, places.order, places.begins)  # pyright: ignore[reportReturnType]


def _rank(ids: np.ndarray, counts: np.ndarray, rows: np.ndarray, begins: np.ndarray, index: np.ndarray, order: np.ndarray) -> int:
    """Sort by counting, in compiled code: what `Places` holds, and how many rows there are. `counts` are zeros."""
    for i in range(len(ids)):
        counts[ids[i]] += 1
    found = at = 0
    for row in range(len(counts)):
        if counts[row]:
            rows[found], begins[found] = row, at
            at, counts[row] = at + counts[row], found
            found += 1
    for i in range(len(ids)):
        index[i] = counts[ids[i]]
    for row in range(found):
        counts[row] = begins[row]
    for i in range(len(ids)):
        order[counts[index[i]]] = i
        counts[index[i]] += 1
    return found
