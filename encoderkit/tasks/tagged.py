"""What the task `tag` reads: rows as texts, in windows (see `tasks.slots`)."""

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from encoderkit.tasks.slots import Slots
from encoderkit.tasks.texts import ONE_TEXT, SIZE, Tokens


class Laid(NamedTuple):
    """A row as a text."""

    text: str
    units: np.ndarray
    """(U, 2) where what is tagged stands in it."""
    tokens: list[str] | None
    """As the row gives them; None for one that is a text."""


class Example(NamedTuple):
    """A window of a row, and the slots that it decides."""

    tokens: Tokens
    places: np.ndarray
    """(S,) of their pieces in the tokens."""
    slots: Slots
    """(S,) each: those that this window decides."""
    units: int
    """Of the row."""
    edges: tuple[bool, bool]
    """Whether its slots are the first and the last of the row."""
    targets: np.ndarray | None = None
    """(S,) the numbers of their tags; None: not known."""
    gold: Any = None
    """What is right for the row, with its first window."""
    lost: Counter[str] | None = None
    """Of it, what cannot be given, by the reason."""
    single: bool = False
    """Whether every unit of the row is one character."""
    row: int = 0
    """The number of its row."""

    texts = ONE_TEXT
    size = SIZE
