"""The objectives that a recipe can name. No torch here; `objectives/build.py` maps each class to its module."""

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from encoderkit.config import Config
from encoderkit.models.config import (
    DebertaConfig,
    DecoderConfig,
    EncoderConfig,
    StaticConfig,
    TransformerConfig,
    XlnetConfig,
    reading,
)
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

    @property
    def before(self) -> int:
        """How many tokens of what stands before a row in its document the row brings with it."""
        return 0


class HidingConfig(ObjectiveBase):
    """Which tokens are hidden, and what stands in their place: what every objective that hides some has in common."""

    rate: Share = 0.15
    """The share of tokens to predict."""
    final_rate: Share | None = None
    """The rate at the end of the run, approached linearly (Ankner et al. 2024: 30 % falling to 15 %); rate if not given."""
    unit: Literal["token", "word", "span", "ngram"] = "token"
    """Tokens one by one, whole words, spans of words (SpanBERT, Joshi et al. 2020), or one to three words, with chances of
    1, 1/2 and 1/3 (ALBERT, Lan et al. 2020)."""
    span_mean: float = Field(default=3.0, ge=1)
    """Words in a span: lengths are geometric with this mean, but none above 10 (SpanBERT has 5, and so 3.8 words on average)."""
    mask: Share = 0.8
    """Of the tokens to predict, the share replaced by [MASK]."""
    random: Share = 0.1
    """The share replaced by a random token."""
    keep: Share = 0.1
    """The share left as it is."""
    evaluate_rate: Share = 0.15
    """The rate on held-out data, the same whatever the training rate, so that runs can be compared."""

    @model_validator(mode="after")
    def _shares(self) -> "HidingConfig":
        if abs(self.mask + self.random + self.keep - 1) > 1e-6:
            raise ValueError(f"mask + random + keep must be 1, found {self.mask + self.random + self.keep:g}")
        if self.unit != "span" and self.span_mean != type(self).model_fields["span_mean"].default:
            raise ValueError(f"span_mean is for unit: span, found unit: {self.unit}")
        if not (self.rate > 0 and self.evaluate_rate > 0):
            raise ValueError("rate must be more than 0, or there is nothing to learn")
        return self


class MaskedConfig(HidingConfig):
    """Masked language modelling (Devlin et al. 2019): hide some tokens, predict them from the others."""

    kind: Literal["masked"] = "masked"
    head: Literal["tied", "own"] = "tied"
    """The vocabulary head takes the products with the encoder's word embeddings, or with a table of its own."""
    pairs: Literal["none", "next", "order"] = "none"
    """Rows of two stretches of a document, and one more head that tells whether the second follows the first: in one half of
    them it is from another document (next: BERT), or stands before the first (order: ALBERT)."""

    def obstacle(self, model: EncoderConfig) -> str | None:
        """Pairs are told apart by segments, at their [CLS], which must see them."""
        if self.pairs == "none":
            return None
        if isinstance(model, XlnetConfig):
            return f"objective.pairs: {self.pairs} asks the first token, and xlnet has [CLS] last; take pairs: none"
        if not isinstance(model, TransformerConfig | DebertaConfig):
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
        """Pairs are made of rows of their own."""
        return "documents" if self.pairs == "none" else "pairs"

    @property
    def metrics(self) -> tuple[str, ...]:
        """With those of the pairs, where rows are pairs."""
        own = () if self.pairs == "none" else (f"{self.pairs}_loss", f"{self.pairs}_accuracy")
        return (*super().metrics, *own)


class GeneratorConfig(Config):
    """The small encoder that thinks of replacements: of the discriminator's kind, and like it but for these sizes."""

    share: Share = 0.25
    """Of the discriminator's dim, heads and hidden, where they are not given; the layers are as many."""
    dim: PositiveInt | None = None
    """Width; share x the discriminator's if not given."""
    layers: PositiveInt | None = None
    """Number of layers; the discriminator's if not given."""
    heads: PositiveInt | None = None
    """Attention heads; share x the discriminator's if not given, at least 1."""
    hidden: PositiveInt | None = None
    """Inner width of the MLP; share x the discriminator's if not given."""

    @model_validator(mode="after")
    def _some_width(self) -> "GeneratorConfig":
        if not self.share > 0:
            raise ValueError("share must be more than 0: a generator of no width says nothing")
        return self


