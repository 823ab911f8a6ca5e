"""From a config to a module: one dict says which class builds which kind.

A new encoder is one file, one member of `EncoderConfig` and one line here; a test checks that the two agree.
"""

from typing import Any

from torch import nn

from encoderkit.models.config import (
    AlbertConfig,
    BertConfig,
    CnnConfig,
    DebertaConfig,
    ElectraConfig,
    EncoderConfig,
    EsmcConfig,
    GptConfig,
    GruConfig,
    LstmConfig,
    ModernBertConfig,
    RnnConfig,
    RobertaConfig,
    StaticConfig,
    T5Config,
    TransformerConfig,
    XlnetConfig,
)
from encoderkit.models.convolutional import Convolutional
from encoderkit.models.deberta import Deberta
from encoderkit.models.heads import ClassificationHead, DenseClassificationHead, ReplacedHead, TableHead, VocabularyHead
from encoderkit.models.layers import INIT_STD
from encoderkit.models.recurrent import Recurrent
from encoderkit.models.static import Static
from encoderkit.models.transformer import Transformer
from encoderkit.models.xlnet import Xlnet

AnyEncoder = Transformer | Deberta | Xlnet | Recurrent | Convolutional | Static

ENCODERS: dict[type[Any], type[Any]] = {
    BertConfig: Transformer,
    RobertaConfig: Transformer,
    AlbertConfig: Transformer,
    ElectraConfig: Transformer,
    ModernBertConfig: Transformer,
    EsmcConfig: Transformer,
    GptConfig: Transformer,
    T5Config: Transformer,
    XlnetConfig: Xlnet,
    DebertaConfig: Deberta,
    RnnConfig: Recurrent,
    LstmConfig: Recurrent,
    GruConfig: Recurrent,
    CnnConfig: Convolutional,
    StaticConfig: Static,
}


def build_encoder(config: EncoderConfig, vocab_size: int, pad_id: int | None) -> AnyEncoder:
    """The encoder that `config` describes, with fresh weights; `pad_id` is the row of the embeddings that stays zero, if any."""
    return ENCODERS[type(config)](config, vocab_size, pad_id)


def build_vocabulary_head(
    config: EncoderConfig, vocab_size: int, dim: int | None = None, own: bool = False
) -> VocabularyHead | TableHead:
    """The head that guesses words from the vectors of `config`'s encoder: (N, D) and the (V, E) embeddings -> (N, V).

    `dim`: the width of the vectors, if it is not all of the encoder's (one of two directions); `own`: whether the head has
    a table of words of its own.
    """
    if isinstance(config, GptConfig | XlnetConfig):
        return TableHead(config.dim, vocab_size, bias=isinstance(config, XlnetConfig), own=own)
    if isinstance(config, TransformerConfig):
        fixed = isinstance(config, RobertaConfig | ElectraConfig | EsmcConfig)  # whose heads have GELU whatever the MLPs have
        activation = "gelu" if fixed else config.activation
        # Embeddings from N(0, 1) would make the first logits large.
        scale = INIT_STD if config.init == "fan_in" else 1.0
        width = config.embedding_dim or config.dim
        return VocabularyHead(config.dim, width, vocab_size, activation, config.bias, config.norm_eps, scale, own)
    assert not isinstance(config, StaticConfig), "the recipe says so to the user"
    width = config.embedding_dim or config.dim
    if isinstance(config, DebertaConfig):
        return VocabularyHead(config.dim, width, vocab_size, config.activation, bias=True, eps=config.norm_eps, own=own)
    return VocabularyHead(dim or config.dim, width, vocab_size, "gelu", bias=True, eps=1e-5, own=own)


def build_classification_head(
    config: EncoderConfig, labels: int, dropout: float, vectors: int = 1
) -> ClassificationHead | DenseClassificationHead:
    """The head that tells `labels` classes from pooled vectors of `config`'s encoder: (B, D) -> (B, L).

    For the Transformer families it is the one that transformers' classes have, so that it can be exported.
    `vectors`: how many it is given side by side, (B, K D).
    """
    if isinstance(config, GptConfig):
        return ClassificationHead(vectors * config.dim, labels, dropout, bias=False)
    if isinstance(config, ModernBertConfig):
        norm = nn.LayerNorm(config.dim, eps=config.norm_eps, bias=config.bias)
        return DenseClassificationHead(config.dim, labels, dropout, config.activation, config.bias, norm, vectors)
    if isinstance(config, TransformerConfig | XlnetConfig | DebertaConfig):
        activation = "gelu" if isinstance(config, ElectraConfig | DebertaConfig) else "tanh"
        return DenseClassificationHead(config.dim, labels, dropout, activation, True, nn.Identity(), vectors)
    return ClassificationHead(vectors * config.dim, labels, dropout)


def build_tagging_head(config: EncoderConfig, labels: int, dropout: float) -> ClassificationHead | DenseClassificationHead:
    """The head that tells `labels` tags from the vectors of tokens, as transformers' classes have it: (..., D) -> (..., L).

    A linear layer; ModernBERT's has a dense one before. With two labels it is also that of where a span begins and ends.
    """
    if isinstance(config, ModernBertConfig):
        return build_classification_head(config, labels, dropout)
    return ClassificationHead(config.dim, labels, dropout)


def build_replaced_head(config: EncoderConfig) -> ReplacedHead:
    """The head that tells from the vectors of `config`'s encoder which tokens were replaced: (N, D) -> (N,)."""
    return ReplacedHead(config.dim, config.activation if isinstance(config, TransformerConfig | DebertaConfig) else "gelu")
