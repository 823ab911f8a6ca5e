"""Recipes: the configs that sit beside what they configure, composed, with the checks that need two of them.

Nothing here imports torch, so that a mistake is told in a fraction of a second.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from encoderkit.config import Config
from encoderkit.data.config import CorpusConfig, RowFiles, misnamed
from encoderkit.models.config import (
    DecoderConfig,
    EncoderConfig,
    GptConfig,
    StaticConfig,
    T5Config,
    TransformerConfig,
    longest,
    reading,
)
from encoderkit.objectives.config import (
    CausalConfig,
    GloveConfig,
    MaskedConfig,
    ObjectiveConfig,
    SpansConfig,
    WordVectorConfig,
    misfit,
)
from encoderkit.tasks.config import ClassifyConfig, GenerateConfig, SimilarityConfig, TaskConfig
from encoderkit.text.config import SegmentConfig, TokenizerConfig
from encoderkit.training.config import (
    AdagradConfig,
    AdamWConfig,
    Batch,
    EveryConfig,
    MuonConfig,
    OptimizerConfig,
    ScheduleConfig,
    SgdConfig,
    TrainingConfig,
)
from encoderkit.units import Every, Share, Span, interval


def _no_share(value: Any) -> Any:
    if isinstance(value, str) and value.strip().endswith("%"):
        raise ValueError("a path")  # told beside what a share should be
    return value


HeldOut = Annotated[Share | Annotated[str, AfterValidator(_no_share)], Field(union_mode="left_to_right")]
"""A share of the data, or a path."""


class TokenizerRecipe(TokenizerConfig):
    """Learn a vocabulary from raw text."""

    corpus: CorpusConfig = CorpusConfig()
    """How the files are read."""


class CorpusRecipe(CorpusConfig):
    """Turn raw text into tokens."""

    segment: SegmentConfig | None = None
    """What tells where words begin in text without spaces, for masking whole words; the ids are the same without it."""


class PretrainData(Config):
    """What to pretrain on."""

    train: str
    """A token store, written by `tokenize`."""
    dev: HeldOut | None = 0.01
    """Held out: a share of the documents, chosen by their content, or another store. At most 2,048 rows of it, evenly spaced, are
    evaluated in training; `evaluate` measures all of a store."""
    length: int = Field(default=128, ge=3)
    """Tokens a row, special tokens included."""


class LabelledData(Config):
    """What to fine-tune on."""

    train: RowFiles
    """A file, .jsonl, .json, .csv, .tsv, .parquet, .txt or (of tags) .conll, .bio, .iob, .bioes or .bmes, also compressed, whose
    columns `task` names, or numbers from 1 where no line of the file names them; or for each column a file with a text a line:
    {source: train.en, target: train.de}."""
    dev: Annotated[Share | Annotated[RowFiles, AfterValidator(_no_share)], Field(union_mode="left_to_right")] | None = 0.1
    """Held out to choose the best checkpoint: a file or files, or a share of the training rows."""
    test: RowFiles | None = None
    """Evaluated once, at the end, with the best checkpoint."""
    length: int = Field(default=128, ge=3)
    """The most tokens of an example, special tokens included; longer ones are cut and counted, but read in windows for tag and
    span. Of similarity it is that of each text, of generate of the source, of choice of the question with one option."""

    @property
    def files(self) -> dict[str, str | dict[str, str]]:
        """What is read, by what it is for."""
        parts = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: given for name, given in parts.items() if isinstance(given, str | dict)}


class FinetuneSchedule(ScheduleConfig):
    """The learning rate over the run."""

    warmup: Span = "6%"


class FinetuneTraining(TrainingConfig):
    """How long, in what portions, and in what arithmetic."""

    batch: Batch = 32


class FinetuneEvery(EveryConfig):
    """How often; none of it changes the training."""

    evaluate: Every = "1 epoch"


_OF_POSITIONS = {"rotary_base": "rotary", "rotary_base_local": "rotary", "buckets": "t5_bias", "bucket_distance": "t5_bias"}
"""Settings of a Transformer that one kind of positions reads."""


def _check_model(model: EncoderConfig, length: int) -> None:
    limit = longest(model)
    if limit is not None and length > limit:
        raise ValueError(
            f"data.length ({length}) is more than the model's positions (model.max_length: {limit}); "
            "shorten data.length or raise model.max_length"
        )
    # A checkpoint may have a window that says nothing; a recipe means something by it.
    if isinstance(model, TransformerConfig) and model.window is not None and model.global_every == 1:
        raise ValueError("model.window is of local layers, and with global_every: 1 all are global; say model.global_every: 3")
    if isinstance(model, TransformerConfig):
        for name in ("global_every", "rotary_base_local") if model.window is None else ():
            if getattr(model, name) != type(model).model_fields[name].default:
                raise ValueError(
                    f"model.{name} is of layers with a window, and model.window is null; give one, or leave {name} out"
                )
        for name, position in _OF_POSITIONS.items():
            given = getattr(model, name)
            if model.position != position and given != type(model).model_fields[name].default:
                reads = f"with position: {model.position} it says nothing"
                raise ValueError(f"model.{name} ({given:g}) is of position: {position}, and {reads}; leave it out")


def blind(model: EncoderConfig, pooling: str | None) -> str | None:
    """Why the vector that stands for a text has not seen it, and what would; None if it has."""
    if isinstance(model, StaticConfig) and pooling in ("cls", "last"):
        return f"pooling {pooling} is a vector that is the same for all texts, as word vectors see no other word: mean or max"
    if reading(model) == "left_to_right" and pooling == "cls":
        first = "pooling cls is the vector of the first token, which has seen nothing of the text"
        return f"{first}, as this {model.kind} reads from left to right: last, mean or max"
    return None


def unfit(model: EncoderConfig, task: TaskConfig, dropout: float | None = None) -> str | None:
    """Why an encoder cannot serve a task as this is described; None if it can. `dropout`: in place of the encoder's own."""
    if isinstance(task, GenerateConfig):
        try:
            task.writer.blocks(model)
        except ValidationError as error:
            return f"task.decoder: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
    reason = blind(model, getattr(task, "pooling", None))
    if reason is None and getattr(task, "rdrop", 0) and _undropped(model, task, dropout):
        reason = "rdrop compares passes with other dropout, and here is none; set dropout, that of the encoder, to 0.1 or so"
    return None if reason is None else f"task.{reason}"


