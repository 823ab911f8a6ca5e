"""The command line: parse, load the recipe, call the stage, print. The one place for imports inside functions.

Nothing heavy is imported before it is needed: `--help` answers at once, and a mistake in a recipe is told before torch
is imported.
"""

import errno
import io
import os
import shlex
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
import typer.core

from encoderkit import __version__
from encoderkit.errors import ExitCode, Interrupted, ResourceError, UsageError, UserError, shown

MAKE, USE, HAND_OVER, LOOK, LEARN = "Make", "Use", "Hand over", "Look", "Learn"
KINDS = "pretrain, finetune, tokenizer or corpus"

Misuse: Any = typer.BadParameter.__base__
"""A flag or command that is not there, or not complete; typer's own class, from whichever click it brings."""


def _drop_output() -> None:
    """What is still to be printed goes nowhere, so that Python does not try again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Grouped(typer.core.TyperGroup):
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
            _drop_output()
            return int(ExitCode.DONE)


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
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A run (its best step), or a step.", show_default=False)]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16"], typer.Option("--precision", help="auto: bf16 where this machine is faster with it.")
]
BatchOption = Annotated[
    int | None, typer.Option("--batch", min=1, help="Rows at once; as many as 16,384 tokens if not given.", show_default=False)
]
Column = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="NAME", help="The column of the text; twice for a pair.", show_default=False),
]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see `encoderkit init`.", show_default=False)]


def _print(value: dict[str, Any], as_json: bool) -> None:
    from encoderkit.console import result

    result(value, as_json)


Data = Annotated[
    list[Path],
    typer.Option(
        "--data",
        metavar="FILE",
        help=".txt, .jsonl, .csv, .tsv, .parquet, also compressed; - is stdin; repeatable.",
        show_default=False,
    ),
]
OptionalRecipe = Annotated[
    Path | None, typer.Argument(metavar="[RECIPE]", help="A YAML file with all other keys.", show_default=False)
]


@app.command(rich_help_panel=MAKE)
def train_tokenizer(
    data: Data,
    out: Out,
    recipe: OptionalRecipe = None,
    kind: Annotated[
        Literal["wordpiece", "bpe", "unigram", "word", "char"] | None,
        typer.Option("--kind", help="wordpiece if not given.", show_default=False),
    ] = None,
    vocab_size: Annotated[
        str | None, typer.Option("--vocab-size", metavar="N", help="The most pieces; 16,384 if not given.", show_default=False)
    ] = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Learn a vocabulary from raw text."""
    from encoderkit import preflight
    from encoderkit.config import load
    from encoderkit.recipe import TokenizerRecipe

    flags = [f"{key}={value}" for key, value in (("kind", kind), ("vocab_size", vocab_size)) if value is not None]
    loaded = load(TokenizerRecipe, recipe, flags + (settings or []))
    preflight.corpus(data, out, overwrite)
    from encoderkit.stages import train_tokenizer as stage

    _print(stage.run(data, loaded, loaded.corpus, out, overwrite), json)


