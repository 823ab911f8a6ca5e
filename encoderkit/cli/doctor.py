"""The command that looks for what is wrong: doctor data."""

from pathlib import Path
from typing import Annotated

import typer

from encoderkit.cli.app import LOOK, Checked, Json, Overwrite, Settings, app, print_result
from encoderkit.errors import CheckError, UsageError

doctor = typer.Typer(cls=Checked, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(
    doctor, name="doctor", rich_help_panel=LOOK, help="Look for what is wrong with labelled data, and repair what is safe."
)


@doctor.callback()
def family() -> None:
    """Look for what is wrong, and repair what is safe."""


@doctor.command()
def data(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...", help="Rows to train on, then others; or a fine-tuning recipe or run.", show_default=False
        ),
    ],
    dev: Annotated[Path | None, typer.Option("--dev", help="Rows that choose the checkpoint.", show_default=False)] = None,
    test: Annotated[Path | None, typer.Option("--test", help="Rows that are kept for the end.", show_default=False)] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", metavar="COLUMN", help="Name or number; twice for a pair; text if not given.", show_default=False),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", metavar="COLUMN", help="Of the label, tags or spans; label if there is one.", show_default=False),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="DIR", help="A tokenizer or a model.", show_default=False)
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", min=3, help="The most tokens of a row, as in data.length.", show_default=False)
    ] = None,
    settings: Settings = None,
    fix: Annotated[bool, typer.Option("--fix", help="Write repaired copies to --out; bad rows apart.")] = False,
    narrow: Annotated[bool, typer.Option("--narrow", help="With --fix: full-width letters and digits become ASCII.")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="The directory for the copies.", show_default=False)] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with 4 if anything is found.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Labelled files before training: encoding, duplicates, labels, overlap, lengths, characters, spans."""
    if fix != (out is not None):
        raise UsageError("--fix and --out DIR go together: copies are written, and no file is changed", fix="--fix --out DIR")
    if narrow and not fix:
        raise UsageError("is of what --fix writes", where="--narrow", fix="add --fix --out DIR, or leave it out")
    if length is not None and tokenizer is None:
        raise UsageError("is in tokens, which need a --tokenizer", where="--length", fix="add --tokenizer DIR, or leave it out")
    from encoderkit.stages import doctor as stage

    if any(path.suffix in (".yaml", ".yml") or path.is_dir() for path in paths):
        if len(paths) > 1 or dev or test or text or label or tokenizer or length:
            raise UsageError("a recipe says what its files and columns are", fix="change them there: --set data.length=64")
        patient = stage.of_recipe(paths[0], settings or [])
    elif settings:
        raise UsageError("changes a recipe, and there is none here", where="--set", fix="flags: --text, --label, --length")
    else:
        files = [*paths, *(path for path in (dev, test) if path is not None)]
        patient = stage.of_files(files, text or [], label or [], tokenizer, length)
    result = stage.doctor(patient, out, narrow, overwrite)
    print_result(result, json, stage.describe)
    if strict and result["findings"]:
        how = "the same with --fix --out DIR mends what is safe, and sets aside what training refuses"
        if fix:
            how = "look at the lines above: the copies are without what is safe to mend, the rest is for you to judge"
        count = len(result["findings"])
        raise CheckError(f"{count} thing{'s were' if count > 1 else ' was'} found, and --strict wants none", fix=how)
