"""`encoderkit doctor data`: what may be wrong with labelled files, before anything is trained on them. No torch."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from encoderkit import files
from encoderkit.data.found import Found, find
from encoderkit.data.labelled import Row
from encoderkit.data.parallel import Given, paths_of
from encoderkit.data.records import UNNAMED, by_number
from encoderkit.data.streams import Compression
from encoderkit.errors import DataError, UsageError, shown
from encoderkit.preflight import apart, find_step, input_file
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import checks
from encoderkit.stages.checks import Finding, Layout, Split
from encoderkit.stages.show import complete
from encoderkit.tasks.columns import ways
from encoderkit.tasks.config import ChoiceConfig, GenerateConfig
from encoderkit.tasks.schemes import recognise
from encoderkit.tasks.token_config import TagConfig
from encoderkit.tasks.truth import untaught
from encoderkit.text import variants
from encoderkit.text.tokenizers import Tokenizer, open_tokenizer

_SHOWN = 5  # lines of a finding that are shown to a person; --json has up to `_KEPT`
_KEPT = 1000


class Patient(NamedTuple):
    """What is looked at."""

    given: Sequence[Given]
    """The first is what is trained on."""
    layout: Layout
    tokenizer: Path | None
    txt: Literal["line", "conll"] = "line"
    """What a .txt is."""
    target: Path | None = None
    """The tokenizer of what is to be written, if it has one of its own."""


def of_recipe(path: Path, settings: Sequence[str] = ()) -> Patient:
    """The files of a fine-tuning recipe, or of the run of one; raises `UsageError` for another recipe."""
    _, recipe = complete(path, [*settings])
    if not isinstance(recipe, FinetuneRecipe):
        fix = "encoderkit doctor data FILE..., or a recipe of finetune"
        raise UsageError("doctor data takes a fine-tuning recipe, or files of rows", where=path, fix=fix)
    task, data = recipe.task, recipe.data
    texts = [*task.columns, *task.training_columns]
    labels = [name for name in task.all_columns if name not in texts]
    layout = Layout(texts, labels, task.kind, 2 if isinstance(task, ChoiceConfig) else task.sides, data.length, task)
    tokenizer = find_step(recipe.checkpoint) / "tokenizer" if recipe.checkpoint else Path(recipe.tokenizer or "")
    own = task.tokenizer if isinstance(task, GenerateConfig) else None
    return Patient([*data.files.values()], layout, tokenizer, task.txt, None if own is None else Path(own))


def of_files(
    paths: Sequence[Path], texts: Sequence[str], labels: Sequence[str], tokenizer: Path | None, length: int | None
) -> Patient:
    """Files whose columns are named on the command line; text, and label if it is there, where they are not."""
    layout = Layout([*texts] or ["text"], [*labels], "any", max(1, len(texts)), length)
    return Patient(paths, layout, tokenizer)


def doctor(patient: Patient, fix: Path | None = None, widths: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Look at all files; the JSON of the command. `fix`: the directory for repaired copies, with `widths` narrowed too.

    What is repaired is safe: text becomes UTF-8, rows without text go, and those that stood before; all else is left for a
    person to judge. Raises `DataError` for a file that is none of rows, `UsageError` for one that cannot be repaired.
    """
    paths = [path for given in patient.given for path in paths_of(given)]
    for path in paths:
        input_file(path)
    if fix is not None:
        files.refuse_existing(fix, overwrite)
        apart(fix, *paths)
    tokenizer = None if patient.tokenizer is None else open_tokenizer(patient.tokenizer)
    layout = patient.layout
    columns = [*layout.texts, *(layout.labels or ([] if by_number(layout.texts) else ["label"]))]
    found = [find(given, columns, patient.txt) for given in patient.given]
    if not layout.labels and layout.kind == "any" and any("label" in row.values for row in found[0].rows):
        layout = layout._replace(labels=["label"])
    _check_columns(found[0], layout)
    found[1:] = [one._replace(rows=untaught(one.rows, layout.task)) for one in found[1:]]
    layout = _settled(layout, found[0].rows)
    layouts = [layout, *(_held_out(layout, one) for one in found[1:])]
    splits = [checks.look(one, own) for one, own in zip(found, layouts, strict=True)]
    facts, findings = [], []
    for split, of_split in zip(splits, layouts, strict=True):
        fact, own = _one(split, of_split, tokenizer)
        facts.append(fact)
        findings += own
        if isinstance(layout.task, GenerateConfig) and tokenizer is not None:
            writes = tokenizer if patient.target is None else open_tokenizer(patient.target)
            findings += checks.targets(split, writes, layout.task.target_length)
    if layout.kind in ("any", "classify", "tag"):
        findings += checks.classes(splits, layout.kind)
    sides = len(layout.task.columns) if layout.task and layout.task.training_columns else None
    for known, asked in combinations(splits, 2):
        findings += checks.overlap(known, asked, sides)
    repaired = {} if fix is None else {"fixed": _repair(splits, findings, layouts, fix, widths, overwrite), "out": str(fix)}
    return {"files": facts, "findings": [_kept(one) for one in findings], **repaired}


