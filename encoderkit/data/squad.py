"""Questions about passages as SQuAD, CMRC 2018 and DRCD are published, nested in one .json: a row for each question.

Rajpurkar et al. 2016 (SQuAD), Cui et al. 2019 (CMRC 2018), Shao et al. 2018 (DRCD). Articles hold `paragraphs`, these a
`context` and `qas`, these `question`, `id` and `answers`; CMRC 2018 also calls them context_text, query_text and query_id.
"""

from collections.abc import Iterator
from typing import Any

from encoderkit.errors import DataError, shown

_NAMES = {"context_text": "context", "query_text": "question", "query_id": "id"}
_FORM = "SQuAD's form is data > paragraphs > qas; or a flat list of rows with question, context and answers"
_HELD = ("title", "context")
"""What an article and a paragraph give to each of their questions."""


def flattened(document: object, where: str) -> Iterator[dict[str, Any]]:
    """The rows of what a .json holds: those of a list, or below `data`, and of a paragraph's questions each.

    Raises `DataError` for what is none, with the file `where`, and the question's id if it has one.
    """
    if isinstance(document, dict):
        document = document.get("data", [document])
    yield from _below(document, {}, where)


def _below(nodes: Any, held: dict[str, Any], where: str) -> Iterator[dict[str, Any]]:
    if not isinstance(nodes, list):
        raise DataError(
            f"expected a list of objects, found {type(nodes).__name__}: {shown(str(nodes), 40)}", where=where, fix=_FORM
        )
    for node in nodes:
        if not isinstance(node, dict):
            raise DataError(f"expected an object, found {type(node).__name__}: {shown(str(node), 40)}", where=where, fix=_FORM)
        inner = next((node[key] for key in ("paragraphs", "qas") if key in node), None)
        fields: dict[str, Any] = node
        named = {_NAMES.get(key, key): value for key, value in fields.items()}
        if inner is not None:
            yield from _below(inner, held | {key: named[key] for key in _HELD if key in named}, where)
            continue
        if held and named.get("is_impossible") is True and named.get("answers"):
            at = f"{where} (id {shown(str(named.get('id')), 40)})"
            raise DataError("is_impossible is true, and there are answers", where=at, fix="correct one of the two")
        yield held | named if held else node
