"""transformers' T5 (Raffel et al. 2020), 1.0 and 1.1, and mT5 (Xue et al. 2021): the encoder alone, or with its decoder."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from encoderkit.config import Config
from encoderkit.errors import DataError, shown
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
    demand,
    legal,
    plain,
    unshared,
)
from encoderkit.models.config import DecoderConfig, EncoderConfig, T5Config, TransformerConfig


class EncoderDecoderConfig(Config):
    """An encoder and the decoder behind it, which is the head of its learner."""

    kind: Literal["encoder-decoder"] = "encoder-decoder"
    encoder: EncoderConfig
    """The encoder."""
    decoder: DecoderConfig
    """What reads its vectors."""


def _encoder(config: T5Config, head: HeadKind, pad: int) -> Iterator[Rule]:
    root = "transformer." if head == "tag" else ""
    yield Rule("encoder.tokens.weight", (f"{root}shared.weight",))
    yield from _stack("encoder", f"{root}encoder", config, ("attention", "mlp"))


def _both(config: EncoderDecoderConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    assert isinstance(config.encoder, T5Config)
    yield from _encoder(config.encoder, head, pad)
    yield from _stack("head", "decoder", config.decoder.blocks(config.encoder), ("attention", "cross", "mlp"))
    if config.decoder.head == "own":
        yield Rule("head.out.weight", ("lm_head.weight",))


def _stack(ours: str, theirs: str, config: TransformerConfig, parts: tuple[str, ...]) -> Iterator[Rule]:
    first = f"{theirs}.block.0.layer.0.SelfAttention"
    yield Rule(f"{ours}.distance_bias.table.weight", (f"{first}.relative_attention_bias.weight",))
    for i in range(config.layers):
        for number, part in enumerate(parts):
            block, layer = f"{ours}.layers.{i}", f"{theirs}.block.{i}.layer.{number}"
            yield from plain(f"{block}.{part}_norm", f"{layer}.layer_norm")
            yield from _part(f"{block}.{part}", layer, part, config)
    yield from plain(f"{ours}.final_norm", f"{theirs}.final_layer_norm")


def _part(ours: str, layer: str, part: str, config: TransformerConfig) -> Iterator[Rule]:
    if part == "mlp":
        inputs = ("wi_0", "wi_1") if config.mlp == "gated" else ("wi",)
        yield from plain(f"{ours}.up", *(f"{layer}.DenseReluDense.{name}" for name in inputs))
        yield from plain(f"{ours}.down", f"{layer}.DenseReluDense.wo")
        return
    theirs = f"{layer}.{'SelfAttention' if part == 'attention' else 'EncDecAttention'}"
    if part == "attention":
        yield from plain(f"{ours}.qkv", *(f"{theirs}.{name}" for name in "qkv"))
    else:
        yield from plain(f"{ours}.query", f"{theirs}.q")
        yield from plain(f"{ours}.kv", *(f"{theirs}.{name}" for name in "kv"))
    yield from plain(f"{ours}.out", f"{theirs}.o")


def _encoder_demands(config: T5Config) -> list[Demand]:
    own = legal(config, position="t5_bias", attention_scale="none", norm="rms", norm_order="pre", bias=False)
    return unshared(config) + own + legal(config, embedding_norm=False, query_key_norm=False, segments=0)


def _demands(config: EncoderDecoderConfig) -> list[Demand]:
    found = [Demand("an encoder of kind", config.encoder.kind, ("t5",))]
    if isinstance(config.encoder, T5Config):
        found += _encoder_demands(config.encoder)
        found += legal(config.encoder, window=None) if config.encoder.global_every > 1 else []
        found.append(Demand("decoder.kind", config.decoder.kind, ("auto", "t5")))
        blocks = config.decoder.blocks(config.encoder)
        found.append(Demand("decoder.position", blocks.position, ("t5_bias",)))
        if config.encoder.model_type == "mt5":  # which never scales the last vectors
            found.append(Demand("decoder.head", config.decoder.head, ("own",)))
        for name in ("dim", "heads", "head_width", "inner"):
            found.append(Demand(f"decoder.{name}", getattr(blocks, name), (getattr(config.encoder, name),)))
    return found


def _shared(config: T5Config) -> dict[str, Any]:
    # "gated-gelu" is the approximation by tanh there, whatever its name says.
    names = {**ACTIVATIONS, "gelu_tanh": "gelu", "gelu": "gelu_python"} if config.mlp == "gated" else ACTIVATIONS
    return {
        "d_model": config.dim,
        "d_kv": config.head_width,
        "d_ff": config.inner,
        "num_layers": config.layers,
        "num_heads": config.heads,
        "n_positions": config.max_length,
        "relative_attention_num_buckets": config.buckets,
        "relative_attention_max_distance": config.bucket_distance,
        "dropout_rate": config.dropout,
        "layer_norm_epsilon": config.norm_eps,
        "feed_forward_proj": f"{'gated-' if config.mlp == 'gated' else ''}{names[config.activation]}",
    }


def _encoder_settings(config: T5Config, head: Head, ids: SpecialIds) -> dict[str, Any]:
    return {**_shared(config), "is_encoder_decoder": False, "use_cache": False}


def _settings(config: EncoderDecoderConfig, head: Head, ids: SpecialIds) -> dict[str, Any]:
    assert isinstance(config.encoder, T5Config)
    return {
        **_shared(config.encoder),
        "num_decoder_layers": config.decoder.blocks(config.encoder).layers,
        "is_encoder_decoder": True,
        "decoder_start_token_id": ids.cls if config.decoder.start == "cls" else ids.pad,
        "tie_word_embeddings": config.decoder.head == "tied",  # there this also says whether the last vectors are scaled
    }


def with_sentinels(tokenizer: Mapping[str, bytes], first: int, count: int) -> dict[str, bytes]:
    """The files of a tokenizer with `count` sentinels after its own pieces, named as T5's: <extra_id_0> has the id `first`."""
    result = dict(tokenizer)
    if count and "tokenizer.json" in result:
        described = json.loads(result["tokenizer.json"])
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        described["added_tokens"] += [{"id": first + i, "content": f"<extra_id_{i}>", **plain} for i in range(count)]
        result["tokenizer.json"] = json.dumps(described, ensure_ascii=False).encode()
    return result


