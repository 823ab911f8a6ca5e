"""Dropout whose masks belong to the tokens of a text, not to the order in which a machine computes.

Each token of a batch has a seed, drawn for its text (by the run's seed, the epoch and the example) and its place in it. A
mask is a hash of that seed, of which dropout of the model it is, and of the column. So a text is dropped alike whatever it
is packed with, however an update is cut into micro-batches or dealt to processes, and whether or not the run was resumed.

This holds on the CPU. Inputs on a GPU have no seeds, and torch's own dropout is used, which follows its generator.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

_LEVELS = 1 << 16
_WORDS = (1 << 32) - 1
_STEP, _COLUMN, _KEY, _HEADS = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F
"""Odd numbers that keep apart what is counted: sites and places, columns, keys, pairs of heads."""
_FIRST, _SECOND = 0x21F0AAAD, 0xD35A2D97
"""Of a 32-bit hash with next to no bias (Wellons, "Prospecting for hash functions", 2018, and its later 16-15-15)."""
BLOCK = 1 << 14
"""Numbers that are hashed at once, so that they stay in the nearest cache."""


def drawn(rngs: Sequence[np.random.Generator], times: Sequence[int] | None = None) -> Tensor | None:
    """(N,) seeds of texts: of one text for each generator, or of as many as `times` says; None without generators."""
    if not rngs:
        return None
    counts = times or [1] * len(rngs)
    return torch.from_numpy(np.concatenate([r.integers(1 << 32, size=n) for r, n in zip(rngs, counts, strict=True)]))


def fold(seeds: Tensor, number: int | Tensor) -> Tensor:
    """Other seeds, int64 of 32 bits, for the `number`-th use of these, or for the place that a tensor says."""
    mixed = (seeds + (number + 1) * _STEP) & _WORDS
    mixed = ((mixed ^ (mixed >> 16)) * _FIRST) & _WORDS
    return mixed ^ (mixed >> 15)


def along(seeds: Tensor, length: int) -> Tensor:
    """(N,) seeds of texts to (N, length) seeds of their tokens."""
    return fold(seeds[:, None], torch.arange(length, device=seeds.device))


def _mix(numbers: np.ndarray) -> None:
    """Hash uint32 in place."""
    shifted = numbers >> np.uint32(16)
    for factor in (_FIRST, _SECOND):
        np.bitwise_xor(numbers, shifted, out=numbers)
        np.multiply(numbers, np.uint32(factor), out=numbers)
        np.right_shift(numbers, np.uint32(15), out=shifted)
    np.bitwise_xor(numbers, shifted, out=numbers)


def _counted(count: int, factor: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint32) * np.uint32(factor)


@torch.library.custom_op("encoderkit::kept", mutates_args=())
def kept(seeds: Tensor, width: int, dropped: int) -> Tensor:
    """(...) seeds to (..., width) bool, on the CPU: False in `dropped` of 65,536 places on average.

    An operator of its own, since what the compiler makes of random numbers on a CPU takes ten times as long.
    """
    first, columns = seeds.reshape(-1).numpy().astype(np.uint32), _counted(-(-width // 2), _COLUMN)  # two places a number
    found, step = np.empty((len(first), 2 * len(columns)), bool), max(1, BLOCK // len(columns))
    for start in range(0, len(first), step):
        numbers = first[start : start + step, None] + columns
        _mix(numbers)
        np.greater_equal(numbers.view(np.uint16), np.uint16(dropped), out=found[start : start + step])
    return torch.from_numpy(np.ascontiguousarray(found[:, :width])).view(*seeds.shape, width)


@kept.register_fake
def _(seeds: Tensor, width: int, dropped: int) -> Tensor:
    return torch.empty((*seeds.shape, width), dtype=torch.bool, device=seeds.device)


@torch.library.custom_op("encoderkit::kept_between", mutates_args=())
def kept_between(queries: Tensor, keys: Tensor, heads: int, dropped: int) -> Tensor:
    """(B, Q) and (B, S) seeds to (B, H, Q, S) bool: the same for the weights of attention."""
    own, others = queries.numpy().astype(np.uint32), keys.numpy().astype(np.uint32) * np.uint32(_KEY)
    pairs, level = _counted(-(-heads // 2), _HEADS), np.uint32(dropped << 16)  # two heads a number
    found = np.empty((len(own), 2 * len(pairs), own.shape[1], others.shape[1]), bool)
    step = max(1, BLOCK // others.shape[1])
    for row, pair, start in np.ndindex(len(own), len(pairs), -(-own.shape[1] // step)):
        part = slice(start * step, (start + 1) * step)
        numbers = own[row, part, None] + (others[row] + pairs[pair])
        _mix(numbers)
        for head in (2 * pair, 2 * pair + 1):  # by the upper half of the number, then by the lower
            np.greater_equal(numbers, level, out=found[row, head, part])
            np.left_shift(numbers, np.uint32(16), out=numbers)
    return torch.from_numpy(np.ascontiguousarray(found[:, :heads]))


@kept_between.register_fake
def _(queries: Tensor, keys: Tensor, heads: int, dropped: int) -> Tensor:
    shape = (queries.shape[0], heads, queries.shape[1], keys.shape[1])
    return torch.empty(shape, dtype=torch.bool, device=queries.device)


def _level(rate: float) -> int:
    """Of 65,536, to which the share is exact."""
    return min(round(rate * _LEVELS), _LEVELS - 1)


def _scaled(x: Tensor, mask: Tensor, dropped: int) -> Tensor:
    return x * mask * (_LEVELS / (_LEVELS - dropped))


def drop(x: Tensor, rate: float, seeds: Tensor | None) -> Tensor:
    """(..., D), and (...) seeds: a share of `x` zeroed, the rest scaled up. Srivastava et al. 2014."""
    if seeds is None:
        return F.dropout(x, rate)
    return _scaled(x, kept(seeds, x.shape[-1], _level(rate)), _level(rate))


Between = tuple[Tensor, Tensor]
"""(B, Q) seeds of queries and (B, S) of keys."""


def drop_between(weights: Tensor, rate: float, seeds: Between | None) -> Tensor:
    """(B, H, Q, S) weights of attention: the same, as use 0 of the queries' seeds."""
    if seeds is None:
        return F.dropout(weights, rate)
    queries, keys = seeds
    return _scaled(weights, kept_between(fold(queries, 0), keys, weights.shape[1], _level(rate)), _level(rate))


