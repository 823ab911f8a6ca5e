"""Where words begin in text that is written without spaces: a library's word segmenter, by places in the original text.

The text is never cut for the tokenizer: ids are those that there would be without a segmenter, and only the marks of
word starts are other ones (whole-word masking for Chinese: Cui et al. 2021, "Pre-training with whole word masking").
A new segmenter is one function that gives the words of a text, and one line in `SEGMENTERS`.

Three things are set right in what a segmenter for Chinese says of everything else. Letters of other alphabets, which it
takes apart one by one, stay together; a mark (accent, skin tone) belongs to the character before it; white space belongs
to the word behind it.
"""

import hashlib
import importlib
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, final

import numpy as np

from encoderkit.errors import DataError, MissingDependency, UsageError, shown
from encoderkit.text.alphabet import NEVER, OTHER_SPACE, WORD, word_classes
from encoderkit.text.config import SegmentConfig, SegmenterKind

MAX_BYTES = 64 * 2**20
"""A user dictionary is not larger; what is, is something else."""

Cut = Callable[[str], Sequence[str]]
"""A text to its words; joined they are the text again."""


class Entry(NamedTuple):
    """A word of a user dictionary."""

    word: str
    frequency: int | None
    """None: as often as it takes for it to stay whole."""
    tag: str | None


class Segmentation(NamedTuple):
    """What a segmenter is made from, to be sent to other processes."""

    kind: SegmenterKind
    dictionary: bytes | None
    where: str
    """The file of the dictionary."""


class Words(NamedTuple):
    """Texts laid end to end, by their words."""

    numbers: np.ndarray
    """(C,) int64: the number of the word that each character belongs to; it rises, and each text begins a new one."""
    begins: np.ndarray
    """(n,) int64: where each text begins among the characters."""


def _rjieba(entries: Sequence[Entry]) -> Cut:
    """jieba's algorithm and dictionary in Rust; fifteen times as fast, and kept up to date."""
    segmenter = _library("rjieba", "encoderkit[zh]").Jieba()
    for entry in entries:
        segmenter.add_word(entry.word, entry.frequency, entry.tag)
    return segmenter.cut


def _jieba(entries: Sequence[Entry]) -> Cut:
    """The original, for results that are to be compared with older ones; last released in 2020."""
    library = _library("jieba", "jieba")
    library.setLogLevel(logging.WARNING)
    segmenter = library.Tokenizer()
    for entry in entries:
        segmenter.add_word(entry.word, entry.frequency, entry.tag)
    return segmenter.lcut


SEGMENTERS: dict[SegmenterKind, tuple[str, Callable[[Sequence[Entry]], Cut]]] = {
    "zh": ("rjieba", _rjieba),
    "jieba": ("jieba", _jieba),
}
"""The package of each kind, whose version is part of what a store is made from, and what opens it."""


