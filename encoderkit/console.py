"""What a person sees: talk on stderr, results on stdout, a progress bar on a terminal and plain lines elsewhere."""

import json
import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from encoderkit import world

B = TypeVar("B", bound=Sequence[Any])


def tell(text: str, end: str = "\n") -> None:
    """To stderr, whichever process this is.

    What takes it may go while the work goes on: a reader (`2>&1 | head`), a terminal whose window is closed, a full disk.
    """
    try:
        print(text, file=sys.stderr, end=end, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def say(message: str) -> None:
    """One line of talk, on stderr; of several processes only the first talks."""
    if world.first():
        tell(message)


def warn(message: str) -> None:
    """Something that the user should know about, on stderr."""
    say(f"warning: {message}")


def result(value: dict[str, Any], as_json: bool) -> None:
    """The result of a command on stdout: one JSON object, or aligned lines; of several processes only the first's."""
    if not world.first():
        return
    if as_json:
        unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
        print(json.dumps(value, ensure_ascii=not unicode), flush=True)
        return
    rows = list(_flat(value))
    width = max((len(name) for name, _ in rows), default=0)
    for name, text in rows:
        print(f"{name:{width}}  {text}")
    sys.stdout.flush()


def _flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, item in value.items():
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield prefix + name, number(item) if isinstance(item, int | float) else str(item)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of the same length as aligned lines, the first column to the left and the others to the right."""
    widths = [max(_width(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for first, *others in rows:
        cells = [" " * (width - _width(cell)) + cell for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join([first + " " * (widths[0] - _width(first)), *cells]).rstrip())
    return "\n".join(lines)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """The same as a table of Markdown, which the header begins."""
    header, *others = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---", *("---:" for _ in header[1:])]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *others))


def _width(text: str) -> int:
    """The columns of a terminal that `text` takes: Chinese characters are two wide."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def number(value: float) -> str:
    """A number as people read it: thousands apart, four significant digits."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int) or (abs(value) >= 1000 and value == round(value)):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10000 else f"{value:.4g}"


def many(count: int, what: str) -> str:
    """A number of things: `1 row`, `2,000 rows`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


class Progress:
    """A counter that shows itself: call `advance` as work is done."""

    def __init__(self, title: str, total: int | None, unit: str, done: int = 0) -> None:
        """`done`: by an earlier process, for a run that is continued."""
        self.title, self.total, self.unit, self.done, self.note, self._before = title, total, unit, done, "", done
        self._started = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def advance(self, by: int = 1, note: str = "") -> None:
        """Count `by` more units; `note` is shown beside the count."""
        self.done += by
        self.note = note or self.note
        now = time.monotonic()
        if now - self._shown >= (0.2 if self._terminal else 15) and world.first():
            self._shown = now
            self._show()

    def _show(self) -> None:
        seconds = time.monotonic() - self._started
        rate = (self.done - self._before) / max(seconds, 1e-9)
        text = f"{self.title}: {self.done:,}"
        if self.total:
            text += f" of {self.total:,} {self.unit} ({self.done / self.total:.0%})"
            if rate:
                text += f", {duration((self.total - self.done) / max(rate, 1e-9))} left"
        else:
            text += f" {self.unit}, {rate:,.0f}/s"
        text += f"  {self.note}" if self.note else ""
        tell(f"\r\033[K{text[:150]}" if self._terminal else text, end="" if self._terminal else "\n")

    def close(self) -> None:
        """Take the bar away."""
        if self._terminal and world.first():
            tell("\r\033[K", end="")


@contextmanager
def progress(title: str, total: int | None, unit: str, done: int = 0) -> Iterator[Progress]:
    """Show the progress of the work in the block."""
    bar = Progress(title, total, unit, done)
    try:
        yield bar
    finally:
        bar.close()


def counted(title: str, batches: Iterable[B], total: int) -> Iterator[B]:
    """The batches, with the progress of the work that is done with them, in rows."""
    with progress(title, total, "rows") as bar:
        for batch in batches:
            yield batch
            bar.advance(len(batch))


def duration(seconds: float) -> str:
    """Seconds as people say them: `45 s`, `12 min`, `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
