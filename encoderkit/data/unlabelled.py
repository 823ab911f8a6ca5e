"""Texts to predict or to embed: row i of the output belongs to row i of the input, so nothing is dropped on the way."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, NamedTuple

from encoderkit.console import say
from encoderkit.data.labelled import Row
from encoderkit.data.records import LABEL, by_number, named_by, read_records
from encoderkit.data.streams import (
    BLOCK,
    LINE,
    Source,
    blocks,
    find_sources,
    lines,
    refuse_packed,
    sniffed,
    standard_input,
    texts,
)
from encoderkit.errors import DataError, UsageError

_HELD = 64 * 1024 * 1024  # of standard input in memory; what is more goes to a temporary file


class Texts(NamedTuple):
    """The texts, or pairs of texts, of a file: readable more than once, and never in memory as a whole."""

    source: Source
    columns: Sequence[str]
    """The column of the text, or the two of a pair."""
    spool: IO[bytes] | None = None
    """What standard input held."""
    optional: Sequence[str] = ()
    """Of .parquet, of which nothing else is read: columns that are wanted where they are there."""
    lines: bool = True
    """Whether a line of .txt is a text, and has no columns."""

    def rows(self) -> Iterator[list[str]]:
        """The text, or the two texts, of each row; raises as `placed` does."""
        return (row for _, row in self.placed())

    def placed(self) -> Iterator[tuple[str, list[str]]]:
        """The place of each row, as errors name it, and its texts; a line is a row in .txt, and an empty line an empty text.

        Raises `DataError` with file and line for a row that has no text.
        """
        return ((row.place, [row.text(column) for column in self.columns]) for row in self.whole())

    def whole(self) -> Iterator[Row]:
        """Every row with all its columns, which hold `columns`; what they hold is not looked at."""
        content = blocks(self.source) if self.spool is None else _again(self.spool)
        name = self.source.name
        if self.source.format == "txt" and self.lines:
            for number, text, whole in lines(texts(self.source, "auto", content)):
                if not whole:
                    fix = "break the line, or read the file as .jsonl"
                    raise DataError(f"this line is longer than {LINE // 2**20} MiB", where=f"{name}:{number}", fix=fix)
                yield Row({self.columns[0]: text}, number, name, typed=True)
            return
        with named_by(dict.fromkeys(self.columns, "--column NAME")):
            for line, values in read_records(self.source, self.columns, "auto", content, self.optional):
                yield Row(values, line, name)


def _again(spool: IO[bytes]) -> Iterator[bytes]:
    spool.seek(0)
    return iter(lambda: spool.read(BLOCK), b"")


def open_texts(path: str | Path, columns: Sequence[str], optional: Sequence[str] = (), named: bool = True) -> Texts:
    """The texts in a file, or in standard input (`-`), whose format is seen from its first bytes: .jsonl or .txt.

    `named`: the columns were named for this file, so that numbers are columns of a .txt too. Raises `UsageError` for a file that
    cannot be read, or that cannot hold pairs, and `DataError` for a .txt with labels of fastText that would be read as text.
    """
    [source] = find_sources([path])
    spool = None
    if source.path is None:
        content = standard_input()
        if content.isatty():
            say("reading from the keyboard, a text a line; Ctrl-D ends it")
        spool = tempfile.SpooledTemporaryFile(_HELD)  # noqa: SIM115 (closed with the process, and has no name)
        shutil.copyfileobj(content, spool, BLOCK)
        spool.seek(0)
        refuse_packed(source, first := spool.read(BLOCK))
        source = source._replace(format=sniffed(first))
    lines = not (named and by_number(columns))
    if source.format == "txt" and lines and len(columns) > 1:
        fix = f"a .jsonl, .csv or .tsv file with the columns {' and '.join(columns)}"
        raise UsageError("a line of text cannot hold a pair", where=source.name, fix=fix)
    found = Texts(source, columns, spool, optional, lines)
    if source.format == "txt" and lines:
        _check_unlabelled(found)
    return found


def _check_unlabelled(found: Texts) -> None:
    """Labels must not be taken for a part of the text; where columns have numbers, what a line is read as is told."""
    first = next(found.whole(), None)
    if first is not None and first.values[found.columns[0]].startswith(LABEL):
        raise DataError("begins with a label of fastText, and a line is a text", where=first.place, fix="--column 2")
    if by_number(found.columns):
        say(f"{found.source.name}: each line is a text, whole; --column {found.columns[0]} reads that column of it")
