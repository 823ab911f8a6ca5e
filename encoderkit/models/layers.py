"""The small parts that blocks are made of: activations, the two kinds of MLP, norms, initial weights."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoderkit.models.config import TransformerConfig
from encoderkit.models.families import Activation

INIT_STD = 0.02


def relu_squared(x: Tensor) -> Tensor:
    """max(0, x)^2, elementwise. So et al. 2021, "Primer", section 3."""
    return F.relu(x).square()


ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
    "relu_squared": relu_squared,
    "silu": F.silu,
    "tanh": torch.tanh,
}


class PlainMlp(nn.Module):
    """Two matrices with an activation between: (B, T, D) -> (B, T, D)."""

    def __init__(self, dim: int, inner: int, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.up = nn.Linear(dim, inner, bias=bias)
        self.down = nn.Linear(inner, dim, bias=bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        return self.down(self.activation(self.up(x)))


class GatedMlp(nn.Module):
    """An MLP whose inner vector is multiplied by a gate: (B, T, D) -> (B, T, D). Shazeer 2020, "GLU variants", eq. 6.

    `up` holds both matrices, the activated one first, so that they are one product.
    """

    def __init__(self, dim: int, inner: int, activation: Activation, bias: bool) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * inner, bias=bias)
        self.down = nn.Linear(inner, dim, bias=bias)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        inner, gate = self.up(x).chunk(2, dim=-1)  # (B, T, inner) each
        return self.down(self.activation(inner) * gate)


def build_norm(config: TransformerConfig, width: int | None = None) -> nn.Module:
    """The norm of a block: (..., D) -> (..., D); of another `width` that of the embeddings."""
    if config.norm == "rms":
        return nn.RMSNorm(width or config.dim, eps=config.norm_eps)
    return nn.LayerNorm(width or config.dim, eps=config.norm_eps, bias=config.bias)


MLPS = {"plain": PlainMlp, "gated": GatedMlp}


def initialise(module: nn.Module) -> None:
    """Matrices and embeddings from N(0, 0.02), biases and padding rows zero. Devlin et al. 2019; norms keep torch's ones."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=INIT_STD)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            with torch.no_grad():
                part.weight[part.padding_idx].zero_()


def initialise_by_inputs(module: nn.Module, config: TransformerConfig) -> None:
    """Matrices from N(0, 1 / inputs), word embeddings from N(0, 1), biases zero. Mesh TensorFlow's T5 (Raffel et al. 2020).

    Where scores are not divided by the square root of a head's width, queries start smaller by it instead.
    """
    initialise(module)
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, std=part.in_features**-0.5)
        if isinstance(part, nn.Embedding):
            part.weight.data.div_(INIT_STD)  # the row of padding stays zero
    smaller = 1.0 if config.attention_scale == "width" else config.head_width**-0.5
    for name, parameter in module.named_parameters():
        if name.endswith("qkv.weight"):
            parameter.data[: config.heads * config.head_width].mul_(smaller)
        elif name.endswith("query.weight"):
            parameter.data.mul_(smaller)
        elif name.endswith("distance_bias.table.weight"):
            parameter.data.mul_(config.dim**-0.5)
