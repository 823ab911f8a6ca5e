"""The rows of .jsonl, .json, .csv, .tsv, .parquet, .conll and .txt files, by column, one at a time.

Nothing is guessed and nothing is swallowed: a row that does not fit is an error with file and line. An empty line
between rows is no row.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn

from encoderkit.console import say, warn
from encoderkit.data.conll import sentences
from encoderkit.data.squad import flattened
from encoderkit.data.streams import LINE, Encoding, Source, import_extra, lines, texts
from encoderkit.errors import DataError, UserError, shown

UNNAMED = "the first line names the columns; where it is a row already, name all of them by number, from 1"
"""What is added where a column is missing from the header of a table, which may be none."""
_ASIDE = "encoderkit doctor data RECIPE --fix --out DIR sets all like it aside, of FILE where it is no row at all"
ONE_ROW = f"correct the row, or take it out; {_ASIDE}"
"""What to do about a row that cannot be used."""
_ONE_LINE = f"correct the line; {_ASIDE}; a file that is one JSON text is called .json"
LABEL = "__label__"
"""What the labels of fastText begin with (Joulin et al. 2017): they stand before the text, and a row may have several."""
SPAN = 1000
"""The most lines that one quoted field of a .csv may span: beyond it, a quote is missing somewhere."""
_END = re.compile(r"[ \t]+")
"""Of the first word of a line of .txt; other spaces (U+3000) are part of the text."""


class Record(NamedTuple):
    """One row."""

    line: int
    """The line of the file where it begins, from 1; in .parquet and .json the row, from 1."""
    values: dict[str, Any]


def read_records(
    source: Source, columns: Sequence[str], encoding: Encoding, content: Iterable[bytes], optional: Sequence[str] = ()
) -> Iterator[Record]:
    """The rows of `source`, whose blocks are `content`, each with `columns`, and with those of `optional` that are there.

    Of .txt they are named by number. Raises `DataError` with file and line for a row that does not fit. (.parquet is not read
    from `content`, and has other columns where none is named.)
    """
    if source.format == "parquet":
        return _parquet(source, columns, optional)
    if source.format == "json":
        return _json(source, columns, "".join(texts(source, encoding, content)))
    numbered = whole_lines(source, texts(source, encoding, content))
    if source.format == "jsonl":
        return read_lines(source, columns, numbered)
    if source.format == "conll":
        return _conll(source, columns, numbered)
    return _table(source, columns, numbered)


def place(source: str, line: int, values: dict[str, Any]) -> str:
    """How messages say where a row is: file, line and, if it has one, its id."""
    name = values.get("id")
    return f"{source}:{line}" + (f" (id {shown(name, 40)})" if isinstance(name, str) and name else "")


def by_number(columns: Sequence[str]) -> bool:
    """Whether `columns` are numbers, from 1: then no line of a .csv, .tsv or .txt names them, and the first is a row."""
    return bool(columns) and all(name.isdecimal() for name in columns)


class MissingColumn(DataError):
    """`column` is not among the columns that are `there`."""

    def __init__(self, column: str, there: Sequence[str], where: str) -> None:
        found = ", ".join(shown(name, 30) for name in list(there)[:20]) or "none"
        super().__init__(f"there is no column {shown(column)}; the columns are {found}", where=where, fix=None)
        self.column = column


@contextmanager
def named_by(ways: Mapping[str, str]) -> Iterator[None]:
    """Where columns are read that were named in some way: how to name another, by its name, if one is not there."""
    try:
        yield
    except MissingColumn as error:
        raise DataError(error.message, where=error.where, fix=ways.get(error.column)) from None


def check_text(value: object, column: str, where: str) -> None:
    """Raise `DataError` unless `value` is a text that can be written as UTF-8."""
    if not isinstance(value, str):
        found = "null" if value is None else f"{type(value).__name__}: {shown(str(value), 40)}"
        message = f"{shown(column)} should be a text, found {found}"
        raise DataError(message, where=where, fix=ONE_ROW)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(value[error.start]):04x}"
            raise DataError(
                f"{shown(column)} holds half a character ({half} without its other half)",
                where=where,
                fix=ONE_ROW,
            ) from None


def whole_lines(source: Source, decoded: Iterable[str]) -> Iterator[tuple[int, str]]:
    """(number, text) of each line; raises `DataError` for one that is too long to be a row."""
    for number, text, whole in lines(decoded):
        if not whole:
            message = f"this line is longer than {LINE // 2**20} MiB, the most that a row may have"
            fix = "each row ends with its line: is this one JSON text? then it is called .json"
            raise DataError(message, where=f"{source.name}:{number}", fix=fix)
        yield number, text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shown(next(n for n in names if names.count(n) > 1))} stands twice")
    return values


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_constant)


def _json(source: Source, columns: Sequence[str], text: str) -> Iterator[Record]:
    """A file that is one JSON value: a list of rows, or questions nested in passages (`data.squad`)."""
    try:
        document = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            say(f"{source.name}: holds several JSON values, read as .jsonl")
            yield from read_lines(source, columns, enumerate(text.split("\n"), start=1))
            return
        raise DataError(
            f"not valid JSON: {error.msg} at character {error.colno}",
            where=f"{source.name}:{error.lineno}",
            fix="correct it there; a file with an object a line is called .jsonl",
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not valid JSON: {error}", where=source.name, fix="correct it, or write it anew") from None
    document = [_named(value) for value in document] if isinstance(document, list) else document
    for number, values in enumerate(flattened(document, source.name), start=1):
        _complete(values, columns, place(source.name, number, values), number == 1)
        yield Record(number, values)


def read_lines(source: Source, columns: Sequence[str], numbered: Iterable[tuple[int, str]]) -> Iterator[Record]:
    """The rows of lines of .jsonl with their numbers; raises `DataError` for one that is none."""
    first = True
    for number, text in numbered:
        if not text or text.isspace():
            continue
        try:
            values = _named(_DECODER.decode(text))
        except json.JSONDecodeError as error:
            near = shown(text[max(error.pos - 20, 0) : error.pos + 20])
            message = f"not valid JSON: {error.msg} at character {error.pos + 1}, near {near}"
            raise DataError(message, where=f"{source.name}:{number}", fix=_ONE_LINE) from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"not valid JSON: {error}", where=f"{source.name}:{number}", fix=_ONE_LINE) from None
        if not isinstance(values, dict):
            message = f"each line holds one JSON object, this one {type(values).__name__}: {shown(text, 40)}"
            raise DataError(message, where=f"{source.name}:{number}", fix=_ONE_LINE)
        _complete(values, columns, f"{source.name}:{number}", first)
        first = False
        yield Record(number, values)


def _named(value: Any) -> Any:
    """spaCy's [text, {"entities": ...}] as the object that others write; all else as it is."""
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict):
        return {"text": value[0], **value[1]}
    return value


