"""Opening a model directory, and running it over texts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from encoderkit import files
from encoderkit.console import counted, many
from encoderkit.data.blocks import Rows
from encoderkit.data.pairs import ROWS
from encoderkit.data.store import TokenStore
from encoderkit.errors import ANEW, DataError, UsageError, shown
from encoderkit.learner import Batch, Encoder, Export, Learner, Vocabulary, directions
from encoderkit.models.build import build_encoder
from encoderkit.models.config import EncoderConfig, StaticConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import Pooling, apart, pool
from encoderkit.models.static import Static
from encoderkit.objectives.build import OBJECTIVES
from encoderkit.objectives.config import CausalConfig, MaskedConfig, ObjectiveConfig, SpansConfig
from encoderkit.objectives.masked import Masked
from encoderkit.objectives.permuted import Permuted
from encoderkit.objectives.replaced import Replaced
from encoderkit.tasks.build import TASKS
from encoderkit.tasks.config import TaskConfig
from encoderkit.tasks.generate import Generate
from encoderkit.tasks.rows import cut
from encoderkit.tasks.task import Observed, Task, is_task
from encoderkit.tasks.texts import Tokens, assemble, inputs_of
from encoderkit.text.ngrams import Spelled
from encoderkit.text.tokenizers import Tokenizer, open_tokenizer
from encoderkit.training.checkpoint import FORMAT, TARGET, load_weights, read_tensors
from encoderkit.training.evaluate import outputs
from encoderkit.training.machine import DTYPES, check_precision, choose_device, choose_precision

TOKENS = {"cpu": 2_048, "cuda": 16_384}
"""Of a batch, padding included: enough to keep a processor busy. On a CPU more do not fit into its caches: with 16,384 two
Transformers, an LSTM and a CNN took 8 to 40 % longer, and twice the memory."""

Precision = Literal["auto", "fp32", "bf16"]


class Model(NamedTuple):
    """A model directory, ready to run."""

    learner: Learner
    """The task or objective it was trained on, in evaluation mode."""
    tokenizer: Tokenizer
    config: dict[str, Any]
    """Its config.json."""
    labels: list[str] | None
    path: Path

    @property
    def task(self) -> Task | None:
        """The learner, if it is a task; None for an objective."""
        return self.learner if is_task(self.learner) else None


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """What a learner must know of a tokenizer."""
    ids = [part.id for part in tokenizer.template.single]
    summary = "last" if ids[-1] == tokenizer.cls != ids[0] else "first"  # in GPT-2 one token is both [CLS] and [SEP]
    return Vocabulary(tokenizer.vocab_size, *tokenizer.special, summary)


def read_config(step: Path) -> dict[str, Any]:
    """The config.json of a model directory; raises `DataError` for one of another kind or version."""
    path = step / "config.json"
    config = files.read_json(path)
    if not isinstance(config, dict) or "encoder" not in config:
        fix = "name a run of pretrain or finetune, or what encoderkit import wrote"
        raise DataError("this is not a model of encoderkit", where=path, fix=fix)
    if config.get("format") != FORMAT:
        raise DataError(
            f"written in format {config.get('format')} by encoderkit {config.get('encoderkit')}, this version reads {FORMAT}",
            where=path,
            fix="use the version of encoderkit that wrote it",
        )
    return config


class EncoderAlone(nn.Module):
    """An encoder without a head, as some published checkpoints are: to embed with and to fine-tune from."""

    def __init__(self, encoder: EncoderConfig, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.encoder_config, self.vocabulary = encoder, vocabulary
        self.encoder: Encoder = build_encoder(encoder, vocabulary.size, vocabulary.padding)
        self.head = nn.Identity()
        self.weights: dict[str, float] = {}
        self.directions = directions()
        self.monitor = ""

    def collate(self, examples: Sequence[Any], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """There is nothing to train or to measure."""
        message = "this model is an encoder alone: it has no head that predicts anything"
        raise UsageError(message, fix="encoderkit embed, or fine-tune it with `checkpoint:` in a recipe")

    def exported(self) -> Export | str:
        """The encoder alone."""
        return Export("none", self.state_dict(), self.encoder)


def build_learner(config: dict[str, Any], labels: list[str] | None, where: Path) -> Learner:
    """The learner that a config.json describes, with random weights."""
    try:
        encoder = TypeAdapter(EncoderConfig).validate_python(config["encoder"])
        vocabulary = Vocabulary(**config["vocabulary"])
        if "task" not in config and "objective" not in config:
            return EncoderAlone(encoder, vocabulary)
        if "task" in config:
            task = TypeAdapter(TaskConfig).validate_python(config["task"])
            target = {"target": Vocabulary(**config["target_vocabulary"])} if "target_vocabulary" in config else {}
            return TASKS[type(task)](task, encoder, vocabulary, config["length"], labels or [], **target)
        objective = TypeAdapter(ObjectiveConfig).validate_python(config["objective"])
        return OBJECTIVES[type(objective)](objective, encoder, vocabulary, config["length"])
    except (ValidationError, KeyError, TypeError) as error:
        raise DataError(f"cannot be understood: {str(error).splitlines()[0]}", where=where / "config.json", fix=ANEW) from None


def open_rows(
    objective: ObjectiveConfig,
    store: TokenStore,
    length: int,
    vocabulary: Vocabulary,
    documents: np.ndarray | None = None,
    packed: bool = True,
) -> Rows:
    """What an objective reads of a token store, or of some of its documents.

    [CLS] stands where texts have it, but always first in pairs and where a text is written, from [CLS] to [SEP]; in T5's
    way, where a decoder writes, there is none.
    """
    written = isinstance(objective, CausalConfig) or (isinstance(objective, SpansConfig) and vocabulary.cls != vocabulary.sep)
    first = objective.rows == "pairs" or written
    kind, summary = ROWS[objective.rows], "first" if first else vocabulary.summary
    return kind(store, length, vocabulary.cls, vocabulary.sep, documents, packed, summary, objective.before)


def rows_of(config: dict[str, Any], store: TokenStore, packed: bool) -> Rows:
    """What the objective of a config.json reads of a token store."""
    objective = TypeAdapter(ObjectiveConfig).validate_python(config.get("objective", MaskedConfig()))
    return open_rows(objective, store, config["length"], Vocabulary(**config["vocabulary"]), None, packed)


def check_vocabulary(tokenizer: Tokenizer, config: dict[str, Any], where: Path, key: str = "vocabulary") -> None:
    """Raise `DataError` if the tokenizer of a model directory is not the one that the model was trained with."""
    known, own = config.get(key), vocabulary_of(tokenizer)
    # Published models may have more rows than their tokenizer has pieces.
    if isinstance(known, dict):
        known = Vocabulary._field_defaults | known
    if not isinstance(known, dict) or known.get("size", 0) < own.size or {**known, "size": own.size} != own._asdict():
        size = known.get("size") if isinstance(known, dict) else None
        raise DataError(
            f"the tokenizer ({tokenizer.vocab_size} pieces) is not the model's ({size} pieces), so ids would mean other things",
            where=where / ("tokenizer" if key == "vocabulary" else TARGET),
            fix="put the model's own tokenizer back",
        )


def target_tokenizer(step: Path) -> Tokenizer | None:
    """What the decoder in a model directory writes with, if that is not what its encoder reads with."""
    config = read_config(step)
    if "target_vocabulary" not in config:
        return None
    tokenizer = open_tokenizer(step / TARGET)
    check_vocabulary(tokenizer, config, step, "target_vocabulary")
    return tokenizer


def spell(learner: Learner, tokenizer: Tokenizer, target: Tokenizer | None = None) -> None:
    """Give word vectors with n-grams the letters of words (unknown ones get vectors then), and what writes its tokenizer."""
    if isinstance(learner, Generate):
        learner.tokenizer = target or tokenizer
    config = learner.encoder_config
    if isinstance(config, StaticConfig) and config.ngrams:
        assert isinstance(learner.encoder, Static)
        learner.encoder.spelling = Spelled(tokenizer.open_up(), config.ngram_min, config.ngram_max, config.ngrams)


def open_model(step: Path) -> Model:
    """The model in a directory (see `preflight.find_step`), after checking that its files are as they were written."""
    files.verify(step)
    config = read_config(step)
    labels = files.read_json(step / "labels.json") if (step / "labels.json").exists() else None
    tokenizer = open_tokenizer(step / "tokenizer")
    check_vocabulary(tokenizer, config, step)
    learner = build_learner(config, labels, step)
    spell(learner, tokenizer, target_tokenizer(step))
    assert isinstance(learner, nn.Module)
    with torch.no_grad():
        load_weights(learner, read_tensors(step / "model.safetensors"), step / "model.safetensors")
    return Model(learner.eval(), tokenizer, config, labels, step)  # pyright: ignore[reportArgumentType]


class Engine(NamedTuple):
    """A model where it runs: the device, the arithmetic, and how many rows at once."""

    model: Model
    device: str
    precision: Literal["fp32", "bf16"]
    batch: int | None
    """Rows at once; None: as many as `TOKENS` hold."""

    def rows_at_once(self, length: int) -> int:
        """How many rows of so many tokens a batch has."""
        return self.batch or max(1, TOKENS[self.device] // length)

    def batches(self, lengths: Sequence[int]) -> Iterator[np.ndarray]:
        """The numbers of the rows of each batch, the longest first, so that what does not fit into memory fails at once."""
        order = np.argsort(-np.asarray(lengths), kind="stable")
        first = 0
        while first < len(order):
            size = self.rows_at_once(lengths[order[first]])
            yield order[first : first + size]
            first += size

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """No gradients, and products in the engine's precision."""
        with torch.inference_mode(), torch.autocast(self.device, DTYPES[self.precision], enabled=self.precision != "fp32"):
            yield

    def tokens(self, texts: Sequence[Sequence[str]]) -> list[Tokens]:
        """Rows of one text, or a pair, cut to the length that the model was trained with."""
        return assemble(texts, self.model.tokenizer, self.model.config["length"])

    def run(self, rows: Sequence[Tokens], function: Callable[[Inputs], Tensor]) -> np.ndarray:
        """(N, ...) float32: `function` of every row, in the order of the rows; N > 0.

        Rows of about the same length are computed together. `function` maps inputs of N texts to (N, ...).
        """
        pad, packs = self.model.learner.vocabulary.pad, self.model.learner.encoder.packs
        out: np.ndarray | None = None
        with self.arithmetic():
            for numbers in self.batches([len(row.ids) for row in rows]):
                inputs = inputs_of([rows[i] for i in numbers], pad, packs).to(self.device)
                found = function(inputs).float().cpu().numpy()
                if out is None:
                    out = np.empty((len(rows), *found.shape[1:]), np.float32)
                out[numbers] = found
        assert out is not None
        return out

    def observe(self, examples: Sequence[Any], title: str | None = None) -> Observed:
        """What the model, which must be a task, says of examples, in their order; N > 0. With a `title` progress is shown."""
        task = self.model.task
        assert task is not None
        numbers: Iterable[list[int]] = (batch.tolist() for batch in self.batches([example.size for example in examples]))
        if title is not None:
            numbers = counted(title, numbers, len(examples))
        return outputs(task, examples, numbers, self.device, self.precision)

    def vectors(self, rows: Sequence[Tokens], pooling: Pooling) -> np.ndarray:
        """(N, D) one vector a row. The mean is over all real tokens, special ones included, as sentence-transformers does."""
        encoder = self.model.learner.encoder
        there = self.model.learner.vocabulary.pooling(pooling)
        return self.run(rows, lambda inputs: pool(there, *apart(encoder(inputs).float(), inputs)))


