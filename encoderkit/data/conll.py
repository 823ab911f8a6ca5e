"""CoNLL files: a token a line with its tags in columns, an empty line between sentences (Tjong Kim Sang and De Meulder 2003)."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from encoderkit.errors import DataError

DOCUMENT = "-DOCSTART-"
_COMMENT = re.compile(r"# ?[\w.\[\]]+ = |# new(doc|par)( id = .*)?\s*$")
"""Of CoNLL-U, before a sentence."""
_UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003fffd]"
_BEGINS, _ENDS = re.compile(_UNSPACED), re.compile(_UNSPACED + r"\Z")
"""Scripts that put no spaces between words: Chinese, Japanese, Thai, Lao, Burmese, Khmer, and the punctuation of the first."""


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
            if fields[0] == DOCUMENT or (not held and "\t" not in text and _COMMENT.match(text)):
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


def joined(tokens: Sequence[str]) -> tuple[str, np.ndarray]:
    """Tokens as the text that they may have been, and where they stand in it, (U, 2).

    With a space between two tokens unless one of the touching characters is of a script without spaces; where all tokens are
    single characters, and such a one or a space is among them, with nothing.
    """
    parted = not (all(len(token) == 1 for token in tokens) and any(t.isspace() or _BEGINS.match(t) for t in tokens))
    parts, places, size = [], [], 0
    for i, token in enumerate(tokens):
        if i and parted and not (_ENDS.search(tokens[i - 1]) or _BEGINS.match(token)):
            parts.append(" ")
            size += 1
        parts.append(token)
        places.append((size, size + len(token)))
        size += len(token)
    return "".join(parts), np.array(places, np.int64).reshape(-1, 2)