def _complete(values: Mapping[str, Any], columns: Sequence[str], where: str, first: bool) -> None:
    """Raise `DataError` if the row lacks one of `columns`: the first by its name perhaps, a later one by mistake."""
    for column in columns:
        if column in values:
            continue
        if first:
            raise MissingColumn(column, list(values), where)
        message = f"this row has no {shown(column)}, which the rows before it have"
        raise DataError(message, where=where, fix=ONE_ROW)


def _conll(source: Source, columns: Sequence[str], numbered: Iterator[tuple[int, str]]) -> Iterator[Record]:
    for number, values in sentences(numbered, source.name):
        for column in columns:
            if column not in values:
                raise MissingColumn(column, list(values), f"{source.name}:{number}")
        yield Record(number, values)


def _table(source: Source, columns: Sequence[str], numbered: Iterator[tuple[int, str]]) -> Iterator[Record]:
    read = {"csv": _csv_rows, "tsv": _tsv_rows, "txt": _txt_rows}[source.format]
    header: list[str] | None = None
    numbers = by_number(columns)
    for number, fields in read(source, numbered):
        if header is None:
            header = [str(i) for i in range(1, len(fields) + 1)] if numbers else fields
            if reason := parted_by(header, columns, source.format):
                fix = "write it with commas as .csv, or with tabs as .tsv"
                raise DataError(reason, where=f"{source.name}:{number}", fix=fix)
            _check_header(header, columns, f"{source.name}:{number}", "" if numbers else f" ({UNNAMED})")
            if not numbers:
                continue
        if len(fields) != len(header):
            message = f"has {len(fields)} fields where the {'first row' if numbers else 'header'} has {len(header)}"
            fix = "put quotes around a field that holds the separator or the end of a line, or correct it"
            if len(fields) < len(header):
                fix = "give the row all its fields, or take it out"
            elif source.format != "csv":
                fix = "a field holds no tab here, in quotes neither: write such rows as .csv or .jsonl"
            raise DataError(message, where=f"{source.name}:{number}", fix=fix)
        yield Record(number, dict(zip(header, fields, strict=True)))


