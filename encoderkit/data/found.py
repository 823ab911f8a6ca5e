"""A file of labelled rows as it is, mistakes included: for telling what is wrong with it, where training would refuse it."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from encoderkit.data.corpus import Account, open_content
from encoderkit.data.labelled import Row
from encoderkit.data.parallel import Given, check_even, name_of
from encoderkit.data.records import by_number, read_lines, read_records
from encoderkit.data.streams import Source, find_sources, find_texts, mostly_utf8
from encoderkit.errors import DataError

_MARKS = {"UTF-8 with a byte order mark": b"\xef\xbb\xbf", "UTF-16": b"\xff\xfe", "UTF-16 ": b"\xfe\xff"}


class Found(NamedTuple):
    """What a file holds, or a file for each column."""

    given: Given
    source: Source
    """The file, or the first of them."""
    encoding: str
    """UTF-8 or what it is instead; "" for .parquet."""
    broken: list[int]
    """Lines with bytes that are no text in this encoding; replacement characters stand for them."""
    lines: list[str]
    """The lines of the file, their ends left out; none of .parquet, or of several files."""
    rows: list[Row]
    refused: list[tuple[int, str]]
    """Lines of .jsonl that are no row, and why."""

    @property
    def name(self) -> str:
        """The file, or the files."""
        return name_of(self.given)


def find(given: Given, columns: Sequence[str], txt: Literal["line", "conll"] = "line") -> Found:
    """Read a file, or a file for each column; `txt`: what a .txt is.

    Raises `DataError` where it cannot be read as rows at all, as a .csv with a quote that is never closed.
    """
    if isinstance(given, Mapping):
        return _together(given)
    (source,) = find_sources([given])
    if source.format == "parquet":
        records = read_records(source, [], "utf-8", [])
        return Found(given, source, "", [], [], [Row(values, line, source.name) for line, values in records], [])
    if source.format == "txt" and txt == "conll":
        source = source._replace(format=txt)
    if source.format == "txt" and not by_number(columns):
        return _lines(source)
    source, text, encoding, broken, lines = _opened(source)
    if source.format == "jsonl":
        parsed = [_parsed(source, line, i) for i, line in enumerate(lines, start=1) if line and not line.isspace()]
        rows = [row for row in parsed if isinstance(row, Row)]
        return Found(given, source, encoding, broken, lines, rows, [row for row in parsed if not isinstance(row, Row)])
    records = read_records(source, columns if by_number(columns) else [], "utf-8", [text.encode()])
    return Found(given, source, encoding, broken, lines, [Row(values, line, source.name) for line, values in records], [])


def _opened(source: Source) -> tuple[Source, str, str, list[int], list[str]]:
    """A file, its format known now; its text, its encoding, its broken lines, and its lines without their ends."""
    source, content = open_content(source, Account())
    text, encoding, broken = _decoded(b"".join(content))
    return source, text, encoding, broken, [line.removesuffix("\r") for line in text.split("\n")]


def _lines(source: Source) -> Found:
    """Of a file with a text a line."""
    source, _, encoding, broken, lines = _opened(source)
    rows = [Row({"text": line}, i, source.name) for i, line in enumerate(lines[: len(lines) - (not lines[-1])], start=1)]
    return Found(source.name, source, encoding, broken, lines, rows, [])


def _together(given: Mapping[str, str]) -> Found:
    """Of a file for each column."""
    parts = [_lines(find_texts(path)) for path in given.values()]
    check_even(given, [len(part.rows) for part in parts])
    encoding = " and ".join(dict.fromkeys(part.encoding for part in parts))
    broken = sorted({line for part in parts for line in part.broken})
    rows = [
        Row({column: one.values["text"] for column, one in zip(given, group, strict=True)}, group[0].line, name_of(given))
        for group in zip(*(part.rows for part in parts), strict=True)
    ]
    return Found(given, parts[0].source, encoding, broken, [], rows, [])


def _parsed(source: Source, line: str, number: int) -> Row | tuple[int, str]:
    try:
        [record] = read_lines(source, [], [(number, line)])
    except DataError as error:
        return number, error.message
    return Row(record.values, number, source.name)


def _decoded(data: bytes) -> tuple[str, str, list[int]]:
    """The text without its mark, the name of its encoding, and the lines with bytes that are none."""
    marked = {name.strip(): "utf-8-sig" if "8" in name else "utf-16" for name, mark in _MARKS.items() if data.startswith(mark)}
    codecs = marked or {"UTF-8": "utf-8", **({} if mostly_utf8(data) else {"GB18030": "gb18030"})}
    for name, codec in codecs.items():
        try:
            return data.decode(codec).removeprefix("\ufeff"), name, []
        except UnicodeDecodeError:
            continue
    # The one that more of the lines are in.
    texts = {name: data.decode(codec, "replace") for name, codec in codecs.items()}
    name = min(texts, key=lambda name: len(_replaced(texts[name])))
    return texts[name], name, _replaced(texts[name])


def _replaced(text: str) -> list[int]:
    return [i for i, line in enumerate(text.split("\n"), start=1) if "\ufffd" in line]
