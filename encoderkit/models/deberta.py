"""DeBERTa (versions 2 and 3): attention whose scores are sums of content and position, kept apart. He et al. 2021.

"DeBERTa: Decoding-enhanced BERT with Disentangled Attention" (ICLR 2021), section 3.1, with the log-bucketed distances and
the shared projections and, if wanted, the convolution of version 2. The enhanced mask decoder (absolute positions before the
softmax) is not here, as it is not in transformers' class either.

The score of a query at place i and a key at place j is q_i k_j + q_i r_(i-j) + s_(i-j) k_j, where r and s are projections
of one table of distances. What is looked up depends on i - j alone, so the products are made with the 2T - 1 distances of
a row and shifted into place, which is a view: nothing is gathered. Documents of a packed row are contiguous, so distances
in the row are distances in the document.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoderkit.models.attention import attend, split, visible
from encoderkit.models.config import DebertaConfig
from encoderkit.models.dropout import Dropout, SharedDropout, between, fold
from encoderkit.models.families import Distance
from encoderkit.models.inputs import Inputs
from encoderkit.models.layers import ACTIVATIONS, PlainMlp, initialise

BLOCK = 128
"""Rows whose products with distances are made at once."""


def buckets(length: int, size: int, farthest: int, logarithmic: bool) -> Tensor:
    """(2 * length - 1,) the row of the table, of 2 * size rows, for each distance i - j from 1 - length to length - 1.

    Section 3.1, equation 3; or logarithmic, as in version 2: distances up to size / 2 have rows of their own, those up to
    `farthest` share the others, more of them to a row the farther they are.
    """
    distance = torch.arange(1 - length, length)
    row = distance
    if logarithmic:
        middle = size // 2
        # To the last bit as the authors and transformers compute it, since it is rounded up.
        share = torch.log(distance.abs().clamp(min=1) / middle) / torch.log(torch.tensor((farthest - 1) / middle))
        far = (torch.ceil(share * (middle - 1)) + middle).long() * distance.sign()
        row = torch.where(distance.abs() <= middle, distance, far)
    return (row + size).clamp(0, 2 * size - 1)


def shift(scores: Tensor) -> Tensor:
    """(..., R, T + R - 1) -> (..., R, T): its element (i, j) is that of row i at j - i + R - 1; a view."""
    rows, width = scores.shape[-2:]
    if rows == 1:
        return scores
    laid = scores.flatten(-2)[..., rows - 1 : rows - 1 + rows * (width - 1)]
    return laid.unflatten(-1, (rows, width - 1))[..., : width - rows + 1]


def products(x: Tensor, distances: Tensor) -> Tensor:
    """(B, H, T, T): x_i d_(j - i), of (B, H, T, K) and (H, 2T - 1, K), from 1 - T to T - 1.

    Row by row only T of the 2T - 1 products are wanted; a block of rows leaves out most of the others.
    """
    length, parts = x.shape[-2], []
    for first in range(0, length, BLOCK):
        last = min(first + BLOCK, length)
        wanted = distances[:, length - last : 2 * length - 1 - first].transpose(-1, -2)
        parts.append(shift(torch.matmul(x[:, :, first:last], wanted)))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)


def content_to_position(query: Tensor, key: Tensor, position: Tensor) -> Tensor:
    """(B, H, T, T) q_i r_(i-j), of (B, H, T, K) queries and (H, 2T - 1, K) keys of distances."""
    return products(query, position.flip(-2))


def position_to_content(query: Tensor, key: Tensor, position: Tensor) -> Tensor:
    """(B, H, T, T) s_(i-j) k_j, of (B, H, T, K) keys and (H, 2T - 1, K) queries of distances."""
    return products(key, position).transpose(-1, -2)


TERMS: dict[Distance, tuple[Callable[[Tensor, Tensor, Tensor], Tensor], int]] = {
    "content_to_position": (content_to_position, 1),
    "position_to_content": (position_to_content, 0),
}
"""Each with what distances are projected to: 0 queries, 1 keys."""


class DisentangledAttention(nn.Module):
    """Self-attention with terms of position beside that of content: (B, T, D) -> (B, T, D).

    Distances are projected by the matrices of `qkv` (version 2's `share_att_key`) or by those of `relative`.
    """

    def __init__(self, config: DebertaConfig, number: int = 0) -> None:
        """`number`: of its layer."""
        super().__init__()
        self.number, self.heads, self.dropout = number, config.heads, config.attention_dropout
        self.qkv = nn.Linear(config.dim, 3 * config.dim)
        self.out = nn.Linear(config.dim, config.dim)
        self.table_dropout = SharedDropout(config.dropout)
        self.terms = [TERMS[name] for name in config.terms]
        own = [] if config.share_projections else config.terms
        self.relative = nn.ModuleList(nn.Linear(config.dim, config.dim) for _ in own)
        width = config.dim // config.heads
        self.scale = ((1 + len(config.terms)) * width) ** -0.5  # of all terms: the more, the larger their sum

    def forward(self, x: Tensor, bias: Tensor, table: Tensor, rows: Tensor, seeds: Tensor | None) -> Tensor:
        """`bias` is from `visible`; `table` (2S, D) of distances, of which `rows` (2T - 1,) names the one for each."""
        query, key, value = (split(y, self.heads) for y in self.qkv(x).chunk(3, dim=-1))  # (B, H, T, K) each
        distances = self.table_dropout(table, torch.arange(len(table), device=table.device), self.number)[rows]
        for (term, _), position in zip(self.terms, self._positions(distances), strict=True):
            bias = bias + term(query, key, position * self.scale)
        # `attend` divides by the root of K.
        query = query * (self.scale * query.shape[-1] ** 0.5)
        mixed = attend(query, key, value, bias, self.dropout if self.training else 0.0, seeds=between(seeds))
        return self.out(mixed.transpose(1, 2).reshape(x.shape))

    def _positions(self, distances: Tensor) -> list[Tensor]:
        """(2T - 1, D) distances projected for each term: (H, 2T - 1, K)."""
        weights, biases = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        projected = [part(distances) for part in self.relative] or [
            F.linear(distances, weights[part], biases[part]) for _, part in self.terms
        ]
        return [y.view(len(distances), self.heads, -1).transpose(0, 1) for y in projected]


class DebertaBlock(nn.Module):
    """BERT's block around disentangled attention: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: DebertaConfig, number: int) -> None:
        super().__init__()
        self.attention = DisentangledAttention(config, number)
        self.attention_norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.mlp = PlainMlp(config.dim, config.inner, config.activation, bias=True)
        self.mlp_norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, table: Tensor, rows: Tensor, seeds: Tensor | None) -> Tensor:
        """(B, T, D) -> (B, T, D); all else is the attention's."""
        x = self.attention_norm(x + self.dropout(self.attention(x, bias, table, rows, seeds), seeds, 1))
        return self.mlp_norm(x + self.dropout(self.mlp(x), seeds, 2))


