"""What a tokenizer makes of labelled rows: how long they are, what it does not know, which spans it cuts."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from encoderkit.errors import shown
from encoderkit.stages.checks import Finding, Layout, Split, rows_have
from encoderkit.text.tokenizers import Tokenizer

_AT_ONCE = 1000  # texts that are cut into pieces at once


class Sizes(NamedTuple):
    """How long the rows of a file are, in `unit`."""

    unit: str
    mean: float
    median: int
    most: int
    """The longest; 99 of 100 have at most `high`."""
    high: int


def sizes(values: Sequence[int], unit: str) -> Sizes:
    """The facts about lengths."""
    found = np.array(values or [0])
    median, high = (int(value) for value in np.quantile(found, (0.5, 0.99), method="higher"))
    return Sizes(unit, round(float(found.mean()), 1), median, int(found.max()), high)


def tokens(split: Split, tokenizer: Tokenizer, layout: Layout) -> tuple[Sizes, list[Finding]]:
    """Lengths in tokens, special ones included; what is cut off, what is unknown, and spans that end inside a piece."""
    flat = [(row, side) for row in split.rows for side in range(len(row.texts))]
    lengths: dict[int, list[int]] = {row.line: [] for row in split.rows}
    unknown: Counter[str] = Counter()
    strange: dict[int, None] = {}
    inside: dict[int, int] = {}
    for start in range(0, len(flat), _AT_ONCE):
        part = flat[start : start + _AT_ONCE]
        found = tokenizer.spans([row.texts[side] for row, side in part])
        for n, (row, side) in enumerate(part):
            own = slice(found.offsets[n], found.offsets[n + 1])
            places, text = found.characters[own], row.texts[side]
            lengths[row.line].append(len(places))
            for a, b in places[found.ids[own] == tokenizer.unk].tolist():
                unknown[text[a:b]] += 1
                strange[row.line] = None
            own_side = len(row.texts) - 1 if layout.kind == "span" else 0
            broken = sum(_inside(place, places, text) for place in row.spans) if side == own_side else 0
            if broken:
                inside[row.line] = broken
    findings = []
    total = {line: _total(own, layout, tokenizer) for line, own in lengths.items()}
    if layout.length is not None:
        long = [line for line, size in total.items() if size > layout.length]
        spans = layout.kind == "any" and any(row.spans for row in split.rows)
        how = "would be read in windows" if layout.kind in ("tag", "span") or spans else "would be cut"
        message = f"{rows_have(len(long))} more than {layout.length} tokens ({len(long) / max(len(total), 1):.1%}) and {how}"
        findings += split.finding("long", message, long)
    common = ", ".join(f"{shown(piece, 12)} {n:,}" for piece, n in unknown.most_common(8))
    message = f"{rows_have(len(strange))} tokens that the tokenizer does not know, {unknown.total():,} in all: {common}"
    findings += split.finding("unknown", message, [*strange])
    what = "answers" if layout.kind == "span" else "spans or tokens"
    message = f"{rows_have(len(inside))} {what} that begin or end inside a piece, {sum(inside.values()):,} in all"
    findings += split.finding("inside_piece", message, [*inside])
    return sizes([*total.values()], "tokens"), findings


def targets(split: Split, tokenizer: Tokenizer, length: int) -> list[Finding]:
    """Of texts that are to be written: how many are longer than `length` tokens, and what of them is unknown."""
    rows = [row._replace(texts=json.loads(row.answer or '[""]')) for row in split.rows]
    found = tokens(split._replace(rows=rows), tokenizer, Layout([], [], "written", 1, length))[1]
    return [one._replace(check=f"target_{one.check}", message=f"the target: {one.message}") for one in found]


def _total(lengths: Sequence[int], layout: Layout, tokenizer: Tokenizer) -> int:
    """The tokens of the longest example of a row; of what is written only the end is special."""
    if layout.kind == "written":
        return max(lengths) + 1
    if layout.sides == 1 or len(lengths) == 1:
        return max(lengths) + len(tokenizer.template.single) - 1
    return lengths[0] + max(lengths[1:]) + len(tokenizer.template.pair) - 2


def _inside(span: tuple[int, int], places: np.ndarray, text: str) -> bool:
    """Whether a span begins or ends inside a piece, white space aside."""
    start, end = span
    begun, ended = (places[(places[:, 0] < edge) & (edge < places[:, 1])].tolist() for edge in span)
    return any(not text[a:start].isspace() for a, _ in begun) or any(not text[end:b].isspace() for _, b in ended)
