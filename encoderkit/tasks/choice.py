"""Multiple choice: which of several options answers a question or continues a text (Devlin et al. 2019, section 4.4).

Each option is read together with the question and has one score; the softmax is over the options of a question, of which
there may be more in one row than in another.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torch.nn.utils.rnn import pad_sequence

from encoderkit.data.labelled import Row
from encoderkit.learner import Batch, Export, Vocabulary
from encoderkit.metrics import bootstrap_means
from encoderkit.models.build import build_classification_head
from encoderkit.models.config import EncoderConfig
from encoderkit.models.decoding import NEVER
from encoderkit.models.inputs import Inputs
from encoderkit.tasks import truth
from encoderkit.tasks.config import ChoiceConfig
from encoderkit.tasks.losses import disagreement, in_passes, weights_of
from encoderkit.tasks.task import Baseline, EncoderTask, Observed
from encoderkit.tasks.texts import SIZE, Tokens, assemble
from encoderkit.text.tokenizers import Tokenizer


class Example(NamedTuple):
    """A question with its options."""

    texts: tuple[Tokens, ...]
    """The question with each option."""
    target: int | None
    """The number of the right option, from 0; None: not known."""
    row: int = 0
    """The number of its row."""

    size = SIZE


class Choice(EncoderTask):
    """Encoder, pooling and the head of a classifier with one output: the score of an option."""

    config: ChoiceConfig

    def __init__(
        self, config: ChoiceConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int, labels: Sequence[str] = ()
    ) -> None:
        """`length`: the tokens that a question has at most with one of its options."""
        super().__init__(config, encoder, vocabulary, length, labels)
        self.head = build_classification_head(encoder, 1, config.dropout)
        self.weights = weights_of("choice", config.rdrop)
        self.monitor = "accuracy"
        self.baselines: tuple[Baseline, ...] = ("majority", "nearest")
        self.fields = ["text", "options", "label", "answer", "probabilities", "truncated"]

    def texts(self, row: Row) -> list[str]:
        """The question and its options; raises `DataError` for fewer than two."""
        return [row.text(self.config.text), *truth.options(row, self.config)]

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, labelled: bool = True) -> list[Example]:
        """Rows as examples; raises `DataError` with file and line for a label that names no option."""
        questions = [self.texts(row) for row in rows]
        tokens = iter(assemble([[text, option] for text, *options in questions for option in options], tokenizer, self.length))
        return [
            Example(tuple(next(tokens) for _ in question[1:]), truth.option(row, self.config) if labelled else None, i)
            for i, (row, question) in enumerate(zip(rows, questions, strict=True))
        ]

    def collate(
        self, examples: Sequence[Example], rngs: Sequence[np.random.Generator] = (), progress: float | None = None
    ) -> Batch:
        """Examples to a batch, all options in it one after the other; nothing is drawn but dropout, in training."""
        inputs, size = self.batched([example.texts for example in examples], rngs)
        targets = {"options": torch.tensor([len(example.texts) for example in examples])}
        if examples[0].target is None:
            return Batch(inputs, targets, {}, size)
        targets["labels"] = torch.tensor([example.target for example in examples])
        return Batch(inputs, targets, dict.fromkeys(self.weights, len(examples)), size)

    def _apart(self, inputs: Inputs, targets: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """For each of N questions (n,) the scores of its options."""
        return self.logits(inputs)[:, 0].split(targets["options"].tolist())

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of the right option among those of its question, smoothed; with R-Drop that of two passes."""
        goal = self._goal(targets)
        return in_passes(
            self.weights,
            inputs,
            lambda inputs: pad_sequence([*self._apart(inputs, targets)], batch_first=True, padding_value=NEVER),
            lambda scores: cross_entropy(scores, goal, reduction="none"),
            disagreement,
        )

    def _goal(self, targets: dict[str, Tensor]) -> Tensor:
        """(N, n) the probability that each option should have; 0 for those that a question has not."""
        counts, smoothing = targets["options"][:, None], self.config.label_smoothing
        there = torch.arange(int(counts.max()), device=counts.device) < counts
        return (1 - smoothing) * one_hot(targets["labels"], there.shape[1]) + smoothing * there / counts

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, list[Tensor]]:
        """The scores of the options of each question."""
        return {"scores": [*self._apart(inputs, targets)]}

    def metrics(self, examples: Sequence[Example], observed: Observed) -> dict[str, float]:
        """Loss and accuracy."""
        gold, loss = np.array([example.target for example in examples]), float(self.losses(examples, observed).mean())
        return {"loss": loss, **self.score(gold, self.decide(examples, observed))}

    def losses(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) the cross-entropy of each row."""
        gold = [example.target for example in examples]
        return np.array([-_log_softmax(scores)[right] for scores, right in zip(observed["scores"], gold, strict=True)])

    def confidence(self, examples: Sequence[Example], observed: Observed) -> tuple[np.ndarray, np.ndarray]:
        """The probability of the likeliest option."""
        p = np.array([np.exp(_log_softmax(scores).max()) for scores in observed["scores"]])
        return p, np.array([scores.argmax() for scores in observed["scores"]]) == [e.target for e in examples]

    def gold(self, rows: Sequence[Row]) -> np.ndarray:
        """(N,) numbers of the right options."""
        return np.array([truth.option(row, self.config) for row in rows])

    def decide(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) numbers of the likeliest options."""
        return np.array([int(scores.argmax()) for scores in observed["scores"]])

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Accuracy."""
        return {"accuracy": float((gold == predicted).mean())}

    def intervals(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
        """Of `score`, over rows."""
        return bootstrap_means({"accuracy": gold == predicted})

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], observed: Observed, top: int | None
    ) -> Iterator[dict[str, Any]]:
        """The number and the text of the likeliest option, and the probability of each."""
        for row, example, scores in zip(rows, examples, observed["scores"], strict=True):
            (text, *options), chosen = self.texts(row), int(scores.argmax())
            yield {
                "text": text,
                "options": options,
                "label": chosen + self.config.first,
                "answer": options[chosen],
                "probabilities": [float(f"{p:.6g}") for p in np.exp(_log_softmax(scores))],
                "truncated": any(text.cut > 0 for text in example.texts),
            }

    def probe(self, tokens: Tokens) -> Example:
        """One option."""
        return Example((tokens,), None)

    def exported(self) -> Export:
        """As transformers' sequence classifiers with one output: the score of a question with one of its options."""
        pooling, dropout = self.config.pooling, self.config.dropout
        return Export("classify", self.state_dict(), self.logits, ("score",), "regression", pooling, dropout)


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    return torch.from_numpy(scores).double().log_softmax(-1).numpy()
