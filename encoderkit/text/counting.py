"""How often each word of a text occurs, words being what a tokenizer's normaliser and pre-tokenizer make of it.

Both are slow, and a text repeats its words. So it is first cut where a tokenizer would cut in any case, which Python does
quickly; what is different among the parts is normalised and cut once. ASCII needs the tokenizer not even for that.
"""

import importlib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from unicodedata import is_normalized

from tokenizers import Tokenizer

from encoderkit.text.words import BYTE_ALPHABET

LONGEST_WORD = 100
"""Characters. What is longer, without a space, is parted; for wordpiece it would be [UNK] anyway, as in BERT."""
_LONG = re.compile(rf"\S{{{LONGEST_WORD}}}")
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_APART = re.compile(f"{_HAN.pattern}|[^ {_HAN.pattern[1:-1]}]+")
"""Chinese characters one by one, and what stands between them and spaces. Only those that every BERT takes for Chinese."""
_SPACED = re.compile(r"\s*\S+(?:[\x1c-\x1f]\s*\S*)*|\s+")
"""Words with the spaces before them: GPT-2 cuts before the last of several spaces, and where a space follows something
else. Four control characters are spaces to Python alone."""
_BEGIN, _GO_ON = re.compile(r"\S(?:.*\S)?", re.DOTALL), re.compile(r"[^\S\x1c-\x1f].*\S", re.DOTALL)
"""Parts that are cut alone as they are behind a line end; and behind other parts."""
_ASCII = re.compile(r" ?[!-~]{1,60}")
_BERT = re.compile(r"[A-Za-z0-9]+|[!-~]")
_GPT2 = re.compile(r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^ A-Za-z0-9]+")
"""What the pre-tokenizers do to such ASCII as `_ASCII`."""
_AT_ONCE = 1 << 18
"""Characters that the tokenizer sees at once; it takes a hundred bytes of memory for each."""
_BLOCK, _PROOF = 1 << 24, 200_000
"""Characters that gigatoken gets at once, and on which it has to agree before it is used."""
_LETTERS = {byte: letter for letter, byte in BYTE_ALPHABET.items()}


def count_words(texts: Iterable[str], tokenizer: Tokenizer, chinese_apart: bool, lowercase: bool) -> Counter[str]:
    """The words of BERT's pre-tokenizer, for which a space parts words and is no part of them.

    `chinese_apart` and `lowercase`: what the normaliser of `tokenizer` does.
    """
    parts = Counter[str]()
    for text in texts:
        text = text.replace("\n", " ")
        apart = chinese_apart and not text.isascii() and _HAN.search(text)
        parts.update(_APART.findall(text) if apart else text.split(" "))
    for part in [part for part in parts if len(part) > LONGEST_WORD]:
        count = parts.pop(part)
        for piece in _LONG.sub(r"\g<0> ", part).split(" "):
            parts[piece] += count
    words = Counter[str]()
    rest = _cut_ascii(parts, _BERT, lowercase, words)
    _cut(rest, " ", tokenizer, words)
    return words


def count_byte_words(texts: Iterable[str], tokenizer: Tokenizer, chinese_apart: bool, lowercase: bool) -> Counter[str]:
    """The words of GPT-2's pre-tokenizer, written in its letters for bytes; line ends part texts and are no words."""
    parts, ascii_words, words = Counter[str](), Counter[str](), Counter[str]()
    for line in chain.from_iterable(text.split("\n") for text in texts):
        if chinese_apart and not line.isascii():
            parts.update(_HAN.findall(line))
            for piece in _HAN.split(line):
                parts.update(_SPACED.findall(piece))
        else:
            parts.update(_SPACED.findall(line))
    rest = _cut_ascii(parts, _GPT2, lowercase, ascii_words)
    for kind, between in ((_BEGIN, "\n"), (_GO_ON, "")):
        together = {part: count for part, count in rest.items() if kind.fullmatch(part)}
        _cut(together, between, tokenizer, words)
        rest = {part: count for part, count in rest.items() if part not in together}
    words.pop(_LETTERS[ord("\n")], None)
    for part, count in rest.items():
        _cut({part: count}, "", tokenizer, words)
    for word, count in ascii_words.items():
        words[word.translate(_LETTERS)] += count
    return words


