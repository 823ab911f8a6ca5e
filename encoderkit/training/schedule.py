"""The learning rate as a function of the update: no scheduler, no state."""

import math

from encoderkit.training.config import ScheduleConfig
from encoderkit.units import interval, span_updates


def updates_in(every: str, epoch: float) -> float:
    """How many updates an interval of updates or epochs is, where a pass over the data is `epoch` of them."""
    size, unit = interval(every)
    assert unit != "seconds"
    return size * (epoch if unit == "epochs" else 1)


def factor(schedule: ScheduleConfig, update: int, total: int) -> float:
    """The learning rate of update 0, 1, ... total - 1, as a share of the highest.

    It rises over the warm-up and reaches `floor` right after the last update.
    """
    warmup = span_updates(schedule.warmup, total)
    if update < warmup:
        return (update + 1) / (warmup + 1)
    if schedule.kind == "constant":
        return 1.0
    start = warmup if schedule.kind != "wsd" else max(warmup, total - span_updates(schedule.decay, total))
    if update < start:
        return 1.0
    done = (update - start) / max(1, total - start)
    fall = 1 - done if schedule.kind != "cosine" else (1 + math.cos(math.pi * done)) / 2
    return schedule.floor + (1 - schedule.floor) * fall
