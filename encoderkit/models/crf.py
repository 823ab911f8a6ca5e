"""Chains of labels: a linear-chain CRF (Lafferty et al. 2001; Lample et al. 2016, section 2.2), and the best legal chain.

N chains of up to S labels are computed together; the only loop is over the S places. Everything is in float32: sums of
hundreds of scores have no room in bfloat16.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from encoderkit.models.decoding import NEVER

TOGETHER, PLACES = 256, 1 << 17
"""Chains that are computed at once, at most, and places in them with the padding: a long one does not widen all others."""
_HELD = 1 << 26
"""Numbers that are kept for the way back through chains that are computed at once."""


class Scores(NamedTuple):
    """What a chain scores besides its labels; `NEVER` where it must not go."""

    start: Tensor
    """(L,) for beginning with a label."""
    between: Tensor
    """(L, L) for the label of the column after that of the row."""
    end: Tensor
    """(L,) for ending with a label."""

    @property
    def nothing(self) -> bool:
        """Whether all chains are scored by their labels alone, so that each place is on its own."""
        return not any(bool(scores.any()) for scores in self)


def forbidding(start: np.ndarray, between: np.ndarray, end: np.ndarray) -> Scores:
    """Which steps are legal, bool in the shapes of `Scores`, to scores: 0, or `NEVER`."""
    return Scores(*(torch.where(torch.from_numpy(legal), 0.0, NEVER) for legal in (start, between, end)))


class Transitions(nn.Module):
    """The learned scores of a CRF, on top of those that forbid."""

    def __init__(self, forbidden: Scores) -> None:
        super().__init__()
        for name, scores in forbidden._asdict().items():
            self.register_parameter(name, nn.Parameter(torch.zeros_like(scores)))
            self.register_buffer(f"no_{name}", scores, persistent=False)

    def forward(self) -> Scores:
        """What each step costs, -inf where the scheme forbids it."""
        return Scores(*(getattr(self, name) + getattr(self, f"no_{name}") for name in Scores._fields))


def nats(emissions: Tensor, labels: Tensor, mask: Tensor, edges: Tensor, scores: Scores) -> Tensor:
    """The negative log-likelihood of each chain: log Z less the score of its labels. (N,)

    `emissions` (N, S, L); `labels` (N, S), whatever where `mask` (N, S) is False, which is so after the end of a chain;
    `edges` (N, 2) bool: whether a chain begins and ends where its text does. One that is cut out of a longer chain may begin
    and end with any label.
    """
    if not emissions.shape[1]:
        return emissions.float().sum((1, 2))  # nothing, of which there is a gradient
    emissions, first, last = emissions.float(), edges[:, :1] * scores.start, edges[:, 1:] * scores.end
    labels = labels.clamp(min=0)
    own = (emissions.gather(2, labels[:, :, None])[:, :, 0] * mask).sum(1)
    own = own + (scores.between[labels[:, :-1], labels[:, 1:]] * mask[:, 1:]).sum(1)
    final = labels.gather(1, (mask.sum(1, keepdim=True) - 1).clamp(min=0))
    own = own + first.gather(1, labels[:, :1])[:, 0] + last.gather(1, final)[:, 0]
    reached = first + emissions[:, 0]  # (N, L) log of the sum over all chains that end here
    for place in range(1, emissions.shape[1]):
        following = (reached[:, :, None] + scores.between).logsumexp(1) + emissions[:, place]
        reached = torch.where(mask[:, place, None], following, reached)
    return ((reached + last).logsumexp(1) - own) * mask[:, 0]


def marginals(emissions: Tensor, mask: Tensor, edges: Tensor, scores: Scores) -> Tensor:
    """The probability of each label at each place, over all chains, for the arguments of `nats`: (N, S, L), 0 in the padding.

    It is the gradient of log Z at the emissions, that of the sum which forward and backward passes would compute.
    """
    if not emissions.shape[1]:
        return emissions
    if scores.nothing:
        return emissions.float().softmax(-1) * mask[:, :, None]
    many = max(1, _HELD // (emissions.shape[1] * emissions.shape[2] ** 2))  # each place holds all pairs of labels for later
    found = torch.empty_like(emissions, dtype=torch.float32)
    for part in (slice(start, start + many) for start in range(0, len(emissions), many)):
        zeros = torch.zeros_like(mask[part], dtype=torch.int64)
        with torch.enable_grad():
            own = emissions[part].detach().float().requires_grad_()
            [found[part]] = torch.autograd.grad(nats(own, zeros, mask[part], edges[part], scores).sum(), own)
    found[:, :, 0] += mask  # the score of the chain of zeros was taken off
    return found


def viterbi(emissions: Tensor, mask: Tensor, scores: Scores) -> Tensor:
    """The best chain of labels for (N, S, L) `emissions`: (N, S), 0 where `mask` (N, S) is False (Viterbi 1967)."""
    if scores.nothing:
        return emissions.argmax(-1) * mask
    count, size, _ = emissions.shape
    best, before = scores.start + emissions[:, 0], []
    for place in range(1, size):
        value, label = (best[:, :, None] + scores.between).max(1)
        best = torch.where(mask[:, place, None], value + emissions[:, place], best)
        before.append(label)
    path = emissions.new_zeros(count, size, dtype=torch.int64)
    now = (best + scores.end).argmax(1)
    for place in range(size - 1, -1, -1):
        path[:, place] = now
        if place:
            now = torch.where(mask[:, place], before[place - 1].gather(1, now[:, None])[:, 0], now)
    return path * mask


def together(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where to cut chains of ascending `sizes` into those that are computed at once; one that is long alone."""
    start = 0
    for end in range(1, len(sizes) + 1):
        if end == len(sizes) or end - start == TOGETHER or (end + 1 - start) * sizes[end] > PLACES:
            yield start, end
            start = end
