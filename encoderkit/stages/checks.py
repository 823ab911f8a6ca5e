"""What may be wrong with labelled rows: each check gives what it finds, with the lines, and changes nothing."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from encoderkit.data.conll import joined
from encoderkit.data.duplicates import copies, plain
from encoderkit.data.found import Found
from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, shown
from encoderkit.tasks import truth
from encoderkit.tasks.annotations import read_entities
from encoderkit.tasks.answers import answers_of, locate
from encoderkit.tasks.token_config import TagConfig
from encoderkit.text import variants

RARE = 5
"""Rows with a label, in the first file, below which it can hardly be learnt, and not at all be measured."""


class Layout(NamedTuple):
    """What the columns are."""

    texts: list[str]
    labels: list[str]
    kind: str
    """Of the task; any: it is not known."""
    sides: int
    """How many texts share the places of one example."""
    length: int | None
    """The most tokens of an example."""
    task: Any = None
    """The task's config, if it is known."""

    @property
    def tokens(self) -> bool:
        """Whether the text is one of tokens: a list of them, or with spaces between."""
        return isinstance(self.task, TagConfig) and self.task.text is None


class Finding(NamedTuple):
    """Something that may be wrong."""

    check: str
    file: str
    rows: int
    """With it."""
    message: str
    """What it is, and how many rows have it."""
    lines: list[int]
    others: list[str]
    """For each of the lines, the row that it is like, if that is what is wrong."""


class Read(NamedTuple):
    """A row that training could use."""

    line: int
    place: str
    texts: list[str]
    answer: str | None
    """What the label columns hold, as one text; None where there are none."""
    labels: list[str]
    spans: list[tuple[int, int]]
    """Of entities by characters of the first text, of answers by those of the last."""


class Split(NamedTuple):
    """A file."""

    found: Found
    rows: list[Read]
    refused: list[tuple[int, str]]
    """Lines that training would refuse, and why."""

    def finding(self, check: str, message: str, lines: Sequence[int], others: Sequence[str] = ()) -> Iterator[Finding]:
        """One, if there are any lines."""
        if lines:
            yield Finding(check, self.found.name, len(lines), message, list(lines), list(others))


def look(found: Found, layout: Layout) -> Split:
    """The rows of a file, those that training would refuse set apart."""
    split = Split(found, [], list(found.refused))
    for row in found.rows:
        try:
            truth.check(row, layout.task)
            texts, places = _texts(row, layout)
            split.rows.append(Read(row.line, row.place, texts, *_answer(row, layout, texts, places)))
        except DataError as error:
            split.refused.append((row.line, error.message))
    split.refused.sort()
    return split


def rows_have(count: int) -> str:
    """How the message of a finding begins."""
    return f"{count:,} row{'s have' if count != 1 else ' has'}"


def _texts(row: Row, layout: Layout) -> tuple[list[str], np.ndarray | None]:
    """The texts of a row; of tokens the text that they make, and the places of the tokens in it."""
    texts: list[str] = []
    places = None
    for column in layout.texts:
        if isinstance(row.values.get(column), list) and layout.kind == "choice":
            texts += row.texts(column)
        elif layout.tokens:
            text, places = joined(row.words(column))
            texts.append(text)
        elif not isinstance(row.values.get(column), list) or layout.kind not in ("any", "tag"):
            texts.append(row.text(column))
        else:
            text, places = joined(row.texts(column))
            texts.append(text)
    return texts, places


def _answer(
    row: Row, layout: Layout, texts: Sequence[str], places: np.ndarray | None
) -> tuple[str | None, list[str], list[tuple[int, int]]]:
    """What is right as one text, the labels in it, and the spans of entities by characters."""
    given = {name: row.values[name] for name in layout.labels if name in row.values}
    if len(given) < len(layout.labels):
        missing = next(name for name in layout.labels if name not in given)
        raise DataError(f"there is no {shown(missing)}", where=row.place, fix="name the column in the recipe: task.label")
    labels: list[str] = []
    spans: list[tuple[int, int]] = []
    if layout.kind in ("span", "generate"):
        for name in given:
            if layout.kind == "generate":
                row.text(name)
                continue
            for answer in answers_of(row, name):
                if place := locate(answer, texts[-1]):
                    spans.append((place.start, place.start + len(answer.text)))
        return json.dumps([*given.values()], ensure_ascii=False, default=str), [], spans
    for name, value in given.items():
        if places is not None and (isinstance(value, list) or layout.tokens):
            tags = row.words(name) if layout.tokens else row.texts(name)
            if len(tags) != len(places):
                raise DataError(
                    f"{shown(name)} has {len(tags)} entries and there are {len(places)} tokens",
                    where=row.place,
                    fix="correct the row, or take it out",
                )
            labels += sorted({tag.partition("-")[2] or tag for tag in tags})
            spans += [(int(start), int(end)) for start, end in places]
        elif layout.kind in ("any", "tag") and _spans(value):
            entities = read_entities(row, name, texts[0])
            labels += [one.label for one in entities]
            spans += [(one.start, one.end) for one in entities]
        elif isinstance(value, list):
            labels += sorted(row.labels(name))
        elif len(layout.labels) > 1 and layout.kind in ("any", "classify"):
            label = row.label(name)  # of a column for each label, 0 and 1; without a recipe it may be anything
            labels += [name] if label == "1" else [] if label == "0" or layout.kind == "classify" else [f"{name}: {label}"]
        else:
            labels.append(row.label(name))
    answer = json.dumps([*given.values()] if spans else labels, ensure_ascii=False)
    return answer if given else None, labels, spans


