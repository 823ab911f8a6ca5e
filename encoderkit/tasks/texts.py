"""Texts and pairs of texts to rows of ids: [CLS] A [SEP], [CLS] A [SEP] B [SEP]."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from encoderkit.learner import pad
from encoderkit.models.inputs import Inputs
from encoderkit.text.tokenizers import Tokenizer


class Tokens(NamedTuple):
    """A text, or a pair, as an encoder reads it."""

    ids: np.ndarray
    """(T,) with the special tokens."""
    segments: np.ndarray | None
    """(T,) 0 for the first text and 1 for the second; None where there is one text."""
    cut: int
    """Tokens that were cut off to fit."""


def assemble(texts: Sequence[Sequence[str]], tokenizer: Tokenizer, length: int) -> list[Tokens]:
    """Each row of one or two texts as at most `length` tokens; the longer text of a pair is cut first."""
    sides = [tokenizer.encode([row[side] for row in texts]) for side in range(len(texts[0]))] if texts else []
    rows = []
    for i in range(len(texts)):
        parts = [side.ids[side.offsets[i] : side.offsets[i + 1]] for side in sides]
        room = length - 1 - len(parts)
        kept = _fit([len(part) for part in parts], room)
        ids, segments = [tokenizer.cls], [0]
        for number, (part, keep) in enumerate(zip(parts, kept, strict=True)):
            ids += [*part[:keep].tolist(), tokenizer.sep]
            segments += [number] * (keep + 1)
        pair = np.array(segments, dtype=np.int64) if len(parts) > 1 else None
        rows.append(Tokens(np.array(ids, dtype=np.int64), pair, sum(map(len, parts)) - sum(kept)))
    return rows


def inputs_of(rows: Sequence[Tokens], padding: int) -> Inputs:
    """Texts as one batch, as wide as the longest; `padding` is the id that fills up the others."""
    width = max(len(row.ids) for row in rows)
    return Inputs(
        pad([row.ids for row in rows], width, padding),
        pad([np.ones(len(row.ids)) for row in rows], width, 0),
        pad([np.arange(len(row.ids)) for row in rows], width, 0),
        None if rows[0].segments is None else pad([row.segments for row in rows if row.segments is not None], width, 0),
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
