"""Losses beyond cross-entropy, of whatever is a distribution over labels: weighted, focal, a teacher's, and of two passes.

The tasks that have one of them share it from here.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from encoderkit.errors import DataError, listed, shown
from encoderkit.models.inputs import Inputs

Chances = Callable[[Tensor], Tensor]
"""(..., L) logits to probabilities: `one_of` or `each_of` several."""


def one_of(logits: Tensor) -> Tensor:
    """(..., L) logits of labels of which one is right to their probabilities."""
    return logits.softmax(-1)


def each_of(logits: Tensor) -> Tensor:
    """(..., L) logits of labels each of which may be right to their probabilities."""
    return logits.sigmoid()


def class_weights(
    given: Literal["balanced"] | dict[str, float], labels: Sequence[str], counts: np.ndarray, rows: int | None = None
) -> Tensor:
    """(L,) the weight of each label in the loss, float32: what is given, or 1; balanced: N / (L n), as scikit-learn has it.

    `counts` (L,) is how often each stands in the training data; of several labels a row also in how many `rows`: balanced is
    then (N - n) / n, by which having a label weighs as much as not having it. What never stands there weighs 1 and is none of
    the L. Raises `DataError` for a label that there is not.
    """
    if given == "balanced" and rows is not None:
        shares = np.where(counts > 0, (rows - counts) / np.maximum(counts, 1), 1.0)
        return torch.tensor(np.maximum(shares, 1e-3), dtype=torch.float32)
    if given == "balanced":
        found = np.where(counts > 0, counts.sum() / (max(1, np.count_nonzero(counts)) * np.maximum(counts, 1)), 1.0)
        return torch.tensor(found, dtype=torch.float32)
    if unknown := set(given) - set(labels):
        message = f"task.class_weights names {shown(min(unknown))}, which is not one of the labels: {listed(labels)}"
        raise DataError(message, fix="correct it in the recipe")
    return torch.tensor([given.get(label, 1.0) for label in labels])


def labelled(logits: Tensor, labels: Tensor, weights: Tensor, smoothing: float, power: float) -> Tensor:
    """(N, L) logits to the cross-entropy of (N,) labels, smoothed or focal, each times the weight of its label, of (L,).

    Not as torch has it, which weighs what smoothing gives to the other labels by *their* weights: a rare one then becomes the
    likeliest of frequent ones' rows (of 990 and 10 rows, with 0.1, its probability is best at 0.84).
    """
    nats = cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    return weights[labels] * (focal(nats, power) if power else nats)


def focal(nats: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of each nats = -log p. Lin et al. 2017, equation 4."""
    return (-torch.expm1(-nats)).clamp(min=1e-6) ** gamma * nats


def weights_of(term: str, rdrop: float) -> dict[str, float]:
    """The terms of a task's loss and their weights: `term` alone or, with R-Drop, equation 4 of Liang et al. (2021) halved."""
    return {term: 1.0, **({"rdrop": rdrop / 2} if rdrop else {})}


def in_passes(
    weights: dict[str, float],
    inputs: Inputs,
    run: Callable[[Inputs], Tensor],
    nats: Callable[[Tensor], Tensor],
    distance: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Tensor]:
    """The terms that `weights_of` names, summed: the `nats` of what a pass (`run`) over the inputs gives.

    With R-Drop their mean over two passes, which dropout makes differ, and the `distance` between what these give.
    """
    term, *others = weights
    found = [run(inputs.again(i)) for i in range(len(weights))]  # as many passes as terms
    terms = {term: torch.stack([nats(one).sum() for one in found]).mean()}
    return {**terms, "rdrop": distance(*found).sum()} if others else terms


def disagreement(first: Tensor, second: Tensor, chances: Chances = one_of) -> Tensor:
    """(..., L) logits of two passes to (...): half the sum of both Kullback-Leibler divergences, in nats.

    R-Drop (Liang et al. 2021), equation 2. The sum is that of (p - q) (log p - log q), in which what turns logits into
    logarithms cancels out; for labels that are decided each on its own, it is summed over them.
    """
    return ((chances(first) - chances(second)) * (first - second)).sum(-1) / 2


def soften(p: Tensor, temperature: float, chances: Chances) -> Tensor:
    """(..., L) probabilities as they would be had their logits been divided by `temperature`. Hinton et al. 2015, section 2."""
    logits = p.log() if chances is one_of else p.logit()
    return chances(logits / temperature)


def against(logits: Tensor, goal: Tensor, temperature: float, chances: Chances) -> Tensor:
    """The cross-entropy of softened logits (..., L) and a teacher's softened probabilities, times the temperature squared.

    (...) where one label is right, (..., L) where each may be.
    """
    softer = logits / temperature
    if chances is one_of:
        return -(goal * softer.log_softmax(-1)).sum(-1) * temperature**2
    return -(goal * logsigmoid(softer) + (1 - goal) * logsigmoid(-softer)) * temperature**2
