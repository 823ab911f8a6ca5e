"""The bytes of a file as lines of text: compression, encoding, and everything that can be wrong with them.

Memory is bounded by a constant: a block of bytes at a time, a line of at most `LINE` characters. Lines end at "\\n" alone
(a "\\r" before it goes too); the other separators that Unicode knows are part of the text.
"""

import bz2
import codecs
import gzip
import importlib
import lzma
import re
import shlex
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import count, repeat
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, Literal, NamedTuple, get_args

from encoderkit.console import say
from encoderkit.errors import DataError, MissingDependency, UsageError, refuse_pointer, shown

BLOCK = 1024 * 1024
LINE = 16 * 1024 * 1024

Format = Literal["txt", "jsonl", "json", "csv", "tsv", "parquet", "conll"]
_ALSO: dict[str, Format] = dict.fromkeys(("bio", "iob", "bioes", "bmes"), "conll")
Compression = Literal["", "gz", "xz", "zst", "bz2"]
Encoding = Literal["auto", "utf-8", "gb18030"]

_DECOMPRESS = {"gz": "gzip -dc", "xz": "xz -dc", "zst": "zstd -dc", "bz2": "bzip2 -dc"}
_MAGIC: dict[Compression, re.Pattern[bytes]] = {
    "gz": re.compile(rb"\x1f\x8b"),
    "xz": re.compile(rb"\xfd7zXZ\x00"),
    "zst": re.compile(rb"\x28\xb5\x2f\xfd"),
    "bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),
}
_MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16"}
_OBJECT = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*"')
_ZEROS, _ENOUGH = 0.4, 512
"""The share of zero bytes that tells UTF-16 without its mark from text, in this many bytes or more."""


class Source(NamedTuple):
    """A file to read, or standard input."""

    path: Path | None
    """None: standard input."""
    format: Format
    compression: Compression

    @property
    def name(self) -> str:
        """How messages call it."""
        return "standard input" if self.path is None else str(self.path)


