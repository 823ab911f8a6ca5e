"""A task is a learner whose labels are read from a file: what the stages ask of it, whichever it is.

Rows, examples, windows. A *row* is a line of the file. An *example* is what the loop trains on, and what the encoder
reads: one row, or a part of one. `encode` makes examples of rows, `observe` says what the model sees in each example,
and from there on everything is about rows again: `decide` puts the examples of a row together, and `score` counts rows.

- `classify`, `regress`, `rerank`: an example is a row, one text or a pair of texts.
- `similarity`: an example is a row whose two or three texts are encoded apart: `texts` of the example has two or three
  members. Its loss couples the examples of an update (`learner.Coupled`).
- `choice`: an example is a row; `texts` has one member an option, and `observe` gives a list, one array an example.
- `tag`, `span`: a long row makes several overlapping windows, each an example with the number of its row. What is right
  (tags, answers) and what is needed to put windows together (offsets into the text) stands in the example; `observe`
  gives a list with one array (T, L) a window, and `decide` joins the windows of a row.
- `generate`: an example holds the source's tokens in `texts` and the target's ids as its own field. `observe` gives the
  generated ids, and the nats where the examples have targets; `inference.spell` gives it the tokenizer, with which `decide` turns
  ids to text.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import numpy as np
from torch import Tensor, nn

from encoderkit.console import warn
from encoderkit.data.labelled import Row
from encoderkit.learner import Encoder, Learner, Vocabulary, directions
from encoderkit.models.build import build_encoder
from encoderkit.models.config import EncoderConfig
from encoderkit.models.dropout import drawn
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import apart, matched, pool, text_seeds
from encoderkit.tasks.texts import Tokens, assemble, assemble_apart, inputs_of
from encoderkit.text.tokenizers import Tokenizer

Baseline = Literal[
    "majority", "tfidf", "mean", "ridge", "cosine", "search", "nearest", "commonest", "commonest_in_text", "sentence", "silence"
]
"""A simple model of `tasks.baselines`, to measure beside the task."""

APART = "transformers has no class that compares two texts which are encoded apart (task.pair: bi_encoder)"
"""Why a model is not exported wholly."""

Observed = dict[str, Any]
"""Of a number of examples, in their order: name -> (N, ...) array, or a list of N arrays where shapes differ."""


class EncoderTask(nn.Module):
    """What every task begins with: an encoder, and what it must know of the recipe, the tokenizer and the labels."""

    head: Any
    """What stands on the encoder."""

    def __init__(
        self, config: Any, encoder: EncoderConfig, vocabulary: Vocabulary, length: int, labels: Sequence[str] = ()
    ) -> None:
        """`labels`: in the order of the outputs; `length`: the tokens an example has at most."""
        super().__init__()
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.labels: list[str] = list(labels)
        self.kinds = self.labels
        self.directions = directions(*config.metrics)
        self.choices = 0
        self.listed: tuple[str, ...] = ()
        self.encoder_config = encoder
        self.encoder: Encoder = build_encoder(encoder, vocabulary.size, vocabulary.padding)

    @property
    def yardstick(self) -> tuple[str, ...]:
        """That of the config."""
        return self.config.yardstick

    @staticmethod
    def find_labels(rows: Sequence[Row], config: Any) -> list[str]:
        """None, of most tasks."""
        return []

    def prepare(self, examples: Sequence[Any]) -> None:
        """Nothing follows from them, unless a task says what."""

    def texts(self, row: Row) -> list[str]:
        """Those of its columns, as they stand there."""
        return [row.text(column) for column in self.config.columns]

    def details(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """None, of some tasks."""
        return {}

    def laid(self, texts: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[tuple[Tokens, ...]]:
        """The texts of each row as the encoder reads them: a pair as one, or each alone."""
        if self.config.apart:
            return assemble_apart(texts, tokenizer, self.length)
        return [(row,) for row in assemble(texts, tokenizer, self.length)]

    def batched(
        self, texts: Sequence[Sequence[Tokens]], rngs: Sequence[np.random.Generator], beside: Sequence[int] = ()
    ) -> tuple[Inputs, int]:
        """The texts of all examples one after the other, packed where the encoder can, and how many tokens they have.

        Nothing is drawn but what their dropout goes by, in training. `beside`: see `inputs_of`.
        """
        rows, seeds = [text for own in texts for text in own], drawn(rngs, [len(own) for own in texts])
        inputs = inputs_of(rows, self.vocabulary.pad, self.encoder.packs, beside)
        return inputs.seeded(seeds), sum(len(row.ids) for row in rows)

    def logits(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens, of N rows, to (N, L): the head on the vector of each, or on how those of its two texts compare."""
        pooling = self.vocabulary.pooling(self.config.pooling)
        vectors, seeds = pool(pooling, *apart(self.encoder(inputs), inputs)), text_seeds(inputs)
        if self.config.apart:
            vectors, seeds = matched(vectors), None if seeds is None else seeds[::2]
        return self.head(vectors, seeds).float()