def _spans(value: object) -> bool:
    """Whether these are entities, and no labels."""
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(part, list | dict) for part in value))


def wordless(row: Read, layout: Layout) -> bool:
    """Whether a text is to be written, and it is empty."""
    return layout.kind == "generate" and not "".join(json.loads(row.answer or "[]")).strip()


def _quoted(split: Split, layout: Layout) -> Iterator[Finding]:
    """Fields of .tsv in quotes, as a program wrote them that takes it for .csv with tabs."""
    if split.found.source.format == "tsv":
        texts = [(row.line, [str(row.values.get(name, "")) for name in layout.texts]) for row in split.found.rows]
        lines = [line for line, own in texts if any(len(t) > 1 and t[0] == t[-1] == '"' for t in own)]
        message = f"{rows_have(len(lines))} a text in quotes, which .tsv has for no other reason than that they are of the text"
        yield from split.finding("quotes", message, lines)


def unanswered(row: Row, layout: Layout) -> bool:
    """Whether a question has answers, and none of them stands in its passage."""
    if layout.kind != "span":
        return False
    answers, context = answers_of(row, layout.labels[0]), row.text(layout.texts[1])
    return bool(answers) and all(locate(answer, context) is None for answer in answers)


def alone(split: Split, layout: Layout) -> Iterator[Finding]:
    """What is wrong with a file by itself."""
    found, rows = split.found, split.rows
    if found.encoding not in ("UTF-8", ""):
        yield Finding("encoding", found.name, len(rows), f"is {found.encoding}, and other programs expect UTF-8", [], [])
    yield from split.finding("bytes", f"{rows_have(len(found.broken))} bytes that are no {found.encoding}", found.broken)
    if split.refused:
        lines, why = zip(*split.refused, strict=True)
        yield from split.finding(
            "refused", f"{rows_have(len(lines))} something that training refuses; the first: {why[0]}", lines
        )
    empty = [row.line for row in rows if any(not text or text.isspace() for text in row.texts)]
    yield from split.finding("empty", f"{rows_have(len(empty))} an empty text", empty)
    blank = [row.line for row in rows if wordless(row, layout)]
    yield from split.finding("empty_target", f"{rows_have(len(blank))} an empty target", blank)
    yield from _repeated(split, layout)
    yield from _quoted(split, layout)
    odd = [(row.line, {c for text in row.texts for c in _odd(text)}) for row in rows]
    counts = Counter(character for _, own in odd for character in own)
    listed = ", ".join(f"U+{ord(c):04X}" for c, _ in counts.most_common(8))
    lines = [line for line, own in odd if own]
    message = f"{rows_have(len(lines))} characters that are no text (control, private use, no width, replacement): {listed}"
    yield from split.finding("characters", message, lines)
    if layout.kind == "span":
        yield from _answers(split, layout)
    if layout.kind in ("any", "tag"):
        crossed = [row.line for row in rows if any(a[1] > b[0] for a, b in pairwise(sorted(row.spans)))]
        message = f"{rows_have(len(crossed))} entities that overlap, of which a model can give the longest alone"
        yield from split.finding("overlapping", message, crossed)
    yield from _written(split)


def _answers(split: Split, layout: Layout) -> Iterator[Finding]:
    """Answers that do not stand in their passage, or elsewhere in it than the row says."""
    absent, moved, used = [], [], {row.line for row in split.rows}
    for row in (row for row in split.found.rows if row.line in used):
        places = [locate(answer, row.text(layout.texts[1])) for answer in answers_of(row, layout.labels[0])]
        if None in places:
            absent.append(row.line)
        elif any(place and place.how == "moved" for place in places):
            moved.append(row.line)
    message = f"{rows_have(len(absent))} an answer that does not stand in the passage"
    yield from split.finding("answer_absent", message, absent)
    message = f"{rows_have(len(moved))} an answer that stands elsewhere in the passage than answer_start says"
    yield from split.finding("answer_moved", message, moved)


