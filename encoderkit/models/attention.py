"""Attention within documents: one function, one module, rotary positions, and who may see whom.

A row may hold several documents; `visible` keeps them apart. Padding has document number 0, so padding sees padding and
no real token ever sees it; no row of the softmax is empty, so there is no NaN to guard against.
"""

import math
import time
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoderkit.errors import out_of_memory
from encoderkit.models.config import TransformerConfig
from encoderkit.models.dropout import Between, between, drop_between
from encoderkit.models.families import Direction


def visible(documents: Tensor, window: int | None = None, direction: Direction = "both") -> Tensor:
    """(B, T) document numbers -> (B, 1, T, T) float: 0 where a query may see a key, -inf where not.

    With a `window`, also only keys at most `window // 2` places away, as ModernBERT's local layers (Warner et al. 2024,
    section 2.1.2) and Longformer's (Beltagy et al. 2020). From left to right, no key that stands behind the query.
    """
    same = documents[:, :, None] == documents[:, None, :]  # (B, T, T)
    place = torch.arange(documents.shape[1], device=documents.device)
    ahead = place[None, :] - place[:, None]  # (T, T): how far the key stands behind the query
    if window is not None:
        same = same & (ahead.abs() <= window // 2)
    if direction == "left_to_right":
        same = same & (ahead <= 0)
    return barred(same)


def barred(seen: Tensor) -> Tensor:
    """(B, Q, S) bool -> (B, 1, Q, S) float: 0 where a query may see a key, -inf where not."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -math.inf)[:, None]


def in_type(bias: Tensor) -> Tensor:
    """`bias` in the type that a GPU computes attention in: else each layer would make one, and keep it for its backward pass."""
    computed = bias.is_cuda and torch.is_autocast_enabled("cuda")
    return bias.to(torch.get_autocast_dtype("cuda")) if computed else bias


Kernel = Literal["fused", "products"]
"""How attention is computed: by torch's `scaled_dot_product_attention`, or as two batched products with a softmax between."""

_trained_by: Kernel = "fused"


def train_by(kernel: Kernel) -> None:
    """Compute passes that gradients are wanted of so from now on; all others are by the fused one."""
    global _trained_by
    _trained_by = kernel


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    dropout: float = 0.0,
    scale: float | None = None,
    seeds: Between | None = None,
) -> Tensor:
    """softmax(Q K' / sqrt(K) + bias) V: (B, H, T, K) three times and (B, 1, T, T) -> (B, H, T, K). Vaswani et al. 2017, eq. 1.

    `scale` instead of 1 / sqrt(K) if given; the bias may also be one for each head, (B, H, T, T). Weights are dropped by `seeds`.

    Which kernel is faster with gradients depends on the machine, the arithmetic and the shape, so runs choose it (`fastest`).
    Without them the fused one always was: on a CPU one and a quarter to four times as fast. On a CPU torch has none with
    dropout, nor for a bias that has a gradient itself.
    """
    learns = torch.is_grad_enabled()
    lacking = not query.is_cuda and (dropout > 0 or (learns and bias.requires_grad))
    # With dropout it is the same one for passes without gradients: what is dropped is to be dropped again (`Coupled`).
    if not lacking and (_trained_by == "fused" or not (learns or dropout)):
        return F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype), dropout_p=dropout, scale=scale)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = torch.matmul(query, key.transpose(-1, -2)) * factor + bias  # (B, H, T, T), fp32
    weights = torch.softmax(scores, dim=-1).to(value.dtype)
    if dropout:
        weights = drop_between(weights, dropout, seeds)
    return torch.matmul(weights, value)


TOKENS = {"cpu": 2_048, "cuda": 65_536}
"""That attention is measured with: enough that calls cost little beside what they compute."""
TRIALS, GAIN = 5, 0.9
"""The best of so many passes counts; what is to be chosen over the usual kernel must take less than this share of its time."""


