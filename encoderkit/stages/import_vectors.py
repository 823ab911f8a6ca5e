"""`encoderkit import` of a file of word vectors: a static model with a tokenizer of whole words."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoderkit import files
from encoderkit.console import say, warn
from encoderkit.inference import vocabulary_of
from encoderkit.interop.vectors import WordVectors, read_vectors
from encoderkit.models.config import StaticConfig
from encoderkit.text.foreign import word_files
from encoderkit.text.special import SPECIAL
from encoderkit.text.tokenizers import Tokenizer
from encoderkit.training.checkpoint import Description, config_of, write_model


def import_vectors(src: Path, out: Path, length: int, overwrite: bool = False) -> dict[str, Any]:
    """Write the word vectors in the file `src` to `out` as a model directory, which reads `length` tokens of a text.

    Returns the JSON of the command.
    The special tokens have zeros. Raises `DataError` for what cannot be read.
    """
    files.refuse_existing(out, overwrite)
    found = read_vectors(src)
    parts, kept = word_files(found.words)
    tokenizer = Tokenizer(parts, src)
    config, tensors = _tensors(found, kept)
    described = {**config_of(config, vocabulary_of(tokenizer)._asdict()), "length": length}
    with files.staged(out, {"from": str(src)}, overwrite) as folder:
        write_model(folder, tensors, Description(described, None, tokenizer.save_files()))
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
    return StaticConfig(dim=width, ngrams=len(parts.table), ngram_min=max(1, parts.low), ngram_max=parts.high), tensors
