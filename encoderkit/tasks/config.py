"""The tasks that a recipe can name. No torch here; `tasks/build.py` maps each class to its module."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from encoderkit.config import Config
from encoderkit.units import Share

Pooling = Literal["cls", "mean", "max", "last"]


class RowsConfig(Config):
    """What the stages ask of every task's config: which columns of a row are what."""

    @property
    def columns(self) -> list[str]:
        """The columns of what a prediction needs, the texts."""
        raise NotImplementedError

    @property
    def all_columns(self) -> list[str]:
        """Those that training needs too."""
        raise NotImplementedError

    @property
    def optional_columns(self) -> list[str]:
        """Those that are read where a file has them."""
        return []

    @property
    def together(self) -> list[str]:
        """Columns whose equal values stay on one side when rows are held out; none: rows that are equal in all do."""
        return []

    @property
    def sides(self) -> int:
        """How many texts share the places of one example."""
        return len(self.columns)

    @property
    def embedded(self) -> list[str]:
        """The columns of the text, or the pair, that `embed` reads where none is named."""
        return self.columns


def _one_or_two(value: str | list[str]) -> str | list[str]:
    if isinstance(value, list) and len(value) not in (1, 2):
        raise ValueError("text is one column or a pair of columns")
    return value


def _differ(names: list[str], what: str) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{what} name columns that differ, found {twice} twice")


TextColumns = Annotated[str | list[str], AfterValidator(_one_or_two)]
"""The column of a text, or the two columns of a pair."""


def _listed(columns: str | list[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


class ClassifyConfig(RowsConfig):
    """One label, or several, for a text or a pair of texts."""

    kind: Literal["classify"] = "classify"
    text: TextColumns = "text"
    """The column of the text, or the two columns of a pair."""
    label: str | list[str] = "label"
    """The column of the label (a list in it: several labels a row), or one column of 0 and 1 for each label."""
    multiple: bool = False
    """Several labels a row: each is decided on its own. Set by itself when `label` is a list of columns."""
    pooling: Pooling = "cls"
    """The vector of a text: that of its [CLS] or of its last token, the mean or the maximum over all its tokens."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout before the classifier."""
    word_dropout: Annotated[Share, Field(lt=1)] = 0.0
    """The share of tokens that are replaced by [MASK] in training, drawn anew each time (Iyyer et al. 2015, section 3.1)."""
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    """The weight of each label in the loss; balanced: inversely to its frequency."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """The share of each target spread over all labels (Szegedy et al. 2016)."""

    @model_validator(mode="after")
    def _columns_differ(self) -> "ClassifyConfig":
        if not self.label:
            raise ValueError("label names at least one column")
        _differ(self.all_columns, "text and label")
        return self

    @property
    def columns(self) -> list[str]:
        """The columns of the texts."""
        return _listed(self.text)

    @property
    def all_columns(self) -> list[str]:
        """The columns of the texts and of the labels."""
        return self.columns + _listed(self.label)

    @property
    def several(self) -> bool:
        """Whether a row may have several labels."""
        return self.multiple or isinstance(self.label, list)


TaskConfig = ClassifyConfig
