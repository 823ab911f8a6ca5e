"""transformers' ModernBERT (Warner et al. 2024)."""

from collections.abc import Iterator, Mapping
from typing import Any

from encoderkit.errors import DataError
from encoderkit.interop.layout import (
    ACTIVATIONS,
    NO_COUNTERPART,
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
    demand_plain_rope,
    plain,
    sizes,
    unshared,
)
from encoderkit.models.config import ModernBertConfig


def _rules(config: ModernBertConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    root, bias = "" if head == "none" else "model.", config.bias
    yield Rule("encoder.tokens.weight", (f"{root}embeddings.tok_embeddings.weight",))
    yield from plain("encoder.embedding_norm", f"{root}embeddings.norm", bias=bias)
    for i in range(config.layers):
        ours, theirs = f"encoder.layers.{i}", f"{root}layers.{i}"
        if i:
            yield from plain(f"{ours}.attention_norm", f"{theirs}.attn_norm", bias=bias)
        yield from plain(f"{ours}.attention.qkv", f"{theirs}.attn.Wqkv", bias=bias)
        yield from plain(f"{ours}.attention.out", f"{theirs}.attn.Wo", bias=bias)
        yield from plain(f"{ours}.mlp_norm", f"{theirs}.mlp_norm", bias=bias)
        yield from plain(f"{ours}.mlp.up", f"{theirs}.mlp.Wi", bias=bias)
        yield from plain(f"{ours}.mlp.down", f"{theirs}.mlp.Wo", bias=bias)
    yield from plain("encoder.final_norm", f"{root}final_norm", bias=bias)
    yield from _head(config, head)


def _head(config: ModernBertConfig, head: HeadKind) -> Iterator[Rule]:
    if head == "none":
        return
    yield from plain("head.dense", "head.dense", bias=config.bias)
    yield from plain("head.norm", "head.norm", bias=config.bias)
    if head == "masked":
        yield Rule("head.bias", ("decoder.bias",))
    elif head in ("classify", "span"):
        yield from plain("head.out", "classifier", bias=True)


def _demands(config: ModernBertConfig) -> list[Demand]:
    own = block(config, position="rotary", norm_order="pre", mlp="gated", embedding_norm=True, query_key_norm=False, segments=0)
    return own + unshared(config)


def _settings(config: ModernBertConfig, head: Head, ids: SpecialIds) -> dict[str, Any]:
    every = config.global_every if config.window else 1
    bases = {"full_attention": config.rotary_base, "sliding_attention": config.rotary_base_local}
    return {
        **sizes(config, head),
        "max_position_embeddings": config.max_length,
        "cls_token_id": ids.cls,
        "sep_token_id": ids.sep,
        "hidden_activation": ACTIVATIONS[config.activation],
        "classifier_activation": ACTIVATIONS[config.activation],
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


def _read(described: Mapping[str, Any]) -> ModernBertConfig:
    biases = {bool(described.get(f"{part}_bias", False)) for part in ("norm", "mlp", "attention", "classifier")}
    if len(biases) > 1:
        raise DataError("some parts have biases and some have none; here all have them or none has", fix=NO_COUNTERPART)
    demand(described, "decoder_bias", True)
    demand(described, "classifier_activation", described.get("hidden_activation", "gelu"))
    every, window = described.get("global_attn_every_n_layers", 3), described.get("local_attention", 128)
    kinds, layers = described.get("layer_types"), described["num_hidden_layers"]
    if kinds is not None:
        every = next((i for i in range(1, layers) if kinds[i] == "full_attention"), layers)
        if any((kind == "full_attention") != (i % every == 0) for i, kind in enumerate(kinds)):
            raise DataError(
                "layer_types are in no regular order; here every n-th layer is global, the first included", fix=NO_COUNTERPART
            )
    ropes = described.get("rope_parameters") or {}
    full, local = (ropes.get(f"{kind}_attention") or {} for kind in ("full", "sliding"))
    for rope in (described, full, local):
        demand_plain_rope(rope)
    return ModernBertConfig(
        dim=described["hidden_size"],
        layers=layers,
        heads=described["num_attention_heads"],
        hidden=described["intermediate_size"],
        max_length=described.get("max_position_embeddings", 8192),
        activation=activation(described, "hidden_activation"),
        bias=biases.pop(),
        dropout=described.get("mlp_dropout", 0.0),
        attention_dropout=described.get("attention_dropout", 0.0),
        window=window if every > 1 else None,
        global_every=every,
        rotary_base=full.get("rope_theta") or described.get("global_rope_theta", 160000.0),
        rotary_base_local=local.get("rope_theta") or described.get("local_rope_theta") or 10000.0,
        norm_eps=described.get("norm_eps", 1e-5),
    )


MODERNBERT = Layout(
    "modernbert",
    classes("ModernBert", "masked"),
    _rules,
    _demands,
    _settings,
    _read,
    "model.",
    "decoder.weight",
    pooling=("cls", "mean"),
    windows=True,
)
