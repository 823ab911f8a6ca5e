"""Where words begin, for every kind of tokenizer, from tables over the vocabulary.

A word is a run of letters, digits and their marks; every Chinese character, punctuation mark and symbol is a word of
its own; a space belongs to the word behind it. A token that begins inside a word is no start. Whole-word masking needs
this and nothing of the text itself, so ids are enough: each piece has a class for how it begins and one for how it
ends, and a few array operations do the rest. Only characters spelled as bytes over several tokens (byte-level BPE, byte
fallback) have to be put together again, and only they are.
"""

from typing import Any, NamedTuple

import numpy as np

from encoderkit.text.alphabet import NEVER, OTHER_SPACE, OWN, WORD, word_class, word_classes
from encoderkit.text.normalization import SPACE

PENDING = 255
"""The class of a character whose bytes go on in the next token."""


class Spelling(NamedTuple):
    """How the pieces of a vocabulary are written."""

    byte_level: bool = False
    """Each character of a piece is a byte, in GPT-2's alphabet."""
    inside: str = ""
    """What marks a piece that continues a word (`##`)."""
    ending: str = ""
    """What marks a piece that ends a word (`</w>`)."""
    whole: bool = False
    """Every piece is a word."""


class WordTables(NamedTuple):
    """What is known of each piece, (V,) each."""

    first: np.ndarray
    """uint8: class of the character that it begins with; NEVER where it goes on with another's bytes."""
    last: np.ndarray
    """uint8: class of the character that it ends with; PENDING where bytes are missing."""
    tail: np.ndarray
    """int32: the bytes of an unfinished last character, big-endian; 0 where there is none."""
    heads: np.ndarray
    """uint8 (V, 3): the bytes with which it continues an unfinished character; 0 where there are no more."""
    only_head: np.ndarray
    """bool: it consists of nothing else."""
    partial: bool
    """Whether any piece has unfinished characters."""


def spelling(description: dict[str, Any]) -> Spelling:
    """Read from a tokenizer.json how its pieces are written."""
    model = description["model"]
    parts = [description.get(name) or {} for name in ("pre_tokenizer", "decoder")]
    parts += [p for part in parts for name in ("pretokenizers", "decoders") for p in part.get(name) or []]
    return Spelling(
        byte_level=any(part.get("type") == "ByteLevel" for part in parts),
        inside=model.get("continuing_subword_prefix") or "",
        ending=model.get("end_of_word_suffix") or "",
        whole=model.get("type") == "WordLevel",
    )


def word_tables(pieces: list[str], special: set[int], style: Spelling) -> WordTables:
    """The tables of a vocabulary; `special` ids are words of their own."""
    size = len(pieces)
    first, last = np.full(size, OWN, np.uint8), np.full(size, OWN, np.uint8)
    tail, heads, only_head = np.zeros(size, np.int32), np.zeros((size, 3), np.uint8), np.zeros(size, bool)
    if not style.whole:
        for i, piece in enumerate(pieces):
            if i in special or not piece:
                continue
            begins = bool(style.inside) and not piece.startswith(style.inside)
            head, text, rest = _taken_apart(_bytes(piece, style))
            first[i] = word_class(text[0]) if text else NEVER if head else PENDING
            last[i] = PENDING if rest else word_class(text[-1]) if text else NEVER
            if begins or (text[:1] == " " and not head):
                first[i] = OTHER_SPACE
            if style.ending and piece.endswith(style.ending):
                last[i] = OTHER_SPACE
            heads[i, : len(head)] = list(head)
            tail[i] = int.from_bytes(rest)
            only_head[i] = bool(head) and not text and not rest
    return WordTables(first, last, tail, heads, only_head, bool(tail.any()))


def as_word(piece: str, style: Spelling) -> str | None:
    """The word that a piece is where it stands alone; None for one that continues a word, or is a part of a character."""
    if style.whole:
        return piece
    if style.inside:
        return None if piece.startswith(style.inside) else piece
    head, text, rest = _taken_apart(_bytes(piece, style))
    if head or rest or (style.ending and not piece.endswith(style.ending)):
        return None
    if text.startswith(" ") or style.ending:
        return text.removeprefix(" ") or None
    return text if text and word_class(text[0]) == OWN else None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable ones stand for themselves, the others are moved to U+0100 and up."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(0x100 + i): b for i, b in enumerate(moved)}