class Dropout(nn.Module):
    """`drop` in training, nothing in evaluation or with a rate of zero."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, seeds: Tensor | None, use: int = 0) -> Tensor:
        """`use`: which one it is of those that go by these seeds."""
        if not (self.training and self.rate):
            return x
        return drop(x, self.rate, None if seeds is None else fold(seeds, use))


class SharedDropout(nn.Module):
    """Dropout of what all texts of an update share, such as a table of distances: (R, D) -> (R, D).

    Row r is dropped by r (on the CPU) and the seed of torch's generator, which the training loop sets for each update.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor, rows: Tensor, use: int = 0) -> Tensor:
        """`rows` (R,) int64: what the rows are numbered by, wherever they stand in the table; `use`: which of several it is."""
        if not (self.training and self.rate):
            return x
        return F.dropout(x, self.rate) if x.is_cuda else drop(x, self.rate, fold(shared(rows), use))


@torch.library.custom_op("encoderkit::shared", mutates_args=(), tags=(torch.Tag.nondeterministic_seeded,))
def shared(rows: Tensor) -> Tensor:
    """(R,) numbers to (R,) seeds that are those of the update."""
    return fold(fold(torch.full_like(rows, torch.initial_seed() & _WORDS), 0), rows & _WORDS)


@shared.register_fake
def _(rows: Tensor) -> Tensor:
    return torch.empty_like(rows)


def between(seeds: Tensor | None, keys: Tensor | None = None) -> Between | None:
    """The seeds of attention: of tokens to one another, or to `keys`."""
    return None if seeds is None else (seeds, seeds if keys is None else keys)
