"""A causal Transformer that reads an encoder's vectors: what translates, summarises and fills spans. Vaswani et al. 2017.

It stands behind any encoder. Rows may hold several targets, numbered as the documents of the encoder's rows that they
belong to: each sees what is before it in itself, and its own document. For generation it keeps the keys and values of
what it has read (`Writing`), which changes nothing but the time it takes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoderkit.models.attention import BIASES, attend, barred, distances, scale_of, split
from encoderkit.models.config import DecoderConfig, EncoderConfig, T5Config, TransformerConfig
from encoderkit.models.dropout import Between, Dropout, along, between, fold
from encoderkit.models.layers import MLPS, build_norm, initialise, initialise_by_inputs


class Keys(NamedTuple):
    """What a layer attends to."""

    key: Tensor
    """(B, H, T, K)."""
    value: Tensor
    """(B, H, T, K)."""

    def select(self, rows: Tensor) -> "Keys":
        """The same of some rows (M,)."""
        return Keys(self.key.index_select(0, rows), self.value.index_select(0, rows))


class Seeds(NamedTuple):
    """What dropout goes by; nothing where there is none."""

    own: Tensor | None = None
    """(B, U) of the target's tokens."""
    source: Tensor | None = None
    """(B, T) of the encoder's vectors."""

    @staticmethod
    def of(source: Tensor | None, length: int) -> "Seeds":
        """Of rows of so many tokens by those of the sources' rows."""
        return UNSEEDED if source is None else Seeds(along(fold(source[:, 0], DECODER), length), source)

    def of_layer(self, number: int) -> "Seeds":
        """Of the layer with this number."""
        return self if self.own is None else Seeds(fold(self.own, number), self.source)


UNSEEDED = Seeds()
DECODER = 1 << 24
"""The use of a text's seeds that is a decoder's."""


class CausalAttention(nn.Module):
    """Attention to what was read before: (B, U, D) -> (B, U, D) and the keys of all that is read now."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.heads * config.head_width
        self.heads, self.scale, self.dropout = config.heads, scale_of(config), config.attention_dropout
        self.qkv = nn.Linear(config.dim, 3 * width, bias=config.bias)
        self.out = nn.Linear(width, config.dim, bias=config.bias)

    def forward(self, x: Tensor, bias: Tensor, past: Keys | None, seeds: Between | None) -> tuple[Tensor, Keys]:
        """`past`: the keys of what stands before `x`."""
        query, key, value = (split(y, self.heads) for y in self.qkv(x).chunk(3, dim=-1))  # (B, H, U, K) each
        if past is not None:
            key, value = torch.cat((past.key, key), 2), torch.cat((past.value, value), 2)
        mixed = attend(query, key, value, bias, self.dropout if self.training else 0.0, self.scale, seeds)
        return self.out(mixed.transpose(1, 2).flatten(2)), Keys(key, value)


class CrossAttention(nn.Module):
    """Attention to an encoder's vectors: (B, U, D) -> (B, U, D)."""

    def __init__(self, config: TransformerConfig, memory: int) -> None:
        """`memory`: the width of the encoder's vectors."""
        super().__init__()
        width = config.heads * config.head_width
        self.heads, self.scale, self.dropout = config.heads, scale_of(config), config.attention_dropout
        self.query = nn.Linear(config.dim, width, bias=config.bias)
        self.kv = nn.Linear(memory, 2 * width, bias=config.bias)
        self.out = nn.Linear(width, config.dim, bias=config.bias)

    def keys(self, memory: Tensor) -> Keys:
        """Of (B, T, M) vectors of the encoder: made once, however many tokens are written."""
        return Keys(*(split(y, self.heads) for y in self.kv(memory).chunk(2, dim=-1)))

    def forward(self, x: Tensor, bias: Tensor, keys: Keys, seeds: Between | None) -> Tensor:
        """`bias`, (B, 1, U, T), says which of the keys may be seen."""
        rate = self.dropout if self.training else 0.0
        mixed = attend(split(self.query(x), self.heads), keys.key, keys.value, bias, rate, self.scale, seeds)
        return self.out(mixed.transpose(1, 2).flatten(2))


