"""Labelled rows for tasks: every row of the file, or an error that says which one is wrong."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from encoderkit.console import say
from encoderkit.data.config import misnamed
from encoderkit.data.corpus import Account, open_content
from encoderkit.data.parallel import Given, name_of, read_parallel
from encoderkit.data.records import ONE_ROW, MissingColumn, by_number, check_text, place, read_records, whole_lines
from encoderkit.data.streams import find_sources, texts
from encoderkit.errors import DataError, UsageError, shown


class Row(NamedTuple):
    """A row as it stands in the file; the methods give a value as a task needs it, or raise `DataError` with its place."""

    values: dict[str, Any]
    line: int
    """In the file, from 1; in .parquet and .json the row."""
    source: str
    typed: bool = False
    """Whether it is a text as somebody wrote it, a line of .txt or one of `--text`, and no columns."""

    @property
    def place(self) -> str:
        """How messages say where the row is."""
        return place(self.source, self.line, self.values)

    def text(self, column: str) -> str:
        """A text; anything else, null included, is an error."""
        value = self._value(column)
        check_text(value, column, self.place)
        return value

    def texts(self, column: str) -> list[str]:
        """A list of texts, such as tokens or tags."""
        value = self._value(column)
        if not isinstance(value, list):
            raise self._wrong(column, "a list of texts")
        for item in value:
            check_text(item, column, self.place)
        return value

    def words(self, column: str) -> list[str]:
        """A list of texts, such as tokens or tags, or a text with spaces or tabs between them."""
        value = self._value(column)
        if not isinstance(value, str):
            return self.texts(column)
        if _WRITTEN.match(value):
            if (listed := _listed(value)) is None:
                raise self._wrong(column, "a list of texts, or a text with spaces between them")
            return self._replace(values={column: listed}).texts(column)
        check_text(value, column, self.place)
        return [word for word in re.split(r"[ \t]+", value) if word]

    def label(self, column: str) -> str:
        """A label: the number 1 and the text "1" are the same one, `true` is "true"."""
        label = _label(self._value(column))
        if label is None:
            raise self._wrong(column, "a label (a text or a number, not empty)")
        check_text(label, column, self.place)
        return label

    def labels(self, column: str) -> list[str]:
        """The labels of a row that may have several: a list of them, in .csv as JSON, or a single one."""
        value = self._value(column)
        if isinstance(value, str) and (listed := _listed(value)) is not None:
            value = listed
        elif isinstance(value, str) and _WRITTEN.match(value):
            raise self._wrong(column, 'a list of labels (as JSON: ["a", "b"]), or a column of 0 and 1 for each label')
        found = [_label(item) for item in value] if isinstance(value, list) else [_label(value)]
        labels = [label for label in found if label is not None]
        if len(labels) < len(found):
            raise self._wrong(column, "a list of labels (texts or numbers, not empty)")
        if len(set(labels)) < len(labels):
            raise self._wrong(column, "a list of labels, each once")
        for label in labels:
            check_text(label, column, self.place)
        return labels

    def number(self, column: str) -> float:
        """A finite number, or a text that is one; none that single precision cannot square."""
        value = self._value(column)
        try:
            number = math.nan if isinstance(value, bool) or not isinstance(value, str | int | float) else float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            raise self._wrong(column, "a number")
        if abs(number) > _LARGEST:
            raise self._wrong(column, f"a number from {-_LARGEST:g} to {_LARGEST:g}")
        return number

    def scores(self, column: str) -> dict[str, float]:
        """Probabilities by their labels, as `predict` writes them."""
        value = self._value(column)
        if not isinstance(value, dict) or not value:
            raise self._wrong(column, 'the scores of labels, such as {"yes": 0.8, "no": 0.2}')
        for label, p in value.items():
            check_text(label, column, self.place)
            if isinstance(p, bool) or not isinstance(p, int | float) or not 0 <= p <= 1:
                raise self._wrong(column, "scores between 0 and 1")
        return value

    def _value(self, column: str) -> Any:
        if column not in self.values:
            raise MissingColumn(column, list(self.values), self.place)
        return self.values[column]

    def _wrong(self, column: str, expected: str) -> DataError:
        value = self.values[column]
        found = "nothing" if value is None else shown(str(value), 40)
        return DataError(
            f"{shown(column)} should be {expected}, found {found}",
            where=self.place,
            fix=ONE_ROW,
        )


_LARGEST = 1e15
_WRITTEN = re.compile(r"""\s*\[\s*['"].*\]\s*$""", re.DOTALL)
"""A list that stands in a file as a text: JSON, as `predict` writes it into .csv, or as Python's print does."""


def _listed(text: str) -> list[Any] | None:
    """The list that a text is as JSON, if it is one."""
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


def _label(value: object) -> str | None:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    finite = not isinstance(value, float) or math.isfinite(value)  # that of .parquet's empty places is no class of its own
    label = str(value).strip() if finite and isinstance(value, str | int | float) else ""
    return label or None


def read_rows(
    given: Given,
    columns: Sequence[str],
    optional: Sequence[str] = (),
    txt: Literal["line", "conll"] = "line",
) -> list[Row]:
    """All rows of .jsonl, .json, .csv, .tsv, .parquet, .conll (also compressed) or `-`, in order, each with `columns`; or of a
    file for each column (`data.parallel`).

    .csv and .tsv name their columns in the first line, unless `columns` are numbers. A .txt has one text a line, empty ones
    included, and serves where one column is asked for; or columns by number, or (`txt`) it is as .conll. Raises `DataError`
    with file and line for a row that cannot be read, for a missing column with the columns that are there, and for a file
    without rows.
    """
    if isinstance(given, Mapping):
        if reason := misnamed(given, columns, optional):
            raise UsageError(reason, where=name_of(given), fix=None)
        rows = [Row(values, line, name_of(given)) for line, values in read_parallel(given, "auto")]
    else:
        rows = _rows(given, columns, optional, txt)
    if not rows:
        raise DataError("holds no row", where=name_of(given), fix="name a file with rows")
    return rows


def _rows(path: str | Path, columns: Sequence[str], optional: Sequence[str], txt: str) -> list[Row]:
    (found,) = find_sources([path])
    source, content = open_content(found, Account())
    if source.format == "txt" and txt == "conll":
        source = source._replace(format="conll")
    if source.format == "txt" and len(columns) == 1:
        numbered = whole_lines(source, texts(source, "auto", content))
        return [Row({columns[0]: text}, number, source.name) for number, text in numbered]
    if source.format == "txt" and not by_number(columns):
        message = f"a .txt names no columns, and {', '.join(columns)} are needed"
        fix = "columns by number (of a .txt without tabs 1 is the first word and 2 the text behind it), or .jsonl, .csv or .tsv"
        raise DataError(message, where=source.name, fix=fix)
    rows = [Row(values, line, source.name) for line, values in read_records(source, columns, "auto", content, optional)]
    if rows and by_number(columns) and source.format in ("csv", "tsv", "txt"):
        first = ", ".join(f"{name}: {shown(str(value), 30)}" for name, value in list(rows[0].values.items())[:20])
        say(f"{source.name}: columns by number, so no line is a header; the first row: {first}")
    return rows
