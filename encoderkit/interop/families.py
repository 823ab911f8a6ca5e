"""What transformers' BERT, RoBERTa, ModernBERT and ESM C call our tensors and settings, and what they cannot hold.

A family is a table of names that is read in both directions, and a function that writes its config.json.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from encoderkit.models.config import (
    Activation,
    BertConfig,
    EncoderConfig,
    EsmcConfig,
    ModernBertConfig,
    RobertaConfig,
    TransformerConfig,
)

HeadKind = Literal["none", "masked", "classify"]
Family = BertConfig | RobertaConfig | ModernBertConfig | EsmcConfig
ACTIVATIONS: dict[Activation, str] = {
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "relu_squared": "relu2",
    "silu": "silu",
    "tanh": "tanh",
}


class Head(NamedTuple):
    """What stands on the encoder, as far as the layout depends on it."""

    kind: HeadKind
    labels: tuple[str, ...] = ()
    several: bool = False
    """Several labels a text."""
    pooling: str = "cls"
    dropout: float = 0.0


class SpecialIds(NamedTuple):
    """The ids that a config.json names."""

    pad: int
    cls: int
    sep: int


class Rule(NamedTuple):
    """One of our tensors and what it is called in transformers."""

    ours: str
    theirs: tuple[str, ...]
    """Several: ours holds them one below the other, in this order."""
    shape: tuple[int, ...] = ()
    """Of each of theirs, where ours may have none."""
    present: bool = True
    """Whether ours has it; if not, theirs is zero."""
    before: int = 0
    """Rows that theirs has before the first of ours."""
    scale: float = 1.0
    """Theirs is ours times this."""


def rules(config: Family, head: HeadKind, pad: int) -> list[Rule]:
    """The names of all tensors of an encoder (`encoder.*`) and its head (`head.*`), with `pad` the id of padding."""
    match config:
        case BertConfig() | RobertaConfig():
            return [*_bert_encoder(config, head, pad), *_bert_head(config, head)]
        case ModernBertConfig():
            return [*_modernbert_encoder(config, head), *_modernbert_head(config, head)]
        case EsmcConfig():
            return [*_esmc_encoder(config, head), *_esmc_head(config, head)]


def _linear(ours: str, *theirs: str, width: int, bias: bool, scale: float = 1.0) -> Iterator[Rule]:
    """A linear layer or a norm that has a bias in transformers; `bias`: whether ours has one."""
    yield Rule(f"{ours}.weight", tuple(f"{name}.weight" for name in theirs), scale=scale)
    yield Rule(f"{ours}.bias", tuple(f"{name}.bias" for name in theirs), (width,), present=bias, scale=scale)


def _plain(ours: str, *theirs: str, bias: bool = False, scale: float = 1.0) -> Iterator[Rule]:
    """A linear layer or a norm that has a bias in transformers if and only if ours has one."""
    for part in ("weight", "bias") if bias else ("weight",):
        yield Rule(f"{ours}.{part}", tuple(f"{name}.{part}" for name in theirs), scale=scale)


def _bert_encoder(config: BertConfig | RobertaConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    root = "" if head == "none" else f"{config.kind}."
    dim, bias = config.dim, config.bias
    # RoBERTa counts positions from the id of padding plus one.
    before = pad + 1 if isinstance(config, RobertaConfig) else 0
    at = f"{root}embeddings"
    yield Rule("encoder.tokens.weight", (f"{at}.word_embeddings.weight",))
    there, table = config.position != "none", (config.max_length, dim)
    yield Rule("encoder.positions.weight", (f"{at}.position_embeddings.weight",), table, present=there, before=before)
    segments = (max(1, config.segments), dim)
    yield Rule("encoder.segments.weight", (f"{at}.token_type_embeddings.weight",), segments, present=config.segments > 0)
    yield from _linear("encoder.embedding_norm", f"{at}.LayerNorm", width=dim, bias=bias)
    for i in range(config.layers):
        ours, theirs = f"encoder.layers.{i}", f"{root}encoder.layer.{i}"
        inputs = [f"{theirs}.attention.self.{name}" for name in ("query", "key", "value")]
        yield from _linear(f"{ours}.attention.qkv", *inputs, width=dim, bias=bias)
        yield from _linear(f"{ours}.attention.out", f"{theirs}.attention.output.dense", width=dim, bias=bias)
        yield from _linear(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm", width=dim, bias=bias)
        yield from _linear(f"{ours}.mlp.up", f"{theirs}.intermediate.dense", width=config.inner, bias=bias)
        yield from _linear(f"{ours}.mlp.down", f"{theirs}.output.dense", width=dim, bias=bias)
        yield from _linear(f"{ours}.mlp_norm", f"{theirs}.output.LayerNorm", width=dim, bias=bias)


def _bert_head(config: BertConfig | RobertaConfig, head: HeadKind) -> Iterator[Rule]:
    if isinstance(config, RobertaConfig):
        yield from _roberta_head(config, head)
    elif head == "masked":
        at = "cls.predictions"
        yield from _linear("head.dense", f"{at}.transform.dense", width=config.dim, bias=config.bias)
        yield from _linear("head.norm", f"{at}.transform.LayerNorm", width=config.dim, bias=config.bias)
        yield Rule("head.bias", (f"{at}.bias",))
    elif head == "classify":
        yield from _plain("head.dense", "bert.pooler.dense", bias=True)
        yield from _plain("head.out", "classifier", bias=True)


def _roberta_head(config: RobertaConfig | EsmcConfig, head: HeadKind) -> Iterator[Rule]:
    if head == "masked":
        yield from _linear("head.dense", "lm_head.dense", width=config.dim, bias=config.bias)
        yield from _linear("head.norm", "lm_head.layer_norm", width=config.dim, bias=config.bias)
        yield Rule("head.bias", ("lm_head.bias" if isinstance(config, RobertaConfig) else "lm_head.decoder.bias",))
    elif head == "classify":
        yield from _plain("head.dense", "classifier.dense", bias=True)
        yield from _plain("head.out", "classifier.out_proj", bias=True)


def _modernbert_encoder(config: ModernBertConfig, head: HeadKind) -> Iterator[Rule]:
    root, bias = "" if head == "none" else "model.", config.bias
    yield Rule("encoder.tokens.weight", (f"{root}embeddings.tok_embeddings.weight",))
    yield from _plain("encoder.embedding_norm", f"{root}embeddings.norm", bias=bias)
    for i in range(config.layers):
        ours, theirs = f"encoder.layers.{i}", f"{root}layers.{i}"
        if i:
            yield from _plain(f"{ours}.attention_norm", f"{theirs}.attn_norm", bias=bias)
        yield from _plain(f"{ours}.attention.qkv", f"{theirs}.attn.Wqkv", bias=bias)
        yield from _plain(f"{ours}.attention.out", f"{theirs}.attn.Wo", bias=bias)
        yield from _plain(f"{ours}.mlp_norm", f"{theirs}.mlp_norm", bias=bias)
        yield from _plain(f"{ours}.mlp.up", f"{theirs}.mlp.Wi", bias=bias)
        yield from _plain(f"{ours}.mlp.down", f"{theirs}.mlp.Wo", bias=bias)
    yield from _plain("encoder.final_norm", f"{root}final_norm", bias=bias)


def _modernbert_head(config: ModernBertConfig, head: HeadKind) -> Iterator[Rule]:
    if head == "none":
        return
    yield from _plain("head.dense", "head.dense", bias=config.bias)
    yield from _plain("head.norm", "head.norm", bias=config.bias)
    if head == "masked":
        yield Rule("head.bias", ("decoder.bias",))
    else:
        yield from _plain("head.out", "classifier", bias=True)


def _esmc_encoder(config: EsmcConfig, head: HeadKind) -> Iterator[Rule]:
    root, dim = "" if head == "none" else "esmc.", config.dim
    scale = math.sqrt(config.layers / 36)  # transformers divides what a block adds by this
    yield Rule("encoder.tokens.weight", (f"{root}embed_tokens.weight",))
    for i in range(config.layers):
        ours, theirs = f"encoder.layers.{i}", f"{root}layers.{i}"
        attention = f"{theirs}.self_attn"
        yield from _linear(f"{ours}.attention_norm", f"{theirs}.input_layernorm", width=dim, bias=False)
        yield from _plain(f"{ours}.attention.qkv", *(f"{attention}.{name}_proj" for name in "qkv"))
        yield from _plain(f"{ours}.attention.query_norm", f"{attention}.q_norm")
        yield from _plain(f"{ours}.attention.key_norm", f"{attention}.k_norm")
        yield from _plain(f"{ours}.attention.out", f"{attention}.o_proj", scale=scale)
        yield from _linear(f"{ours}.mlp_norm", f"{theirs}.post_attention_layernorm", width=dim, bias=False)
        yield from _plain(f"{ours}.mlp.up", f"{theirs}.mlp.gate_proj", f"{theirs}.mlp.up_proj")
        yield from _plain(f"{ours}.mlp.down", f"{theirs}.mlp.down_proj", scale=scale)
    yield from _plain("encoder.final_norm", f"{root}norm")


def _esmc_head(config: EsmcConfig, head: HeadKind) -> Iterator[Rule]:
    yield from _roberta_head(config, head)
    if head == "masked":  # the one family whose vocabulary head has a table of its own
        yield Rule("encoder.tokens.weight", ("lm_head.decoder.weight",))


def obstacle(config: EncoderConfig, head: Head) -> str | None:
    """Why transformers' class of this family cannot hold this model; None if it can."""
    if not isinstance(config, TransformerConfig):
        return f"transformers has no class for encoders of kind {config.kind}"
    found = [f"{setting}: {value}" for setting, value, legal in _demands(config, head) if value not in legal]
    return f"transformers' {config.kind} cannot have {', '.join(found)}" if found else None


