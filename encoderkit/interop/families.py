"""The families that transformers has a class for: which layout each config has, what it cannot hold, its config.json."""

from typing import Any

from encoderkit.interop.bert import BERT, ROBERTA
from encoderkit.interop.esmc import ESMC
from encoderkit.interop.layout import Head, HeadKind, Layout, Rule, SpecialIds
from encoderkit.interop.modernbert import MODERNBERT
from encoderkit.models.config import BertConfig, EncoderConfig, EsmcConfig, ModernBertConfig, RobertaConfig

LAYOUTS: dict[type[Any], Layout] = {BertConfig: BERT, RobertaConfig: ROBERTA, ModernBertConfig: MODERNBERT, EsmcConfig: ESMC}


def rules(config: EncoderConfig, head: HeadKind, pad: int) -> list[Rule]:
    """The names of all tensors of an encoder (`encoder.*`) and its head (`head.*`), with `pad` the id of padding."""
    return list(LAYOUTS[type(config)].rules(config, head, pad))


def obstacle(config: EncoderConfig, head: Head) -> str | None:
    """Why transformers' class of this family cannot hold this model; None if it can."""
    layout = LAYOUTS.get(type(config))
    if layout is None:
        return f"transformers has no class for encoders of kind {config.kind}"
    if head.kind not in layout.classes:
        return f"transformers has no {config.kind} with a head of kind {head.kind}"
    found = [f"{setting}: {value}" for setting, value, legal in layout.demands(config, head) if value not in legal]
    return f"transformers' {config.kind} cannot have {', '.join(found)}" if found else None


def settings(config: EncoderConfig, head: Head, vocab_size: int, ids: SpecialIds) -> dict[str, Any]:
    """The config.json of transformers; `obstacle` has nothing against it."""
    layout = LAYOUTS[type(config)]
    shared = {
        "architectures": [layout.classes[head.kind]],
        "model_type": layout.model_type,
        "dtype": "float32",
        "vocab_size": vocab_size,
        "initializer_range": 0.02,
        "pad_token_id": ids.pad,
        "bos_token_id": ids.cls,
        "eos_token_id": ids.sep,
    }
    return {**shared, **_labels(head), **layout.settings(config, head, ids)}


def _labels(head: Head) -> dict[str, Any]:
    if head.kind != "classify":
        return {}
    return {
        "id2label": {str(i): label for i, label in enumerate(head.labels)},
        "label2id": {label: i for i, label in enumerate(head.labels)},
        "problem_type": "regression" if head.numbers else f"{'multi' if head.several else 'single'}_label_classification",
    }
