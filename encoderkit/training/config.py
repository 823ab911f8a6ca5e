"""How a learner is trained: optimizer, schedule, length of the run, and how often to look at it and save it. No torch here."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from encoderkit.config import Config
from encoderkit.units import Count, Every, Seconds, Share, Span, interval

Decay = Annotated[float, Field(ge=0, lt=1)]


class _StepConfig(Config):
    """What every optimizer has."""

    lr: PositiveFloat
    """The highest learning rate; muon: of the matrices, whose updates are orthogonal, so it is not that of AdamW."""
    clip: PositiveFloat | None = 1.0
    """The largest norm of the gradient; longer ones are scaled down."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Each layer's learning rate is this times that of the layer above it (Clark et al. 2020)."""


class _AdamConfig(_StepConfig):
    """What AdamW has, and Muon for what AdamW moves."""

    betas: tuple[Decay, Decay] = (0.9, 0.98)
    """AdamW: decay of the averages of the gradient and of its square."""
    eps: PositiveFloat = 1e-8
    """AdamW: added to the root of the second average."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decay of matrices, times the learning rate; norms and biases have none."""


class AdamWConfig(_AdamConfig):
    """AdamW (Loshchilov and Hutter 2019), with bias correction."""

    kind: Literal["adamw"] = "adamw"


