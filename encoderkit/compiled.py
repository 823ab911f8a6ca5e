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
        return importlib.import_module("numba").njit(nogil=True, cache=True, fastmath=fastmath)(function)
    except Exception:  # it is not installed, or refuses this numpy or this disk, whatever it raises then
        return None
