"""Span corruption: spans of a text are replaced by one token each, and a decoder writes them. Raffel et al. 2020, 3.1.4.

    [CLS] Thank you <0> me to your party <1> week [SEP]      what the encoder reads
    <0> for inviting <1> last [SEP]                          what the decoder writes, after its start

What is taken out is drawn as by the reference's `random_spans_noise_mask`, over all ordinary tokens of a row; a span that
would go on in the next document of the row is two. Each document has its sentinels <0>, <1>, ... and its own target, and
sees no other. Only the encoder is kept by `embed` and `finetune`.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from encoderkit.data.blocks import Row
from encoderkit.errors import UsageError
from encoderkit.learner import IGNORE, Batch, Encoder, Export, Likelihood, Masking, Vocabulary, directions
from encoderkit.metrics import guessed
from encoderkit.models.build import build_encoder
from encoderkit.models.chunked import judged, summed_nats
from encoderkit.models.config import EncoderConfig
from encoderkit.models.decoder import Decoder, Seeds, Writing
from encoderkit.models.inputs import Inputs, pad
from encoderkit.objectives.config import SpansConfig
from encoderkit.objectives.likelihood import Probe, in_turn, log_likelihoods

STEP = 16
"""Targets are as wide as a multiple of this, so that batches have few shapes."""


class Pair(NamedTuple):
    """A row after corruption: what is read, and what is to be written."""

    ids: np.ndarray
    documents: np.ndarray
    positions: np.ndarray
    given: np.ndarray
    """(u,) what the decoder reads: the start, then the target without its end."""
    labels: np.ndarray
    """(u,) the target."""
    target_documents: np.ndarray
    """(u,) the number of the document that it belongs to."""


class Spans(nn.Module):
    """Encoder and decoder under span corruption; they share the word embeddings where their widths are equal."""

    likelihood: Likelihood = "pseudo"
    maskings: tuple[Masking, ...] = ("token", "within_word")

    def __init__(self, config: SpansConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int) -> None:
        """`length`: the tokens a row has at most."""
        super().__init__()
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.encoder_config = encoder
        first, count = config.first_sentinel, config.sentinels
        size = vocabulary.size + (count if first is None else 0)  # rows of the embeddings
        self.sentinels = (vocabulary.size if first is None else first) + np.arange(count) * config.sentinel_step
        if self.sentinels.max() >= size:
            raise UsageError(
                f"objective: a sentinel has the id {self.sentinels.max()}, but the tokenizer has {size} pieces",
                fix="a tokenizer that holds them, with objective.first_sentinel; or null, for rows of their own",
            )
        self.start = vocabulary.cls if config.decoder.start == "cls" else vocabulary.pad
        self.encoder: Encoder = build_encoder(encoder, size, vocabulary.padding)
        self.head = Decoder(config.decoder, encoder, size, vocabulary.padding, self.encoder.tokens.embedding_dim)
        self.weights = {"spans": 1.0}
        self.directions = directions(*config.metrics)
        self.monitor = "loss"

    def collate(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Rows to a batch; `progress` changes nothing here."""
        pairs = [self.corrupt(row, rng) for row, rng in zip(examples, rngs, strict=True)]
        width = self.length if self.encoder.packs else max(len(pair.ids) for pair in pairs)
        inputs = Inputs.laid(pairs, width, self.vocabulary.pad, rngs)
        most = -(-max(len(pair.given) for pair in pairs) // STEP) * STEP
        targets = {
            "given": pad([pair.given for pair in pairs], most, self.vocabulary.pad),
            "documents": pad([pair.target_documents for pair in pairs], most, 0),
            "labels": pad([pair.labels for pair in pairs], most, IGNORE),
        }
        count = sum(len(pair.labels) for pair in pairs)
        return Batch(inputs, targets, {"spans": count}, sum(len(row.ids) for row in examples))

    def corrupt(self, row: Row, rng: np.random.Generator) -> Pair:
        """A row with spans taken out of it, and the targets of its documents one after the other."""
        ordinary = np.flatnonzero(~row.special)
        noise = np.zeros(len(row.ids), bool)
        noise[ordinary] = noise_mask(len(ordinary), self.config.rate, self.config.span_mean, rng)
        # A special token is no noise, so a span ends where its document does.
        first = noise & ~np.concatenate([[False], noise[:-1]])
        number = _within(first, row.documents)  # of the span in its document, from 1
        noise &= number <= self.config.sentinels
        first &= noise
        shown = np.where(first, self.sentinels[np.where(first, number - 1, 0)], row.ids)
        kept = first | ~noise
        documents = row.documents[kept]
        return Pair(shown[kept], documents, _places(documents), *self._targets(row, noise, first, shown))

    def _targets(
        self, row: Row, noise: np.ndarray, first: np.ndarray, shown: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        given, labels, documents = [], [], []
        for document in np.unique(row.documents[noise]):
            target: list[int] = []
            for place in np.flatnonzero(noise & (row.documents == document)):
                target += [*([shown[place]] if first[place] else []), row.ids[place]]
            labels += [*target, self.vocabulary.sep]
            given += [self.start, *target]
            documents += [document] * (len(target) + 1)
        return np.array(given, np.int64), np.array(labels, np.int64), np.array(documents, np.int64)

    def _vectors(self, inputs: Inputs, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(B * U, D) what the logits of the targets are made of, and (V, D) what it is multiplied with."""
        shared, given = self.encoder.tokens, targets["given"]
        seeds = Seeds.of(inputs.seeds, given.shape[1])
        found = self.head.vectors(given, targets["documents"], inputs.documents, self.encoder(inputs), shared, seeds)
        return found.flatten(0, 1) * self.head.scale, self.head.table(shared)

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of the targets, sentinels and ends included."""
        return {"spans": summed_nats(*self._vectors(inputs, targets), None, targets["labels"].flatten(), IGNORE)}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each token of the targets, and whether the likeliest token is the right one."""
        labels = targets["labels"].flatten()
        real = labels != IGNORE
        vectors, table = self._vectors(inputs, targets)
        nats, right = judged(vectors[real], table, None, labels[real])
        return {"nats": nats, "right": right.float()}

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Mean loss in nats and accuracy over the tokens of the targets."""
        return guessed(observed)

    def log_likelihoods(self, texts: Sequence[Row], masking: Masking | None, tokens: int) -> np.ndarray:
        """(N,) pseudo-log-likelihoods (Salazar et al. 2020): the sum over the tokens of a text, each taken out in turn.

        The first sentinel stands in its place, and in that of what is hidden with it; the decoder reads its start and that
        sentinel, and the token is what should come next.
        """
        shared, given = self.encoder.tokens, torch.tensor([[self.start, self.sentinels[0]]])

        def nats(inputs: Inputs, where: Tensor, labels: Tensor) -> Tensor:
            writing = Writing(self.head, self.encoder(inputs), inputs.mask, shared)
            hidden = writing.vectors(given.to(labels.device).expand(len(labels), -1))  # a row has one token to guess
            return judged(hidden * self.head.scale, self.head.table(shared), None, labels)[0]

        probes = (probe for i, row in enumerate(texts) for probe in self._probes(i, row, masking))
        return log_likelihoods(probes, len(texts), nats, self.vocabulary.pad, tokens, str(shared.weight.device))

    def _probes(self, text: int, row: Row, masking: Masking | None) -> Iterator[Probe]:
        for place, end in in_turn(row, masking):
            shown = np.concatenate([row.ids[:place], self.sentinels[:1], row.ids[end:]])
            yield Probe(text, shown, np.array([place]), row.ids[[place]])

    def exported(self) -> Export:
        """As transformers' T5."""
        return Export("seq2seq", self.state_dict(), self._repeated, decoder=self.config.decoder)

    def _repeated(self, inputs: Inputs) -> Tensor:
        return self.head(inputs.ids, inputs.documents, inputs.documents, self.encoder(inputs), self.encoder.tokens)


def noise_mask(length: int, rate: float, span_mean: float, rng: np.random.Generator) -> np.ndarray:
    """(length,) bool: the tokens to take out, as `random_spans_noise_mask` of T5 draws them; at least one.

    Noise and the rest are cut into equally many parts of random lengths that take turns, the rest first.
    """
    if length < 2:
        return np.ones(length, bool)
    noise = min(max(round(length * rate), 1), length - 1)
    spans = min(max(round(noise / span_mean), 1), length - noise)
    sizes = np.stack([_parts(length - noise, spans, rng), _parts(noise, spans, rng)], axis=1).reshape(-1)
    return np.repeat(np.arange(2 * spans) % 2 == 1, sizes)


def _parts(items: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """(parts,) positive sizes that add up to `items`, each way to cut them as likely as any other."""
    cuts = np.sort(rng.choice(items - 1, parts - 1, replace=False)) + 1 if parts > 1 else np.empty(0, np.int64)
    return np.diff(np.concatenate([[0], cuts, [items]])).astype(np.int64)


def _within(marks: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """How many of `marks` a document has had, up to and with each place."""
    count = np.cumsum(marks)
    begins = np.flatnonzero(np.diff(documents, prepend=0))
    before = count[begins] - marks[begins]
    return count - np.repeat(before, np.diff(np.append(begins, len(documents))))


def _places(documents: np.ndarray) -> np.ndarray:
    """The place of each token in its document."""
    return _within(np.ones(len(documents), np.int64), documents) - 1