class Task(Learner, Protocol):
    """What every task adds to a learner. One file with its class, a config, a line in `build.py`, recipes."""

    config: Any
    """One of `TaskConfig`."""
    length: int
    """The most tokens of an example."""
    labels: list[str]
    """In the order of the outputs; kept beside the model. Empty for a task without."""
    kinds: list[str]
    """What answers are made of: labels, or kinds of entities. Models that have the same are compared."""
    baselines: tuple[Baseline, ...]
    """What is measured beside it: those that say something about this task."""
    choices: int
    """How many scores a prediction chooses from (`--top-k`); 0 if it has none."""
    fields: list[str]
    """The columns of its predictions as .csv; `score:NAME` is a member of `scores`."""
    listed: tuple[str, ...]
    """Those that there are with `--top-k` alone."""

    @property
    def yardstick(self) -> tuple[str, ...]:
        """How answers are compared with what is right, where there are several ways."""
        ...

    @staticmethod
    def find_labels(rows: Sequence[Row], config: Any) -> list[str]:
        """The labels in the data, in the order of the outputs, or []; raises `DataError` if they will not do."""
        ...

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, labelled: bool = True) -> Sequence[Any]:
        """Rows as examples, those of a row one after the other; without `labelled` their labels are not looked at.

        Raises `DataError` with file and line for a row that cannot be used.
        """
        ...

    def prepare(self, examples: Sequence[Any]) -> None:
        """Set what follows from the training examples: the weights of classes, the mean and scale of targets.

        What predictions need of it is a buffer, so that it is saved with the weights.
        """
        ...

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Any]:
        """What the model says of the examples of a batch, in their order: a tensor (N, ...), or a list of N tensors, each.

        Examples may have been encoded without labels; what needs them is left out then.
        """
        ...

    def metrics(self, examples: Sequence[Any], observed: Observed) -> dict[str, float]:
        """The metrics that `directions` names, loss included, of examples with labels."""
        ...

    def losses(self, examples: Sequence[Any], observed: Observed) -> np.ndarray:
        """(N,) the loss of each row, of examples with labels; where rows have none of their own, how wrong the answer is."""
        ...

    def texts(self, row: Row) -> list[str]:
        """The texts of a row that a prediction needs; raises `DataError` with file and line if they are not texts."""
        ...

    def gold(self, rows: Sequence[Row]) -> np.ndarray:
        """What is right, one entry a row, as `score` compares it."""
        ...

    def decide(self, examples: Sequence[Any], observed: Observed) -> np.ndarray:
        """What the model says, one entry a row, as `score` compares it and as a baseline gives it."""
        ...

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Metrics over rows, however they were decided."""
        ...

    def intervals(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
        """95 % intervals of `score`, by bootstrap over what is independent: rows, or the queries they belong to."""
        ...

    def details(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """More that JSON can hold, such as the metrics of each label."""
        ...

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Any], observed: Observed, top: int | None
    ) -> Iterator[dict[str, Any]]:
        """One dict a row for JSON: what it was, what is predicted, and `truncated`; `top`: only the best scores."""
        ...

    def probe(self, tokens: Tokens) -> Any:
        """An unlabelled example of these tokens, to measure speed with."""
        ...


def is_task(learner: Learner) -> TypeGuard[Task]:
    """Whether it learns labels that are read from a file."""
    return isinstance(learner, EncoderTask)


@runtime_checkable
class Lossy(Protocol):
    """A task that cannot give all that is right for some rows, whatever it has learned."""

    def lost(self, examples: Sequence[Any]) -> dict[str, int]:
        """How much of what is right for labelled examples has no place in them, by what and why."""
        ...


@runtime_checkable
class Probable(Protocol):
    """A task that gives probabilities, which may be true or not."""

    def confidence(self, examples: Sequence[Any], observed: Observed) -> tuple[np.ndarray, np.ndarray]:
        """(M,) probabilities, one or several a row, and (M,) bool whether what they are of is so; of examples with labels."""
        ...


@runtime_checkable
class Tunable(Protocol):
    """A task with something to be chosen on the dev set, such as thresholds: buffers, saved with the weights."""

    def tune(self, examples: Sequence[Any], observed: Observed) -> None:
        """Choose it by examples with labels, all of the dev set; before each `metrics` of it in training."""
        ...

    def tuned(self) -> dict[str, float]:
        """What was chosen, by name, for a person; empty if there is nothing to choose."""
        ...


@runtime_checkable
class Resampled(Protocol):
    """A task whose score takes long, and is told on rows drawn anew from what each row adds to it."""

    def resampled(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """Per metric of `score`, its values on rows drawn anew; the draws depend on the number of rows alone."""
        ...


@runtime_checkable
class Kinds(Protocol):
    """A task whose answers are of one kind or several, which are no single label of a row."""

    def kinds_of(self, gold: Any) -> set[str]:
        """What is in the right answer of a row, one of `gold`: the kinds of its entities, or whether there is an answer."""
        ...


@runtime_checkable
class Queried(Protocol):
    """A task whose metrics are means over queries, each of one row or several."""

    def queries(self, gold: np.ndarray) -> np.ndarray:
        """(N,) the number of each row's query."""
        ...

    def each(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """(Q,) the values of the queries that count, whose means are `score`; which they are depends on `gold` alone."""
        ...


def tell_constant(rows: Sequence[Row], column: str) -> None:
    """Warn of numbers that are all the same."""
    if rows and len({row.number(column) for row in rows}) == 1:
        what = "the only row has no other" if len(rows) == 1 else f"all rows have the same {column}"
        warn(f"{rows[0].source}: {what}, so that Pearson and Spearman are not defined; they are given as 0")
