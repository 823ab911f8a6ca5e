"""transformers' XLNet (Yang et al. 2019)."""

from collections.abc import Iterator, Mapping
from typing import Any

from encoderkit.interop.layout import ACTIVATIONS, Head, HeadKind, Layout, Rule, SpecialIds, activation, classes, demand, plain
from encoderkit.models.config import XlnetConfig


def _rules(config: XlnetConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    root, dim = "" if head == "none" else "transformer.", config.dim
    heads = (dim, config.heads, dim // config.heads)
    yield Rule("encoder.tokens.weight", (f"{root}word_embedding.weight",))
    yield Rule("encoder.unknown", (f"{root}mask_emb",))
    for i in range(config.layers):
        ours, theirs = f"encoder.layers.{i}", f"{root}layer.{i}"
        attention = f"{theirs}.rel_attn"
        for name, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("relative.project", "r")):
            yield Rule(f"{ours}.attention.{name}.weight", (f"{attention}.{letter}",), heads, form="transposed")
        yield Rule(f"{ours}.attention.out.weight", (f"{attention}.o",), heads, form="flat")
        yield Rule(f"{ours}.attention.relative.content_bias", (f"{attention}.r_w_bias",), heads[1:], form="vector")
        yield Rule(f"{ours}.attention.relative.position_bias", (f"{attention}.r_r_bias",), heads[1:], form="vector")
        yield Rule(f"{ours}.attention.segment_bias", (f"{attention}.r_s_bias",), heads[1:], form="vector")
        yield Rule(f"{ours}.attention.segments", (f"{attention}.seg_embed",))
        yield from plain(f"{ours}.attention_norm", f"{attention}.layer_norm", bias=True)
        yield from plain(f"{ours}.mlp.up", f"{theirs}.ff.layer_1", bias=True)
        yield from plain(f"{ours}.mlp.down", f"{theirs}.ff.layer_2", bias=True)
        yield from plain(f"{ours}.mlp_norm", f"{theirs}.ff.layer_norm", bias=True)
    if head == "permuted":
        yield Rule("head.bias", ("lm_loss.bias",))
    elif head == "classify":
        yield from plain("head.dense", "sequence_summary.summary", bias=True)
        yield from plain("head.out", "logits_proj", bias=True)


def _settings(config: XlnetConfig, head: Head, ids: SpecialIds) -> dict[str, Any]:
    return {
        "d_model": config.dim,
        "n_layer": config.layers,
        "n_head": config.heads,
        "d_inner": config.inner,
        "ff_activation": ACTIVATIONS[config.activation],
        "dropout": config.dropout,
        "layer_norm_eps": config.norm_eps,
        "mem_len": None,
        "use_mems_eval": False,
        "summary_type": "last" if head.pooling == "last" else "first",
        "summary_use_proj": True,
        "summary_activation": "tanh",
        "summary_last_dropout": head.dropout,
    }


def _read(described: Mapping[str, Any]) -> XlnetConfig:
    demand(described, "attn_type", "bi")
    demand(described, "bi_data", False)
    demand(described, "clamp_len", -1, 0)
    if described.get("architectures") == ["XLNetForSequenceClassification"]:
        demand(described, "summary_type", "last", "first")
        demand(described, "summary_use_proj", True)
        demand(described, "summary_activation", "tanh")
    return XlnetConfig(
        dim=described["d_model"],
        layers=described["n_layer"],
        heads=described["n_head"],
        hidden=described["d_inner"],
        activation=activation(described, "ff_activation"),
        dropout=described.get("dropout", 0.1),
        norm_eps=described.get("layer_norm_eps", 1e-12),
    )


XLNET = Layout(
    "xlnet",
    {**classes("XLNet", "permuted"), "permuted": "XLNetLMHeadModel", "span": "XLNetForQuestionAnsweringSimple"},
    _rules,
    lambda config: [],
    _settings,
    _read,
    "transformer.",
    "lm_loss.weight",
    pooling=("last", "cls"),  # the mean there is over padding too
)
