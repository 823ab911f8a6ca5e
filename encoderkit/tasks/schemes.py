"""Entities as tags, a tag a token: BIO (and IOB1), BIOES (and BMES, BILOU, whose letters differ), or plain tags.

Tags are read as seqeval and conlleval read them: an entity begins at B or S, and where an I or E has nothing of its label to
go on from. So one reading serves all schemes, IOB1 included, which has a B only between two entities of one label.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np

from encoderkit.errors import shown

Scheme = Literal["bio", "bioes", "plain"]
PREFIXES: dict[Scheme, str] = {"bio": "BI", "bioes": "BIES"}
_TAG = re.compile(r"([BIESMLUW])(?:[-_](.+))?", re.DOTALL)
_LETTERS = {"M": "I", "L": "E", "U": "S", "W": "S"}


class Entity(NamedTuple):
    """A stretch of tokens, or of characters, and its label."""

    start: int
    end: int
    """The one after its last."""
    label: str


def split(tag: str) -> tuple[str, str]:
    """A tag as one of B I E S O and a label (`_` where it has none); raises `ValueError` for one of no scheme."""
    if tag == "O":
        return "O", ""
    if not (found := _TAG.fullmatch(tag)):
        raise ValueError(f"the tag {shown(tag, 40)} is neither O nor begins with a letter of BIO, BIOES, BMES or BILOU and a -")
    return _LETTERS.get(found[1], found[1]), found[2] or "_"


def recognise(tags: Iterable[str]) -> Scheme:
    """The scheme of the tags of a file, those that only differ in letters taken together: plain where none has a label.

    Letters alone count as BIO or BIOES where all tags are such (B M E S of words without spaces).
    """
    found = [_TAG.fullmatch(tag) for tag in tags if tag != "O"]
    if not any(one and one[2] for one in found) and not (found and all(found) and any(one and one[1] == "B" for one in found)):
        return "plain"
    letters = {_LETTERS.get(one[1], one[1]) for one in found if one}
    return "bioes" if letters & {"E", "S"} else "bio"


def written(tags: Sequence[str]) -> tuple[list[str], Scheme]:
    """The tags of another program's model as they are written here, and their scheme."""
    scheme = recognise(tags)
    parts = [("O", "") if scheme == "plain" else split(tag) for tag in tags]
    named = [f"{letter}-{label}" if letter != "O" else "O" for letter, label in parts]
    return (list(tags), scheme) if scheme == "plain" else (named, scheme)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags of any scheme name, by their tokens; raises `ValueError` for a tag of no scheme."""
    found: list[Entity] = []
    start: int | None = None
    name = ""
    for i, tag in enumerate([*tags, "O"]):
        letter, label = split(tag)
        if start is not None and not (letter in "IE" and label == name):
            found.append(Entity(start, i, name))
            start = None
        if letter != "O" and start is None:
            start, name = i, label
        if start is not None and letter in "ES":
            found.append(Entity(start, i + 1, name))
            start = None
    return found


def tags(found: Iterable[Entity], length: int, scheme: Scheme) -> list[str]:
    """Entities that do not overlap, among `length` tokens, as tags."""
    written = ["O"] * length
    for start, end, label in found:
        letters = ["B", *"I" * (end - start - 1)]
        if scheme == "bioes":
            letters[-1] = "E" if end - start > 1 else "S"
        written[start:end] = [f"{letter}-{label}" for letter in letters]
    return written


def outputs(labels: Iterable[str], scheme: Scheme) -> list[str]:
    """All tags of entities with these labels: O, B-x, I-x and so on."""
    return ["O", *(f"{letter}-{label}" for label in labels for letter in PREFIXES[scheme])]


def legal(names: Sequence[str], scheme: Scheme) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of tags (L,) which may begin a text (L,), which (column) may follow which (row) (L, L), and which may end one (L,)."""
    if scheme == "plain":
        return np.ones(len(names), bool), np.ones((len(names), len(names)), bool), np.ones(len(names), bool)
    parts = [split(name) for name in names]
    inner = np.array([letter in "IE" for letter, _ in parts])
    # In BIO an entity may end wherever the next one begins; in BIOES it must be closed.
    may_go_on = np.array([letter in "BI" for letter, _ in parts])
    must_go_on = may_go_on & (scheme == "bioes")
    same = np.array([[a == b for _, b in parts] for _, a in parts])
    return ~inner, np.where(inner, may_go_on[:, None] & same, ~must_go_on[:, None]), ~must_go_on