class MuonConfig(_AdamConfig):
    """Muon (Jordan et al. 2024) for the matrices inside layers (of encoder, decoder, generator), AdamW for everything else."""

    kind: Literal["muon"] = "muon"
    adamw_lr: PositiveFloat
    """The highest learning rate of everything else."""
    momentum: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the average of the gradient (Nesterov's)."""


class SgdConfig(_StepConfig):
    """Stochastic gradient descent without momentum, as word2vec's: lr is that of one target, gradients are summed."""

    kind: Literal["sgd"] = "sgd"
    clip: PositiveFloat | None = None
    """The largest norm of the gradient (of its mean over targets); longer ones are scaled down."""
    row_clip: PositiveFloat | None = 32.0
    """The largest norm of the gradient of a row of a matrix, summed over the targets of an update; null: any. Frequent words
    would overshoot without it."""


class AdagradConfig(_StepConfig):
    """AdaGrad (Duchi et al. 2011): the more a number has moved, the less it moves. For word vectors: rare words learn too."""

    kind: Literal["adagrad"] = "adagrad"
    clip: PositiveFloat | None = None
    """The largest norm of the gradient; its scale is of no account here, so there is little to clip."""
    eps: PositiveFloat = 1e-10
    """Added to the root of the sum of squares."""
    initial: float = Field(default=0.0, ge=0)
    """The sum of squares before the first update; gradients are summed over the targets of an update. GloVe's 1, at its rate of
    0.05, is 400 here at lr 1."""


OptimizerConfig = Annotated[AdamWConfig | MuonConfig | SgdConfig | AdagradConfig, Field(discriminator="kind")]


class ScheduleConfig(Config):
    """The learning rate over the run, as a share of the highest: a function of the update alone."""

    kind: Literal["linear", "cosine", "wsd", "constant"] = "linear"
    """Falling linearly, as a cosine, or warm-up, stable, decay: level until the last part and then falling to the floor."""
    warmup: Span = "5%"
    """Rising from nothing at the start: a share of the run, or updates."""
    decay: Span = "20%"
    """wsd: the last part, in which the rate falls."""
    floor: Share = 0.0
    """The rate at the end, as a share of the highest."""

    @model_validator(mode="after")
    def _used(self) -> "ScheduleConfig":
        fields = type(self).model_fields
        if self.kind != "wsd" and self.decay != fields["decay"].default:
            raise ValueError(f"decay is the last part of kind: wsd; a {self.kind} schedule has none")
        if self.kind == "constant" and self.floor != fields["floor"].default:
            raise ValueError("floor is where the rate falls to, and kind: constant does not fall")
        return self


Matrix = Literal["query", "key", "value", "out", "mlp"]
Shard = Literal["none", "full"]


class LoraConfig(Config):
    """Low-rank changes of some matrices, trained while all else of the encoder stays as it is (Hu et al. 2021)."""

    rank: PositiveInt = 8
    """Of the change of each matrix."""
    alpha: PositiveFloat = 16.0
    """The change is scaled by alpha / rank, so that another rank does not need another learning rate."""
    matrices: tuple[Matrix, ...] = Field(default=("query", "value"), min_length=1)
    """Which ones, in every layer: of attention, or both of each MLP."""


class EmaConfig(Config):
    """The exponential moving average of the weights, without what they began with (as Adam corrects its averages)."""

    kind: Literal["ema"] = "ema"
    decay: float = Field(default=0.999, gt=0, lt=1)
    """What the average keeps of itself in an update: 0.999 looks back over about a thousand updates."""


class LastConfig(Config):
    """The mean of the weights at the last few of evenly spaced updates, the last update of the run being one of them."""

    kind: Literal["last"] = "last"
    count: int = Field(default=5, ge=2)
    """How many; each is a copy of the model in memory."""
    every: Every = "1 epoch"
    """How far apart, in updates or epochs; saving and evaluating have no part in it."""


AverageConfig = Annotated[EmaConfig | LastConfig, Field(discriminator="kind")]


Batch = Annotated[int, Field(ge=1, le=1 << 20)]
"""Rows of an update: what stands in it is listed before it is read."""


class TrainingConfig(Config):
    """How long, in what portions, and in what arithmetic."""

    budget: Seconds | None = None
    """Train for this long: the number of updates is settled by the speed of the first twentieth of them, and kept."""
    updates: Count | None = Field(default=None, ge=1)
    """Train for this many optimizer steps."""
    epochs: PositiveFloat | None = None
    """Train for this many passes over the data."""
    least: Count | None = Field(default=None, ge=1)
    """With epochs: train for at least this many updates, which on a small set are more passes (Mosbach et al. 2021)."""
    tokens: Count | None = Field(default=None, ge=1)
    """Train on this many tokens."""
    batch: Batch = 64
    """Rows an update, whatever the hardware."""
    micro_batch: PositiveInt | Literal["auto"] = "auto"
    """Rows at once; their gradients are added up. auto: as many as 8,192 tokens hold (65,536 on a GPU), or
    more or fewer where trying that takes less than two seconds and shows it to be faster; and half where memory runs out."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 computes products in bfloat16 and keeps weights in float32. auto: only where a short test shows it to be faster."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile. auto: in pretraining runs long enough to repay it, if a C++ compiler is there."""
    attention: Literal["auto", "fused", "products"] = "auto"
    """torch's fused kernel, or two batched products. auto: fused, or products in bf16 on a CPU; in long runs the one that a
    short test of the run's own shape shows to be faster."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    shard: Shard = "none"
    """What each of several processes (`torchrun`) holds: none, the whole model; full, its part of weights, gradients and
    moments (full sharding, FSDP2, for a model that one GPU cannot hold: slower, the same result). Nothing with one process."""
    freeze: Literal["embeddings"] | PositiveInt | None = None
    """Keep the embeddings, or the embeddings and the first n layers, as they are."""
    unfreeze: Every | None = None
    """Gradual unfreezing: only what stands above the layers is trained at first; each time this has passed, in updates or
    epochs, one more layer is, from the top down, the embeddings last (Howard and Ruder 2018, "ULMFiT", section 3.3)."""
    reinit: PositiveInt | None = None
    """So many layers of a checkpoint, from the top, and all above them begin with fresh weights (Zhang et al. 2021)."""
    lora: LoraConfig | None = None
    """Train low-rank changes of some matrices, and the head, in place of the encoder. Models are saved with them merged."""
    adversarial: PositiveFloat | None = None
    """FGM: train on each batch a second time with the word embeddings of each text moved so far in the direction that
    raises the loss fastest, in standard deviations of the embeddings (Miyato et al. 2017, equation 5); 0.5 to 5."""
    average: AverageConfig | None = None
    """Evaluate, and save as the model, an average of the weights over updates; training goes on from the weights themselves."""
    patience: PositiveInt | None = None
    """Stop after this many evaluations without a better one; with `least` not before so many updates."""
    metric: str | None = None
    """The held-out metric that chooses the best checkpoint; its direction belongs to it. The learner's own if not given."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingConfig":
        given = [n for n in ("budget", "updates", "epochs", "tokens") if getattr(self, n) is not None]
        if len(given) != 1:
            others = given[1:] + (["least"] if "epochs" in given[1:] and self.least is not None else [])
            hint = f" ({' '.join(f'--set training.{n}=null' for n in others)} leaves {given[0]})" if others else ""
            raise ValueError(f"give one of budget, updates, epochs, tokens; found {' and '.join(given) or 'none'}{hint}")
        if self.least is not None and self.epochs is None:
            raise ValueError(f"training.least goes with training.epochs; with {given[0]} set it to null")
        return self

    @model_validator(mode="after")
    def _tricks_agree(self) -> "TrainingConfig":
        if self.lora and (other := next((n for n in ("freeze", "unfreeze", "reinit") if getattr(self, n)), None)):
            raise ValueError(f"training.lora keeps the whole encoder as it is, and {other} says otherwise; give one of them")
        for name, every in (("unfreeze", self.unfreeze), ("average.every", getattr(self.average, "every", None))):
            if every and interval(every).unit == "seconds":
                raise ValueError(f"training.{name} is in updates or epochs: by the clock, a run could not be repeated")
        for name in ("unfreeze", "adversarial"):
            if getattr(self, name) and self.compile == "on":
                raise ValueError(f"training.{name} changes what is computed while the run goes on; set training.compile to off")
        return self

    @model_validator(mode="after")
    def _can_be_sharded(self) -> "TrainingConfig":
        if self.shard == "full" and self.unfreeze:
            raise ValueError("training.shard settles at the start what is trained, and unfreeze changes it; give one of them")
        if self.shard == "full" and self.compile == "on":
            raise ValueError("training.shard gathers weights while a pass is computed, which is not compiled; set compile to off")
        return self

    @property
    def of_checkpoint(self) -> str | None:
        """A trick that keeps or takes away what was trained before, if there is one."""
        return next((name for name in ("unfreeze", "reinit", "lora") if getattr(self, name)), None)


class EveryConfig(Config):
    """How often; none of it changes the training."""

    log: Every = "20 updates"
    """Write a line to metrics.jsonl."""
    evaluate: Every = "5m"
    """Evaluate on the held-out data."""
    save: Every = "5m"
    """Save a checkpoint."""


def by_the_clock(seconds: float) -> list[str]:
    """What `--set` takes to train for so long, in place of the length that a recipe has, and not to stop before."""
    others = ("updates", "epochs", "least", "tokens", "patience")
    return [f"training.budget={seconds:.10g}s", *(f"training.{key}=null" for key in others)]
