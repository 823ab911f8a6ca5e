"""Loops over numbers and arrays that numba compiles, where it is installed (the extra `fast`)."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import RLock
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

    def first(*given: Any) -> Any:
        nonlocal made, run
        with _alone():
            try:
                found = made(*given)
            except OSError:  # of the code that was made, which could not be kept; the code itself does nothing of the kind
                made = njit(**settings)(function)
                found = made(*given)
        run = made
        return found

    run = first
    return lambda *given: run(*given)


_LOCK = RLock()


@contextmanager
def _alone() -> Iterator[None]:
    """Without what other packages have for numba, which it loads before it makes anything (awkward's takes a quarter of a
    second) and these loops have no use for; whoever has will find it loaded later."""
    with _LOCK:
        try:
            known: Any = importlib.import_module("numba.core.entrypoints")
            before, known._already_initialized = known._already_initialized, True
        except (ImportError, AttributeError):  # of another numba
            yield
            return
        try:
            yield
        finally:
            known._already_initialized = before
