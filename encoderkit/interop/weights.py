"""The tensors of a published checkpoint: safetensors, in one file or several, or a pickle that a person trusts.

A pickle can run any code when it is read. It is opened only when asked for, by torch's reader that takes nothing but
tensors, and in a process of its own that hands back a safetensors file.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from encoderkit.errors import DataError, UsageError, refuse_pointer
from encoderkit.training.checkpoint import read_tensors

SAFE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
SECONDS = 600
"""After which the process that reads a pickle is given up."""


def checkpoint_tensors(source: Path, trust_pickle: bool) -> dict[str, Tensor]:
    """The tensors of a directory of transformers, or of one file; raises `UsageError` for a pickle that is not trusted."""
    if source.is_file():
        return _one(source, trust_pickle)
    for name in (SAFE, INDEX, *PICKLES):
        path = source / name
        if path.is_file():
            return _sharded(path, trust_pickle) if path.suffix == ".json" else _one(path, trust_pickle)
    fix = "name the directory with config.json and the weights"
    raise DataError(f"holds no weights: neither {SAFE} nor {PICKLES[0]}", where=source, fix=fix)


def _sharded(index: Path, trust_pickle: bool) -> dict[str, Tensor]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        parts = [index.parent / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError("not the index of a checkpoint in several files", where=index, fix="load it again") from None
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise DataError(f"names {missing[0]}, which is not there", where=index, fix="download all files of the checkpoint")
    return {name: tensor for part in parts for name, tensor in _one(part, trust_pickle).items()}


def _one(path: Path, trust_pickle: bool) -> dict[str, Tensor]:
    with open(path, "rb") as file:
        start = file.read(100)
    refuse_pointer(start, path)
    if path.suffix == ".safetensors":
        return _read(path)
    if not start.startswith((b"PK\x03\x04", b"\x80")):  # torch's archives, and pickles as they were before
        message = "is no checkpoint: neither safetensors nor a pickle of torch, and no word vectors"
        raise DataError(message, where=path, fix="a directory of transformers, UER-py's .bin, or a file of word vectors")
    if not trust_pickle:
        fix = "--trust-pickle, if you know where it comes from; or a checkpoint in safetensors"
        raise UsageError("these weights are a pickle, which can run any code that its author put into it", where=path, fix=fix)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / SAFE
        command = [sys.executable, "-m", "encoderkit.interop.weights", str(path), str(target)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise DataError(
                f"reading this pickle took more than {SECONDS} seconds and was given up",
                where=path,
                fix="make safetensors of it where you trust it",
            ) from None
        if done.returncode or not target.exists():
            fix = "download it again, or make safetensors of it where you trust it"
            raise DataError(f"cannot be read as tensors alone: {_reason(done.stderr)}", where=path, fix=fix)
        return _read(target)


def _reason(said: str) -> str:
    """What torch's reader found in a pickle that it does not take."""
    if wanted := re.search(r"GLOBAL ([\w.]+)", said):
        return f"it asks for {wanted[1]}, which was not run"
    lines = [line for line in said.strip().splitlines() if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (lines or ["it ended without a word"])[-1][:300]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(path)
    except DataError as error:
        raise DataError(error.message, where=path, fix="download it again") from None


def _unpickle(source: Path, target: Path) -> None:
    """Read a pickle of nothing but tensors and write it as safetensors; runs in a process of its own."""
    found = torch.load(source, map_location="cpu", weights_only=True)
    if isinstance(found, dict) and isinstance(found.get("state_dict") or found.get("model"), dict):
        found = found.get("state_dict") or found["model"]
    tensors = {str(name): t.detach().clone().contiguous() for name, t in found.items() if isinstance(t, Tensor)}
    target.write_bytes(safetensors.torch.save(tensors))


if __name__ == "__main__":
    _unpickle(Path(sys.argv[1]), Path(sys.argv[2]))
