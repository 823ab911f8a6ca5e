"""Which process of a run this is. `torchrun` says so in the environment; without it there is one. No torch here."""

import os


def rank() -> int:
    """The number of this process; the first one, 0, alone writes and speaks."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def size() -> int:
    """How many processes train together, on all machines."""
    value = os.environ.get("WORLD_SIZE", "1")
    return int(value) if value.isdecimal() else 1


def first() -> bool:
    """Whether this process writes and speaks."""
    return rank() == 0