def _demands(config: TransformerConfig, head: Head) -> Iterator[tuple[str, object, tuple[object, ...]]]:
    """What a family fixes: the name of a setting, what it is, what it may be."""
    esmc, modern = isinstance(config, EsmcConfig), isinstance(config, ModernBertConfig)
    bert = not (esmc or modern)
    yield "position", config.position, ("learned", "sinusoidal", "none") if bert else ("rotary",)
    yield "norm_order", config.norm_order, ("post",) if bert else ("pre",)
    yield "mlp", config.mlp, ("plain",) if bert else ("gated",)
    yield "embedding_norm", config.embedding_norm, (not esmc,)
    yield "query_key_norm", config.query_key_norm, (esmc,)
    if head.kind == "classify":
        yield "pooling", head.pooling, ("cls", "mean") if modern else ("cls",)
    if not bert:
        yield "segments", config.segments, (0,)
    if not modern and config.global_every > 1:
        yield "window", config.window, (None,)
    if esmc:
        yield "bias", config.bias, (False,)
        yield "norm_eps", config.norm_eps, (1e-5,)


def settings(config: Family, head: Head, vocab_size: int, ids: SpecialIds) -> dict[str, Any]:
    """The config.json of transformers."""
    shared = {
        "architectures": [_architecture(config, head.kind)],
        "model_type": config.kind,
        "dtype": "float32",
        "vocab_size": vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner,
        "initializer_range": 0.02,
        "pad_token_id": ids.pad,
        "bos_token_id": ids.cls,
        "eos_token_id": ids.sep,
        "attention_dropout": config.attention_dropout,
        "classifier_dropout": head.dropout,
        "tie_word_embeddings": not isinstance(config, EsmcConfig),
    }
    return {**shared, **_labels(head), **_own(config, head, ids)}


