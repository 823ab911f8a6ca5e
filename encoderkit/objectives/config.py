"""The objectives that a recipe can name. No torch here; `objectives/build.py` maps each class to its module."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from encoderkit.config import Config
from encoderkit.models.config import EncoderConfig, XlnetConfig, reading
from encoderkit.units import Share


class ObjectiveBase(Config):
    """What every objective can be asked before anything is built."""

    def obstacle(self, model: EncoderConfig) -> str | None:
        """Why an encoder of this kind cannot be trained by this objective, and what fits; None if it can."""
        return None

    @property
    def before(self) -> int:
        """How many tokens of what stands before a row in its document the row brings with it."""
        return 0


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


class PermutedConfig(ObjectiveBase):
    """Permuted language modelling (Yang et al. 2019): guess the last tokens of a random order, each from those before it."""

    kind: Literal["permuted"] = "permuted"
    one_in: PositiveInt = 6
    """One of so many tokens is guessed: K of section 2.3."""
    unit: Literal["span", "token"] = "span"
    """Spans of 1 to 5 tokens that begin with a word, all other tokens being known from the start and seeing one another, as in
    the released code; or single tokens, the last of an order of all, in which each sees those before it."""
    memory: int = Field(default=0, ge=0)
    """Tokens before a row whose vectors it may attend to (section 2.4); computed anew with the row, without gradients."""

    def obstacle(self, model: EncoderConfig) -> str | None:
        """It takes two streams."""
        if isinstance(model, XlnetConfig):
            return None
        fits = "model.kind: xlnet, or objective.kind: masked, which trains every encoder, xlnet too"
        return f"objective.kind permuted needs the two streams of xlnet, and a {model.kind} has one; {fits}"

    @property
    def before(self) -> int:
        """What the memory is made from."""
        return self.memory


ObjectiveConfig = Annotated[MaskedConfig | CausalConfig | PermutedConfig, Field(discriminator="kind")]
