"""The tasks that a recipe can name. No torch here; `tasks/build.py` maps each class to its module."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from encoderkit.data.config import Column
from encoderkit.models.config import DecoderConfig
from encoderkit.tasks.pair_config import RerankConfig, SimilarityConfig
from encoderkit.tasks.rows import ClassWeights, Pooling, RowsConfig, differ, one_loss
from encoderkit.tasks.token_config import SpanConfig, TagConfig
from encoderkit.units import Share


def _one_or_two(value: str | list[str]) -> str | list[str]:
    if isinstance(value, list) and len(value) not in (1, 2):
        raise ValueError("text is one column or a pair of columns")
    return value


TextColumns = Annotated[Column | list[Column], AfterValidator(_one_or_two)]
"""The column of a text, or the two columns of a pair: names, or numbers where no line names them."""


def _listed(columns: str | list[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


class TextsConfig(RowsConfig):
    """What is learnt of a text or of a pair of texts."""

    text: TextColumns = "text"
    """The column of the text, or the two columns of a pair."""
    pair: Literal["cross_encoder", "bi_encoder"] = "cross_encoder"
    """How two texts are read. cross_encoder: as one, so that each token sees both (Devlin et al. 2019, section 3). bi_encoder:
    each alone, and the head compares their vectors, by both, their difference and their product (Conneau et al. 2017, section
    3.1): better with an encoder that was trained little, or not at all; transformers has no class for it."""
    pooling: Pooling = "cls"
    """The vector of a text: that of its [CLS] or of its last token, the mean or the maximum over all its tokens."""

    @model_validator(mode="after")
    def _two_texts_are_read_apart(self) -> "TextsConfig":
        if self.apart and len(self.columns) < 2:
            raise ValueError("pair: bi_encoder reads the two texts of a pair apart; name two columns in text, or leave it out")
        return self

    @property
    def columns(self) -> list[str]:
        """The columns of the texts."""
        return _listed(self.text)

    @property
    def apart(self) -> bool:
        """As `pair` says."""
        return self.pair == "bi_encoder"

    @property
    def sides(self) -> int:
        """Texts that are encoded apart share no places."""
        return 1 if self.apart else len(self.columns)

    @property
    def embedded(self) -> list[str]:
        """The first text of a pair that is encoded apart."""
        return self.columns[:1] if self.apart else self.columns

    @property
    def vector(self) -> Pooling | None:
        """As it was trained, if texts are encoded apart."""
        return self.pooling if self.apart else None


class ClassifyConfig(TextsConfig):
    """One label, or several, for a text or a pair of texts."""

    kind: Literal["classify"] = "classify"
    label: Column | list[Column] = "label"
    """The column of the label (a list in it: several labels a row), or one column of 0 and 1 for each label."""
    multiple: bool = False
    """Several labels a row: each is decided on its own. Set by itself when `label` is a list of columns."""
    threshold: Literal["dev"] | Annotated[float, Field(gt=0, lt=1)] = "dev"
    """Of several labels: the probability that a label must exceed. dev: for each the one with the best F1 on the dev set; one
    half without a dev set, or where fewer than five of its rows have the label or have it not."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout before the classifier."""
    word_dropout: Annotated[Share, Field(lt=1)] = 0.0
    """The share of tokens that are replaced by [MASK] in training, drawn anew each time (Iyyer et al. 2015, section 3.1)."""
    class_weights: ClassWeights = None
    """The weight of each label in the loss; balanced: inversely to its frequency. Of several labels a row, the weight of
    having it, against not having it."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """The share of each target spread over all labels (Szegedy et al. 2016); what a teacher says stays as it is."""
    focal: float = Field(default=0.0, ge=0)
    """The power of (1 - p) that the loss of a label with the probability p is multiplied by, so that what is learnt already
    counts for little (Lin et al. 2017, "Focal loss", equation 4; they have 2); 0: the plain loss."""
    rdrop: float = Field(default=0.0, ge=0)
    """R-Drop: each batch is computed twice with other dropout, and this weighs how far the two differ, against the mean of
    their losses as in equation 4 of Liang et al. (2021), who have 0.1 to 5. 0: computed once."""
    sampling: Literal["natural", "balanced"] = "natural"
    """balanced: an epoch has as many rows of each label, so rare ones repeatedly and frequent ones now and then."""
    soft: Column | None = None
    """A column with a teacher's probabilities, {label: p}, as `predict` writes them (scores): trained on beside the label, or
    instead of it (Hinton et al. 2015). Rows without it, and held-out data, have their label alone."""
    soft_share: Share = 1.0
    """soft: the share of the loss against the teacher; the rest is that against the label."""
    temperature: PositiveFloat = 1.0
    """soft: what the logits of both are divided by in that share, whose gradient is scaled up again by its square."""
    confidence: Share = 0.0
    """soft: rows of whose label the teacher is less sure than this are left out of training (pseudo-labels, Lee 2013)."""

    @model_validator(mode="after")
    def _columnsdiffer(self) -> "ClassifyConfig":
        if not self.label:
            raise ValueError("label names at least one column")
        differ([*self.all_columns, *self.optional_columns], "text, label and soft" if self.soft else "text and label")
        if self.threshold != "dev" and not self.several:
            raise ValueError("threshold is for several labels; of exclusive ones the likeliest is taken")
        return self

    @model_validator(mode="after")
    def _losses_agree(self) -> "ClassifyConfig":
        needs = {"soft_share", "temperature", "confidence"} & self.model_fields_set
        if self.soft is None and any(getattr(self, n) != type(self).model_fields[n].default for n in needs):
            raise ValueError(f"{' and '.join(sorted(needs))} are about a teacher's scores: name their column in soft")
        one_loss(self.focal, self.label_smoothing)
        if self.soft and self.soft_share and (self.focal or self.class_weights):
            raise ValueError("focal and class_weights are for labels, and soft is none; with soft_share: 0 it only chooses rows")
        if self.sampling == "balanced" and (self.several or self.class_weights == "balanced"):
            reason = "rows have several labels" if self.several else "class_weights are balanced too"
            raise ValueError(f"sampling cannot be balanced where {reason}")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of each label too; of exclusive labels also the correlation."""
        return ("loss", "accuracy", "macro_f1", "micro_f1" if self.several else "mcc")

    @property
    def optional_columns(self) -> list[str]:
        """That of a teacher's scores."""
        return [self.soft] if self.soft else []

    @property
    def all_columns(self) -> list[str]:
        """The columns of the texts and of the labels."""
        return self.columns + _listed(self.label)

    @property
    def several(self) -> bool:
        """Whether a row may have several labels."""
        return self.multiple or isinstance(self.label, list)


