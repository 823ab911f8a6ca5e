"""A sample of bounded size from a stream of unknown length, the same for the same documents and seed in any order.

Each document has a priority, a hash of its text and the seed; the documents of the lowest priorities are kept, as many
as fit into the given bytes (bottom-k sampling). One pass, no need to know how much will come. One document in a
hundred, by another part of the same hash, is held out for measuring, and so are its copies. Every byte that comes in
is counted once.
"""

import hashlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

PART = 1 << 20
"""Documents of more bytes are sampled in parts of at most this size, cut at white space where there is any."""
HELD_OUT, HELD_OUT_BYTES = 1 / 100, 2_000_000
"""The share of the documents that is kept out of training, and the most bytes of them that are kept for measuring."""


class Amount(NamedTuple):
    """Documents (or parts of long ones) and their UTF-8 bytes."""

    documents: int
    bytes: int


class Kept:
    """Documents in one buffer: at most `capacity` bytes, those of the lowest priorities."""

    def __init__(self, capacity: int) -> None:
        self.capacity, self._limit = capacity, 2**64
        self._data, self._ends, self._priorities = bytearray(), [0], list[int]()

    def add(self, data: bytes, priority: int) -> None:
        """Offer a document."""
        if priority >= self._limit:
            return
        self._data += data
        self._ends.append(len(self._data))
        self._priorities.append(priority)
        if len(self._data) > self.capacity + max(self.capacity // 4, PART):
            self.shrink()

    def shrink(self) -> None:
        """Let the highest priorities go until the rest fits. What is refused from then on could never have stayed."""
        if len(self._data) <= self.capacity:
            return
        ends, priorities = np.array(self._ends), np.array(self._priorities, np.uint64)
        order = np.argsort(priorities, kind="stable")
        fits = np.cumsum(np.diff(ends)[order]) <= self.capacity
        count = max(int(fits.argmin()), 1)  # never nothing at all
        self._limit = int(priorities[order[count]]) if count < len(order) else self._limit
        kept = np.sort(order[:count])
        pieces = [self._data[ends[i] : ends[i + 1]] for i in kept]
        self._data = bytearray().join(pieces)
        self._ends = [0, *np.cumsum([len(p) for p in pieces]).tolist()]
        self._priorities = priorities[kept].tolist()

    @property
    def amount(self) -> Amount:
        """What is kept."""
        return Amount(len(self._priorities), len(self._data))

    def __iter__(self) -> Iterator[str]:
        for start, end in zip(self._ends, self._ends[1:], strict=False):
            yield self._data[start:end].decode()


class Sample(NamedTuple):
    """What training sees, what it is measured on, and the account of every byte that came in."""

    training: Kept
    held_out: Kept
    not_used: Amount
    """Documents (or parts) that were neither sampled nor kept for measuring."""
    dropped: dict[str, int]
    """Bytes left out for a reason."""


def draw(texts: Iterator[str], capacity: int, seed: int) -> Sample:
    """Take the sample of at most `capacity` bytes from `texts`; memory is bounded by it, not by the corpus."""
    training, held_out = Kept(capacity), Kept(min(HELD_OUT_BYTES, capacity))
    parts = size = 0
    dropped = {"nul": 0, "not_unicode": 0}
    key = seed.to_bytes(8, "little")
    for text in texts:
        data = _clean(text, dropped)
        size += len(data)
        if not data:
            continue
        digest = hashlib.blake2b(data, digest_size=16, key=key).digest()
        for i, part in enumerate(cut(data, min(PART, capacity))):
            parts += 1
            own = digest if i == 0 else hashlib.blake2b(digest, digest_size=16, key=i.to_bytes(8, "little")).digest()
            held = int.from_bytes(own[8:], "little") < HELD_OUT * 2**64
            (held_out if held else training).add(part, int.from_bytes(own[:8], "little"))
    if not training.amount.documents:  # a corpus of a few documents: better measured on them than not trained at all
        training, held_out = held_out, Kept(0)
    training.shrink()
    held_out.shrink()
    used, kept = training.amount, held_out.amount
    not_used = Amount(parts - used.documents - kept.documents, size - used.bytes - kept.bytes)
    return Sample(training, held_out, not_used, {reason: n for reason, n in dropped.items() if n})


def _clean(text: str, dropped: dict[str, int]) -> bytes:
    """UTF-8 without what no trainer can take: half surrogate pairs (JSON can hold them) and NUL."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = text.encode("utf-8", "ignore")
        dropped["not_unicode"] += len(text.encode("utf-8", "surrogatepass")) - len(data)
    if b"\0" in data:
        dropped["nul"] += data.count(b"\0")
        data = data.replace(b"\0", b"")
    return data


def cut(data: bytes, most: int) -> Iterator[bytes]:
    """UTF-8 in pieces of at most `most` (>= 4) bytes: after white space if the second half of a piece has any, else
    between two characters. Nothing is lost.
    """
    start = 0
    while len(data) - start > most:
        end = start + most
        space = max(data.rfind(b" ", start + most // 2, end), data.rfind(b"\n", start + most // 2, end))
        if space >= 0:
            end = space + 1
        while data[end] & 0xC0 == 0x80:
            end -= 1
        yield data[start:end]
        start = end
    yield data[start:]
