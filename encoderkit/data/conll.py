"""CoNLL files: a token a line with its tags in columns, an empty line between sentences (Tjong Kim Sang and De Meulder 2003)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from encoderkit.errors import DataError

DOCUMENT = "-DOCSTART-"


def sentences(numbered: Iterable[tuple[int, str]], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The line where each sentence begins, and its columns by name: `tokens` the first, `tags` the last, and 1, 2, ... for all.

    Columns are parted by tabs in a line that has one, else by spaces. Raises `DataError` for a line with more or fewer columns
    than the first of the file.
    """
    held: list[tuple[int, list[str]]] = []
    width = 0
    for number, text in numbered:
        if text and not text.isspace():
            fields = text.split("\t") if "\t" in text else [field for field in text.split(" ") if field]  # U+3000 is a token
            if fields[0] == DOCUMENT:
                continue
            width = width or len(fields)
            if len(fields) != width or "" in fields:
                empty = " one of which is empty," if "" in fields else ""
                message = f"has {len(fields)} columns,{empty} and the lines before it {width}"
                raise DataError(message, where=f"{name}:{number}", fix="a token a line, each with as many columns")
            held.append((number, fields))
        elif held:
            yield held[0][0], _columns([fields for _, fields in held])
            held = []
    if held:
        yield held[0][0], _columns([fields for _, fields in held])


def _columns(rows: Sequence[Sequence[str]]) -> dict[str, Any]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    tags = {"tags": columns[-1]} if len(columns) > 1 else {}
    return {"tokens": columns[0], **tags, **{str(i): column for i, column in enumerate(columns, start=1)}}
