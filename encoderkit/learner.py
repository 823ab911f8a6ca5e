"""A learner is encoder + head + loss. The training loop does not know whether it is an objective or a task.

Losses are summed over targets and divided once by the update's count, so that accumulation, padding and a short last
batch change nothing.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor, nn

from encoderkit.models.inputs import Inputs

IGNORE = -100
"""The label of a place that has none."""


class Batch(NamedTuple):
    """What a forward pass needs: made once by `collate`, never changed."""

    inputs: Inputs
    targets: dict[str, Tensor]
    """The learner's own: labels and where they stand."""
    counts: dict[str, int]
    """Number of targets of each term of the loss, known before the forward pass."""
    tokens: int
    """Real (not padding) tokens."""

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        moved = Inputs(*(None if t is None else t.to(device, non_blocking=True) for t in self.inputs))  # pyright: ignore[reportArgumentType]
        targets = {name: t.to(device, non_blocking=True) for name, t in self.targets.items()}
        return Batch(moved, targets, self.counts, self.tokens)


class Encoder(Protocol):
    """Every architecture; an nn.Module. `tokens` is its word embedding, which a vocabulary head may share."""

    dim: int
    """Width D of its output."""
    packs: bool
    """Whether a row may hold several documents; if not, each has a row of its own."""
    max_length: int | None
    """The longest document it can read, if there is a limit."""
    tokens: nn.Embedding

    def __call__(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens to (B, T, D)."""
        ...

    def parameters(self) -> Any: ...
    def named_parameters(self) -> Any: ...


class Learner(Protocol):
    """Every objective and every task; an nn.Module holding `.encoder` and `.head`."""

    encoder: Encoder
    head: nn.Module
    weights: dict[str, float]
    """The weight of each term in the loss."""

    def collate(self, examples: Sequence[Any], rngs: Sequence[np.random.Generator], progress: float) -> Batch:
        """Examples to a batch, all corruption included.

        `rngs` has one generator an example (addressed by seed, epoch and example), `progress` is the share of the run
        that is done, for rates that change.
        """
        ...

    def loss(self, batch: Batch) -> dict[str, Tensor]:
        """Each term, summed over its targets, in nats."""
        ...

    def statistics(self, batch: Batch) -> dict[str, Tensor]:
        """Sums over the batch from which `metrics` are made; the loss terms and whatever else the learner counts."""
        ...