def _check_tied(model: EncoderConfig, part: object, name: str) -> None:
    """An output that is a product with the word embeddings does not begin with such as fan_in makes; T5 alone scales them."""
    plain = isinstance(part, DecoderConfig) or (isinstance(part, CausalConfig) and isinstance(model, GptConfig))
    large = isinstance(model, TransformerConfig) and model.init == "fan_in" and not isinstance(model, T5Config)
    if plain and large and getattr(part, "head", "") == "tied":
        raise ValueError(
            "model.init: fan_in draws embeddings from N(0, 1), too large for an output that is a product with them; "
            f"say model.init: normal, or {name}.head: own"
        )


def _undropped(model: EncoderConfig, task: TaskConfig, dropout: float | None) -> bool:
    writing = task.writer.dropout if isinstance(task, GenerateConfig) else getattr(task, "dropout", 0)
    return not any((model.dropout if dropout is None else dropout, getattr(model, "attention_dropout", 0), writing))


def _check_start(checkpoint: str | None, model: EncoderConfig | None, tokenizer: str | None) -> None:
    if (checkpoint is None) == (model is None):
        raise ValueError("give either checkpoint (pretrained weights) or model and tokenizer (random weights)")
    if (model is None) != (tokenizer is None):
        raise ValueError("model and tokenizer go together; a checkpoint brings its own tokenizer")


def _check_patience(training: TrainingConfig, every: EveryConfig, dev: object) -> None:
    if training.patience and not dev:
        raise ValueError("training.patience counts evaluations, and without data.dev there are none")
    if training.patience and interval(every.evaluate).unit == "seconds":
        raise ValueError("training.patience needs every.evaluate in updates or epochs: by the clock, a run could not be repeated")


def _check_metric(training: TrainingConfig, metrics: tuple[str, ...], dev: object) -> None:
    if training.metric and not dev:
        raise ValueError("training.metric chooses a checkpoint by held-out data, and without data.dev there is none")
    if training.metric not in (None, *metrics):
        raise ValueError(f"training.metric here is {' or '.join(metrics)}, found {training.metric}")


