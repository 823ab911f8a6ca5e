"""Classification of a text or a pair of texts, with one label or several (Devlin et al. 2019, section 4.1).

Labels are strings from the data to the prediction; their order is frozen in `labels.json` beside the model.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, shown
from encoderkit.learner import Batch, Encoder, Vocabulary
from encoderkit.metrics import confusion, outcomes, several_labels, single_label, tally
from encoderkit.models.build import build_classification_head, build_encoder
from encoderkit.models.config import EncoderConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import apart, pool
from encoderkit.tasks.config import ClassifyConfig
from encoderkit.tasks.texts import Tokens, assemble, inputs_of
from encoderkit.text.tokenizers import Tokenizer


class Example(NamedTuple):
    """A text and its label."""

    tokens: Tokens
    target: int | np.ndarray
    """The number of its label, or (L,) of 0 and 1 where there may be several."""


class Classify(nn.Module):
    """Encoder, pooling and a classification head that transformers' classes have too, so that it can be exported."""

    def __init__(
        self, config: ClassifyConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int, labels: Sequence[str]
    ) -> None:
        """`labels`: all of them, in the order of the outputs; `length`: the tokens an example has at most."""
        super().__init__()
        self.config, self.vocabulary, self.length, self.labels = config, vocabulary, length, list(labels)
        self._numbers = {label: i for i, label in enumerate(self.labels)}
        self.encoder_config = encoder
        self.encoder: Encoder = build_encoder(encoder, vocabulary.size, vocabulary.pad)
        self.head = build_classification_head(encoder, len(self.labels), config.dropout)
        self.weights = {"classify": 1.0}
        self.directions: dict[str, Literal["min", "max"]] = {
            "loss": "min",
            "accuracy": "max",
            "macro_f1": "max",
            **({"micro_f1": "max"} if config.several else {"mcc": "max"}),
        }
        self.monitor = "macro_f1" if config.several else "accuracy"
        self.register_buffer("class_weights", torch.ones(len(self.labels)), persistent=False)

    def weigh(self, examples: Sequence[Example]) -> None:
        """Set the weight of each label in the loss from the recipe and, for `balanced`, from the training examples."""
        weights = self.config.class_weights
        if weights is None:
            return
        if weights == "balanced":
            counts = np.zeros(len(self.labels))
            for example in examples:
                counts += np.eye(len(self.labels))[example.target] if isinstance(example.target, int) else example.target
            values = counts.sum() / (len(self.labels) * np.maximum(counts, 1))
        else:
            unknown = set(weights) - set(self.labels)
            if unknown:
                raise DataError(
                    f"task.class_weights names {shown(min(unknown))}, which is not one of the labels: {_listed(self.labels)}"
                )
            values = np.array([weights.get(label, 1.0) for label in self.labels])
        self.class_weights = torch.tensor(values, dtype=torch.float32, device=self.class_weights.device)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer) -> list[Example]:
        """Rows as examples; raises `DataError` with file and line for a label that is not known."""
        texts = [[row.text(column) for column in self.config.columns] for row in rows]
        tokens = assemble(texts, tokenizer, self.length)
        return [Example(own, self.target(row)) for row, own in zip(rows, tokens, strict=True)]

    def target(self, row: Row) -> int | np.ndarray:
        """The number of a row's label, or (L,) of 0 and 1; raises `DataError` for a label that is not known."""
        names = _names(row, self.config)
        for name in names:
            if name not in self._numbers:
                raise DataError(
                    f"label {shown(name)} was not seen in training; the labels are: {_listed(self.labels)}",
                    where=row.place,
                    fix="correct the row, or train with it",
                )
        if not self.config.several:
            return self._numbers[names[0]]
        return np.array([label in names for label in self.labels], dtype=np.int64)

    def collate(
        self, examples: Sequence[Example], rngs: Sequence[np.random.Generator] = (), progress: float | None = None
    ) -> Batch:
        """Examples to a batch, packed where the encoder can; nothing is random but word dropout, in training."""
        rows = [example.tokens for example in examples]
        if self.config.word_dropout and progress is not None:
            rows = [self._with_words_dropped(row, rng) for row, rng in zip(rows, rngs, strict=True)]
        inputs = inputs_of(rows, self.vocabulary.pad, self.encoder.packs)
        labels = torch.from_numpy(np.array([example.target for example in examples]))
        # The count goes with the weights, as in torch's weighted mean.
        count = labels.numel() if self.config.several else float(self.class_weights.cpu()[labels].sum())
        return Batch(inputs, {"labels": labels}, {"classify": count}, sum(len(row.ids) for row in rows))

    def _with_words_dropped(self, row: Tokens, rng: np.random.Generator) -> Tokens:
        special = (row.ids == self.vocabulary.cls) | (row.ids == self.vocabulary.sep)
        dropped = (rng.random(len(row.ids)) < self.config.word_dropout) & ~special
        return row._replace(ids=np.where(dropped, self.vocabulary.mask, row.ids))

    def logits(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens, N texts in them, to (N, L) scores before softmax (sigmoid for several labels)."""
        return self.head(pool(self.config.pooling, *apart(self.encoder(inputs), inputs))).float()

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy (several labels: of each label on its own), weighted and smoothed."""
        return {"classify": self._nats(self.logits(inputs), targets["labels"], self.config.label_smoothing).sum()}

    def _nats(self, logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        if self.config.several:
            goal = labels.float() * (1 - smoothing) + smoothing / 2
            return binary_cross_entropy_with_logits(logits, goal, weight=self.class_weights, reduction="none")
        return cross_entropy(logits, labels, self.class_weights, reduction="none", label_smoothing=smoothing)

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The scores and the label of each example."""
        return {"logits": self.logits(inputs), "labels": targets["labels"]}

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(N, L) scores to probabilities: of one label (they add up to 1), or of each on its own."""
        scores = torch.from_numpy(logits)
        return (scores.sigmoid() if self.config.several else scores.softmax(-1)).numpy()

    def decide(self, logits: np.ndarray) -> np.ndarray:
        """(N, L) scores to the number of the likeliest label (N,), or (N, L) bool: those above one half."""
        return logits > 0 if self.config.several else logits.argmax(-1)

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Loss (without weights and smoothing), accuracy, macro F1, and Matthews' correlation or micro F1."""
        logits, labels = observed["logits"], observed["labels"]
        scores = torch.from_numpy(logits).double()
        goal = torch.from_numpy(labels)
        if self.config.several:
            loss = binary_cross_entropy_with_logits(scores, goal.double())
            predicted = self.decide(logits)
            values = several_labels(outcomes(labels, predicted).sum(0))
            values["accuracy"] = (predicted == labels.astype(bool)).all(-1).mean()
        else:
            loss = cross_entropy(scores, goal)
            values = single_label(tally(confusion(labels, self.decide(logits), len(self.labels))))
        return {"loss": float(loss), **{name: float(values[name]) for name in self.directions if name != "loss"}}


def _listed(labels: Sequence[str]) -> str:
    """Some of the labels, as they may stand in a message."""
    return ", ".join(shown(label, 30)[1:-1] for label in labels[:20]) + (", ..." if len(labels) > 20 else "")


def _names(row: Row, config: ClassifyConfig) -> list[str]:
    """The names of the labels of a row."""
    if isinstance(config.label, str):
        return row.labels(config.label) if config.several else [row.label(config.label)]
    marks = {column: row.label(column) for column in config.label}
    for column, mark in marks.items():
        if mark not in ("0", "1"):
            raise DataError(f"column {shown(column)} holds {shown(mark)}, and should hold 0 or 1", where=row.place)
    return [column for column, mark in marks.items() if mark == "1"]


def find_labels(rows: Sequence[Row], config: ClassifyConfig) -> list[str]:
    """The labels in the data, sorted; whole numbers in their order."""
    if isinstance(config.label, list):
        return list(config.label)
    found = {name for row in rows for name in _names(row, config)}
    return sorted(found, key=lambda name: (0, int(name), "") if name.isdecimal() and name.isascii() else (1, 0, name))
