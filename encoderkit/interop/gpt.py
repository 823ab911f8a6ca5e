"""transformers' GPT-2 (Radford et al. 2019), whose matrices are written the other way round: (in, out)."""

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
    unshared,
)
from encoderkit.models.config import GptConfig


def _rules(config: GptConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    root = "" if head == "none" else "transformer."
    dim, bias = config.dim, config.bias
    yield Rule("encoder.tokens.weight", (f"{root}wte.weight",))
    there, table = config.position != "none", (config.max_length, dim)
    yield Rule("encoder.positions.weight", (f"{root}wpe.weight",), table, present=there)
    for i in range(config.layers):
        ours, theirs = f"encoder.layers.{i}", f"{root}h.{i}"
        yield from linear(f"{ours}.attention_norm", f"{theirs}.ln_1", width=dim, bias=bias)
        yield from linear(f"{ours}.attention.qkv", f"{theirs}.attn.c_attn", width=3 * dim, bias=bias, transposed=True)
        yield from linear(f"{ours}.attention.out", f"{theirs}.attn.c_proj", width=dim, bias=bias, transposed=True)
        yield from linear(f"{ours}.mlp_norm", f"{theirs}.ln_2", width=dim, bias=bias)
        yield from linear(f"{ours}.mlp.up", f"{theirs}.mlp.c_fc", width=config.inner, bias=bias, transposed=True)
        yield from linear(f"{ours}.mlp.down", f"{theirs}.mlp.c_proj", width=dim, bias=bias, transposed=True)
    yield from linear("encoder.final_norm", f"{root}ln_f", width=dim, bias=bias)
    if head == "classify":
        yield Rule("head.out.weight", ("score.weight",))


def _demands(config: GptConfig) -> list[Demand]:
    positions = ("learned", "sinusoidal", "none")
    own = block(config, position=positions, norm_order="pre", mlp="plain", embedding_norm=False, query_key_norm=False, segments=0)
    return own + unshared(config)


def _settings(config: GptConfig, head: Head, ids: SpecialIds) -> dict[str, Any]:
    return {
        "n_embd": config.dim,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_inner": config.inner,
        "n_positions": config.max_length,
        "activation_function": ACTIVATIONS[config.activation],
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.attention_dropout,
        "layer_norm_epsilon": config.norm_eps,
    }


def _read(described: Mapping[str, Any]) -> GptConfig:
    for key in ("add_cross_attention", "scale_attn_by_inverse_layer_idx"):
        demand(described, key, False)
    demand(described, "scale_attn_weights", True)
    return GptConfig(
        dim=described["n_embd"],
        layers=described["n_layer"],
        heads=described["n_head"],
        hidden=described.get("n_inner"),
        max_length=described.get("n_positions", 1024),
        activation=activation(described, "activation_function", "gelu_new"),
        dropout=described.get("resid_pdrop", 0.1),
        attention_dropout=described.get("attn_pdrop", 0.1),
        norm_eps=described.get("layer_norm_epsilon", 1e-5),
    )


GPT = Layout(
    "gpt2",
    {**classes("GPT2", "causal"), "causal": "GPT2LMHeadModel"},
    _rules,
    _demands,
    _settings,
    _read,
    "transformer.",
    "lm_head.weight",
    direction="left_to_right",
    pooling=("last",),
)
