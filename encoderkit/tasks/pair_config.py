"""The tasks that set texts against one another, which `tasks/config.py` has among the others. No torch here."""

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from encoderkit.data.config import Column
from encoderkit.tasks.rows import Pooling, RowsConfig, differ


class SimilarityConfig(RowsConfig):
    """Vectors of texts whose cosine says how alike they are: pairs with a score, or pairs that belong together."""

    kind: Literal["similarity"] = "similarity"
    text: tuple[Column, Column] = ("text", "text_pair")
    """The columns of a pair; without scores, of an anchor and its positive."""
    label: Column | None = None
    """The column of the score, for loss cosent and cosine."""
    negative: Column | None = None
    """The column of a text that is not like the anchor though it may seem so, for loss contrastive: of training rows, and in the
    loss of others that have it. It is not searched: retrieval is measured among the texts that belong to some anchor."""
    loss: Literal["contrastive", "cosent", "cosine"] = "contrastive"
    """contrastive: the positive among the texts of all rows of the update (van den Oord et al. 2018). cosent: the order of
    the scores of all pairs of rows of the update (Su 2022). cosine: the score itself, squared error."""
    temperature: PositiveFloat = 0.05
    """Of contrastive and cosent: what differences of cosines are divided by."""
    symmetric: bool = False
    """contrastive: the anchor among all anchors as well, given the positive."""
    pooling: Pooling = "mean"
    """The vector of a text: that of its [CLS] or of its last token, the mean or the maximum over all its tokens."""
    dimensions: list[PositiveInt] = Field(default_factory=list)
    """So many of the first dimensions are trained, and measured, to be good vectors too (Kusupati et al. 2022); `embed
    --dimensions` gives them."""

    @model_validator(mode="after")
    def _fits(self) -> "SimilarityConfig":
        if (self.loss == "contrastive") != (self.label is None):
            wrong = "loss contrastive has no label: pairs belong together" if self.label else f"loss {self.loss} needs a label"
            raise ValueError(f"{wrong}; with scores loss is cosent or cosine")
        if self.loss != "contrastive" and (self.negative or self.symmetric):
            raise ValueError("negative and symmetric are for loss contrastive")
        if self.loss == "cosine" and self.temperature != type(self).model_fields["temperature"].default:
            raise ValueError("temperature is for loss contrastive and cosent")
        differ([*self.all_columns, *self.optional_columns], "text, label and negative")
        if len(set(self.dimensions)) < len(self.dimensions):
            raise ValueError("dimensions: each once")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """Of scored pairs correlations; else how early the right text is found."""
        return ("loss", "pearson", "spearman") if self.label else ("loss", "mrr", "ndcg_at_10", "recall_at_1", "recall_at_10")

    @property
    def columns(self) -> list[str]:
        """The columns of a pair."""
        return list(self.text)

    @property
    def all_columns(self) -> list[str]:
        """That of the score too."""
        return [*self.text, *([self.label] if self.label else [])]

    @property
    def optional_columns(self) -> list[str]:
        """That of the negative: what a model is measured by must not depend on what it was trained with."""
        return [self.negative] if self.negative else []

    @property
    def training_columns(self) -> list[str]:
        """The negative."""
        return self.optional_columns

    @property
    def together(self) -> list[str]:
        """Of pairs that belong together the anchor, to which all its positives are right."""
        return self.columns if self.label else [self.text[0]]

    @property
    def sides(self) -> int:
        """Texts are encoded apart."""
        return 1

    @property
    def embedded(self) -> list[str]:
        """The first text of a pair."""
        return [self.text[0]]

    @property
    def vector(self) -> Pooling | None:
        """As it was trained."""
        return self.pooling


class RerankConfig(RowsConfig):
    """How relevant a candidate is to a query; a row for each of a query's candidates."""

    kind: Literal["rerank"] = "rerank"
    text: tuple[Column, Column] = ("query", "candidate")
    """The columns of the query and of the candidate."""
    label: Column = "relevance"
    """The column of the relevance: 0 for none; 1, or any other number, for more."""
    pooling: Pooling = "cls"
    """The vector of a pair: that of its [CLS] or of its last token, the mean or the maximum over all its tokens."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout before the last layer."""
    rdrop: float = Field(default=0.0, ge=0)
    """R-Drop, see `classify`: over being relevant and not being so."""

    @model_validator(mode="after")
    def _columns_differ(self) -> "RerankConfig":
        differ(self.all_columns, "text and label")
        return self

    @property
    def metrics(self) -> tuple[str, ...]:
        """How early what is relevant comes."""
        return ("loss", "map", "mrr", "ndcg_at_10")

    @property
    def columns(self) -> list[str]:
        """The columns of the query and of the candidate."""
        return list(self.text)

    @property
    def all_columns(self) -> list[str]:
        """That of the relevance too."""
        return [*self.text, self.label]

    @property
    def together(self) -> list[str]:
        """The candidates of a query."""
        return [self.text[0]]
