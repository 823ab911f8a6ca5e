"""transformers' ELECTRA (Clark et al. 2020): BERT's block; the discriminator is what others build on, the generator beside it."""

from collections.abc import Iterator, Mapping
from typing import Any

from encoderkit.interop.bert import bert_demands, bert_encoder, bert_settings, read_shared
from encoderkit.interop.layout import Demand, Head, HeadKind, Layout, Rule, SpecialIds, classes, legal, linear, plain
from encoderkit.models.config import ElectraConfig


def _rules(config: ElectraConfig, head: HeadKind, pad: int) -> Iterator[Rule]:
    yield from bert_encoder(config, head, pad)
    if config.embedding_dim is not None:
        root = "" if head == "none" else "electra."
        yield from linear("encoder.projection", f"{root}embeddings_project", width=config.dim, bias=config.bias)
    yield from _head(config, head)


def _head(config: ElectraConfig, head: HeadKind) -> Iterator[Rule]:
    if head == "masked":
        width, bias = config.embedding_dim or config.dim, config.bias
        yield from linear("head.dense", "generator_predictions.dense", width=width, bias=bias)
        yield from linear("head.norm", "generator_predictions.LayerNorm", width=width, bias=bias)
        yield Rule("head.bias", ("generator_lm_head.bias",))
    elif head == "replaced":
        yield from plain("head.dense", "discriminator_predictions.dense", bias=True)
        yield from plain("head.out", "discriminator_predictions.dense_prediction", bias=True)
    elif head == "classify":
        yield from plain("head.dense", "classifier.dense", bias=True)
        yield from plain("head.out", "classifier.out_proj", bias=True)


def _demands(config: ElectraConfig) -> list[Demand]:
    return bert_demands(config) + legal(config, groups=(None, config.layers), group_blocks=1)


def _settings(config: ElectraConfig, head: Head, ids: SpecialIds) -> dict[str, Any]:
    return {**bert_settings(config, head, ids), "embedding_size": config.embedding_dim or config.dim}


def _read(described: Mapping[str, Any]) -> ElectraConfig:
    width = described.get("embedding_size", 128)
    narrow = width if width != described["hidden_size"] else None
    length = described.get("max_position_embeddings", 512)
    return ElectraConfig(max_length=length, embedding_dim=narrow, **read_shared(described))


ELECTRA = Layout(
    "electra",
    classes("Electra", "masked", "replaced"),
    _rules,
    _demands,
    _settings,
    _read,
    "electra.",
    "generator_lm_head.weight",
)
