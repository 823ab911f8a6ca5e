"""GloVe: products of word and context vectors fit the logarithms of how often words are near one another.

Pennington et al. 2014, "GloVe: Global Vectors for Word Representation", equation 8. The examples are tiles of the
matrix of counts, not rows of text: each pair of words that occurs is seen once an epoch, in an order drawn from the seed.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from encoderkit.console import say
from encoderkit.data.blocks import Rows
from encoderkit.data.cooccurrence import Cells, Portion, cooccurrences
from encoderkit.errors import DataError, UsageError
from encoderkit.learner import Batch, Export, Vocabulary
from encoderkit.models.build import build_encoder
from encoderkit.models.config import StaticConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.static import Static, sparse_rows
from encoderkit.objectives.config import GloveConfig
from encoderkit.objectives.places import Places, spread

TILE = 1024
"""Words, and contexts, of which an example has all the counts."""


class Glove(nn.Module):
    """Two tables and two columns of biases; the context table is the encoder's where `model.context` is `add`."""

    def __init__(self, config: GloveConfig, encoder: Any, vocabulary: Vocabulary, length: int) -> None:
        super().__init__()
        assert isinstance(encoder, StaticConfig), "the recipe says so to the user"
        self.config, self.encoder_config, self.vocabulary, self.length = config, encoder, vocabulary, length
        self.encoder = build_encoder(encoder, vocabulary.size, vocabulary.pad)
        assert isinstance(self.encoder, Static)
        self.head = nn.Identity() if self.encoder.contexts else nn.Embedding(vocabulary.size, encoder.dim)
        self.bias, self.context_bias = (nn.Parameter(torch.zeros(vocabulary.size)) for _ in range(2))
        with torch.no_grad():
            if isinstance(self.head, nn.Embedding):
                self.head.weight.uniform_(-0.5 / encoder.dim, 0.5 / encoder.dim)
            for table in (self.encoder.tokens.weight, self.contexts):
                table[list(vocabulary[1:6])] = 0  # [UNK] and the like: no text trains them
        self.weights = {"glove": 1.0}
        self.directions: dict[str, Literal["min", "max"]] = {"loss": "min"}
        self.monitor = "loss"

    @property
    def contexts(self) -> Tensor:
        """(V, D): the vectors of words as contexts."""
        assert isinstance(self.encoder, Static)
        table = self.encoder.contexts if self.encoder.contexts is not None else self.head
        assert isinstance(table, nn.Embedding)
        return table.weight

    def survey(self, rows: Rows) -> Cells:
        """Count which words are near one another; portions of the counts are the examples."""
        skip = np.array(sorted(set(self.vocabulary[1:6])))
        counts = cooccurrences(rows.chunks(), self.vocabulary.size, self.config.window, skip)
        if not counts.nnz:
            raise DataError(
                "no two known words stand near one another; there is nothing to fit",
                fix="more text, or a larger objective.window",
            )
        say(f"{counts.nnz:,} pairs of words are near one another")
        return Cells(counts, TILE)

    def collate(self, examples: Sequence[Portion], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Portions end to end: (N,) logarithms of the counts, and their weights; nothing is drawn."""
        if progress is None:
            message = "GloVe fits the counts of a text, and has no measure for another"
            raise UsageError(message, fix="encoderkit evaluate MODEL --suite wordsim --data FILE")
        counts = np.concatenate([part.counts for part in examples])
        weight = np.minimum(counts / self.config.x_max, 1) ** self.config.alpha
        words = Places.of(np.concatenate([part.ids for part in examples]).astype(np.int64))
        contexts = Places.of(np.concatenate([part.others for part in examples]).astype(np.int64))
        made = {"log": torch.from_numpy(np.log(counts)), "weight": torch.from_numpy(weight.astype(np.float32))}
        made |= words.named("words") | contexts.named("contexts")
        return Batch(Inputs.of(words.rows[None]), made, {"glove": float(len(counts))}, len(counts))

    def _errors(self, targets: dict[str, Tensor]) -> Tensor:
        words, contexts = Places.found("words", targets), Places.found("contexts", targets)
        assert isinstance(self.encoder, Static)
        left = spread(self.encoder.words(words.rows, sparse=True), words)  # (N, D)
        right = spread(sparse_rows(self.contexts, contexts.rows), contexts)
        biases = sparse_rows(self.bias, words.rows)[words.which] + sparse_rows(self.context_bias, contexts.rows)[contexts.which]
        return (left * right).sum(-1) + biases - targets["log"]

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum of the weighted squares of the errors."""
        return {"glove": (targets["weight"] * self._errors(targets).square()).sum()}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted square of each error."""
        return {"squares": targets["weight"] * self._errors(targets).square()}

    def exported(self) -> Export | str:
        """Not to transformers, which has no class for word vectors."""
        return "word vectors are handed over with --to word2vec"

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Their mean."""
        return {"loss": float(observed["squares"].mean(dtype=np.float64))}
