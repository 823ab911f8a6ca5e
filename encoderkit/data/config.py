"""How text files are read, and how rows are named."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from encoderkit.config import Config


def _column(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Column = Annotated[str, BeforeValidator(_column, json_schema_input_type=str | int)]
"""A column by its name; or by its number, from 1, where no line of a .csv, .tsv or .txt names the columns."""


def _row_files(value: object) -> object:
    if not isinstance(value, str) and not (isinstance(value, dict) and value):
        raise ValueError("should be a file of rows, or a file for each column: {source: FILE, target: FILE}")
    return value


RowFiles = Annotated[str | dict[str, str], BeforeValidator(_row_files, json_schema_input_type=str | dict[str, str])]
"""Labelled rows: a file that holds them, or for each column a file with a text a line, of which equal lines are a row."""


def misnamed(given: Mapping[str, str], columns: Sequence[str], optional: Sequence[str] = ()) -> str | None:
    """Why a file for each column does not fit the columns that are read; None if it does."""
    if all(name in given for name in columns) and all(name in (*columns, *optional) for name in given):
        return None
    return f"there are files for {', '.join(given)}, and the columns that are read are {', '.join(columns)}"


class CorpusConfig(Config):
    """How files become documents."""

    documents: Literal["auto", "line", "blank_line"] = "auto"
    """In .txt: one document a line, or documents separated by blank lines. auto: blank_line if the first MiB of the
    first text file holds a blank line between text, else line; which one was taken is said."""
    column: Column = "text"
    """The column or key of the text in .csv, .tsv, .jsonl and .parquet; a number of a .csv or .tsv without a header."""
    encoding: Literal["auto", "utf-8", "gb18030"] = "auto"
    """auto: UTF-8, or GB18030 if the file is not UTF-8, nor mostly so, and is valid GB18030; said when it is not UTF-8."""
    min_chars: int = Field(default=1, ge=0, le=1_000_000)
    """Shorter documents are dropped and counted."""
