"""transformers' DeBERTa-v2 (He et al. 2021), which versions 2 and 3 of the published checkpoints are.

Written as its `legacy` head, which is the one that works with embeddings narrower than the layers and computes the same.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from encoderkit.interop.layout import ACTIVATIONS, Head, HeadKind, Layout, Rule, SpecialIds, activation, classes, demand, plain
from encoderkit.models.config import DebertaConfig
from encoderkit.models.families import Distance

TERMS: dict[Distance, tuple[str, str]] = {
    "content_to_position": ("c2p", "pos_key_proj"),
    "position_to_content": ("p2c", "pos_query_proj"),
}
"""What transformers calls a term, and the matrix that projects distances for it."""


def _rules(config: DebertaConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    root = "" if head == "none" else "deberta."
    at = f"{root}embeddings"
    yield from _tables(config, at)
    yield from plain("encoder.embedding_norm", f"{at}.LayerNorm", bias=True)
    yield from plain("encoder.distances", f"{root}encoder.rel_embeddings")
    if config.distance_norm:
        yield from plain("encoder.distance_norm", f"{root}encoder.LayerNorm", bias=True)
    if config.convolution is not None:
        yield from plain("encoder.convolution.conv", f"{root}encoder.conv.conv", bias=True)
        yield from plain("encoder.convolution.norm", f"{root}encoder.conv.LayerNorm", bias=True)
    for i in range(config.layers):
        ours, theirs = f"encoder.layers.{i}", f"{root}encoder.layer.{i}"
        attention = f"{theirs}.attention.self"
        yield from plain(f"{ours}.attention.qkv", *(f"{attention}.{name}_proj" for name in ("query", "key", "value")), bias=True)
        if not config.share_projections:
            for number, term in enumerate(config.terms):
                yield from plain(f"{ours}.attention.relative.{number}", f"{attention}.{TERMS[term][1]}", bias=True)
        yield from plain(f"{ours}.attention.out", f"{theirs}.attention.output.dense", bias=True)
        yield from plain(f"{ours}.attention_norm", f"{theirs}.attention.output.LayerNorm", bias=True)
        yield from plain(f"{ours}.mlp.up", f"{theirs}.intermediate.dense", bias=True)
        yield from plain(f"{ours}.mlp.down", f"{theirs}.output.dense", bias=True)
        yield from plain(f"{ours}.mlp_norm", f"{theirs}.output.LayerNorm", bias=True)
    yield from _head(head)


def _tables(config: DebertaConfig, at: str) -> Iterator[Rule]:
    yield from plain("encoder.tokens", f"{at}.word_embeddings")
    if config.position == "learned":
        yield from plain("encoder.positions", f"{at}.position_embeddings")
    if config.segments:
        yield from plain("encoder.segments", f"{at}.token_type_embeddings")
    if config.embedding_dim is not None:
        yield from plain("encoder.projection", f"{at}.embed_proj")


def _head(head: HeadKind) -> Iterator[Rule]:
    if head == "masked":
        at = "cls.predictions"
        yield from plain("head.dense", f"{at}.transform.dense", bias=True)
        yield from plain("head.norm", f"{at}.transform.LayerNorm", bias=True)
        yield Rule("head.bias", (f"{at}.bias",))
    elif head == "classify":
        yield from plain("head.dense", "pooler.dense", bias=True)
        yield from plain("head.out", "classifier", bias=True)


def _settings(config: DebertaConfig, head: Head, ids: SpecialIds) -> dict[str, Any]:
    convolution = {
        "conv_kernel_size": config.convolution,
        "conv_groups": config.convolution_groups,
        "conv_act": ACTIVATIONS[config.convolution_activation],
    }
    return {
        **(convolution if config.convolution is not None else {}),
        "hidden_size": config.dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.inner,
        "embedding_size": config.embedding_dim or config.dim,
        "hidden_act": ACTIVATIONS[config.activation],
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_length,
        "type_vocab_size": config.segments,
        "layer_norm_eps": config.norm_eps,
        "relative_attention": True,
        "max_relative_positions": -1,
        "position_buckets": config.buckets or -1,
        "pos_att_type": [TERMS[term][0] for term in config.terms],
        "share_att_key": config.share_projections,
        "norm_rel_ebd": "layer_norm" if config.distance_norm else "none",
        "position_biased_input": config.position == "learned",
        "legacy": True,
        "pooler_hidden_size": config.dim,
        "pooler_hidden_act": "gelu",
        "pooler_dropout": 0.0,
        "cls_dropout": head.dropout,
    }


def _read(described: Mapping[str, Any]) -> DebertaConfig:
    length, dim = described["max_position_embeddings"], described["hidden_size"]
    demand({"relative_attention": False, **described}, "relative_attention", True)
    demand(described, "max_relative_positions", -1, 0, length)
    demand(described, "attention_head_size", dim // described["num_attention_heads"])
    demand(described, "norm_rel_ebd", "layer_norm", "none")
    demand(described, "pooler_hidden_act", "gelu")
    width, size, terms = described.get("embedding_size", dim), described.get("position_buckets", -1), described["pos_att_type"]
    names = [name.strip() for name in terms.lower().split("|")] if isinstance(terms, str) else terms
    return DebertaConfig(
        dim=dim,
        layers=described["num_hidden_layers"],
        heads=described["num_attention_heads"],
        hidden=described["intermediate_size"],
        embedding_dim=width if width != dim else None,
        max_length=length,
        buckets=size if size > 0 else None,
        terms=tuple(term for term, (theirs, _) in TERMS.items() if theirs in names),
        share_projections=described.get("share_att_key", False),
        distance_norm=described.get("norm_rel_ebd", "none") == "layer_norm",
        position="learned" if described.get("position_biased_input", True) else "none",
        convolution=described.get("conv_kernel_size") or None,
        convolution_groups=described.get("conv_groups", 1),
        convolution_activation=activation(described, "conv_act", "tanh"),
        segments=described.get("type_vocab_size", 0),
        activation=activation(described, "hidden_act"),
        dropout=described.get("hidden_dropout_prob", 0.1),
        attention_dropout=described.get("attention_probs_dropout_prob", 0.1),
        norm_eps=described.get("layer_norm_eps", 1e-7),
    )


DEBERTA = Layout(
    "deberta-v2",
    classes("DebertaV2", "masked"),
    _rules,
    lambda config: [],
    _settings,
    _read,
    "deberta.",
    "cls.predictions.decoder.weight",
    {"cls.predictions.decoder.bias": "cls.predictions.bias"},
    {  # the same head where it is not `legacy`
        "lm_predictions.lm_head.bias": "cls.predictions.bias",
        **{
            f"lm_predictions.lm_head.{part}.{kind}": f"cls.predictions.transform.{part}.{kind}"
            for part in ("dense", "LayerNorm")
            for kind in ("weight", "bias")
        },
    },
)
