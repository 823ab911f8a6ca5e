"""Numbers as people write them in recipes: `30m`, `5%`, `50M`, `20 updates`."""

import math
import re
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DECIMAL = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_COUNTS = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}


def _number(value: object, pattern: str, form: str) -> re.Match[str]:
    match = re.fullmatch(pattern, str(value).strip())
    if match is None:
        raise ValueError(f"should be {form}")
    return match


def _seconds(value: object) -> float:
    match = _number(value, rf"({_DECIMAL})\s*([smhd])?", "a duration such as 90s, 30m or 6h")
    seconds = float(match[1]) * _SECONDS[match[2] or "s"]
    if not seconds > 0:
        raise ValueError("should be more than nothing")
    return seconds


def _count(value: object) -> int:
    match = _number(value, r"([0-9][0-9_]*\.?[0-9]*(?:e[0-9]+)?)\s*([kMB]?)", "a whole number such as 2000, 10k, 50M")
    number = float(match[1].replace("_", "")) * _COUNTS[match[2]]
    if not math.isfinite(number) or number != int(number):
        raise ValueError("should be a whole number")
    return int(number)


def _share(value: object) -> float:
    text = str(value).strip()
    match = _number(text.removesuffix("%"), rf"{_DECIMAL}(e-?[0-9]+)?", "a share such as 5% or 0.05")
    share = float(match[0]) / (100 if text.endswith("%") else 1)
    if not 0 <= share <= 1:
        raise ValueError("should be a share between 0 and 1, or a percentage")
    return share


Seconds = Annotated[float, BeforeValidator(_seconds, json_schema_input_type=float | str)]
"""A duration: `90s`, `30m`, `6h`, `2d`, or seconds."""

Count = Annotated[int, BeforeValidator(_count, json_schema_input_type=int | str)]
"""A whole number: `2000`, `10k`, `50M`, `2B`."""

Share = Annotated[float, BeforeValidator(_share, json_schema_input_type=float | str)]
"""A share: `5%` or `0.05`."""


class Interval(NamedTuple):
    """How often something is done: `size` of `unit`."""

    size: float
    unit: Literal["updates", "epochs", "seconds"]


def interval(text: str) -> Interval:
    """Read `20 updates`, `1 epoch`, `5m`; raises ValueError for anything else."""
    match = _number(text, rf"({_DECIMAL})\s*(updates?|epochs?|[smhd])", "an interval such as '20 updates', '1 epoch' or 5m")
    size, unit = float(match[1]), match[2]
    if not size > 0:
        raise ValueError("should be more than nothing")
    if unit in _SECONDS:
        return Interval(size * _SECONDS[unit], "seconds")
    return Interval(size, "updates" if unit.startswith("update") else "epochs")


def _check_interval(text: str) -> str:
    interval(text)
    return text


Every = Annotated[str, BeforeValidator(str), AfterValidator(_check_interval)]
"""An interval: `20 updates`, `1 epoch`, `5m`."""


def _check_span(value: object) -> str | int:
    return f"{_share(value) * 100:g}%" if str(value).strip().endswith("%") else _count(value)


Span = Annotated[str | int, BeforeValidator(_check_span, json_schema_input_type=int | str)]
"""A part of the run: a share of it (`5%`) or a number of updates."""


def _check_overlap(value: object) -> str | int:
    if isinstance(value, int) or str(value).strip().isdecimal():
        size = int(str(value))
        if isinstance(value, bool) or size < 0:
            raise ValueError("should be a number of tokens such as 32, or a share of a window such as 25%")
        return size
    share = _share(value)
    if share == 1:
        raise ValueError("should be less than a window")
    return f"{share * 100:g}%"


Overlap = Annotated[str | int, BeforeValidator(_check_overlap, json_schema_input_type=int | float | str)]
"""What neighbouring windows of a long text share: a number of tokens (`32`; the stride of other libraries) or a share of the
window (`25%`)."""


def overlap_tokens(overlap: str | int, room: int) -> int:
    """The number of tokens that `overlap` stands for in windows of `room` tokens."""
    return int(_share(overlap) * room) if isinstance(overlap, str) else overlap


def span_updates(span: str | int, total: int) -> int:
    """The number of updates that `span` stands for in a run of `total` updates."""
    return round(_share(span) * total) if isinstance(span, str) else min(span, total)