def import_extra(module: str, extra: str) -> ModuleType:
    """A module that an extra brings; raises `MissingDependency` with what to type."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        fix = f'pip install "encoderkit[{extra}]"'
        raise MissingDependency(f"this file needs the package {package}, which is not installed", fix=fix) from None


def standard_input() -> BinaryIO:
    """The bytes of standard input; raises `UsageError` where it is closed."""
    if sys.stdin is None:  # so Python says that there is none, as under some schedulers
        raise UsageError("is closed; there is nothing to read", where="standard input", fix="name a file, or pipe one in")
    return sys.stdin.buffer


def sniffed(first: bytes) -> Literal["jsonl", "txt"]:
    """The format of standard input, which has no name to tell it, from how it begins."""
    form: Literal["jsonl", "txt"] = "jsonl" if _OBJECT.match(first) else "txt"
    say(f"standard input: read as .{form}")
    return form


def find_sources(paths: Sequence[str | Path]) -> list[Source]:
    """What `paths` name (`-` is standard input); raises `UsageError` for what cannot be read, before anything is."""
    if not paths:
        raise UsageError("no file was given", fix="--data FILE")
    sources = [Source(None, "txt", "") if str(path) == "-" else _find(Path(path)) for path in paths]
    if sum(source.path is None for source in sources) > 1:
        fix = "name it once; of several texts make one: cat A B | encoderkit ... --data -"
        raise UsageError("standard input (-) can be read once only", fix=fix)
    for source in sources:
        if source.compression == "zst":
            import_extra("zstandard", "zst")
        if source.format == "parquet":
            import_extra("pyarrow.parquet", "parquet")
    return sources


def find_texts(path: str | Path) -> Source:
    """A file with a text a line, whatever its name ends with (train.en, newstest.ref.gz).

    Raises `UsageError` for what cannot be read, and for a file of another format.
    """
    source = _find(Path(path), "txt")
    if source.format != "txt":
        fix = "one text a line, the first line for the first row"
        raise UsageError(f"is .{source.format}, and a file for one column has a text a line", where=path, fix=fix)
    if source.compression == "zst":
        import_extra("zstandard", "zst")
    return source


def _find(path: Path, otherwise: Format | None = None) -> Source:
    """`otherwise`: the format of a name that does not tell one."""
    try:
        if path.is_dir():
            raise UsageError("is a directory; files are expected", where=path, fix=f"--data {path}/*.txt")
        if not path.exists():
            raise UsageError("there is no such file", where=path, fix="look at the path; it is relative to where you are")
        if not path.is_file():
            raise UsageError("is not a regular file", where=path, fix="use - to read from a pipe")
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL; UserErrors are ValueErrors too
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"cannot be read: {error}", where=shown(str(path)), fix="name a file that can be read") from None
    *_, inner, last = ["", "", *path.name.lower().split(".")]
    packed = last in get_args(Compression)
    form, compression = (inner, last) if packed else (last, "")
    form = _ALSO.get(form, form)
    if form not in get_args(Format) and otherwise is not None:
        form = otherwise
    if form not in get_args(Format):
        known = ", ".join("." + form for form in get_args(Format))
        message = f"its name does not tell its format; {known} are read, also as .gz .xz .zst .bz2"
        fix = f"give it a name that tells: {path.name.rsplit('.', 1)[0]}.txt.{last}" if packed else None
        if form in ("xlsx", "xls", "ods", "docx", "doc", "odt", "pdf"):
            fix = f"save it as {'CSV' if form in ('xlsx', 'xls', 'ods') else 'plain text'} in UTF-8"
        raise UsageError(message, where=path, fix=fix or "- in its place reads standard input as text: ... - < FILE")
    if form == "parquet" and packed:
        raise UsageError("a parquet file is compressed inside and is not read from an archive", where=path, fix="unpack it first")
    return Source(path, form, compression)  # pyright: ignore[reportArgumentType] (both were looked up just now)


def blocks(source: Source) -> Iterator[bytes]:
    """The content of `source`, decompressed, a block at a time; raises `DataError` for a damaged archive."""
    try:
        if source.path is None:
            yield from _unpacked(source, standard_input())
        else:
            with open(source.path, "rb") as raw:
                yield from _unpacked(source, raw)
    except EOFError:
        raise DataError(
            "ends in the middle of its compressed data; the file is cut off", where=source.name, fix="copy or load it again"
        ) from None
    except (OSError, lzma.LZMAError, zlib.error) as error:
        raise DataError(
            f"cannot be read: {error}", where=source.name, fix="copy or load it again; is it packed as its name says?"
        ) from None


def _unpacked(source: Source, raw: BinaryIO) -> Iterator[bytes]:
    first = raw.read(BLOCK) if source.path is None else raw.read(64)
    found = _recognised(first)
    if source.path is not None:
        raw.seek(0)
        _check_magic(source, first, found)
    if found == "":
        if source.path is None and first:
            yield first
        yield from iter(lambda: raw.read(BLOCK), b"")
        return
    if source.path is None:
        refuse_packed(source, first)
    if found == "zst":
        yield from _unpack_zst(source, raw)
        return
    opener = {"gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}[found]
    with opener(raw, "rb") as stream:
        yield from iter(lambda: stream.read(BLOCK), b"")


def refuse_packed(source: Source, first: bytes) -> None:
    """Raise `DataError` if what `first` begins is compressed."""
    if found := _recognised(first):
        raise DataError(f"holds {found} data; plain text is expected", where=source.name, fix="decompress it in the pipe")


def _recognised(first: bytes) -> Compression:
    for kind, magic in _MAGIC.items():
        if magic.match(first):
            return kind
    return ""


def _check_magic(source: Source, first: bytes, found: Compression) -> None:
    refuse_pointer(first, source.name)
    if found != source.compression and first:
        expected = f".{source.compression} data, as its name says" if source.compression else "plain text, as its name says"
        is_what = f"it is .{found} data" if found else "it is something else"
        raise DataError(f"is not {expected}: {is_what}", where=source.name, fix="give the file its right name")


def _unpack_zst(source: Source, raw: BinaryIO) -> Iterator[bytes]:
    zstandard = import_extra("zstandard", "zst")
    rest, unpacker, held = b"", zstandard.ZstdDecompressor().decompressobj(), bytearray()
    try:
        while data := rest or raw.read(BLOCK // 16):
            if unpacker.eof:  # another frame follows
                unpacker = zstandard.ZstdDecompressor().decompressobj()
            held += unpacker.decompress(data)
            rest = unpacker.unused_data if unpacker.eof else b""
            if len(held) >= BLOCK:
                yield bytes(held)
                held.clear()
        yield bytes(held)
    except zstandard.ZstdError as error:
        raise DataError(
            f"is not valid zst data: {error}", where=source.name, fix="copy or load it again; is it packed as its name says?"
        ) from None
    if not unpacker.eof:
        raise EOFError


def texts(source: Source, encoding: Encoding, content: Iterable[bytes]) -> Iterator[str]:
    """`content`, the blocks of `source`, decoded; raises `DataError` with line and byte for what is not text.

    With `auto`, a file that begins as ASCII is decided at its first block with other bytes: UTF-8 if that block is UTF-8, or
    mostly so, else GB18030 if it is valid GB18030. A later byte that does not fit is an error, never a guess.
    """
    decoder, name = codecs.getincrementaldecoder("utf-8" if encoding == "auto" else encoding)(), encoding
    line, offset = 1, 0
    for block in _decidable(content):
        data = _without_mark(source, block) if offset == 0 else block
        if name == "auto" and offset == 0 and block.startswith(codecs.BOM_UTF8):
            name = "utf-8"
        elif name == "auto" and not data.isascii():
            name = _encoding(source, data)
            decoder = codecs.getincrementaldecoder(name)()
        offset += len(block) - len(data)
        yield _decode(source, decoder, data, offset, line)
        offset, line = offset + len(data), line + data.count(b"\n")
    yield _decode(source, decoder, b"", offset, line, final=True)


def _decidable(content: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks, the first bytes beyond ASCII not alone at the end of one: half a character decides for no encoding."""
    held, plain = b"", True
    for block in content:
        data, held = held + block, b""
        if plain and not data.isascii():
            plain = data[:-3].isascii()
            if plain:
                cut = next(i for i in range(max(0, len(data) - 3), len(data)) if data[i] > 127)
                data, held = data[:cut], data[cut:]
        yield data
    yield held