class RegressConfig(TextsConfig):
    """One number, or several, for a text or a pair of texts."""

    kind: Literal["regress"] = "regress"
    label: Column | list[Column] = "score"
    """The column of the number, or one column for each number."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout before the last layer."""
    rdrop: float = Field(default=0.0, ge=0)
    """R-Drop, see `classify`: how far the numbers of two passes differ is their squared difference, in units of the variance,
    as Liang et al. (2021) have it on STS-B."""

    @model_validator(mode="after")
    def _columnsdiffer(self) -> "RegressConfig":
        if not self.label:
            raise ValueError("label names at least one column")
        differ(self.all_columns, "text and label")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Correlations and errors."""
        return ("loss", "pearson", "spearman", "mse", "mae")

    @property
    def targets(self) -> list[str]:
        """The columns of the numbers."""
        return _listed(self.label)

    @property
    def all_columns(self) -> list[str]:
        """The columns of the texts and of the numbers."""
        return self.columns + self.targets


class ChoiceConfig(RowsConfig):
    """Which of several options answers a question, or continues a text."""

    kind: Literal["choice"] = "choice"
    text: Column = "question"
    """The column of the question."""
    options: Column | list[Column] = "options"
    """The column of the options, which holds a list of texts, or one column for each option."""
    label: Column = "label"
    """The column of the right option: its number, or its letter (A, B, ...)."""
    first: Literal[0, 1] = 0
    """The number of the first option."""
    pooling: Pooling = "cls"
    """The vector of a question with an option: that of its [CLS] or of its last token, the mean or the maximum over all."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout before the last layer."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """The share of each target spread over all options of its question (Szegedy et al. 2016)."""
    rdrop: float = Field(default=0.0, ge=0)
    """R-Drop, see `classify`: over the options of a question."""

    @model_validator(mode="after")
    def _fits(self) -> "ChoiceConfig":
        if isinstance(self.options, list) and len(self.options) < 2:
            raise ValueError("options are two columns or more, or one column that holds a list")
        differ(self.all_columns, "text, options and label")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """The share of right options."""
        return ("loss", "accuracy")

    @property
    def columns(self) -> list[str]:
        """The columns of the question and of the options."""
        return [self.text, *_listed(self.options)]

    @property
    def all_columns(self) -> list[str]:
        """That of the right option too."""
        return [*self.columns, self.label]

    @property
    def typed(self) -> bool:
        """Options are read from files alone."""
        return False

    @property
    def sides(self) -> int:
        """The question and one option."""
        return 2

    @property
    def embedded(self) -> list[str]:
        """The question."""
        return [self.text]