def _check_tricks(checkpoint: str | None, embeddings: str | None, optimizer: OptimizerConfig, training: TrainingConfig) -> None:
    if checkpoint is None and training.freeze and not (embeddings and training.freeze == "embeddings"):
        raise ValueError("training.freeze needs a checkpoint, or `embeddings`: without one nothing is trained yet")
    if checkpoint is None and (name := training.of_checkpoint):
        raise ValueError(f"training.{name} needs a checkpoint: without one nothing is trained yet")
    if training.lora and isinstance(optimizer, MuonConfig):
        raise ValueError("training.lora leaves muon no matrices to move; set optimizer.kind to adamw (lr 5e-4 to 2e-3)")
    if training.shard == "full" and isinstance(optimizer, SgdConfig | AdagradConfig):
        raise ValueError(f"training.shard is for adamw and muon: {optimizer.kind} moves rows of tables, which are kept whole")


def _check_word_vectors(
    objective: WordVectorConfig, data: PretrainData, optimizer: OptimizerConfig, training: TrainingConfig
) -> None:
    if isinstance(objective, GloveConfig) and data.dev:
        raise ValueError("objective glove fits the counts of all of the text: nothing can be held out; set data.dev: null")
    if not isinstance(optimizer, SgdConfig | AdagradConfig):
        raise ValueError("word vectors have sparse gradients, which optimizer.kind sgd and adagrad take")
    if isinstance(objective, GloveConfig):
        if not isinstance(optimizer, AdagradConfig):
            raise ValueError("objective glove makes each pair of words a step of optimizer.kind adagrad")
        if optimizer.clip or optimizer.layer_decay != 1:
            raise ValueError("objective glove has no gradients and no layers: leave optimizer.clip and optimizer.layer_decay out")
        if training.freeze:
            raise ValueError("objective glove moves all of its tables, and training.freeze says otherwise; leave it out")
    if training.compile == "on":
        raise ValueError("training.compile has nothing to compile in word vectors; set it to off")
    if training.average:
        raise ValueError("training.average would go over the whole tables at every update, of which few rows have changed")


def _check_columns(data: LabelledData, task: TaskConfig) -> None:
    for name, given in data.files.items():
        if isinstance(given, dict) and (reason := misnamed(given, task.all_columns, task.optional_columns)):
            raise ValueError(f"data.{name}: {reason}")


def _kind(usual: str) -> Callable[[object], object]:
    """A part of a recipe that does not say which kind it is has the usual one."""
    return lambda part: {"kind": usual, **part} if isinstance(part, dict) else part


class PretrainRecipe(Config):
    """Train an encoder on raw text."""

    seed: int = Field(default=17, ge=0, lt=2**63)
    """Everything random follows from it."""
    checkpoint: str | None = None
    """A run or model directory to go on from (a run: its best step), with its tokenizer: the encoder's weights, and those
    of the head where it is the same; or else `model` and `tokenizer`."""
    tokenizer: str | None = None
    """A directory written by `train-tokenizer`, for `model`."""
    data: PretrainData
    model: EncoderConfig | None = None
    """From random weights."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """The encoder's dropout, with `checkpoint`; its own if not given."""
    embeddings: str | None = None
    """Word vectors to begin with, for `model`, in place of random embeddings of the pieces that are words: a file of GloVe,
    word2vec or fastText, or a model. training.freeze: embeddings keeps them."""
    objective: ObjectiveConfig = MaskedConfig()
    optimizer: OptimizerConfig = AdamWConfig(lr=1e-3)
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig
    every: EveryConfig = EveryConfig()

    _masked_by_default = field_validator("objective", mode="before")(_kind("masked"))
    _adamw_by_default = field_validator("optimizer", mode="before")(_kind("adamw"))

    @model_validator(mode="after")
    def _fits(self) -> "PretrainRecipe":
        _check_start(self.checkpoint, self.model, self.tokenizer)
        if self.model is not None:
            _check_model(self.model, self.data.length)
            if reason := misfit(self.objective, self.model):
                raise ValueError(reason)
            spans = self.objective.decoder if isinstance(self.objective, SpansConfig) else None
            _check_tied(self.model, spans or self.objective, "objective.decoder" if spans else "objective")
            if self.dropout is not None:
                raise ValueError("dropout is for a checkpoint; here set model.dropout")
        elif self.embeddings is not None:
            raise ValueError("embeddings are for a model from random weights; a checkpoint brings its own")
        _check_patience(self.training, self.every, self.data.dev)
        _check_tricks(self.checkpoint, self.embeddings, self.optimizer, self.training)
        if name := next((name for name in ("unfreeze", "reinit", "adversarial") if getattr(self.training, name)), None):
            raise ValueError(f"training.{name} is for finetune")
        if self.training.tokens is not None and isinstance(self.objective, GloveConfig):
            raise ValueError("training.tokens: glove learns from counts of pairs, not from text; give epochs, updates or budget")
        if isinstance(self.objective, WordVectorConfig):
            _check_word_vectors(self.objective, self.data, self.optimizer, self.training)
        _check_metric(self.training, self.objective.metrics, self.data.dev)
        return self


