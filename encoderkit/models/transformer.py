"""The Transformer of which BERT, RoBERTa, ALBERT, ModernBERT and GPT-2 are defaults.

Blocks are two small classes, because where the norm stands changes the forward pass; everything else is a number or a
part chosen when the model is built.
"""

import math

import torch
from torch import Tensor, nn

from encoderkit.models.attention import BIASES, Attention, Context, Memory, Rotary, in_type, visible
from encoderkit.models.config import TransformerConfig, longest
from encoderkit.models.dropout import Dropout, fold
from encoderkit.models.families import Direction
from encoderkit.models.inputs import Inputs
from encoderkit.models.layers import MLPS, build_norm, initialise, initialise_by_inputs
from encoderkit.models.relative import Distances, RelativeAttention


class PostNormBlock(nn.Module):
    """Norm after each addition: (B, T, D) -> (B, T, D). Vaswani et al. 2017; BERT."""

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__()
        self.attention = _attention(config)
        self.attention_norm = build_norm(config)
        self.mlp = MLPS[config.mlp](config.dim, config.inner, config.activation, config.bias)
        self.mlp_norm = build_norm(config)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = self.attention_norm(x + self.dropout(self.attention(x, context), context.seeds, 1))
        return self.mlp_norm(x + self.dropout(self.mlp(x), context.seeds, 2))


class PreNormBlock(nn.Module):
    """Norm before each part, so that the sum itself is never scaled: (B, T, D) -> (B, T, D). Xiong et al. 2020.

    A first block that reads embeddings that are normed already, and nothing else, has no norm before its attention, as in
    ModernBERT.
    """

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__()
        first = index == 0 and config.uses[0] == (0, 0)
        normed = first and config.embedding_norm and config.embedding_dim is None
        self.attention_norm = nn.Identity() if normed else build_norm(config)
        self.attention = _attention(config)
        self.mlp_norm = build_norm(config)
        self.mlp = MLPS[config.mlp](config.dim, config.inner, config.activation, config.bias)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), context), context.seeds, 1)
        return x + self.dropout(self.mlp(self.mlp_norm(x)), context.seeds, 2)


BLOCKS = {"post": PostNormBlock, "pre": PreNormBlock}


class SinusoidalPositions(nn.Module):
    """The fixed vectors of Vaswani et al. 2017, section 3.5: (B, T) -> (B, T, D). Even columns sine, odd columns cosine."""

    table: Tensor

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))  # (ceil(D/2),)
        angles = torch.arange(length)[:, None] * rates
        table = torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :dim]
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: Tensor) -> Tensor:
        """(B, T) -> (B, T, D)."""
        return self.table[positions]


def _positions(config: TransformerConfig, width: int) -> nn.Module | None:
    match config.position:
        case "learned":
            return nn.Embedding(config.max_length, width)
        case "sinusoidal":
            return SinusoidalPositions(config.max_length, width)
        case "rotary" | "t5_bias" | "alibi" | "transformer_xl" | "none":
            return None


def _attention(config: TransformerConfig) -> Attention:
    return RelativeAttention(config) if config.position == "transformer_xl" else Attention(config)