@app.command(rich_help_panel=MAKE)
def tokenize(
    data: Data,
    tokenizer: Annotated[Path, typer.Option("--tokenizer", help="A directory written by train-tokenizer.", show_default=False)],
    out: Out,
    recipe: OptionalRecipe = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Processes; one a core if not given.", show_default=False)
    ] = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Turn raw text into a token store."""
    from encoderkit import preflight
    from encoderkit.config import load
    from encoderkit.data.config import CorpusConfig

    loaded = load(CorpusConfig, recipe, settings)
    preflight.directory(tokenizer, "a tokenizer directory", "train-tokenizer")
    preflight.corpus(data, out, overwrite=True)  # a store that is there may be the one wanted: the stage looks
    preflight.apart(out, tokenizer)
    from encoderkit.stages import tokenize_corpus as stage

    _print(stage.run(data, tokenizer, loaded, out, workers, overwrite), json)


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


@app.command(rich_help_panel=USE)
def evaluate(
    model: Model,
    data: Annotated[
        Path, typer.Option("--data", help="Labelled rows; for a pretrained model, a token store.", show_default=False)
    ],
    precision: PrecisionOption = "auto",
    batch: BatchOption = None,
    no_baselines: Annotated[bool, typer.Option("--no-baselines", help="Do not fit the simple models beside it.")] = False,
    json: Json = False,
) -> None:
    """Measure a model on labelled data, beside simple baselines."""
    from encoderkit import preflight

    step = preflight.find_step(model)
    preflight.evaluated(step, data)
    from encoderkit.stages import evaluate as stage

    result = stage.evaluate(step, data, precision, batch, not no_baselines)
    if json:
        _print(result, json)
    else:
        print(stage.describe(result))


@app.command(rich_help_panel=USE)
def predict(
    model: Model,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help=".txt, .jsonl, .csv, .tsv or .parquet; - for stdin.", show_default=False),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text; repeatable.", show_default=False)] = None,
    text_pair: Annotated[
        list[str] | None, typer.Option("--text-pair", help="The second text of a pair; repeatable.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file to write; stdout if not given.", show_default=False)] = None,
    form: Annotated[Literal["jsonl", "csv"], typer.Option("--format", help="How predictions are written.")] = "jsonl",
    column: Column = None,
    top: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Only the k best scores, best first.", show_default=False)
    ] = None,
    precision: PrecisionOption = "auto",
    batch: BatchOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that --out names.")] = False,
) -> None:
    """Predict the labels of texts; a pretrained model fills [MASK]."""
    from encoderkit import preflight

    step = preflight.find_step(model)
    rows = preflight.predicted(step, source, text or [], text_pair or [])
    from encoderkit.stages import predict as stage

    stage.predict(step, source, rows, out, form, column, top, precision, batch, overwrite)


@app.command(rich_help_panel=USE)
def embed(
    model: Model,
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help=".txt, .jsonl, .csv, .tsv or .parquet; - for stdin.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="The .npy file to write.", show_default=False)],
    pooling: Annotated[
        Literal["cls", "mean", "max", "last"], typer.Option("--pooling", help="From one vector a token to one a text.")
    ] = "mean",
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale every vector to length 1.")] = False,
    column: Column = None,
    precision: PrecisionOption = "auto",
    batch: BatchOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that --out names.")] = False,
    json: Json = False,
) -> None:
    """Turn texts into vectors, in a .npy file."""
    from encoderkit import preflight

    step = preflight.find_step(model)
    preflight.text_file(source)
    from encoderkit.stages import embed as stage

    _print(stage.embed(step, source, out, pooling, normalize, column, precision, batch, overwrite), json)


@app.command(rich_help_panel=HAND_OVER)
def export(
    model: Model,
    out: Out,
    to: Annotated[str, typer.Option("--to", metavar="FORMAT", help="hf: a directory that transformers loads.")] = "hf",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Hand a model over to other programs, checked against the original."""
    from encoderkit import files, preflight

    step = preflight.find_step(model)
    files.refuse_existing(out, overwrite)
    preflight.apart(out, step)
    from encoderkit.stages import export as stage

    _print(stage.run(step, to.split(","), out, overwrite), json)


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


@app.command(rich_help_panel=LEARN)
def demo(
    out: Annotated[Path, typer.Option("--out", help="The directory to write.")] = Path("encoderkit-demo"),
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """The whole way in two minutes: tokenizer, pretraining, fine-tuning, evaluation, export."""
    from encoderkit import files

    if not overwrite:
        files.refuse_existing(out, overwrite)
    from encoderkit.stages import demo as stage

    value = stage.run(out, overwrite)
    if json:
        _print(value, json)
    else:
        print(stage.describe(value), end="")


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


def _system(error: OSError) -> int:
    """What the file system refused where nothing else could be said about it: a name too long, a folder not to be read."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    if error.filename is not None:
        kind = ResourceError if full else UsageError
        return _fail(kind(f"cannot be used: {error.strerror}", where=shown(os.fsdecode(error.filename))))
    if not full:
        return _bug(error)
    _drop_output()
    return _fail(ResourceError(f"cannot write: {error.strerror}", where="standard output"))


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
        words = [a for a in sys.argv[1:] if a not in ("--resume", "--overwrite")]
        command = shlex.join(["encoderkit", *words, "--resume"])
        print(f"{stop.message}\n  to continue: {command}", file=sys.stderr)
        return int(stop.exit_code)
    except UserError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print("interrupted; there was nothing to save yet", file=sys.stderr)
        return int(ExitCode.INTERRUPTED)
    except MemoryError:
        return _fail(ResourceError("out of memory", fix="a smaller training.micro_batch, data.length or model"))
    except OSError as error:
        return _system(error)
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError":
            return _fail(ResourceError("the GPU is out of memory", fix="--set training.micro_batch=8"))
        if "can't allocate memory" in str(error):  # how torch says it on the CPU
            return _fail(ResourceError("out of memory", fix="a smaller training.micro_batch, data.length or model"))
        return _bug(error)


def main() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that lacks a character gets its number, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(_run())
