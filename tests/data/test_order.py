"""The order of examples: a pure function of the seed."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from encoderkit.data.order import Balanced, examples_of, permutation, rng


@given(
    size=st.integers(1, 30), batch=st.integers(1, 40), epochs=st.integers(1, 4), short=st.integers(0, 29), seed=st.integers(0, 9)
)
def test_each_example_once_an_epoch_whatever_the_batch(size: int, batch: int, epochs: int, short: int, seed: int) -> None:
    total = max(size * epochs - short, 1)
    seen = [pair for update in range(-(-total // batch)) for pair in examples_of(update, batch, size, seed, total)]
    assert len(seen) == total and examples_of(-(-total // batch), batch, size, seed, total) == []
    assert seen == [pair for update in range(total) for pair in examples_of(update, 1, size, seed, total)]
    for epoch in range(total // size):
        assert sorted(i for e, i in seen if e == epoch) == list(range(size))


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(permutation(seed, epoch, 50)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert np.array_equal(permutation(1, 2, 50), np.random.default_rng((1, 2)).permutation(50))


def test_generators_are_addressed_and_independent() -> None:
    assert np.array_equal(rng(1, 2, 3).random(5), rng(1, 2, 3).random(5))
    draws = np.array([rng(17, 0, i).random(64) for i in range(2000)])
    assert abs(draws.mean() - 0.5) < 0.005
    neighbours = np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]
    assert abs(neighbours) < 0.02 and len({rng(s, e, i).integers(2**62) for s in (0, 1) for e in (0, 1) for i in (0, 1)}) == 8


@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=60),
    batch=st.integers(1, 20),
    seed=st.integers(0, 9),
)
def test_balanced_epochs_have_as_many_of_each_label(labels: list[int], batch: int, seed: int) -> None:
    """And each example about as often as its label allots to it; whatever the batch, and with other randomness each time."""
    source, size = Balanced(labels, labels), len(labels)
    updates = [examples_of(update, batch, size, seed, 3 * size, source.order) for update in range(-(-3 * size // batch))]
    drawn = [pair for update in updates for pair in update]
    assert drawn == [
        pair for u in range(3 * size) for pair in examples_of(u, 1, size, seed, 3 * size, Balanced(labels, labels).order)
    ]
    assert len(set(drawn)) == 3 * size
    kinds, counts = np.unique(labels, return_counts=True)
    for epoch in range(3):
        often = np.bincount([i for _, i in drawn[epoch * size : (epoch + 1) * size]], minlength=size)
        for kind, count in zip(kinds, counts, strict=True):
            own, each = often[np.array(labels) == kind], size / (len(kinds) * count)
            assert np.floor(each - 1e-9) <= own.min() and own.max() <= np.ceil(each + 1e-9)
    if size >= 20:
        assert len({tuple(source.order(seed, epoch, size)) for epoch in range(3)}) == 3 or len(set(labels)) == 1
