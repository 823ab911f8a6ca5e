"""The families that transformers has a class for: which layout each config has, what it cannot hold, its config.json."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from encoderkit.errors import DataError, shown
from encoderkit.interop.albert import ALBERT
from encoderkit.interop.bert import BERT, CAMEMBERT, ROBERTA, XLM_ROBERTA
from encoderkit.interop.deberta import DEBERTA
from encoderkit.interop.electra import ELECTRA
from encoderkit.interop.esmc import ESMC
from encoderkit.interop.gpt import GPT
from encoderkit.interop.layout import AUTO_CLASSES, Demand, Head, HeadKind, Layout, Rule, SpecialIds, legal, plain
from encoderkit.interop.modernbert import MODERNBERT
from encoderkit.interop.t5 import MT5, MT5_GENERATION, T5, T5_GENERATION, EncoderDecoderConfig
from encoderkit.interop.xlnet import XLNET
from encoderkit.models.config import (
    AlbertConfig,
    BertConfig,
    DebertaConfig,
    ElectraConfig,
    EncoderConfig,
    EsmcConfig,
    GptConfig,
    ModernBertConfig,
    RobertaConfig,
    T5Config,
    XlnetConfig,
    reading,
)

LAYOUTS: dict[type[Any], Layout] = {
    BertConfig: BERT,
    RobertaConfig: ROBERTA,
    AlbertConfig: ALBERT,
    ModernBertConfig: MODERNBERT,
    EsmcConfig: ESMC,
    GptConfig: GPT,
    T5Config: T5,
    EncoderDecoderConfig: T5_GENERATION,
    XlnetConfig: XLNET,
    ElectraConfig: ELECTRA,
    DebertaConfig: DEBERTA,
}
TWINS: dict[type[Any], tuple[Layout, ...]] = {
    RobertaConfig: (XLM_ROBERTA, CAMEMBERT),
    T5Config: (MT5,),
    EncoderDecoderConfig: (MT5_GENERATION,),
}
"""The same tensors under another `model_type`, and so with other classes and tokenizers."""
AnyConfig = EncoderConfig | EncoderDecoderConfig


class Recognised(NamedTuple):
    """What a config.json of transformers describes."""

    config: AnyConfig
    head: Head
    layout: Layout


def layout_of(config: AnyConfig) -> Layout:
    """What transformers calls the parts of such a model, which it has a class for."""
    encoder = config.encoder if isinstance(config, EncoderDecoderConfig) else config
    named = getattr(encoder, "model_type", None)
    twin = (layout for layout in TWINS.get(type(config), ()) if layout.model_type == named)
    return next(twin, LAYOUTS[type(config)])


def recognise(described: Mapping[str, Any]) -> Recognised:
    """Read a config.json of transformers; a head that we have no place for counts as none.

    Raises `DataError` for a family that is not known, or a setting that ours has no place for.
    """
    found, named = str(described.get("model_type")), described.get("architectures") or []
    named = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    every = [layout for kind, layout in LAYOUTS.items() for layout in (layout, *TWINS.get(kind, ()))]
    layouts = [layout for layout in every if layout.model_type == found]
    if not layouts:
        known = ", ".join(dict.fromkeys(layout.model_type for layout in every))
        fix = "take a checkpoint of one of these families"
        raise DataError(f"model_type is {shown(found)}; known here: {known}", fix=fix)
    if described.get("quantization_config"):
        message = "the weights are quantized (quantization_config), and such are not read"
        raise DataError(message, fix="take the checkpoint before it was quantized")
    layout = next((layout for layout in layouts if not set(layout.classes.values()).isdisjoint(named)), layouts[0])
    kinds: list[HeadKind] = [kind for kind, name in layout.classes.items() if name in named]
    kind: HeadKind = kinds[0] if kinds else "none"
    try:
        config = layout.read(described)
    except KeyError as error:
        raise DataError(f"{error.args[0]} is missing", fix="take the config.json that was published with the weights") from None
    except (ValidationError, TypeError, IndexError, AttributeError, ArithmeticError) as error:
        reason = "; ".join(map(_told, error.errors()[:3])) if isinstance(error, ValidationError) else str(error)
        fix = "take the config.json that was published with the weights"
        raise DataError(f"cannot be a {layout.model_type}: {reason}", fix=fix) from None
    if kind not in ("classify", "tag"):
        return Recognised(config, Head(kind), layout)
    labels = _outputs(described)
    rates = (
        described.get(key) for key in ("classifier_dropout", "classifier_dropout_prob", "cls_dropout", "summary_last_dropout")
    )
    dropout = next((rate for rate in rates if rate is not None), config.dropout)
    if kind == "tag":
        return Recognised(config, Head("tag", labels, dropout=dropout), layout)
    problem = described.get("problem_type") or ("regression" if len(labels) == 1 else None)  # as transformers has it
    several, numbers = problem == "multi_label_classification", problem == "regression"
    labels = ("score",) if numbers and len(labels) == 1 else labels
    summary = {"first": "cls", "last": "last"}.get(described.get("summary_type", ""), layout.pooling[0])  # XLNet's
    pooling = described.get("classifier_pooling", summary)
    return Recognised(config, Head("classify", labels, several, pooling, dropout, numbers), layout)


def _told(error: Any) -> str:
    """What pydantic found, in a few words."""
    place, message = ".".join(map(str, error["loc"])), error["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _outputs(described: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the outputs, in their order; as transformers names them where the config.json does not."""
    names = described.get("id2label")
    if not names:
        count = described.get("num_labels", described.get("_num_labels", 2))
        names = {str(i): f"LABEL_{i}" for i in range(count if isinstance(count, int) else 2)}
    try:
        labels = tuple(str(names[i]) for i in sorted(names, key=int))
    except (TypeError, ValueError, AttributeError):
        message = f"id2label should be numbers and their names, found {shown(str(names), 60)}"
        raise DataError(message, fix='{"0": "negative", "1": "positive"}, and the like') from None
    if twice := [label for label in labels if labels.count(label) > 1]:
        message = f"id2label names two outputs {shown(twice[0])}, which nobody could tell apart"
        raise DataError(message, fix="give each its own name there")
    return labels