class Transformer(nn.Module):
    """An encoder that reads packed rows: each document sees itself alone. (B, T) -> (B, T, D).

    `max_length` bounds the positions; a longer document is an index error here, so callers check before they begin.
    `layers` holds each block once; which of them a layer is, and whether it is local, is the list of `_steps`.
    """

    packs = True

    def __init__(self, config: TransformerConfig, vocab_size: int, pad_id: int | None) -> None:
        super().__init__()
        self.dim, self.max_length, width = config.dim, longest(config), config.embedding_dim or config.dim
        self.tokens = nn.Embedding(vocab_size, width, padding_idx=pad_id)
        self.positions = _positions(config, width)
        self.segments = nn.Embedding(config.segments, width) if config.segments else None
        self.embedding_norm = build_norm(config, width) if config.embedding_norm else nn.Identity()
        self.embedding_dropout = Dropout(config.dropout)
        widens = config.embedding_dim is not None
        self.projection = nn.Linear(width, config.dim, bias=config.bias) if widens else nn.Identity()
        self.layers = nn.ModuleList(BLOCKS[config.norm_order](config, i) for i in range(len(config.uses)))
        self.final_norm = build_norm(config) if config.norm_order == "pre" else nn.Identity()
        # Each step is a block and the context that it reads: 0 global, 1 local.
        local = [config.window is not None and i % config.global_every != 0 for i in range(config.layers)]
        self._steps = [(b, int(local[i])) for i, blocks in enumerate(config.blocks) for b in blocks]
        self._windows = [None, config.window] if any(local) else [None]
        bases = [config.rotary_base, config.rotary_base_local][: len(self._windows)]
        self.rotary = nn.ModuleList(Rotary(config.head_width, config.max_length, b) for b in bases if config.position == "rotary")
        if config.position == "transformer_xl":
            self.rotary = nn.ModuleList([Distances(config)] * len(self._windows))
        self._direction: Direction = config.direction
        causal = config.direction == "left_to_right"
        self.distance_bias = BIASES[config.position](config, causal) if config.position in BIASES else None
        if config.init == "fan_in":
            initialise_by_inputs(self, config)
        else:
            initialise(self)
        if config.init in ("scaled_output", "zero_output"):
            self._scale_outputs(0.0 if config.init == "zero_output" else (2 * len(self._steps)) ** -0.5)

    @torch.no_grad()
    def _scale_outputs(self, factor: float) -> None:
        """Each block starts near the identity (Radford et al. 2019, section 2.3), or as the identity itself with a factor of 0.

        The latter: Goyal et al. 2017, section 5.1; Zhang et al. 2019, "Fixup".
        """
        for name, parameter in self.layers.named_parameters():
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                parameter.mul_(factor)

    def forward(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens to their vectors, (B, T, D)."""
        x = self._widened(self.embedding_dropout(self.embedding_norm(self._embed(inputs)), inputs.seeds))
        contexts = self._contexts(inputs)
        for i, (block, kind) in enumerate(self._steps, start=1):
            seeds = None if inputs.seeds is None else fold(inputs.seeds, i)
            x = self.layers[block](x, contexts[kind]._replace(seeds=seeds))
        return self.final_norm(x)

    def read_on(self, ids: Tensor, state: list[Memory] | None) -> tuple[Tensor, list[Memory]]:
        """(B, t) tokens that go on from those that `state` has read, to (B, t, D), and the state after them.

        One text a row, from left to right, no padding; the first tokens have the state None.
        """
        assert self._direction == "left_to_right"
        memories = state or [Memory() for _ in self._steps]
        held = memories[0].held
        before = 0 if held is None else held[0].shape[2]
        places = torch.arange(before, before + ids.shape[1], device=ids.device).expand_as(ids)
        whole = Inputs.of(ids.new_zeros(1, before + ids.shape[1]))
        biases = self._biases(whole.documents, ids.shape[1])
        inputs = Inputs(ids, torch.ones_like(ids), places)
        x, contexts = self._widened(self.embedding_norm(self._embed(inputs))), self._contexts(inputs)
        for (block, kind), memory in zip(self._steps, memories, strict=True):
            x = self.layers[block](x, contexts[kind]._replace(bias=biases[kind], memory=memory))
        return self.final_norm(x), memories

    def _widened(self, x: Tensor) -> Tensor:
        """(B, T, E) -> (B, T, D), in the type of the embeddings: sums of the layers' outputs keep their digits under autocast."""
        return self.projection(x).to(x.dtype)

    def _embed(self, inputs: Inputs) -> Tensor:
        x = self.tokens(inputs.ids)
        if self.positions is not None:
            x = x + self.positions(inputs.positions)
        if self.segments is not None:
            # One row stands for every text (RoBERTa), so the second text of a pair has it too.
            one = inputs.segments is None or self.segments.num_embeddings == 1
            x = x + (self.segments.weight[0] if one else self.segments(inputs.segments))
        return x  # (B, T, E): D wide where there is no projection

    def _biases(self, documents: Tensor, queries: int) -> list[Tensor]:
        """Of the last `queries` places of rows, to all of them: who sees whom, and how far they are where that is a bias."""
        biases = [visible(documents, window, self._direction)[:, :, -queries:] for window in self._windows]
        if self.distance_bias is None:
            return [in_type(bias) for bias in biases]
        distance = self.distance_bias(queries, documents.shape[1])  # learned: its gradients are added up in float32
        return [bias + distance for bias in biases]

    def _contexts(self, inputs: Inputs) -> list[Context]:
        biases = self._biases(inputs.documents, inputs.ids.shape[1])
        rotations = [rotary(inputs.positions) for rotary in self.rotary] or [None] * len(biases)
        return [Context(bias, rotation) for bias, rotation in zip(biases, rotations, strict=True)]