def _read_encoder(described: Mapping[str, Any]) -> T5Config:
    model_type = described["model_type"]
    gated, _, name = described.get("feed_forward_proj", "gated-gelu" if model_type == "mt5" else "relu").rpartition("-")
    if gated not in ("", "gated"):
        raise DataError(
            f"feed_forward_proj is {shown(described['feed_forward_proj'])}, for which there is no place here", fix=NO_COUNTERPART
        )
    named = "gelu_new" if gated and name == "gelu" else name
    return T5Config(
        model_type=model_type,
        dim=described["d_model"],
        layers=described["num_layers"],
        heads=described["num_heads"],
        head_dim=described["d_kv"],
        hidden=described["d_ff"],
        max_length=described.get("n_positions") or 512,
        buckets=described.get("relative_attention_num_buckets", 32),
        bucket_distance=described.get("relative_attention_max_distance", 128),
        dropout=described.get("dropout_rate", 0.1),
        attention_dropout=described.get("dropout_rate", 0.1),
        norm_eps=described.get("layer_norm_epsilon", 1e-6),
        mlp="gated" if gated else "plain",
        activation=activation({"feed_forward_proj": named}, "feed_forward_proj"),
    )


def _read(described: Mapping[str, Any]) -> EncoderDecoderConfig:
    start, pad = described.get("decoder_start_token_id"), described.get("pad_token_id", 0)
    demand(described, "decoder_start_token_id", pad, described.get("bos_token_id"))
    # transformers 5 writes that the last vectors are not scaled; before, it followed from there being a matrix of its own.
    scaled = described.get("scale_decoder_outputs", described.get("tie_word_embeddings", True))
    decoder = DecoderConfig(
        layers=described.get("num_decoder_layers") or described["num_layers"],
        head="tied" if scaled and described["model_type"] != "mt5" else "own",
        start="pad" if start in (pad, None) else "cls",
    )
    return EncoderDecoderConfig(encoder=_read_encoder(described), decoder=decoder)


_REPEATED = {f"{part}.embed_tokens.weight": "shared.weight" for part in ("encoder", "decoder")}

T5 = Layout(
    "t5",
    {"none": "T5EncoderModel", "tag": "T5ForTokenClassification"},
    _encoder,
    _encoder_demands,
    _encoder_settings,
    _read_encoder,
    "",
    repeated=_REPEATED,
    loader="T5EncoderModel",
)
T5_GENERATION = Layout(
    "t5",
    {"seq2seq": "T5ForConditionalGeneration"},
    _both,
    _demands,
    _settings,
    _read,
    "",
    "lm_head.weight",
    _REPEATED,
)
MT5 = T5._replace(
    model_type="mt5",
    classes={"none": "MT5EncoderModel", "tag": "MT5ForTokenClassification"},
    loader="MT5EncoderModel",
)
MT5_GENERATION = T5_GENERATION._replace(model_type="mt5", classes={"seq2seq": "MT5ForConditionalGeneration"})
