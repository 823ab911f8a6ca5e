"""Which example comes when: pure functions of the seed, so that no state exists that a resume could restore wrongly.

The order of epoch e comes from (seed, e), the corruption of example i from (seed, e, i). Where a run stopped, how many
workers read and how large a micro-batch is change nothing.
"""

import hashlib
import struct
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence


def slots(update: int, batch: int, total: int) -> range:
    """The places of `update` in the sequence of all examples of a run: `batch` of them, fewer where `total` ends."""
    return range(min(update * batch, total), min((update + 1) * batch, total))


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """(size,) the order of the examples in an epoch. Shared, so it cannot be written to."""
    order = np.random.default_rng((seed, epoch)).permutation(np.arange(size, dtype=np.int32 if size < 1 << 31 else np.int64))
    order.flags.writeable = False
    return order


Order = Callable[[int, int, int], np.ndarray]
"""(seed, epoch, size) to the numbers of the examples of an epoch, in their order."""


def examples_of(
    update: int, batch: int, size: int, seed: int, total: int, order: Order = permutation
) -> list[tuple[int, int]]:  # fmt: skip
    """The (epoch, example) pairs of `update`, where the data hold `size` examples and the run sees `total`.

    Each epoch has each example once; batches go on from one epoch into the next. Another `order` may have an example
    several times: then the first of the pair is its place in the run, so that pairs differ, and what is random in them.
    """
    places = ((slot, *divmod(slot, size)) for slot in slots(update, batch, total))
    whole = order is permutation
    return [(epoch if whole else slot, int(order(seed, epoch, size)[place])) for slot, epoch, place in places]


class Balanced:
    """Examples of which an epoch has as many of each label, and so frequent ones now and then and rare ones repeatedly.

    An epoch is as long as ever. How often each example is in it is what its label allots to it, rounded up or down.
    """

    def __init__(self, examples: Sequence[Any], labels: Sequence[Hashable]) -> None:
        self._examples = examples
        _, own, counts = np.unique(np.asarray(labels), return_inverse=True, return_counts=True)
        self._shares = 1 / (counts * len(counts))[own]  # they add up to 1
        self.order = lru_cache(maxsize=2)(self._order)

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Any:
        return self._examples[index]

    def _order(self, seed: int, epoch: int, size: int) -> np.ndarray:
        """(size,) int64: the shares of the examples laid end to end in a random order, and a mark at every 1 / size."""
        draw = np.random.default_rng((seed, epoch))
        shuffled = draw.permutation(size)
        marks = (draw.random() + np.arange(size)) / size
        found = np.searchsorted(np.cumsum(self._shares[shuffled]), marks, side="right")
        return draw.permutation(shuffled[np.minimum(found, size - 1)])


class _Words(ISeedSequence):
    """State for a generator that is already random: numpy's own mixing takes most of the time otherwise."""

    def __init__(self, words: np.ndarray) -> None:
        self.words = words

    def generate_state(self, n_words: int, dtype: object = np.uint32) -> np.ndarray:
        assert n_words == len(self.words) and dtype is np.uint64
        return self.words


def rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator of example `index` in `epoch`: independent of all others, made in a few microseconds."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, epoch, index), digest_size=32).digest()
    words = _Words(np.frombuffer(digest, np.uint64))
    return np.random.Generator(np.random.PCG64(words))  # pyright: ignore[reportArgumentType] (numpy's documented protocol)
