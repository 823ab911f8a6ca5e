"""To and from the files of transformers, without transformers.

`interop.families` says what is called what. A model that no class of transformers can hold is written in our own names
with a sentence that says why.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from encoderkit.errors import DataError
from encoderkit.interop.families import AnyConfig, layout_of, loader, obstacle, rules, settings
from encoderkit.interop.layout import Form, Head, HeadKind, SpecialIds
from encoderkit.interop.t5 import EncoderDecoderConfig
from encoderkit.models.config import TransformerConfig, XlnetConfig, longest
from encoderkit.models.layers import INIT_STD
from encoderkit.models.transformer import SinusoidalPositions

THRESHOLDS = "thresholds.json"
"""The file of what a model's outputs are compared with: transformers' config.json has no place for it."""


class Exported(NamedTuple):
    """The files of an export, and how it is loaded."""

    files: dict[str, bytes]
    auto_class: str | None
    """The class of transformers that loads it; None if there is none."""
    note: str | None
    """Why there is none."""


def to_hf(config: AnyConfig, head: HeadKind, tensors: Mapping[str, Tensor], pad: int) -> dict[str, Tensor]:
    """Our tensors (`encoder.*`, `head.*`, `pairs.*`) under transformers' names."""
    if isinstance(config, TransformerConfig) and config.position == "sinusoidal":
        # Computed here, a table like a learned one there.
        table = SinusoidalPositions(config.max_length, config.embedding_dim or config.dim).table
        tensors = {**tensors, "encoder.positions.weight": table}
    if isinstance(config, TransformerConfig) and config.init == "fan_in" and head in ("masked", "pairs"):
        # What our head multiplies its vectors by (`build_vocabulary_head`) is in the weights of its norm there.
        scaled = {name: INIT_STD * tensors[name] for name in ("head.norm.weight", "head.norm.bias") if name in tensors}
        tensors = {**tensors, **scaled}
    own, result = "head.own.weight" in tensors, {}
    for rule in rules(config, head, pad, own):
        if not rule.present:
            parts = [torch.zeros(rule.shape) for _ in rule.theirs]
        else:
            parts = (tensors[rule.ours].float() * rule.scale).chunk(len(rule.theirs))
        for name, part in zip(rule.theirs, parts, strict=True):
            if rule.form != "same":
                part = (part.T if rule.form == "transposed" else part).reshape(rule.shape or part.shape[::-1])
            result[name] = torch.cat((part.new_zeros(rule.before, *part.shape[1:]), part)).contiguous()
    again = layout_of(config).repeated if own else {}  # what is not tied there is read under its second name
    return result | {second: result[first].clone() for second, first in again.items() if first in result}


def from_hf(config: AnyConfig, head: HeadKind, tensors: Mapping[str, Tensor], pad: int, own: bool = False) -> dict[str, Tensor]:
    """Transformers' tensors under our names. `pad` is the id of padding there, `own`: the head has a table of its own.

    Raises `DataError` for a tensor that is missing, or that has something to say for which this config has no place.
    """
    result: dict[str, Tensor] = {}
    for rule in rules(config, head, pad, own):
        missing = [name for name in rule.theirs if name not in tensors]
        if missing:
            fix = "name in config.json (architectures) the class that the weights were saved with"
            raise DataError(f"tensor {missing[0]} is missing; this is no {config.kind} with a head of kind {head}", fix=fix)
        packed = next((n for n in rule.theirs if not tensors[n].is_floating_point() or tensors[n].itemsize == 1), None)
        if packed is not None:
            message = f"tensor {packed} holds numbers of {tensors[packed].dtype}: quantized weights are not read"
            raise DataError(message, fix="take the checkpoint before it was quantized")
        try:
            ours = torch.cat([_formed(tensors[name][rule.before :], rule.form) for name in rule.theirs]) / rule.scale
        except (RuntimeError, IndexError):
            told = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in rule.theirs)
            raise DataError(f"tensors do not fit one another: {told}", fix="take a checkpoint that is whole") from None
        if not torch.isfinite(ours).all():
            message = f"tensor {rule.theirs[0]} is not finite: whatever it takes part in is no number"
            raise DataError(message, fix="download it again, or take an earlier checkpoint")
        if not rule.present:
            if ours.any():
                fix = "take the config.json that was published with the weights"
                raise DataError(f"tensor {rule.theirs[0]} is not zero, and the config has no place for it", fix=fix)
        elif rule.ours in result and not torch.equal(result[rule.ours], ours):
            raise DataError(
                f"tensor {rule.theirs[0]} differs from the one it should share; such a head is not supported",
                fix="import the encoder alone: name its class in architectures, such as BertModel",
            )
        else:
            result[rule.ours] = ours
    return result


def _formed(theirs: Tensor, form: Form) -> Tensor:
    match form:
        case "same":
            return theirs
        case "vector":
            return theirs.flatten()
        case "flat":
            return theirs.flatten(1)
        case "transposed":
            return theirs.flatten(1).T


def export(
    config: AnyConfig,
    head: Head,
    tensors: Mapping[str, Tensor],
    tokenizer: Mapping[str, bytes],
    vocab_size: int,
    ids: SpecialIds,
    length: int | None = None,
    reason: str | None = None,
    task: bool = False,
) -> Exported:
    """The files that transformers' Auto classes load; in our own names if it has no class for such a model.

    `reason`: why it has none for this head, where that is known. `task`: whether it was fine-tuned, so that
    nobody asks it with [MASK] or <extra_id_0>.

    `tensors` is the state of a learner (`encoder.*`, `head.*`), `tokenizer` the files of its directory, `length` where
    its texts were cut, if that is shorter than the encoder could read.
    """
    reason = reason or obstacle(config, head)
    head = head._replace(own="head.own.weight" in tensors)
    if reason is None:
        named = to_hf(config, head.kind, tensors, ids.pad)
        described = settings(config, head, vocab_size, ids)
        auto_class = loader(config, head)
    else:
        named = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
        described = {"note": reason, "encoder": config.model_dump(mode="json"), "head": head._asdict(), "vocab_size": vocab_size}
        auto_class = None
    described_tokenizer = _tokenizer(
        tokenizer,
        length or longest(config.encoder if isinstance(config, EncoderDecoderConfig) else config),
        segments=isinstance(config, XlnetConfig) or getattr(config, "segments", 0) > 1,
        literal=task or head.kind not in ("masked", "pairs", "permuted", "seq2seq"),
        last=isinstance(config, XlnetConfig) and head.pooling == "last",
    )
    files = {
        "config.json": _json(described),
        "model.safetensors": safetensors.torch.save(named, metadata={"format": "pt"}),
        **described_tokenizer,
    }
    return Exported(files, auto_class, reason)


def _tokenizer(files: Mapping[str, bytes], length: int | None, segments: bool, literal: bool, last: bool) -> dict[str, bytes]:
    """The tokenizer's files, with the settings that depend on the model: its longest input, and whether it has segments.

    `literal`: "[SEP]" in a text is five characters, as it is here; not for models that are
    asked with [MASK] or <extra_id_0>.
    `last`: a text is told by its last token, which transformers looks for at the end of the row, so padding comes first.
    """
    result = dict(files)
    if "tokenizer_config.json" in result:
        described = json.loads(result["tokenizer_config.json"])
        if length is not None:
            described["model_max_length"] = length
        inputs = ["input_ids", "token_type_ids", "attention_mask"]
        described["model_input_names"] = [name for name in inputs if segments or name != "token_type_ids"]
        described["split_special_tokens"] = literal
        if last:
            described["padding_side"] = "left"
        result["tokenizer_config.json"] = _json(described)
    return result


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