class DecoderBlock(nn.Module):
    """Attention to the target, attention to the source, MLP, with a norm before each: (B, U, D) -> (B, U, D)."""

    def __init__(self, config: TransformerConfig, memory: int) -> None:
        super().__init__()
        self.attention_norm, self.attention = build_norm(config), CausalAttention(config)
        self.cross_norm, self.cross = build_norm(config), CrossAttention(config, memory)
        self.mlp_norm = build_norm(config)
        self.mlp = MLPS[config.mlp](config.dim, config.inner, config.activation, config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(
        self, x: Tensor, bias: Tensor, past: Keys | None, across: Tensor, memory: Keys, seeds: "Seeds"
    ) -> tuple[Tensor, Keys]:
        """(B, U, D) of the target, which `past` stands before, to the same and the keys of both.

        `bias` says which of these a token may see, `across` (B, 1, U, T) which of the source, whose keys are `memory`.
        """
        own, source = seeds
        mixed, keys = self.attention(self.attention_norm(x), bias, past, between(own))
        x = x + self.dropout(mixed, own, 1)
        x = x + self.dropout(self.cross(self.cross_norm(x), across, memory, between(own, source)), own, 2)
        return x + self.dropout(self.mlp(self.mlp_norm(x)), own, 3), keys


class Decoder(nn.Module):
    """Word embeddings, blocks, and what scores the next token: (B, U) tokens and (B, T, M) vectors -> (B, U, V) logits.

    Where its width is that of the encoder's word embeddings these are used, given at each call rather than owned: they
    are the encoder's parameter, saved and optimised once.
    """

    def __init__(
        self, config: DecoderConfig, encoder: EncoderConfig, vocab_size: int, pad_id: int | None, shared: int | None
    ) -> None:
        """`shared`: the width of the encoder's word embeddings; None for a vocabulary of its own."""
        super().__init__()
        blocks = config.blocks(encoder)
        self.dim = blocks.dim
        self.tokens = None if shared == blocks.dim else nn.Embedding(vocab_size, blocks.dim, padding_idx=pad_id)
        self.distance_bias = BIASES[blocks.position](blocks, causal=True)
        self.embedding_dropout = Dropout(blocks.dropout)
        self.layers = nn.ModuleList(DecoderBlock(blocks, encoder.dim) for _ in range(blocks.layers))
        self.final_norm = build_norm(blocks)
        self.out = nn.Linear(blocks.dim, vocab_size, bias=False) if config.head == "own" else None
        if blocks.init == "fan_in":
            initialise_by_inputs(self, blocks)
        else:
            initialise(self)
        # Embeddings from N(0, 1) would make the first logits large: Mesh TensorFlow's T5, where they are tied.
        owner = blocks if self.tokens is not None else encoder
        self.scale = blocks.dim**-0.5 if isinstance(owner, T5Config) and self.out is None else 1.0

    def forward(self, ids: Tensor, documents: Tensor, sources: Tensor, memory: Tensor, shared: nn.Embedding) -> Tensor:
        """As `vectors`, to the (B, U, V) logits of the tokens after each."""
        return self.logits(self.vectors(ids, documents, sources, memory, shared), shared)

    def vectors(
        self,
        ids: Tensor,
        documents: Tensor,
        sources: Tensor,
        memory: Tensor,
        shared: nn.Embedding,
        seeds: "Seeds" = UNSEEDED,
    ) -> Tensor:
        """(B, U) tokens and their documents, and (B, T, M) vectors -> (B, U, D), of which `logits` makes those of the next.

        `sources` (B, T): the documents of the vectors. `shared`: the encoder's word embeddings.
        """
        width = ids.shape[1]
        own = documents[:, :, None] == documents[:, None, :]  # (B, U, U)
        bias = barred(own) + self.causal(width, width)
        # Padding may see anything: it is never read, and a row of nothing but -inf would be no number.
        across = (documents[:, :, None] == sources[:, None, :]) | (documents == 0)[:, :, None]
        memories = [layer.cross.keys(memory) for layer in self.blocks()]
        return self.run(ids, bias, [None] * len(self.layers), barred(across), memories, shared, seeds)[0]

    def run(
        self,
        ids: Tensor,
        bias: Tensor,
        past: Sequence[Keys | None],
        across: Tensor,
        memories: Sequence[Keys],
        shared: nn.Embedding,
        seeds: Seeds = UNSEEDED,
    ) -> tuple[Tensor, list[Keys]]:
        """(B, U) tokens -> (B, U, D), and the keys of each layer for what is read after them."""
        x = self.embedding_dropout((self.tokens or shared)(ids), seeds.own)
        found = []
        for i, (layer, before, memory) in enumerate(zip(self.layers, past, memories, strict=True), start=1):
            x, keys = layer(x, bias, before, across, memory, seeds.of_layer(i))
            found.append(keys)
        return self.final_norm(x), found

    def logits(self, x: Tensor, shared: nn.Embedding) -> Tensor:
        """(..., D) -> (..., V)."""
        return F.linear(x * self.scale, self.table(shared))

    def table(self, shared: nn.Embedding) -> Tensor:
        """(V, D): what the last vectors, scaled, are multiplied with."""
        return (self.out or self.tokens or shared).weight

    def causal(self, queries: int, keys: int) -> Tensor:
        """(1, H, Q, K): the bias of each distance, -inf for what comes later."""
        bias = self.distance_bias(queries, keys)
        return bias.masked_fill(distances(queries, keys, bias.device) > 0, -math.inf)

    def blocks(self) -> Sequence[DecoderBlock]:
        """Its layers, from the first."""
        return list(self.layers)  # pyright: ignore[reportReturnType]


class Writing:
    """Targets that are being written, a `decoding.Reader`: one for each of N source texts at first."""

    def __init__(self, decoder: Decoder, memory: Tensor, mask: Tensor, shared: nn.Embedding) -> None:
        """`memory` (N, T, M) and `mask` (N, T): the encoder's vectors, and which of them are real."""
        self.decoder, self.shared = decoder, shared
        self._across = barred(mask[:, None])  # (N, 1, 1, T)
        self._memories = [layer.cross.keys(memory) for layer in decoder.blocks()]
        self._past: list[Keys | None] = [None] * len(decoder.layers)

    def read(self, tokens: Tensor) -> Tensor:
        """(N, n) the next tokens of each target -> (N, V) logits of the one after them."""
        return self.decoder.logits(self.vectors(tokens), self.shared)

    def vectors(self, tokens: Tensor) -> Tensor:
        """The same -> (N, D) vectors of the last of them, of which `Decoder.logits` makes those logits."""
        before = 0 if self._past[0] is None else self._past[0].key.shape[2]
        bias = self.decoder.causal(tokens.shape[1], before + tokens.shape[1])
        x, found = self.decoder.run(tokens, bias, self._past, self._across, self._memories, self.shared)
        self._past = list(found)
        return x[:, -1]

    def select(self, rows: Tensor) -> None:
        """Go on with the targets `rows` (M,)."""
        self._across = self._across.index_select(0, rows)
        self._memories = [keys.select(rows) for keys in self._memories]
        self._past = [None if keys is None else keys.select(rows) for keys in self._past]
