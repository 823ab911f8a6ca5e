"""XLNet (Yang et al. 2019): a Transformer that learns from permuted orders of a text and afterwards reads it as a whole.

The content stream is an ordinary encoder with relative positions, and all that fine-tuning and `embed` need: (B, T) -> (B, T, D).
For pretraining (section 2.2) each token has a rank in an order. Its content vector sees the tokens that come no later than
itself; a second vector, the query, knows where a token stands but not which it is, sees the tokens that come earlier, and
guesses it. Both streams have the same weights and the same keys and values, which are those of the content stream.

A row may bring the tokens before it as memory (section 2.4): each layer also attends to the vectors that they have there,
computed without gradients. Segments (section 2.5) enter as whether key and query are in the same one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoderkit.models.attention import attend, barred, split
from encoderkit.models.config import XlnetConfig
from encoderkit.models.dropout import Between, Dropout, SharedDropout, along, between, fold
from encoderkit.models.inputs import Inputs
from encoderkit.models.layers import ACTIVATIONS, INIT_STD, initialise
from encoderkit.models.relative import RelativePositions, by_head, sinusoids, steps


class View(NamedTuple):
    """What the queries of a stream see; the same in all layers."""

    bias: Tensor
    """(B, 1, Q, S): 0 where a query may see a key, -inf where not."""
    table: Tensor
    """(S + T, D): the sinusoids of all distances."""
    different: Tensor | None
    """(B, Q, S) bool: whether query and key are in different segments; None where there is one segment."""
    places: Tensor | None = None
    """(B, Q): where the queries stand; None: they are the T tokens of the row."""
    seeds: Between | None = None
    """What dropout goes by: of the queries, and of the keys."""

    def of_layer(self, number: int) -> "View":
        """With the seeds of the layer of this number."""
        return self if self.seeds is None else self._replace(seeds=(fold(self.seeds[0], number), self.seeds[1]))


class Order(NamedTuple):
    """The order in which the tokens of rows are guessed, and which of them."""

    ranks: Tensor
    """(B, T): what has a lower rank comes earlier. Tokens of rank 0 are known from the start and are not guessed."""
    places: Tensor
    """(B, P): the tokens to guess; a place of rank 0 is a slot that is not used, and its vector says nothing.

    Of each document, at least one token must come before each of these."""


class Memory(NamedTuple):
    """What stands before rows: M tokens each, at the right end if there are fewer."""

    layers: Sequence[Tensor]
    """(B, M, D): what each layer reads."""
    documents: Tensor
    """(B, M): the document of the row that each belongs to; 0 for none."""


class XlnetAttention(nn.Module):
    """Attention of one or more streams to the keys and values of the content stream, and of a memory before it."""

    def __init__(self, config: XlnetConfig) -> None:
        super().__init__()
        self.heads, self.dropout = config.heads, config.dropout
        self.query, self.key, self.value, self.out = (nn.Linear(config.dim, config.dim, bias=False) for _ in range(4))
        width = config.dim // config.heads
        self.relative = RelativePositions(config.dim, config.heads, width, width**-0.5)
        self.segment_bias = nn.Parameter(torch.empty(config.dim).normal_(std=INIT_STD))
        self.segments = nn.Parameter(torch.empty(2, config.heads, width).normal_(std=INIT_STD))  # the same, another one

    def keys(self, read: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S, D) -> keys and values, (B, H, S, K) each."""
        return split(self.key(read), self.heads), split(self.value(read), self.heads)

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], view: View) -> Tensor:
        """(B, Q, D) -> (B, Q, D)."""
        key, value = keys
        query = split(self.query(x), self.heads)
        asked, added = self.relative(query, view.table, key.shape[2], view.places)
        if view.different is not None:
            added = added + self._by_segment(query, view.different)
        mixed = attend(asked, key, value, view.bias + added, self.dropout if self.training else 0.0, seeds=view.seeds)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))

    def _by_segment(self, query: Tensor, different: Tensor) -> Tensor:
        asked = query + by_head(self.segment_bias, query)
        scores = torch.matmul(asked, self.segments.permute(1, 2, 0).to(query.dtype)) * query.shape[-1] ** -0.5  # (B, H, Q, 2)
        return torch.where(different[:, None], scores[..., 1:], scores[..., :1])  # (B, H, Q, S)


class XlnetMlp(nn.Module):
    """Two matrices, with dropout between them as well: (B, Q, D) -> (B, Q, D)."""

    def __init__(self, config: XlnetConfig) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(config.dim, config.inner), nn.Linear(config.inner, config.dim)
        self.activation, self.dropout = ACTIVATIONS[config.activation], Dropout(config.dropout)

    def forward(self, x: Tensor, seeds: Tensor | None) -> Tensor:
        """(B, Q, D) -> (B, Q, D); `seeds` (B,): what dropout goes by."""
        return self.down(self.dropout(self.activation(self.up(x)), seeds, 1))


class XlnetBlock(nn.Module):
    """Attention and an MLP with a norm after each, for one stream or two: (B, Q, D) each -> (B, Q, D) each."""

    def __init__(self, config: XlnetConfig) -> None:
        super().__init__()
        self.attention = XlnetAttention(config)
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = XlnetMlp(config)
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, content: Tensor, streams: Sequence[Tensor], views: Sequence[View], memory: Tensor | None = None
    ) -> list[Tensor]:
        """What each of `streams` becomes, which may be the content, too; `memory` (B, M, D) stands before the content."""
        keys = self.attention.keys(content if memory is None else torch.cat((memory.to(content.dtype), content), 1))
        return [self._step(x, keys, view) for x, view in zip(streams, views, strict=True)]

    def _step(self, x: Tensor, keys: tuple[Tensor, Tensor], view: View) -> Tensor:
        seeds = None if view.seeds is None else view.seeds[0]
        x = self.attention_norm(x + self.dropout(self.attention(x, keys, view), seeds, 2))
        return self.mlp_norm(x + self.dropout(self.mlp(x, seeds), seeds, 3))