def fastest(usual: Kernel, rows: int, length: int, heads: int, width: int, dtype: torch.dtype, device: str) -> Kernel:
    """The kernel that is fastest, forward and back, for (B, T) `rows` of `length`: measured now, with one document a row."""
    rows = max(1, min(rows, TOKENS[device] // length))
    inputs = [torch.zeros(rows, heads, length, width, dtype=dtype, device=device, requires_grad=True) for _ in range(3)]
    bias = in_type(visible(torch.ones(rows, length, dtype=torch.long, device=device)))
    before, times = _trained_by, {}
    try:
        for kernel in get_args(Kernel):
            train_by(kernel)
            try:
                times[kernel] = min(_seconds(inputs, bias) for _ in range(TRIALS))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                times[kernel] = math.inf
    finally:
        train_by(before)
    other: Kernel = "products" if usual == "fused" else "fused"
    return other if times[other] < GAIN * times[usual] else usual


def _seconds(inputs: list[Tensor], bias: Tensor) -> float:
    query, key, value = inputs
    started = time.perf_counter()
    attend(query, key, value, bias).sum().backward()
    if query.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def scale_of(config: TransformerConfig) -> float:
    """What scores are multiplied by before the softmax."""
    return config.head_width**-0.5 if config.attention_scale == "width" else 1.0


def split(x: Tensor, heads: int) -> Tensor:
    """(B, T, H * K) -> (B, H, T, K)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


class Rotary(nn.Module):
    """Cosines and sines of rotary positions. Su et al. 2021, "RoFormer", section 3.2.2.

    Pairs are (i, i + K/2), as in GPT-NeoX and every checkpoint that transformers reads.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, length: int, base: float) -> None:
        super().__init__()
        frequencies = base ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)  # (K/2,)
        angles = torch.arange(length, dtype=torch.float32)[:, None] * frequencies  # (length, K/2)
        angles = torch.cat((angles, angles), dim=-1)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) -> cosines and sines, (B, 1, T, K) each."""
        return self.cos[positions][:, None], self.sin[positions][:, None]


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(B, H, T, K) turned by its positions; computed in the precision of the tables, given back in that of `x`."""
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class Memory:
    """The keys and values of the tokens that a layer has read, so that the next token is computed alone."""

    def __init__(self) -> None:
        self.held: tuple[Tensor, Tensor] | None = None

    def add(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, t, K) keys and values of new tokens; those of all tokens so far, the new ones last."""
        if self.held is not None:
            key, value = torch.cat((self.held[0], key), dim=2), torch.cat((self.held[1], value), dim=2)
        self.held = key, value
        return key, value


def distances(queries: int, keys: int, device: torch.device) -> Tensor:
    """(Q, K) how far each key is to the right of each query, where the last of both stand at one place.

    Within a document that is the distance in the row, wherever the document stands in it.
    """
    place = torch.arange(keys, device=device)
    return place[None, :] - place[keys - queries :, None]


class T5Bias(nn.Module):
    """A learned number for each head and each kind of distance. Raffel et al. 2020, section 2.1; Shaw et al. 2018.

    Half of the buckets hold one distance each, the rest groups that grow as its logarithm up to `bucket_distance`. In an
    encoder, left and right have half of the buckets each.
    """

    def __init__(self, config: TransformerConfig, causal: bool = False) -> None:
        super().__init__()
        self.causal, self.buckets, self.distance = causal, config.buckets, config.bucket_distance
        self.table = nn.Embedding(config.buckets, config.heads)

    def forward(self, queries: int, keys: int) -> Tensor:
        """(1, H, Q, K), of the last `queries` of `keys` places."""
        return self.table(self.bucket(distances(queries, keys, self.table.weight.device))).permute(2, 0, 1)[None]

    def bucket(self, distance: Tensor) -> Tensor:
        """The bucket of each distance, as in the reference implementation to the last bit."""
        count = self.buckets if self.causal else self.buckets // 2
        side = torch.zeros_like(distance) if self.causal else (distance > 0).long() * count
        away = (-distance).clamp(min=0) if self.causal else distance.abs()
        exact = count // 2
        grown = torch.log(away.float() / exact) / math.log(self.distance / exact) * (count - exact)
        far = (exact + grown.clamp(min=0).long()).clamp(max=count - 1)  # below `exact` the logarithm is not used
        return side + torch.where(away < exact, away, far)


class AlibiBias(nn.Module):
    """Scores that fall with the distance, at another rate for each head. Press et al. 2022, section 3.

    The rates are a geometric sequence from 2^(-8/H) to 2^-8; the same on both sides, as the authors do in encoders.
    """

    slopes: Tensor

    def __init__(self, config: TransformerConfig, causal: bool = False) -> None:
        super().__init__()
        slopes = torch.exp2(-8.0 * torch.arange(1, config.heads + 1) / config.heads)
        self.register_buffer("slopes", slopes, persistent=False)

    def forward(self, queries: int, keys: int) -> Tensor:
        """(1, H, Q, K), of the last `queries` of `keys` places."""
        return -self.slopes[None, :, None, None] * distances(queries, keys, self.slopes.device).abs()


BIASES = {"t5_bias": T5Bias, "alibi": AlibiBias}
"""Positions that are added to the scores of attention: made once a forward pass, for all layers."""


class Context(NamedTuple):
    """What layers of one kind (global or local) share in a forward pass."""

    bias: Tensor
    """(B, 1, T, T) from `visible`, or (B, H, T, T) with positions from `BIASES`; a column for each token of a memory as well."""
    rotation: tuple[Tensor, ...] | None
    """From `Rotary` or `relative.Distances`; None where positions are elsewhere."""
    memory: Memory | None = None
    """Of the layer that is given this, where a text is read on token by token."""
    seeds: Tensor | None = None
    """(B, T): what this layer's dropout goes by."""


class Attention(nn.Module):
    """Multi-head self-attention: (B, T, D) -> (B, T, D). Vaswani et al. 2017, section 3.2.

    `qkv` holds the three input matrices, queries first, so that they are one product.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.attention_dropout
        self.scale = scale_of(config)
        width, norms = config.heads * config.head_width, config.query_key_norm
        self.qkv = nn.Linear(config.dim, 3 * width, bias=config.bias)
        self.out = nn.Linear(width, config.dim, bias=config.bias)
        self.query_norm = nn.LayerNorm(width, config.norm_eps, bias=False) if norms else nn.Identity()
        self.key_norm = nn.LayerNorm(width, config.norm_eps, bias=False) if norms else nn.Identity()

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """With a memory, `x` goes on from what was read before."""
        bias, rotation, memory, seeds = context
        query, key, value = self.qkv(x).chunk(3, dim=-1)  # (B, T, H * K) each
        query, key, value = (split(y, self.heads) for y in (self.query_norm(query), self.key_norm(key), value))
        if rotation is not None:
            query, key = rotate(query, *rotation), rotate(key, *rotation)
        if memory is not None:
            key, value = memory.add(key, value)
        mixed = attend(query, key, value, bias, self.dropout if self.training else 0.0, self.scale, between(seeds))
        return self.out(mixed.transpose(1, 2).flatten(2))
