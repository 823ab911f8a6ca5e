"""Permuted language modelling: guess tokens in a random order, each from those before it (Yang et al. 2019, section 2).

Each time a row is seen its own generator draws an order of its tokens, and the last of them, one in `one_in`, are guessed
(section 2.3); only they go through the query stream and the vocabulary head. Special tokens come first in every order. The
documents of a row are kept apart, and what remains of a row's order within a document is an order of that document.

The paper keeps the vectors of the rows of the last update as memory. Here nothing may depend on an earlier update, so a row
brings the tokens before it, and their vectors are computed with today's weights, without gradients: fresher than the
paper's, but they have seen no more than themselves, where the paper's had a memory too. They have seen one another whatever
the order that the row before was trained in. Pieces that share a row have no memory but the first one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from encoderkit.data.blocks import Row
from encoderkit.errors import UsageError
from encoderkit.learner import IGNORE, Batch, Export, Likelihood, Masking, Vocabulary, directions
from encoderkit.metrics import guessed
from encoderkit.models.build import build_vocabulary_head
from encoderkit.models.config import EncoderConfig, XlnetConfig
from encoderkit.models.inputs import Inputs, pad
from encoderkit.models.xlnet import Order, Xlnet, seeds_before
from encoderkit.objectives.config import PermutedConfig
from encoderkit.objectives.likelihood import Probe, log_likelihoods

LONGEST_SPAN = 5


class Drawn(NamedTuple):
    """An order of a row, and what is guessed in it."""

    ranks: np.ndarray
    """(n,) int64: 0 for what is known from the start."""
    places: np.ndarray
    """(p,) int64, ascending."""


class Permuted(nn.Module):
    """XLNet and its vocabulary head under the permuted objective; the head shares the word embeddings, or has its own."""

    likelihood: Likelihood = "exact"
    maskings: tuple[Masking, ...] = ()

    def __init__(self, config: PermutedConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int) -> None:
        """`length`: the tokens a row has at most."""
        super().__init__()
        assert isinstance(encoder, XlnetConfig), "the recipe says so to the user"
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.encoder_config: EncoderConfig = encoder
        self.encoder = Xlnet(encoder, vocabulary.size, vocabulary.pad)
        self.head = build_vocabulary_head(encoder, vocabulary.size, own=config.head == "own")
        self.weights = {"permuted": 1.0}
        self.directions = directions(*config.metrics)
        self.monitor = "loss"

    def collate(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Rows to a batch of fixed width: their ranks, the places to guess (0 in slots that are not used), and their memory."""
        slots = max(1, round(self.length / self.config.one_in))
        orders = [self.draw(row, rng, slots) for row, rng in zip(examples, rngs, strict=True)]
        labels = [row.ids[order.places] for row, order in zip(examples, orders, strict=True)]
        inputs = Inputs.laid(examples, self.length, self.vocabulary.pad, rngs)
        targets = {
            "ranks": pad([order.ranks for order in orders], self.length, 0),
            "places": pad([_with_idle(order.places, row, slots) for row, order in zip(examples, orders, strict=True)], slots, 0),
            "labels": pad(labels, slots, IGNORE),
            **self._memory(examples),
        }
        return Batch(inputs, targets, {"permuted": sum(map(len, labels))}, sum(len(row.ids) for row in examples))

    def _memory(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        if not self.config.memory:
            return {}
        ids = pad([row.before[::-1] for row in rows], self.config.memory, self.vocabulary.pad).flip(1)
        there = pad([np.ones_like(row.before) for row in rows], self.config.memory, 0).flip(1)
        return {"before": ids, "before_documents": there}

    def draw(self, row: Row, rng: np.random.Generator, most: int) -> Drawn:
        """An order of a row's tokens, special ones first, of which one in `one_in` is guessed, at least one, at most `most`."""
        ordinary = np.flatnonzero(~row.special)
        count = min(most, max(1, round(len(ordinary) / self.config.one_in)))
        order = rng.permutation(len(ordinary))
        ranks = np.zeros(len(row.ids), np.int64)
        if self.config.unit == "token":
            ranks[ordinary] = order + 1
            return Drawn(ranks, np.sort(ordinary[order >= len(ordinary) - count]))
        spans = self._spans(ordinary, row, rng)[:count]
        others = np.setdiff1d(ordinary[order], spans, assume_unique=True)  # in their random order
        places = np.sort(np.concatenate([spans, others[: count - len(spans)]]))
        ranks[places] = 1 + rng.permutation(count)
        return Drawn(ranks, places)

    def _spans(self, ordinary: np.ndarray, row: Row, rng: np.random.Generator) -> np.ndarray:
        """Spans of n = 1..5 tokens, n as likely as 1/n, each somewhere in its own stretch of n times `one_in` tokens.

        As the released code does, a span begins where a word does, and the stretch moves with it; what is then missing
        of the tokens to guess is made up by single ones. Spans end with their document.
        """
        shares = 1 / np.arange(1, LONGEST_SPAN + 1)
        words = np.flatnonzero(row.starts[ordinary])
        chosen, at = [np.zeros(0, np.int64)], 0
        while True:
            size = 1 + int(rng.choice(LONGEST_SPAN, p=shares / shares.sum()))
            left = int(rng.integers(size * (self.config.one_in - 1) + 1))
            word = int(np.searchsorted(words, at + left))
            if word == len(words):
                return np.concatenate(chosen)
            span = ordinary[words[word] : words[word] + size]
            chosen.append(span[row.documents[span] == row.documents[span[0]]])
            at = int(words[word]) + size * self.config.one_in - left

    def logits(self, inputs: Inputs, order: Order, targets: dict[str, Tensor] | None = None) -> Tensor:
        """(B, P, V) for the places of `order`; `targets` may hold what stands `before` the rows."""
        memory = None
        if targets and "before" in targets:
            documents = targets["before_documents"]
            seeds = None if inputs.seeds is None else seeds_before(inputs.seeds, documents.shape[1])
            told = Inputs(targets["before"], documents, torch.zeros_like(documents), seeds=seeds)
            memory = self.encoder.remember(told)
        hidden = self.encoder.queries(inputs, order, memory)
        return self.head(hidden.flatten(0, 1), self.encoder.tokens.weight).view(*order.places.shape, -1).float()

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of the guessed tokens."""
        logits = self.logits(inputs, Order(targets["ranks"], targets["places"]), targets).flatten(0, 1)
        labels = targets["labels"].flatten()
        return {"permuted": cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each guessed token, and whether the likeliest token is the right one."""
        real = targets["labels"] != IGNORE
        logits = self.logits(inputs, Order(targets["ranks"], targets["places"]), targets)[real]
        labels = targets["labels"][real]
        return {"nats": cross_entropy(logits, labels, reduction="none"), "right": (logits.argmax(-1) == labels).float()}

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Mean loss in nats and accuracy over the guessed tokens."""
        return guessed(observed)

    def fill(self, inputs: Inputs, places: Tensor) -> Tensor:
        """(B, T) texts and (B, P) places -> (B, P, V): each guessed from all tokens but those at the places."""
        ranks = torch.zeros_like(inputs.ids).scatter(1, places, 1)
        return self.logits(inputs, Order(ranks, places))

    def log_likelihoods(self, texts: Sequence[Row], masking: Masking | None, tokens: int) -> np.ndarray:
        """(N,) log-likelihoods, exact, under one order: from left to right, after the special tokens.

        Those are known from the start, as they always are in training, and by their places the length of the text is. Nothing
        is hidden, so all tokens of a text are guessed in one pass.
        """
        if masking is not None:
            raise UsageError(
                "a model of permuted orders hides none; its likelihoods are exact", where="--masking", fix="leave it out"
            )

        def nats(inputs: Inputs, where: Tensor, labels: Tensor) -> Tensor:
            return -self.left_to_right(inputs).flatten()[where]

        ordinary = [np.flatnonzero(~row.special) for row in texts]
        probes = (Probe(i, row.ids, at, row.ids[at]) for i, (row, at) in enumerate(zip(texts, ordinary, strict=True)))
        return log_likelihoods(probes, len(texts), nats, self.vocabulary.pad, tokens, str(self.encoder.tokens.weight.device))

    def left_to_right(self, inputs: Inputs) -> Tensor:
        """(B, T) -> (B, T): the log-probability of each token given those to its left and the special ones; 0 for those."""
        special = torch.tensor([self.vocabulary.cls, self.vocabulary.sep], device=inputs.ids.device)
        guessed = inputs.mask & ~torch.isin(inputs.ids, special)
        places = torch.arange(inputs.ids.shape[1], device=inputs.ids.device).expand_as(inputs.ids)
        logits = self.logits(inputs, Order(torch.where(guessed, places + 1, 0), places))
        found = logits.log_softmax(-1).gather(2, inputs.ids[:, :, None])[:, :, 0]
        return torch.where(guessed, found, 0.0)

    def exported(self) -> Export | str:
        """The content stream with its head: logits over the vocabulary at every place."""
        return Export("permuted", self.state_dict(), lambda inputs: self.head(self.encoder(inputs), self.encoder.tokens.weight))


def _with_idle(places: np.ndarray, row: Row, slots: int) -> np.ndarray:
    """Filled up with a place that is known, a special one, for slots that are not used."""
    return np.concatenate([places, np.full(slots - len(places), np.flatnonzero(row.special)[0])])