def parted_by(header: Sequence[str], columns: Sequence[str], form: str) -> str | None:
    """Why a table has only one column, none of `columns`: another mark is between them. None where it is not so."""
    if len(header) != 1 or not columns or header[0] in columns or form not in ("csv", "tsv"):
        return None
    mark, right = next((mark for mark in ";,\t|" if mark in header[0]), None), "commas" if form == "csv" else "tabs"
    return None if mark is None else f"has {shown(mark)} between its columns, and .{form} has {right}"


def _check_header(header: list[str], columns: Sequence[str], where: str, hint: str = "") -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(
            f"the column {shown(twice)} stands twice in the header{hint}", where=where, fix="give one of them another name"
        )
    for column in columns:
        if column not in header:
            error = MissingColumn(column, header, where)
            error.message += hint
            raise error


def _tsv_rows(_: Source, numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[Any]]]:
    for number, text in numbered:
        if text:
            yield number, text.split("\t")


def _txt_rows(source: Source, numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[Any]]]:
    """By the first row: labels as fastText has them and a text, columns between tabs, or a word and the text behind it."""
    fields = None
    for number, text in numbered:
        if not text or text.isspace():
            continue
        if fields is None:
            fields = _labels_first if text.startswith(LABEL) else _tabs if "\t" in text else _word_first
        elif text.startswith(LABEL) and fields is not _labels_first:
            message = f"begins with {LABEL}, and the first row does not, by which the file was taken to be of another form"
            raise DataError(message, where=f"{source.name}:{number}", fix="put a row with a label first")
        yield number, fields(text)


def _labels_first(text: str) -> list[Any]:
    labels = []
    while text.startswith(LABEL):
        label, text = _word_first(text) if _END.search(text) else (text, "")
        labels.append(label.removeprefix(LABEL))
    return [labels[0] if len(labels) == 1 else labels, text]


def _tabs(text: str) -> list[str]:
    return text.split("\t")


def _word_first(text: str) -> list[str]:
    return _END.split(text.lstrip(" \t"), maxsplit=1)


class _Feed:
    """Gives lines to the csv reader, and knows how many the row in hand has taken."""

    def __init__(self, source: Source, numbered: Iterator[tuple[int, str]]) -> None:
        self.source, self.numbered, self.first, self.last, self.size = source, numbered, 0, 0, 0

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        self.last, text = next(self.numbered)
        self.first, self.size = self.first or self.last, self.size + len(text)
        if self.last - self.first >= SPAN or self.size > LINE:
            self.fail(f"a quote is opened here and not closed within {SPAN} lines")
        return text + "\n"

    def fail(self, message: str) -> NoReturn:
        fix = 'put a field that holds " in quotes and double the quotes inside it, or use .tsv or .jsonl'
        raise DataError(message, where=f"{self.source.name}:{self.first}", fix=fix)


def _csv_rows(source: Source, numbered: Iterator[tuple[int, str]]) -> Iterator[tuple[int, list[Any]]]:
    feed = _Feed(source, numbered)
    csv.field_size_limit(2 * LINE)
    reader = csv.reader(feed, strict=True)
    spanning, longest = 0, (0, 0)
    while True:
        feed.first = feed.size = 0
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            feed.fail("a quote is opened here and never closed" if "end of data" in str(error) else f"not valid CSV: {error}")
        if feed.last > feed.first:
            spanning, longest = spanning + 1, max(longest, (feed.last - feed.first + 1, feed.first))
        if fields:
            yield feed.first, fields
    if spanning:
        place = f"the longest {longest[0]} lines, from line {longest[1]}"
        warn(f"{source.name}: {spanning} rows span several lines ({place}); a missing quote looks like this")


def _parquet(source: Source, columns: Sequence[str], optional: Sequence[str]) -> Iterator[Record]:
    parquet, arrow = import_extra("pyarrow.parquet", "parquet"), import_extra("pyarrow", "parquet")
    try:
        with parquet.ParquetFile(source.path) as file:
            there = file.schema_arrow.names
            _check_header(there, columns, source.name)
            wanted, row = [*columns, *(name for name in optional if name in there)], 0
            for batch in file.iter_batches(batch_size=256, columns=wanted or None):
                for values in batch.to_pylist():
                    row += 1
                    yield Record(row, values)
    except UserError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:  # the last: text that is no UTF-8, times in nanoseconds
        raise DataError(
            f"cannot be read as parquet: {str(error).split(chr(10))[0]}", where=source.name, fix="write it anew, or as .jsonl"
        ) from None
