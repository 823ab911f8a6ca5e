"""`encoderkit import` of a file of word vectors: a static model with a tokenizer of whole words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from encoderkit import __version__, files
from encoderkit.console import say, warn
from encoderkit.inference import vocabulary_of
from encoderkit.interop.vectors import WordVectors, read_vectors
from encoderkit.models.config import StaticConfig
from encoderkit.text.foreign import word_files
from encoderkit.text.special import SPECIAL
from encoderkit.text.tokenizers import Tokenizer
from encoderkit.training.checkpoint import FORMAT

LENGTH = 512
"""Tokens of a text that the model reads, which for word vectors is a matter of choice."""


def import_vectors(src: Path, out: Path, overwrite: bool = False, length: int = LENGTH) -> dict[str, Any]:
    """Write the word vectors in the file `src` to `out` as a model directory, which reads `length` tokens of a text.

    Returns the JSON of the command.
    The special tokens have zeros. Raises `DataError` for what cannot be read.
    """
    files.refuse_existing(out, overwrite)
    found = read_vectors(src)
    parts, kept = word_files(found.words)
    tokenizer = Tokenizer(parts, src)
    config, tensors = _tensors(found, kept)
    described = {
        "format": FORMAT,
        "encoderkit": __version__,
        "encoder": config.model_dump(mode="json"),
        "vocabulary": vocabulary_of(tokenizer)._asdict(),
        "length": length,
    }
    with files.staged(out, {"from": str(src)}, overwrite) as folder:
        files.write_new(folder / "model.safetensors", safetensors.torch.save(tensors))
        files.write_new(folder / "config.json", json.dumps(described, indent=1, ensure_ascii=False))
        files.make_folder(folder / "tokenizer")
        for name, data in tokenizer.save_files().items():
            files.write_new(folder / "tokenizer" / name, data)
    if found.broken or found.repeated:
        warn(f"{found.broken:,} words are not valid UTF-8, {found.repeated:,} were there already and were left out")
    say(f"{src}: {found.form}; text is {'folded to lower case' if _folds(kept) else 'read as it is written'}")
    return {
        "family": "static",
        "form": found.form,
        "words": len(kept),
        "dim": config.dim,
        "ngrams": config.ngrams,
        "broken": found.broken,
        "repeated": found.repeated,
        "tensors": len(tensors),
        "unused": [],
        "out": str(out),
    }


def _folds(words: list[str]) -> bool:
    return all(word == word.lower() for word in words)


def _tensors(found: WordVectors, kept: list[str]) -> tuple[StaticConfig, dict[str, torch.Tensor]]:
    width, parts = found.table.shape[1], found.subwords
    if parts is None:
        table, _ = found.vectors(kept)
    else:
        number = {word: i for i, word in enumerate(found.words)}
        table = found.table[[number[word] for word in kept]]
    table = np.concatenate([np.zeros((len(SPECIAL), width), np.float32), table])
    tensors = {"encoder.tokens.weight": torch.from_numpy(np.ascontiguousarray(table, np.float32))}
    if parts is None:
        return StaticConfig(dim=width), tensors
    tensors["encoder.ngrams.weight"] = torch.from_numpy(np.array(parts.table, np.float32))
    return StaticConfig(dim=width, ngrams=len(parts.table), ngram_min=parts.low, ngram_max=parts.high), tensors
