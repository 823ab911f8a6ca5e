"""The commands that make: train-tokenizer, tokenize, pretrain, finetune."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from encoderkit.cli.app import MAKE, Json, Out, Overwrite, Settings, app, print_result, seconds_of, with_flags

Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out, or begin it if there is none.")]
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A YAML file; see `encoderkit init`.", show_default=False)]
Data = Annotated[
    list[Path],
    typer.Option(
        "--data",
        metavar="FILE",
        help=".txt, .jsonl, .json, .csv, .tsv, .parquet, also compressed; - is stdin; repeatable.",
        show_default=False,
    ),
]
OptionalRecipe = Annotated[
    Path | None, typer.Argument(metavar="[RECIPE]", help="A YAML file with all other keys.", show_default=False)
]

Segment = Annotated[
    str | None,
    typer.Option("--segment", metavar="KIND", help="Word starts by a segmenter: zh (extra zh), jieba.", show_default=False),
]
Dictionary = Annotated[
    Path | None,
    typer.Option("--dictionary", metavar="FILE", help="Words the segmenter keeps whole, one a line.", show_default=False),
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
    from encoderkit.recipe import TokenizerRecipe
    from encoderkit.stages.show import read

    flags = [f"{key}={value}" for key, value in (("kind", kind), ("vocab_size", vocab_size)) if value is not None]
    loaded = read(TokenizerRecipe, recipe, with_flags(settings, flags))
    preflight.corpus(data, out, overwrite)
    from encoderkit.stages import train_tokenizer as stage

    print_result(stage.run(data, loaded, loaded.corpus, out, overwrite), json)


@app.command(rich_help_panel=MAKE)
def tokenize(
    data: Data,
    tokenizer: Annotated[Path, typer.Option("--tokenizer", help="A directory written by train-tokenizer.", show_default=False)],
    out: Out,
    recipe: OptionalRecipe = None,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=1,
            help="Processes; one a core if not given. Threads of a library are not counted.",
            show_default=False,
        ),
    ] = None,
    segment: Segment = None,
    dictionary: Dictionary = None,
    settings: Settings = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Turn raw text into a token store."""
    from json import dumps

    from encoderkit import preflight
    from encoderkit.recipe import CorpusRecipe
    from encoderkit.stages.show import read

    chosen = {"segment.kind": segment, "segment.dictionary": None if dictionary is None else str(dictionary)}
    flags = [f"{key}={dumps(value, ensure_ascii=False)}" for key, value in chosen.items() if value is not None]
    loaded = read(CorpusRecipe, recipe, with_flags(settings, flags))
    preflight.directory(tokenizer, "a tokenizer directory", "train-tokenizer")
    preflight.corpus(data, out, overwrite=True)  # a store that is there may be the one wanted: the stage looks
    preflight.apart(out, tokenizer)
    from encoderkit.stages import tokenize_corpus as stage

    print_result(stage.run(data, tokenizer, loaded, out, workers, overwrite, loaded.segment), json)


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
    from encoderkit.recipe import PretrainRecipe
    from encoderkit.stages.show import read

    loaded = read(PretrainRecipe, recipe, settings)
    preflight.pretrain(loaded, out, resume, overwrite)
    from encoderkit.stages import pretrain as stage

    print_result(stage.pretrain(loaded, out, resume, overwrite), json)


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
    from encoderkit.recipe import FinetuneRecipe
    from encoderkit.stages.show import read

    loaded = read(FinetuneRecipe, recipe, settings)
    preflight.finetune(loaded, out, resume, overwrite)
    from encoderkit.stages import finetune as stage

    print_result(stage.finetune(loaded, out, resume, overwrite), json)


@app.command(rich_help_panel=MAKE)
def tune(
    recipe: RecipeFile,
    out: Out,
    search: Annotated[
        list[str] | None,
        typer.Option(
            "--search",
            metavar="KEY=VALUES",
            help="optimizer.lr=1e-4..1e-2:log or training.least=500,1000; repeatable; the usual keys if not given.",
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="20 if not given, nor a budget.", show_default=False)
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="TIME", help="Begin no trial after this long.", show_default=False)
    ] = None,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Search for better values of a fine-tuning recipe, on dev alone; run again to go on."""
    from encoderkit import preflight
    from encoderkit.recipe import FinetuneRecipe
    from encoderkit.stages import space
    from encoderkit.stages.show import read

    loaded = read(FinetuneRecipe, recipe, settings, "tune")
    time = None if budget is None else seconds_of(budget)
    preflight.tune(loaded, out)
    space.read_space(search or [], loaded.model_dump(mode="json", exclude_unset=True))
    from encoderkit.stages import tune as stage

    value = stage.tune(loaded, out, search or [], trials, time)
    print_result(value, json, stage.describe)