def _library(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        message = f"cutting text into words needs the package {module}, which is not installed"
        raise MissingDependency(message, where="segment", fix=f'pip install "{package}"') from None


@final
class Segmenter:
    """Texts to the words of every character. Raises `MissingDependency` without its library."""

    def __init__(self, given: Segmentation) -> None:
        self.given = given
        package, opened = SEGMENTERS[given.kind]
        self._cut = opened(read_entries(given))
        digest = None if given.dictionary is None else hashlib.sha256(given.dictionary).hexdigest()
        self.facts: dict[str, Any] = {"kind": given.kind, "library": package, "version": version(package), "dictionary": digest}
        """What decides about its words."""

    def words(self, texts: Sequence[str]) -> Words:
        """The words of `texts`, each on its own; raises `DataError` if the library loses a part of one."""
        joined, sizes = "".join(texts), np.fromiter(map(len, texts), np.int64, len(texts))
        ends = np.cumsum(sizes)
        begins, starts = ends - sizes, np.zeros(len(joined) + 1, bool)
        for text, begin, end in zip(texts, begins.tolist(), ends.tolist(), strict=True):
            lengths = np.fromiter(map(len, self._cut(text)), np.int64)
            if lengths.sum() != len(text):
                package = self.facts["library"]
                fix = "another segmenter (segment.kind), or none"
                raise DataError(f"{package} gave {lengths.sum()} of {len(text)} characters back", where=shown(text), fix=fix)
            starts[begin:end][np.cumsum(lengths[:-1])] = True
        first = np.zeros(len(joined) + 1, bool)
        first[begins] = True
        codes = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
        return Words(np.cumsum(_set_right(starts[:-1], first[:-1], codes)), begins)


def _set_right(starts: np.ndarray, first: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """(C,) word starts of a segmenter, where texts begin, and the characters, to the word starts that are used."""
    classes, places = word_classes(codes), np.arange(len(codes))
    starts = starts & (classes != NEVER)
    # The character before each one, marks passed over.
    base = np.maximum.accumulate(np.where(classes != NEVER, places, 0))
    before = np.concatenate([base[:1], base[:-1]])
    letter = (classes == WORD) & (codes != 0x20)
    ascii_both = (codes < 128) & (np.concatenate([codes[:1], codes[:-1]]) < 128)
    starts &= ~(letter & letter[before] & ~ascii_both)
    space = (classes == OTHER_SPACE) | (codes == 0x20)
    inner = space & np.concatenate([[False], space[:-1]]) & ~first  # a space after another one
    run = np.maximum.accumulate(np.where(inner, 0, places))
    after = np.flatnonzero(starts & ~first & np.concatenate([[False], space[:-1]]))
    starts[after] = False
    starts[run[after - 1]] = True
    return starts | first


def token_starts(words: Words, spans: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, int]:
    """bool (N,): where words begin among tokens; and how many tokens hold characters of several words.

    `spans` (N, 2) are the characters of each token in its text, `offsets` (n+1,) the tokens of each text. A token begins
    a word if its first character is of a later word than all before it; so words that share a token are one, and are
    hidden or shown together.
    """
    if not len(spans):
        return np.zeros(0, bool), 0
    begins = np.repeat(words.begins, np.diff(offsets))
    first = begins + spans[:, 0]
    last = np.maximum(begins + spans[:, 1] - 1, first)
    top = len(words.numbers) - 1
    low, high = words.numbers[np.minimum(first, top)], words.numbers[np.minimum(last, top)]
    reached = np.maximum.accumulate(high)
    return low > np.concatenate([[0], reached[:-1]]), int(np.count_nonzero(high > low))


def read_segmentation(config: SegmentConfig) -> Segmentation:
    """The kind and the dictionary of a recipe; raises `UsageError` or `DataError` for one that cannot be read."""
    if config.dictionary is None:
        return Segmentation(config.kind, None, "")
    path = Path(config.dictionary)
    if not path.is_file():
        found = "a dictionary is a file" if path.exists() else "there is no such file"
        raise UsageError(found, where=path, fix="one word a line, with its frequency and tag if you like: word 100 n")
    if path.stat().st_size > MAX_BYTES:
        fix = "leave out words that the text lacks"
        raise DataError(f"has {path.stat().st_size} bytes; a dictionary has at most {MAX_BYTES}", where=path, fix=fix)
    given = Segmentation(config.kind, path.read_bytes(), str(path))
    if not read_entries(given):
        raise DataError("holds no word", where=path, fix="one word a line, with its frequency and tag if you like: word 100 n")
    return given


def read_entries(given: Segmentation) -> list[Entry]:
    """The words of a dictionary: jieba's format, `word [frequency] [tag]`, one a line, empty lines passed over."""
    try:
        text = (given.dictionary or b"").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        try:  # as many word lists are that were made for other programs
            text = (given.dictionary or b"").decode("gb18030")
        except UnicodeDecodeError:
            message = f"is neither UTF-8 (byte {error.start}) nor GB18030"
            raise DataError(message, where=given.where, fix="convert it to UTF-8") from None
    return [_entry(line.split(), f"{given.where}:{i}") for i, line in enumerate(text.split("\n"), 1) if line.split()]


def _entry(parts: list[str], where: str) -> Entry:
    word, *rest = parts
    frequency = int(rest.pop(0)) if rest and rest[0].isdecimal() and len(rest[0]) < 10 else None
    if len(rest) > 1 or (rest and rest[0].isdecimal()):
        found = shown(" ".join(parts))
        raise DataError(
            f"a line is a word, its frequency (a whole number) and its tag; found {found}", where=where, fix="such as: word 100 n"
        )
    return Entry(word, frequency, rest[0] if rest else None)