class Convolution(nn.Module):
    """What neighbours in the text are, from the embeddings (version 2, `ConvLayer` in the authors' code): (B, T, D) -> (B, T, D).

    It is added to the output of the first layer, and normed. Tokens of other documents of a row count as none.
    """

    def __init__(self, config: DebertaConfig) -> None:
        super().__init__()
        assert config.convolution is not None
        self.conv = nn.Conv1d(config.dim, config.dim, config.convolution, groups=config.convolution_groups)
        self.activation = ACTIVATIONS[config.convolution_activation]
        self.norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, embedded: Tensor, x: Tensor, documents: Tensor, seeds: Tensor | None) -> Tensor:
        """`embedded`, and `x` behind the first layer."""
        reach = self.conv.kernel_size[0] // 2
        wide, numbers = F.pad(embedded, (0, 0, reach, reach)), F.pad(documents, (reach, reach), value=-1)
        length, total = x.shape[1], self.conv.get_parameter("bias")[None, :, None]  # (1, D, 1)
        for step in range(2 * reach + 1):  # each token by its place before or behind
            near = wide[:, step : step + length] * (numbers[:, step : step + length] == documents)[:, :, None]
            total = total + F.conv1d(near.mT, self.conv.weight[:, :, step : step + 1], groups=self.conv.groups)
        return self.norm(x + self.activation(self.dropout(total.mT, seeds, 3)).to(x.dtype))


class Deberta(nn.Module):
    """An encoder that reads packed rows: each document sees itself alone. (B, T) -> (B, T, D)."""

    packs = True
    rows: Tensor
    """(2 * max_length - 1,) from `buckets`."""

    def __init__(self, config: DebertaConfig, vocab_size: int, pad_id: int | None) -> None:
        super().__init__()
        self.dim, self.max_length, width = config.dim, config.max_length, config.embedding_dim or config.dim
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=pad_id)
        self.positions = nn.Embedding(config.max_length, width) if config.position == "learned" else None
        self.segments = nn.Embedding(config.segments, width) if config.segments else None
        widens = config.embedding_dim is not None
        self.projection = nn.Linear(width, config.dim, bias=False) if widens else nn.Identity()
        self.embedding_norm = nn.LayerNorm(config.dim, config.norm_eps)
        self.embedding_dropout = Dropout(config.dropout)
        self.distances = nn.Embedding(2 * config.distance_rows, config.dim)
        self.distance_norm = nn.LayerNorm(config.dim, config.norm_eps) if config.distance_norm else nn.Identity()
        self.convolution = Convolution(config) if config.convolution else None
        self.layers = nn.ModuleList(DebertaBlock(config, i) for i in range(config.layers))
        self._farthest = config.max_length - 1
        rows = buckets(config.max_length, config.distance_rows, config.max_length, config.buckets is not None)
        self.register_buffer("rows", rows, persistent=False)
        initialise(self)

    def forward(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens to their vectors, (B, T, D)."""
        x = self._embed(inputs)
        x = self.embedding_norm(self.projection(x).to(x.dtype))  # as in Transformer
        x = self.embedding_dropout(x, inputs.seeds)
        bias, table = visible(inputs.documents), self.distance_norm(self.distances.weight)
        # A packed row may be longer than any document; what is as far away as that is in another one.
        length = inputs.ids.shape[1]
        distances = torch.arange(1 - length, length, device=inputs.ids.device).clamp(-self._farthest, self._farthest)
        rows = self.rows[distances + self._farthest]
        embedded = x
        for i, layer in enumerate(self.layers):
            seeds = None if inputs.seeds is None else fold(inputs.seeds, 1 + i)
            x = layer(x, bias, table, rows, seeds)
            if i == 0 and self.convolution is not None:
                x = self.convolution(embedded, x, inputs.documents, seeds)
        return x

    def _embed(self, inputs: Inputs) -> Tensor:
        x = self.tokens(inputs.ids)
        if self.positions is not None:
            x = x + self.positions(inputs.positions)
        if self.segments is not None:
            x = x + (self.segments.weight[0] if inputs.segments is None else self.segments(inputs.segments))
        return x  # (B, T, E)