def start(model: Model, precision: Precision = "auto", batch: int | None = None) -> Engine:
    """Put a model where it runs best on this machine."""
    device = choose_device("auto")
    assert isinstance(model.learner, nn.Module)
    model.learner.to(device)
    chosen = choose_precision(precision, device)
    check_precision(model.learner, chosen, device)
    if chosen != "fp32":
        for part in model.learner.modules():
            if isinstance(part, nn.Linear):
                part.to(DTYPES[chosen])  # as autocast would do anew for each batch
    return Engine(model, device, chosen, batch)


def by_row(examples: Sequence[Any]) -> list[list[Tokens]]:
    """The sequences of each row, whose examples stand one after the other."""
    return [[part for one in group for part in one.texts] for _, group in groupby(examples, key=lambda example: example.row)]


class Account(NamedTuple):
    """What was read."""

    rows: int = 0
    empty: int = 0
    """Rows without a token: they have a prediction too, so that row i of the output is row i of the input."""
    truncated: int = 0
    """Rows that were cut to the length of the model."""
    lost: int = 0
    """Tokens that were cut off."""
    unknown: int = 0
    """Tokens that the vocabulary does not have."""
    tokens: int = 0

    def add_each(self, rows: Sequence[Sequence[Tokens]], unk: int) -> "Account":
        """With `rows` counted too, each of which the encoder reads as one or more sequences."""
        sizes = [sum(len(part.ids) - part.special for part in row) for row in rows]
        cuts = [sum(part.cut for part in row) for row in rows]
        return Account(
            self.rows + len(rows),
            self.empty + sum(size == 0 for size in sizes),
            self.truncated + sum(cut > 0 for cut in cuts),
            self.lost + sum(cuts),
            self.unknown + sum(int((part.ids == unk).sum()) for row in rows for part in row),
            self.tokens + sum(sizes),
        )

    def told(self, limit: int, of: Literal["row", "question"] = "row") -> str:
        """For a person; `limit`: the tokens that are read of each `of`."""
        told = f"{many(self.rows, 'row')}, {self.unknown / max(self.tokens, 1):.2%} of their tokens unknown"
        if self.empty:
            told += f"; {self.empty:,} without a single token"
        if self.truncated:
            told += f"; {self.truncated:,} {cut(limit, of)}, {self.lost:,} tokens are lost"
        return told