def _architecture(config: Family, head: HeadKind) -> str:
    name = {"bert": "Bert", "roberta": "Roberta", "modernbert": "ModernBert", "esmc": "Esmc"}[config.kind]
    return name + {"none": "Model", "masked": "ForMaskedLM", "classify": "ForSequenceClassification"}[head]


def _labels(head: Head) -> dict[str, Any]:
    if head.kind != "classify":
        return {}
    return {
        "id2label": {str(i): label for i, label in enumerate(head.labels)},
        "label2id": {label: i for i, label in enumerate(head.labels)},
        "problem_type": "multi_label_classification" if head.several else "single_label_classification",
    }


def _own(config: Family, head: Head, ids: SpecialIds) -> dict[str, Any]:
    activation = ACTIVATIONS[config.activation]
    if isinstance(config, BertConfig | RobertaConfig):
        before = ids.pad + 1 if isinstance(config, RobertaConfig) else 0
        return {
            "hidden_act": activation,
            "hidden_dropout_prob": config.dropout,
            "attention_probs_dropout_prob": config.attention_dropout,
            "max_position_embeddings": config.max_length + before,
            "type_vocab_size": max(1, config.segments),
            "layer_norm_eps": config.norm_eps,
        }
    if isinstance(config, EsmcConfig):
        rotary = {"rope_type": "default", "rope_theta": config.rotary_base}
        return {"hidden_act": activation, "max_position_embeddings": config.max_length, "rope_parameters": rotary}
    return _modernbert_own(config, head, ids, activation)


def _modernbert_own(config: ModernBertConfig, head: Head, ids: SpecialIds, activation: str) -> dict[str, Any]:
    every = config.global_every if config.window else 1
    bases = {"full_attention": config.rotary_base, "sliding_attention": config.rotary_base_local}
    return {
        "max_position_embeddings": config.max_length,
        "cls_token_id": ids.cls,
        "sep_token_id": ids.sep,
        "hidden_activation": activation,
        "classifier_activation": activation,
        "classifier_pooling": head.pooling,
        "embedding_dropout": config.dropout,
        "mlp_dropout": config.dropout,
        "norm_eps": config.norm_eps,
        **{f"{part}_bias": config.bias for part in ("norm", "mlp", "attention", "classifier")},
        "decoder_bias": True,
        "local_attention": config.window or 128,
        "layer_types": ["sliding_attention" if i % every else "full_attention" for i in range(config.layers)],
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": base} for kind, base in bases.items()},
        # The same for transformers 4, which would take its defaults silently.
        "global_attn_every_n_layers": every,
        "global_rope_theta": config.rotary_base,
        "local_rope_theta": config.rotary_base_local,
    }