def _repeated(split: Split, layout: Layout) -> Iterator[Finding]:
    """Rows that stand twice, and texts that have several labels."""
    first: dict[tuple[str, str | None], int] = {}
    # What is right is not known where no column of labels is: then rows are equal that are so in all columns.
    unlabelled = layout.kind == "any" and not layout.labels
    all_of = {row.line: json.dumps(row.values, default=str) for row in split.found.rows} if unlabelled else {}
    answers: dict[str, tuple[str | None, int]] = {}
    twice, unlike = [], []
    for row in split.rows:
        text = plain(row.texts)
        if not text.strip("\x1f "):
            continue
        before = first.setdefault(("\x1f".join(row.texts), all_of.get(row.line, row.answer)), row.line)
        if before != row.line:
            twice.append((row.line, before))
        other, line = answers.setdefault(text, (row.answer, row.line))
        if other != row.answer:
            unlike.append((row.line, line))
    name = split.found.name
    message = f"{rows_have(len(twice))} stood in the file before, to the letter"
    yield from split.finding("duplicate", message, [a for a, _ in twice], [f"{name}:{b}" for _, b in twice])
    if layout.kind not in ("generate", "choice", "span"):
        message = f"{rows_have(len(unlike))} the text of an earlier row, but for case and spaces, and another label"
        yield from split.finding("conflict", message, [a for a, _ in unlike], [f"{name}:{b}" for _, b in unlike])


def _odd(text: str) -> set[str]:
    """Characters that stand for nothing, or for what was lost: U+FFFD, controls, private use, zero width."""
    if text.isascii() and text.isprintable():
        return set()
    return {c for c in set(text) - set("\t\n\r") if c in "\ufffd\u200b\ufeff" or unicodedata.category(c) in ("Cc", "Co", "Cn")}


def _written(split: Split) -> Iterator[Finding]:
    """What is written in two ways."""
    whole = [(row.line, "\n".join(row.texts)) for row in split.rows]
    wide = [line for line, text in whole if variants.wide(text)]
    if any(variants.narrow(text) for _, text in whole):
        message = f"{rows_have(len(wide))} full-width letters or digits (Ａ１), where others have half-width ones (A1)"
        yield from split.finding("width", message, wide)
    marks = [line for line, text in whole if variants.mixed_marks(text)]
    yield from split.finding("marks", f"{rows_have(len(marks))} the same mark in full and in half width (，,)", marks)
    scripts = [(line, variants.script(text)) for line, text in whole]
    lines = {kind: [line for line, own in scripts if own == kind] for kind in ("simplified", "traditional", "both")}
    fewer = min(("simplified", "traditional"), key=lambda kind: len(lines[kind]))
    counts = ", ".join(f"{len(own):,} {kind}" for kind, own in lines.items())
    yield from split.finding("script", f"Chinese in two scripts, by rows: {counts}", sorted(lines["both"] + lines[fewer]))


def classes(splits: Sequence[Split], kind: str) -> Iterator[Finding]:
    """Labels that are rare in the first file or alone there, and labels of others that it does not have.

    Numbers such as 2.5 are no labels. `kind`: of the task, or any.
    """
    first, known = splits[0], _by_label(splits[0])
    if any(re.fullmatch(r"-?\d*\.\d+", label) for label in known):
        return
    lines = [row.line for row in first.rows]
    if kind == "tag" and not known.keys() - {"O"}:
        yield from first.finding("no_entity", "no row has an entity: there is nothing to learn", lines)
    elif len(known) == 1 and all(len(row.labels) == 1 for row in first.rows):
        message = f"all {len(lines):,} rows have the label {shown(next(iter(known)))}: there is nothing to learn"
        yield from first.finding("one_label", message, lines)
    alike: dict[str, list[str]] = defaultdict(list)
    for label in sorted(known):
        alike[plain([label])].append(label)
    for group in (group for group in alike.values() if len(group) > 1):
        names, lines = ", ".join(map(shown, group)), sorted(known[min(group, key=lambda label: len(known[label]))])
        yield from first.finding("cased_label", f"the labels {names} differ in case and spaces alone", lines)
    for label, lines in sorted(known.items(), key=lambda item: (len(item[1]), item[0])):
        if len(lines) < RARE:
            yield from first.finding("rare_label", f"{rows_have(len(lines))} the label {shown(label)}", lines)
    for other in splits[1:]:
        for label, lines in sorted(_by_label(other).items()):
            if label not in known:
                message = f"{rows_have(len(lines))} the label {shown(label)}, which {first.found.name} does not have"
                yield from other.finding("unseen_label", message, lines)


def _by_label(split: Split) -> dict[str, list[int]]:
    lines: dict[str, list[int]] = defaultdict(list)
    for row in split.rows:
        for label in row.labels:
            lines[label].append(row.line)
    return lines


def overlap(known: Split, asked: Split, sides: int | None = None) -> Iterator[Finding]:
    """Rows of one file that stand in another too, by the first `sides` of their texts, or all of them."""
    shared = copies([row.texts[:sides] for row in known.rows], [row.texts[:sides] for row in asked.rows])
    for check, which, how in (
        ("overlap", shared.exact, "but for case and spaces"),
        ("near_overlap", (shared.of >= 0) & ~shared.exact, "nearly"),
    ):
        pairs = [(asked.rows[i], known.rows[int(shared.of[i])]) for i in np.flatnonzero(which)]
        unlike = sum(a.answer != b.answer for a, b in pairs)
        message = f"{rows_have(len(pairs))} a text that is also in {known.found.name}, {how}"
        message += f"; {unlike:,} of them with another label" * bool(unlike)
        yield from asked.finding(check, message, [a.line for a, _ in pairs], [b.place for _, b in pairs])
