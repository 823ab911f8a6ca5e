"""`encoderkit init`: a commented recipe to begin with, copied from those that come with the package. No torch."""

from pathlib import Path

import encoderkit
from encoderkit import files
from encoderkit.errors import UsageError, shown

FIRST = {"pretrain": "modernbert-mini", "finetune": "classify", "tokenizer": "wordpiece-16k", "corpus": "lines"}
"""The recipe that a newcomer is given where none is named; the first by name where none is named here either."""


def recipes_folder() -> Path:
    """Where the recipes are: in the installed package, or beside it in a source checkout."""
    package = Path(encoderkit.__file__).parent
    return next(folder for folder in (package / "recipes", package.parent / "recipes") if folder.is_dir())


def available() -> dict[str, dict[str, Path]]:
    """The recipes of each stage, by name."""
    stages = sorted(folder for folder in recipes_folder().iterdir() if folder.is_dir())
    return {stage.name: {path.stem: path for path in sorted(stage.glob("*.yaml"))} for stage in stages}


def purpose(recipe: Path) -> str:
    """The first comment of a recipe: what it is for."""
    return recipe.read_text(encoding="utf-8").split("\n")[0].removeprefix("#").strip()


def find(stage: str, name: str | None) -> Path:
    """The recipe `name` of a stage, or the shortest name that has it as a part. Raises `UsageError` with the legal ones."""
    stages = available()
    if stage not in stages:
        raise UsageError(f"there is no recipe for {shown(stage)}", fix=f"one of {', '.join(stages)}")
    recipes = stages[stage]
    name = name or FIRST.get(stage) or next(iter(recipes))
    near = sorted((known for known in recipes if name in known.split("-")), key=len)
    if name not in recipes and not near:
        raise UsageError(f"no recipe for {stage} has the name {shown(name)}", fix=f"one of {', '.join(recipes)}")
    return recipes[name if name in recipes else near[0]]


def listing() -> str:
    """The recipes of each stage and what each is for."""
    lines = []
    for stage, recipes in available().items():
        width = max(map(len, recipes), default=0)
        lines += [f"{stage}:", *(f"  {name:{width}}  {purpose(path)}" for name, path in recipes.items()), ""]
    return "\n".join([*lines, "encoderkit init STAGE --kind NAME writes one of them here, to be changed.\n"])


def write(text: str, out: Path, overwrite: bool) -> None:
    """A new file; raises `UsageError` if something is there and nobody said that it may go."""
    if out.is_dir():
        raise UsageError("this is a directory, and a file is to be written", where=out, fix="--out FILE")
    files.refuse_existing(out, overwrite, file=True)
    files.make_folder(out.parent)
    files.replace(out, text)
