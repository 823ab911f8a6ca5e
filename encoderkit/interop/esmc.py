"""transformers' ESM C (EvolutionaryScale 2024): a plain pre-norm encoder with normed queries and keys."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from encoderkit.interop.bert import roberta_head
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
    demand_plain_rope,
    legal,
    linear,
    plain,
    sizes,
    unshared,
)
from encoderkit.models.config import EsmcConfig


def _rules(config: EsmcConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    root, dim = "" if head == "none" else "esmc.", config.dim
    scale = math.sqrt(config.layers / 36)  # transformers divides what a block adds by this
    yield Rule("encoder.tokens.weight", (f"{root}embed_tokens.weight",))
    for i in range(config.layers):
        ours, theirs = f"encoder.layers.{i}", f"{root}layers.{i}"
        attention = f"{theirs}.self_attn"
        yield from linear(f"{ours}.attention_norm", f"{theirs}.input_layernorm", width=dim, bias=False)
        yield from plain(f"{ours}.attention.qkv", *(f"{attention}.{name}_proj" for name in "qkv"))
        yield from plain(f"{ours}.attention.query_norm", f"{attention}.q_norm")
        yield from plain(f"{ours}.attention.key_norm", f"{attention}.k_norm")
        yield from plain(f"{ours}.attention.out", f"{attention}.o_proj", scale=scale)
        yield from linear(f"{ours}.mlp_norm", f"{theirs}.post_attention_layernorm", width=dim, bias=False)
        yield from plain(f"{ours}.mlp.up", f"{theirs}.mlp.gate_proj", f"{theirs}.mlp.up_proj")
        yield from plain(f"{ours}.mlp.down", f"{theirs}.mlp.down_proj", scale=scale)
    yield from plain("encoder.final_norm", f"{root}norm")
    yield from roberta_head(config, head)


def _demands(config: EsmcConfig) -> list[Demand]:
    own = block(config, position="rotary", norm_order="pre", mlp="gated", embedding_norm=False, query_key_norm=True)
    return own + legal(config, segments=0, bias=False, norm_eps=1e-5) + unshared(config)


def _settings(config: EsmcConfig, head: Head, ids: SpecialIds) -> dict[str, Any]:
    rotary = {"rope_type": "default", "rope_theta": config.rotary_base}
    return {
        **sizes(config, head),
        "hidden_act": ACTIVATIONS[config.activation],
        "max_position_embeddings": config.max_length,
        "rope_parameters": rotary,
        "tie_word_embeddings": False,
    }


def _read(described: Mapping[str, Any]) -> EsmcConfig:
    rotary = described.get("rope_parameters") or {}
    for rope in (described, rotary):
        demand_plain_rope(rope)
    return EsmcConfig(
        dim=described["hidden_size"],
        layers=described["num_hidden_layers"],
        heads=described["num_attention_heads"],
        hidden=described["intermediate_size"],
        max_length=described.get("max_position_embeddings", 2048),
        activation=activation(described, "hidden_act", "silu"),
        attention_dropout=described.get("attention_dropout", 0.0),
        rotary_base=rotary.get("rope_theta", 10000.0),
    )


ESMC = Layout(
    "esmc",
    {
        "none": "EsmcModel",
        "masked": "EsmcForMaskedLM",
        "classify": "EsmcForSequenceClassification",
        "tag": "EsmcForTokenClassification",
    },
    _rules,
    _demands,
    _settings,
    _read,
    "esmc.",
    "lm_head.decoder.weight",
    ties=False,
)