class ReplacedConfig(HidingConfig):
    """Replaced token detection (ELECTRA, Clark et al. 2020): tell which tokens a small generator has put in."""

    kind: Literal["replaced"] = "replaced"
    generator: GeneratorConfig | None = GeneratorConfig()
    """Sizes of the generator, a masked language model that is trained beside the encoder and not kept for use; null: an imported
    discriminator, which has none and is not trained further."""
    sharing: Literal["embeddings", "gradient_disentangled", "none"] = "embeddings"
    """Embeddings of the two: one table that both train (ELECTRA); the generator's, which the discriminator reads and adds a
    table of its own to without moving it (DeBERTaV3, He et al. 2021, section 3.3); or one each."""
    discriminator_weight: PositiveFloat = 50.0
    """Of the detection loss, beside 1 for the generator's."""
    mask: Share = 1.0
    random: Share = 0.0
    keep: Share = 0.0

    @property
    def hiding(self) -> MaskedConfig:
        """What the generator learns."""
        return MaskedConfig(**{name: getattr(self, name) for name in HidingConfig.model_fields})

    @property
    def metrics(self) -> tuple[str, ...]:
        """With those of the discriminator, and the generator's own."""
        return (*super().metrics, "precision", "recall", "discriminator_loss", "generator_loss", "generator_accuracy")

    def obstacle(self, model: EncoderConfig) -> str | None:
        """Sizes that no generator of the encoder's kind can have."""
        if self.generator is None:
            return "objective.generator is null, and there is nothing to find without one; give its sizes, or leave it out"
        sizes = ("dim", "layers", "heads", "hidden")
        foreign = [name for name in sizes if getattr(self.generator, name) is not None and not hasattr(model, name)]
        if foreign:
            return f"objective.generator.{foreign[0]}: the generator is of the encoder's kind, {model.kind}, which has none"
        try:
            found = self.generator_of(model)
            if self.sharing != "none" and not hasattr(model, "embedding_dim") and found.dim != model.dim:
                told = f"{model.kind} cannot read embeddings of another width than its own, and the two are to share them"
                return f"{told}; set objective.generator.share: 100% with fewer layers, or objective.sharing: none"
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            return f"no generator of these sizes: {message}; give others in objective.generator"
        return None

    def generator_of(self, model: EncoderConfig) -> EncoderConfig:
        """The generator's config. Raises pydantic's `ValidationError` where such an encoder cannot be."""
        assert self.generator is not None and not isinstance(model, StaticConfig)
        given, share = self.generator, self.generator.share
        dim, width = given.dim or round(share * model.dim), getattr(model, "embedding_dim", None) or model.dim
        sizes = {
            "dim": dim,
            "layers": given.layers or getattr(model, "layers", 1),
            "heads": given.heads or max(1, round(share * getattr(model, "heads", 1))),
            "hidden": given.hidden or (round(share * hidden) if (hidden := getattr(model, "hidden", None)) else None),
        }
        if self.sharing != "none":
            sizes["embedding_dim"] = width if width != dim else None
        known = type(model).model_fields
        return type(model).model_validate(model.model_dump() | {name: size for name, size in sizes.items() if name in known})


class CausalConfig(ObjectiveBase):
    """Causal language modelling (Radford et al. 2019): guess each token from those before it; ELMo's way also backwards."""

    kind: Literal["causal"] = "causal"
    head: Literal["tied", "own"] = "tied"
    """The vocabulary head takes the products with the encoder's word embeddings, or with a table of its own."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Also what makes models of other vocabularies comparable: bits of a byte of text."""
        return (*super().metrics, "perplexity", "bits_per_byte")

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


class SpansConfig(ObjectiveBase):
    """Span corruption (Raffel et al. 2020): spans give way to one token each, and a decoder writes them all."""

    kind: Literal["spans"] = "spans"
    rate: Annotated[Share, Field(gt=0, lt=1)] = 0.15
    """The share of tokens to take out."""
    span_mean: float = Field(default=3.0, ge=1)
    """Mean tokens in a span."""
    sentinels: PositiveInt = 100
    """The tokens that stand for spans, and so the most spans in a document. They are no words of the tokenizer but rows of the
    embeddings after its own: the first one has the id vocab_size."""
    first_sentinel: int | None = Field(default=None, ge=0)
    """Where the tokenizer has sentinels itself, the id of the first (of T5's <extra_id_0>: 32099)."""
    sentinel_step: Literal[1, -1] = 1
    """From one sentinel to the next: upwards, or downwards as in T5's tokenizer."""
    decoder: DecoderConfig = DecoderConfig()
    """What writes the spans."""

    @model_validator(mode="after")
    def _ids(self) -> "SpansConfig":
        if self.first_sentinel is None and self.sentinel_step < 0:
            raise ValueError("sentinel_step: -1 needs first_sentinel, the id that they go down from")
        if self.first_sentinel is not None and self.first_sentinel + self.sentinel_step * (self.sentinels - 1) < 0:
            raise ValueError(f"below first_sentinel ({self.first_sentinel}) there are no {self.sentinels - 1} more ids")
        return self

    def obstacle(self, model: EncoderConfig) -> str | None:
        """Reading one way only, and sizes of the decoder that do not fit together."""
        if reading(model) != "both":
            fix = "model.direction: both" if hasattr(model, "direction") else "model.directions: 2, model.stacks: joint"
            return f"objective spans asks what stands on both sides, and this {model.kind} has not seen them; {fix} does"
        try:
            self.decoder.blocks(model)
        except ValidationError as error:
            return f"objective.decoder: {error.errors()[0]['msg'].removeprefix('Value error, ')}"
        return None