def rules(config: AnyConfig, head: HeadKind, pad: int, own: bool = False) -> list[Rule]:
    """The names of all tensors of an encoder (`encoder.*`) and its head (`head.*`), with `pad` the id of padding.

    `own`: the head has a table of words of its own. The first rule is that of the word embeddings.
    """
    layout = layout_of(config)
    found = list(layout.rules(config, head, pad))
    if layout.table and head in ("masked", "pairs", "causal", "permuted"):
        if own:
            found.append(Rule("head.own.weight", (layout.table,)))
        elif not layout.ties:
            found.append(Rule("encoder.tokens.weight", (layout.table,)))
    if head == "tag":  # the same in all families, but for the name
        found += plain("head.out", "score" if isinstance(config, EsmcConfig) else "classifier", bias=True)
    if head == "span" and not isinstance(config, ModernBertConfig):  # which has its classifier's
        found += plain("head.out", "qa_outputs", bias=True)
    return found


def obstacle(config: AnyConfig, head: Head) -> str | None:
    """Why transformers' class of this family cannot hold this model; None if it can."""
    if type(config) not in LAYOUTS:
        return f"transformers has no class for encoders of kind {config.kind}"
    layout = layout_of(config)
    if head.kind not in layout.classes:
        return f"transformers has no {config.kind} with a head of kind {head.kind}"
    read = reading(config.encoder if isinstance(config, EncoderDecoderConfig) else config)
    demands = [Demand("direction", read, (layout.direction,)), *layout.demands(config)]
    if head.kind == "classify":
        demands.append(Demand("pooling", head.pooling, layout.pooling))
    if getattr(config, "global_every", 1) > 1 and not layout.windows:
        demands += legal(config, window=None)
    found = [f"{setting}: {value}" for setting, value, legal in demands if value not in legal]
    return f"transformers' {config.kind} cannot have {', '.join(found)}" if found else None


def loader(config: AnyConfig, head: Head) -> str:
    """The class of transformers that loads it; `obstacle` has nothing against it."""
    alone = layout_of(config).loader if head.kind == "none" else None
    return alone or AUTO_CLASSES[head.kind]


def settings(config: AnyConfig, head: Head, vocab_size: int, ids: SpecialIds) -> dict[str, Any]:
    """The config.json of transformers; `obstacle` has nothing against it."""
    layout = layout_of(config)
    shared = {
        "architectures": [layout.classes[head.kind]],
        "model_type": layout.model_type,
        "dtype": "float32",
        "vocab_size": vocab_size,
        "initializer_range": 0.02,
        "pad_token_id": ids.pad,
        "bos_token_id": ids.cls,
        "eos_token_id": ids.sep,
        "tie_word_embeddings": not head.own,
    }
    return {**shared, **_labels(head), **layout.settings(config, head, ids)}


def _labels(head: Head) -> dict[str, Any]:
    if head.kind not in ("classify", "tag"):
        return {}
    names = {
        "id2label": {str(i): label for i, label in enumerate(head.labels)},
        "label2id": {label: i for i, label in enumerate(head.labels)},
    }
    if head.kind == "tag":
        return names
    return {
        **names,
        "problem_type": "regression" if head.numbers else f"{'multi' if head.several else 'single'}_label_classification",
    }
