"""Classification of a text or a pair of texts, with one label or several (Devlin et al. 2019, section 4.1).

Labels are strings from the data to the prediction; their order is frozen in `labels.json` beside the model.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from encoderkit.console import warn
from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, listed, shown
from encoderkit.learner import Batch, Export, Vocabulary
from encoderkit.metrics import (
    bootstrap_several,
    bootstrap_single,
    confusion,
    outcomes,
    per_class,
    several_labels,
    single_label,
    tally,
)
from encoderkit.models.build import build_classification_head
from encoderkit.models.config import EncoderConfig
from encoderkit.models.inputs import Inputs
from encoderkit.tasks import truth
from encoderkit.tasks.calibration import best_cut
from encoderkit.tasks.config import ClassifyConfig
from encoderkit.tasks.losses import (
    against,
    class_weights,
    disagreement,
    each_of,
    focal,
    in_passes,
    labelled,
    one_of,
    soften,
    weights_of,
)
from encoderkit.tasks.task import APART, Baseline, EncoderTask, Observed
from encoderkit.tasks.texts import SIZE, Tokens, named, names_of
from encoderkit.text.tokenizers import Tokenizer


class Example(NamedTuple):
    """A text and its label."""

    texts: tuple[Tokens, ...]
    """What the encoder reads: one, or two that are encoded apart."""
    target: int | np.ndarray | None
    """The number of its label, or (L,) of 0 and 1 where there may be several; None: not known."""
    row: int = 0
    """The number of its row."""
    soft: np.ndarray | None = None
    """(L,) the probabilities that a teacher gives the labels, if it is trained on them."""

    size = SIZE


class Classify(EncoderTask):
    """Encoder, pooling and a classification head that transformers' classes have too, so that it can be exported."""

    config: ClassifyConfig
    class_weights: Tensor
    """(L,) of each label in the loss."""
    cuts: Tensor
    """(L,) of several labels the logit that each must exceed; kept with the weights where the dev set has chosen it."""

    def __init__(
        self, config: ClassifyConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int, labels: Sequence[str]
    ) -> None:
        """`labels`: all of them, in the order of the outputs; `length`: the tokens an example has at most."""
        super().__init__(config, encoder, vocabulary, length, labels)
        if config.word_dropout and vocabulary.mask == vocabulary.sep:
            raise DataError("this tokenizer has no [MASK] to put in place of words", fix="--set task.word_dropout=0")
        self._numbers = {label: i for i, label in enumerate(self.labels)}
        self.head = build_classification_head(encoder, len(self.labels), config.dropout, 4 if config.apart else 1)
        self.weights = weights_of("classify", config.rdrop)
        self._chances = each_of if config.several else one_of
        self.monitor = "macro_f1" if config.several else "accuracy"
        self.baselines: tuple[Baseline, ...] = ("majority", "tfidf")
        self.choices = len(self.labels)
        self.fields = [*names_of(config.columns), "labels" if config.several else "label", "truncated"]
        self.fields += [f"score:{label}" for label in self.labels]
        self.register_buffer("class_weights", torch.ones(len(self.labels)), persistent=False)
        self._class_weights = np.ones(len(self.labels))  # the same where batches are made, for which no GPU is to wait
        given = 0.5 if config.threshold == "dev" else config.threshold
        cuts = torch.full((len(self.labels),), float(np.log(given / (1 - given))))
        self.register_buffer("cuts", cuts, persistent=config.several and config.threshold == "dev")

    @staticmethod
    def find_labels(rows: Sequence[Row], config: ClassifyConfig) -> list[str]:
        """The labels in the data, sorted; whole numbers in their order. Raises `DataError` where there is no choice."""
        if isinstance(config.label, list):
            return list(config.label)
        each = [truth.labels_of(row, config) for row in rows]
        found = {name for names in each for name in names}
        if config.several and {*map(len, each)} == {1}:
            how = "several are a list in .jsonl, or a column of 0 and 1 for each label; else leave task.multiple out"
            warn(f"{rows[0].source}: every row has one label in {shown(str(config.label))}, and task.multiple is set; {how}")
        taught = {name for row in rows for name in truth.teacher(row, config) or ()}
        if taught - found:
            what = f"{shown(str(config.soft))} gives scores to labels that no row has; the model will know them too"
            warn(f"{what}: {listed(sorted(taught - found))}")
        found |= taught
        if not found:
            raise DataError("no row has a label", where=rows[0].source, fix="rows with a label; task.label names the column")
        if len(found) < 2 and not config.several:
            fix = "rows of at least two labels; task.label names the column"
            raise DataError(f"all rows have the label {shown(min(found))}; a classifier needs two", where=rows[0].source, fix=fix)
        return sorted(found, key=lambda name: (0, int(name), name) if name.isdecimal() and name.isascii() else (1, 0, name))

    def prepare(self, examples: Sequence[Example]) -> None:
        """Set the weight of each label in the loss from the recipe and, for `balanced`, from the training examples."""
        if self.config.class_weights is None:
            return
        targets: Any = np.array([example.target for example in examples])
        if targets.ndim == 2:
            counts = targets.sum(0, dtype=np.float64)
        else:
            counts = np.bincount(targets.astype(np.int64), minlength=len(self.labels)).astype(np.float64)
        of = len(examples) if self.config.several else None
        weights = class_weights(self.config.class_weights, self.labels, counts, of)
        self.class_weights.copy_(weights)
        self._class_weights = weights.double().numpy()

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, labelled: bool = True) -> list[Example]:
        """Rows as examples; raises `DataError` with file and line for a label that is not known."""
        tokens = self.laid([self.texts(row) for row in rows], tokenizer)
        pairs = enumerate(zip(rows, tokens, strict=True))
        if not labelled:
            return [Example(own, None, i) for i, (_, own) in pairs]
        return [Example(own, self.target(row), i, self._soft(row)) for i, (row, own) in pairs]

    def target(self, row: Row) -> int | np.ndarray:
        """The number of a row's label, or (L,) of 0 and 1; raises `DataError` for a label that is not known."""
        names = truth.labels_of(row, self.config)
        for name in names:
            self._check(name, row)
        if not self.config.several:
            return self._numbers[names[0]]
        return np.array([label in names for label in self.labels], dtype=np.int64)

    def _check(self, name: str, row: Row) -> None:
        if name not in self._numbers:
            raise DataError(
                f"label {shown(name)} was not seen in training; the labels are: {listed(self.labels)}",
                where=row.place,
                fix="correct the row, or train with it",
            )

    def _soft(self, row: Row) -> np.ndarray | None:
        """(L,) the probabilities that a row's teacher gives the labels, softened; None where there are none to train on."""
        scores = truth.teacher(row, self.config) if self.config.soft_share else None
        if scores is None or self.config.soft is None:
            return None
        for name in scores:
            self._check(name, row)
        if self.config.several and (missing := [label for label in self.labels if label not in scores]):
            message = f"{shown(self.config.soft)} has no score for {listed(missing)}, and a label without one is not one of 0"
            raise DataError(message, where=row.place, fix="the scores of all labels: predict without --top-k")
        p = torch.tensor([scores.get(label, 0.0) for label in self.labels], dtype=torch.float64)
        if not self.config.several and p.any() and float(p.sum()) < 0.95:
            message = f"{shown(self.config.soft)} adds up to {float(p.sum()):.2g}: it is not of all labels"
            raise DataError(message, where=row.place, fix="the scores of all labels: predict without --top-k")
        if not self.config.several and not p.any():
            fix = "give one label more than 0"
            raise DataError(f"{shown(self.config.soft)} gives every label a probability of 0", where=row.place, fix=fix)
        return soften(p, self.config.temperature, self._chances).float().numpy()

    def collate(
        self, examples: Sequence[Example], rngs: Sequence[np.random.Generator] = (), progress: float | None = None
    ) -> Batch:
        """Examples to a batch, packed where the encoder can; in training words are drawn that are dropped, and dropout is."""
        texts = [example.texts for example in examples]
        if self.config.word_dropout and progress is not None:
            texts = [tuple(self._with_words_dropped(text, rng) for text in own) for own, rng in zip(texts, rngs, strict=True)]
        inputs, size = self.batched(texts, rngs)
        if examples[0].target is None:
            return Batch(inputs, {}, {}, size)
        labels = torch.from_numpy(np.array([example.target for example in examples]))
        # The count goes with the weights, as in torch's weighted mean.
        plain = self.config.several or self.config.class_weights is None
        count = labels.numel() if plain else float(self._class_weights[labels].sum())
        targets, counts = {"labels": labels}, dict.fromkeys(self.weights, labels.numel()) | {"classify": count}
        if self.config.soft and self.config.soft_share and progress is not None:
            targets |= self._teachers(examples)
        return Batch(inputs, targets, counts, size)

    def _teachers(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """(N, L) what the teacher says, and (N, 1) the share of the loss that is against it."""
        there = torch.tensor([[float(example.soft is not None)] for example in examples])
        nothing = np.zeros(len(self.labels), np.float32)
        soft = np.stack([nothing if example.soft is None else example.soft for example in examples])
        return {"soft": torch.from_numpy(soft), "share": there * self.config.soft_share}

    def _with_words_dropped(self, row: Tokens, rng: np.random.Generator) -> Tokens:
        special = (row.ids == self.vocabulary.cls) | (row.ids == self.vocabulary.sep)
        dropped = (rng.random(len(row.ids)) < self.config.word_dropout) & ~special
        return row._replace(ids=np.where(dropped, self.vocabulary.mask, row.ids))

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy (several labels: of each label on its own), weighted and smoothed; of two passes the mean.

        With R-Drop also by how much two passes disagree.
        """
        distance = partial(disagreement, chances=self._chances)
        return in_passes(self.weights, inputs, self.logits, lambda logits: self._loss(logits, targets), distance)

    def _loss(self, logits: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """(N,), of several labels (N, L): against the labels and, by its share, against the teacher."""
        hard = self._nats(logits, targets["labels"])
        if "soft" not in targets:
            return hard
        share = targets["share"] if self.config.several else targets["share"][:, 0]
        return (1 - share) * hard + share * against(logits, targets["soft"], self.config.temperature, self._chances)

    def _nats(self, logits: Tensor, labels: Tensor) -> Tensor:
        smoothing, power = self.config.label_smoothing, self.config.focal
        if not self.config.several:
            return labelled(logits, labels, self.class_weights, smoothing, power)
        goal = labels.float() * (1 - smoothing) + smoothing / 2
        nats = binary_cross_entropy_with_logits(logits, goal, reduction="none")
        weights = 1 + labels * (self.class_weights - 1)  # of what has the label: to weigh all of it would balance nothing
        return weights * (focal(nats, power) if power else nats)

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The scores of each example."""
        return {"logits": self.logits(inputs)}

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """(N, L) scores to probabilities: of one label (they add up to 1), or of each on its own."""
        scores = torch.from_numpy(logits)
        return (scores.sigmoid() if self.config.several else scores.softmax(-1)).numpy()

    def metrics(self, examples: Sequence[Example], observed: Observed) -> dict[str, float]:
        """Loss (without weights and smoothing), accuracy, macro F1, and Matthews' correlation or micro F1."""
        labels = np.array([example.target for example in examples])
        values = self.score(labels, self.decide(examples, observed))
        loss = float(self.losses(examples, observed).mean())
        return {"loss": loss, **{name: values[name] for name in self.directions if name != "loss"}}

    def losses(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) the cross-entropy of each row, of several labels their mean; without weights and smoothing."""
        labels = np.array([example.target for example in examples])
        scores, goal = torch.from_numpy(observed["logits"]).double(), torch.from_numpy(labels)
        if self.config.several:
            return binary_cross_entropy_with_logits(scores, goal.double(), reduction="none").mean(1).numpy()
        return cross_entropy(scores, goal, reduction="none").numpy()

    def confidence(self, examples: Sequence[Example], observed: Observed) -> tuple[np.ndarray, np.ndarray]:
        """The probability of the likeliest label; of several labels that of each, N * L of them."""
        p, gold = self.probabilities(observed["logits"].astype(np.float64)), np.array([example.target for example in examples])
        return (p.ravel(), gold.ravel() > 0) if self.config.several else (p.max(1), p.argmax(1) == gold)

    def tune(self, examples: Sequence[Example], observed: Observed) -> None:
        """Set the thresholds of several labels, unless the recipe has given one."""
        if self.tuned():
            truth = np.array([example.target for example in examples], bool)
            cuts = [best_cut(scores, own) for scores, own in zip(observed["logits"].T, truth.T, strict=True)]
            self.cuts.copy_(torch.tensor(cuts))

    def tuned(self) -> dict[str, float]:
        """The threshold of each label."""
        chosen = self.config.several and self.config.threshold == "dev"
        return dict(zip(self.labels, self._thresholds(), strict=True)) if chosen else {}

    def _thresholds(self) -> list[float]:
        return [float(f"{p:.6g}") for p in self.cuts.double().sigmoid().tolist()]

    def gold(self, rows: Sequence[Row]) -> np.ndarray:
        """(N,) label numbers, or (N, L) of 0 and 1."""
        return np.array([self.target(row) for row in rows])

    def decide(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """The number of the likeliest label (N,), or (N, L) bool: those above their thresholds."""
        return observed["logits"] > self.cuts.cpu().numpy() if self.config.several else observed["logits"].argmax(-1)

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Accuracy (of several labels: all of them right), macro averages, and Matthews' correlation or micro F1."""
        if self.config.several:
            exact = {"accuracy": (gold.astype(bool) == predicted.astype(bool)).all(1).mean()}
            values = exact | several_labels(outcomes(gold, predicted).sum(0))
        else:
            values = single_label(tally(confusion(gold, predicted, len(self.labels))))
        return {name: float(value) for name, value in values.items()}

    def intervals(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
        """Of `score`, over rows."""
        if self.config.several:
            return bootstrap_several(gold, predicted)
        return bootstrap_single(confusion(gold, predicted, len(self.labels)))

    def details(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """Precision, recall, F1 and support of each label; of exclusive ones the confusion matrix, else the thresholds."""
        if self.config.several:
            thresholds = dict(zip(self.labels, self._thresholds(), strict=True))
            counts, more = outcomes(gold, predicted).sum(0), {"thresholds": thresholds}
        else:
            matrix = confusion(gold, predicted, len(self.labels))
            counts, more = tally(matrix), {"confusion": matrix.tolist()}
        parts = {name: values.tolist() for name, values in per_class(counts).items()}
        return {"per_class": {label: {n: v[i] for n, v in parts.items()} for i, label in enumerate(self.labels)}, **more}

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], observed: Observed, top: int | None
    ) -> Iterator[dict[str, Any]]:
        """The label, or the labels, and the scores."""
        decided, scores = self.decide(examples, observed), self.probabilities(observed["logits"])
        for row, example, chosen, p in zip(rows, examples, decided, scores, strict=True):
            order = range(len(p)) if top is None else np.argsort(-p, kind="stable")[:top]
            several = {"labels": [self.labels[i] for i in np.flatnonzero(chosen)]} if self.config.several else None
            yield {
                **named(self.texts(row)),
                **(several or {"label": self.labels[int(chosen)]}),
                "scores": {self.labels[i]: float(f"{p[i]:.6g}") for i in order},
                "truncated": any(text.cut > 0 for text in example.texts),
            }

    def probe(self, tokens: Tokens) -> Example:
        """An example, of texts that are read apart both, without a label."""
        return Example((tokens,) * (1 + self.config.apart), None)

    def exported(self) -> Export | str:
        """As transformers' sequence classifiers."""
        if self.config.apart:
            return APART
        pooling, dropout = self.config.pooling, self.config.dropout
        problem = "multi_label_classification" if self.config.several else "single_label_classification"
        tensors = {name: tensor for name, tensor in self.state_dict().items() if name != "cuts"}
        made = Export("classify", tensors, self.logits, tuple(self.labels), problem, pooling, dropout)
        if not self.config.several:
            return made
        thresholds = dict(zip(self.labels, self.cuts.double().sigmoid().tolist(), strict=True))
        return made._replace(thresholds=thresholds, rule="a label is given where the sigmoid of its logit exceeds its threshold")
