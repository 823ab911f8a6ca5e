"""Word vectors in the formats they are published in: GloVe and word2vec text, word2vec binary, fastText .vec and .bin.

What a file is, its content tells, not its name: a first line of two numbers is word2vec's header (count and width), what
follows it is text if it reads as text; fastText's .bin begins with its magic number, or (before 2017) with its settings.
Words that are not UTF-8 are kept with the broken bytes replaced, and counted, unless most are GB18030; of equal words the
first stays. Each number must be finite.
"""

import codecs
import io
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np

from encoderkit.data.streams import Compression, Source, blocks
from encoderkit.errors import DataError, shown
from encoderkit.text.ngrams import hashed_ngrams

_MAGIC = struct.pack("<i", 793712314)
_WIDEST = 100_000
"""Numbers a vector; a header that says more is none."""
_END = b"</s>"
"""fastText's mark at the end of a line."""
_LONGEST = 4096
"""Bytes of a word; a longer one is no word, and the file something else."""


class Subwords(NamedTuple):
    """fastText's n-grams: the vector of a word is the mean of its own row and theirs."""

    table: np.ndarray
    """(rows, D) float32."""
    low: int
    """Characters of the shortest n-gram, < and > included."""
    high: int
    """Characters of the longest."""


class WordVectors(NamedTuple):
    """A file of word vectors."""

    words: list[str]
    table: np.ndarray
    """(N, D) float32; where there are subwords the words' own rows, which are only a part of their vectors."""
    subwords: Subwords | None
    form: str
    """What the file was."""
    broken: int
    """Words that were not valid UTF-8; their broken bytes are U+FFFD now."""
    repeated: int
    """Words that had been there already, and were left out."""

    def vectors(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(n, D) float32 and (n,) bool: the vectors of any words, and which have one; the others are zero."""
        number = {word: i for i, word in enumerate(self.words)}
        at = np.array([number.get(word, -1) for word in words], np.int64)
        known = at >= 0
        out = np.where(known[:, None], self.table[at], np.float32(0))
        if self.subwords is None:
            return out, known
        flat, counts = hashed_ngrams(words, self.subwords.low, self.subwords.high, max(len(self.subwords.table), 1))
        owner = np.repeat(np.arange(len(words)), counts)
        np.add.at(out, owner, self.subwords.table[flat])
        parts = counts + known
        return (out / np.maximum(parts, 1)[:, None]).astype(np.float32), parts > 0


class _Blocks(io.RawIOBase):
    """Blocks of bytes as a stream."""

    def __init__(self, content: Iterator[bytes]) -> None:
        self._content, self._left = content, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or next(self._content, b"")
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


Stream: TypeAlias = "io.BufferedReader[_Blocks]"


class _Collected:
    """Words and vectors, the first of equal words, as they are read."""

    def __init__(self) -> None:
        self.words: dict[bytes, None] = {}
        self.rows: list[np.ndarray] = []
        self.repeated = 0

    def word(self, raw: bytes) -> bool:
        """Take a word; False if it was there already."""
        if raw in self.words:
            self.repeated += 1
            return False
        self.words[raw] = None
        return True

    def row(self, numbers: np.ndarray, where: str) -> None:
        """Take its vector; raises `DataError` for one that holds no number."""
        if not np.isfinite(numbers).all():
            word = shown([*self.words][-1].decode("utf-8", "replace"), 40)
            message = f"the vector of {word} is not finite: with it nothing can be compared"
            raise DataError(message, where=where, fix="take the word out, or load the file again")
        self.rows.append(numbers)

    def done(self, form: str, path: Path) -> WordVectors:
        """The words with their vectors; raises `DataError` if there is none."""
        if not self.words:
            raise DataError("holds no word vectors", where=path, fix="name a file with a word and its numbers a line")
        found = _vectors([*self.words], np.stack(self.rows), None, form)
        return found._replace(repeated=found.repeated + self.repeated)


def _vectors(names: list[bytes], table: np.ndarray, subwords: Subwords | None, form: str) -> WordVectors:
    """The words as text, the first of those that are then alike."""
    words, encoding, broken = _decoded(names)
    first = {word: i for i, word in reversed([*enumerate(words)])}
    kept = sorted(first.values())
    form += f" in {encoding}" if encoding else ""
    return WordVectors([words[i] for i in kept], table[kept], subwords, form, broken, len(words) - len(kept))


def _decoded(raw: Sequence[bytes]) -> tuple[list[str], str, int]:
    """Words as text; how they are encoded, if not in UTF-8; and how many are broken, where the broken bytes are replaced."""
    found, broken, whole = [], list[bytes](), 0
    for word in raw:
        try:
            found.append(word.decode())
            whole += not word.isascii()
        except UnicodeDecodeError:
            found.append(word.decode("utf-8", "replace"))
            broken.append(word)
    unlatin = sum(min(word) >= 0x80 for word in broken)  # letters with accents stand among others
    if len(broken) > whole and 2 * unlatin > len(broken):  # a few are damage, most are another encoding
        with suppress(UnicodeDecodeError):
            return [word.decode("gb18030") for word in raw], "GB18030", 0
    return found, "", len(broken)


def read_vectors(path: Path) -> WordVectors:
    """Read a file of word vectors; raises `DataError` with the place for one that is cut off or something else."""
    stream, found = _opened(path)
    match found:
        case None:
            raise DataError(
                "is no file of word vectors: its first line is neither a header nor a word and numbers",
                where=path,
                fix="GloVe and word2vec have a word and its numbers a line; binary files are called .bin",
            )
        case "fasttext", _, _:
            return _fasttext(stream, path)
        case "binary", width, count:
            assert count is not None
            return _binary(stream, path, width, count)
        case _, width, count:
            return _text(stream, path, width, count)


def written(vectors: WordVectors, form: str) -> bytes:
    """A file of `form` word2vec (binary) or word2vec-text; words lose white space, at which the formats end a word."""
    names = ["".join(word.split()) or "\ufffd" for word in vectors.words]
    header = f"{len(names)} {vectors.table.shape[1]}\n".encode()
    rows = vectors.table.astype("<f4")
    if form == "word2vec":
        return header + b"".join(name.encode() + b" " + row.tobytes() + b"\n" for name, row in zip(names, rows, strict=True))
    lines = (f"{name} {' '.join(map(str, row))}\n" for name, row in zip(names, rows, strict=True))
    return header + "".join(lines).encode()


def is_vectors(path: Path) -> bool:
    """Whether a file begins as a file of word vectors."""
    return _opened(path)[1] is not None


def _opened(path: Path) -> tuple[Stream, tuple[str, int, int | None] | None]:
    """A file where its vectors begin, and its form, the width of a vector and the count in its header; None: another file."""
    last = path.suffix.removeprefix(".").lower()
    packed: Any = last if last in get_args(Compression) else ""
    stream = io.BufferedReader(_Blocks(blocks(Source(path, "txt", packed))), 1 << 20)
    start = _peeked(stream)
    if start[:4] == _MAGIC or _old_fasttext(start):
        return stream, ("fasttext", 0, None)
    line, _, rest = start.partition(b"\n")
    header = line.removeprefix(codecs.BOM_UTF8).split()
    if len(header) == 2 and all(field.isdigit() for field in header) and 0 < int(header[1]) <= _WIDEST:
        count, width = int(header[0]), int(header[1])
        stream.readline()
        text = _is_row(rest.partition(b"\n")[0], width, cut=b"\n" not in rest)
        return stream, ("text" if text else "binary", width, count)
    width = next((i for i, field in enumerate(reversed(header)) if _number(field) is None), len(header) - 1)
    return stream, ("text", width, None) if 1 < width <= _WIDEST else None


def _peeked(stream: Stream) -> bytes:
    size = 0
    while len(start := stream.peek()) > size and len(start) < 1 << 16:
        size = len(start)
    return start


def _number(field: bytes) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None


def _is_row(line: bytes, width: int, cut: bool) -> bool:
    """Whether a line reads as a word and numbers; `cut`: it may go on after what is seen of it."""
    fields = line.split()[1:-1] if cut else line.rstrip().rsplit(None, width)[1:]
    numbers = [_number(field) for field in fields]
    return bool(numbers) and None not in numbers[-width:] and (cut or len(numbers) == width)


def _text(stream: Stream, path: Path, width: int, count: int | None) -> WordVectors:
    """A word and numbers a line. A word may hold spaces, as some of GloVe's do; numbers are the last `width` fields."""
    with np.errstate(over="ignore"):  # what single precision cannot hold is refused as infinite
        found = _lines(stream, path, width, count)
    _check_count(found, count, path)
    return found.done("text" if count is None else "word2vec text", path)


def _lines(stream: Stream, path: Path, width: int, count: int | None) -> _Collected:
    found = _Collected()
    for number, line in enumerate(stream, 1 if count is None else 2):
        fields = line.rstrip().rsplit(None, width)
        if not fields:
            continue
        try:
            if len(fields) != width + 1:
                raise ValueError
            row = np.array(fields[1:], np.float64).astype(np.float32)
        except ValueError:
            message = f"expected a word and {width} numbers, found {shown(line.decode('utf-8', 'replace').strip(), 60)}"
            raise DataError(
                message, where=f"{path}:{number}", fix="correct the line, or take it out; words hold no spaces"
            ) from None
        if found.word(fields[0].removeprefix(codecs.BOM_UTF8) if number == 1 else fields[0]):
            found.row(row, f"{path}:{number}")
    return found


def _binary(stream: Stream, path: Path, width: int, count: int) -> WordVectors:
    """word2vec's: a word, a space, numbers; some writers add a line end."""
    found, size, held = _Collected(), 4 * width, b""
    for i in range(count):
        while len(held) < _LONGEST + size and (more := stream.read(1 << 20)):
            held += more
        space = held.find(b" ", 0, _LONGEST)
        if space < 0 or len(held) < space + 1 + size:
            message = f"the header promises {count:,} vectors of {width} numbers, and it ends or goes astray after {i:,}"
            raise DataError(message, where=path, fix="download it again; or it is no file of word vectors")
        if found.word(held[:space].lstrip(b"\n")):
            found.row(np.frombuffer(held, "<f4", width, space + 1).copy(), str(path))
        held = held[space + 1 + size :]
    if (held + stream.read(1 << 20)).strip(b"\r\n"):
        message = f"the header promises {count:,} vectors of {width} numbers, and more follows"
        raise DataError(message, where=path, fix="download it again; or it is no file of word vectors")
    return found.done("word2vec binary", path)


def _check_count(found: _Collected, count: int | None, path: Path) -> None:
    read = len(found.words) + found.repeated
    if count is not None and read != count:
        message = f"the header promises {count:,} vectors, and there are {read:,}"
        raise DataError(message, where=path, fix="download it again; it may be cut off")


def _old_fasttext(start: bytes) -> bool:
    """Before it had a magic number, a .bin began with its settings: small numbers, which text never looks like."""
    if len(start) < 48:
        return False
    width, window, *others = struct.unpack_from("<12i", start)
    return 0 < width <= _WIDEST and 0 <= window < 1000 and all(0 <= value <= 1 << 30 for value in others)


def _fasttext(stream: Stream, path: Path) -> WordVectors:
    """fastText's .bin (its fasttext.cc, dictionary.cc and matrix.cc): settings, words, the table of words and n-grams."""

    def numbers(form: str) -> tuple[Any, ...]:
        size = struct.calcsize(f"<{form}")
        data = stream.read(size)
        if len(data) < size:
            raise DataError("ends in the middle; the file is cut off", where=path, fix="download it again")
        return struct.unpack(f"<{form}", data)

    new = _peeked(stream)[:4] == _MAGIC
    if new:
        numbers("2i")  # magic number and version
    width, *_, rows, low, high, _ = numbers("12i")
    numbers("d")
    entries, count, _, _ = numbers("3iq")
    if new and numbers("q")[0] > 0:
        raise DataError("a pruned fastText model is not read", where=path, fix="take the model before it was quantized")
    names: list[bytes] = []
    for _ in range(entries):
        name = bytearray()
        while (byte := stream.read(1)) not in (b"\0", b""):
            name += byte
        numbers("qb")
        if len(names) < count:
            names.append(bytes(name))
    if new and numbers("?")[0]:
        raise DataError("a quantized fastText model is not read", where=path, fix="take the .bin, not the .ftz")
    height, wide = numbers("2q")
    if wide != width or height not in (count, count + rows) or len(names) != count:
        raise DataError("its parts do not fit together; it is damaged or no fastText model", where=path, fix="load it again")
    data = stream.read(4 * height * wide)
    if len(data) < 4 * height * wide:
        raise DataError("ends in the middle of its vectors; the file is cut off", where=path, fix="download it again")
    table = np.frombuffer(data, "<f4").reshape(height, wide)
    subwords = Subwords(table[count:], low, high) if height > count and high > 0 else None
    if not np.isfinite(table).all():
        message = "a vector is not finite: with it nothing can be compared"
        raise DataError(message, where=path, fix="load the file again")
    own = table[:count]
    if subwords is not None and not new and _END in names:  # then its vector had n-grams too
        own, (rows_of, parts) = own.copy(), hashed_ngrams([_END.decode()], low, high, len(subwords.table), end=True)
        place = names.index(_END)
        own[place] = (own[place] + subwords.table[rows_of].sum(0)) / (1 + parts[0])
    return _vectors(names, own, subwords, "fastText binary")
