"""Repaired copies of labelled files: what is safe to put right, and what training would refuse set aside."""

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

from encoderkit import files
from encoderkit.data.found import Found
from encoderkit.data.parallel import paths_of
from encoderkit.data.records import by_number
from encoderkit.data.streams import Compression, converted
from encoderkit.errors import UsageError
from encoderkit.stages import checks
from encoderkit.stages.checks import Finding, Layout, Split
from encoderkit.text import variants


class Copy(NamedTuple):
    """What becomes of a file, or of a file for each column."""

    texts: list[str]
    aside: list[str]
    """The rows that training would refuse, as they stood."""
    refused: int
    """How many these are."""
    dropped: dict[str, int]
    narrowed: int


def repair(
    splits: Sequence[Split], findings: Sequence[Finding], layouts: Sequence[Layout], out: Path, widths: bool, overwrite: bool
) -> list[dict[str, Any]]:
    """Write the copies; what was done to each."""
    copies = [out / _plain(path) for split in splits for path in paths_of(split.found.given)]
    names = [path.name for copy in copies for path in (copy, _beside(copy))]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two of the files would be {out / twice}", fix="look at them one by one")
    done = []
    with files.staged(out, {"from": [split.found.name for split in splits]}, overwrite) as folder:
        for split, layout in zip(splits, layouts, strict=True):
            if widths and _uneven(split.found, layout):
                raise UsageError(
                    f"is .{split.found.source.format} of columns, which is not narrowed",
                    where=split.found.name,
                    fix="make it .jsonl, where offsets are moved with the text",
                )
            if split.found.broken:
                without = converted(split.found.encoding, split.found.source, drop=True)
                fix = f"{without}, which leaves them out; without --fix they are named"
                raise UsageError("has bytes that are no text, which nobody can put back", where=split.found.name, fix=fix)
            told = {check: {line for one in findings if (one.file, one.check) == (split.found.name, check) for line in one.lines}
                    for check in ("duplicate", "unseen_label")}  # fmt: skip
            unseen = told["unseen_label"] if layout.kind == "classify" else set[int]()  # of other tasks they are no reason
            made = _repaired(split, told["duplicate"], unseen, layout, widths)
            copies = [out / _plain(path) for path in paths_of(split.found.given)]
            aside = [_beside(copy) for copy in copies] if made.aside else []
            for paths, texts in ((copies, made.texts), (aside, made.aside)):
                for path, text in zip(paths, texts, strict=True):
                    files.write_new(folder / path.name, text)
            places = {"copy": ", ".join(map(str, copies)), "aside": ", ".join(map(str, aside)) or None}
            facts = {"dropped": made.dropped, "refused": made.refused, "narrowed": made.narrowed}
            done.append({"file": split.found.name, **places, **facts})
    return done


def _beside(copy: Path) -> Path:
    """Where the rows go that are set aside."""
    return copy.with_name(f"{copy.stem}.refused{copy.suffix}")


def _plain(path: Path) -> str:
    """The name of its copy: decompressed, and a row a line where the file has no line for each."""
    inner = path.with_suffix("") if path.suffix.lower().removeprefix(".") in get_args(Compression) else path
    return f"{inner.stem}.jsonl" if inner.suffix.lower() in (".json", ".parquet") else inner.name


def _uneven(found: Found, layout: Layout) -> bool:
    """Whether a row is more than its columns joined by one mark."""
    return found.source.format == "conll" or (found.source.format == "txt" and by_number(layout.texts))


def _empty(split: Split, layout: Layout) -> set[int]:
    """Lines of rows without text; of a pair, one text may be empty for a reason, but not of a text and what it becomes."""
    return {row.line for row in split.rows if not "".join(row.texts).strip() or checks.wordless(row, layout)}


