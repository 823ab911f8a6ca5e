"""The objectives that a recipe can name. No torch here; `objectives/build.py` maps each class to its module."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from encoderkit.config import Config
from encoderkit.models.config import EncoderConfig, reading
from encoderkit.units import Share


class ObjectiveBase(Config):
    """What every objective can be asked before anything is built."""

    def obstacle(self, model: EncoderConfig) -> str | None:
        """Why an encoder of this kind cannot be trained by this objective, and what fits; None if it can."""
        return None


class MaskedConfig(ObjectiveBase):
    """Masked language modelling (Devlin et al. 2019): hide some tokens, predict them from the others."""

    kind: Literal["masked"] = "masked"
    rate: Share = 0.15
    """The share of tokens to predict."""
    final_rate: Share | None = None
    """The rate at the end of the run, approached linearly (Ankner et al. 2024: 30 % falling to 15 %); rate if not given."""
    unit: Literal["token", "word", "span"] = "token"
    """Tokens one by one, whole words, or spans of words (SpanBERT, Joshi et al. 2020)."""
    span_mean: float = Field(default=3.0, ge=1)
    """Mean words in a span; lengths are geometric, at most 10."""
    mask: Share = 0.8
    """Of the tokens to predict, the share replaced by [MASK]."""
    random: Share = 0.1
    """The share replaced by a random token."""
    keep: Share = 0.1
    """The share left as it is."""
    evaluate_rate: Share = 0.15
    """The rate on held-out data, the same whatever the training rate, so that runs can be compared."""

    @model_validator(mode="after")
    def _shares(self) -> "MaskedConfig":
        if abs(self.mask + self.random + self.keep - 1) > 1e-6:
            raise ValueError(f"mask + random + keep must be 1, found {self.mask + self.random + self.keep:g}")
        if not (self.rate > 0 and self.evaluate_rate > 0):
            raise ValueError("rate must be more than 0, or there is nothing to learn")
        return self


class CausalConfig(ObjectiveBase):
    """Causal language modelling (Radford et al. 2019): guess each token from those before it; ELMo's way also backwards."""

    kind: Literal["causal"] = "causal"

    def obstacle(self, model: EncoderConfig) -> str | None:
        """Encoders whose vectors have seen the next token can copy it."""
        if reading(model) != "both":
            return None
        if hasattr(model, "directions"):
            fix = "model.directions: 1 reads in one direction, model.stacks: apart in two that do not meet"
        elif hasattr(model, "direction"):
            fix = "model.direction: left_to_right hides it"
        else:
            fix = "kinds that can: gpt, and others with model.direction: left_to_right"
        return f"objective causal guesses the next token, and this {model.kind} has seen it; {fix}; or objective.kind: masked"


class ContrastiveConfig(ObjectiveBase):
    """SimCSE (Gao et al. 2021): a text must find itself again, under another dropout, among the others of its group."""

    kind: Literal["contrastive"] = "contrastive"
    pooling: Literal["cls", "mean"] = "cls"
    """The vector of a text: that of its first token, or the mean over all its tokens."""
    temperature: PositiveFloat = 0.05
    """What the cosines are divided by."""
    group: int = Field(default=64, ge=2)
    """Rows whose texts are one another's negatives; training.batch is a multiple of it. They are computed together,
    whatever micro_batch is, so that the negatives do not depend on it."""
    projection: Literal["dense", "none"] = "dense"
    """A dense layer with tanh before the cosines, in training alone; or the vectors themselves."""
    masked: float = Field(default=0.0, ge=0)
    """The weight of masked language modelling beside it, on another copy of the rows (0.1 in the paper); 0: none."""
    rate: Share = 0.15
    """The share of tokens that it hides."""
    unit: Literal["token", "word"] = "token"
    """Tokens one by one, or whole words."""

    @model_validator(mode="after")
    def _hides(self) -> "ContrastiveConfig":
        if not self.rate > 0:
            raise ValueError("rate must be more than 0; masked: 0 is to hide nothing")
        if not self.masked and (self.rate, self.unit) != (0.15, "token"):
            raise ValueError("rate and unit say how tokens are hidden, and with masked: 0 none are; set masked to 0.1 or so")
        return self

    @property
    def hiding(self) -> MaskedConfig:
        """How tokens are hidden."""
        return MaskedConfig(rate=self.rate, unit=self.unit)

    def obstacle(self, model: EncoderConfig) -> str | None:
        """An encoder without dropout; or one whose first token knows nothing of the others, if that is to be the vector."""
        if not model.dropout and not getattr(model, "attention_dropout", 0):
            return (
                "contrastive compares two passes of a text that differ by dropout, and this encoder has none, so they would be "
                "equal; set the encoder's dropout to 0.1 or so"
            )
        if self.pooling == "cls" and reading(model) == "left_to_right":
            return "objective.pooling cls takes the vector of the first token, which has read nothing yet here; set it to mean"
        return None


ObjectiveConfig = Annotated[MaskedConfig | CausalConfig | ContrastiveConfig, Field(discriminator="kind")]
