"""What a row of a task says is right, and which rows training refuses. No torch here: `doctor` asks too."""

from collections.abc import Sequence
from typing import Any

from encoderkit.data.labelled import Row
from encoderkit.data.records import ONE_ROW
from encoderkit.errors import DataError, shown
from encoderkit.tasks.annotations import read_entities, read_tags
from encoderkit.tasks.answers import Answer, answers_of
from encoderkit.tasks.config import ChoiceConfig, ClassifyConfig, RegressConfig, RerankConfig, SimilarityConfig, SpanConfig
from encoderkit.tasks.token_config import TagConfig


def check(row: Row, config: Any) -> None:
    """Raise `DataError` for a row that cannot be trained on."""
    match config:
        case ClassifyConfig():
            labels_of(row, config)
            teacher(row, config)
        case SpanConfig():
            passage(row, config)
            answers(row, config)
        case ChoiceConfig():
            option(row, config)
        case RerankConfig():
            relevance(row, config)
        case RegressConfig():
            for column in config.targets:
                row.number(column)
        case SimilarityConfig() if config.label is not None:
            row.number(config.label)
        case TagConfig() if config.text is None:
            read_tags(row, config, plain=config.scheme == "plain")
        case TagConfig():
            read_entities(row, config.spans or "", row.text(config.text or ""))


def labels_of(row: Row, config: ClassifyConfig) -> list[str]:
    """The names of the labels of a row."""
    if isinstance(config.label, str):
        return row.labels(config.label) if config.several else [row.label(config.label)]
    marks = {column: row.label(column) for column in config.label}
    for column, mark in marks.items():
        if mark not in ("0", "1"):
            fix = ONE_ROW
            raise DataError(f"column {shown(column)} holds {shown(mark)}, and should hold 0 or 1", where=row.place, fix=fix)
    return [column for column, mark in marks.items() if mark == "1"]


def teacher(row: Row, config: ClassifyConfig) -> dict[str, float] | None:
    """The probabilities that a teacher gave the labels of a row; None where it was not asked."""
    return None if config.soft is None or row.values.get(config.soft) is None else row.scores(config.soft)


def untaught(rows: Sequence[Row], config: Any) -> list[Row]:
    """Held-out rows, whose labels alone count: without what a teacher says of them."""
    if not isinstance(config, ClassifyConfig) or config.soft is None:
        return [*rows]
    return [row._replace(values={name: v for name, v in row.values.items() if name != config.soft}) for row in rows]


def passage(row: Row, config: SpanConfig) -> list[str]:
    """The question and the passage; raises `DataError` for a passage without a character."""
    question, context = (row.text(column) for column in config.columns)
    if not context.strip():
        message = f"{shown(config.context)} is empty, and an answer is a part of it"
        raise DataError(message, where=row.place, fix="leave the row out")
    return [question, context]


def answers(row: Row, config: SpanConfig) -> list[Answer]:
    """All answers to a question; raises `DataError` where there is none and there must be one."""
    found = answers_of(row, config.answers)
    if not found and not config.unanswerable:
        message = f"{shown(config.answers)} is empty: the question has no answer"
        raise DataError(message, where=row.place, fix="task.unanswerable: true, if that may be; or leave the row out")
    return found


def options(row: Row, config: ChoiceConfig) -> list[str]:
    """The options of a question, of a column each without empty ones at the end; raises `DataError` for fewer than two."""
    listed = row.texts(config.options) if isinstance(config.options, str) else None
    found = listed if listed is not None else [row.text(column) for column in config.options]
    while listed is None and found and not found[-1].strip():
        found = found[:-1]
    if len(found) < 2:
        raise DataError(
            f"a question has two options or more, found {len(found)}", where=row.place, fix="give it another, or take the row out"
        )
    return found


def option(row: Row, config: ChoiceConfig) -> int:
    """The number of the right option, from 0, given as a number or a letter; raises `DataError` for what is none of them."""
    label, count = row.label(config.label), len(options(row, config))
    letter = len(label) == 1 and label.isascii() and label.isalpha()
    number = ord(label.upper()) - ord("A") if letter else int(label) - config.first if label.isdecimal() else -1
    if not 0 <= number < count:
        legal = f"{config.first} to {config.first + count - 1}, or A to {chr(ord('A') + count - 1)}"
        message = f"{shown(config.label)} should name one of the options ({legal}), found {shown(label)}"
        raise DataError(message, where=row.place, fix="correct the row; task.first says whether numbers begin with 0 or 1")
    return number


def relevance(row: Row, config: RerankConfig) -> float:
    """How relevant a candidate is; raises `DataError` below 0."""
    value = row.number(config.label)
    if value < 0:
        raise DataError(f"the relevance is 0 or more, found {value:g}", where=row.place, fix="correct the row")
    return value
