"""The encoders that a recipe can name: a family is a set of defaults on one of five architectures.

No torch here, so that a mistake in a recipe is told at once; `models/build.py` maps each class to its module.
"""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from encoderkit.config import Config
from encoderkit.models.families import (
    AlbertConfig,
    BertConfig,
    DebertaConfig,
    Direction,
    ElectraConfig,
    EsmcConfig,
    GptConfig,
    Layers,
    ModernBertConfig,
    RobertaConfig,
    T5Config,
    TransformerConfig,
    XlnetConfig,
)

Reading = Literal["both", "left_to_right", "apart"]
"""What the vector of a token has seen: the whole text; what stands to its left and itself; or the one half of it that, the
other half what stands to its right and itself, so that neither half has seen the whole text."""


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


class StaticConfig(Config):
    """Word vectors alone: a token has the same vector wherever it stands (Mikolov et al. 2013; Bojanowski et al. 2017)."""

    kind: Literal["static"] = "static"
    dim: PositiveInt = 100
    """Width of the vectors."""
    ngrams: int = Field(default=0, ge=0)
    """Rows that the character n-grams of words are hashed to, as fastText does: a word is the mean of its own row and those
    of its n-grams, and a word that the vocabulary lacks the mean of the latter. 0: no n-grams; fastText has 2,000,000."""
    ngram_min: PositiveInt = 3
    """Characters of the shortest n-gram, the marks < and > around a word included."""
    ngram_max: PositiveInt = 6
    """Characters of the longest n-gram."""
    context: Literal["drop", "add"] = "drop"
    """add: a token's vector as a context is added to that as a word (Pennington et al. 2014, section 4.2)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the vectors, where they are fine-tuned."""

    @model_validator(mode="after")
    def _ngrams_in_order(self) -> "StaticConfig":
        if self.ngram_min > self.ngram_max:
            raise ValueError(f"ngram_min ({self.ngram_min}) is more than ngram_max ({self.ngram_max})")
        return self


EncoderConfig = Annotated[
    BertConfig
    | RobertaConfig
    | AlbertConfig
    | ElectraConfig
    | ModernBertConfig
    | EsmcConfig
    | DebertaConfig
    | GptConfig
    | T5Config
    | XlnetConfig
    | RnnConfig
    | LstmConfig
    | GruConfig
    | CnnConfig
    | StaticConfig,
    Field(discriminator="kind"),
]


def longest(config: EncoderConfig | TransformerConfig) -> int | None:
    """The longest document that an encoder of this config can read, if there is a limit: to check before any work."""
    if isinstance(config, TransformerConfig) and config.position in ("t5_bias", "alibi", "none"):
        return None
    return config.max_length if isinstance(config, TransformerConfig | DebertaConfig) else None


def reading(config: EncoderConfig) -> Reading:
    """What a vector of an encoder of this config has seen of the text."""
    match config:
        case RecurrentConfig():
            return "left_to_right" if config.directions == 1 else "apart" if config.stacks == "apart" else "both"
        case TransformerConfig() | CnnConfig():
            return config.direction
        case _:
            return "both"


class DecoderConfig(Config):
    """A causal Transformer that reads an encoder's vectors by cross-attention (Vaswani et al. 2017); any encoder's.

    Sizes that are not given are the encoder's. Its positions are biases on distances, so a target has no longest length.
    """

    kind: Literal["auto", "plain", "t5"] = "auto"
    """The blocks: layer norms, biases and GELU (plain) or T5's; auto: T5's behind a T5 encoder."""
    layers: Layers | None = None
    """Number of blocks; behind word vectors, which have none, 1."""
    dim: PositiveInt | None = None
    """Width; where it is that of the encoder's word embeddings, these are shared, unless the target has its own tokenizer."""
    heads: PositiveInt | None = None
    """Attention heads; behind an encoder without heads one for each 64 of the width."""
    head_dim: PositiveInt | None = None
    """Width of a head."""
    hidden: PositiveInt | None = None
    """Inner width of the MLP."""
    position: Literal["t5_bias", "alibi"] = "t5_bias"
    """How order enters."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """Dropout on embeddings and on the output of each part; the encoder's if not given."""
    head: Literal["tied", "own"] = "tied"
    """What scores the next token: the word embeddings (T5 1.0), or a matrix of its own (T5 1.1)."""
    start: Literal["cls", "pad"] = "cls"
    """The token that every target begins after; T5's own checkpoints have pad."""

    def blocks(self, encoder: EncoderConfig) -> TransformerConfig:
        """The completed config of the decoder's blocks; raises `ValueError` (pydantic's) for sizes that do not fit together."""
        t5 = isinstance(encoder, T5Config) if self.kind == "auto" else self.kind == "t5"
        model = encoder if isinstance(encoder, TransformerConfig) else None
        dim = self.dim or encoder.dim
        heads = self.heads or getattr(encoder, "heads", 0)
        if not (self.heads or model) and (not heads or dim % heads):
            heads = max(1, round(dim / 64))
        like = model is not None and self.dim is None and self.heads is None
        settings = {
            "dim": dim,
            "layers": self.layers or (1 if isinstance(encoder, StaticConfig) else encoder.layers),
            "heads": heads,
            "head_dim": self.head_dim or (model.head_dim if model and like else None) or (None if model else -(-dim // heads)),
            "hidden": self.hidden or (getattr(encoder, "hidden", None) if self.dim is None else None),
            "position": self.position,
            "dropout": encoder.dropout if self.dropout is None else self.dropout,
        }
        if not t5:
            return TransformerConfig(**settings, norm_order="pre", embedding_norm=False, segments=0, norm_eps=1e-5)
        if isinstance(encoder, T5Config):
            same = ("mlp", "activation", "norm_eps", "buckets", "bucket_distance", "init", "attention_dropout")
            settings |= {name: getattr(encoder, name) for name in same}
        return T5Config(**settings)
