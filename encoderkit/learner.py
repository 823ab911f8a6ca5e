"""A learner is encoder + head + loss. The training loop does not know whether it is an objective or a task.

Losses are summed over targets and divided once by the update's count, so that accumulation, padding and a short last
batch change nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from encoderkit.models.config import DecoderConfig, EncoderConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import Pooling

IGNORE = -100
"""The label of a place that has none."""


LESS = ("loss", "mse", "mae", "perplexity", "bits_per_byte")
"""How the names of metrics end of which less is better."""
Directions = dict[str, Literal["min", "max"]]


def directions(*metrics: str) -> Directions:
    """Whether less or more of each is better, which follows from its name."""
    return {name: "min" if name.endswith(LESS) else "max" for name in metrics}


class Batch(NamedTuple):
    """What a forward pass needs: made once by `collate`, never changed."""

    inputs: Inputs
    targets: dict[str, Tensor]
    """The learner's own: labels and where they stand."""
    counts: dict[str, float]
    """Number of targets (or their weight) of each term of the loss, known before the forward pass."""
    tokens: int
    """Real (not padding) tokens."""

    def pinned(self) -> "Batch":
        """The same batch in memory that a GPU reads by itself, so that copying does not hold up what is computed."""
        targets = {name: t.pin_memory() for name, t in self.targets.items()}
        inputs = Inputs(*(None if t is None else t.pin_memory() for t in self.inputs))  # pyright: ignore[reportArgumentType]
        return Batch(inputs, targets, self.counts, self.tokens)

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        targets = {name: t.to(device, non_blocking=True) for name, t in self.targets.items()}
        return Batch(self.inputs.to(device), targets, self.counts, self.tokens)


