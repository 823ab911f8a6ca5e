"""The errors a person can put right, and the exit code each of them ends with.

A message says where, what was found and why it matters; `fix` is what to do about it. Anything that is not
a `UserError` is a bug of ours and ends with exit code 1 and how to report it.
"""

import importlib.util
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any

ANEW = "write it anew with this version: run the command that made it, or encoderkit import"
"""What to do about a directory of another version, or of none."""


class ExitCode(IntEnum):
    """What a script can rely on after a command has ended."""

    DONE = 0
    FAILED = 1  # our bug, or a run that diverged
    USAGE = 2  # a flag or a recipe
    DATA = 3  # the data, or an artefact made from it
    CHECK = 4  # a requested check did not hold
    RESOURCE = 5  # out of memory or disk
    MISSING = 6  # an optional dependency is not installed
    PREEMPTED = 75  # SIGTERM and its like: saved, run again to continue
    INTERRUPTED = 130  # Ctrl-C: saved, run again to continue


class UserError(ValueError):
    """Base of the errors that are shown as one or two lines, without a traceback.

    `where` is a place (`file`, `file:line`), `message` what was found there and why that cannot work, `fix` what to do: None
    where the message says it, or whoever catches it adds it.
    """

    exit_code = ExitCode.DATA

    def __init__(self, message: str, *, where: str | Path | None = None, fix: str | None) -> None:
        self.message, self.where, self.fix = message, where, fix
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is when another process raised it: its arguments are by name, of which pickle does not know."""
        return _again, (type(self), self.__dict__)

    def __str__(self) -> str:
        first = f"{self.where}: {self.message}" if self.where is not None else self.message
        return first if self.fix is None else f"{first}\n  fix: {self.fix}"


def _again(kind: type[UserError], parts: dict[str, Any]) -> UserError:
    error = kind.__new__(kind)
    error.__dict__.update(parts)
    ValueError.__init__(error, str(error))
    return error


class UsageError(UserError):
    """A flag or a recipe that cannot work."""

    exit_code = ExitCode.USAGE


class DataError(UserError):
    """Data, or a directory written by an earlier stage, that cannot be used."""

    exit_code = ExitCode.DATA


class PointerError(DataError):
    """A file that git-lfs has not yet fetched: nothing else is wrong with it."""


def refuse_pointer(start: bytes, where: str | Path) -> None:
    """Raise `PointerError` for a file whose first bytes say that it is no more than a pointer."""
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise PointerError("is a git-lfs pointer, not the file itself", where=where, fix="git lfs pull")


@contextmanager
def placed(where: str | Path | None) -> Iterator[None]:
    """Say of a `DataError` in the block that this is its place."""
    try:
        yield
    except DataError as error:
        raise DataError(error.message, where=where, fix=error.fix) from None


class CheckError(UserError):
    """A check that the user asked for (parity, quality) did not hold."""

    exit_code = ExitCode.CHECK


class ResourceError(UserError):
    """Memory or disk has run out, or a file cannot be written."""

    exit_code = ExitCode.RESOURCE


_FULL = re.compile(r"can't allocate memory|could not create a (primitive|memory object|memory)$|bad_?alloc", re.MULTILINE)
"""How torch, oneDNN and C++ say that the memory of the CPU is at its end."""
_GPU_FULL = re.compile(r"CU(BLAS|DNN)_STATUS_ALLOC_FAILED|CUDA error: out of memory")
"""How a GPU's libraries and driver say so, where it was not torch that asked (`OutOfMemoryError`)."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the CPU or (`OutOfMemoryError`, of torch) on a GPU."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "MemoryError" in kinds or gpu_is_full(error) or ("RuntimeError" in kinds and bool(_FULL.search(str(error))))


def gpu_is_full(error: BaseException) -> bool:
    """Whether it is the memory of a GPU that ran out."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "OutOfMemoryError" in kinds or ("RuntimeError" in kinds and bool(_GPU_FULL.search(str(error))))


class MissingDependency(UserError):
    """An optional package is needed; the message names the extra that brings it."""

    exit_code = ExitCode.MISSING


class DivergedError(UserError):
    """The loss or the gradient is no longer finite."""

    exit_code = ExitCode.FAILED

    def __init__(self, message: str) -> None:
        fix = "lower optimizer.lr, or lengthen schedule.warmup, in a new --out; in bf16, training.precision=fp32 may help"
        super().__init__(message, fix=fix)


def fault_of_one(error: BaseException) -> str | None:
    """Why one run of several comes to no end, where the others may: it diverged, or memory ran out. None: another fault."""
    if isinstance(error, DivergedError):
        return error.message
    return "memory ran out" if out_of_memory(error) else None


def need(package: str, said: str, extra: str, where: str | None = None) -> None:
    """Raise `MissingDependency` where the package of an extra is not installed; `said`: what needs it."""
    if importlib.util.find_spec(package) is None:
        message = f"{said} {package}, which is not installed"
        raise MissingDependency(message, where=where, fix=f"pip install 'encoderkit[{extra}]'")


class Interrupted(UserError):
    """The run was asked to stop by a signal and has saved; `exit_code` tells which."""

    def __init__(self, message: str, *, exit_code: ExitCode) -> None:
        self.exit_code = exit_code
        super().__init__(message, fix=None)


def shown(text: str, limit: int = 80) -> str:
    """User text as it may stand in a message: quoted, cut, without control or bidirectional characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return '"' + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut) + '"'


def listed(names: Sequence[str]) -> str:
    """Some of many names of the user's, as they may stand in a message."""
    return ", ".join(shown(name, 30)[1:-1] for name in names[:20]) + (", ..." if len(names) > 20 else "")