def converted(encoding: str, source: Source, drop: bool = False) -> str:
    """The command that makes UTF-8 of a file; `drop`: without the bytes that are no text."""
    path = source.path or Path("FILE")
    how = f"{'iconv -c' if drop else 'iconv'} -f {encoding.split()[0]} -t UTF-8"  # less "with a byte order mark"
    named = shlex.quote(str(path))
    if source.compression:
        how, path = f"{_DECOMPRESS[source.compression]} {named} | {how}", path.with_suffix("")
    else:
        how = f"{how} {named}"
    return f"{how} > {shlex.quote(f'{path.stem}.utf8{path.suffix}')}"


def _without_mark(source: Source, block: bytes) -> bytes:
    for mark, name in _MARKS.items():
        if block.startswith(mark):
            fix = converted(name, source)
            raise DataError(f"is {name} text; UTF-8 and GB18030 are read", where=source.name, fix=fix)
    if len(block) >= _ENOUGH and block.count(0) >= _ZEROS * len(block):
        message = f"is no text: {block.count(0) / len(block):.0%} of its bytes are zero, as in UTF-16 without a mark"
        raise DataError(message, where=source.name, fix=converted("UTF-16LE", source))
    return block.removeprefix(codecs.BOM_UTF8).removeprefix("\ufeff".encode("gb18030"))


