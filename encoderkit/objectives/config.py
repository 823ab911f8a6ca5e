"""The objectives that a recipe can name. No torch here; `objectives/build.py` maps each class to its module."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from encoderkit.config import Config
from encoderkit.models.config import EncoderConfig, TransformerConfig, reading
from encoderkit.units import Share


class ObjectiveBase(Config):
    """What every objective can be asked before anything is built."""

    def obstacle(self, model: EncoderConfig) -> str | None:
        """Why an encoder of this kind cannot be trained by this objective, and what fits; None if it can."""
        return None

    @property
    def rows(self) -> Literal["documents", "pairs"]:
        """What its rows are, by the names of `data.pairs.ROWS`."""
        return "documents"

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is measured on held-out data, for `training.metric`."""
        return ("loss", "accuracy")


class MaskedConfig(ObjectiveBase):
    """Masked language modelling (Devlin et al. 2019): hide some tokens, predict them from the others."""

    kind: Literal["masked"] = "masked"
    rate: Share = 0.15
    """The share of tokens to predict."""
    final_rate: Share | None = None
    """The rate at the end of the run, approached linearly (Ankner et al. 2024: 30 % falling to 15 %); rate if not given."""
    unit: Literal["token", "word", "span", "ngram"] = "token"
    """Tokens one by one, whole words, spans of words (SpanBERT, Joshi et al. 2020), or one to three words, with chances of
    1, 1/2 and 1/3 (ALBERT, Lan et al. 2020)."""
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
    pairs: Literal["none", "next", "order"] = "none"
    """Rows of two stretches of a document, and one more head that tells whether the second follows the first: in one half of
    them it is from another document (next: BERT), or stands before the first (order: ALBERT)."""

    @model_validator(mode="after")
    def _shares(self) -> "MaskedConfig":
        if abs(self.mask + self.random + self.keep - 1) > 1e-6:
            raise ValueError(f"mask + random + keep must be 1, found {self.mask + self.random + self.keep:g}")
        if not (self.rate > 0 and self.evaluate_rate > 0):
            raise ValueError("rate must be more than 0, or there is nothing to learn")
        return self

    def obstacle(self, model: EncoderConfig) -> str | None:
        """Pairs are told apart by segments, at their [CLS], which must see them."""
        if self.pairs == "none" or not isinstance(model, TransformerConfig):
            return None
        fits = "take bert or albert, a recurrent or a convolutional encoder, or pairs: none"
        if reading(model) != "both":
            return f"objective.pairs: {self.pairs} asks the first token, which sees no other from left to right; {fits}"
        if model.segments < 2:
            apart = f"objective.pairs: {self.pairs} tells two texts apart, and {model.kind} has no embedding for the second"
            return f"{apart}; set model.segments: 2, or {fits}"
        return None

    @property
    def rows(self) -> Literal["documents", "pairs"]:
        return "documents" if self.pairs == "none" else "pairs"

    @property
    def metrics(self) -> tuple[str, ...]:
        own = () if self.pairs == "none" else (f"{self.pairs}_loss", f"{self.pairs}_accuracy")
        return (*super().metrics, *own)


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


ObjectiveConfig = Annotated[MaskedConfig | CausalConfig, Field(discriminator="kind")]
