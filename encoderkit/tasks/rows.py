"""What the stages ask of the config of every task: which columns of a row are what. No torch here."""

from typing import Literal

from pydantic import PositiveFloat

from encoderkit.config import Config

Pooling = Literal["cls", "mean", "max", "last"]
ClassWeights = Literal["balanced"] | dict[str, PositiveFloat] | None


def cut(limit: int, of: Literal["row", "question"] = "row") -> str:
    """What is said of rows of which something was cut, see `RowsConfig.read`."""
    return f"{'are longer than' if of == 'row' else 'have a question of more than'} {limit:,} tokens and were cut"


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
    def metrics(self) -> tuple[str, ...]:
        """What is measured on held-out data, for `training.metric`."""
        raise NotImplementedError

    @property
    def yardstick(self) -> tuple[str, ...]:
        """How answers are compared with what is right, where there are several ways and this one is named."""
        return ()

    @property
    def optional_columns(self) -> list[str]:
        """Those that are read where a file has them."""
        return []

    @property
    def training_columns(self) -> list[str]:
        """Those of them that rows that are trained on must have."""
        return []

    @property
    def repeated(self) -> list[str]:
        """Those of them that a prediction repeats."""
        return []

    @property
    def txt(self) -> Literal["line", "conll"]:
        """What labelled rows of a .txt are: a text a line, or columns with a token a line and an empty line between rows."""
        return "line"

    @property
    def typed(self) -> bool:
        """Whether `--text` and `--text-pair` can give what a prediction needs."""
        return len(self.columns) <= 2

    @property
    def together(self) -> list[str]:
        """Columns whose equal values stay on one side when rows are held out: a text that was trained on tells its answer."""
        return self.columns

    @property
    def sides(self) -> int:
        """How many texts share the places of one example."""
        return len(self.columns)

    @property
    def apart(self) -> bool:
        """Whether the head compares the two texts of a row, which are encoded each alone."""
        return False

    def cramped(self, length: int) -> str | None:
        """Why an example does not fit into `length` tokens; None if it does."""
        if length < 2 * self.sides + 1:
            return f"data.length ({length}) has no room for a token of each of {self.sides} texts"
        return None

    def read(self, length: int) -> tuple[int, Literal["row", "question"]]:
        """How many tokens at most are read, and of what: that is cut where it has more."""
        return length, "row"

    @property
    def embedded(self) -> list[str]:
        """The columns of the text, or the pair, that `embed` reads where none is named."""
        return self.columns

    @property
    def vector(self) -> Pooling | None:
        """How `embed` makes one vector of a text, if the task has trained that."""
        return None


def one_loss(focal: float, label_smoothing: float) -> None:
    """Raise `ValueError` if both change the loss of a label."""
    if focal and label_smoothing:
        raise ValueError("focal is of the probability of one label, and label_smoothing gives some to all; set one of them")


def differ(names: list[str], what: str) -> None:
    """Raise `ValueError` if two of the columns `names` are one, as a check of `what` the config says."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{what} name columns that differ, found {twice} twice")
