"""From one vector a token to one vector a text."""

from typing import Literal

import torch
from torch import Tensor

Pooling = Literal["cls", "mean", "max", "last"]


def pool(kind: Pooling, hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) and (B, T) bool -> (B, D): the first token, the mean or maximum over the real ones, or the last of them.

    One document a row, real tokens first.
    """
    match kind:
        case "cls":
            return hidden[:, 0]
        case "mean":
            kept = hidden * mask[:, :, None].to(hidden.dtype)
            return kept.sum(1) / mask.sum(1, keepdim=True).clamp(min=1).to(hidden.dtype)
        case "max":
            return hidden.masked_fill(~mask[:, :, None], float("-inf")).amax(1)
        case "last":
            last = mask.sum(1).clamp(min=1) - 1  # (B,)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