def _repaired(split: Split, twice: set[int], unseen: set[int], layout: Layout, widths: bool) -> Copy:
    """The rows again, without those that stood before (to the letter, or once they are narrowed) or have no text.

    `unseen`: lines with a label that is trained on nowhere.
    """
    found, narrow = split.found, set(_narrowable(layout)) if widths else set()
    empty, values, usable = _empty(split, layout), {row.line: row.values for row in found.rows}, {row.line for row in split.rows}
    refused = {line for line, _ in split.refused} | unseen
    refused |= {row.line for row in found.rows if row.line in usable and checks.unanswered(row, layout)}
    before, rows = _rows(found)
    kept, aside, seen, narrowed = [before] if before else [], [before] if before else [], set[tuple[str, ...]](), 0
    for line, own in rows:
        if line in refused:
            aside.append(own)
        elif line not in empty | twice:
            if line in usable and any(_wide(values[line].get(name)) for name in narrow):
                narrowed += 1
                own = _written(found, {name: _narrowed(v) if name in narrow else v for name, v in values[line].items()})
            if not widths or own not in seen:
                kept.append(own)
            else:
                twice = twice | {line}
            seen.add(own)
    dropped = {"empty": len(empty - refused), "duplicate": len(twice - empty - refused)}
    return Copy(
        _joined(kept) or [""] * len(paths_of(found.given)), _joined(aside) if refused else [], len(refused), dropped, narrowed
    )


def _joined(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """The text of each file, from what each row has in each of them."""
    texts = ["\n".join(row[column] for row in rows) for column in range(len(rows[0]) if rows else 0)]
    return [text + "\n" * (text != "" and not text.endswith("\n")) for text in texts]


def _rows(found: Found) -> tuple[tuple[str, ...], list[tuple[int, tuple[str, ...]]]]:
    """What stands before the first row, and each row by its line: its text in the file, or in each of the files of columns."""
    if isinstance(found.given, Mapping) or found.source.format in ("json", "parquet"):
        return (), [(row.line, _written(found, row.values)) for row in found.rows]
    begins = sorted({row.line for row in found.rows} | {line for line, _ in found.refused})
    if not begins:
        return ("\n".join(found.lines),), []
    ends = [*begins[1:], len(found.lines) + 1]
    rows = [(line, ("\n".join(found.lines[line - 1 : end - 1]),)) for line, end in zip(begins, ends, strict=True)]
    return ("\n".join(found.lines[: begins[0] - 1]),) if begins[0] > 1 else (), rows


def _narrowable(layout: Layout) -> list[str]:
    """The columns that hold text: of answers and of targets too, which must go on to be what the text says."""
    return [*layout.texts, *(layout.labels if layout.kind in ("span", "generate") else [])]


def _wide(value: Any) -> bool:
    if isinstance(value, list | dict):
        return any(_wide(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and variants.wide(value)


def _narrowed(value: Any) -> Any:
    return _each(value, lambda part: variants.narrowed(part) if isinstance(part, str) else part)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    """The value with all that is no list and no mapping changed."""
    if isinstance(value, list):
        return [_each(part, change) for part in value]
    if isinstance(value, Mapping):
        return {name: _each(part, change) for name, part in value.items()}
    return change(value)


def _finite(value: Any) -> Any:
    """With null for numbers that JSON has none of, as .parquet may hold them."""
    return _each(value, lambda part: None if isinstance(part, float) and not math.isfinite(part) else part)


def _other(name: str, value: Any) -> str:
    """Of .parquet, what JSON has no form for, such as a date; raises `UsageError` for bytes."""
    if isinstance(value, bytes):
        fix = "copy it without the columns of bytes first"
        raise UsageError("holds bytes, as of pictures, and copies are .jsonl, which cannot", where=name, fix=fix)
    return str(value)


def _written(found: Found, values: Mapping[str, Any]) -> tuple[str, ...]:
    """A row in the form of its file, or of its copy; of files of columns one text each."""
    if isinstance(found.given, Mapping):
        return tuple(values[name] for name in found.given)
    if found.source.format in ("jsonl", "json", "parquet"):
        return (json.dumps(_finite(values), ensure_ascii=False, default=partial(_other, found.name)),)
    if found.source.format == "csv":
        target = io.StringIO()
        csv.writer(target).writerow(values.values())  # fields with a line's end are quoted if it is one of its ends
        return (target.getvalue().removesuffix("\r\n"),)
    return ("\t".join(values.values()),)
