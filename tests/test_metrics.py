"""Metrics against scikit-learn, and intervals against resampling row by row."""

import time
import warnings
from collections.abc import Callable
from itertools import permutations, product
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sklearn_metrics

from encoderkit import metrics
from encoderkit.metrics import confusion, outcomes, several_labels, single_label, tally


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels, predictions and the number of classes, some of which may not occur at all."""
    classes = draw(st.integers(1, 5))
    rows = draw(st.integers(1, 30))
    low, high = sorted(draw(st.tuples(st.integers(0, classes - 1), st.integers(0, classes - 1))))
    labels = draw(arrays(np.int64, rows, elements=st.integers(low, high)))
    return labels, draw(arrays(np.int64, rows, elements=st.integers(0, classes - 1))), classes


@given(labelled())
@settings(max_examples=60)
def test_single_label_is_scikit_learn(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, predicted, classes = case
    matrix = confusion(labels, predicted, classes)
    found = single_label(tally(matrix))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single class: scikit-learn talks about it
        assert (matrix == sklearn_metrics.confusion_matrix(labels, predicted, labels=range(classes))).all()
        macro = sklearn_metrics.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
        each = sklearn_metrics.precision_recall_fscore_support(labels, predicted, labels=range(classes), zero_division=0)
        expected = {
            "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
            "macro_precision": macro[0],
            "macro_recall": macro[1],
            "macro_f1": macro[2],
            "mcc": sklearn_metrics.matthews_corrcoef(labels, predicted),
        }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name
    parts = metrics.per_class(tally(matrix))
    for name, value in zip(("precision", "recall", "f1", "support"), each, strict=True):
        assert parts[name] == pytest.approx(value, abs=1e-12), name


@settings(max_examples=60)
@given(st.integers(1, 20).flatmap(lambda n: st.tuples(*[arrays(np.int64, (n, 3), elements=st.integers(0, 1))] * 2)))
def test_several_labels_are_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, predicted = case
    counts = outcomes(labels, predicted).sum(0)
    found = several_labels(counts)
    macro = sklearn_metrics.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    micro = sklearn_metrics.f1_score(labels, predicted, average="micro", zero_division=0)
    each = sklearn_metrics.precision_recall_fscore_support(labels, predicted, zero_division=0)
    names = ("macro_precision", "macro_recall", "macro_f1", "micro_f1")
    for name, value in zip(names, (*macro[:3], micro), strict=True):
        assert found[name] == pytest.approx(value, abs=1e-12), name
    for name, value in zip(("precision", "recall", "f1", "support"), each, strict=True):
        assert metrics.per_class(counts)[name] == pytest.approx(value, abs=1e-12), name


CANDIDATES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=9)


@settings(max_examples=60)
@given(CANDIDATES, st.randoms())
def test_ranking_with_ties_is_the_worst_of_the_orders(found: list[tuple[int, int, int]], random: Random) -> None:
    """Of scikit-learn's figures for every order that equal scores may be put in; and the order of the rows is of no account."""
    relevance, query, scores = np.array(found).T
    values = metrics.ranked(relevance, query, scores)
    asked = [q for q in np.unique(query) if relevance[query == q].any()]
    assert len(values["map"]) == len(asked)
    for i, number in enumerate(asked):
        own = query == number
        truth, equal = relevance[own], [np.flatnonzero(scores[own] == value) for value in np.unique(scores[own])[::-1]]
        worst = {"map": 1.0, "mrr": 1.0, "ndcg_at_10": 1.0}
        for groups in product(*(permutations(group) for group in equal)):
            ordered = truth[[place for group in groups for place in group]]
            falling = -np.arange(len(ordered), dtype=float)
            gains = sklearn_metrics.ndcg_score([ordered], [falling], k=10) if len(ordered) > 1 else 1.0
            each = sklearn_metrics.average_precision_score(ordered > 0, falling), 1 / (1 + np.flatnonzero(ordered)[0]), gains
            worst = {name: min(worst[name], value) for name, value in zip(worst, each, strict=True)}
        for name, value in worst.items():
            assert values[name][i] == pytest.approx(value), name
    random.shuffle(found)
    turned = metrics.ranked(*np.array(found).T)
    assert all(turned[name] == pytest.approx(values[name]) for name in values)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20), st.randoms())
