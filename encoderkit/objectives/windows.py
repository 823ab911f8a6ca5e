"""Words in windows, told apart from drawn words: what skip-gram and CBOW have in common, and their tables with GloVe.

Mikolov et al. 2013, "Distributed Representations of Words and Phrases", sections 2.2 and 2.3; word2vec.c. A row of text is
thinned (frequent words are dropped, unknown ones too) and cut into blocks of neighbouring words. A block is told apart from
the same few drawn words (Ji et al. 2016, "Parallelizing Word2Vec in Shared and Distributed Memory"), which makes its
scores products of small matrices: several times fewer rows are read and moved than word by word. The gradients of a batch
are summed; each row of a table that occurs in it moves once.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from encoderkit.data.blocks import Row, Rows
from encoderkit.learner import Export, Vocabulary, directions
from encoderkit.models.build import build_encoder
from encoderkit.models.config import StaticConfig
from encoderkit.models.static import Static, sparse_rows
from encoderkit.objectives.config import CbowConfig, SkipGramConfig
from encoderkit.objectives.places import Places, spread

NOISE = 1 << 20
"""Entries of the table that negatives are drawn from; looking them up in the distribution itself takes ten times as long."""


class Thinned(NamedTuple):
    """Rows of text without the words that were dropped, end to end, W empty places before, between and after them."""

    words: np.ndarray
    """(P,) int64; [PAD] where it is empty."""
    documents: np.ndarray
    """(P,) int64; 0 where it is empty."""
    reach: np.ndarray
    """(P,) int64: how far the window of a word goes on either side."""
    blocks: np.ndarray
    """(G, S) int64: the places of the words of each block, of one row, and empty ones after the last."""
    drawn: np.ndarray
    """(G, K) int64: words drawn from the noise."""


class WordVectors(nn.Module):
    """Two tables of word vectors; the second is the encoder's where `model.context` is `add`."""

    def __init__(self, config: Any, encoder: Any, vocabulary: Vocabulary, length: int) -> None:
        super().__init__()
        assert isinstance(encoder, StaticConfig), "the recipe says so to the user"
        self.config, self.encoder_config, self.vocabulary, self.length = config, encoder, vocabulary, length
        made = build_encoder(encoder, vocabulary.size, vocabulary.padding)
        assert isinstance(made, Static)
        self.encoder = made
        self.head: nn.Module = nn.Identity() if made.contexts else nn.Embedding(vocabulary.size, encoder.dim)
        with torch.no_grad():
            self.begin()
            for table in (made.tokens.weight, self.contexts):
                table[list(vocabulary[1:6])] = 0  # [UNK] and the like: no text trains them
        self.weights = {config.kind: 1.0}
        self.directions = directions(*config.metrics)
        self.monitor = "loss"

    def begin(self) -> None:
        """Give the second table its first values."""
        nn.init.zeros_(self.contexts)

    @property
    def contexts(self) -> Tensor:
        """(V, D): the vectors of words as contexts, or as targets."""
        table = self.encoder.contexts if self.encoder.contexts is not None else self.head
        assert isinstance(table, nn.Embedding)
        return table.weight

    def exported(self) -> Export | str:
        """Not to transformers, which has no class for word vectors."""
        return "word vectors are handed over with --to word2vec"


class Sampled(WordVectors):
    """The frequencies and the collation; a subclass has the loss."""

    config: SkipGramConfig | CbowConfig

    def __init__(self, config: SkipGramConfig | CbowConfig, encoder: Any, vocabulary: Vocabulary, length: int) -> None:
        super().__init__(config, encoder, vocabulary, length)
        self.frequency = nn.Buffer(torch.zeros(vocabulary.size, dtype=torch.int64))
        self._tables: tuple[np.ndarray, np.ndarray] | None = None

    def survey(self, rows: Rows) -> Rows:
        """Count the words; the rows are the examples."""
        counts = np.zeros(self.vocabulary.size, np.int64)
        for ids, _ in rows.chunks():
            counts += np.bincount(ids, minlength=len(counts))
        counts[list(self.vocabulary[1:6])] = 0
        self.frequency.copy_(torch.from_numpy(counts))
        self._tables = None
        return rows

    def tables(self) -> tuple[np.ndarray, np.ndarray]:
        """(V,) the chance of each word to be kept, and the noise as a table to draw from, each word as often as is its share."""
        if self._tables is None:
            counts = self.frequency.cpu().numpy().astype(np.float64)
            share = counts / max(counts.sum(), 1)
            keep = (counts > 0).astype(np.float64)
            if self.config.subsample is not None:  # as word2vec.c has it, not as the paper
                ratio = self.config.subsample / np.maximum(share, 1e-30)
                keep *= np.minimum(1, np.sqrt(ratio) + ratio)
            weight = np.where(counts > 0, counts**self.config.noise_power, 0)
            ends = np.cumsum(weight) / max(weight.sum(), 1e-30)
            drawn = np.searchsorted(ends, (np.arange(NOISE) + 0.5) / NOISE)
            self._tables = keep, np.minimum(drawn, len(counts) - 1).astype(np.int32)  # half the cache
        return self._tables

    def thinned(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator]) -> Thinned:
        """Thin rows and cut them into blocks; all that is drawn for a row is drawn from its own generator."""
        size, wide = self.config.block, self.config.window
        keep, noise = self.tables()
        parts, drawn, begins, at = [np.zeros((3, wide), np.int64)], [], [], wide
        for row, rng in zip(examples, rngs, strict=True):
            kept = rng.random(len(row.ids)) < keep[row.ids]
            count = int(kept.sum())
            blocks = -(-count // size)
            part = np.zeros((3, blocks * size + wide), np.int64)
            part[0, :count], part[1, :count] = row.ids[kept], row.documents[kept]
            part[2, :count] = rng.integers(1, wide + 1, count) if self.config.shrink == "dynamic" else wide
            drawn.append(noise[rng.integers(0, len(noise), (blocks, self.config.draws))])
            begins.append(np.arange(at, at + blocks * size, size))
            parts.append(part)
            at += blocks * size + wide
        words, documents, reach = np.concatenate(parts, 1)
        return Thinned(words, documents, reach, np.concatenate(begins)[:, None] + np.arange(size), np.concatenate(drawn))

    def words_at(self, places: Places) -> Tensor:
        """The vectors of words as inputs, (..., D) in the shape of the ids."""
        return spread(self.word_rows(places.rows), places)

    def word_rows(self, rows: Tensor) -> Tensor:
        """(R,) -> (R, D): the vectors of single words as inputs."""
        return self.encoder.words(rows, sparse=torch.is_grad_enabled())

    def outputs_at(self, places: Places) -> Tensor:
        """The vectors of words as targets, (..., D) in the shape of the ids."""
        return spread(sparse_rows(self.contexts, places.rows), places)

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """The mean over targets of the loss: that of a target and of its negatives."""
        return {"loss": float(observed["nats"].sum(dtype=np.float64) / max(observed["targets"].sum(dtype=np.float64), 1))}
