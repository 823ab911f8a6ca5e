"""Files to documents, streamed: memory is bounded by a constant (but for .json, which is one value, however many rows it has),
and every document is used or counted as dropped."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal, NamedTuple

from encoderkit.console import say, warn
from encoderkit.data.config import CorpusConfig
from encoderkit.data.conll import joined
from encoderkit.data.records import check_text, read_records
from encoderkit.data.streams import Source, blocks, cut, find_sources, lines, runs, sniffed, texts
from encoderkit.errors import DataError

PIECE = 1024 * 1024
"""The most characters that are held at once: a longer document comes in pieces."""


class Document(NamedTuple):
    """A document, or a piece of one that is longer than `PIECE` characters: pieces joined are its text."""

    text: str
    source: str
    """The file."""
    line: int
    """The line where it (the document) begins, from 1; in .parquet the row."""
    part: int = 0
    """0 for the first piece, 1, 2, ... for more of the same document."""
    last: bool = True
    """Whether the document ends here."""


@dataclass
class Account:
    """What became of the input; `documents` is `kept` plus the sum of `dropped`, and the same for their bytes."""

    bytes: int = 0
    """Read, after decompression, separators and other columns included."""
    documents: int = 0
    document_bytes: int = 0
    """In the text of the documents, as UTF-8."""
    kept: int = 0
    kept_bytes: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    dropped_bytes: Counter[str] = field(default_factory=Counter)
    stdin_sha256: str = ""
    """Of standard input, once it has been read: it cannot be hashed beforehand as files can."""

    def take(self, document: Document, reason: str | None) -> None:
        """Count a document, or a piece of one, as kept, or as dropped for `reason`."""
        text = document.text
        size = len(text) if text.isascii() else len(text.encode())
        self.document_bytes += size
        self.documents += document.last
        if reason is None:
            self.kept += document.last
            self.kept_bytes += size
        else:
            self.dropped[reason] += document.last
            self.dropped_bytes[reason] += size


def read_documents(paths: Sequence[str | Path], config: CorpusConfig, account: Account) -> Iterator[Document]:
    """The documents of the files `paths` in order; `-` is standard input.

    Raises `UsageError` for a file that is not there, `DataError` with file and line for content that cannot be used,
    and at the end if nothing was kept.
    """
    sources = find_sources(paths)
    kept, style, blank = account.kept, config.documents, 0
    for source in sources:
        source, content = open_content(source, account)
        if source.format == "txt":
            decoded = texts(source, config.encoding, content)
            if style == "auto":
                style, decoded = _decided(source, decoded)
            documents = (_by_blank_line if style == "blank_line" else _by_line)(source, decoded)
        else:
            documents = _by_record(source, config, content)
        for document in documents:
            reason = _reason(document, config.min_chars)
            account.take(document, reason)
            blank += reason == "empty" and source.format == "txt"
            if reason is None:
                yield document
    if config.documents == "auto" and style == "line" and blank:
        warn(f"{blank} empty lines were dropped; if they stand between documents, set documents: blank_line")
    if account.kept == kept:
        names = ", ".join(source.name for source in sources[:3]) + (", ..." if len(sources) > 3 else "")
        why = ", ".join(f"{count} {reason}" for reason, count in account.dropped.items())
        raise DataError(
            f"no document is left to read{f' (dropped: {why})' if why else ': there is no text'}",
            where=names,
            fix="another file, or in the corpus recipe other `documents`, `column` or `min_chars`",
        )


def open_content(source: Source, account: Account) -> tuple[Source, Iterator[bytes]]:
    """`source`, its format known now if it is standard input, and its blocks, counted in `account` as they are read."""
    content = _counted(source, account)
    if source.format == "parquet" and source.path is not None:
        account.bytes += source.path.stat().st_size
    return _sniffed(source, content) if source.path is None else (source, content)


def _counted(source: Source, account: Account) -> Iterator[bytes]:
    hashed = hashlib.sha256()
    for block in blocks(source):
        account.bytes += len(block)
        if source.path is None:
            hashed.update(block)
        yield block
    if source.path is None:
        account.stdin_sha256 = hashed.hexdigest()


def _sniffed(source: Source, content: Iterator[bytes]) -> tuple[Source, Iterator[bytes]]:
    """Standard input has no name to tell its format."""
    first = next(content, b"")
    return source._replace(format=sniffed(first)), chain([first], content)


def _decided(source: Source, decoded: Iterator[str]) -> tuple[Literal["auto", "line", "blank_line"], Iterator[str]]:
    """By the first block that has text; a file without any leaves it open. And all blocks."""
    blank: list[str] = []
    for text in decoded:
        if not (text == "" or text.isspace()):
            return _decide(source, text), chain(blank, [text], decoded)
        blank.append(text)
    return "auto", iter(blank)


def _decide(source: Source, text: str) -> Literal["line", "blank_line"]:
    filled = [not (line == "" or line.isspace()) for line in text.split("\n")]
    inner = filled[filled.index(True) : len(filled) - filled[::-1].index(True)] if any(filled) else []
    if all(inner):
        say(f"{source.name}: one document a line (documents: line)")
        return "line"
    say(f"{source.name}: documents are separated by blank lines (documents: blank_line)")
    return "blank_line"


def _reason(document: Document, min_chars: int) -> str | None:
    """Why `document` is dropped; None if it is kept."""
    if document.part or not document.last:
        return None
    text = document.text
    if not text or text.isspace():
        return "empty"
    return "too_short" if len(text) < min_chars else None


def _by_line(source: Source, decoded: Iterator[str]) -> Iterator[Document]:
    name, part = source.name, 0
    for number, text, whole in lines(decoded, PIECE):
        yield Document(text, name, number, part, whole)
        part = 0 if whole else part + 1


def _by_blank_line(source: Source, decoded: Iterator[str]) -> Iterator[Document]:
    name, held, size, start, part, inside = source.name, [], 0, 0, 0, False
    for first, run, whole in _paragraphs(decoded):
        if not run:
            if held:
                yield Document("".join(held), name, start, part)
            held, size, part = [], 0, 0
            continue
        together = "\n".join(run)
        for number, text in [(first, together)] if size + 1 + len(together) <= PIECE else enumerate(run, first):
            if held and size + 1 + len(text) > PIECE:
                yield Document("".join(held), name, start, part, False)
                held, size, part = [], 0, part + 1
            start = start if held or part else number
            if not inside and (held or part):
                text = "\n" + text
            held.append(text)
            size, inside = size + len(text), False
        inside = not whole
    if held:
        yield Document("".join(held), name, start, part)


def _paragraphs(decoded: Iterator[str]) -> Iterator[tuple[int, list[str], bool]]:
    """As `runs`, without the lines that are blank: instead of each there is an empty run."""
    inside = False
    for number, run, whole in runs(decoded, PIECE - 1):
        begin = 0
        if inside or not whole:  # of a line that goes on, whatever is in it belongs to it
            yield number, run[:1], whole
            begin, inside = 1, not whole
        blank = [i for i, line in enumerate(run) if (not line or line.isspace()) and i >= begin]
        for end in [*blank, len(run)]:
            if begin < end:
                yield number + begin, run[begin:end], True
            if end < len(run):
                yield number + end, [], True
            begin = end + 1


def _written(value: Any) -> Any:
    """The text of a column: of tokens the one that they make, as a model of tags reads them; anything else as it is."""
    if value is None:
        return ""
    return joined(value)[0] if isinstance(value, list) and all(isinstance(part, str) for part in value) else value


def _by_record(source: Source, config: CorpusConfig, content: Iterator[bytes]) -> Iterator[Document]:
    column = "tokens" if source.format == "conll" and config.column == CorpusConfig().column else config.column
    for line, values in read_records(source, [column], config.encoding, content):
        text = _written(values[column])
        check_text(text, column, f"{source.name}:{line}")
        for part, (piece, last) in enumerate(cut(text, PIECE)):
            yield Document(piece, source.name, line, part, last)