BLANK = "[MASK]"
"""What a person types for the mask token; in a corpus it is six characters like any others."""


def check_blank(text: str, place: str | None = None) -> None:
    """Raise if there is nothing to fill in a text: `DataError` with its `place` in a file, `UsageError` for one typed in."""
    if BLANK not in text:
        kind = UsageError if place is None else DataError
        fix = f"put a {BLANK} into it, or fine-tune the model to predict labels"
        raise kind(f"a pretrained model fills {BLANK}, and this text has none", where=place or shown(text), fix=fix)


def with_blanks(engine: Engine, texts: Sequence[Sequence[str]], place: str | None = None) -> list[Tokens]:
    """Texts that `check_blank` lets pass as tokens, with the mask token where they have a `BLANK`; raises as that does."""
    tokenizer, length = engine.model.tokenizer, engine.model.config["length"]
    rows = []
    for [text] in texts:
        parts = text.split(BLANK)
        # The space before a blank belongs to the word that is asked for, the one after it to the next word.
        encoded = tokenizer.encode([part.rstrip() for part in parts[:-1]] + parts[-1:])
        before, after = tokenizer.template.around
        ids = list(before)
        for i in range(len(parts)):
            ids += ([tokenizer.mask] if i else []) + encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]].tolist()
        kept = ids[: length - len(after)]
        assert len(parts) > 1, "check_blank says so to the user"
        if kept.count(tokenizer.mask) < len(parts) - 1:
            message = f"a {BLANK} stands beyond the {length} tokens that the model reads"
            kind = UsageError if place is None else DataError
            raise kind(message, where=place or shown(text), fix="shorten the text before it")
        rows.append(Tokens(np.array([*kept, *after]), None, len(ids) - len(kept), len(before) + len(after)))
    return rows


