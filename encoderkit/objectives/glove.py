"""GloVe: products of word and context vectors fit the logarithms of how often words are near one another.

Pennington et al. 2014, "GloVe: Global Vectors for Word Representation", equation 8. The examples are tiles of the
matrix of counts, not rows of text: each pair of words that occurs is seen once an epoch, in an order drawn from the seed.
Each is a step of its own, as in the authors' code: added up over a tile, the steps of a frequent word would overshoot.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encoderkit.compiled import compiled
from encoderkit.console import say
from encoderkit.data.blocks import Rows
from encoderkit.data.cooccurrence import Cells, Portion, cooccurrences
from encoderkit.errors import DataError, UsageError
from encoderkit.learner import Batch, PairSteps, Vocabulary
from encoderkit.models.inputs import Inputs
from encoderkit.objectives.config import GloveConfig
from encoderkit.objectives.windows import WordVectors

TILE = 1024
"""Words, and contexts, of which an example has all the counts."""


_ROUNDS, _PLACES = 42, 1 << 20
"""Bits of the number of a round, and places that a portion may have among those of an update."""


class _Told(torch.autograd.Function):
    """A loss whose way back leaves the steps that lower it with the learner, and no gradients."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, left: list[PairSteps], steps: PairSteps, *tables: Tensor) -> Tensor:
        ctx.left, ctx.steps = left, steps
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:
        if gradients[0] != 0:  # of a batch that counts for nothing
            ctx.left.append(ctx.steps)
        return (None,) * 7


class Glove(WordVectors):
    """Two tables and two columns of biases.

    Its updates are `Stepwise`: there are no gradients, and so no norm of them.
    """

    config: GloveConfig

    def __init__(self, config: GloveConfig, encoder: Any, vocabulary: Vocabulary, length: int) -> None:
        super().__init__(config, encoder, vocabulary, length)
        self.bias, self.context_bias = (nn.Parameter(torch.zeros(vocabulary.size)) for _ in range(2))
        self.steps: list[PairSteps] = []

    def begin(self) -> None:
        """As those of words; the encoder's has its values already."""
        if isinstance(self.head, nn.Embedding):
            self.head.weight.uniform_(-0.5 / self.encoder.dim, 0.5 / self.encoder.dim)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the steps as well."""
        super().zero_grad(set_to_none)
        self.steps.clear()

    @property
    def tables(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Words, contexts, and the biases of both."""
        return self.encoder.tokens.weight, self.contexts, self.bias, self.context_bias

    @property
    def single_threaded(self) -> bool:
        """Whether there is compiled code for the steps, which come one after the other."""
        return compiled(_squares, fastmath=True) is not None

    def survey(self, rows: Rows) -> Cells:
        """Count which words are near one another; portions of the counts are the examples."""
        skip = np.array(sorted(set(self.vocabulary[1:6])))
        counts = cooccurrences(rows.chunks(), self.vocabulary.size, self.config.window, skip)
        if not counts.nnz:
            fix = "more text, or a larger objective.window"
            raise DataError("no two known words stand near one another; there is nothing to fit", fix=fix)
        say(f"{counts.nnz:,} pairs of words are near one another")
        return Cells(counts, TILE)

    def collate(self, examples: Sequence[Portion], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Portions end to end: (N,) logarithms of the counts, and their weights; drawn is only which of them comes first."""
        if progress is None:
            message = "GloVe fits the counts of a text, and has no measure for another"
            raise UsageError(message, fix="encoderkit evaluate MODEL --suite wordsim --data FILE")
        counts = np.concatenate([part.counts for part in examples])
        weight = np.minimum(counts / self.config.x_max, 1) ** self.config.alpha
        made = {"log": np.log(counts), "weight": weight.astype(np.float32)}
        for name, column in (("words", "ids"), ("contexts", "others")):
            made[name] = np.concatenate([getattr(part, column) for part in examples])
        # The same portion may be there twice, of two epochs; its rounds are then others.
        drawn = [int(rng.integers(_PLACES)) << _ROUNDS for rng in rngs]
        made["rounds"] = np.concatenate([part.rounds + first for part, first in zip(examples, drawn, strict=True)])
        targets = {name: torch.from_numpy(values) for name, values in made.items()}
        return Batch(Inputs.of(targets["words"][None]), targets, {"glove": float(len(counts))}, len(counts))

    def _squares(self, targets: dict[str, Tensor]) -> Tensor:
        """(N,) the weighted square of each error."""
        given = [targets[name] for name in ("words", "contexts", "log", "weight")]
        fits = all(one.device.type == "cpu" and one.dtype == torch.float32 for one in self.tables)
        if fits and (squares := compiled(_squares, fastmath=True)) is not None:
            found = torch.empty_like(given[-1])
            squares(*(one.detach().numpy() for one in (*self.tables, *given, found)))
            return found
        words, contexts, goals, weights = given
        left, right, left_bias, right_bias = self.tables
        errors = (left[words] * right[contexts]).sum(-1) + left_bias[words] + right_bias[contexts] - goals
        return weights * errors.square()

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum of the weighted squares of the errors."""
        with torch.no_grad():
            loss = self._squares(targets).sum()
        steps = PairSteps(self.tables, *(targets[name] for name in ("words", "contexts", "log", "weight", "rounds")))
        return {"glove": _Told.apply(loss, self.steps, steps, *self.tables)}  # pyright: ignore[reportReturnType]

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weighted square of each error."""
        return {"squares": self._squares(targets)}

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Their mean."""
        return {"loss": float(observed["squares"].mean(dtype=np.float64))}


def _squares(
    left: np.ndarray, right: np.ndarray, left_bias: np.ndarray, right_bias: np.ndarray,
    words: np.ndarray, contexts: np.ndarray, goals: np.ndarray, weights: np.ndarray, found: np.ndarray,
) -> None:  # fmt: skip
    """Compiled: the weighted square of each pair's error, into `found`; a tenth of the time of torch's, which copies all rows."""
    for n in range(len(words)):
        a, b = left[words[n]], right[contexts[n]]
        product = np.float32(0)
        for d in range(len(a)):
            product += a[d] * b[d]
        error = product + left_bias[words[n]] + right_bias[contexts[n]] - goals[n]
        found[n] = weights[n] * error * error
