"""The commands that show what training reads: inspect masking, inspect tokens."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from encoderkit.cli.app import LOOK, Checked, Json, Settings, app, print_result
from encoderkit.cli.make import Dictionary, Segment

inspect = typer.Typer(cls=Checked, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(
    inspect, name="inspect", rich_help_panel=LOOK, help="Show what training reads: what is hidden, how text becomes tokens."
)


@inspect.command()
def masking(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="Of pretrain; masked, replaced, causal or contrastive.", show_default=False)
    ],
    count: Annotated[int, typer.Option("-n", "--rows", min=0, help="Rows to show.")] = 5,
    looked: Annotated[int, typer.Option("--statistics", min=1, max=1_000_000, help="Rows to count.")] = 1000,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Rows as the objective makes them in training: words, and what is hidden, exchanged and kept; with statistics."""
    from encoderkit import preflight
    from encoderkit.recipe import PretrainRecipe
    from encoderkit.stages.show import read

    loaded = read(PretrainRecipe, recipe, settings, "inspect masking")
    preflight.pretrain_inputs(loaded)
    from encoderkit.stages import inspect as stage

    value = stage.masking(loaded, count, looked)
    if json:
        print_result(value, json)
    elif sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(stage.rendered(value), end="")
    else:
        print(stage.rendered(value).plain, end="")


@inspect.command()
def tokens(
    tokenizer: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="A tokenizer or a model.", show_default=False)],
    text: Annotated[list[str], typer.Option("--text", help="A text; repeatable.", show_default=False)],
    segment: Segment = None,
    dictionary: Dictionary = None,
    json: Json = False,
) -> None:
    """A text as its tokens: pieces, ids, the characters each stands for, where words begin."""
    from encoderkit import preflight
    from encoderkit.config import validate
    from encoderkit.recipe import CorpusRecipe

    chosen = {"kind": segment, "dictionary": None if dictionary is None else str(dictionary)}
    given = {name: value for name, value in chosen.items() if value is not None}
    loaded = validate(CorpusRecipe, {"segment": given} if given else {}, "--segment")
    preflight.directory(tokenizer, "a tokenizer directory", "train-tokenizer")
    from encoderkit.stages import inspect as stage

    value = stage.tokens(tokenizer, text, loaded.segment)
    print_result(value, json, stage.described, end="")
