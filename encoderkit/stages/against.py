"""Two models on the same rows: whether they can be compared, and whether they differ by more than chance."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from encoderkit.console import table
from encoderkit.data.labelled import Row
from encoderkit.errors import UsageError
from encoderkit.metrics import difference, objects, paired_differences
from encoderkit.tasks.classify import Classify
from encoderkit.tasks.regress import Regress
from encoderkit.tasks.tag import Tag
from encoderkit.tasks.task import Observed, Queried, Resampled, Task


class Judged(NamedTuple):
    """A model's answers to labelled rows."""

    task: Task
    rows: list[Row]
    examples: Sequence[Any]
    observed: Observed
    gold: np.ndarray
    predicted: np.ndarray


def of_rival(task: Task, rival: Task, columns: Mapping[str, str], there: Collection[str]) -> Mapping[str, str]:
    """What the columns that the rival was trained with are called in the file, which has those that are `there`.

    As those of the model, by name; where the model has none of that name, as they are if the file has them, and else as those
    that are for the same.
    """
    mine, its = task.config.all_columns, rival.config.all_columns
    shared = [(name, name) for name in its if name in mine]
    others = zip([name for name in mine if name not in its], [name for name in its if name not in mine], strict=False)
    found = [(name, own) for name, own in (*shared, *others) if own in mine or own not in there]
    return {**{own: columns.get(name, name) for name, own in found}, **columns}


def check_alike(one: Task, other: Task) -> None:
    """Raise `UsageError` for models whose answers are not of one kind; labels may be in another order."""
    single = isinstance(one, Regress) and len(one.kinds) == len(other.kinds) == 1  # what its column is called says nothing
    first, second = ((type(task), () if single else {*task.kinds}, [*task.directions]) for task in (one, other))
    if first != second:
        fix = "compare models of one task and the same labels"
        raise UsageError("the two models have other tasks or other labels, so nothing of theirs can be compared", fix=fix)


def differences(one: Judged, other: Judged) -> dict[str, dict[str, float]]:
    """Each metric of the first model less that of the second on the same rows, with 95 % intervals and p values."""
    check_alike(one.task, other.task)
    if one.task.yardstick != other.task.yardstick:  # known for sure once both have read the rows
        told = " and the other by ".join(" ".join(task.yardstick) for task in (one.task, other.task))
        raise UsageError(f"one of the models is measured by {told}, and these figures cannot be compared", fix=None)
    return paired(one.task, one.gold, one.predicted, _as_numbered(one.task, other))


def _as_numbered(task: Task, other: Judged) -> np.ndarray:
    """The answers of the other model, where they are numbers of labels by those that the labels have in `task`."""
    if task.kinds == other.task.kinds or not isinstance(task, Classify | Regress | Tag) or len(task.kinds) < 2:
        return other.predicted
    numbers = np.array([task.kinds.index(kind) for kind in other.task.kinds])
    if isinstance(task, Tag):  # entities are by name
        return objects([numbers[tags] for tags in other.predicted]) if task.scheme == "plain" else other.predicted
    return numbers[other.predicted] if other.predicted.ndim == 1 else other.predicted[:, numbers.argsort()]


def paired(task: Task, gold: np.ndarray, one: np.ndarray, other: np.ndarray) -> dict[str, dict[str, float]]:
    """See `differences`; of answers."""
    if isinstance(task, Queried):  # queries are independent, not their rows
        first, second = task.each(gold, one), task.each(gold, other)
        if not all(map(len, first.values())):  # no query has anything that is relevant
            return {}
        mine, theirs = (np.stack([*each.values()], axis=1) for each in (first, second))
        found = paired_differences(lambda _, drawn: dict(zip(first, drawn.mean(0).tolist(), strict=True)), mine, mine, theirs)
    elif isinstance(task, Resampled):
        drawn, against = (task.resampled(gold, predicted) for predicted in (one, other))
        score, of_other = task.score(gold, one), task.score(gold, other)
        found = {name: difference(score[name] - of_other[name], drawn[name] - against[name]) for name in score}
    else:
        found = paired_differences(task.score, gold, one, other)
    return {name: difference._asdict() for name, difference in found.items()}


def describe_against(against: dict[str, Any]) -> str:
    """How two models differ, as a table for a person."""
    rows = [["", f"less that of {against['model']}", "95 % interval", "p"]]
    for name, found in against["differences"].items():
        rows.append([name, f"{found['value']:+.4f}", f"{found['low']:+.4f} - {found['high']:+.4f}", f"{found['p']:.3f}"])
    return table(rows)