LAST, QUERIES, MEMORY = 1 << 20, 1 << 21, 1 << 22
"""Uses of a text's seeds beside those of layers."""


def seeds_before(seeds: Tensor, count: int) -> Tensor:
    """(B, T) seeds to (B, count) of the tokens that stand before the rows as memory."""
    return along(fold(seeds[:, 0], MEMORY), count)


def _seeds(seeds: Tensor | None, places: Tensor, memory: int) -> tuple[Between | None, Between | None]:
    """Of the content and of the queries at `places`, and both times of the keys, so many of which are the memory's."""
    if seeds is None:
        return None, None
    keys = torch.cat((seeds_before(seeds, memory), seeds), 1)
    return between(seeds, keys), between(fold(seeds.gather(1, places), QUERIES), keys)


class Xlnet(nn.Module):
    """The encoder. As one it reads packed rows, each document by itself; there is no limit to their length."""

    packs = True
    max_length = None

    def __init__(self, config: XlnetConfig, vocab_size: int, pad_id: int | None) -> None:
        super().__init__()
        self.dim = config.dim
        self.tokens = nn.Embedding(vocab_size, config.dim, padding_idx=pad_id)
        self.unknown = nn.Parameter(torch.empty(1, 1, config.dim).normal_(std=INIT_STD))
        """What each query is at first: it knows nothing of its token."""
        self.layers = nn.ModuleList(XlnetBlock(config) for _ in range(config.layers))
        self.dropout, self.table_dropout = Dropout(config.dropout), SharedDropout(config.dropout)
        initialise(self)

    def forward(self, inputs: Inputs) -> Tensor:
        """The content stream where each token sees its whole document: (B, T) -> (B, T, D)."""
        content, view = self.dropout(self.tokens(inputs.ids), inputs.seeds), self._view(inputs)
        for i, layer in enumerate(self.layers, start=1):
            (content,) = layer(content, [content], [view.of_layer(i)])
        return self.dropout(content, inputs.seeds, LAST)

    def queries(self, inputs: Inputs, order: Order, memory: Memory | None = None) -> Tensor:
        """(B, P, D): for each place of `order` what can be said of the token from those that come before it in the order."""
        before = [None] * len(self.layers) if memory is None else memory.layers
        views = self._ordered_views(inputs, order, memory)
        there = None if views[1].seeds is None else views[1].seeds[0]
        content = self.dropout(self.tokens(inputs.ids), inputs.seeds)
        query = self.dropout(self.unknown.to(content.dtype).expand(*order.places.shape, -1), there)
        *layers, last = enumerate(zip(self.layers, before, strict=True), start=1)
        for i, (layer, own) in layers:
            content, query = layer(content, [content, query], [view.of_layer(i) for view in views], own)
        i, (layer, own) = last  # nobody reads what it makes of the content
        (query,) = layer(content, [query], [views[1].of_layer(i)], own)
        return self.dropout(query, there, LAST)

    @torch.no_grad()
    def remember(self, inputs: Inputs) -> Memory:
        """What the layers read in the tokens that stand before rows, each seeing its whole document."""
        content, view = self.dropout(self.tokens(inputs.ids), inputs.seeds), self._view(inputs)
        read = [content]
        for i, layer in enumerate(list(self.layers)[:-1], start=1):
            (content,) = layer(content, [content], [view.of_layer(i)])
            read.append(content)
        return Memory(read, inputs.documents)

    def _view(self, inputs: Inputs) -> View:
        documents, segments, length = inputs.documents, inputs.segments, inputs.ids.shape[1]
        table = self.table_dropout(sinusoids(length, length, self.dim, documents), steps(length, length, documents))
        different = None if segments is None else segments[:, :, None] != segments[:, None, :]
        bias = barred(documents[:, :, None] == documents[:, None, :])
        return View(bias, table, different, seeds=between(inputs.seeds))

    def _ordered_views(self, inputs: Inputs, order: Order, memory: Memory | None) -> list[View]:
        """What the content and the queries see; memory is known from the start, and of the first segment."""
        length, more = inputs.ids.shape[1], 0 if memory is None else memory.documents.shape[1]
        documents = inputs.documents if memory is None else torch.cat((memory.documents, inputs.documents), 1)
        ranks, places = F.pad(order.ranks, (more, 0)), order.places
        own, documents_there = order.ranks.gather(1, places), inputs.documents.gather(1, places)
        content = (inputs.documents[:, :, None] == documents[:, None]) & (ranks[:, None] <= order.ranks[:, :, None])
        query = (documents_there[:, :, None] == documents[:, None]) & (ranks[:, None] < own[:, :, None])
        query = query | (own == 0)[:, :, None]  # slots that are not used see anything, as a softmax of nothing is not a number
        segments = None if inputs.segments is None else F.pad(inputs.segments, (more, 0))
        different = different_there = None
        if inputs.segments is not None and segments is not None:
            different = inputs.segments[:, :, None] != segments[:, None]
            different_there = inputs.segments.gather(1, places)[:, :, None] != segments[:, None]
        sines, numbers = sinusoids(more + length, length, self.dim, documents), steps(more + length, length, documents)
        table = self.table_dropout(sines, numbers)
        seeds, seeds_there = _seeds(inputs.seeds, places, more)
        return [
            View(barred(content), table, different, None, seeds),
            View(barred(query), table, different_there, places, seeds_there),
        ]
