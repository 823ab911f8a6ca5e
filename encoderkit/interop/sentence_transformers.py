"""What sentence-transformers keeps beside a model of transformers: how the vectors of tokens become that of a text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from encoderkit import files
from encoderkit.console import say, warn
from encoderkit.models.pooling import Pooling

MODULES, POOLING, LIMIT = "modules.json", "1_Pooling", "sentence_bert_config.json"
_PREFIX = "pooling_mode_"
_MODES: dict[Pooling, str] = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "last": "lasttoken"}
_ALWAYS = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
"""What its oldest versions know, and take for granted otherwise; a key that they do not know they refuse."""


class Modules(NamedTuple):
    """What a directory of sentence-transformers consists of."""

    folder: Path
    """Where the model of transformers lies."""
    pooling: Pooling | None
    """None where it makes a vector of a text in a way that there is not here."""
    length: int | None
    """The most tokens of a text that it reads, where that is told."""


def modules(pooling: Pooling, dim: int, length: int) -> dict[str, bytes]:
    """The files that make a directory of transformers one of sentence-transformers too, by their names."""
    kinds = {"": "Transformer", POOLING: "Pooling"}
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    modes = {f"{_PREFIX}{mode}": mode == _MODES[pooling] for mode in dict.fromkeys([*_ALWAYS, _MODES[pooling]])}
    contents: dict[str, Any] = {
        MODULES: listed,
        f"{POOLING}/config.json": {"word_embedding_dimension": dim, **modes},
        LIMIT: {"max_seq_length": length, "do_lower_case": False},
    }
    return {name: (json.dumps(content, indent=2) + "\n").encode() for name, content in contents.items()}


def read_modules(folder: Path) -> Modules | None:
    """What modules.json says, if there is one; tells what of it has no place here."""
    if not (folder / MODULES).is_file():
        return None
    found = files.read_json(folder / MODULES)
    listed = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    paths = {str(one.get("type")).rsplit(".", 1)[-1]: str(one.get("path") or "") for one in listed}
    pooling = _pooling(folder / paths["Pooling"] / "config.json") if "Pooling" in paths else None
    if others := sorted(paths.keys() - {"Transformer", "Pooling", "Normalize"}):
        warn(f"{', '.join(others)} of {folder / MODULES} has no place here: vectors are those without it")
    if "Normalize" in paths:
        say(f"{folder / MODULES} makes vectors of length 1: embed does with --normalize")
    if pooling is None:
        warn(f"how {folder / MODULES} makes one vector of a text is not known here: embed takes the mean, or --pooling")
    model = folder / paths.get("Transformer", "")
    if _described(model / LIMIT).get("do_lower_case"):
        warn(f"do_lower_case of {model / LIMIT} has no place here: give texts in lower case")
    return Modules(model, pooling, longest_text(model))


def longest_text(model: Path) -> int | None:
    """The tokens of a text that a checkpoint is said to read, in the files beside it."""
    given = (_described(model / LIMIT).get("max_seq_length"), _described(model / "tokenizer_config.json").get("model_max_length"))
    return next((length for length in given if isinstance(length, int) and length > 2), None)


def _described(path: Path) -> Mapping[str, Any]:
    found = files.read_json(path) if path.is_file() else {}
    return found if isinstance(found, Mapping) else {}


def _pooling(path: Path) -> Pooling | None:
    """The one way that a config of Pooling names."""
    described = _described(path)
    if isinstance(mode := described.get("pooling_mode"), str):  # as some are written
        return {**{own: own for own in _MODES}, "lasttoken": "last"}.get(mode)  # pyright: ignore[reportReturnType]
    chosen = [name.removeprefix(_PREFIX) for name, on in described.items() if name.startswith(_PREFIX) and on]
    return next((own for own, mode in _MODES.items() if chosen == [mode]), None)