BYTE_ALPHABET = _byte_alphabet()


def _bytes(piece: str, style: Spelling) -> bytes:
    if style.byte_level and all(c in BYTE_ALPHABET for c in piece):
        return bytes(BYTE_ALPHABET[c] for c in piece)
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    if style.inside and piece.startswith(style.inside) and len(piece) > len(style.inside):
        piece = piece.removeprefix(style.inside)
    if style.ending and len(piece) > len(style.ending):
        piece = piece.removesuffix(style.ending)
    return piece.replace(SPACE, " ").encode("utf-8", "replace")


def _taken_apart(data: bytes) -> tuple[bytes, str, bytes]:
    """The bytes that continue a character, the whole characters, and the bytes of an unfinished one."""
    head = 0
    while head < min(3, len(data)) and data[head] & 0xC0 == 0x80:
        head += 1
    rest = len(data)
    for back in range(1, min(3, len(data) - head) + 1):
        if data[-back] >= 0xC0:
            rest = len(data) - back if back < _length(data[-back]) else len(data)
            break
        if data[-back] < 0x80:
            break
    return data[:head], data[head:rest].decode("utf-8", "replace"), data[rest:]


def _length(lead: int) -> int:
    return 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2


def word_starts(ids: np.ndarray, offsets: np.ndarray, tables: WordTables) -> np.ndarray:
    """(N,) ids of texts laid end to end, (n+1,) offsets of the texts, to bool (N,): True where a word begins."""
    first, last = tables.first[ids], tables.last[ids]
    if tables.partial:
        _finish_characters(ids, first, last, tables)
    starts = first >= OWN
    inner = (first[1:] == WORD) & (last[:-1] >= OWN)
    starts[1:] |= inner
    begin = offsets[:-1]
    starts[begin[begin < offsets[1:]]] = True  # a text begins with a word, whatever it begins with
    return starts


def _finish_characters(ids: np.ndarray, first: np.ndarray, last: np.ndarray, tables: WordTables) -> None:
    """Give unfinished characters their classes, by reading on in the next tokens; changes `first` and `last`."""
    at = np.flatnonzero(last == PENDING)
    value = tables.tail[ids[at]].astype(np.int64)
    lead = value.copy()
    for _ in range(2):
        lead = np.where(lead >= 0x100, lead >> 8, lead)
    have = 1 + (value >= 0x100) + (value >= 0x10000)
    need = np.where(lead >= 0xF0, 4, np.where(lead >= 0xE0, 3, 2))
    ends = at.copy()  # the last token that holds bytes of this character
    reading = np.ones(len(at), bool)
    for step in range(1, 4):
        following = np.minimum(at + step, len(ids) - 1)
        for byte in range(3):
            head = tables.heads[ids[following], byte]
            take = reading & (have < need) & (head > 0) & (at + step < len(ids))
            value, have = np.where(take, value << 8 | head, value), have + take
            ends = np.where(take, following, ends)
        reading &= (have < need) & tables.only_head[ids[following]]
    classes = np.where(have == need, word_classes(_code_points(value, need)), OWN).astype(np.uint8)
    last[at] = classes
    only = first[at] == PENDING
    first[at[only]] = classes[only]
    for step in range(1, 4):
        within = (at + step <= ends) & tables.only_head[ids[np.minimum(at + step, len(ids) - 1)]]
        last[(at + step)[within]] = classes[within]


def _code_points(value: np.ndarray, length: np.ndarray) -> np.ndarray:
    """UTF-8 bytes as one big-endian number to the code point, 0 where it is none."""
    low = value & 0x3F | (value >> 8 & 0x3F) << 6
    three = low | (value >> 16 & 0x3F) << 12
    code = np.select(
        [length == 2, length == 3],
        [value & 0x3F | (value >> 8 & 0x1F) << 6, low | (value >> 16 & 0x0F) << 12],
        three | (value >> 24 & 0x07) << 18,
    )
    return np.where(code < 0x110000, code, 0)
