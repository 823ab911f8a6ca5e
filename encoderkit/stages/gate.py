"""How good a model must at least be (`evaluate --min`, `--max`): for scripts, which go by the exit code."""

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from encoderkit.errors import CheckError, UsageError, shown

CUT = "truncated"
"""Not a metric: the share of the rows that were cut."""
_MORE = re.compile(r"perplexity|\w+_of_\d+|(macro|micro)_(precision|recall|f1)|equal")
"""Metrics beside those by which a model can be chosen."""


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


def check_names(asked: Sequence[Bound], metrics: Collection[str]) -> None:
    """Raise `UsageError`, before anything is computed, for a metric that the model cannot have."""
    for bound in asked:
        if bound.name not in (CUT, *metrics) and not _MORE.fullmatch(bound.name):
            raise _unknown(bound, metrics)


def _unknown(bound: Bound, known: Collection[str]) -> UsageError:
    near = difflib.get_close_matches(bound.name, known, 1)
    message = f"{shown(bound.name)} is not measured here; there are {', '.join([*(name for name in known if name != CUT), CUT])}"
    return UsageError(message, where=bound.flag, fix=f"{bound.flag} {near[0]}={bound.value:g}" if near else None)


def hold(asked: Sequence[Bound], result: Mapping[str, Any]) -> None:
    """Raise `CheckError` where the result of `evaluate` is not within all bounds, `UsageError` where it has no such figure."""
    figures = {name: value for name, value in result["metrics"].items() if isinstance(value, float)}
    if isinstance(cut := result.get(CUT), dict):
        figures[CUT] = cut["rows"] / max(result["rows"], 1)
    if missing := next((bound for bound in asked if bound.name not in figures), None):
        raise _unknown(missing, figures)
    missed = [
        f"{bound.name} is {figures[bound.name]:.10g}, {'less' if bound.flag == '--min' else 'more'} than {bound.value:.10g}"
        for bound in asked
        if not bound.holds(figures[bound.name])
    ]
    if missed:
        raise CheckError("; ".join(missed), where=result["model"], fix=None)
