"""The boundary to the Rust and C++ libraries: what goes wrong there becomes a `DataError`, never a crash."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from encoderkit.errors import DataError, UserError


@contextmanager
def panics_explained(doing: str, where: str | Path | None = None) -> Iterator[None]:
    """Turn the failures of the tokenizers and sentencepiece libraries in the block into `DataError`.

    A Rust panic is a `BaseException` with no class that can be imported; the libraries' other failures are bare
    `Exception`s, so this is the one place that catches both.
    """
    try:
        yield
    except (UserError, MemoryError, OSError):
        raise
    except BaseException as error:
        if type(error) is not Exception and type(error).__name__ not in ("PanicException", "RuntimeError"):
            raise
        if "KeyboardInterrupt" in str(error):  # Ctrl-C while the library was calling back into Python
            raise KeyboardInterrupt from None
        first = str(error).split("\n")[0][:300]
        raise DataError(
            f"{doing} failed inside a library: {first}", where=where, fix="load the file again; if it is whole, please report it"
        ) from None
