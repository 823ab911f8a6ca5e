"""Files with a text a line, one for each column: equal lines are a row, as in corpora for translation (train.en, train.de)."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from encoderkit import files
from encoderkit.data.records import Record, whole_lines
from encoderkit.data.streams import Encoding, blocks, find_texts, texts
from encoderkit.errors import DataError

Given = str | Path | Mapping[str, str]
"""Rows: a file that holds them, or a file for each column."""


def paths_of(given: Given) -> list[Path]:
    """The files."""
    return [Path(path) for path in given.values()] if isinstance(given, Mapping) else [Path(given)]


def name_of(given: Given) -> str:
    """How messages call them."""
    return ", ".join(given.values()) if isinstance(given, Mapping) else str(given)


def hash_of(given: Given) -> str:
    """The SHA-256 of a file, or of those of all columns with their names."""
    if not isinstance(given, Mapping):
        return files.sha256(Path(given))
    parts = sorted((column, files.sha256(Path(path))) for column, path in given.items())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def read_parallel(given: Mapping[str, str], encoding: Encoding) -> Iterator[Record]:
    """A row for each line, empty ones included; raises `DataError` where one file has more lines than another."""
    sources = [find_texts(path) for path in given.values()]
    streams = [whole_lines(source, texts(source, encoding, blocks(source))) for source in sources]
    for number, group in enumerate(zip_longest(*streams), start=1):
        if None in group:
            counts = [number - (line is None) + sum(1 for _ in rest) for line, rest in zip(group, streams, strict=True)]
            check_even(given, counts)
        yield Record(number, {column: text for column, (_, text) in zip(given, group, strict=True)})


def check_even(given: Mapping[str, str], counts: Sequence[int]) -> None:
    """Raise `DataError` unless all files have as many lines."""
    if len({*counts}) > 1:
        told = " and ".join(f"{count:,}" for count in counts)
        message = f"have {told} lines, and those of the same number belong together"
        raise DataError(message, where=name_of(given), fix="a text a line in each, an empty line where there is none")
