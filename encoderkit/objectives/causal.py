"""Causal language modelling: guess each token from those before it (Bengio et al. 2003; Radford et al. 2019, section 2).

For an encoder of two stacks that never meet, the previous token as well, from those behind it, by the same head (Peters et
al. 2018, "Deep contextualized word representations", section 3.1).

Nothing is random, and every token is a target: that of the first token is asked of [CLS]. The end of a document, [SEP], is
one too, since a model that generates must know when to stop; but not where a long document was merely cut to fill a
row, or the model would learn to stop at that length.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from encoderkit.data.blocks import Row
from encoderkit.errors import UsageError
from encoderkit.learner import IGNORE, Batch, Export, Likelihood, Mark, Masking, Picture, Reader, Vocabulary, directions
from encoderkit.metrics import guessed
from encoderkit.models.build import build_encoder, build_vocabulary_head
from encoderkit.models.chunked import judged, summed_nats
from encoderkit.models.config import EncoderConfig, reading
from encoderkit.models.inputs import Inputs, pad
from encoderkit.objectives.config import CausalConfig
from encoderkit.objectives.likelihood import Probe, log_likelihoods


class Causal(nn.Module):
    """Encoder and vocabulary head under the causal objective; the head shares the encoder's word embeddings, or has its own."""

    likelihood: Likelihood = "exact"
    maskings: tuple[Masking, ...] = ()

    def __init__(self, config: CausalConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int) -> None:
        """`length`: the tokens a row has at most."""
        super().__init__()
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.encoder_config = encoder
        made: Any = build_encoder(encoder, vocabulary.size, vocabulary.padding)
        self.encoder: Reader = made
        self._terms = ("next", "previous") if reading(encoder) == "apart" else ("next",)
        self.head = build_vocabulary_head(encoder, vocabulary.size, encoder.dim // len(self._terms), config.head == "own")
        self.weights = {term: 1 / len(self._terms) for term in self._terms}
        self.directions = directions("loss", "perplexity", "bits_per_byte", "accuracy")
        self.monitor = "loss"
        self.bytes_per_token: float | None = None

    def collate(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Rows to a batch of fixed width, with the tokens to guess from each place."""
        # Encoders that take one document a row get no more columns than they need; packed rows are full anyway.
        width = self.length if self.encoder.packs else max(len(row.ids) for row in examples)
        inputs = Inputs.laid(examples, width, self.vocabulary.pad, rngs)
        targets = {}
        for term, step in zip(self._terms, (1, -1), strict=False):
            targets[term] = pad([self.neighbours(row, step) for row in examples], width, IGNORE)
        counts = {term: float((labels != IGNORE).sum()) for term, labels in targets.items()}
        return Batch(inputs, targets, counts, sum(len(row.ids) for row in examples))

    def picture(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], batch: Batch) -> list[Picture]:
        """The rows as they are, each token with the one that is to be guessed from it."""
        found = []
        for row, targets in zip(examples, batch.targets["next"].tolist(), strict=True):
            parts = zip(row.ids.tolist(), row.special.tolist(), row.starts.tolist(), targets, strict=False)
            marks = [
                Mark(id, "special" if special else "" if goal == IGNORE else "next", None if goal == IGNORE else goal, start)
                for id, special, start, goal in parts
            ]
            found.append(marks)
        return found

    def neighbours(self, row: Row, step: int) -> np.ndarray:
        """(n,) the token after each one (1), or before it (-1), within its document; IGNORE where there is none to guess."""
        labels = np.full(len(row.ids), IGNORE, np.int64)
        to, at = (slice(None, -1), slice(1, None)) if step > 0 else (slice(1, None), slice(None, -1))
        labels[to] = np.where(row.documents[to] == row.documents[at], row.ids[at], IGNORE)
        # Where text was cut, what stands there is no end of a document, and no beginning of one.
        first = np.flatnonzero(np.diff(row.documents, prepend=0))[: len(row.cut)]
        last = np.append(first, len(row.ids))[1:] - 1
        before, behind = row.cut.T
        labels[last[behind] - 1 if step > 0 else first[before] + 1] = IGNORE
        return labels

    def guesses(self, inputs: Inputs) -> dict[str, Tensor]:
        """(B, T, E) for each term: the vectors whose product with the word embeddings is the logits, but for the bias."""
        parts = self.encoder(inputs).chunk(len(self._terms), dim=-1)
        return {term: self.head.transform(part) for term, part in zip(self._terms, parts, strict=True)}

    def read_on(self, ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """(B, t) tokens that go on from those that `state` has read, to (B, V) scores of the next one, and the state then."""
        hidden, state = self.encoder.read_on(ids, state)
        return self.head(hidden[:, -1], self.encoder.tokens.weight).float(), state

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of the next tokens, and of the previous ones where there are two directions."""
        table, bias = self.head.table(self.encoder.tokens.weight), self.head.bias
        return {
            term: summed_nats(vectors.flatten(0, 1), table, bias, targets[term].flatten(), IGNORE)
            for term, vectors in self.guesses(inputs).items()
        }

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of each target, whether the likeliest token is the right one, and whether it is a token of the text."""
        parts = []
        for term, vectors in self.guesses(inputs).items():
            real = targets[term] != IGNORE
            labels = targets[term][real]
            nats, right = judged(vectors[real], self.head.table(self.encoder.tokens.weight), self.head.bias, labels)
            ordinary = (labels != self.vocabulary.cls) & (labels != self.vocabulary.sep)
            parts.append((nats, right.float(), ordinary))
        nats, right, ordinary = (torch.cat(part) for part in zip(*parts, strict=True))
        return {"nats": nats, "right": right, "ordinary": ordinary}

    def log_likelihoods(self, texts: Sequence[Row], masking: Masking | None, tokens: int) -> np.ndarray:
        """(N,) log-likelihoods, exact; of two directions the mean of both."""
        if masking is not None:
            raise UsageError(
                "a model that guesses next tokens hides none; its likelihoods are exact", where="--masking", fix="leave it out"
            )
        found, device = [], str(self.encoder.tokens.weight.device)
        for term, step in zip(self._terms, (1, -1), strict=False):

            def nats(inputs: Inputs, where: Tensor, labels: Tensor, term: str = term) -> Tensor:
                hidden = self.guesses(inputs)[term].flatten(0, 1)[where]
                return judged(hidden, self.head.table(self.encoder.tokens.weight), self.head.bias, labels)[0]

            ordinary = [np.flatnonzero(~row.special) for row in texts]
            probes = (Probe(i, row.ids, at - step, row.ids[at]) for i, (row, at) in enumerate(zip(texts, ordinary, strict=True)))
            found.append(log_likelihoods(probes, len(texts), nats, self.vocabulary.pad, tokens, device))
        return np.mean(found, axis=0)

    def exported(self) -> Export | str:
        """A language model: logits of the next token at every place."""
        if len(self._terms) > 1:
            return "no library has a class for two directions that guess apart"
        return Export("causal", self.state_dict(), lambda inputs: self.head(self.encoder(inputs), self.encoder.tokens.weight))

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Mean loss in nats, perplexity and accuracy over all targets; bits per byte if `bytes_per_token` is known.

        Bits per byte are all bits, those of the ends of documents included, over the bytes of the text as it was read, which
        are those of `bytes_per_token` for each token of the text. Of two directions it is the mean.
        """
        means = guessed(observed)
        found = {"loss": means["loss"], "perplexity": float(np.exp(min(means["loss"], 700.0))), "accuracy": means["accuracy"]}
        if self.bytes_per_token is not None:
            bits = float(observed["nats"].sum(dtype=np.float64)) / np.log(2)
            found["bits_per_byte"] = bits / max(int(observed["ordinary"].sum()) * self.bytes_per_token, 1e-9)
        return found