def _settled(layout: Layout, rows: Sequence[Row]) -> Layout:
    """With the scheme of the tags that are trained on in place of `auto`."""
    task = layout.task
    if not isinstance(task, TagConfig) or task.text is not None or task.scheme != "auto":
        return layout
    used: set[str] = set()
    for row in rows:
        with suppress(DataError):  # told of the row itself
            used.update(row.words(task.tags or ""))
    return layout._replace(task=task.model_copy(update={"scheme": recognise(used)}))


def _held_out(layout: Layout, found: Found) -> Layout:
    """What its columns are, where rows that are not trained on may lack some."""
    more = [] if layout.task is None else layout.task.training_columns
    missing = [name for name in more if not any(name in row.values for row in found.rows)]
    return layout._replace(texts=[name for name in layout.texts if name not in missing])


def _check_columns(found: Found, layout: Layout) -> None:
    """Raise `UsageError` where the text is in no row at all: then another column is meant."""
    for name in (*layout.texts, *layout.labels):
        if found.rows and not any(name in row.values for row in found.rows):
            there = ", ".join(shown(str(column), 30) for column in [*found.rows[0].values][:20])
            message = f"there is no column {shown(name)}; the columns are {there}"
            message += f" ({UNNAMED})" * (found.source.format in ("csv", "tsv"))
            fix = "--text COLUMN --label COLUMN, or a recipe" if layout.task is None else ways(layout.task).get(name)
            raise UsageError(message, where=found.name, fix=fix)
    if not found.rows:
        reason = f": {found.refused[0][1]}" if found.refused else ""
        raise DataError(f"holds no row{reason}", where=found.name, fix="name a file with rows")


def _one(split: Split, layout: Layout, tokenizer: Tokenizer | None) -> tuple[dict[str, Any], list[Finding]]:
    findings = [*checks.alone(split, layout)]
    if tokenizer is None:
        lengths = checks.sizes([sum(map(len, row.texts)) for row in split.rows], "characters")
    else:
        lengths, more = checks.tokens(split, tokenizer, layout)
        findings += more
    fact = {"file": split.found.name, "rows": len(split.rows), "encoding": split.found.encoding}
    return {**fact, "length": lengths._asdict()}, findings


def _kept(finding: Finding) -> dict[str, Any]:
    return {**finding._asdict(), "lines": finding.lines[:_KEPT], "others": finding.others[:_KEPT]}


