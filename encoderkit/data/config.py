"""How text files are read."""

from typing import Literal

from pydantic import Field

from encoderkit.config import Config


class CorpusConfig(Config):
    """How files become documents."""

    documents: Literal["auto", "line", "blank_line"] = "auto"
    """In .txt: one document a line, or documents separated by blank lines. auto: blank_line if the first MiB of the
    first text file holds a blank line between text, else line; which one was taken is said."""
    column: str = "text"
    """The column or key of the text in .csv, .tsv, .jsonl and .parquet."""
    encoding: Literal["auto", "utf-8", "gb18030"] = "auto"
    """auto: UTF-8, or GB18030 if the file is not valid UTF-8 and is valid GB18030; said when it is not UTF-8."""
    min_chars: int = Field(default=1, ge=0, le=1_000_000)
    """Shorter documents are dropped and counted."""