def test_the_order_of_rows_is_of_no_account(found: list[tuple[int, int]], random: Random) -> None:
    one = np.array(found, float).T[:, :, None]
    random.shuffle(found)
    other = np.array(found, float).T[:, :, None]
    assert metrics.numbers(*one) == pytest.approx(metrics.numbers(*other), abs=1e-9)
    classes = [np.abs(values[..., 0]).astype(int) for values in (one, other)]
    first, second = (single_label(tally(confusion(*values, 4))) for values in classes)
    assert all(first[name] == second[name] for name in first)


def _drawn(rows: int, score: Callable[[np.ndarray], float], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = [score(rng.integers(rows, size=rows)) for _ in range(2000)]
    return np.quantile(values, (0.025, 0.975))


@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "mcc"])
def test_bootstrap_of_the_matrix_is_a_bootstrap_of_the_rows(name: str) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=150)
    predicted = np.where(rng.random(150) < 0.7, labels, rng.integers(3, size=150))

    def score(rows: np.ndarray) -> float:
        return float(single_label(tally(confusion(labels[rows], predicted[rows], 4)))[name])

    expected = _drawn(150, score, 2)
    assert metrics.bootstrap_single(confusion(labels, predicted, 4))[name] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("rows", [40, 400])  # nearly every row of its own kind, and few kinds
def test_bootstrap_of_several_labels(rows: int) -> None:
    rng = np.random.default_rng(3)
    labels = rng.random((rows, 4)) < 0.3
    predicted = labels ^ (rng.random((rows, 4)) < 0.1)
    found = metrics.bootstrap_several(labels, predicted)
    exact = _drawn(rows, lambda drawn: float((labels[drawn] == predicted[drawn]).all(1).mean()), 4)
    micro = _drawn(rows, lambda drawn: float(several_labels(outcomes(labels[drawn], predicted[drawn]).sum(0))["micro_f1"]), 5)
    assert found["accuracy"] == pytest.approx(exact, abs=0.02)
    assert found["micro_f1"] == pytest.approx(micro, abs=0.02)


def test_bootstrap_of_counts_is_a_bootstrap_of_the_rows() -> None:
    counts = np.random.default_rng(6).integers(0, 4, (120, 3, 3))

    def measure(total: np.ndarray) -> dict[str, np.ndarray]:
        return {"f1": metrics.per_class(total)["f1"].mean(-1)}

    expected = _drawn(120, lambda drawn: float(measure(counts[drawn].sum(0))["f1"]), 7)
    assert metrics.bootstrap_counts(counts, measure)["f1"] == pytest.approx(expected, abs=0.02)


@given(labelled())
@settings(max_examples=10)
def test_intervals_exist_and_repeat(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, predicted, classes = case
    found = metrics.bootstrap_single(confusion(labels, predicted, classes))
    assert found == metrics.bootstrap_single(confusion(labels, predicted, classes))
    assert all(np.isfinite(ends).all() and ends[0] <= ends[1] for ends in found.values())
    both = np.eye(classes, dtype=bool)
    several = metrics.bootstrap_several(both[labels], both[predicted])
    assert several["accuracy"] == pytest.approx(found["accuracy"], abs=0.15)


def test_bootstrap_is_quick() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(20, size=(2, 100_000))
    before = time.process_time()
    metrics.bootstrap_single(confusion(labels, predicted, 20))
    metrics.bootstrap_several(*(rng.random((2, 100_000, 5)) < 0.3))
    assert time.process_time() - before < 3
