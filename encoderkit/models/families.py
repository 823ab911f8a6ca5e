"""The Transformers that a recipe can name: a family is a set of defaults, or an architecture of its own.

No torch here, as in `models/config.py`, which has the others and the union of all.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from encoderkit.config import Config

Position = Literal["learned", "sinusoidal", "rotary", "t5_bias", "alibi", "transformer_xl", "none"]
Layers = Annotated[int, Field(ge=1, le=1000)]  # with a slip of the pen for more, a model is built until memory ends
Distance = Literal["content_to_position", "position_to_content"]
Activation = Literal["gelu", "gelu_tanh", "relu", "relu_squared", "silu", "tanh"]
Direction = Literal["both", "left_to_right"]


class TransformerConfig(Config):
    """A Transformer; the families below are its defaults."""

    dim: PositiveInt = 256
    """Width of the residual stream."""
    layers: Layers = 4
    """Number of layers: a block each, or `group_blocks` of them."""
    heads: PositiveInt = 4
    """Attention heads; must divide dim unless `head_dim` is given."""
    head_dim: PositiveInt | None = None
    """Width of a head; dim / heads if not given."""
    hidden: PositiveInt | None = None
    """Inner width of the MLP; 4 x dim if not given."""
    max_length: PositiveInt = 512
    """The longest document, special tokens included; learned positions have this many rows."""
    position: Position = "learned"
    """How order enters: a learned or sinusoidal vector added to the embeddings, a rotation of queries and keys, a bias on the
    scores of attention, learned for each distance (t5_bias, Raffel et al. 2020) or falling with it (alibi, Press et al. 2022,
    the same on both sides), or the distance as in Transformer-XL (Dai et al. 2019)."""
    direction: Direction = "both"
    """Whether a token sees the whole text, or only itself and what stands to its left, so that it can guess the next one."""
    buckets: Annotated[int, Field(ge=4, multiple_of=4)] = 32
    """Kinds of distance that t5_bias tells apart: the nearest each on its own, farther ones in ever larger groups."""
    bucket_distance: PositiveInt = 128
    """The distance from which on t5_bias tells nothing apart."""
    attention_scale: Literal["width", "none"] = "width"
    """Scores of attention divided by the square root of a head's width, or not at all (T5, which starts with smaller queries)."""
    norm: Literal["layer", "rms"] = "layer"
    """Norms that subtract the mean and have a bias, or that only divide by the root mean square (Zhang and Sennrich 2019)."""
    norm_order: Literal["post", "pre"] = "post"
    """Layer norm after each addition (BERT) or before each part (ModernBERT, GPT-2)."""
    mlp: Literal["plain", "gated"] = "plain"
    """Two matrices, or three with a gate (Shazeer 2020)."""
    activation: Activation = "gelu"
    """The nonlinearity of the MLP and of the vocabulary head."""
    bias: bool = True
    """Biases in linear layers and norms."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout on embeddings and on the output of each part."""
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on attention weights."""
    window: PositiveInt | None = None
    """Local layers see this many tokens around each one, half on either side; null: every layer is global."""
    global_every: PositiveInt = 1
    """Every n-th layer is global, the first included; the others are local if `window` is given."""
    rotary_base: PositiveFloat = 10000.0
    """Base of the rotary angles in global layers."""
    rotary_base_local: PositiveFloat = 10000.0
    """Base of the rotary angles in local layers."""
    segments: int = Field(default=2, ge=0)
    """Rows of the segment (token type) embedding; 0: none, and pairs are told apart by [SEP] alone."""
    norm_eps: PositiveFloat = 1e-12
    """Added to the variance in layer norms."""
    embedding_norm: bool = True
    """A layer norm on the sum of the embeddings; without it, the first pre-norm block has one before its attention."""
    query_key_norm: bool = False
    """A layer norm on queries and on keys, over all heads at once: allows higher learning rates (Dehghani et al. 2023)."""
    init: Literal["normal", "scaled_output", "zero_output", "fan_in"] = "normal"
    """Weights from N(0, 0.02); scaled_output: each block's last matrices divided by the square root of their number, so that
    the sum does not grow with depth (GPT-2); zero_output: they are zero, so that a deep stack starts as the identity;
    fan_in: T5's, variance 1 / inputs, embeddings from N(0, 1)."""
    embedding_dim: PositiveInt | None = None
    """Width of the embeddings, which one more matrix brings to dim (Lan et al. 2020, section 3.1); dim if not given."""
    groups: PositiveInt | None = None
    """Sets of weights that the layers share, neighbours the same one (1: all layers); each layer has its own if not given."""
    group_blocks: PositiveInt = 1
    """Blocks in a layer, each with weights of its own."""

    @model_validator(mode="after")
    def _groups_have_layers(self) -> "TransformerConfig":
        if self.groups is not None and self.groups > self.layers:
            raise ValueError(f"groups ({self.groups}) of layers need as many layers, found {self.layers}")
        return self

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> "TransformerConfig":
        if self.head_dim is None and self.dim % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide dim ({self.dim}), or give head_dim")
        if self.position == "rotary" and self.head_width % 2:
            raise ValueError("rotary positions need an even width per head (head_dim, or dim / heads)")
        if self.position == "transformer_xl" and self.dim % 2:
            raise ValueError("Transformer-XL positions need an even dim: half sines, half cosines")
        if self.position == "t5_bias" and self.bucket_distance <= self.buckets // 2:
            raise ValueError(f"bucket_distance ({self.bucket_distance}) must be more than half of buckets ({self.buckets})")
        return self

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.head_dim or self.dim // self.heads

    @property
    def inner(self) -> int:
        """Inner width of the MLP."""
        return self.hidden or 4 * self.dim

    @property
    def blocks(self) -> list[tuple[int, ...]]:
        """The blocks of each layer, by number; layers of a group have the same."""
        groups, width = self.groups or self.layers, self.group_blocks
        group = [int(i / (self.layers / groups)) for i in range(self.layers)]  # transformers' formula, rounding included
        return [tuple(range(g * width, (g + 1) * width)) for g in group]

    @property
    def uses(self) -> list[tuple[int, int]]:
        """For each block the first and the last layer that it is in, from 0."""
        layers = [[i for i, blocks in enumerate(self.blocks) if block in blocks] for block in range(self.blocks[-1][-1] + 1)]
        return [(found[0], found[-1]) for found in layers]


