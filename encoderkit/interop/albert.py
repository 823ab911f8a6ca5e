"""transformers' ALBERT (Lan et al. 2020): layers in groups that share their weights, and embeddings of a width of their own."""

from collections.abc import Iterator, Mapping
from typing import Any

from encoderkit.interop.bert import bert_demands, read_shared
from encoderkit.interop.layout import (
    ACTIVATIONS,
    Demand,
    Head,
    HeadKind,
    Layout,
    Rule,
    SpecialIds,
    activation,
    classes,
    legal,
    linear,
    plain,
    sizes,
)
from encoderkit.models.config import AlbertConfig


def _rules(config: AlbertConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    root = "" if head == "none" else "albert."
    width, bias, at = config.embedding_dim or config.dim, config.bias, f"{root}embeddings"
    yield Rule("encoder.tokens.weight", (f"{at}.word_embeddings.weight",))
    there, table = config.position != "none", (config.max_length, width)
    yield Rule("encoder.positions.weight", (f"{at}.position_embeddings.weight",), table, present=there)
    segments = (max(1, config.segments), width)
    yield Rule("encoder.segments.weight", (f"{at}.token_type_embeddings.weight",), segments, present=config.segments > 0)
    yield from linear("encoder.embedding_norm", f"{at}.LayerNorm", width=width, bias=bias)
    yield from linear("encoder.projection", f"{root}encoder.embedding_hidden_mapping_in", width=config.dim, bias=bias)
    for i in range(len(config.uses)):
        group, inner = divmod(i, config.group_blocks)
        theirs = f"{root}encoder.albert_layer_groups.{group}.albert_layers.{inner}"
        yield from _block(config, f"encoder.layers.{i}", theirs)
    yield from _head(config, head)


def _block(config: AlbertConfig, ours: str, theirs: str) -> Iterator[Rule]:
    dim, bias = config.dim, config.bias
    inputs = [f"{theirs}.attention.{name}" for name in ("query", "key", "value")]
    yield from linear(f"{ours}.attention.qkv", *inputs, width=dim, bias=bias)
    yield from linear(f"{ours}.attention.out", f"{theirs}.attention.dense", width=dim, bias=bias)
    yield from linear(f"{ours}.attention_norm", f"{theirs}.attention.LayerNorm", width=dim, bias=bias)
    yield from linear(f"{ours}.mlp.up", f"{theirs}.ffn", width=config.inner, bias=bias)
    yield from linear(f"{ours}.mlp.down", f"{theirs}.ffn_output", width=dim, bias=bias)
    yield from linear(f"{ours}.mlp_norm", f"{theirs}.full_layer_layer_norm", width=dim, bias=bias)


def _head(config: AlbertConfig, head: HeadKind) -> Iterator[Rule]:
    width = config.embedding_dim or config.dim
    if head in ("masked", "pairs"):
        yield from linear("head.dense", "predictions.dense", width=width, bias=config.bias)
        yield from linear("head.norm", "predictions.LayerNorm", width=width, bias=config.bias)
        yield Rule("head.bias", ("predictions.bias",))
    if head == "pairs":
        yield from plain("pairs.head.dense", "albert.pooler", bias=True)
        yield from plain("pairs.head.out", "sop_classifier.classifier", bias=True)
    if head == "classify":
        yield from plain("head.dense", "albert.pooler", bias=True)
        yield from plain("head.out", "classifier", bias=True)


def _demands(config: AlbertConfig) -> list[Demand]:
    return bert_demands(config) + legal(config, embedding_dim=config.embedding_dim or config.dim)  # there it is never missing


def _settings(config: AlbertConfig, head: Head, ids: SpecialIds) -> dict[str, Any]:
    return {
        **sizes(config, head),
        "num_hidden_groups": config.groups or config.layers,
        "inner_group_num": config.group_blocks,
        "embedding_size": config.embedding_dim,
        "hidden_act": "gelu_new" if config.activation == "gelu_tanh" else ACTIVATIONS[config.activation],
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "classifier_dropout_prob": head.dropout,
        "max_position_embeddings": config.max_length,
        "type_vocab_size": max(1, config.segments),
        "layer_norm_eps": config.norm_eps,
    }


def _read(described: Mapping[str, Any]) -> AlbertConfig:
    own = {
        "embedding_dim": described.get("embedding_size", 128),
        "groups": described.get("num_hidden_groups", 1),
        "group_blocks": described.get("inner_group_num", 1),
        "activation": activation(described, "hidden_act", "gelu_new"),
        "dropout": described.get("hidden_dropout_prob", 0.0),
        "attention_dropout": described.get("attention_probs_dropout_prob", 0.0),
        "max_length": described.get("max_position_embeddings", 512),
    }
    return AlbertConfig(**read_shared(described) | own)


ALBERT = Layout(
    "albert",
    classes("Albert", "masked", "pairs"),
    _rules,
    _demands,
    _settings,
    _read,
    "albert.",
    "predictions.decoder.weight",
    {"predictions.decoder.bias": "predictions.bias"},
)