@cache
def _say_once(text: str) -> None:
    """A file may be read more than once."""
    say(text)


def mostly_utf8(data: bytes) -> bool:
    """Whether two of three characters beyond ASCII are UTF-8: the others are damage.

    Two bytes of UTF-8 are a character of GB18030 as well: one damaged byte makes no Chinese of a file in other letters.
    """
    text = data.decode("utf-8", "replace")
    return sum(not character.isascii() for character in text) > 3 * text.count("\ufffd")


def _encoding(source: Source, block: bytes) -> Literal["utf-8", "gb18030"]:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(block)
    except UnicodeDecodeError as error:
        if mostly_utf8(block):
            return "utf-8"  # the error then tells where it is not
        try:
            codecs.getincrementaldecoder("gb18030")().decode(block)
        except UnicodeDecodeError as other:
            if not block[: error.start].isascii() or other.start <= error.start:  # it has been UTF-8 until there
                return "utf-8"  # neither
        _say_once(f"{source.name}: not UTF-8, read as GB18030")
        return "gb18030"
    return "utf-8"


def _decode(source: Source, decoder: codecs.IncrementalDecoder, data: bytes, offset: int, line: int, final: bool = False) -> str:
    held = len(decoder.getstate()[0])  # the start of a character that the last block cut in two
    try:
        return decoder.decode(data, final)
    except UnicodeDecodeError as error:
        at = error.start - held
        where = f"{source.name}:{line + data.count(10, 0, max(at, 0))}"  # 10 is "\n"
        found = " ".join(f"{byte:02x}" for byte in error.object[error.start : error.start + 4])
        message = f"is not valid {error.encoding.upper()}: bytes {found} at byte {offset + at} of the file"
        fix = "convert the file to UTF-8 (for a corpus, `encoding` may say what it is)"
        if error.encoding == "utf-8" and mostly_utf8(data):
            fix = f"correct these bytes, or leave out all that are no text: {converted('UTF-8', source, drop=True)}"
        raise DataError(message, where=where, fix=fix) from None


def lines(decoded: Iterable[str], limit: int = LINE) -> Iterator[tuple[int, str, bool]]:
    """(number from 1, text without its end, whether the line ends here): a line above `limit` comes in pieces.

    Pieces joined are the line; a piece ends before white space where there is some in its last eighth.
    """
    for first, run, whole in runs(decoded, limit):
        yield from zip(count(first), run, repeat(whole))


def runs(decoded: Iterable[str], limit: int) -> Iterator[tuple[int, list[str], bool]]:
    """The same as `lines` in lists, each of lines that end here, or one that goes on: (number of the first, lines, whole)."""
    number, rest = 1, ""
    for text in decoded:
        complete = text.split("\n")
        complete[0] = rest + complete[0]
        rest = complete.pop()
        if complete and max(map(len, complete)) <= limit and "\r" not in text and "\r" not in complete[0]:  # in one go
            yield number, complete, True
            number, complete = number + len(complete), []
        for line in complete:
            line = line[:-1] if line.endswith("\r") else line
            if len(line) <= limit:
                yield number, [line], True
            else:
                yield from ((number, [piece], last) for piece, last in cut(line, limit))
            number += 1
        while len(rest) > limit:
            end = _end(rest, 0, limit)
            yield number, [rest[:end]], False
            rest = rest[end:]
    if rest:
        yield number, [rest[:-1] if rest.endswith("\r") else rest], True


def cut(text: str, limit: int) -> Iterator[tuple[str, bool]]:
    """`text` in pieces of at most `limit` characters, and whether each is the last; cut before white space if it can be."""
    start = 0
    while len(text) - start > limit:
        end = _end(text, start, limit)
        yield text[start:end], False
        start = end
    yield text[start:], True


def _end(text: str, start: int, limit: int) -> int:
    low, high = start + limit - limit // 8, start + limit
    space = text.rfind("\n", low, high)
    space = text.rfind(" ", low, high) if space < 0 else space
    return space if space > start else high
