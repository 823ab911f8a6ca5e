"""What sentence-transformers keeps beside a model of transformers: how the vectors of tokens become that of a text."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from encoderkit import files
from encoderkit.console import warn
from encoderkit.models.pooling import Pooling

MODULES, POOLING, LIMIT = "modules.json", "1_Pooling", "sentence_bert_config.json"
_PREFIX = "pooling_mode_"
_MODES: dict[Pooling, str] = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "last": "lasttoken"}
_OTHERS = ("mean_sqrt_len_tokens", "weightedmean_tokens")


class Modules(NamedTuple):
    """What a directory of sentence-transformers consists of."""

    folder: Path
    """Where the model of transformers lies."""
    pooling: Pooling | None
    """None where it makes a vector of a text in a way that there is not here."""


def modules(pooling: Pooling, dim: int, length: int) -> dict[str, bytes]:
    """The files that make a directory of transformers one of sentence-transformers too, by their names."""
    kinds = {"": "Transformer", POOLING: "Pooling"}
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    modes = {f"{_PREFIX}{mode}": mode == _MODES[pooling] for mode in (*_MODES.values(), *_OTHERS)}
    contents: dict[str, Any] = {
        MODULES: listed,
        f"{POOLING}/config.json": {"word_embedding_dimension": dim, **modes, "include_prompt": True},
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
        warn(f"{', '.join(others)} of {folder / MODULES} has no place here: vectors are those before it")
    if pooling is None:
        warn(f"how {folder / MODULES} makes one vector of a text is not known here: embed takes the mean, or --pooling")
    return Modules(folder / paths.get("Transformer", ""), pooling)


def _pooling(path: Path) -> Pooling | None:
    """The one way that a config of Pooling names."""
    described = files.read_json(path) if path.is_file() else None
    if not isinstance(described, Mapping):
        return None
    if isinstance(mode := described.get("pooling_mode"), str):  # as some are written
        return {**{own: own for own in _MODES}, "lasttoken": "last"}.get(mode)  # pyright: ignore[reportReturnType]
    chosen = [name.removeprefix(_PREFIX) for name, on in described.items() if name.startswith(_PREFIX) and on]
    return next((own for own, mode in _MODES.items() if chosen == [mode]), None)
