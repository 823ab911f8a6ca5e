"""Tags and entities as rows hold them: lists beside the tokens, or spans of characters as doccano and spaCy write them."""

from collections.abc import Sequence
from typing import Any, TypeGuard, overload

from encoderkit.data.labelled import Row
from encoderkit.data.records import ONE_ROW
from encoderkit.errors import DataError, listed, shown
from encoderkit.tasks.schemes import Entity, entities
from encoderkit.tasks.token_config import TagConfig

_NAMES = (("start", "start_offset"), ("end", "end_offset"), ("label",))
"""Of the three parts of an entity, where it is an object; doccano writes the second ones."""


@overload
def read_tags(row: Row, config: TagConfig) -> list[Entity]: ...
@overload
def read_tags(row: Row, config: TagConfig, plain: bool) -> list[str]: ...
def read_tags(row: Row, config: TagConfig, plain: bool = False) -> list[Entity] | list[str]:
    """The entities that the tags of a row name, by tokens, or the tags as they are.

    Raises `DataError` for tags that are of no scheme or not as many as tokens.
    """
    tokens, tags = row.words(config.tokens or ""), row.words(config.tags or "")
    if len(tokens) != len(tags):
        found = f"{shown(config.tokens or '')} has {len(tokens)} entries and {shown(config.tags or '')} {len(tags)}"
        raise DataError(f"{found}; each token has one tag", where=row.place, fix=ONE_ROW)
    if plain:
        return tags
    try:
        return entities(tags)
    except ValueError as error:
        raise DataError(str(error), where=row.place, fix="correct it; or --set task.scheme=plain for tags as they are") from None


def read_entities(row: Row, column: str, text: str) -> list[Entity]:
    """The entities of a text by its characters, white space at their ends left out; raises `DataError` for what is none."""
    given = row.values.get(column)
    if isinstance(given, dict):
        given = given.get("entities")
    if not isinstance(given, list):
        kind = "nothing" if given is None else shown(str(given), 40)
        fix = 'such as [[0, 5, "PER"]], an empty list where there is none; task.spans names the column'
        raise DataError(f"{shown(column)} should be a list of [start, end, label], found {kind}", where=row.place, fix=fix)
    return [_entity(one, column, text, row.place) for one in given]


def _entity(given: Any, column: str, text: str, place: str) -> Entity:
    if isinstance(given, dict):
        parts = [next((given[name] for name in names if name in given), None) for names in _NAMES]
    else:
        parts = list(given) if isinstance(given, list | tuple) and len(given) == 3 else [None] * 3
    start, end, label = parts
    if not (_whole(start) and _whole(end) and isinstance(label, str) and label):
        message = f"an entity in {shown(column)} is [start, end, label] or has these names, found {shown(str(given), 60)}"
        raise DataError(message, where=place, fix='such as [0, 5, "PER"], in characters from 0, the end not included')
    if not 0 <= start < end <= len(text):
        message = f"the entity {shown(str(given), 60)} does not lie in the text, which has {len(text)} characters"
        raise DataError(message, where=place, fix="offsets count characters from 0, and end is the one after the last")
    inner = text[start:end].strip()
    if not inner:
        fix = ONE_ROW
        raise DataError(f"the entity {shown(str(given), 60)} holds nothing but white space", where=place, fix=fix)
    start += len(text[start:end]) - len(text[start:end].lstrip())
    return Entity(start, start + len(inner), label)


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def known(names: Sequence[str], kinds: Sequence[str], what: str, row: Row) -> None:
    """Raise `DataError` for the first of `names` that is none of `kinds`."""
    if (unknown := next((name for name in names if name not in kinds), None)) is not None:
        message = f"the {what} {shown(unknown)} was not seen in training; there are: {listed(kinds)}"
        raise DataError(message, where=row.place, fix="correct it, or train on rows that have it")