class Encoder(Protocol):
    """Every architecture; an nn.Module. `tokens` is its word embedding, which a vocabulary head may share."""

    dim: int
    """Width D of its output."""
    packs: bool
    """Whether a row may hold several documents; if not, each has a row of its own."""
    tokens: nn.Embedding

    @property
    def max_length(self) -> int | None:
        """The longest document it can read, if there is a limit."""
        ...

    def __call__(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens to (B, T, D)."""
        ...

    def parameters(self) -> Any:
        """As those of `nn.Module`."""
        ...

    def named_parameters(self) -> Any:
        """As those of `nn.Module`."""
        ...


class Reader(Encoder, Protocol):
    """An encoder that can also read a text token by token, from left to right."""

    def read_on(self, ids: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(B, t) tokens that go on from those that `state` has read, to their vectors, and the state after them."""
        ...


class Vocabulary(NamedTuple):
    """What a learner must know of the tokenizer."""

    size: int
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    summary: Literal["first", "last"] = "first"
    """Where [CLS] stands in a text."""

    @property
    def unknown(self) -> int:
        """The id of what the vocabulary lacks; -1 where it lacks nothing and another token stands for it, as in GPT-2."""
        return -1 if self.unk in (self.cls, self.sep) else self.unk

    @property
    def padding(self) -> int | None:
        """The row of the embeddings that is never read; None where the token of padding stands for another one as well."""
        return None if self.pad in (self.unk, self.cls, self.sep, self.mask) else self.pad

    def pooling(self, wanted: Pooling) -> Pooling:
        """`wanted`, with the vector of [CLS] taken from where it stands."""
        return "last" if wanted == "cls" and self.summary == "last" else wanted


HeadKind = Literal["none", "masked", "pairs", "causal", "permuted", "replaced", "classify", "tag", "span", "seq2seq"]
"""The heads that models of other libraries have; pairs: a masked one, and beside it what tells pairs of texts apart."""


class Export(NamedTuple):
    """How other libraries may read a learner's model."""

    head: HeadKind
    """The layout of the head in transformers; none: the encoder alone."""
    tensors: dict[str, Tensor]
    """`encoder.*` and `head.*`, and `pairs.*` where texts of a pair are told apart."""
    outputs: Callable[[Inputs], Tensor]
    """What it must give there: logits (N, L) or (B, T, V), of span where it begins (B, T), or the encoder's vectors (B, T, D)."""
    labels: tuple[str, ...] = ()
    problem: Literal["single_label_classification", "multi_label_classification", "regression"] = "single_label_classification"
    pooling: Pooling = "cls"
    dropout: float = 0.0
    decoder: DecoderConfig | None = None
    """Of the head seq2seq, whose `outputs` are the decoder's (B, T, V) where it reads what the encoder does."""
    second: Callable[[Inputs], Tensor] | None = None
    """What it must give there besides: whether the texts of a pair follow one another (N, 2), or where a span ends (B, T)."""
    thresholds: dict[str, float] | None = None
    """What its outputs are compared with before something is given, for which other libraries have no place; by name."""
    rule: str = ""
    """How they are compared."""


class Learner(Protocol):
    """Every objective and every task; an nn.Module holding `.encoder` and `.head`, whose forward is the loss."""

    encoder: Encoder
    vocabulary: Vocabulary
    encoder_config: EncoderConfig
    weights: dict[str, float]
    """The weight of each term in the loss."""
    directions: Directions
    """The metrics that it reports, and whether less or more is better."""
    monitor: str
    """The metric that chooses the best checkpoint unless the recipe says otherwise."""

    @property
    def head(self) -> nn.Module:
        """What turns the encoder's vectors into logits."""
        ...

    def collate(self, examples: Sequence[Any], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Examples to a batch, all corruption included.

        `rngs` has one generator an example (addressed by seed, epoch and example); `progress` is the share of the run
        that is done, for rates that change, and None in evaluation, when a task is given no generators.
        """
        ...

    def __call__(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss: each term, summed over its targets, in nats."""
        ...

    def exported(self) -> Export | str:
        """How the model is handed over, or why no other library can read its head."""
        ...


# What can be asked of a learner with `isinstance` names no modules: from Python 3.12 on those of an nn.Module are not found so.


class PairSteps(NamedTuple):
    """Rows of two tables whose products, with their biases, are to be numbers: each pair is a step of its own."""

    tables: tuple[Tensor, Tensor, Tensor, Tensor]
    """(V, D) words and contexts, (V,) the biases of both."""
    words: Tensor
    """(N,) int32."""
    contexts: Tensor
    """(N,) int32."""
    goals: Tensor
    """(N,) what the products are to be."""
    weights: Tensor
    """(N,) of the squares of the errors."""
    rounds: Tensor
    """(N,) int64: pairs of one round share no row. Rounds come in the order of their numbers."""


@runtime_checkable
class Stepwise(Protocol):
    """A learner of which an update is many steps, one after the other, and not the sum of their gradients."""

    steps: list[PairSteps]
    """Those of this update, once its loss has been told; the optimizer takes them."""
    tables: tuple[Tensor, Tensor, Tensor, Tensor]
    """What they move."""


@runtime_checkable
class SingleThreaded(Protocol):
    """A learner that may work by compiled code of its own, beside which more threads of torch are in the way of the reader."""

    single_threaded: bool


@runtime_checkable
class Coupled(Protocol):
    """A learner whose loss couples the examples of an update, as negatives from the same batch do; an objective or a task.

    Its forward is `joint` of the vectors of `parts`, and the terms of `parts`. An update in portions is computed twice
    (GradCache, Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup"): the vectors of
    each portion, without gradients; the joint loss of all of them, of all processes, and its gradient at each vector; and
    each portion again, with the same dropout, pulled by those gradients. The result is that of the update as a whole.
    """

    coupled: bool
    """Whether the loss needs all examples at once, with the settings it has."""

    def parts(self, inputs: Inputs, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, ...) float32 of the N examples, or texts, of a batch: all that the joint loss needs of the encoder.

        And the terms of the loss, summed, that couple nothing.
        """
        ...

    def joint(self, vectors: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of all of an update, summed; it has no weights and no dropout. `targets` are those of all batches, one
        after the other."""
        ...


class CoupledLearner(Learner, Coupled, Protocol):
    """Both; a type alone."""


class Objective(Learner, Protocol):
    """What an objective adds: its metrics are sums over targets, in any order. A task counts rows: `tasks.task.Task`."""

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """What `metrics` needs, one row a target, in the order of the batch."""
        ...

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Metrics over all targets of a data set, however it was batched."""
        ...


Masking = Literal["token", "within_word"]
"""What is hidden where a masked model is asked for a token: it alone, or with what follows in its word."""


Likelihood = Literal["exact", "pseudo", "discriminator"]
"""What a text's likelihood is: the product of its tokens' in one order; of each token's given all others; or the
probability that a discriminator gives each token of being the original one, which is not that of the token."""


@runtime_checkable
class Scorer(Protocol):
    """A learner that can say how likely a text is."""

    likelihood: Likelihood
    maskings: tuple[Masking, ...]
    """The ways to ask it; none where nothing is hidden and there is only one."""

    def log_likelihoods(self, texts: Sequence[Any], masking: Masking | None, tokens: int) -> np.ndarray:
        """(N,) float64: the log of the `likelihood` of each text in nats, [CLS] and [SEP] not counted.

        `texts` are rows of one document (`data.blocks.Row`); `masking` is one of `maskings`, None: the first; about
        `tokens` tokens are computed at once. Called in evaluation mode, without gradients.
        """
        ...


@runtime_checkable
class Measured(Protocol):
    """A learner whose loss is that of a whole text, so that it can be told in bits per byte."""

    bytes_per_token: float | None
    """Of the text that the held-out data were made from, as it was read; set by the stages, which know it."""


class Mark(NamedTuple):
    """A token of a row as the learner meets it."""

    id: int
    """What the encoder reads."""
    role: str
    """Why: "special", "" for what only gives a hint, "mask", "random" and "keep" for tokens to predict that are hidden,
    exchanged or left, "next" where the next one is to be guessed; an objective may have others."""
    target: int | None
    """What is to be predicted here, if anything is."""
    start: bool
    """A word begins here."""


Picture = list[Mark]
"""A row as the learner meets it."""


@runtime_checkable
class Pictured(Protocol):
    """A learner that can show what it makes of its examples."""

    def picture(self, examples: Sequence[Any], rngs: Sequence[np.random.Generator], batch: Batch) -> list[Picture]:
        """The rows of `batch`, which `collate` made of `examples`; `rngs` are as they were when it was called."""
        ...


@runtime_checkable
class Surveying(Protocol):
    """An objective that must have seen the whole of the training text before its first update."""

    def survey(self, rows: Any) -> Any:
        """Count what there is in `rows` (a `data.blocks.Rows`); the examples to train on."""
        ...
