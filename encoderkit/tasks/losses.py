"""Losses beyond cross-entropy, of whatever is a distribution over labels: focal, a teacher's, and that of two passes."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

Chances = Callable[[Tensor], Tensor]
"""(..., L) logits to probabilities: `one_of` or `each_of` several."""


def one_of(logits: Tensor) -> Tensor:
    """(..., L) logits of labels of which one is right to their probabilities."""
    return logits.softmax(-1)


def each_of(logits: Tensor) -> Tensor:
    """(..., L) logits of labels each of which may be right to their probabilities."""
    return logits.sigmoid()


def focal(nats: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of each nats = -log p. Lin et al. 2017, equation 4."""
    return (-torch.expm1(-nats)).clamp(min=1e-6) ** gamma * nats


def disagreement(first: Tensor, second: Tensor, chances: Chances) -> Tensor:
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
