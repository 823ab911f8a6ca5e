"""The application, and the options that several commands have."""

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from encoderkit.errors import ExitCode, UsageError, shown

MAKE, USE, HAND_OVER, LOOK, LEARN = "Make", "Use", "Hand over", "Look", "Learn"


def drop_output() -> None:
    """What is still to be printed goes nowhere, so that Python does not try again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Checked(typer.core.TyperGroup):
    """Commands that take each of their flags once, but for those that may be repeated."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is named, and what it is given."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and not hasattr(command, "commands"):
            _refuse_repeated(command, rest)
        return name, command, rest


class Grouped(Checked):
    """`--help` with the commands grouped by what a person wants, in plain text: drawing boxes took longer than all else."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section for each group, in the order of the pipeline."""
        for panel in (MAKE, USE, HAND_OVER, LOOK, LEARN):
            commands = [(n, c) for n, c in self.commands.items() if getattr(c, "rich_help_panel", None) == panel]
            if commands:
                with formatter.section(panel):
                    formatter.write_dl([(name, command.get_short_help_str(90)) for name, command in commands])

    def invoke(self, ctx: Any) -> Any:
        """The command; a reader that leaves (`| head`) ends it without a word. Outside of here, click makes it an exit 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            drop_output()
            return int(ExitCode.DONE)


def _refuse_repeated(command: Any, args: list[str]) -> None:
    """Raise `UsageError` for a flag that is given twice and takes one value: the first would be ignored without a word."""
    found = Counter(arg.partition("=")[0] for arg in args[: args.index("--") if "--" in args else None])
    single = [param for param in command.params if not getattr(param, "multiple", True) and not getattr(param, "is_flag", False)]
    for param in single:
        if sum(found[name] for name in param.opts) > 1:
            raise UsageError("is given more than once, and takes one value", where=param.opts[0], fix="give it once")


app = typer.Typer(
    name="encoderkit",
    cls=Grouped,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Out = Annotated[Path, typer.Option("--out", help="The directory to write.", show_default=False)]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe; repeatable.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what --out holds.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A run (its best step), or a step.", show_default=False)]


def print_result(
    value: dict[str, Any], as_json: bool, told: Callable[[dict[str, Any]], str] | None = None, end: str = "\n"
) -> None:
    """The result of a command on stdout: one JSON object, or what `told` makes of it and `end`, else a table."""
    if told is not None and not as_json:
        print(told(value), end=end)
        return
    from encoderkit.console import result

    result(value, as_json)


def seconds_of(text: str) -> float:
    """What `--budget` says, in seconds."""
    from encoderkit.units import Seconds

    return _read(Seconds, text, "--budget")


def share_of(text: str, where: str) -> float:
    """What the flag `where` says, between 0 and 1."""
    from encoderkit.units import Share

    return _read(Share, text, where)


def _read(unit: Any, text: str, where: str) -> float:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(unit).validate_python(text)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        fix = f"{where} with another value; encoderkit COMMAND --help says what it takes"
        raise UsageError(f"{message}, found {shown(text)}", where=where, fix=fix) from None


def named_as_written(out: Path | None, form: str, flag: str) -> None:
    """The name of a file of `form` (jsonl, csv) does not say that it is something else, or compressed; raises `UsageError`."""
    others = {".csv", ".tsv", ".json", ".jsonl", ".parquet", ".gz", ".xz", ".bz2", ".zst"} - {f".{form}"}
    if out is not None and out.suffix.lower() in others:
        plain = out.with_suffix("") if out.with_suffix("").suffix == f".{form}" else out.with_suffix(f".{form}")
        what = "lines of JSON" if form == "jsonl" else "a table with commas"
        raise UsageError(f"is called {out.suffix}, and what is written is {what}", where=out, fix=f"{flag} {plain}")


def with_flags(settings: list[str] | None, flags: list[str]) -> list[str]:
    """`--set`, and what other flags stand for; raises `UsageError` where both say the same key."""
    keys = {flag.partition("=")[0] for flag in flags}
    if twice := next((setting for setting in settings or () if setting.partition("=")[0] in keys), None):
        raise UsageError(f"{twice} says what another flag says too", where="--set", fix="leave one of them out")
    return [*(settings or ()), *flags]
