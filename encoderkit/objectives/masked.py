"""Masked language modelling: hide some tokens, predict them from the rest (Devlin et al. 2019, section 3.1).

Input: rows of packed documents with word-start marks, as `data.blocks` gives them. What is hidden is drawn afresh each
time a row is seen (dynamic masking, Liu et al. 2019, section 4.1) from the row's own generator, so that it depends on
the seed, the epoch and the row, and on nothing else. Only the hidden places go through the vocabulary head: at 4 x 256
and 16,384 pieces, the head over every place would be most of the arithmetic.
"""

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from encoderkit.data.blocks import Row
from encoderkit.learner import IGNORE, Batch, Encoder, Export, Masking, Vocabulary, pad
from encoderkit.models.build import build_encoder, build_vocabulary_head
from encoderkit.models.chunked import judged
from encoderkit.models.config import EncoderConfig, XlnetConfig
from encoderkit.models.inputs import Inputs
from encoderkit.objectives.config import MaskedConfig
from encoderkit.objectives.likelihood import Probe, log_likelihoods

LONGEST_SPAN = 10


class Masked(nn.Module):
    """Encoder and vocabulary head under the masked objective; the head shares the encoder's word embeddings."""

    maskings: tuple[Masking, ...] = ("token", "within_word")

    def __init__(self, config: MaskedConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int) -> None:
        """`length`: the tokens a row has at most."""
        super().__init__()
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.encoder_config = encoder
        self.encoder: Encoder = build_encoder(encoder, vocabulary.size, vocabulary.pad)
        self.head = build_vocabulary_head(encoder, vocabulary.size)
        self.weights = {"masked": 1.0}
        self.directions: dict[str, Literal["min", "max"]] = {"loss": "min", "accuracy": "max"}
        self.monitor = "loss"
        special = {vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask}
        self._ordinary = np.setdiff1d(np.arange(vocabulary.size), list(special))

    def rate(self, progress: float | None) -> float:
        """The share of tokens to predict when `progress` of the run is done; None: in evaluation."""
        if progress is None:
            return self.config.evaluate_rate
        final = self.config.rate if self.config.final_rate is None else self.config.final_rate
        return self.config.rate + (final - self.config.rate) * progress

    def collate(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Rows to a batch of fixed width, with the places to predict as flat indices into (B * T)."""
        rate = self.rate(progress)
        # Encoders that take one document a row get no more columns than they need; packed rows are full anyway.
        width = self.length if self.encoder.packs else max(len(row.ids) for row in examples)
        slots = max(1, round(rate * width))
        where = np.zeros((len(examples), slots), dtype=np.int64)
        labels = np.full((len(examples), slots), IGNORE, dtype=np.int64)
        corrupted = []
        for i, (row, rng) in enumerate(zip(examples, rngs, strict=True)):
            places = self.places(row, rate, rng)[:slots]
            where[i, : len(places)] = i * width + places
            labels[i, : len(places)] = row.ids[places]
            corrupted.append(self.corrupt(row.ids, places, rng))
        inputs = Inputs(
            pad(corrupted, width, self.vocabulary.pad),
            pad([row.documents for row in examples], width, 0),
            pad([row.positions for row in examples], width, 0),
        )
        targets = {"where": torch.from_numpy(where.reshape(-1)), "labels": torch.from_numpy(labels.reshape(-1))}
        return Batch(inputs, targets, {"masked": int((labels != IGNORE).sum())}, sum(len(row.ids) for row in examples))

    def places(self, row: Row, rate: float, rng: np.random.Generator) -> np.ndarray:
        """The places of a row to predict, in order: `rate` of its ordinary tokens, at least one."""
        ordinary = np.flatnonzero(~row.special)
        wanted = max(1, round(rate * len(ordinary)))
        if self.config.unit == "token":
            return np.sort(rng.choice(ordinary, min(wanted, len(ordinary)), replace=False))
        # A word runs from its mark to the next; a document piece begins a word even in the middle of one.
        begins = row.starts[ordinary] | (np.diff(ordinary, prepend=-2) > 1)
        begins[:1] = True
        words = np.split(ordinary, np.flatnonzero(begins)[1:])
        if self.config.unit == "word":
            return _whole(words, rng.permutation(len(words)), wanted)
        return self._spans(words, row.documents, wanted, rng)

    def _spans(self, words: list[np.ndarray], documents: np.ndarray, wanted: int, rng: np.random.Generator) -> np.ndarray:
        """Words in runs of geometric length, within one document, until `wanted` tokens are chosen."""
        order: list[int] = []
        for first in rng.permutation(len(words)):
            size = min(int(rng.geometric(1 / self.config.span_mean)), LONGEST_SPAN)
            document = documents[words[first][0]]
            for i in range(first, min(first + size, len(words))):
                if documents[words[i][0]] == document:
                    order.append(i)
        return _whole(words, dict.fromkeys(order), wanted)

    def corrupt(self, ids: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`ids` with [MASK], a random token or the token itself at each of `places`, in the shares of the recipe."""
        out = np.array(ids, dtype=np.int64)
        draw = rng.random(len(places))
        out[places[draw < self.config.mask]] = self.vocabulary.mask
        random = places[(draw >= self.config.mask) & (draw < self.config.mask + self.config.random)]
        out[random] = rng.choice(self._ordinary, len(random))
        return out

    def _logits(self, inputs: Inputs, targets: dict[str, Tensor]) -> Tensor:
        hidden = self.encoder(inputs).flatten(0, 1)[targets["where"]]  # (N, D)
        return self.head(hidden, self.encoder.tokens.weight).float()  # (N, V)

    def fill(self, inputs: Inputs, places: Tensor) -> Tensor:
        """(B, T) texts and (B, P) places, where they have [MASK] -> (B, P, V): what may stand there."""
        hidden = self.encoder(inputs)
        there = hidden.gather(1, places[:, :, None].expand(-1, -1, hidden.shape[-1]))
        return self.head(there.flatten(0, 1), self.encoder.tokens.weight).view(*places.shape, -1).float()

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of the hidden tokens."""
        logits = self._logits(inputs, targets)
        return {"masked": cross_entropy(logits, targets["labels"], ignore_index=IGNORE, reduction="sum")}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each hidden token, and whether the likeliest token is the right one."""
        real = targets["labels"] != IGNORE
        logits, labels = self._logits(inputs, targets)[real], targets["labels"][real]
        return {"nats": cross_entropy(logits, labels, reduction="none"), "right": (logits.argmax(-1) == labels).float()}

    def log_likelihoods(self, texts: Sequence[Row], masking: Masking | None, tokens: int) -> np.ndarray:
        """(N,) pseudo-log-likelihoods: the sum over the tokens of a text, each hidden in turn (Salazar et al. 2020)."""

        def nats(inputs: Inputs, where: Tensor, labels: Tensor) -> Tensor:
            hidden = self.head.transform(self.encoder(inputs).flatten(0, 1)[where])
            return judged(hidden, self.encoder.tokens.weight, self.head.bias, labels)[0]

        probes = (probe for i, row in enumerate(texts) for probe in self._probes(i, row, masking == "within_word"))
        device = str(self.encoder.tokens.weight.device)
        return log_likelihoods(probes, len(texts), nats, self.vocabulary.pad, tokens, device)

    def _probes(self, text: int, row: Row, within_word: bool) -> Iterator[Probe]:
        ordinary = np.flatnonzero(~row.special)
        ends = np.append(np.flatnonzero(row.starts | row.special), len(row.ids))  # a word ends where the next thing begins
        for place in ordinary:
            shown = row.ids.copy()
            shown[place : ends[np.searchsorted(ends, place, "right")] if within_word else place + 1] = self.vocabulary.mask
            yield Probe(text, shown, np.array([place]), row.ids[[place]])

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Mean loss in nats and accuracy over the hidden tokens."""
        return {
            "loss": float(observed["nats"].mean(dtype=np.float64)),
            "accuracy": float(observed["right"].mean(dtype=np.float64)),
        }

    def exported(self) -> Export | str:
        """A masked language model: logits over the vocabulary at every place."""
        # transformers' XLNet has one head for words, however it was trained.
        kind = "permuted" if isinstance(self.encoder_config, XlnetConfig) else "masked"
        return Export(kind, self.state_dict(), self._everywhere)

    def _everywhere(self, inputs: Inputs) -> Tensor:
        return self.head(self.encoder(inputs), self.encoder.tokens.weight)  # (B, T, V)


def _whole(words: list[np.ndarray], order: Sequence[int] | np.ndarray | dict[int, None], wanted: int) -> np.ndarray:
    """The tokens of words taken in `order`, skipping those that would exceed `wanted`; at least one word."""
    taken: list[np.ndarray] = []
    left = wanted
    for i in order:
        if len(words[i]) <= left or not taken:
            taken.append(words[i])
            left -= len(words[i])
        if left <= 0:
            break
    return np.sort(np.concatenate(taken))
