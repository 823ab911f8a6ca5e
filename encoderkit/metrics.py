"""Metrics from counts, so that neither the batch size nor the order of the data can change them. Numpy only.

Everything follows from the true positives, false positives and false negatives of each label, an array (..., L, 3);
its leading dimensions may be resamples, so that a bootstrap is one call.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

RESAMPLES = 1000
"""Of a bootstrap: the ends of an interval then move by about a twentieth of its width from seed to seed."""

_CELLS = 4_000_000  # counts that a bootstrap holds at once


def confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """(N,) and (N,) class numbers to (L, L) counts: row = label, column = prediction."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def tally(matrix: np.ndarray) -> np.ndarray:
    """(..., L, L) confusion matrices to (..., L, 3) true positives, false positives and false negatives."""
    hit = np.diagonal(matrix, axis1=-2, axis2=-1)
    return np.stack([hit, matrix.sum(-2) - hit, matrix.sum(-1) - hit], axis=-1)


def outcomes(labels: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(N, L) and (N, L) of 0 and 1 to (N, L, 3) bool: true positive, false positive, false negative."""
    labels, predicted = labels.astype(bool), predicted.astype(bool)
    return np.stack([labels & predicted, ~labels & predicted, labels & ~predicted], axis=-1)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, and 0 where there is nothing (scikit-learn's zero_division=0)."""
    return np.divide(part, whole, out=np.zeros(np.broadcast_shapes(part.shape, whole.shape)), where=whole != 0)


def per_class(counts: np.ndarray) -> dict[str, np.ndarray]:
    """(..., L, 3) to precision, recall, F1 and support of each label, (..., L)."""
    hit, wrong, missed = (counts[..., i] for i in range(3))
    return {
        "precision": _ratio(hit, hit + wrong),
        "recall": _ratio(hit, hit + missed),
        "f1": _ratio(2 * hit, 2 * hit + wrong + missed),
        "support": hit + missed,
    }


def single_label(counts: np.ndarray) -> dict[str, np.ndarray]:
    """(..., L, 3) of exclusive labels to accuracy, macro averages and Matthews' correlation, (...).

    Macro averages are over the classes that occur, as a label or as a prediction (scikit-learn's default). Matthews'
    coefficient is Gorodkin's (2004) for several classes, and 0 where it is not defined.
    """
    hit, wrong, missed = (counts[..., i].astype(np.float64) for i in range(3))
    labelled, predicted, right = hit + missed, hit + wrong, hit.sum(-1)
    total, occurs, parts = labelled.sum(-1), labelled + predicted > 0, per_class(counts)
    covariance = right * total - (labelled * predicted).sum(-1)
    spread = (total**2 - (labelled**2).sum(-1)) * (total**2 - (predicted**2).sum(-1))
    return {
        "accuracy": _ratio(right, total),
        **{f"macro_{name}": _ratio((parts[name] * occurs).sum(-1), occurs.sum(-1)) for name in ("precision", "recall", "f1")},
        "mcc": _ratio(covariance, np.sqrt(spread)),
    }


def several_labels(counts: np.ndarray) -> dict[str, np.ndarray]:
    """(..., L, 3) of labels that are decided one by one to macro averages over all of them and micro F1, (...)."""
    parts, total = per_class(counts), counts.sum(-2)
    return {
        **{f"macro_{name}": parts[name].mean(-1) for name in ("precision", "recall", "f1")},
        "micro_f1": _ratio(2 * total[..., 0], 2 * total[..., 0] + total[..., 1] + total[..., 2]),
    }


def _resamples(counts: np.ndarray, width: int, seed: int) -> Iterator[np.ndarray]:
    """(K,) how often each kind of example occurs, to (R, K) how often it does in samples drawn with replacement.

    The counts are multinomial; where nearly every example is of its own kind, drawing the examples is quicker. In
    portions, since a sample takes K + `width` numbers.
    """
    rng, total, kinds = np.random.default_rng(seed), int(counts.sum()), len(counts)
    portion, members = max(1, _CELLS // (kinds + width)), np.repeat(np.arange(kinds), counts)
    for start in range(0, RESAMPLES, portion):
        size = min(portion, RESAMPLES - start)
        if 8 * kinds < total:
            yield rng.multinomial(total, counts / total, size=size)
        else:
            yield np.stack([np.bincount(members[rng.integers(total, size=total)], minlength=kinds) for _ in range(size)])


def _intervals(portions: list[dict[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    drawn = {name: np.concatenate([portion[name] for portion in portions]) for name in portions[0]}
    ends = {name: np.quantile(values, (0.025, 0.975)) for name, values in drawn.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def bootstrap_single(matrix: np.ndarray, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals of the metrics of `single_label`, from an (L, L) confusion matrix that is not empty.

    Percentiles over resamples of the examples (Efron and Tibshirani 1993, section 13.3); exact from the matrix, since
    examples in the same cell are alike.
    """
    label, predicted = np.nonzero(matrix)
    classes, right = len(matrix), np.flatnonzero(label == predicted)
    portions = []
    for drawn in _resamples(matrix[label, predicted], 8 * classes, seed):
        hit = np.zeros((len(drawn), classes), np.int64)
        hit[:, label[right]] = drawn[:, right]
        columns = _sums(drawn, predicted, classes)
        portions.append(single_label(np.stack([hit, columns - hit, _sums(drawn, label, classes) - hit], axis=-1)))
    return _intervals(portions)


def _sums(drawn: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """(R, K) summed over the places of each group, (R, groups)."""
    order = np.argsort(group, kind="stable")
    found, first = np.unique(group[order], return_index=True)
    sums = np.zeros((len(drawn), groups), np.int64)
    sums[:, found] = np.add.reduceat(drawn[:, order], first, axis=1)
    return sums


class Shares(NamedTuple):
    """95 % intervals of shares in several groups."""

    each: list[tuple[float, float]]
    all: tuple[float, float]
    """Of the share in all examples, groups forgotten."""
    mean: tuple[float, float]
    """Of the mean of the groups' shares."""


def bootstrap_shares(counts: np.ndarray, seed: int = 0) -> Shares:
    """Intervals of the share that is right in each of K groups, from (K, 2): how many are right, and of how many.

    Examples are drawn within their groups, which for rights and wrongs is a binomial.
    """
    if not len(counts):
        return Shares([], (0.0, 0.0), (0.0, 0.0))
    right, size = counts.T
    drawn = np.random.default_rng(seed).binomial(size, right / size, (RESAMPLES, len(size)))  # (R, K)
    found = {str(i): drawn[:, i] / n for i, n in enumerate(size)}
    ends = _intervals([found | {"all": drawn.sum(1) / size.sum(), "mean": (drawn / size).mean(1)}])
    return Shares([ends[str(i)] for i in range(len(size))], ends["all"], ends["mean"])


def bootstrap_several(labels: np.ndarray, predicted: np.ndarray, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % intervals of accuracy (all labels of an example right) and of `several_labels`, from (N, L) and (N, L), N > 0."""
    both = np.concatenate([labels, predicted], axis=1).astype(bool)
    kinds, counts = np.unique(both, axis=0, return_counts=True)  # examples with equal labels and predictions are alike
    truth, guess = np.split(kinds, 2, axis=1)
    exact = np.float32 if len(labels) < 2**24 else np.float64
    facts = outcomes(truth, guess).reshape(len(kinds), -1).astype(exact)
    right, portions = (truth == guess).all(1), []
    for drawn in _resamples(counts, facts.shape[1], seed):
        sums = (drawn.astype(exact) @ facts).astype(np.float64).reshape(len(drawn), -1, 3)
        portions.append({"accuracy": drawn[:, right].sum(1) / len(labels), **several_labels(sums)})
    return _intervals(portions)


class Difference(NamedTuple):
    """How much better the first of two is on the same rows."""

    value: float
    low: float
    high: float
    """95 % interval."""
    p: float
    """Two-sided: how often chance alone would show so much."""


def paired_differences(
    score: Callable[[np.ndarray, np.ndarray], dict[str, float]],
    gold: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    groups: np.ndarray | None = None,
    rounds: int = 1000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Each metric of `score` for the predictions `first` less that for `second`, (N, ...) both, against the same `gold`.

    Rows are drawn anew with replacement, the same for both (paired bootstrap; Koehn 2004; Berg-Kirkpatrick et al. 2012);
    with `groups` (N,) whole groups are. p is twice the share of draws in which the other one is at least as good.
    """
    rng, count = np.random.default_rng(seed), len(gold)
    members = [np.array([i]) for i in range(count)]
    if groups is not None:
        order = np.argsort(groups, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
    one, other = score(gold, first), score(gold, second)
    drawn: dict[str, list[float]] = {name: [] for name in one}
    for _ in range(rounds):
        chosen = np.concatenate([members[i] for i in rng.integers(len(members), size=len(members))])
        a, b = score(gold[chosen], first[chosen]), score(gold[chosen], second[chosen])
        for name, values in drawn.items():
            values.append(a[name] - b[name])
    found = {}
    for name, values in drawn.items():
        low, high = np.quantile(values, (0.025, 0.975))
        tail = min(np.mean(np.array(values) <= 0), np.mean(np.array(values) >= 0))
        found[name] = Difference(one[name] - other[name], float(low), float(high), float(min(1.0, max(2 * tail, 1 / rounds))))
    return found
