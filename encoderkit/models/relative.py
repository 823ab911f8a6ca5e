"""Relative positions as in Transformer-XL (Dai et al. 2019, section 3.3): what a token sees depends on how far away it is.

A score is (q + u)'k + (q + v)'W r, where r is the sinusoid of the distance from the key to the query, and u and v are learned.
The second part is one product of the queries with all distances, each row of which is then shifted to its own place
(appendix B), so that it costs no more than the first. Documents packed into a row are unaffected: inside a document the
distance in the row is the distance in the document, and what is outside is masked.
"""

import torch
from torch import Tensor, nn

from encoderkit.models.attention import Attention, Context, attend, split
from encoderkit.models.config import TransformerConfig
from encoderkit.models.dropout import SharedDropout, between
from encoderkit.models.layers import INIT_STD


def sinusoids(keys: int, queries: int, dim: int, like: Tensor) -> Tensor:
    """(keys + queries, D): the vectors of the distances keys, keys - 1, ..., 1 - queries, sines first, then cosines.

    The queries are the last of the keys, so that a query sees distances from keys - 1 (the first key, seen from the last
    query) to 1 - queries. On the device of `like`.
    """
    rates = 10000.0 ** -(torch.arange(0, dim, 2, device=like.device, dtype=torch.float32) / dim)  # (D/2,)
    angles = steps(keys, queries, like)[:, None] * rates
    return torch.cat((angles.sin(), angles.cos()), dim=-1)


def steps(keys: int, queries: int, like: Tensor) -> Tensor:
    """(keys + queries,) int64: the distances of `sinusoids`."""
    return torch.arange(keys, -queries, -1, device=like.device)


def shifted(scores: Tensor, keys: int) -> Tensor:
    """(B, H, Q, keys + Q) by distance, as in `sinusoids` -> (B, H, Q, keys) by key: row i begins Q - i places later.

    A view: laid end to end, rows that are one shorter begin one later each.
    """
    b, h, queries, width = scores.shape
    return scores.flatten(2)[:, :, queries:].view(b, h, queries, width - 1)[..., :keys]


def picked(scores: Tensor, places: Tensor, keys: int) -> Tensor:
    """The same for queries at any `places` (B, P) of a row of T tokens, the last keys: (B, H, P, keys + T) -> (B, H, P, keys)."""
    first = scores.shape[-1] - keys - places  # T - i: where the row of the query at place i begins
    index = first[:, None, :, None] + torch.arange(keys, device=places.device)
    return scores.gather(-1, index.expand(-1, scores.shape[1], -1, -1))


def by_head(bias: Tensor, query: Tensor) -> Tensor:
    """(D,) as it is added to queries (B, H, Q, K): (H, 1, K)."""
    return bias.to(query.dtype).view(query.shape[1], 1, -1)


class RelativePositions(nn.Module):
    """The two parts of a layer's scores that relative positions add to q'k, for heads of width K."""

    def __init__(self, dim: int, heads: int, width: int, scale: float) -> None:
        """`width`: of a head; `scale`: what scores are multiplied by."""
        super().__init__()
        self.project = nn.Linear(dim, heads * width, bias=False)
        self.heads, self.scale = heads, scale
        self.content_bias = nn.Parameter(torch.empty(heads * width).normal_(std=INIT_STD))
        self.position_bias = nn.Parameter(torch.empty(heads * width).normal_(std=INIT_STD))

    def forward(self, query: Tensor, table: Tensor, keys: int, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, H, Q, K) queries and the `table` of `sinusoids` -> queries for the product with the keys, and what is added.

        What is added is (B, H, Q, keys), scaled as the products will be. `places` (B, Q): where the queries stand in the
        row, if they are not all its tokens in order.
        """
        distances = self.project(table).view(len(table), self.heads, -1).permute(1, 2, 0)  # (H, K, keys + T)
        scores = torch.matmul(query + by_head(self.position_bias, query), distances) * self.scale
        added = shifted(scores, keys) if places is None else picked(scores, places, keys)
        return query + by_head(self.content_bias, query), added


class Distances(nn.Module):
    """The sinusoids of a row's distances, made once for all layers: (B, T) positions -> ((longest + T, D),).

    To as many keys as there may be, since a text that is read token by token has more of them than queries.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dim, self.longest, self.dropout = config.dim, config.max_length, SharedDropout(config.dropout)

    def forward(self, positions: Tensor) -> tuple[Tensor]:
        """(B, T) positions to the vectors of all distances, for the attention of each block."""
        length = positions.shape[1]  # of a packed row, which may be longer than any of its documents
        keys = max(self.longest, length)
        return (self.dropout(sinusoids(keys, length, self.dim, positions), steps(keys, length, positions)),)


class RelativeAttention(Attention):
    """The attention of an ordinary Transformer with relative positions: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.relative = RelativePositions(config.dim, config.heads, config.head_width, self.scale)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """The rotation is from `Distances`."""
        bias, rotation, memory, seeds = context
        assert rotation is not None
        query, key, value = self.qkv(x).chunk(3, dim=-1)  # (B, T, D) each
        query, key, value = (split(y, self.heads) for y in (self.query_norm(query), self.key_norm(key), value))
        if memory is not None:
            key, value = memory.add(key, value)
        keys, (table,) = key.shape[2], rotation
        query, added = self.relative(query, table[len(table) - keys - x.shape[1] :], keys)
        mixed = attend(query, key, value, bias + added, self.dropout if self.training else 0.0, self.scale, between(seeds))
        return self.out(mixed.transpose(1, 2).flatten(2))
