"""Masked language modelling: hide some tokens, predict them from the rest (Devlin et al. 2019, section 3.1).

Input: rows of packed documents with word-start marks, as `data.blocks` gives them. What is hidden is drawn afresh each
time a row is seen (dynamic masking, Liu et al. 2019, section 4.1) from the row's own generator, so that it depends on
the seed, the epoch and the row, and on nothing else. With `pairs` the rows are pairs of texts, which are told apart by
one more head (see `objectives.pairs`). Only the hidden places go through the vocabulary head: at 4 x 256
and 16,384 pieces, the head over every place would be most of the arithmetic.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from encoderkit.data.blocks import Row
from encoderkit.data.pairs import PairRow
from encoderkit.errors import DataError
from encoderkit.learner import IGNORE, Batch, Encoder, Export, Likelihood, Masking, Picture, Vocabulary, directions
from encoderkit.metrics import guessed
from encoderkit.models.build import build_encoder, build_vocabulary_head
from encoderkit.models.chunked import judged
from encoderkit.models.config import EncoderConfig, XlnetConfig
from encoderkit.models.inputs import Inputs, pad
from encoderkit.objectives.config import MaskedConfig
from encoderkit.objectives.likelihood import Probe, in_turn, log_likelihoods
from encoderkit.objectives.masking import Masker, pictures
from encoderkit.objectives.pairs import build_pairs


class Masked(nn.Module):
    """Encoder and vocabulary head under the masked objective; the head shares the encoder's word embeddings, or has its own."""

    likelihood: Likelihood = "pseudo"
    maskings: tuple[Masking, ...] = ("token", "within_word")

    def __init__(self, config: MaskedConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int) -> None:
        """`length`: the tokens a row has at most."""
        super().__init__()
        if vocabulary.mask == vocabulary.sep:
            raise DataError(
                "this tokenizer has no [MASK] to hide tokens with", fix="objective.kind: causal, or another tokenizer"
            )
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.encoder_config = encoder
        self.encoder: Encoder = build_encoder(encoder, vocabulary.size, vocabulary.padding)
        self.head = build_vocabulary_head(encoder, vocabulary.size, own=config.head == "own")
        self.pairs = build_pairs(config.pairs, encoder, self.encoder)
        self.weights = dict.fromkeys(("masked", *self.pairs.terms), 1.0)
        self.directions = directions(*config.metrics)
        self.monitor = "loss"
        self.masking = Masker(config, vocabulary)

    def rate(self, progress: float | None) -> float:
        """The share of tokens to predict when `progress` of the run is done; None: in evaluation."""
        if progress is None:
            return self.config.evaluate_rate
        final = self.config.rate if self.config.final_rate is None else self.config.final_rate
        return self.config.rate + (final - self.config.rate) * progress

    def collate(self, examples: Sequence[Row | PairRow], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Rows to a batch of fixed width, with the places to predict as flat indices into (B * T)."""
        rate, laid = self.rate(progress), self.pairs.lay(examples, rngs)
        rows = laid.rows
        # Encoders that take one document a row get no more columns than they need; packed rows are full anyway.
        width = self.length if self.encoder.packs else max(len(row.ids) for row in rows)
        most = rate if progress is None else max(rate, self.config.rate, self.config.final_rate or 0.0)
        slots = self.masking.slots(most, width)  # as many throughout the run, so that compiled code has one shape
        where = np.zeros((len(rows), slots), dtype=np.int64)
        labels = np.full((len(rows), slots), IGNORE, dtype=np.int64)
        corrupted = []
        for i, (row, rng) in enumerate(zip(rows, rngs, strict=True)):
            places = self.masking.places(row, rate, rng, self.masking.slots(rate, len(row.ids)))
            where[i, : len(places)] = i * width + places
            labels[i, : len(places)] = row.ids[places]
            corrupted.append(row._replace(ids=self.masking.corrupt(row.ids, places, rng)))
        inputs = Inputs.laid(corrupted, width, self.vocabulary.pad, rngs)
        if laid.segments is not None:
            inputs = inputs._replace(segments=pad(laid.segments, width, 0))
        told = self.pairs.targets(laid, width)
        targets = {"where": torch.from_numpy(where.reshape(-1)), "labels": torch.from_numpy(labels.reshape(-1)), **told}
        counts = {"masked": int((labels != IGNORE).sum()), **self.pairs.counts(told)}
        return Batch(inputs, targets, counts, sum(len(row.ids) for row in rows))

    def picture(self, examples: Sequence[Row | PairRow], rngs: Sequence[np.random.Generator], batch: Batch) -> list[Picture]:
        """The rows, with what is hidden in them."""
        return pictures(self.pairs.lay(examples, rngs).rows, batch, self.vocabulary.mask)

    def logits(self, hidden: Tensor, where: Tensor) -> Tensor:
        """(N, V) of the vectors (B, T, D) at the flat places (N,)."""
        return self.head(hidden.flatten(0, 1)[where], self.encoder.tokens.weight).float()

    def fill(self, inputs: Inputs, places: Tensor) -> Tensor:
        """(B, T) texts and (B, P) places, where they have [MASK] -> (B, P, V): what may stand there."""
        hidden = self.encoder(inputs)
        there = hidden.gather(1, places[:, :, None].expand(-1, -1, hidden.shape[-1]))
        return self.head(there.flatten(0, 1), self.encoder.tokens.weight).view(*places.shape, -1).float()

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of the hidden tokens, and that of the pairs where there are some."""
        hidden = self.encoder(inputs)  # (B, T, D)
        logits = self.logits(hidden, targets["where"])
        nats = cross_entropy(logits, targets["labels"], ignore_index=IGNORE, reduction="sum")
        return {"masked": nats, **self.pairs(hidden, inputs, targets)}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each hidden token, and whether the likeliest token is the right one; likewise of the pairs."""
        hidden, real = self.encoder(inputs), targets["labels"] != IGNORE
        logits, labels = self.logits(hidden, targets["where"])[real], targets["labels"][real]
        nats = cross_entropy(logits, labels, reduction="none")
        right = (logits.argmax(-1) == labels).float()
        return {"nats": nats, "right": right, **self.pairs.observe(hidden, inputs, targets)}

    def log_likelihoods(self, texts: Sequence[Row], masking: Masking | None, tokens: int) -> np.ndarray:
        """(N,) pseudo-log-likelihoods: the sum over the tokens of a text, each hidden in turn (Salazar et al. 2020)."""

        def nats(inputs: Inputs, where: Tensor, labels: Tensor) -> Tensor:
            hidden = self.head.transform(self.encoder(inputs).flatten(0, 1)[where])
            return judged(hidden, self.head.table(self.encoder.tokens.weight), self.head.bias, labels)[0]

        probes = (probe for i, row in enumerate(texts) for probe in self._probes(i, row, masking))
        device = str(self.encoder.tokens.weight.device)
        return log_likelihoods(probes, len(texts), nats, self.vocabulary.pad, tokens, device)

    def _probes(self, text: int, row: Row, masking: Masking | None) -> Iterator[Probe]:
        for place, end in in_turn(row, masking):
            shown = row.ids.copy()
            shown[place:end] = self.vocabulary.mask
            yield Probe(text, shown, np.array([place]), row.ids[[place]])

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Mean loss in nats and accuracy over the hidden tokens, and those of the pairs under names of their own."""
        return guessed(observed) | self.pairs.metrics(observed)

    def exported(self) -> Export | str:
        """A masked language model: logits over the vocabulary at every place, and those of the pairs."""
        # transformers' XLNet has one head for words, however it was trained.
        kind = "permuted" if isinstance(self.encoder_config, XlnetConfig) else "masked"
        made = Export(kind, self.state_dict(), lambda inputs: self.head(self.encoder(inputs), self.encoder.tokens.weight))
        return self.pairs.exported(self.encoder, made)
