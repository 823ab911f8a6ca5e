"""`encoderkit doctor data`: what may be wrong with labelled files, before anything is trained on them. No torch."""

from collections.abc import Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

from encoderkit import files
from encoderkit.console import many
from encoderkit.data.found import Found, find
from encoderkit.data.labelled import Row
from encoderkit.data.parallel import Given, paths_of
from encoderkit.data.records import UNNAMED, by_number, parted_by
from encoderkit.data.streams import find_sources
from encoderkit.errors import DataError, UsageError, shown
from encoderkit.preflight import apart, find_step, input_file
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import checks, lengths
from encoderkit.stages.checks import Finding, Layout, Split
from encoderkit.stages.repair import repair
from encoderkit.stages.show import complete
from encoderkit.tasks.columns import ways
from encoderkit.tasks.config import ChoiceConfig, GenerateConfig
from encoderkit.tasks.schemes import recognise
from encoderkit.tasks.token_config import TagConfig
from encoderkit.tasks.truth import untaught
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
    of_tokens = not texts and bool(paths) and find_sources(paths[:1])[0].format == "conll"
    texts, labels = texts or ["tokens" if of_tokens else "text"], labels or ["tags"] * of_tokens
    layout = Layout([*texts], [*labels], "any", len(texts), length)
    return Patient(paths, layout, tokenizer)


def doctor(patient: Patient, fix: Path | None = None, widths: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Look at all files; the JSON of the command. `fix`: the directory for repaired copies, with `widths` narrowed too.

    What is repaired is safe: text becomes UTF-8, rows without text go, and those that stood before; those that training
    would refuse are set aside in a file of their own, and all else is left for a person to judge. Raises `DataError` for
    a file that is none of rows, `UsageError` for one that cannot be repaired.
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
            findings += lengths.targets(split, writes, layout.task.target_length)
    if layout.kind in ("any", "classify", "tag"):
        findings += checks.classes(splits, layout.kind)
    sides = len(layout.task.columns) if layout.task and layout.task.training_columns else None
    for known, asked in combinations(splits, 2):
        findings += checks.overlap(known, asked, sides)
    repaired = {} if fix is None else {"fixed": repair(splits, findings, layouts, fix, widths, overwrite), "out": str(fix)}
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
            message = parted_by([*found.rows[0].values], [name], found.source.format) or message
            fix = "--text COLUMN --label COLUMN, or a recipe" if layout.task is None else ways(layout.task).get(name)
            raise UsageError(message, where=found.name, fix=fix)
    if not found.rows:
        reason = f": {found.refused[0][1]}" if found.refused else ""
        raise DataError(f"holds no row{reason}", where=found.name, fix="name a file with rows")


def _one(split: Split, layout: Layout, tokenizer: Tokenizer | None) -> tuple[dict[str, Any], list[Finding]]:
    findings = [*checks.alone(split, layout)]
    if tokenizer is None:
        found = lengths.sizes([sum(map(len, row.texts)) for row in split.rows], "characters")
    else:
        found, more = lengths.tokens(split, tokenizer, layout)
        findings += more
    fact = {"file": split.found.name, "rows": len(split.rows), "encoding": split.found.encoding}
    return {**fact, "length": found._asdict()}, findings


def _kept(finding: Finding) -> dict[str, Any]:
    return {**finding._asdict(), "lines": finding.lines[:_KEPT], "others": finding.others[:_KEPT]}


def describe(result: dict[str, Any]) -> str:
    """What was found, for a person: a line or two each, and what is well is not spoken of."""
    lines = []
    for fact in result["files"]:
        size = fact["length"]
        spread = f"half have at most {size['median']:,}, 99 % at most {size['high']:,}, the longest {size['most']:,}"
        kind = f", {fact['encoding']}" if fact["encoding"] else ""
        lines.append(f"{fact['file']}: {many(fact['rows'], 'row')}{kind}; {size['mean']:,} {size['unit']} each, {spread}")
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
                unit = "row" if Path(fact["file"]).suffix == ".json" else "line"  # which may be all on one line
                lines.append(f"    {unit}{'s' * (len(found['lines']) > 1)} {places}{more}")
    if not result["findings"]:
        lines += ["", "nothing was found"]
    for done in result.get("fixed", []):
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in done["dropped"].items())
        aside = f"; {done['refused']:,} that training refuses: {done['aside']}" if done["refused"] else ""
        lines.append(f"{done['copy']}: dropped {dropped}; narrowed {done['narrowed']:,}{aside}")
    return "\n".join(lines)


def _as(place: str, file: str) -> str:
    """The row that a line is like."""
    name, _, line = place.rpartition(":")
    return "" if not place else f" (as {line})" if name == file else f" (as {Path(name).name}:{line})"
