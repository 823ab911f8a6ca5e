"""Telling pairs of texts apart, beside another objective: next sentence prediction and sentence order prediction.

`next` (Devlin et al. 2019, section 3.1): does B follow A, or is it from another document? `order` (Lan et al. 2020,
section 3.1): does B follow A, or A B? What the labels are made from is in `data.pairs`. `NoPairs` is the same
without pairs, so that an objective need not ask.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from encoderkit.data.blocks import Row
from encoderkit.data.pairs import PairRow, Relation, paired
from encoderkit.learner import IGNORE, Encoder, Export
from encoderkit.models.build import build_classification_head
from encoderkit.models.config import EncoderConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import pool


class Laid(NamedTuple):
    """Rows as the other objective reads them."""

    rows: list[Row]
    segments: list[np.ndarray] | None
    pairs: list[tuple[np.ndarray, np.ndarray]]
    """Of each row, where its pairs begin, and their labels."""


class NoPairs(nn.Module):
    """Rows are as they come; there is no term of the loss, and no metric."""

    def __init__(self) -> None:
        super().__init__()
        self.terms: tuple[str, ...] = ()

    def lay(self, examples: Sequence[Any], rngs: Sequence[np.random.Generator]) -> Laid:
        """The rows, and their segments where they have some."""
        return Laid(list(examples), None, [])

    def targets(self, laid: Laid, width: int) -> dict[str, Tensor]:
        """Where the pairs of a batch begin in (B * T), and their labels."""
        return {}

    def counts(self, targets: dict[str, Tensor]) -> dict[str, float]:
        """The number of targets of each term."""
        return {}

    def forward(self, hidden: Tensor, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of each term."""
        return {}

    def observe(self, hidden: Tensor, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each pair, and whether it is told rightly."""
        return {}

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Mean loss in nats and accuracy over the pairs."""
        return {}

    def exported(self, encoder: Encoder, export: Export) -> Export:
        """How the objective is handed over, with the head of the pairs."""
        return export


class Pairs(NoPairs):
    """The classification head of a family (BERT's and ALBERT's pooler and a linear layer), with two labels.

    Encoders that pack give the vector of each pair's [CLS], as in the papers; those that do not (recurrent, convolutional)
    the mean over the row, which holds one pair, told apart by its [SEP].
    """

    def __init__(self, relation: Relation, encoder: EncoderConfig, packs: bool) -> None:
        super().__init__()
        self.relation: Relation = relation
        self._packs = packs
        self.head = build_classification_head(encoder, 2, dropout=0.0)
        self._pooled: Callable[[Tensor, Inputs, Tensor], Tensor] = _first if packs else _mean
        self.terms = (relation,)

    def lay(self, examples: Sequence[PairRow], rngs: Sequence[np.random.Generator]) -> Laid:
        """Rows of pairs, each with the second text that chance gave it."""
        made = [paired(example, self.relation, rng) for example, rng in zip(examples, rngs, strict=True)]
        return Laid([one.row for one in made], [one.segments for one in made], [(one.firsts, one.labels) for one in made])

    def targets(self, laid: Laid, width: int) -> dict[str, Tensor]:
        """(P,) the first token of each pair in (B * T), and (P,) whether B follows A; unused places are IGNORE."""
        slots = max(1, width // 5) if self._packs else 1  # no pair is shorter than five tokens; a batch keeps its shape
        where = np.zeros((len(laid.rows), slots), np.int64)
        labels = np.full((len(laid.rows), slots), IGNORE, np.int64)
        for i, (firsts, told) in enumerate(laid.pairs):
            where[i, : len(firsts)] = i * width + firsts
            labels[i, : len(firsts)] = told
        return {"pair_where": torch.from_numpy(where.reshape(-1)), "pair_labels": torch.from_numpy(labels.reshape(-1))}

    def counts(self, targets: dict[str, Tensor]) -> dict[str, float]:
        """Pairs, by which the summed loss is divided."""
        return {self.relation: int((targets["pair_labels"] != IGNORE).sum())}

    def logits(self, hidden: Tensor, inputs: Inputs, where: Tensor) -> Tensor:
        """(B, T, D) and (P,) places in (B * T) to (P, 2): B follows A, or not."""
        return self.head(self._pooled(hidden, inputs, where)).float()

    def forward(self, hidden: Tensor, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """(B, T, D) to the summed loss of the relation, in nats."""
        logits = self.logits(hidden, inputs, targets["pair_where"])
        return {self.relation: cross_entropy(logits, targets["pair_labels"], ignore_index=IGNORE, reduction="sum")}

    def observe(self, hidden: Tensor, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of each pair its loss, and whether it was told rightly."""
        real = targets["pair_labels"] != IGNORE
        logits, labels = self.logits(hidden, inputs, targets["pair_where"])[real], targets["pair_labels"][real]
        nats = cross_entropy(logits, labels, reduction="none")
        return {"pair_nats": nats, "pair_right": (logits.argmax(-1) == labels).float()}

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Means over pairs."""
        names = {f"{self.relation}_loss": "pair_nats", f"{self.relation}_accuracy": "pair_right"}
        return {name: float(observed[own].mean(dtype=np.float64)) for name, own in names.items()}

    def exported(self, encoder: Encoder, export: Export) -> Export:
        """With the logits of one pair a row, as BERT's `seq_relationship` and ALBERT's `sop_classifier` give them."""

        def told(inputs: Inputs) -> Tensor:
            rows, width = inputs.ids.shape
            return self.logits(encoder(inputs), inputs, torch.arange(rows, device=inputs.ids.device) * width)

        return export._replace(head="pairs", second=told)


def _first(hidden: Tensor, inputs: Inputs, where: Tensor) -> Tensor:
    return hidden.flatten(0, 1)[where]


def _mean(hidden: Tensor, inputs: Inputs, where: Tensor) -> Tensor:
    return pool("mean", hidden, inputs.mask)


def build_pairs(relation: Relation | Literal["none"], config: EncoderConfig, encoder: Encoder) -> NoPairs:
    """What an objective asks for pairs, made for an encoder."""
    return NoPairs() if relation == "none" else Pairs(relation, config, encoder.packs)
