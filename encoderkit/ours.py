"""What a directory holds that a command of ours wrote, and what somebody else has put there: `--overwrite` is for the former."""

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from encoderkit.errors import UsageError

MANIFEST = "MANIFEST.json"
STAGING, TRASH = ".staging-", ".trash-"
OURS = ({MANIFEST}, {"plan.json"}, {"recipe.yaml", "manifest.json"})
"""What tells a directory that a command of ours wrote: staged, or a run (one that is damaged too)."""
_OF_A_RUN = {"recipe.yaml", "manifest.json", "plan.json", "summary.json", "metrics.jsonl", "best", "last"}
"""The files of a run, or of several in one directory."""
_STEP, _ONE_OF_SEVERAL = re.compile(r"(damaged-)?step-\d{7,}"), re.compile(r"seed-\d+(-fold-\d+)?|fold-\d+")
_OF_A_STEP = {MANIFEST, "model.safetensors", "config.json", "labels.json", "tokenizer", "target_tokenizer", "resume"}
"""What stands in a checkpoint."""
LEFT = re.compile(rf"({re.escape(STAGING)}|{re.escape(TRASH)}).+\.\d+")
"""What a command leaves that was killed."""


def refuse_foreign(path: Path, held: list[str], known: Collection[str], resume: bool, step: bool) -> None:
    """What may be overwritten is a file or what a command of ours wrote, and nothing besides: never somebody's files, nor
    a run, or a checkpoint of one, by what is none. `step`: such a checkpoint is what is written."""
    if not path.is_dir() or set(held) <= set(known):
        return
    ours = any(names <= set(held) for names in OURS)
    if foreign := sorted(name.as_posix() for name in _foreign(path)):
        shown = ", ".join(foreign[:3]) + ", ..." * (len(foreign) > 3)
        fix = "another --out" + (", or move them away" if ours else "")
        raise UsageError(f"holds {shown}, and only what encoderkit wrote is replaced", where=path, fix=fix)
    if not step and _STEP.fullmatch(path.name) and _is_run(path.parent):
        raise UsageError("is a checkpoint of a run, which would be torn", where=path, fix="another --out")
    if path.name in several(path.parent):
        raise UsageError("is one of several runs, which would be torn", where=path, fix="another --out, or all of them anew")
    if (MANIFEST in held) == resume:
        was, now = ("what another command wrote", "a run") if resume else ("a run", "what is none")
        raise UsageError(f"holds {was}, and {now} would take its place", where=path, fix="another --out, or remove it first")


def _foreign(folder: Path) -> set[Path]:
    """What no command of ours wrote into a directory, by its place there; all of it where none has written the directory."""
    held = {path.name: path for path in folder.iterdir() if path.name != "lock" and not LEFT.fullmatch(path.name)}
    if MANIFEST in held:
        wrote = _committed(folder)
        return {Path(name) for name in held} if wrote is None else _files(folder) - wrote
    if not _is_run(folder):
        return {Path(name) for name in held}
    found = set[Path]()
    for name, path in held.items():
        if path.is_dir() and _STEP.fullmatch(name):
            wrote = _committed(path)
            # One without a manifest that can be read is damaged; what is called as in any other is taken for its own.
            added = _files(path) - wrote if wrote is not None else {f for f in _files(path) if f.parts[0] not in _OF_A_STEP}
        elif path.is_dir() and _ONE_OF_SEVERAL.fullmatch(name):
            added = _foreign(path)
        else:
            added = set[Path]() if path.is_file() and name in _OF_A_RUN else {Path()}
        found |= {name / inner for inner in added}
    return found


def _files(folder: Path) -> set[Path]:
    """All but directories, by their places in a directory; but for what a command leaves that was killed."""
    inside = (p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir())
    return {p.relative_to(folder) for p in inside if p.name != "lock" and not LEFT.fullmatch(p.name)}


def _committed(folder: Path) -> set[Path] | None:
    """The files of a directory that was committed as a whole, by its manifest; None where that is none of ours."""
    found = _read(folder / MANIFEST)
    entries = found.get("files") if isinstance(found, dict) else None
    whole = isinstance(entries, dict) and all(isinstance(e, dict) and {"bytes", "sha256"} <= e.keys() for e in entries.values())
    if not whole or not entries:
        return None
    return {Path(MANIFEST), *map(Path, entries)}


def _is_run(folder: Path) -> bool:
    """Whether it is a run, several, or what is left of one while it is removed: `{}` stands for its plan then."""
    about = _read(folder / "manifest.json")
    known = (isinstance(about, dict) and {"encoderkit", "inputs"} <= about.keys()) or several(folder)
    if (folder / "recipe.yaml").is_file() and (known or any(map(_saved, folder.iterdir()))):
        return True
    plan = _read(folder / "plan.json")
    return isinstance(plan, dict) and (not plan or {"updates", "batch", "micro_batch"} <= plan.keys())


def _saved(path: Path) -> bool:
    """Whether it is a whole checkpoint, or one of several runs."""
    return bool(_STEP.fullmatch(path.name) and _committed(path)) or bool(_ONE_OF_SEVERAL.fullmatch(path.name) and _is_run(path))


def several(folder: Path) -> list[str]:
    """The names of the runs, by seeds and folds, that a directory is for; none where it is for no such."""
    about = _read(folder / "manifest.json")
    names = about.get("runs") if isinstance(about, dict) else None
    return names if isinstance(names, list) and all(isinstance(n, str) and _ONE_OF_SEVERAL.fullmatch(n) for n in names) else []


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
