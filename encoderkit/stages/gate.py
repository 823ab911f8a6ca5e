"""How good a model must at least be (`evaluate --min`, `--max`): for scripts, which go by the exit code."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from encoderkit.errors import CheckError, UsageError, shown

CUT = "truncated"
"""Not a metric: the share of the rows that were cut."""


class Bound(NamedTuple):
    """What a figure must not pass."""

    flag: str
    name: str
    value: float

    def holds(self, found: float) -> bool:
        """Whether a figure is within it; one that is no number is not."""
        return found >= self.value if self.flag == "--min" else found <= self.value


def bounds(least: Sequence[str], most: Sequence[str]) -> list[Bound]:
    """Read NAME=VALUE of both flags; raises `UsageError` for what is none."""
    return [_bound(flag, text) for flag, given in (("--min", least), ("--max", most)) for text in given]


def _bound(flag: str, text: str) -> Bound:
    name, _, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not math.isfinite(number):
        example = "accuracy=0.85" if flag == "--min" else "loss=0.5"
        raise UsageError(f"is a metric and a number, found {shown(text)}", where=flag, fix=f"{flag} {example}")
    return Bound(flag, name, number)


def check_names(asked: Sequence[Bound], metrics: Collection[str], rows: bool) -> None:
    """Raise `UsageError` for a metric that the model does not have; of labelled `rows` there is the share that was cut too."""
    known = [*metrics, *([CUT] if rows else [])]
    for bound in asked:
        if bound.name not in known:
            message = f"{shown(bound.name)} is not measured here; there are {', '.join(known)}"
            raise UsageError(message, where=bound.flag, fix=f"{bound.flag} {known[0]}={bound.value:g}")


def hold(asked: Sequence[Bound], result: Mapping[str, Any]) -> None:
    """Raise `CheckError` where the result of `evaluate` is not within all bounds."""
    figures = dict(result["metrics"])
    if isinstance(cut := result.get(CUT), dict):
        figures[CUT] = cut["rows"] / max(result["rows"], 1)
    missed = [
        f"{bound.name} is {figures[bound.name]:.4g}, {'less' if bound.flag == '--min' else 'more'} than {bound.value:g}"
        for bound in asked
        if not bound.holds(figures[bound.name])
    ]
    if missed:
        raise CheckError("; ".join(missed), where=result["model"], fix=None)
