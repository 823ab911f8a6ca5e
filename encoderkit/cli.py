"""The command line: parse, load the recipe, call the stage, print. The one place for imports inside functions.

Nothing heavy is imported before it is needed: `--help` answers at once, and a mistake in a recipe is told before torch
is imported.
"""

import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from encoderkit import __version__
from encoderkit.errors import ExitCode, Interrupted, ResourceError, UsageError, UserError

MAKE, USE, HAND_OVER, LOOK, LEARN = "Make", "Use", "Hand over", "Look", "Learn"
KINDS = "pretrain, finetune, tokenizer or corpus"

Misuse: Any = typer.BadParameter.__base__
"""A flag or command that is not there, or not complete; typer's own class, from whichever click it brings."""


class Grouped(typer.core.TyperGroup):
    """`--help` with the commands grouped by what a person wants, in plain text: drawing boxes took longer than all else."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """A section for each group, in the order of the pipeline."""
        for panel in (MAKE, USE, HAND_OVER, LOOK, LEARN):
            commands = [(n, c) for n, c in self.commands.items() if getattr(c, "rich_help_panel", None) == panel]
            if commands:
                with formatter.section(panel):
                    formatter.write_dl([(name, command.get_short_help_str(90)) for name, command in commands])


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
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or begin it if there is none.")]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see `encoderkit init`.", show_default=False)]


def _print(value: dict[str, Any], as_json: bool) -> None:
    from encoderkit.console import result

    result(value, as_json)


@app.command(rich_help_panel=MAKE)
def pretrain(
    recipe: RecipeFile,
    out: Out,
    settings: Settings = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train an encoder on a token store."""
    from encoderkit import preflight
    from encoderkit.config import load
    from encoderkit.recipe import PretrainRecipe

    loaded = load(PretrainRecipe, recipe, settings)
    preflight.pretrain(loaded, out, resume, overwrite)
    from encoderkit.stages import pretrain as stage

    _print(stage.pretrain(loaded, out, resume, overwrite), json)


@app.command(rich_help_panel=MAKE)
def finetune(
    recipe: RecipeFile,
    out: Out,
    settings: Settings = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train on labels, from a pretrained checkpoint or from random weights."""
    from encoderkit import preflight
    from encoderkit.config import load
    from encoderkit.recipe import FinetuneRecipe

    loaded = load(FinetuneRecipe, recipe, settings)
    preflight.finetune(loaded, out, resume, overwrite)
    from encoderkit.stages import finetune as stage

    _print(stage.finetune(loaded, out, resume, overwrite), json)


@app.command(rich_help_panel=LOOK)
def show(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A YAML file, or a run.", show_default=False)] = None,
    settings: Settings = None,
    fields: Annotated[str | None, typer.Option("--fields", metavar="KIND", help=f"Document every key: {KINDS}.")] = None,
) -> None:
    """Print a recipe completed with all that it leaves open, or what every key is for."""
    from encoderkit.config import dump
    from encoderkit.stages import show as stage

    if (recipe is None) == (fields is None):
        raise UsageError("show takes a recipe, or --fields", fix="encoderkit show RECIPE, or encoderkit show --fields pretrain")
    if recipe is None:
        print(stage.document(stage.kind_of(fields or "")), end="")
        return
    kind, completed = stage.complete(recipe, settings or [])
    print(f"# a {kind} recipe, completed\n{dump(completed)}", end="")


@app.command(rich_help_panel=LOOK)
def schema(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=KINDS, show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="A file to write; stdout if not given.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write the JSON Schema of a recipe, with which an editor checks and completes it."""
    from json import dumps

    from encoderkit.stages import init, show

    text = dumps(show.schema(show.kind_of(kind)), indent=1, ensure_ascii=False) + "\n"
    if out is None:
        print(text, end="")
    else:
        init.write(text, out, overwrite)


@app.command(rich_help_panel=LEARN)
def init(
    kind: Annotated[str | None, typer.Argument(metavar="STAGE", help=f"{KINDS}; without it, a list.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option("--kind", metavar="NAME", help="Which recipe.", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file to write; - for stdout.", show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
) -> None:
    """Write a commented recipe to begin with; without arguments, list what there is."""
    from encoderkit.stages import init as stage

    if kind is None:
        print(stage.listing(), end="")
        return
    recipe = stage.find(kind, name)
    text = recipe.read_text(encoding="utf-8")
    if out == Path("-"):
        print(text, end="")
        return
    target = out or Path(recipe.name)
    stage.write(text, target, overwrite)
    print(f"wrote {target}; see it completed with: encoderkit show {shlex.quote(str(target))}", file=sys.stderr)


@app.callback(invoke_without_command=True)
def version(
    context: typer.Context, show: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False
) -> None:
    """Train your own text encoder: from raw text to a trained, evaluated, exported model.

    New here? `encoderkit demo` goes the whole way in two minutes, on text that this machine already has.
    """
    if show:
        print(f"encoderkit {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(int(ExitCode.USAGE))


def _fail(error: UserError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return int(error.exit_code)


def _bug(error: BaseException) -> int:
    traceback.print_exception(error)
    print(
        f"error: this is a bug in encoderkit {__version__} ({type(error).__name__}). Please report it with the lines above "
        f"and the command: {shlex.join(sys.argv)}",
        file=sys.stderr,
    )
    return int(ExitCode.FAILED)


def _run() -> int:
    """The command, with every way it can end turned into an exit code."""
    try:
        code = app(standalone_mode=False)
        if code == ExitCode.INTERRUPTED:
            print("interrupted; there was nothing to save yet", file=sys.stderr)
        return code if isinstance(code, int) else int(ExitCode.DONE)
    except Misuse as error:
        help_of = error.ctx.command_path if error.ctx else "encoderkit"
        return _fail(UsageError(error.format_message(), fix=f"{help_of} --help"))
    except Interrupted as stop:
        command = shlex.join(sys.argv if "--resume" in sys.argv else [*sys.argv, "--resume"])
        print(f"{stop.message}\n  to continue: {command}", file=sys.stderr)
        return int(stop.exit_code)
    except UserError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("interrupted; there was nothing to save yet", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    except MemoryError:
        return _fail(ResourceError("out of memory", fix="a smaller training.micro_batch, data.length or model"))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            return _fail(ResourceError("the GPU is out of memory", fix="--set training.micro_batch=8"))
        return _bug(error)


def main() -> None:
    """The console script."""
    sys.exit(_run())