class ContrastiveConfig(ObjectiveBase):
    """SimCSE (Gao et al. 2021): a text must find itself again, under another dropout, among the others of the update."""

    kind: Literal["contrastive"] = "contrastive"
    pooling: Literal["cls", "mean"] = "cls"
    """The vector of a text: that of its first token, or the mean over all its tokens."""
    temperature: PositiveFloat = 0.05
    """What the cosines are divided by."""
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


class PermutedConfig(ObjectiveBase):
    """Permuted language modelling (Yang et al. 2019): guess the last tokens of a random order, each from those before it."""

    kind: Literal["permuted"] = "permuted"
    head: Literal["tied", "own"] = "tied"
    """The vocabulary head takes the products with the encoder's word embeddings, or with a table of its own."""
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


class WordVectorConfig(ObjectiveBase):
    """What the objectives of word vectors have in common."""

    window: PositiveInt = 5
    """Words on either side that are a word's contexts."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The loss alone: no token is guessed."""
        return ("loss",)

    def obstacle(self, model: EncoderConfig) -> str | None:
        """They train a table of vectors, and there is nothing else in a static encoder."""
        said = f"objective {self.model_dump()['kind']} trains word vectors alone; set model.kind: static"
        return None if isinstance(model, StaticConfig) else f"{said}, or objective.kind: masked"


class _SampledConfig(WordVectorConfig):
    """Word vectors by negative sampling."""

    shrink: Literal["dynamic", "full"] = "dynamic"
    """dynamic: each word's window is drawn from 1 to `window` words, so that near ones count more."""
    negatives: PositiveInt = 5
    """Words drawn for each target, that it is told apart from."""
    subsample: PositiveFloat | None = 1e-3
    """Words more frequent than this share are dropped at random, the more the more frequent; null: none."""
    noise_power: float = Field(default=0.75, ge=0)
    """Negatives are drawn in proportion to frequency to this power."""
    block: PositiveInt = 16
    """Neighbouring words that are computed together, and told apart from the same negatives."""
    draws: PositiveInt = 16
    """Negatives drawn for a block, weighted so that they count as `negatives` for each target."""


class SkipGramConfig(_SampledConfig):
    """Skip-gram with negative sampling (Mikolov et al. 2013, "Distributed Representations"): a word tells its contexts."""

    kind: Literal["skipgram"] = "skipgram"


class CbowConfig(_SampledConfig):
    """Continuous bag of words (Mikolov et al. 2013, "Efficient Estimation"): the mean of the contexts tells the word."""

    kind: Literal["cbow"] = "cbow"


class GloveConfig(WordVectorConfig):
    """GloVe (Pennington et al. 2014): products of vectors fit the logarithms of how often words are near one another."""

    kind: Literal["glove"] = "glove"
    window: PositiveInt = 10
    x_max: PositiveFloat = 100.0
    """Counts up to this one weigh less than 1."""
    alpha: float = Field(default=0.75, ge=0)
    """They weigh (count / x_max) to this power."""

    def obstacle(self, model: EncoderConfig) -> str | None:
        """Its two tables are symmetric, and have no part for n-grams."""
        if isinstance(model, StaticConfig) and model.ngrams:
            return "objective glove has no place for model.ngrams; set it to 0, or objective.kind: skipgram"
        return super().obstacle(model)


_OfText = MaskedConfig | CausalConfig | PermutedConfig | SpansConfig | ContrastiveConfig | ReplacedConfig
ObjectiveConfig = Annotated[_OfText | SkipGramConfig | CbowConfig | GloveConfig, Field(discriminator="kind")]


def misfit(objective: ObjectiveConfig, model: EncoderConfig) -> str | None:
    """Why `objective` cannot train an encoder of this kind, and what fits; None if it can."""
    if isinstance(model, StaticConfig) and not isinstance(objective, WordVectorConfig):
        asks = f"objective {objective.kind} asks about context"
        return f"{asks}, and model.kind static sees none; skipgram, cbow and glove train it"
    return objective.obstacle(model)
