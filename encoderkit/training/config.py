"""How a learner is trained: optimizer, schedule, length of the run, and how often to look at it and save it. No torch here."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from encoderkit.config import Config
from encoderkit.units import Count, Every, Seconds, Share, Span

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
    """Muon (Jordan et al. 2024) for the matrices inside the encoder's layers, AdamW for everything else."""

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
    """The sum of squares before the first update; gradients are summed over the targets of an update. GloVe's code has 1."""


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


class TrainingConfig(Config):
    """How long, in what portions, and in what arithmetic."""

    budget: Seconds | None = None
    """Train for this long: the number of updates is planned from the speed measured at the start, and kept."""
    updates: Count | None = Field(default=None, ge=1)
    """Train for this many optimizer steps."""
    epochs: PositiveFloat | None = None
    """Train for this many passes over the data."""
    tokens: Count | None = Field(default=None, ge=1)
    """Train on this many tokens."""
    batch: PositiveInt = 64
    """Rows an update, whatever the hardware."""
    micro_batch: PositiveInt | Literal["auto"] = "auto"
    """Rows at once; their gradients are added up. auto: as many as 8,192 tokens hold (65,536 on a GPU)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16 computes products in bfloat16 and keeps weights in float32. auto: only where a short test shows it to be faster."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile. auto: in pretraining runs long enough to repay it, if a C++ compiler is there."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if there is one."""
    freeze: Literal["embeddings"] | PositiveInt | None = None
    """Keep the embeddings, or the embeddings and the first n layers, as they are."""
    patience: PositiveInt | None = None
    """Stop after this many evaluations without a better one."""
    metric: str | None = None
    """The held-out metric that chooses the best checkpoint; its direction belongs to it. The learner's own if not given."""

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingConfig":
        given = [n for n in ("budget", "updates", "epochs", "tokens") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of budget, updates, epochs, tokens; found {' and '.join(given) or 'none'}")
        return self


class EveryConfig(Config):
    """How often; none of it changes the training."""

    log: Every = "20 updates"
    """Write a line to metrics.jsonl."""
    evaluate: Every = "5m"
    """Evaluate on the held-out data."""
    save: Every = "5m"
    """Save a checkpoint."""
