"""The word embeddings of a model, whatever its tokenizer: looked up for words, listed, or taken from elsewhere to begin with."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from encoderkit import files
from encoderkit.console import say
from encoderkit.errors import UsageError
from encoderkit.inference import Model, open_model, vocabulary_of
from encoderkit.interop.vectors import WordVectors, read_vectors
from encoderkit.learner import Learner
from encoderkit.models.config import GptConfig
from encoderkit.models.static import Static
from encoderkit.objectives.replaced import Shifted
from encoderkit.preflight import find_step
from encoderkit.text.tokenizers import Tokenizer


class Words(NamedTuple):
    """Words as a model has them."""

    ids: list[tuple[int, ...]]
    """The tokens of each word; none where it has no vector. Words that are spelled by the same tokens are one to the model."""
    vectors: np.ndarray
    """(n, D) float32: the mean of the embeddings of its tokens; zero where it has none."""


def look_up(model: Model, words: Sequence[str]) -> Words:
    """The embeddings of words: as they are written, or in lower case where that is unknown to the vocabulary.

    A word that the vocabulary of a `word` tokenizer has needs no tokenizing, so that New_York stays in one piece.
    """
    ids = _ids(model.tokenizer, words)
    lower = {
        i: word.lower() for i, (word, found) in enumerate(zip(words, ids, strict=True)) if not found and word.lower() != word
    }
    for i, found in zip(lower, _ids(model.tokenizer, list(lower.values())), strict=True):
        ids[i] = found
    flat = np.array([id for found in ids for id in found], np.int64)
    counts = np.array([len(found) for found in ids], np.int64)
    rows = table_rows(model.learner, flat)
    sums = np.zeros((len(words), rows.shape[1]), np.float32)
    np.add.at(sums, np.repeat(np.arange(len(words)), counts), rows)
    return Words(ids, sums / np.maximum(counts, 1)[:, None])


def _ids(tokenizer: Tokenizer, words: Sequence[str]) -> list[tuple[int, ...]]:
    before = " " if tokenizer.kind == "bpe" else ""  # as in the middle of a text
    encoded = tokenizer.encode([before + word for word in words])
    result = []
    for i, word in enumerate(words):
        whole = tokenizer.find(word) if tokenizer.kind == "word" else None
        found = encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist() if whole is None else [whole]
        result.append(() if tokenizer.unk in found else tuple(found))
    return result


@torch.no_grad()
def table_rows(learner: Learner, ids: np.ndarray) -> np.ndarray:
    """(N,) ids to their embeddings (N, D) float32: of static vectors the whole of them, n-grams and contexts included."""
    encoder = learner.encoder
    places = torch.from_numpy(ids).to(encoder.tokens.weight.device)
    if not len(ids):
        return np.zeros((0, encoder.tokens.embedding_dim), np.float32)
    rows = encoder.vectors(places) if isinstance(encoder, Static) else encoder.tokens.weight[places]
    return rows.float().cpu().numpy()


def listed(model: Model) -> WordVectors:
    """All pieces of a model's vocabulary but the special ones, as they are written there, and their embeddings."""
    tokenizer = model.tokenizer
    ids = np.setdiff1d(np.arange(tokenizer.vocab_size), list(tokenizer.special))
    return WordVectors([tokenizer.token(int(i)) for i in ids], table_rows(model.learner, ids), None, "model", 0, 0)


def embeddings_hash(path: str) -> str:
    """SHA-256 of what `begin_with` takes its vectors from: a run is only continued with the same."""
    return files.sha256(find_step(path) / "model.safetensors" if Path(path).is_dir() else Path(path))


def begin_with(learner: Learner, tokenizer: Tokenizer, path: str) -> None:
    """Put word vectors in place of the random embeddings of the pieces that are words; says how many there were.

    `path` is a file of word vectors, or a model, whose pieces then are the words. A piece is looked for as it is written,
    then in lower case; pieces that continue a word, and those without a vector, stay random. Raises `UsageError` where the
    widths differ.
    """
    source = listed(open_model(find_step(path))) if Path(path).is_dir() else read_vectors(Path(path))
    if isinstance(learner.encoder, Static) and learner.encoder.ngrams is not None:
        message = "embeddings are for models without n-grams: a word's own row is only a part of its vector there"
        raise UsageError(message, where=path, fix="encoderkit import FILE --out DIR, then checkpoint: DIR; or model.ngrams=0")
    tokens = learner.encoder.tokens
    table: Tensor = (tokens.base if isinstance(tokens, Shifted) else tokens).weight  # a difference to it begins at zero
    if (width := source.table.shape[1]) != table.shape[1]:
        config = learner.encoder_config
        narrow = hasattr(config, "embedding_dim") and not isinstance(config, GptConfig)
        key = f"embedding_dim={'null' if width == config.dim else width}" if narrow else f"dim={width}"
        message = f"its vectors have {width} numbers, and the embeddings of the model {table.shape[1]}"
        raise UsageError(message, where=path, fix=f"--set model.{key}")
    words = tokenizer.pieces_as_words()
    vectors, known = source.vectors([word or "" for word in words])
    lower, known_lower = source.vectors([(word or "").lower() for word in words])
    vectors[~known], known = lower[~known], known | known_lower
    known &= np.array([word is not None for word in words])
    with torch.no_grad():
        table[torch.from_numpy(np.flatnonzero(known))] = torch.from_numpy(vectors[known]).to(table)
        if isinstance(learner.encoder, Static) and learner.encoder.contexts is not None:
            nn.init.zeros_(learner.encoder.contexts.weight)
    able = sum(word is not None for word in words)
    say(f"{path}: vectors for {int(known.sum()):,} of the {able:,} words among the {vocabulary_of(tokenizer).size:,} pieces")
    if source.broken or source.repeated:
        say(f"{path}: {source.broken:,} of its words are not valid UTF-8, {source.repeated:,} were there already")
