"""Loops over numbers and arrays that numba compiles, where it is installed (the extra `fast`)."""

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any


@cache
def compiled(function: Callable[..., Any], fastmath: bool = False) -> Callable[..., Any] | None:
    """`function` in machine code that does without Python's lock; None where there is no numba that can make it.

    It is made at the first call and kept on the disk. `fastmath`: sums may be added up in another order; what is no number
    stays none. Division by zero gives infinity, as numpy's: a loop that looks out for it cannot be vectorised.
    """
    settings = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "reassoc", "nsz", "arcp"} if fastmath else False}
    try:
        njit = importlib.import_module("numba").njit
        made = njit(cache=True, **settings)(function)
    except Exception:  # it is not installed, or refuses this numpy or this disk, whatever it raises then
        return None

    def call(*given: Any) -> Any:
        nonlocal made
        try:
            return made(*given)
        except OSError:  # of the code that was made, which could not be kept; the code itself does nothing of the kind
            made = njit(**settings)(function)
            return made(*given)

    return call
