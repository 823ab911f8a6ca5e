"""What a directory holds that a command of ours wrote, and what somebody else has put there: `--overwrite` is for the former."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from encoderkit.errors import UsageError

MANIFEST = "MANIFEST.json"
STAGING, TRASH = ".staging-", ".trash-"
OURS = ({MANIFEST}, {"plan.json"}, {"recipe.yaml", "manifest.json"})
"""What tells a directory that a command of ours wrote: staged, or a run (one that is damaged too)."""
_OF_A_RUN = re.compile(
    r"(recipe\.yaml|(manifest|plan|summary|trials)\.json|metrics\.jsonl|best|last|lock|damaged-\S+|(step|seed|fold|trial)-\S+)"
)
"""What a run, or several in one directory, may hold."""


def refuse_foreign(path: Path, held: list[str], known: Collection[str], resume: bool) -> None:
    """What may be overwritten is a file or what a command of ours wrote, and nothing besides: never somebody's files, nor
    a run by what is none."""
    if not path.is_dir() or set(held) <= set(known):
        return
    ours, staged = any(names <= set(held) for names in OURS), MANIFEST in held
    if not ours:
        foreign = sorted(held)
    elif staged:
        foreign = _added(path)
    else:
        foreign = sorted(name for name in held if not _OF_A_RUN.fullmatch(name))
    if foreign:
        shown = ", ".join(foreign[:3]) + ", ..." * (len(foreign) > 3)
        fix = "another --out" + (", or move them away" if ours else "")
        raise UsageError(f"holds {shown}, and only what encoderkit wrote is replaced", where=path, fix=fix)
    if staged == resume:
        was, now = ("what another command wrote", "a run") if resume else ("a run", "what is none")
        raise UsageError(f"holds {was}, and {now} would take its place", where=path, fix="another --out, or remove it first")


def _added(folder: Path) -> list[str]:
    """What has come into a directory that was committed as a whole, by its manifest; nothing where that cannot be read."""
    try:
        own = {folder / name for name in json.loads((folder / MANIFEST).read_bytes())["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return []
    there = {*own, folder / MANIFEST, folder / "lock"}
    found = {path for path in folder.rglob("*") if path.is_file() and path not in there}
    return sorted({path.relative_to(folder).parts[0] for path in found if not path.name.startswith((STAGING, TRASH))})
