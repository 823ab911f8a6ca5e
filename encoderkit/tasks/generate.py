"""Texts from texts: translation, summaries, titles. An encoder and a decoder behind it (Sutskever et al. 2014).

The decoder is a Transformer behind any encoder, and writes with the encoder's vocabulary: one tokenizer for both sides. Or
it has a vocabulary of its own, with its own special tokens and embeddings (Bahdanau et al. 2015, section 4.1). From a
checkpoint of the objective `spans`, or of a T5, it begins with the decoder that was trained there.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from encoderkit.console import warn
from encoderkit.data.labelled import Row
from encoderkit.errors import UsageError
from encoderkit.learner import IGNORE, Batch, Export, Vocabulary
from encoderkit.models.chunked import judged, summed_nats
from encoderkit.models.config import EncoderConfig
from encoderkit.models.decoder import DECODER, Decoder, Seeds, Writing
from encoderkit.models.decoding import Sampling, beam_search, greedy, sample
from encoderkit.models.dropout import along, fold
from encoderkit.models.inputs import Inputs, pad
from encoderkit.models.pooling import apart, text_seeds
from encoderkit.tasks import wording
from encoderkit.tasks.config import GenerateConfig
from encoderkit.tasks.losses import disagreement, in_passes, weights_of
from encoderkit.tasks.task import Baseline, EncoderTask, Observed
from encoderkit.tasks.texts import ONE_TEXT, SIZE, Tokens, assemble, named, names_of
from encoderkit.text.tokenizers import Tokenizer


class Example(NamedTuple):
    """A source and its target."""

    tokens: Tokens
    target: np.ndarray | None
    """(u,) without start and end; None: not known."""
    right: str
    """The target as it stands in the file."""
    row: int = 0
    """The number of its row."""

    texts = ONE_TEXT
    size = SIZE


class Generate(EncoderTask):
    """Encoder and decoder under teacher forcing; what they write is compared with what they should."""

    config: GenerateConfig

    def __init__(
        self,
        config: GenerateConfig,
        encoder: EncoderConfig,
        vocabulary: Vocabulary,
        length: int,
        labels: Sequence[str] = (),
        target: Vocabulary | None = None,
    ) -> None:
        """`length`: the tokens a source has at most; there are no `labels`. `target`: what is written with, if not the same."""
        super().__init__(config, encoder, vocabulary, length, labels)
        shared = self.encoder.tokens.embedding_dim if target is None else None
        self.target = written = vocabulary if target is None else target
        self.head = Decoder(config.writer, encoder, written.size, written.padding, shared)
        self.start = written.cls if config.writer.start == "cls" else written.pad
        self.weights = weights_of("generate", config.rdrop)
        self.monitor = "chrf"
        self.baselines: tuple[Baseline, ...] = ()
        self.fields = [*names_of(config.columns), "written", "truncated"]
        self.tokenizer: Tokenizer | None = None
        """Of the targets: turns text to ids and back; set where a model is made or opened."""

    def prepare(self, examples: Sequence[Example]) -> None:
        """Settle how BLEU cuts texts into words by the targets; raises `MissingDependency` where they cannot be measured."""
        settled = wording.settled(self.config.wording, [example.right for example in examples])
        self.config = self.config.model_copy(update={"wording": settled})
        wording.require(settled)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, labelled: bool = True) -> list[Example]:
        """Rows as examples; tells how many targets are cut, and what in them cannot be written."""
        sources = assemble([self.texts(row) for row in rows], tokenizer, self.length)
        if not labelled:
            return [Example(own, None, "", i) for i, own in enumerate(sources)]
        right = [row.text(self.config.target) for row in rows]
        encoded, most = (self.tokenizer or tokenizer).encode(right), self.config.target_length - 1
        targets = [encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]] for i in range(len(rows))]
        if cut := sum(len(target) > most for target in targets):
            warn(f"{rows[0].source}: {cut:,} targets are longer than task.target_length = {most + 1} tokens and were cut")
        if blank := sum(not all(text.strip() for text in (*self.texts(row), right[i])) for i, row in enumerate(rows)):
            warn(f"{rows[0].source}: {blank:,} rows have an empty source or target")
        if encoded.unknown:
            share = f"{rows[0].source}: {encoded.unknown:,} of the {len(encoded.ids):,} tokens of the targets"
            warn(f"{share} are unknown to the tokenizer they are written with: the model cannot give what they stand for")
        return [
            Example(own, target[:most].astype(np.int64), text, i)
            for i, (own, target, text) in enumerate(zip(sources, targets, right, strict=True))
        ]

    def collate(
        self, examples: Sequence[Example], rngs: Sequence[np.random.Generator] = (), progress: float | None = None
    ) -> Batch:
        """Sources packed where the encoder can, and targets as they are; nothing is drawn but dropout, in training."""
        texts, known = [example.texts for example in examples], [e.target for e in examples if e.target is not None]
        if len(known) < len(examples):
            inputs, size = self.batched(texts, rngs)
            return Batch(inputs, {}, {}, size)
        sizes = 1 + np.array([len(target) for target in known])
        inputs, size = self.batched(texts, rngs, sizes.tolist())
        order = inputs.order()
        owners = np.concatenate(order)  # of the targets, as they are laid
        given = [np.concatenate([[self.start, *known[i]] for i in row]) for row in order]
        documents = [np.repeat(1 + np.arange(len(row)), sizes[row]) for row in order]
        width = max(map(len, given))
        laid = pad(documents, width, 0)
        targets = {
            "given": pad(given, width, self.target.pad),
            "documents": laid,
            "places": laid.flatten().nonzero()[:, 0],
            "owners": torch.from_numpy(np.repeat(owners, sizes[owners])),
            "steps": torch.from_numpy(np.concatenate([np.arange(size) for size in sizes[owners]])),
            "labels": torch.from_numpy(np.concatenate([[*known[i], self.target.sep] for i in owners])),
        }
        return Batch(inputs, targets, dict.fromkeys(self.weights, int(sizes.sum())), size)

    def _vectors(self, inputs: Inputs, memory: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """(M, D) what the logits of the targets' tokens are made of; `memory` (B, T, E): what the encoder makes of sources."""
        given, places, shared = targets["given"], targets["places"], self.encoder.tokens
        seeds = Seeds()
        if (texts := text_seeds(inputs)) is not None:
            own = torch.zeros_like(given)
            own.view(-1)[places] = along(fold(texts, DECODER), given.shape[1])[targets["owners"], targets["steps"]]
            seeds = Seeds(own, inputs.seeds)
        found = self.head.vectors(given, targets["documents"], inputs.documents, memory, shared, seeds)
        return found.flatten(0, 1).index_select(0, places) * self.head.scale

    def _table(self) -> Tensor:
        return self.head.table(self.encoder.tokens)

    def _logits(self, vectors: Tensor) -> Tensor:
        return linear(vectors, self._table()).float()

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of the targets, ends included, smoothed (Szegedy et al. 2016).

        With R-Drop that of two passes.
        """
        labels, smoothing = targets["labels"], self.config.label_smoothing
        return in_passes(
            self.weights,
            inputs,
            lambda inputs: self._vectors(inputs, self.encoder(inputs), targets),
            lambda vectors: summed_nats(vectors, self._table(), None, labels, IGNORE, smoothing),
            lambda first, second: disagreement(self._logits(first), self._logits(second)),
        )

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Any]:
        """What is written for each source, and the nats of the targets where they are known."""
        packed = self.encoder(inputs)
        settings = *self._writing(packed, inputs), self.target.sep, self.config.target_length
        if self.config.beams == 1:
            written = greedy(*settings)
        else:
            written = [text.ids for text in beam_search(*settings, self.config.beams, self.config.length_penalty)]
        found: dict[str, Any] = {"written": [torch.tensor(ids, dtype=torch.int64) for ids in written]}
        if not targets:
            return found
        nats, _ = judged(self._vectors(inputs, packed, targets), self._table(), None, targets["labels"])
        return found | {"nats": torch.zeros(len(written), device=nats.device).index_add(0, targets["owners"], nats)}

    def _writing(self, packed: Tensor, inputs: Inputs) -> tuple[Writing, Tensor]:
        """What goes on with each of N sources, and (N, 1) what it begins with."""
        memory, real = apart(packed, inputs)
        start = torch.full((len(memory), 1), self.start, device=memory.device)
        return Writing(self.head, memory, real, self.encoder.tokens), start

    def draw(self, inputs: Inputs, rngs: Sequence[np.random.Generator], sampling: Sampling) -> list[list[int]]:
        """What is written for each source where tokens are drawn, each with its own generator; only what can be read."""
        known = self.tokenizer
        assert known is not None, "spell was called"
        never = [*{known.pad, known.unk, known.cls, known.mask} - {known.sep}, *range(known.vocab_size, self.target.size)]
        writing, start = self._writing(self.encoder(inputs), inputs)
        return sample(writing, start, self.target.sep, self.config.target_length, rngs, sampling, never)

    def search(self, beams: int | None, length_penalty: float | None) -> None:
        """Follow so many beams from now on, whatever the model was trained with; None: as it was."""
        if length_penalty is not None and not -10 <= length_penalty <= 10:
            raise UsageError("should be a number from -10 to 10", where="--length-penalty", fix="--length-penalty 1")
        given = {"beams": beams, "length_penalty": length_penalty}
        self.config = self.config.model_copy(update={name: value for name, value in given.items() if value is not None})
        if length_penalty is not None and self.config.beams == 1:
            raise UsageError("compares beams, and there is one", where="--length-penalty", fix="--beams 5 with it")

    def metrics(self, examples: Sequence[Example], observed: Observed) -> dict[str, float]:
        """Mean nats a token of the targets, and how near the texts are."""
        tokens = sum(1 + len(example.target) for example in examples if example.target is not None)
        right = np.array([example.right for example in examples], dtype=object)
        loss = float(np.sum(observed["nats"], dtype=np.float64)) / tokens
        return {"loss": loss, **self.score(right, self.decide(examples, observed))}

    def losses(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) nats a token of each target."""
        sizes = np.array([1 + len(example.target) for example in examples if example.target is not None])
        return np.asarray(observed["nats"]) / sizes

    def gold(self, rows: Sequence[Row]) -> np.ndarray:
        """(N,) the targets as texts."""
        return np.array([row.text(self.config.target) for row in rows], dtype=object)

    def decide(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) what is written, as texts."""
        assert self.tokenizer is not None, "spell was called"
        return np.array([self.tokenizer.decode(ids) for ids in observed["written"]], dtype=object)

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """BLEU, chrF and ROUGE."""
        return wording.scores(gold.tolist(), predicted.tolist(), self.config.wording)

    def intervals(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
        """Of `score`, over rows."""
        return wording.intervals(gold.tolist(), predicted.tolist(), self.config.wording)

    def resampled(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """`score` on rows drawn anew."""
        return wording.resampled(gold.tolist(), predicted.tolist(), self.config.wording)

    def details(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """How many texts are as they should be, to the letter."""
        return {"equal": float((gold == predicted).mean())}

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], observed: Observed, top: int | None
    ) -> Iterator[dict[str, Any]]:
        """The texts."""
        for row, example, text in zip(rows, examples, self.decide(examples, observed), strict=True):
            yield {**named(self.texts(row)), "written": text, "truncated": example.tokens.cut > 0}

    def probe(self, tokens: Tokens) -> Example:
        """An example without a target."""
        return Example(tokens, None, "")

    def exported(self) -> Export | str:
        """As transformers' T5, which has one vocabulary."""
        if self.target is not self.vocabulary:
            said = "transformers' T5 has one vocabulary, and here source and target have two"
            return f"{said}: the target's tokenizer stays behind (--part encoder can be handed over)"
        return Export("seq2seq", self.state_dict(), self._repeated, decoder=self.config.writer)

    def _repeated(self, inputs: Inputs) -> Tensor:
        return self.head(inputs.ids, inputs.documents, inputs.documents, self.encoder(inputs), self.encoder.tokens)