Wording = Literal["13a", "zh", "char", "intl", "ja-mecab", "ko-mecab", "none"]
"""How sacrebleu cuts texts into words for BLEU."""


class GenerateConfig(RowsConfig):
    """A text from a text: translation, summaries, titles."""

    kind: Literal["generate"] = "generate"
    source: Column = "source"
    """The column of what is read."""
    target: Column = "target"
    """The column of what is to be written."""
    target_length: int = Field(default=128, ge=2)
    """The most tokens that are written, the end included; longer targets are cut for training, and counted."""
    tokenizer: str | None = None
    """A tokenizer directory for the target alone, whose pieces the decoder then has a table of its own for: for another
    language or script. If not given, the source's is for both, and their embeddings are the same."""
    decoder: DecoderConfig | None = None
    """What writes. If not given, the decoder of the checkpoint where it has one, else one like the encoder."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """The share of each target spread over the vocabulary (Szegedy et al. 2016)."""
    rdrop: float = Field(default=0.0, ge=0)
    """R-Drop, see `classify`: over the vocabulary at each token of the target; Liang et al. (2021) translate with 5."""
    beams: int = Field(default=1, ge=1, le=100)
    """Beginnings that are followed at a time; 1: the likeliest token each time."""
    length_penalty: float = Field(default=1.0, ge=-10, le=10)
    """Beams are compared by log probability / tokens to this power: more favours longer texts."""
    wording: Literal["auto"] | Wording = "auto"
    """How BLEU cuts texts into words: zh for Chinese; 13a for languages with spaces. auto: by what the right texts are of."""

    @model_validator(mode="after")
    def _columns_differ(self) -> "GenerateConfig":
        differ(self.all_columns, "source and target")
        return self

    @property
    def writer(self) -> DecoderConfig:
        """The decoder, where no checkpoint decides it."""
        return self.decoder or DecoderConfig()

    @property
    def yardstick(self) -> tuple[str, ...]:
        """How texts are cut into words."""
        return () if self.wording == "auto" else (self.wording,)

    @property
    def metrics(self) -> tuple[str, ...]:
        """How like the targets the texts are."""
        return ("loss", "chrf", "bleu", "rouge_1", "rouge_2", "rouge_l")

    @property
    def columns(self) -> list[str]:
        """The source."""
        return [self.source]

    @property
    def all_columns(self) -> list[str]:
        """Source and target."""
        return [self.source, self.target]


TaskConfig = Annotated[
    ClassifyConfig | RegressConfig | SimilarityConfig | RerankConfig | ChoiceConfig | TagConfig | SpanConfig | GenerateConfig,
    Field(discriminator="kind"),
]
