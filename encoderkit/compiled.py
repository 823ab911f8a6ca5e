"""Loops over numbers and arrays that numba compiles, where it is installed (the extra `fast`)."""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled(function: Callable[..., Any], fastmath: bool = False) -> Callable[..., Any] | None:
    """`function` in machine code that does without Python's lock; None where there is no numba that can make it.

    It is made at the first call and kept on the disk. `fastmath`: sums may be added up in another order.
    """
    try:
        njit = importlib.import_module("numba").njit
        made = njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except Exception:  # it is not installed, or refuses this numpy or this disk, whatever it raises then
        return None

    def call(*given: Any) -> Any:
        nonlocal made
        try:
            return made(*given)
        except OSError:  # of the code that was made, which could not be kept; the code itself does nothing of the kind
            made = njit(nogil=True, fastmath=fastmath)(function)
            return made(*given)

    return call