def _cut_ascii(parts: Mapping[str, int], pattern: re.Pattern[str], lowercase: bool, words: Counter[str]) -> dict[str, int]:
    """Add the words of the parts that are ASCII to `words`; gives the other parts."""
    rest = dict[str, int]()
    for part, count in parts.items():
        if _ASCII.fullmatch(part):
            for word in pattern.findall(part.lower() if lowercase else part):
                words[word] += count
        else:
            rest[part] = count
    return rest


def _cut(parts: Mapping[str, int], between: str, tokenizer: Tokenizer, words: Counter[str]) -> None:
    """Add the words of `parts` to `words`; those parts that occur equally often are cut together, with `between` between."""
    alike: dict[int, list[str]] = {}
    for part, count in parts.items():
        alike.setdefault(count, []).append(part)
    for count, group in alike.items():
        for text in _joined(group, between):
            if tokenizer.normalizer is not None:
                text = tokenizer.normalizer.normalize_str(text)
            for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
                words[word] += count


def _joined(parts: list[str], between: str) -> Iterator[str]:
    first = size = 0
    for i, part in enumerate(parts):
        size += len(part)
        if size > _AT_ONCE:
            yield between.join(parts[first : i + 1])
            first, size = i + 1, 0
    yield between.join(parts[first:])


def count_by_gigatoken(texts: Iterable[str], tokenizer: Tokenizer, nfkc: bool, longest: int) -> Counter[str] | None:
    """What `count_byte_words` gives, several times faster; None where the library is missing or counts anything else.

    For a normaliser that does `nfkc` or nothing, and a pre-tokenizer that is GPT-2's and then cuts words of more than
    `longest` bytes. `texts` are gone through twice.
    """
    try:
        library = importlib.import_module("gigatoken.gigatoken_rs").pretokenized_counts
    except (ImportError, AttributeError):
        return None
    rule = tokenizer.normalizer.normalize_str

    def count(blocks: Iterable[list[str]]) -> Counter[bytes]:
        found = Counter[bytes]()
        for block in blocks:
            lines = chain.from_iterable(text.split("\n") for text in block)
            normal = (x if not nfkc or x.isascii() or is_normalized("NFKC", x) else rule(x) for x in lines)
            with _hushed():
                found.update(dict(library("\n".join(normal).encode(), b"\n")))
        return found

    found = count(_blocks(texts, _BLOCK))
    # What is a letter depends on the version of Unicode, so every character is tried.
    signs = sorted(set("".join(word.decode("utf-8", "replace") for word in found if not word.isascii())))
    proof = [*next(_blocks(texts, _PROOF), []), *(f"a{c}1 {c}b 1{c} .{c}" for c in signs)]
    if _spelled(count([proof]), longest) != count_byte_words(proof, tokenizer, False, False):
        return None
    return _spelled(found, longest)


def _spelled(found: Mapping[bytes, int], longest: int) -> Counter[str]:
    words = Counter[str]()
    for word, count in found.items():
        letters = word.decode("latin-1").translate(_LETTERS)
        for start in range(0, len(letters), longest):
            words[letters[start : start + longest]] += count
    return words


def _blocks(texts: Iterable[str], size: int) -> Iterator[list[str]]:
    block, held = list[str](), 0
    for text in texts:
        block.append(text)
        held += len(text)
        if held > size:
            yield block
            block, held = [], 0
    if block:
        yield block


@contextmanager
def _hushed() -> Iterator[None]:
    """Without what a library writes on the standard error of the process, past Python."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
