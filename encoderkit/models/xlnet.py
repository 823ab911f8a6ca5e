"""XLNet (Yang et al. 2019): a Transformer that learns from permuted orders of a text and afterwards reads it as a whole.

The content stream is an ordinary encoder with relative positions, and all that fine-tuning and `embed` need: (B, T) -> (B, T, D).
For pretraining (section 2.2) each token has a rank in an order. Its content vector sees the tokens that come no later than
itself; a second vector, the query, knows where a token stands but not which it is, sees the tokens that come earlier, and
guesses it. Both streams have the same weights and the same keys and values, which are those of the content stream.

A row may bring the tokens before it as memory (section 2.4): each layer also attends to the vectors that they have there,
computed without gradients. Segments (section 2.5) enter as whether key and query are in the same one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoderkit.models.attention import attend
from encoderkit.models.config import XlnetConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.layers import ACTIVATIONS, INIT_STD, dropout, initialise
from encoderkit.models.relative import RelativePositions, by_head, sinusoids


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
        return self._split(self.key(read)), self._split(self.value(read))

    def forward(self, x: Tensor, keys: tuple[Tensor, Tensor], view: View) -> Tensor:
        """(B, Q, D) -> (B, Q, D)."""
        key, value = keys
        query = self._split(self.query(x))
        asked, added = self.relative(query, view.table, key.shape[2], view.places)
        if view.different is not None:
            added = added + self._by_segment(query, view.different)
        mixed = attend(asked, key, value, view.bias + added, self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(x.shape))

    def _by_segment(self, query: Tensor, different: Tensor) -> Tensor:
        asked = query + by_head(self.segment_bias, query)
        scores = torch.matmul(asked, self.segments.permute(1, 2, 0).to(query.dtype)) * query.shape[-1] ** -0.5  # (B, H, Q, 2)
        return torch.where(different[:, None], scores[..., 1:], scores[..., :1])  # (B, H, Q, S)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, H, S, K)


class XlnetMlp(nn.Module):
    """Two matrices, with dropout between them as well: (B, Q, D) -> (B, Q, D)."""

    def __init__(self, config: XlnetConfig) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(config.dim, config.inner), nn.Linear(config.inner, config.dim)
        self.activation, self.dropout = ACTIVATIONS[config.activation], dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(self.activation(self.up(x))))


class XlnetBlock(nn.Module):
    """Attention and an MLP with a norm after each, for one stream or two: (B, Q, D) each -> (B, Q, D) each."""

    def __init__(self, config: XlnetConfig) -> None:
        super().__init__()
        self.attention = XlnetAttention(config)
        self.attention_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.mlp = XlnetMlp(config)
        self.mlp_norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.dropout = dropout(config.dropout)

    def forward(
        self, content: Tensor, streams: Sequence[Tensor], views: Sequence[View], memory: Tensor | None = None
    ) -> list[Tensor]:
        """What each of `streams` becomes, which may be the content, too; `memory` (B, M, D) stands before the content."""
        keys = self.attention.keys(content if memory is None else torch.cat((memory.to(content.dtype), content), 1))
        return [self._step(x, keys, view) for x, view in zip(streams, views, strict=True)]

    def _step(self, x: Tensor, keys: tuple[Tensor, Tensor], view: View) -> Tensor:
        x = self.attention_norm(x + self.dropout(self.attention(x, keys, view)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


def _bias(seen: Tensor) -> Tensor:
    """(B, Q, S) bool -> (B, 1, Q, S)."""
    return torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -math.inf)[:, None]


class Xlnet(nn.Module):
    """The encoder. As one it reads packed rows, each document by itself; there is no limit to their length."""

    packs = True
    max_length = None

    def __init__(self, config: XlnetConfig, vocab_size: int, pad_id: int) -> None:
        super().__init__()
        self.dim = config.dim
        self.tokens = nn.Embedding(vocab_size, config.dim, padding_idx=pad_id)
        self.unknown = nn.Parameter(torch.empty(1, 1, config.dim).normal_(std=INIT_STD))
        """What each query is at first: it knows nothing of its token."""
        self.layers = nn.ModuleList(XlnetBlock(config) for _ in range(config.layers))
        self.dropout = dropout(config.dropout)
        initialise(self)

    def forward(self, inputs: Inputs) -> Tensor:
        """The content stream where each token sees its whole document: (B, T) -> (B, T, D)."""
        content, view = self.dropout(self.tokens(inputs.ids)), self._view(inputs)
        for layer in self.layers:
            (content,) = layer(content, [content], [view])
        return self.dropout(content)

    def queries(self, inputs: Inputs, order: Order, memory: Memory | None = None) -> Tensor:
        """(B, P, D): for each place of `order` what can be said of the token from those that come before it in the order."""
        before = [None] * len(self.layers) if memory is None else memory.layers
        views = self._ordered_views(inputs, order, memory)
        content = self.dropout(self.tokens(inputs.ids))
        query = self.dropout(self.unknown.to(content.dtype).expand(*order.places.shape, -1))
        *layers, last = zip(self.layers, before, strict=True)
        for layer, own in layers:
            content, query = layer(content, [content, query], views, own)
        layer, own = last  # nobody reads what it makes of the content
        (query,) = layer(content, [query], views[1:], own)
        return self.dropout(query)

    @torch.no_grad()
    def remember(self, inputs: Inputs) -> Memory:
        """What the layers read in the tokens that stand before rows, each seeing its whole document."""
        content, view = self.dropout(self.tokens(inputs.ids)), self._view(inputs)
        read = [content]
        for layer in list(self.layers)[:-1]:
            (content,) = layer(content, [content], [view])
            read.append(content)
        return Memory(read, inputs.documents)

    def _view(self, inputs: Inputs) -> View:
        documents, segments, length = inputs.documents, inputs.segments, inputs.ids.shape[1]
        table = self.dropout(sinusoids(length, length, self.dim, documents))
        different = None if segments is None else segments[:, :, None] != segments[:, None, :]
        return View(_bias(documents[:, :, None] == documents[:, None, :]), table, different)

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
        table = self.dropout(sinusoids(more + length, length, self.dim, documents))
        return [View(_bias(content), table, different), View(_bias(query), table, different_there, places)]