def fill(engine: Engine, row: Tokens, top: int) -> list[list[tuple[str, float]]]:
    """For each blank of a row the `top` likeliest tokens and their probabilities; the model must be made for it."""
    learner, tokenizer = engine.model.learner, engine.model.tokenizer
    assert isinstance(learner, Masked | Permuted)
    places = np.flatnonzero(row.ids == tokenizer.mask)

    def guesses(inputs: Inputs) -> Tensor:
        return learner.fill(inputs, torch.from_numpy(places)[None].to(inputs.ids.device)).softmax(-1)

    [scores] = engine.run([row], guesses)
    best = [np.argsort(-p[: tokenizer.vocab_size], kind="stable")[:top] for p in scores]  # a model may have rows for no piece
    return [[(tokenizer.token(int(i)), float(p[i])) for i in order] for p, order in zip(scores, best, strict=True)]


def suspicions(engine: Engine, rows: Sequence[Tokens]) -> list[np.ndarray]:
    """(T,) for each row: the probability of each token of having been replaced; the model must be a discriminator."""
    learner = engine.model.learner
    assert isinstance(learner, Replaced)
    found: list[np.ndarray] = [np.empty(0)] * len(rows)
    with engine.arithmetic():
        for numbers in engine.batches([len(row.ids) for row in rows]):
            inputs = inputs_of([rows[i] for i in numbers], learner.vocabulary.pad, learner.encoder.packs).to(engine.device)
            for i, row in zip(numbers.tolist(), learner.suspicion(inputs).float().cpu().numpy(), strict=True):
                found[i] = row[: len(rows[i].ids)]
    return found
