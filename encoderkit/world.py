"""Which process of a run this is. `torchrun` says so in the environment; without it there is one. No torch here."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def rank() -> int:
    """The number of this process; the first one, 0, alone writes and speaks."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


def size() -> int:
    """How many processes train together, on all machines."""
    value = os.environ.get("WORLD_SIZE", "1")
    return int(value) if value.isdecimal() else 1


def follow_parent() -> None:
    """Be sent SIGTERM, which saves and ends, when `torchrun` is gone: killed by -9 it ends none of its processes.

    Linux alone tells; elsewhere they must be ended by hand. Of other launchers nothing is assumed, as it is the end of the
    thread that started a process that counts.
    """
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def first() -> bool:
    """Whether this process writes and speaks."""
    return rank() == 0
