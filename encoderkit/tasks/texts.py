"""Texts and pairs of texts to rows of ids, laid out as the tokenizer says: [CLS] A [SEP], [CLS] A [SEP] B [SEP]."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from encoderkit.data.blocks import pack
from encoderkit.models.inputs import Inputs
from encoderkit.text.tokenizers import Tokenizer

WIDTH = 64
"""Of packed rows, in tokens: wider ones cost attention, narrower ones leave more places empty."""


class Tokens(NamedTuple):
    """A text, or a pair, as an encoder reads it."""

    ids: np.ndarray
    """(T,) with the special tokens."""
    segments: np.ndarray | None
    """(T,) 0 for the first text and 1 for the second, 2 for XLNet's [CLS]; None where all are in one."""
    cut: int
    """Tokens that were cut off to fit."""
    special: int = 2
    """How many of its tokens are special."""
    shared: int = 0
    """How many of its tokens another window of the same row has been counted with."""


ONE_TEXT = property(lambda example: [example.tokens], doc="What the encoder reads.")
"""`Example.texts`, of one that has a single text (or pair) as `tokens`."""
SIZE = property(lambda example: sum(len(text.ids) for text in example.texts), doc="The tokens of all its texts.")
"""`Example.size`."""


def assemble_apart(texts: Sequence[Sequence[str]], tokenizer: Tokenizer, length: int) -> list[tuple[Tokens, ...]]:
    """Each text of each row alone, as at most `length` tokens; all rows have as many texts."""
    sides = [assemble([[text] for text in side], tokenizer, length) for side in zip(*texts, strict=True)]
    return list(zip(*sides, strict=True))


def assemble(texts: Sequence[Sequence[str]], tokenizer: Tokenizer, length: int) -> list[Tokens]:
    """Each row of one or two texts as at most `length` tokens; the longer text of a pair is cut first."""
    sides = [tokenizer.encode([row[side] for row in texts]) for side in range(len(texts[0]))] if texts else []
    special = len(tokenizer.template.of(len(sides))) - len(sides)
    rows = []
    for i in range(len(texts)):
        parts = [side.ids[side.offsets[i] : side.offsets[i + 1]] for side in sides]
        kept = _fit([len(part) for part in parts], length - special)
        row, _ = lay([part[:keep] for part, keep in zip(parts, kept, strict=True)], tokenizer)
        rows.append(row._replace(cut=sum(map(len, parts)) - sum(kept)))
    return rows


def lay(parts: Sequence[np.ndarray], tokenizer: Tokenizer) -> tuple[Tokens, list[int]]:
    """The ids of a text, or of a pair, with the special tokens of the tokenizer; and where each text begins in it."""
    template = tokenizer.template.of(len(parts))
    left = iter(parts)
    pieces = [next(left) if part.id is None else np.array([part.id]) for part in template]
    ends = np.cumsum([len(piece) for piece in pieces])
    segments = np.repeat([part.segment for part in template], [len(piece) for piece in pieces])
    begins = [int(ends[i]) - len(pieces[i]) for i, part in enumerate(template) if part.id is None]
    several = segments.astype(np.int64) if any(part.segment for part in template) else None
    return Tokens(np.concatenate(pieces).astype(np.int64), several, 0, len(template) - len(parts)), begins


def windows(length: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """Where to cut a text of `length` tokens into windows of at most `room`, each begun `overlap` before the last one ends.

    A text that fits is one window, an empty one too.
    """
    starts = range(0, max(1, length - overlap), room - overlap)
    return [(start, min(start + room, length)) for start in starts]


def names_of(columns: Sequence[str]) -> list[str]:
    """What the texts of these columns are called in a prediction."""
    return ["text", "text_pair"][: len(columns)]


def named(texts: Sequence[str]) -> dict[str, str]:
    """The text, or the pair of texts, as it stands in a prediction."""
    return dict(zip(names_of(texts), texts, strict=True))


def inputs_of(rows: Sequence[Tokens], padding: int, packed: bool, beside: Sequence[int] = ()) -> Inputs:
    """Texts as one batch; `padding` is the id that fills up the rows, `packed` whether a row may hold several texts.

    Packed, rows are as wide as the longest text, or as several of it that `WIDTH` has room for: there is next to no padding,
    neither among texts of any lengths nor where all are about as long as the longest. Otherwise each text has its own row.
    `beside`: how long what belongs to each text is, which is laid in the same rows elsewhere and must have room there too.
    """
    sizes = np.array([len(row.ids) for row in rows])
    needed = np.maximum(sizes, beside) if len(beside) else sizes
    longest = int(needed.max())
    width = longest * max(1, min(WIDTH, int(needed.sum())) // longest) if packed else int(sizes.max())
    row = pack(needed, width) if packed else np.arange(len(rows))
    if packed and len(beside):
        width = int(np.bincount(row, sizes).max())
    order = np.argsort(row, kind="stable")
    ends = np.cumsum(sizes[order])
    first = np.searchsorted(row[order], np.arange(row.max() + 1))  # the first text of each row, in that order
    begins = np.empty_like(row)
    begins[order] = ends - sizes[order] - (ends - sizes[order])[first][row[order]] + row[order] * width
    number = np.empty_like(row)
    number[order] = np.arange(len(rows)) - first[row[order]] + 1
    inside = np.concatenate([np.arange(size) for size in sizes])
    places = np.repeat(begins, sizes) + inside

    def laid(values: np.ndarray, empty: int = 0) -> Tensor:
        out = np.full((len(first), width), empty, np.int64)
        out.reshape(-1)[places] = values
        return torch.from_numpy(out)

    steps = np.arange(sizes.max())
    segments = [row.segments for row in rows if row.segments is not None]
    return Inputs(
        laid(np.concatenate([row.ids for row in rows]), padding),
        laid(np.repeat(number, sizes)),
        laid(inside),
        laid(np.concatenate(segments)) if segments else None,
        torch.from_numpy(np.where(steps < sizes[:, None], begins[:, None] + steps, -1)) if packed else None,
    )


def _fit(lengths: list[int], room: int) -> list[int]:
    """What each text may keep so that all fit into `room`: the longer is cut first, as transformers' tokenizers do."""
    if sum(lengths) <= room or len(lengths) == 1:
        return [min(length, room) for length in lengths]
    first, second = lengths
    half = room // 2
    if second <= half:
        return [room - second, second]
    if first <= half:
        return [first, room - first]
    return [room - half, half] if first > second else [half, room - half]
