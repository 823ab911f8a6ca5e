"""Regression: one or more numbers for a text or a pair of texts (STS-B in Devlin et al. 2019, section 4.1).

The head learns targets of mean 0 and variance 1, so that the learning rate need not know the units of the data; their
mean and scale are kept with the model, and whatever leaves it is in the units of the data.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from encoderkit.data.labelled import Row
from encoderkit.errors import DataError
from encoderkit.learner import Batch, Export, Vocabulary
from encoderkit.metrics import bootstrap_numbers, numbers
from encoderkit.models.build import build_classification_head
from encoderkit.models.config import EncoderConfig
from encoderkit.models.inputs import Inputs
from encoderkit.tasks.config import RegressConfig
from encoderkit.tasks.losses import in_passes, weights_of
from encoderkit.tasks.task import APART, Baseline, EncoderTask, Observed, tell_constant
from encoderkit.tasks.texts import SIZE, Tokens, named, names_of
from encoderkit.text.tokenizers import Tokenizer


class Example(NamedTuple):
    """A text and its numbers."""

    texts: tuple[Tokens, ...]
    """What the encoder reads: one, or two that are encoded apart."""
    target: np.ndarray | None
    """(L,) in the units of the data; None: not known."""
    row: int = 0
    """The number of its row."""

    size = SIZE


class Regress(EncoderTask):
    """Encoder, pooling and the head of a classifier, whose outputs are numbers instead of scores."""

    config: RegressConfig
    mean: Tensor
    """(L,) of the training targets."""
    scale: Tensor
    """(L,) their standard deviation."""

    def __init__(
        self, config: RegressConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int, labels: Sequence[str]
    ) -> None:
        """`labels`: the names of the numbers; `length`: the tokens an example has at most."""
        super().__init__(config, encoder, vocabulary, length, labels)
        self.head = build_classification_head(encoder, len(self.labels), config.dropout, 4 if config.apart else 1)
        self.register_buffer("mean", torch.zeros(len(self.labels)))
        self.register_buffer("scale", torch.ones(len(self.labels)))
        self.weights = weights_of("regress", config.rdrop)
        self.monitor = "spearman"
        self.baselines: tuple[Baseline, ...] = ("mean", "ridge")
        scores = ["score"] if len(self.labels) == 1 else [f"score:{label}" for label in self.labels]
        self.fields = [*names_of(config.columns), *scores, "truncated"]

    @staticmethod
    def find_labels(rows: Sequence[Row], config: RegressConfig) -> list[str]:
        """The columns of the numbers; raises `DataError` where they are no numbers or all the same."""
        for column in config.targets:
            if len({row.number(column) for row in rows}) == 1:
                message = f"all rows have {rows[0].number(column):g} in {column}, so there is nothing to learn"
                raise DataError(message, where=rows[0].source, fix="name another column in task.label, or other rows")
        return config.targets

    def prepare(self, examples: Sequence[Example]) -> None:
        """Take the mean and the scale of the targets."""
        targets = np.stack([example.target for example in examples])  # pyright: ignore[reportArgumentType, reportCallIssue]
        scale = targets.std(0)
        self.mean.copy_(torch.from_numpy(targets.mean(0)))
        self.scale.copy_(torch.from_numpy(np.where(scale > 0, scale, 1.0)))

    def target(self, row: Row) -> np.ndarray:
        """(L,) the numbers of a row; raises `DataError` for what is none."""
        return np.array([row.number(column) for column in self.labels])

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, labelled: bool = True) -> list[Example]:
        """Rows as examples; raises `DataError` with file and line for a target that is no number."""
        tokens = self.laid([self.texts(row) for row in rows], tokenizer)
        for column in self.labels if labelled else ():
            tell_constant(rows, column)
        pairs = enumerate(zip(rows, tokens, strict=True))
        return [Example(own, self.target(row) if labelled else None, i) for i, (row, own) in pairs]

    def collate(
        self, examples: Sequence[Example], rngs: Sequence[np.random.Generator] = (), progress: float | None = None
    ) -> Batch:
        """Examples to a batch, packed where the encoder can; nothing is drawn but dropout, in training."""
        inputs, size = self.batched([example.texts for example in examples], rngs)
        if examples[0].target is None:
            return Batch(inputs, {}, {}, size)
        targets = torch.from_numpy(np.stack([example.target for example in examples])).float()  # pyright: ignore[reportArgumentType, reportCallIssue]
        return Batch(inputs, {"numbers": targets}, dict.fromkeys(self.weights, targets.numel()), size)

    def logits(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens, N texts in them, to (N, L) numbers in the units of the data."""
        return super().logits(inputs) * self.scale + self.mean

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed squared error, in units of the variance of each number; with R-Drop that of two passes."""
        goal = (targets["numbers"] - self.mean) / self.scale
        return in_passes(self.weights, inputs, super().logits, lambda found: _error(found, goal), _error)

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The numbers of each example."""
        return {"numbers": self.logits(inputs)}

    def metrics(self, examples: Sequence[Example], observed: Observed) -> dict[str, float]:
        """Loss (squared error over variance) and `score`."""
        gold = np.stack([example.target for example in examples])  # pyright: ignore[reportArgumentType, reportCallIssue]
        loss = float(self.losses(examples, observed).mean())
        return {"loss": loss, **self.score(gold, self.decide(examples, observed))}

    def losses(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) squared error over variance, of several numbers their mean."""
        gold = np.stack([example.target for example in examples])  # pyright: ignore[reportArgumentType, reportCallIssue]
        error = (observed["numbers"].astype(np.float64) - gold) / self.scale.cpu().numpy()
        return np.square(error).mean(1)

    def gold(self, rows: Sequence[Row]) -> np.ndarray:
        """(N, L) numbers."""
        return np.stack([self.target(row) for row in rows])

    def decide(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N, L) numbers."""
        return observed["numbers"].astype(np.float64)

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Pearson's and Spearman's correlation, squared and absolute error; the mean over the numbers of a row."""
        return numbers(gold, predicted)

    def intervals(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
        """Of `score`, over rows."""
        return bootstrap_numbers(gold, predicted)

    def details(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """The metrics of each number, where there are several."""
        if len(self.labels) == 1:
            return {}
        return {"per_number": {label: numbers(gold[:, [i]], predicted[:, [i]]) for i, label in enumerate(self.labels)}}

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], observed: Observed, top: int | None
    ) -> Iterator[dict[str, Any]]:
        """The number as `score`, or several by name in `scores`."""
        for row, example, found in zip(rows, examples, observed["numbers"], strict=True):
            values = [float(f"{value:.6g}") for value in found]
            scores = {"score": values[0]} if len(values) == 1 else {"scores": dict(zip(self.labels, values, strict=True))}
            yield {**named(self.texts(row)), **scores, "truncated": any(text.cut > 0 for text in example.texts)}

    def probe(self, tokens: Tokens) -> Example:
        """An example, of texts that are read apart both, without numbers."""
        return Example((tokens,) * (1 + self.config.apart), None)

    def exported(self) -> Export | str:
        """As transformers' sequence classifiers for regression, mean and scale worked into the last layer."""
        if self.config.apart:
            return APART
        tensors = {name: tensor for name, tensor in self.state_dict().items() if name.startswith(("encoder.", "head."))}
        tensors["head.out.weight"] = tensors["head.out.weight"] * self.scale[:, None]
        if "head.out.bias" in tensors:
            tensors["head.out.bias"] = tensors["head.out.bias"] * self.scale + self.mean
        elif self.mean.any():
            return "transformers' last layer of this family has no bias, in which the mean of the numbers would stand"
        config = self.config
        return Export("classify", tensors, self.logits, tuple(self.labels), "regression", config.pooling, config.dropout)


def _error(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square()
