"""What is tagged, and by which vector: tokens of a file or characters of a text, beside the pieces of the tokenizer.

A row is a text with *units* in it, its tokens or its characters. The text is cut into pieces as it stands, so that the
encoder reads the ids that it was pretrained on, and each unit belongs to the first piece that holds a part of it: every word
has a first piece, and not every word a second one (Devlin et al. 2019, section 5.3). Units of one piece are a *slot*, which
has one vector and one tag. Where an entity ends inside a slot, no tags can say so: that is counted, never passed over.
"""

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from encoderkit.tasks.schemes import Entity
from encoderkit.text.alphabet import NEVER, WORD, word_class

INSIDE, OVERLAP, NOTHING, SHARED = (
    "entities that begin or end inside a piece",
    "entities that overlap longer ones",
    "tokens of which no piece is left",
    "tokens in one piece with others that have another tag",
)
"""What a model of these pieces cannot give, however well it has learned."""


class Slots(NamedTuple):
    """What has a tag of its own in a row."""

    places: np.ndarray
    """(S,) the piece whose vector stands for it, ascending."""
    first: np.ndarray
    """(S,) its first unit."""
    last: np.ndarray
    """(S,) its last one."""


def words(text: str) -> np.ndarray:
    """(U, 2) where the words of a text stand: runs of letters and digits with their marks; every other character is one."""
    places: list[list[int]] = []
    goes_on = False
    for i, character in enumerate(text):
        kind = word_class(character)
        if character.isspace():
            goes_on = False
        elif places and places[-1][1] == i and (kind == NEVER or (goes_on and kind == WORD)):
            places[-1][1] = i + 1
        else:
            places.append([i, i + 1])
            goes_on = kind == WORD
    return np.array(places, np.int64).reshape(-1, 2)


def characters(text: str) -> np.ndarray:
    """(U, 2) where the characters of a text stand."""
    return np.arange(len(text))[:, None] + np.arange(2)


def find_slots(text: str, units: np.ndarray, pieces: np.ndarray) -> Slots:
    """`units` (U, 2) and `pieces` (P, 2), both by their characters in `text`, to slots; units that no piece holds have none."""
    starts, ends = pieces.T.copy()
    for i in np.flatnonzero(starts < ends).tolist():  # " Paris" is a piece of many tokenizers
        while starts[i] < ends[i] and text[starts[i]].isspace():
            starts[i] += 1
    begins, stops = units.T
    piece = np.searchsorted(np.maximum.accumulate(ends), begins, side="right")
    held = np.flatnonzero(np.append(starts, len(text) + 1)[piece] < stops)
    first, last = np.diff(piece[held], prepend=-1) != 0, np.diff(piece[held], append=-1) != 0
    return Slots(piece[held][first], held[first], held[last])


def with_marks(text: str, slots: Slots) -> Slots:
    """Slots of characters, each with the characters after it that no piece holds: accents and the like, but not spaces."""
    last, limits = slots.last.copy(), [*slots.first[1:].tolist(), len(text)]
    for i, limit in enumerate(limits[: len(last)]):
        while last[i] + 1 < limit and not text[last[i] + 1].isspace():
            last[i] += 1
    return slots._replace(last=last)


def fit(found: Iterable[Entity], slots: Slots) -> tuple[list[Entity], Counter[str]]:
    """Entities by units to those that tags can name, by slots, and how many are lost for which reason; longer ones go first."""
    fitted: list[Entity] = []
    lost: Counter[str] = Counter()
    taken = np.zeros(len(slots.places), bool)
    for start, end, label in sorted(found, key=lambda one: (one.start - one.end, one)):
        i, j = int(np.searchsorted(slots.first, start)), int(np.searchsorted(slots.last, end))
        if i >= j or slots.first[i] != start or slots.last[j - 1] != end - 1:
            lost[INSIDE] += 1
        elif taken[i:j].any():
            lost[OVERLAP] += 1
        else:
            taken[i:j] = True
            fitted.append(Entity(i, j, label))
    return fitted, lost


def unfit(found: Iterable[Entity], slots: Slots) -> frozenset[Entity]:
    """Entities by slots to entities by units."""
    return frozenset(Entity(int(slots.first[one.start]), int(slots.last[one.end - 1]) + 1, one.label) for one in found)


def spread(values: np.ndarray, slots: Slots, units: int) -> np.ndarray:
    """(S,) the number of each slot's tag to that of each unit, (U,); units without a slot have that of the one before them."""
    if not len(values):
        return np.zeros(units, np.int64)
    return values[(np.searchsorted(slots.first, np.arange(units), side="right") - 1).clip(min=0)]
