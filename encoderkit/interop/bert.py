"""transformers' BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019), with XLM-RoBERTa and CamemBERT, which differ in name."""

from collections.abc import Iterator, Mapping
from typing import Any

from encoderkit.interop.layout import (
    ACTIVATIONS,
    Demand,
    Head,
    HeadKind,
    Layout,
    Rule,
    SpecialIds,
    activation,
    block,
    classes,
    demand,
    linear,
    plain,
    sizes,
    unshared,
)
from encoderkit.models.config import AlbertConfig, BertConfig, ElectraConfig, EsmcConfig, RobertaConfig


def _rules(config: BertConfig | RobertaConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    yield from bert_encoder(config, head, pad)
    yield from _bert_head(config, head)


def bert_encoder(config: BertConfig | RobertaConfig | ElectraConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    """The encoder of BERT and of those that are like it."""
    root = "" if head == "none" else f"{config.kind}."
    dim, bias, width = config.dim, config.bias, config.embedding_dim or config.dim
    # RoBERTa counts positions from the id of padding plus one.
    before = pad + 1 if isinstance(config, RobertaConfig) else 0
    at = f"{root}embeddings"
    yield Rule("encoder.tokens.weight", (f"{at}.word_embeddings.weight",))
    there, table = config.position != "none", (config.max_length, width)
    yield Rule("encoder.positions.weight", (f"{at}.position_embeddings.weight",), table, present=there, before=before)
    segments = (max(1, config.segments), width)
    yield Rule("encoder.segments.weight", (f"{at}.token_type_embeddings.weight",), segments, present=config.segments > 0)
    yield from linear("encoder.embedding_norm", f"{at}.LayerNorm", width=width, bias=bias)
    for i in range(config.layers):
        ours, theirs = f"encoder.layers.{i}", f"{root}encoder.layer.{i}"
        inputs = [f"{theirs}.attention.self.{name}" for name in ("query", "key", "value")]
        yield from linear(f"{ours}.attention.qkv", *inputs, width=dim, bias=bias)
        yield from linear(f"{ours}.attention.out", f"{theirs}.attention.output.dense", width=dim, bias=bias)
        yield from linear(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm", width=dim, bias=bias)
        yield from linear(f"{ours}.mlp.up", f"{theirs}.intermediate.dense", width=config.inner, bias=bias)
        yield from linear(f"{ours}.mlp.down", f"{theirs}.output.dense", width=dim, bias=bias)
        yield from linear(f"{ours}.mlp_norm", f"{theirs}.output.LayerNorm", width=dim, bias=bias)


def _bert_head(config: BertConfig | RobertaConfig, head: HeadKind) -> Iterator[Rule]:
    if isinstance(config, RobertaConfig):
        yield from roberta_head(config, head)
    elif head in ("masked", "pairs"):
        at = "cls.predictions"
        yield from linear("head.dense", f"{at}.transform.dense", width=config.dim, bias=config.bias)
        yield from linear("head.norm", f"{at}.transform.LayerNorm", width=config.dim, bias=config.bias)
        yield Rule("head.bias", (f"{at}.bias",))
        if head == "pairs":
            yield from plain("pairs.head.dense", "bert.pooler.dense", bias=True)
            yield from plain("pairs.head.out", "cls.seq_relationship", bias=True)
    elif head == "classify":
        yield from plain("head.dense", "bert.pooler.dense", bias=True)
        yield from plain("head.out", "classifier", bias=True)


def roberta_head(config: RobertaConfig | EsmcConfig, head: HeadKind) -> Iterator[Rule]:
    """The names of a head's tensors as RoBERTa has them, and ESM C likewise."""
    if head == "masked":
        yield from linear("head.dense", "lm_head.dense", width=config.dim, bias=config.bias)
        yield from linear("head.norm", "lm_head.layer_norm", width=config.dim, bias=config.bias)
        yield Rule("head.bias", ("lm_head.bias" if isinstance(config, RobertaConfig) else "lm_head.decoder.bias",))
    elif head == "classify":
        yield from plain("head.dense", "classifier.dense", bias=True)
        yield from plain("head.out", "classifier.out_proj", bias=True)


def _demands(config: BertConfig | RobertaConfig) -> list[Demand]:
    return bert_demands(config) + unshared(config)


def bert_demands(config: BertConfig | RobertaConfig | AlbertConfig | ElectraConfig) -> list[Demand]:
    """What BERT and those like it cannot vary."""
    positions = ("learned", "sinusoidal", "none")
    return block(config, position=positions, norm_order="post", mlp="plain", embedding_norm=True, query_key_norm=False)


def bert_settings(config: BertConfig | RobertaConfig | ElectraConfig, head: Head, ids: SpecialIds) -> dict[str, Any]:
    """The config.json of BERT and of those like it."""
    before = ids.pad + 1 if isinstance(config, RobertaConfig) else 0
    return {
        **sizes(config, head),
        "hidden_act": ACTIVATIONS[config.activation],
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_length + before,
        "type_vocab_size": max(1, config.segments),
        "layer_norm_eps": config.norm_eps,
    }


def read_shared(described: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of BERT and of those like it from a config.json."""
    demand(described, "position_embedding_type", "absolute", None)
    demand(described, "is_decoder", False)
    return {
        "dim": described["hidden_size"],
        "layers": described["num_hidden_layers"],
        "heads": described["num_attention_heads"],
        "hidden": described["intermediate_size"],
        "activation": activation(described, "hidden_act"),
        "dropout": described.get("hidden_dropout_prob", 0.1),
        "attention_dropout": described.get("attention_probs_dropout_prob", 0.1),
        "segments": described.get("type_vocab_size", 2),
        "norm_eps": described.get("layer_norm_eps", 1e-12),
    }


def _read_bert(described: Mapping[str, Any]) -> BertConfig:
    return BertConfig(max_length=described.get("max_position_embeddings", 512), **read_shared(described))


def _read_roberta(described: Mapping[str, Any]) -> RobertaConfig:
    before = described.get("pad_token_id", 1) + 1
    length, named = described.get("max_position_embeddings", 514) - before, described["model_type"]
    return RobertaConfig(max_length=length, model_type=named, **read_shared(described))


BERT = Layout(
    "bert",
    classes("Bert", "masked", "pairs"),
    _rules,
    _demands,
    bert_settings,
    _read_bert,
    "bert.",
    "cls.predictions.decoder.weight",
    {"cls.predictions.decoder.bias": "cls.predictions.bias"},
)
ROBERTA = Layout(
    "roberta",
    classes("Roberta", "masked"),
    _rules,
    _demands,
    bert_settings,
    _read_roberta,
    "roberta.",
    "lm_head.decoder.weight",
    {"lm_head.decoder.bias": "lm_head.bias"},
)
XLM_ROBERTA = ROBERTA._replace(model_type="xlm-roberta", classes=classes("XLMRoberta", "masked"))
CAMEMBERT = ROBERTA._replace(model_type="camembert", classes=classes("Camembert", "masked"))
