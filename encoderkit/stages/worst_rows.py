"""`encoderkit evaluate --errors`: every row with what was right and what was said, the worst first, and what it was learnt from.

Wrong labels stand at the top: a model that has learnt the others disagrees with them most (Northcutt et al. 2021).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoderkit import files
from encoderkit.data.labelled import Row
from encoderkit.tasks.baselines import most_alike
from encoderkit.tasks.config import ClassifyConfig
from encoderkit.tasks.schemes import entities, tags
from encoderkit.tasks.tag import Tag
from encoderkit.tasks.task import Observed, Task

_GIVEN = ("id", "text", "text_pair", "options", "tokens")
"""What a prediction repeats of its row, before what is predicted."""


def write(
    out: Path,
    task: Task,
    rows: Sequence[Row],
    examples: Sequence[Any],
    observed: Observed,
    near: Sequence[dict[str, Any] | None] | None,
    overwrite: bool = False,
) -> None:
    """Write a line of JSON for each row to `out`, those with the greatest loss first; raises `UsageError` if it exists.

    `near`: the training row that each is most like (`nearest`); None: not known.
    """
    bad, entries = task.losses(examples, observed), [*task.predictions(rows, examples, observed, None)]
    near = near or [None] * len(rows)
    with files.staged_file(out, overwrite) as target:
        for i in np.argsort(-bad, kind="stable").tolist():
            line = _entry(task, rows[i], float(bad[i]), entries[i], near[i])
            target.write(json.dumps(line, ensure_ascii=False) + "\n")


def _entry(task: Task, row: Row, loss: float, prediction: dict[str, Any], near: dict[str, Any] | None) -> dict[str, Any]:
    texts = {name: prediction.pop(name) for name in _GIVEN if name in prediction}
    first, *others = prediction
    return {
        "loss": float(f"{loss:.6g}"),
        "gold": _gold(task, row),
        "predicted": prediction[first],
        **texts,
        **{name: prediction[name] for name in others},
        "file": row.source,
        "line": row.line,
        "nearest": near,
    }


def _gold(task: Task, row: Row) -> Any:
    """What is right, as the file has it; a label as the model names it, tags in the scheme of the model."""
    names = [name for name in task.config.all_columns if name not in task.config.columns and name in row.values]
    labels = isinstance(task.config, ClassifyConfig) and isinstance(task.config.label, str)
    values = {name: row.label(name) if labels and not isinstance(row.values[name], list) else row.values[name] for name in names}
    if isinstance(task, Tag) and task.scheme != "plain" and (column := task.config.tags) is not None:
        own = row.words(column)
        values[column] = tags(entities(own), len(own), task.scheme)
    return next(iter(values.values())) if len(values) == 1 else values


def nearest(
    task: Task, rows: Sequence[Row], train: Sequence[Row], known: Sequence[Sequence[str]]
) -> list[dict[str, Any] | None]:  # fmt: skip
    """For each row the row of `train`, whose texts are `known`, that is most like it; None where no word is shared."""
    number, cosine = most_alike(known, [task.texts(row) for row in rows])
    return [
        None
        if i < 0
        else {
            "texts": known[i],
            "gold": _gold(task, train[i]),
            "file": train[i].source,
            "line": train[i].line,
            "cosine": float(f"{likeness:.4g}"),
        }
        for i, likeness in zip(number.tolist(), cosine.tolist(), strict=True)
    ]
