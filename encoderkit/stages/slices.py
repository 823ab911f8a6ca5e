"""Where a model is good and where it is not: its main metric on parts of the rows, by length, label, cuts and unknown tokens.

A query whose candidates stand in several rows is in one part as a whole, by the mean of its rows.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from encoderkit.console import table
from encoderkit.tasks.task import Kinds, Queried, Task
from encoderkit.tasks.texts import Tokens

_MOST = 20  # labels that are shown to a person; --json has all
_NAMES = ("accuracy", "micro_f1")
"""What is measured where a task has it, before what it is monitored by: macro averages say little of a part."""


def metric_of(task: Task, names: Sequence[str]) -> str:
    """The metric of the slices, one of `names`, those of `score`."""
    return next(name for name in (*_NAMES, task.monitor, *names) if name in names and (name != "accuracy" or _exclusive(task)))


def _exclusive(task: Task) -> bool:
    return not getattr(task.config, "several", False)


def slices(task: Task, gold: np.ndarray, predicted: np.ndarray, sequences: Sequence[Sequence[Tokens]]) -> dict[str, Any]:
    """For each way to part the rows the parts: name, rows, the metric and its interval. What parts nothing is left out.

    `sequences`: for each row, what the encoder reads of it.
    """
    name = metric_of(task, list(task.score(gold, predicted)))
    found: dict[str, Any] = {"metric": name}
    for kind, parts in _parted(task, gold, sequences):
        there = [(title, rows) for title, rows in parts if len(rows)]
        if len(there) > 1:
            found[kind] = [
                {
                    "slice": title,
                    "rows": len(rows),
                    name: task.score(gold[rows], predicted[rows])[name],
                    "interval": task.intervals(gold[rows], predicted[rows]).get(name),
                }
                for title, rows in there
            ]
    return found


def _parted(
    task: Task, gold: np.ndarray, sequences: Sequence[Sequence[Tokens]]
) -> Iterator[tuple[str, list[tuple[str, np.ndarray]]]]:
    """The ways to part rows, and of each the names of the parts and the numbers of their rows."""

    def measure(of: Any) -> np.ndarray:
        values = np.array([sum(of(part) for part in row) for row in sequences], float)
        if not isinstance(task, Queried):
            return values
        _, query = np.unique(task.queries(gold), return_inverse=True)
        return (np.bincount(query, values) / np.bincount(query))[query]

    unknown = measure(lambda part: int((part.ids == task.vocabulary.unknown).sum()))
    cut, kept = measure(lambda part: part.cut), measure(lambda part: len(part.ids) - part.special)
    size, share = kept + cut - measure(lambda part: part.shared), unknown / np.maximum(kept, 1)
    highest = max(3, int(np.ceil(np.log2(max(size.max(), 1)))))
    ends = [0, *(2**i for i in range(3, highest + 1))]
    yield (
        "length",
        [(f"{low + 1 if low else 0}-{high} tokens", np.flatnonzero((size <= high) & ((size > low) | (low == 0))))
         for low, high in pairwise(ends)],
    )  # fmt: skip
    if gold.dtype.kind in "iub" and task.labels:
        own = gold > 0 if gold.ndim == 2 else gold[:, None] == np.arange(len(task.labels))
        yield "label", [(label, np.flatnonzero(own[:, i])) for i, label in enumerate(task.labels)]
    elif isinstance(task, Kinds):
        held = [task.kinds_of(one) for one in gold]
        names = list(dict.fromkeys(name for kinds in held for name in kinds))
        yield "label", [(name, np.flatnonzero([name in kinds for kinds in held])) for name in sorted(names)]
    yield "truncation", [("whole", np.flatnonzero(cut == 0)), ("cut", np.flatnonzero(cut > 0))]
    few = (share > 0) & (share <= 0.05)
    parts = [("none", share == 0), ("up to 5 % of the tokens", few), ("more", share > 0.05)]
    yield "unknown", [(title, np.flatnonzero(which)) for title, which in parts]


def describe(found: dict[str, Any]) -> str:
    """The slices as a table for a person; of many labels the worst."""
    name = found["metric"]
    rows = [["slice", "rows", name, "95 % interval"]]
    for kind, parts in found.items():
        if kind == "metric":
            continue
        shown = parts if len(parts) <= _MOST else sorted(parts, key=lambda part: part[name])[:_MOST]
        for part in shown:
            ends = part["interval"]
            interval = f"{ends[0]:.4f} - {ends[1]:.4f}" if ends else ""
            rows.append([f"{kind}: {part['slice']}", f"{part['rows']:,}", f"{part[name]:.4f}", interval])
    return table(rows) if len(rows) > 1 else ""