class BertConfig(TransformerConfig):
    """BERT (Devlin et al. 2019): post-norm, learned positions, segments."""

    kind: Literal["bert"] = "bert"
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)


class RobertaConfig(TransformerConfig):
    """RoBERTa (Liu et al. 2019): BERT's block, one segment."""

    kind: Literal["roberta"] = "roberta"
    model_type: Literal["roberta", "xlm-roberta", "camembert"] = "roberta"
    """Under which name transformers has it: XLM-RoBERTa (Conneau et al. 2020) and CamemBERT (Martin et al. 2020) are the same."""
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    segments: int = Field(default=1, ge=0)
    norm_eps: PositiveFloat = 1e-5


class AlbertConfig(TransformerConfig):
    """ALBERT (Lan et al. 2020): BERT with one block for all layers, narrow embeddings, and no dropout (as its version 2)."""

    kind: Literal["albert"] = "albert"
    activation: Activation = "gelu_tanh"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    embedding_dim: PositiveInt | None = 128
    groups: PositiveInt | None = 1


class ElectraConfig(TransformerConfig):
    """ELECTRA (Clark et al. 2020): BERT's block on embeddings that may be narrower than it."""

    kind: Literal["electra"] = "electra"
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _narrower(self) -> "ElectraConfig":
        if self.embedding_dim == self.dim:
            raise ValueError("leave embedding_dim out where it is dim: ELECTRA projects only to another width")
        return self


class ModernBertConfig(TransformerConfig):
    """ModernBERT (Warner et al. 2024): pre-norm, rotary, gated MLP, no biases, local and global attention."""

    kind: Literal["modernbert"] = "modernbert"
    position: Position = "rotary"
    norm_order: Literal["post", "pre"] = "pre"
    mlp: Literal["plain", "gated"] = "gated"
    bias: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    window: PositiveInt | None = 128
    global_every: PositiveInt = 3
    rotary_base: PositiveFloat = 160000.0
    segments: int = Field(default=0, ge=0)
    norm_eps: PositiveFloat = 1e-5


class EsmcConfig(TransformerConfig):
    """ESM C's block (EvolutionaryScale 2024): pre-norm, rotary, gated MLP, no biases, normed queries and keys.

    Made for proteins, nothing in it is about them. The scale of its residuals is part of the weights here.
    """

    kind: Literal["esmc"] = "esmc"
    position: Position = "rotary"
    norm_order: Literal["post", "pre"] = "pre"
    mlp: Literal["plain", "gated"] = "gated"
    activation: Activation = "silu"
    bias: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    segments: int = Field(default=0, ge=0)
    norm_eps: PositiveFloat = 1e-5
    embedding_norm: bool = False
    query_key_norm: bool = True


class GptConfig(TransformerConfig):
    """GPT-2 (Radford et al. 2019): reads from left to right; pre-norm, learned positions, a vocabulary head without transform."""

    kind: Literal["gpt"] = "gpt"
    direction: Direction = "left_to_right"
    norm_order: Literal["post", "pre"] = "pre"
    activation: Activation = "gelu_tanh"
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    segments: int = Field(default=0, ge=0)
    norm_eps: PositiveFloat = 1e-5
    embedding_norm: bool = False
    init: Literal["normal", "scaled_output", "zero_output", "fan_in"] = "scaled_output"

    @model_validator(mode="after")
    def _one_width(self) -> "GptConfig":
        if self.embedding_dim is not None:
            raise ValueError(
                "gpt's vocabulary head is the word embeddings themselves, which must be dim wide: leave embedding_dim out"
            )
        return self


