"""Metrics from counts, so that neither the batch size nor the order of the data can change them. Numpy only.

Everything follows from the true positives, false positives and false negatives of each label, an array (..., L, 3);
its leading dimensions may be resamples, so that a bootstrap is one call.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

RESAMPLES = 1000
"""Of a bootstrap: the ends of an interval then move by about a twentieth of its width from seed to seed."""

_CELLS = 4_000_000  # counts that a bootstrap holds at once
_ALIKE = 1e-5  # scores of candidates: the last digits of one text's differ from batch to batch


def objects(values: Sequence[Any]) -> np.ndarray:
    """(N,) of anything, such as sets and tuples: metrics take one entry a row, and numpy would look into them."""
    found = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        found[i] = value
    return found


def guessed(observed: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean loss of targets, from the `nats` of each, and accuracy, from whether each is `right`."""
    loss, accuracy = (float(observed[name].mean(dtype=np.float64)) for name in ("nats", "right"))
    return {"loss": loss, "accuracy": accuracy}


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


def _resamples(counts: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """(K,) how often each kind of example occurs, to (R, K) how often it does in samples drawn with replacement.

    The counts are multinomial; where nearly every example is of its own kind, drawing the examples is quicker. In
    portions, since a sample takes K + `width` numbers.
    """
    rng, total, kinds = np.random.default_rng(0), int(counts.sum()), len(counts)
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


def bootstrap_single(matrix: np.ndarray) -> dict[str, tuple[float, float]]:
    """95 % intervals of the metrics of `single_label`, from an (L, L) confusion matrix that is not empty.

    Percentiles over resamples of the examples (Efron and Tibshirani 1993, section 13.3); exact from the matrix, since
    examples in the same cell are alike.
    """
    label, predicted = np.nonzero(matrix)
    classes, right = len(matrix), np.flatnonzero(label == predicted)
    portions = []
    for drawn in _resamples(matrix[label, predicted], 8 * classes):
        hit = np.zeros((len(drawn), classes), np.int64)
        hit[:, label[right]] = drawn[:, right]
        columns = _sums(drawn, predicted, classes)
        portions.append(single_label(np.stack([hit, columns - hit, _sums(drawn, label, classes) - hit], axis=-1)))
    return _intervals(portions)


def numbers(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """(N, L) and (N, L) to Pearson's and Spearman's correlation, mean squared and mean absolute error, over L averaged.

    A correlation with what never changes is not defined, and counts as 0.
    """
    return {name: float(value[0]) for name, value in _numbers(gold, predicted, np.ones((1, len(gold)))).items()}


def bootstrap_numbers(gold: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
    """95 % intervals of `numbers`, by resampling rows; N > 0."""
    drawn = _resamples(np.ones(len(gold), np.int64), 8 * len(gold))
    return _intervals([_numbers(gold, predicted, counts) for counts in drawn])


def _numbers(gold: np.ndarray, predicted: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """(N, L), (N, L) and (R, N), how often each row occurs in each of R samples, to metrics (R,)."""
    found: dict[str, list[np.ndarray]] = {"pearson": [], "spearman": [], "mse": [], "mae": []}
    for x, y in zip(gold.T.astype(np.float64), predicted.T.astype(np.float64), strict=True):
        found["pearson"].append(_correlation(x[None], y[None], counts))
        found["spearman"].append(_correlation(ranks(x, counts), ranks(y, counts), counts))
        found["mse"].append(counts @ np.square(x - y) / counts.sum(1))
        found["mae"].append(counts @ np.abs(x - y) / counts.sum(1))
    return {name: np.mean(values, axis=0) for name, values in found.items()}


class Candidates(NamedTuple):
    """The texts that are searched, and which of them are right."""

    where: np.ndarray
    """(C,) each once: its place among all texts but the anchors, (N * (K - 1),)."""
    relevant: list[np.ndarray]
    """For each of the N anchors the numbers, of C, of the right ones."""
    itself: np.ndarray
    """(N,) the number, of C, of the anchor's own text, or -1; it is not searched unless it is right."""


def candidates(keys: np.ndarray) -> Candidates:
    """(N, K) numbers of texts (anchor, positive, others) to what is searched; the positives of equal anchors are right."""
    distinct, where, number = np.unique(keys[:, 1:], return_index=True, return_inverse=True)
    number = number.reshape(len(keys), -1)
    _, anchor = np.unique(keys[:, 0], return_inverse=True)
    pairs = np.unique(np.stack([anchor, number[:, 0]], axis=1), axis=0)
    split = np.split(pairs[:, 1], np.flatnonzero(np.diff(pairs[:, 0])) + 1)
    at = np.searchsorted(distinct, keys[:, 0]).clip(max=len(distinct) - 1)
    return Candidates(where, [split[i] for i in anchor], np.where(distinct[at] == keys[:, 0], at, -1))


def searched(similar: Callable[[slice], np.ndarray], found: Candidates) -> np.ndarray:
    """For each anchor the ranks, from 1 in order, of its right candidates: (N,) arrays.

    Of equally similar ones, to `_ALIKE`, wrong ones stand before right ones. `similar` gives for some of the anchors the
    similarity with each candidate, (n, C).
    """
    count, portion = len(found.relevant), max(1, _CELLS // len(found.where))
    result = np.empty(count, dtype=object)
    for start in range(0, count, portion):
        for i, scores in enumerate(similar(slice(start, start + portion)), start=start):
            right = found.relevant[i]
            wrong = np.ones(len(scores), bool)
            wrong[right] = False
            wrong[found.itself[i]] &= found.itself[i] < 0
            others = np.sort(-scores[wrong])
            result[i] = np.searchsorted(others, np.sort(-scores[right]) + _ALIKE, "right") + np.arange(1, len(right) + 1)
    return result


def retrieved(relevant: np.ndarray, places: np.ndarray) -> dict[str, np.ndarray]:
    """(N,) how many are right for a query, and (N,) arrays of their ranks, to metrics of each query, (N,)."""
    gain = 1 / np.log2(np.arange(2, 12))
    ideal = gain.cumsum()[np.minimum(relevant, 10) - 1]
    return {
        "mrr": np.array([1 / ranks.min() for ranks in places]),
        "ndcg_at_10": np.array([gain[ranks[ranks <= 10] - 1].sum() for ranks in places]) / ideal,
        **{f"recall_at_{k}": np.array([(ranks <= k).sum() for ranks in places]) / relevant for k in (1, 10)},
    }


def ranked(relevance: np.ndarray, query: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    """(N,) each, of candidates: average precision, reciprocal rank and nDCG of the queries that have a relevant one, (Q,).

    Of candidates with equal scores, less relevant ones stand before more relevant ones. Scores no more than `_ALIKE` from the
    next are equal. Gains are the relevance itself.
    """
    gain = 1 / np.log2(np.arange(2, 12))
    found: dict[str, list[float]] = {"map": [], "mrr": [], "ndcg_at_10": []}
    order = np.argsort(query, kind="stable")
    for own in np.split(order, np.flatnonzero(np.diff(query[order])) + 1):
        best_first = own[np.argsort(-scores[own], kind="stable")]
        place = np.cumsum(-np.diff(scores[best_first], prepend=scores[best_first[:1]]) > _ALIKE)
        ordered = relevance[best_first][np.lexsort((relevance[best_first], place))]
        places = np.flatnonzero(ordered > 0) + 1
        if len(places):
            best = np.sort(ordered)[::-1][:10]
            found["map"].append(float((np.arange(1, len(places) + 1) / places).mean()))
            found["mrr"].append(1 / places[0])
            found["ndcg_at_10"].append(float((ordered[:10] @ gain[: len(best)]) / (best @ gain[: len(best)])))
    return {name: np.array(values) for name, values in found.items()}


def bootstrap_means(values: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """95 % intervals of the mean of each of several (N,) values, by resampling rows; N > 0."""
    table = np.stack([*values.values()], axis=1).astype(np.float64)
    drawn = _resamples(np.ones(len(table), np.int64), len(values))
    return _intervals([dict(zip(values, (counts @ table / len(table)).T, strict=True)) for counts in drawn])


def bootstrap_counts(
    counts: np.ndarray, measure: Callable[[np.ndarray], dict[str, np.ndarray]]
) -> dict[str, tuple[float, float]]:
    """95 % intervals of what `measure` makes of counts (..., L, 3), from those of each row, (N, L, 3), by resampling rows."""
    flat = counts.reshape(len(counts), -1).astype(np.float64)
    drawn = _resamples(np.ones(len(flat), np.int64), flat.shape[1])
    return _intervals([measure((rows @ flat).reshape(len(rows), *counts.shape[1:])) for rows in drawn])


def ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(N,) and (R, N), how often each occurs in each of R samples, to (R, N) ranks from 1; equal values share their mean."""
    _, group = np.unique(values, return_inverse=True)
    many = _sums(counts, group, int(group.max()) + 1)
    return (many.cumsum(1) - (many - 1) / 2)[:, group]


def _correlation(x: np.ndarray, y: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(1 or R, N) twice and (R, N) counts to (R,)."""
    total = counts.sum(1, keepdims=True)
    # What is left of the variance of equal values is rounding, some digits beyond the sixteenth of the values themselves.
    least = [1e-28 * total[:, 0] * np.square(v).max(1) for v in (x, y)]
    x, y = (v - (counts * v).sum(1, keepdims=True) / total for v in (x, y))
    own, other, both = ((counts * product).sum(1) for product in (x * x, y * y, x * y))
    spread = np.where((own > least[0]) & (other > least[1]), np.sqrt(own * other), 0)
    return np.clip(_ratio(both, spread), -1, 1)


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


def bootstrap_shares(counts: np.ndarray) -> Shares:
    """Intervals of the share that is right in each of K groups, from (K, 2): how many are right, and of how many.

    Examples are drawn within their groups, which for rights and wrongs is a binomial.
    """
    if not len(counts):
        return Shares([], (0.0, 0.0), (0.0, 0.0))
    right, size = counts.T
    drawn = np.random.default_rng(0).binomial(size, right / size, (RESAMPLES, len(size)))  # (R, K)
    found = {str(i): drawn[:, i] / n for i, n in enumerate(size)}
    ends = _intervals([found | {"all": drawn.sum(1) / size.sum(), "mean": (drawn / size).mean(1)}])
    return Shares([ends[str(i)] for i in range(len(size))], ends["all"], ends["mean"])


def bootstrap_several(labels: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
    """95 % intervals of accuracy (all labels of an example right) and of `several_labels`, from (N, L) and (N, L), N > 0."""
    both = np.concatenate([labels, predicted], axis=1).astype(bool)
    kinds, counts = np.unique(both, axis=0, return_counts=True)  # examples with equal labels and predictions are alike
    truth, guess = np.split(kinds, 2, axis=1)
    exact = np.float32 if len(labels) < 2**24 else np.float64
    facts = outcomes(truth, guess).reshape(len(kinds), -1).astype(exact)
    right, portions = (truth == guess).all(1), []
    for drawn in _resamples(counts, facts.shape[1]):
        sums = (drawn.astype(exact) @ facts).astype(np.float64).reshape(len(drawn), -1, 3)
        portions.append({"accuracy": drawn[:, right].sum(1) / len(labels), **several_labels(sums)})
    return _intervals(portions)


class Answered(NamedTuple):
    """What a suite of questions found of a model, and how the model answered each."""

    figures: dict[str, Any]
    gold: np.ndarray
    """(N, ...) numbers that the suite's score measures answers by; they belong to the questions alone."""
    given: np.ndarray
    """(N,) numbers; nan where the model had no answer."""


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
) -> dict[str, Difference]:
    """Each metric of `score` for the predictions `first` less that for `second`, (N, ...) both, against the same `gold`.

    Rows are drawn anew with replacement, the same for both (paired bootstrap; Koehn 2004; Berg-Kirkpatrick et al. 2012).
    p is twice the share of draws in which the other one is at least as good.
    """
    rng, count = np.random.default_rng(0), len(gold)
    one, other = score(gold, first), score(gold, second)
    drawn: dict[str, list[float]] = {name: [] for name in one}
    for _ in range(RESAMPLES):
        chosen = rng.integers(count, size=count)
        a, b = score(gold[chosen], first[chosen]), score(gold[chosen], second[chosen])
        for name, values in drawn.items():
            values.append(a[name] - b[name])
    return {name: difference(one[name] - other[name], values) for name, values in drawn.items()}


def difference(value: float, drawn: Sequence[float] | np.ndarray) -> Difference:
    """A difference and what it was on rows drawn anew, to its interval and p."""
    low, high = np.quantile(drawn, (0.025, 0.975))
    tail = min(np.mean(np.array(drawn) <= 0), np.mean(np.array(drawn) >= 0))
    return Difference(value, float(low), float(high), float(min(1.0, max(2 * tail, 1 / len(drawn)))))
