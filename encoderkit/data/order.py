"""Which example comes when: pure functions of the seed, so that no state exists that a resume could restore wrongly.

The order of epoch e comes from (seed, e), the corruption of example i from (seed, e, i). Where a run stopped, how many
workers read and how large a micro-batch is change nothing.
"""

import hashlib
import struct
from functools import lru_cache

import numpy as np
from numpy.random.bit_generator import ISeedSequence


def slots(update: int, batch: int, total: int) -> range:
    """The places of `update` in the sequence of all examples of a run: `batch` of them, fewer where `total` ends."""
    return range(min(update * batch, total), min((update + 1) * batch, total))


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    """(size,) int64: the order of the examples in an epoch. Shared, so it cannot be written to."""
    order = np.random.default_rng((seed, epoch)).permutation(size)
    order.flags.writeable = False
    return order


def examples_of(update: int, batch: int, size: int, seed: int, total: int) -> list[tuple[int, int]]:
    """The (epoch, example) pairs of `update`, where the data hold `size` examples and the run sees `total`.

    Each epoch has each example once; batches go on from one epoch into the next.
    """
    places = (divmod(slot, size) for slot in slots(update, batch, total))
    return [(epoch, int(permutation(seed, epoch, size)[place])) for epoch, place in places]


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