class T5Config(TransformerConfig):
    """The encoder of T5 (Raffel et al. 2020) as in version 1.1: pre-norm, one learned bias a distance, no other bias, no scale.

    Version 1.0 is `mlp: plain, activation: relu`. The decoder is the objective's or the task's.
    """

    kind: Literal["t5"] = "t5"
    model_type: Literal["t5", "mt5"] = "t5"
    """Under which name transformers has it: mT5 (Xue et al. 2021) is version 1.1."""
    position: Position = "t5_bias"
    attention_scale: Literal["width", "none"] = "none"
    norm: Literal["layer", "rms"] = "rms"
    norm_order: Literal["post", "pre"] = "pre"
    mlp: Literal["plain", "gated"] = "gated"
    activation: Activation = "gelu_tanh"
    bias: bool = False
    dropout: float = Field(default=0.0, ge=0, lt=1)
    segments: int = Field(default=0, ge=0)
    norm_eps: PositiveFloat = 1e-6
    embedding_norm: bool = False
    init: Literal["normal", "scaled_output", "zero_output", "fan_in"] = "fan_in"


class XlnetConfig(Config):
    """XLNet (Yang et al. 2019): two streams, so that it can learn from permuted orders; relative positions and segments."""

    kind: Literal["xlnet"] = "xlnet"
    dim: PositiveInt = 256
    """Width of the residual stream; even, half sines and half cosines of the distances."""
    layers: Layers = 4
    """Number of blocks."""
    heads: PositiveInt = 4
    """Attention heads; must divide dim."""
    hidden: PositiveInt | None = None
    """Inner width of the MLP; 4 x dim if not given."""
    activation: Activation = "gelu"
    """The nonlinearity of the MLP."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout on embeddings, distances and attention weights, inside the MLP and on the output of each part."""
    norm_eps: PositiveFloat = 1e-12
    """Added to the variance in layer norms."""

    @model_validator(mode="after")
    def _divides(self) -> "XlnetConfig":
        if self.dim % self.heads or self.dim % 2:
            raise ValueError(f"dim ({self.dim}) must be even, and heads ({self.heads}) divide it")
        return self

    @property
    def inner(self) -> int:
        """Inner width of the MLP."""
        return self.hidden or 4 * self.dim


class DebertaConfig(Config):
    """DeBERTa (He et al. 2021), versions 2 and 3: BERT's block, with attention to content and to distance kept apart."""

    kind: Literal["deberta"] = "deberta"
    dim: PositiveInt = 256
    """Width of the residual stream."""
    layers: Layers = 4
    """Number of blocks."""
    heads: PositiveInt = 4
    """Attention heads; must divide dim."""
    hidden: PositiveInt | None = None
    """Inner width of the MLP; 4 x dim if not given."""
    embedding_dim: PositiveInt | None = None
    """Width of the embeddings, which one more matrix brings to dim before their norm; dim, without it, if not given."""
    max_length: PositiveInt = 512
    """The longest document, special tokens included; distances are bucketed for it."""
    buckets: int | None = Field(default=256, ge=2)
    """Rows of the table of distances in either direction: up to half of them one by one, farther ones by the logarithm; null: a
    row for each distance."""
    terms: tuple[Distance, ...] = ("content_to_position", "position_to_content")
    """What attention scores add to that of content with content: one of these or both, in any order."""
    share_projections: bool = True
    """Distances are projected by the matrices of queries and keys; otherwise by matrices of their own."""
    distance_norm: bool = True
    """A layer norm on the table of distances."""
    position: Literal["none", "learned"] = "none"
    """Distances alone, or also a learned vector for each place added to the embeddings."""
    convolution: PositiveInt | None = None
    """Tokens that a convolution over the embeddings sees, an odd number: what it gives is added to the first layer's output
    (3 in v2-xlarge); none if not given."""
    convolution_groups: PositiveInt = 1
    """Parts of the width that the convolution keeps apart."""
    convolution_activation: Activation = "gelu"
    """Its nonlinearity."""
    segments: int = Field(default=0, ge=0)
    """Rows of the segment (token type) embedding; 0: none, and pairs are told apart by [SEP] alone."""
    activation: Activation = "gelu"
    """The nonlinearity of the MLP and of the heads."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout on embeddings, on the table of distances and on the output of each part."""
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout on attention weights."""
    norm_eps: PositiveFloat = 1e-7
    """Added to the variance in layer norms."""

    @model_validator(mode="after")
    def _fits(self) -> "DebertaConfig":
        if self.dim % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide dim ({self.dim})")
        if len(set(self.terms)) != len(self.terms) or not self.terms:
            raise ValueError("terms names content_to_position, position_to_content, or both, each once")
        if self.embedding_dim == self.dim:
            raise ValueError("leave embedding_dim out where it is dim: DeBERTa projects only to another width")
        if self.convolution is not None and not self.convolution % 2:
            raise ValueError(f"convolution is an odd number of tokens, found {self.convolution}")
        if self.dim % self.convolution_groups:
            raise ValueError(f"convolution_groups ({self.convolution_groups}) must divide dim ({self.dim})")
        return self

    @property
    def inner(self) -> int:
        """Inner width of the MLP."""
        return self.hidden or 4 * self.dim

    @property
    def distance_rows(self) -> int:
        """Rows of the table of distances in either direction."""
        return self.buckets or self.max_length
