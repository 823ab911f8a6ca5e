"""The commands that hand over, look and teach: import, export, show, schema, plan, bench, init, demo."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from encoderkit.cli.app import (
    HAND_OVER,
    LEARN,
    LOOK,
    Json,
    Model,
    Out,
    Overwrite,
    Settings,
    app,
    print_result,
    seconds_of,
    share_of,
)
from encoderkit.cli.use import BatchOption, PrecisionOption
from encoderkit.errors import UsageError

KINDS = "pretrain, finetune, tokenizer or corpus"


@app.command("import", rich_help_panel=HAND_OVER)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="A directory of transformers, a file of UER-py or of word vectors, or a name on the hub.",
            show_default=False,
        ),
    ],
    out: Out,
    trust_pickle: Annotated[
        bool, typer.Option("--trust-pickle", help="Read weights in a pickle (.bin), as tensors alone, in another process.")
    ] = False,
    config: Annotated[Path | None, typer.Option("--config", help="UER-py: the model's config.", show_default=False)] = None,
    vocabulary: Annotated[
        Path | None, typer.Option("--vocabulary", help="UER-py: the vocabulary, a piece a line.", show_default=False)
    ] = None,
    length: Annotated[
        int | None,
        typer.Option("--length", help="Tokens of a text to read; all it can, 512 at most, if not given.", show_default=False),
    ] = None,
    writes: Annotated[bool, typer.Option("--writes", help="A T5 with its decoder as a model that predicts texts.")] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Take a published checkpoint as a model of your own."""
    from encoderkit import files, preflight

    files.refuse_existing(out, overwrite)
    preflight.apart(out, source)
    for file in (config, vocabulary):
        if file is not None:
            preflight.input_file(file)
    from encoderkit.stages import import_model as stage

    print_result(stage.run(source, out, trust_pickle, config, vocabulary, overwrite, length, writes), json)


@app.command(rich_help_panel=HAND_OVER)
def export(
    model: Model,
    out: Out,
    to: Annotated[
        str,
        typer.Option("--to", metavar="FORMAT", help="hf (transformers loads it), word2vec, word2vec-text; several with commas."),
    ] = "hf",
    part: Annotated[
        Literal["model", "encoder", "generator"],
        typer.Option("--part", help="encoder: without its head; generator: of ELECTRA."),
    ] = "model",
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Hand a model over to other programs, checked against the original."""
    from encoderkit import files, preflight

    step = preflight.find_step(model)
    files.refuse_existing(out, overwrite)
    preflight.apart(out, step)
    from encoderkit.stages import export as stage

    print_result(stage.run(step, to.split(","), out, overwrite, part), json)


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


@app.command(rich_help_panel=LOOK)
def compare(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="Two or more YAML files.", show_default=False)],
    out: Out,
    settings: Settings = None,
    then: Annotated[
        Path | None,
        typer.Option("--finetune", metavar="RECIPE", help="Fine-tune each pretrained model by it.", show_default=False),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Labelled rows; the recipe's test or dev file if not given.", show_default=False)
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="TIME", help="Equal time: 5m for each recipe.", show_default=False)
    ] = None,
    suite: Annotated[
        list[str] | None,
        typer.Option("--suite", metavar="KIND=FILE", help="minimal_pairs, wordsim, analogy; repeatable.", show_default=False),
    ] = None,
    same_size: Annotated[
        str | None,
        typer.Option("--same-size", metavar="SHARE", help="Refuse encoders whose parameters differ by more.", show_default=False),
    ] = None,
    json: Json = False,
) -> None:
    """Run several recipes under equal conditions: a table, and what of it is more than chance."""
    from encoderkit import preflight

    for recipe in (recipe for recipe in recipes if recipe.is_dir()):
        fix = "encoderkit evaluate RUN --data FILE --against OTHER, for two models; a run's own recipe is its recipe.yaml"
        raise UsageError("expected a recipe, and this is a directory", where=recipe, fix=fix)
    for file in (*recipes, then, data):
        if file is not None:
            preflight.input_file(file)
    time = None if budget is None else seconds_of(budget)
    share = None if same_size is None else share_of(same_size, "--same-size")
    from encoderkit.stages import compare as stage
    from encoderkit.stages.compare_table import describe

    value = stage.compare(recipes, out, settings or [], then, data, time, suite or [], share)
    print_result(value, json, describe)


@app.command(rich_help_panel=LOOK)
def plan(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="Of pretrain or finetune.", show_default=False)],
    settings: Settings = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="30m, 6h: for the recipe's own; pretrain: sizes compared.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Tell what a recipe takes on this machine: time, memory, disk; propose a size for a budget."""
    from encoderkit import preflight
    from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
    from encoderkit.stages import show as recipes

    time = None if budget is None else seconds_of(budget)
    _, loaded = recipes.complete(recipe, settings or [])
    if isinstance(loaded, PretrainRecipe):
        preflight.pretrain_inputs(loaded)
    elif isinstance(loaded, FinetuneRecipe):
        preflight.finetune_inputs(loaded)
    from encoderkit.stages import plan as stage

    value = stage.run(loaded, time)
    file = recipe / "recipe.yaml" if recipe.is_dir() else recipe
    print_result(value, json, lambda value: stage.describe(value, file, settings or []), end="")


@app.command(rich_help_panel=LOOK)
def bench(
    model: Model,
    length: Annotated[
        list[int] | None,
        typer.Option("--length", metavar="N", help="Tokens a text; repeatable; 16, 32 and 128 if not given.", show_default=False),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=600, help="For each measurement.")] = 2.0,
    precision: PrecisionOption = "auto",
    batch: BatchOption = None,
    json: Json = False,
) -> None:
    """Measure how fast a model is on this machine, and against what the machine can do."""
    from encoderkit import preflight

    step = preflight.find_step(model)
    from encoderkit.stages import bench as stage

    value = stage.bench(step, length, seconds, precision, batch)
    print_result(value, json, stage.describe, end="")


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
        if name is not None or out is not None or overwrite:
            raise UsageError("the stage is not named, and without it there is only a list", fix=f"encoderkit init {KINDS} ...")
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
    print_result(value, json, stage.describe, end="")