class FinetuneRecipe(Config):
    """Train on labels, from a pretrained checkpoint or from random weights."""

    seed: int = Field(default=17, ge=0, lt=2**63)
    """Everything random follows from it."""
    checkpoint: str | None = None
    """A run or model directory to start from (a run: its best step); or else `model` and `tokenizer`."""
    model: EncoderConfig | None = None
    """From random weights."""
    tokenizer: str | None = None
    """A tokenizer directory, for `model`."""
    embeddings: str | None = None
    """Word vectors to begin with, for `model`: a file of GloVe, word2vec or fastText, or a model. See training.freeze."""
    dropout: float | None = Field(default=None, ge=0, lt=1)
    """The encoder's dropout while fine-tuning; its own if not given."""
    data: LabelledData
    task: TaskConfig = ClassifyConfig()
    optimizer: OptimizerConfig = AdamWConfig(lr=2e-4)
    schedule: FinetuneSchedule = FinetuneSchedule()
    training: FinetuneTraining = FinetuneTraining(epochs=3)
    every: FinetuneEvery = FinetuneEvery()
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] | None = Field(default=None, min_length=2, max_length=100)
    """Train once with each of these in place of `seed`: mean and 95 % interval are told, the best on dev is kept as the model."""
    folds: int | None = Field(default=None, ge=2, le=100)
    """Cut data.train into so many parts and train as often, each time with another part as test (cross-validation); the
    checkpoint is chosen by data.dev, as ever."""
    fold: int | None = Field(default=None, ge=1)
    """Train this fold alone (1 to folds), for example on another machine."""

    _classify_by_default = field_validator("task", mode="before")(_kind("classify"))
    _adamw_by_default = field_validator("optimizer", mode="before")(_kind("adamw"))

    @model_validator(mode="after")
    def _fits(self) -> "FinetuneRecipe":
        _check_start(self.checkpoint, self.model, self.tokenizer)
        if self.model is not None:
            _check_model(self.model, self.data.length)
            if reason := unfit(self.model, self.task, self.dropout):
                raise ValueError(reason)
            if isinstance(self.task, GenerateConfig):
                _check_tied(self.model, self.task.writer, "task.decoder")
        elif self.embeddings is not None:
            raise ValueError("embeddings are for a model from random weights; a checkpoint brings its own")
        _check_patience(self.training, self.every, self.data.dev)
        _check_tricks(self.checkpoint, self.embeddings, self.optimizer, self.training)
        if self.training.adversarial and isinstance(self.task, SimilarityConfig) and self.task.loss != "cosine":
            raise ValueError(f"training.adversarial moves a text by its own loss, and loss {self.task.loss} is of all together")
        if reason := self.task.cramped(self.data.length):
            raise ValueError(reason)
        _check_columns(self.data, self.task)
        if self.seeds and len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds has one of them twice, which would be the same run again")
        if self.fold and self.fold > (self.folds or 0):
            raise ValueError(f"fold {self.fold} is not one of {self.folds or 'any'} folds")
        if self.folds and self.data.test is not None:
            raise ValueError("folds makes test of parts of data.train: set data.test to null, or give no folds")
        if self.training.tokens is not None:
            raise ValueError("training.tokens is for pretrain; here give epochs, updates or budget")
        if isinstance(self.task, GenerateConfig) and self.task.beams == 1 and self.task.length_penalty != 1:
            raise ValueError("task.length_penalty compares beams, and there is one; set task.beams too")
        _check_metric(self.training, self.task.metrics, self.data.dev)
        return self
