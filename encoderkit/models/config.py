"""The encoders that a recipe can name: a family is a set of defaults on one of four architectures.

No torch here, so that a mistake in a recipe is told at once; `models/build.py` maps each class to its module.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from encoderkit.config import Config

Position = Literal["learned", "sinusoidal", "rotary", "transformer_xl", "none"]
Layers = Annotated[int, Field(ge=1, le=1000)]  # with a slip of the pen for more, a model is built until memory ends
Activation = Literal["gelu", "gelu_tanh", "relu", "relu_squared", "silu", "tanh"]
Direction = Literal["both", "left_to_right"]
Reading = Literal["both", "left_to_right", "apart"]
"""What the vector of a token has seen: the whole text; what stands to its left and itself; or the one half of it that, the
other half what stands to its right and itself, so that neither half has seen the whole text."""


class TransformerConfig(Config):
    """A Transformer; the families below are its defaults."""

    dim: PositiveInt = 256
    """Width of the residual stream."""
    layers: Layers = 4
    """Number of blocks."""
    heads: PositiveInt = 4
    """Attention heads; must divide dim."""
    hidden: PositiveInt | None = None
    """Inner width of the MLP; 4 x dim if not given."""
    max_length: PositiveInt = 512
    """The longest document, special tokens included; learned positions have this many rows."""
    position: Position = "learned"
    """How order enters: a learned or sinusoidal vector added to the embeddings, a rotation of queries and keys, or the distance
    between them as in Transformer-XL (Dai et al. 2019)."""
    direction: Direction = "both"
    """Whether a token sees the whole text, or only itself and what stands to its left, so that it can guess the next one."""
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
    """Local layers see this many tokens around each one, half on either side; None: every layer is global."""
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
    init: Literal["normal", "scaled_output", "zero_output"] = "normal"
    """Weights from N(0, 0.02); scaled_output: each block's last matrices divided by the square root of their number, so that
    the sum does not grow with depth (GPT-2); zero_output: they are zero, so that a deep stack starts as the identity."""

    @model_validator(mode="after")
    def _heads_divide_dim(self) -> "TransformerConfig":
        if self.dim % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide dim ({self.dim})")
        if self.position == "rotary" and (self.dim // self.heads) % 2:
            raise ValueError("rotary positions need an even width per head (dim / heads)")
        if self.position == "transformer_xl" and self.dim % 2:
            raise ValueError("Transformer-XL positions need an even dim: half sines, half cosines")
        return self

    @property
    def inner(self) -> int:
        """Inner width of the MLP."""
        return self.hidden or 4 * self.dim


class BertConfig(TransformerConfig):
    """BERT (Devlin et al. 2019): post-norm, learned positions, segments."""

    kind: Literal["bert"] = "bert"
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)


class RobertaConfig(TransformerConfig):
    """RoBERTa (Liu et al. 2019): BERT's block, one segment."""

    kind: Literal["roberta"] = "roberta"
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    segments: int = Field(default=1, ge=0)
    norm_eps: PositiveFloat = 1e-5


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
    init: Literal["normal", "scaled_output", "zero_output"] = "scaled_output"


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


class RecurrentConfig(Config):
    """A stack of recurrent layers; two directions are concatenated."""

    dim: PositiveInt = 256
    """Width of the output; each direction has dim / directions."""
    layers: Layers = 1
    """Number of layers."""
    directions: Literal[1, 2] = 2
    """Left to right only, or both."""
    stacks: Literal["joint", "apart"] = "joint"
    """Of two directions: each layer reads both of the one below, or each direction is a stack of its own (Peters et al. 2018,
    "ELMo", section 3.1), so that both can learn to guess the next token without having seen it."""
    embedding_dim: PositiveInt | None = None
    """Width of the word embeddings; dim if not given."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on the embeddings and between layers."""

    @model_validator(mode="after")
    def _directions_divide_dim(self) -> "RecurrentConfig":
        if self.dim % self.directions:
            raise ValueError("two directions need an even dim")
        if self.stacks == "apart" and self.directions == 1:
            raise ValueError("stacks: apart is for two directions; there is one")
        return self


class RnnConfig(RecurrentConfig):
    """Elman's simple recurrent network (1990), with tanh."""

    kind: Literal["rnn"] = "rnn"


class LstmConfig(RecurrentConfig):
    """Long short-term memory (Hochreiter and Schmidhuber 1997)."""

    kind: Literal["lstm"] = "lstm"


class GruConfig(RecurrentConfig):
    """Gated recurrent unit (Cho et al. 2014)."""

    kind: Literal["gru"] = "gru"


class CnnConfig(Config):
    """Residual convolutions over the tokens; padding never enters a window."""

    kind: Literal["cnn"] = "cnn"
    dim: PositiveInt = 256
    """Width of every layer."""
    layers: Layers = 4
    """Number of convolutions."""
    kernel: PositiveInt = 3
    """Window of each convolution; odd where it looks to both sides."""
    direction: Direction = "both"
    """Whether a window has a token in its middle or ends with it, so that what it gives can guess the next one."""
    style: Literal["dilated", "gated"] = "dilated"
    """Dilation doubling from layer to layer (Strubell et al. 2017), or gated linear units (Dauphin et al. 2017)."""
    embedding_dim: PositiveInt | None = None
    """Width of the word embeddings; dim if not given."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout on the embeddings and in each layer."""

    @model_validator(mode="after")
    def _odd_kernel(self) -> "CnnConfig":
        if self.kernel % 2 == 0 and self.direction == "both":
            raise ValueError("kernel must be odd, so that a window has a middle")
        return self


EncoderConfig = Annotated[
    BertConfig
    | RobertaConfig
    | ModernBertConfig
    | EsmcConfig
    | GptConfig
    | XlnetConfig
    | RnnConfig
    | LstmConfig
    | GruConfig
    | CnnConfig,
    Field(discriminator="kind"),
]


def longest(config: EncoderConfig) -> int | None:
    """The longest document that an encoder of this config can read, if there is a limit: to check before any work."""
    return config.max_length if isinstance(config, TransformerConfig) else None


def reading(config: EncoderConfig) -> Reading:
    """What a vector of an encoder of this config has seen of the text."""
    match config:
        case RecurrentConfig():
            return "left_to_right" if config.directions == 1 else "apart" if config.stacks == "apart" else "both"
        case TransformerConfig() | CnnConfig():
            return config.direction
        case _:
            return "both"
