"""Cross-entropy over a vocabulary for many places, without their logits ever being in memory together.

At 8,192 places and 16,384 pieces the logits are half a gigabyte, and as much again for each of the steps to their gradient.
Here a portion of the places goes through the last product, its loss and its gradients at once, so that nothing is
computed twice (after Hsu et al. 2024, "Liger Kernel", section 3.2, FusedLinearCrossEntropy).
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PORTION = 1024
"""Places at once."""


class _SummedNats(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, bias: Tensor | None, labels: Tensor, ignore: int, smoothing: float
    ) -> Tensor:
        on = hidden.device.type
        dtype = torch.get_autocast_dtype(on) if torch.is_autocast_enabled(on) else hidden.dtype
        learning = any(ctx.needs_input_grad[:3])
        matrix, total = table.to(dtype), torch.zeros((), device=hidden.device)
        to_hidden, to_table, to_bias = (None if x is None or not learning else torch.zeros_like(x) for x in (hidden, table, bias))
        for start in range(0, len(hidden), PORTION):
            part, goal = hidden[start : start + PORTION].to(dtype), labels[start : start + PORTION]
            real, places = goal != ignore, torch.arange(len(goal), device=goal.device)
            logits = (part @ matrix.T).float()  # (n, V)
            if bias is not None:
                logits += bias
            right = logits[places, goal.clamp(min=0)]
            norm = logits.logsumexp(-1)
            goal_logit = right if not smoothing else (1 - smoothing) * right + smoothing * logits.mean(-1)
            total += ((norm - goal_logit) * real).sum()
            if to_hidden is not None and to_table is not None:
                slope = torch.exp(logits - norm[:, None])  # softmax
                if smoothing:
                    slope -= smoothing / slope.shape[-1]
                slope[places, goal.clamp(min=0)] -= 1 - smoothing
                slope *= real[:, None]
                if to_bias is not None:
                    to_bias += slope.sum(0)
                slope = slope.to(dtype)
                to_hidden[start : start + PORTION] = slope @ matrix
                to_table += slope.T @ part
        ctx.save_for_backward(to_hidden, to_table, to_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if part is None else part * slopes[0] for part in ctx.saved_tensors), None, None, None)


def summed_nats(
    hidden: Tensor, table: Tensor, bias: Tensor | None, labels: Tensor, ignore: int, smoothing: float = 0.0
) -> Tensor:
    """The summed cross-entropy of `labels` (N,) under the logits `hidden @ table.T + bias`, (N, E), (V, E) and (V,).

    Labels that are `ignore` count nothing; a share `smoothing` of each is spread over all V (Szegedy et al. 2016). Logits are
    float32 whatever the products are in.
    """
    return _SummedNats.apply(hidden, table, bias, labels, ignore, smoothing)  # pyright: ignore[reportReturnType]


@torch.no_grad()
def judged(hidden: Tensor, table: Tensor, bias: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For (N,) labels, none ignored: the nats that each costs, and whether it is the likeliest, (N,) float32 and (N,) bool."""
    nats, right = [], []
    for part, goal in zip(hidden.split(PORTION), labels.split(PORTION), strict=True):
        logits = F.linear(part, table, bias).float()
        nats.append(F.cross_entropy(logits, goal, reduction="none"))
        right.append(logits.argmax(-1) == goal)
    return torch.cat(nats), torch.cat(right)
