"""From one vector a token to one vector a text."""

from typing import Literal

import torch
from torch import Tensor

from encoderkit.models.inputs import Inputs

Pooling = Literal["cls", "mean", "max", "last"]


def apart(hidden: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """(B, T, D) with any number of texts a row to (N, L, D) with one a row, and (N, L) bool: the real ones."""
    if inputs.texts is None:
        return hidden, inputs.mask
    real = inputs.texts >= 0
    places = inputs.texts.clamp(min=0).flatten()
    return hidden.flatten(0, 1).index_select(0, places).view(*real.shape, -1), real


def token_seeds(inputs: Inputs) -> Tensor | None:
    """(N, L) what dropout goes by, where `apart` gives vectors."""
    return None if inputs.seeds is None else apart(inputs.seeds[:, :, None], inputs)[0][:, :, 0]


def text_seeds(inputs: Inputs) -> Tensor | None:
    """(N,) what dropout of the vector of each text goes by: the seed of its first token."""
    found = token_seeds(inputs)
    return None if found is None else found[:, 0]


def matched(vectors: Tensor) -> Tensor:
    """(2 N, D) of two texts each, one after the other, to (N, 4 D): both, their difference and their product.

    Mou et al. 2016, equation 9; Conneau et al. 2017, section 3.1.
    """
    one, other = vectors.unflatten(0, (-1, 2)).unbind(1)
    return torch.cat([one, other, (one - other).abs(), one * other], 1)


def pool(kind: Pooling, hidden: Tensor, mask: Tensor) -> Tensor:
    """(B, T, D) and (B, T) bool -> (B, D): the first token, the mean or maximum over the real ones, or the last of them.

    One text a row; real tokens first, as `apart` gives them, but for the mean, the maximum and the last.
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
            last = (torch.arange(mask.shape[1], device=mask.device) * mask).argmax(1)  # (B,)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