def _repair(
    splits: Sequence[Split], findings: Sequence[Finding], layouts: Sequence[Layout], out: Path, widths: bool, overwrite: bool
) -> list[dict[str, Any]]:
    """Write the copies; what was done to each."""
    names = [_plain(path) for split in splits for path in paths_of(split.found.given)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two of the files would be {out / twice}", fix="look at them one by one")
    done = []
    with files.staged(out, {"from": [split.found.name for split in splits]}, overwrite) as folder:
        for split, layout in zip(splits, layouts, strict=True):
            if split.found.source.format in ("parquet", "json"):  # which have no line for each row
                fix = "make it .jsonl, a row a line"
                raise UsageError(f"is .{split.found.source.format}, of which no copy is made", where=split.found.name, fix=fix)
            if widths and _uneven(split.found, layout):
                raise UsageError(
                    f"is .{split.found.source.format} of columns, which is not narrowed",
                    where=split.found.name,
                    fix="make it .jsonl, where offsets are moved with the text",
                )
            if split.found.broken:
                fix = "find where the bytes come from, or take the lines out; without --fix they are named"
                raise UsageError("has bytes that are no text, which nobody can put back", where=split.found.name, fix=fix)
            twice = {line for one in findings if (one.file, one.check) == (split.found.name, "duplicate") for line in one.lines}
            repair = _repaired_columns if isinstance(split.found.given, Mapping) else _repaired
            texts, dropped, narrowed = repair(split, twice, layout, widths)
            copies = [out / _plain(path) for path in paths_of(split.found.given)]
            for copy, text in zip(copies, texts, strict=True):
                files.write_new(folder / copy.name, text)
            copy = ", ".join(map(str, copies))
            done.append({"file": split.found.name, "copy": copy, "dropped": dropped, "narrowed": narrowed})
    return done


def _plain(path: Path) -> str:
    """The name of a file once it is decompressed."""
    return path.name.removesuffix(path.suffix) if path.suffix.lower().removeprefix(".") in get_args(Compression) else path.name


def _uneven(found: Found, layout: Layout) -> bool:
    """Whether a row is more than its columns joined by one mark."""
    return found.source.format == "conll" or (found.source.format == "txt" and by_number(layout.texts))


def _empty(split: Split, layout: Layout) -> set[int]:
    """Lines of rows without text; of a pair, one text may be empty for a reason, but not of a text and what it becomes."""
    return {row.line for row in split.rows if not "".join(row.texts).strip() or checks.wordless(row, layout)}


def _repaired_columns(split: Split, twice: set[int], layout: Layout, widths: bool) -> tuple[list[str], dict[str, int], int]:
    """As `_repaired`, of a file for each column."""
    assert isinstance(split.found.given, Mapping)
    empty = _empty(split, layout)
    rows = [row.values for row in split.found.rows if row.line not in empty | twice]
    narrow = set(_narrowable(layout)) if widths else set()
    wide = [any(_wide(row[name]) for name in narrow) for row in rows]
    texts = ["".join(f"{_narrowed(row[name]) if name in narrow else row[name]}\n" for row in rows) for name in split.found.given]
    return texts, {"empty": len(empty), "duplicate": len(twice - empty)}, sum(wide)


def _repaired(split: Split, twice: set[int], layout: Layout, widths: bool) -> tuple[list[str], dict[str, int], int]:
    """The file as text again, without the lines that stood before, how many rows went and why, and how many were narrowed."""
    found = split.found
    empty = _empty(split, layout)
    begins = sorted({row.line for row in found.rows} | {line for line, _ in found.refused})
    if not begins:  # of a file without rows there is nothing to leave out
        return ["\n".join(found.lines)], {"empty": 0, "duplicate": 0}, 0
    ends = dict(zip(begins, [*begins[1:], len(found.lines) + 1], strict=True))
    kept, narrowed = found.lines[: begins[0] - 1], 0
    by_line, names = {row.line: row.values for row in found.rows}, _narrowable(layout)
    lines = {row.line for row in split.rows}
    wide = {line for line in lines if widths and any(_wide(by_line[line].get(name)) for name in names)}
    for line in begins:
        if line in empty | twice:
            continue
        own = found.lines[line - 1 : ends[line] - 1]
        if line in wide:
            narrowed += 1
            own = [_line(found, {n: _narrowed(v) if n in names else v for n, v in by_line[line].items()})]
        kept += own
    text = "\n".join(kept)
    return [text + "\n" * (not text.endswith("\n"))], {"empty": len(empty), "duplicate": len(twice - empty)}, narrowed


def _narrowable(layout: Layout) -> list[str]:
    """The columns that hold text: of answers and of targets too, which must go on to be what the text says."""
    return [*layout.texts, *(layout.labels if layout.kind in ("span", "generate") else [])]


def _wide(value: Any) -> bool:
    if isinstance(value, list | dict):
        return any(_wide(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, str) and variants.wide(value)


def _narrowed(value: Any) -> Any:
    if isinstance(value, list):
        return [_narrowed(part) for part in value]
    if isinstance(value, dict):
        return {name: _narrowed(part) for name, part in value.items()}
    return variants.narrowed(value) if isinstance(value, str) else value


def _line(found: Found, values: dict[str, Any]) -> str:
    """A row in the form of its file."""
    if found.source.format == "jsonl":
        return json.dumps(values, ensure_ascii=False)
    if found.source.format == "csv":
        target = io.StringIO()
        csv.writer(target, lineterminator="").writerow(values.values())
        return target.getvalue()
    return "\t".join(values.values())


def describe(result: dict[str, Any]) -> str:
    """What was found, for a person: a line or two each, and what is well is not spoken of."""
    lines = []
    for fact in result["files"]:
        size = fact["length"]
        spread = f"half have at most {size['median']:,}, 99 % at most {size['high']:,}, the longest {size['most']:,}"
        kind = f", {fact['encoding']}" if fact["encoding"] else ""
        lines.append(f"{fact['file']}: {fact['rows']:,} rows{kind}; {size['mean']:,} {size['unit']} each, {spread}")
    for fact in result["files"]:
        own = [found for found in result["findings"] if found["file"] == fact["file"]]
        lines += ["", fact["file"]] * bool(own)
        for found in own:
            lines.append(f"  {found['message']}")
            if found["lines"]:
                others = found["others"] or [""] * len(found["lines"])
                pairs = [*zip(found["lines"], others, strict=True)][:_SHOWN]
                places = ", ".join(f"{line}{_as(other, fact['file'])}" for line, other in pairs)
                more = ", ..." if len(found["lines"]) > _SHOWN else ""
                lines.append(f"    line{'s' * (len(found['lines']) > 1)} {places}{more}")
    if not result["findings"]:
        lines += ["", "nothing was found"]
    for done in result.get("fixed", []):
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in done["dropped"].items())
        lines.append(f"{done['copy']}: dropped {dropped}; narrowed {done['narrowed']:,}")
    return "\n".join(lines)


def _as(place: str, file: str) -> str:
    """The row that a line is like."""
    name, _, line = place.rpartition(":")
    return "" if not place else f" (as {line})" if name == file else f" (as {Path(name).name}:{line})"
