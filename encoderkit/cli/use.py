"""The commands that use a model: evaluate, predict, generate, embed."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from encoderkit.cli.app import USE, Json, Model, app, named_as_written, print_result

PrecisionOption = Annotated[
    Literal["auto", "fp32", "bf16"], typer.Option("--precision", help="auto: bf16 where this machine is faster with it.")
]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch", min=1, help="Rows at once; if not given, as many as 2,048 tokens (16,384 on a GPU).", show_default=False
    ),
]
Beams = Annotated[
    int | None,
    typer.Option("--beams", min=1, max=100, help="Beam search with so many beams, for models that write.", show_default=False),
]
LengthPenalty = Annotated[
    float | None,
    typer.Option("--length-penalty", help="Beams: more favours longer texts; 1 is the usual one.", show_default=False),
]
Least = Annotated[
    list[str] | None,
    typer.Option("--min", metavar="METRIC=VALUE", help="End with 4 if a metric is less; repeatable.", show_default=False),
]
Most = Annotated[
    list[str] | None,
    typer.Option(
        "--max", metavar="METRIC=VALUE", help="End with 4 if it is more; truncated: share of rows cut.", show_default=False
    ),
]
Masking = Annotated[
    Literal["token", "within_word"] | None,
    typer.Option(
        "--masking",
        help="Of minimal_pairs, for masked models and T5's: hide each token alone, or with what follows in its word.",
        show_default=False,
    ),
]
Suite = Literal["minimal_pairs", "wordsim", "analogy"]
Column = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="NAME", help="The column of the text, or its number; twice for a pair.", show_default=False),
]

Measured = Annotated[
    list[Path],
    typer.Option(
        "--data",
        help="Labelled rows, or COLUMN=FILE for each column; for a pretrained model, a token store; of a suite, files.",
        show_default=False,
    ),
]
Called = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="COLUMN=NAME",
        help="What a column that the model was trained with is called in --data; repeatable.",
        show_default=False,
    ),
]


@app.command(rich_help_panel=USE)
def evaluate(
    model: Model,
    data: Measured,
    suite: Annotated[
        Suite | None,
        typer.Option(
            "--suite",
            help="minimal_pairs (BLiMP's form) of a pretrained model; wordsim or analogy of the words of any.",
            show_default=False,
        ),
    ] = None,
    masking: Masking = None,
    precision: PrecisionOption = "auto",
    batch: BatchOption = None,
    against: Annotated[
        Path | None,
        typer.Option("--against", metavar="MODEL", help="Another model: is the difference more than chance?", show_default=False),
    ] = None,
    no_baselines: Annotated[bool, typer.Option("--no-baselines", help="Do not fit the simple models beside it.")] = False,
    errors: Annotated[
        Path | None,
        typer.Option("--errors", metavar="FILE", help="Write all rows as .jsonl, the worst first.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that --errors names.")] = False,
    column: Called = None,
    beams: Beams = None,
    length_penalty: LengthPenalty = None,
    least: Least = None,
    most: Most = None,
    json: Json = False,
) -> None:
    """Measure a model on labelled data, beside simple baselines, or by a suite."""
    from encoderkit import preflight
    from encoderkit.stages import gate

    bounds = gate.bounds(least or [], most or [])
    step = preflight.find_step(model)
    other = None if against is None else preflight.find_step(against)
    settings = preflight.masked(suite, masking)
    if suite is not None:
        preflight.only_for_rows(
            column=column, beams=beams, length_penalty=length_penalty, min=least, max=most, no_baselines=no_baselines
        )
        preflight.suite(suite, step, data, other, errors)
        from encoderkit.stages import suites

        return print_result(suites.evaluate(suite, step, data, precision, batch, other, **settings), json, suites.describe)
    one = preflight.without_suite(data)
    preflight.evaluated(step, one)
    columns = preflight.renamed(step, column or [])
    named_as_written(errors, "jsonl", "--errors")
    preflight.file_out(errors, one, "--errors", overwrite)
    from encoderkit.stages import evaluate as stage

    result = stage.evaluate(
        step, one, precision, batch, not no_baselines, other, errors, overwrite, columns, beams, length_penalty, bounds
    )
    print_result(result, json, stage.describe)
    gate.hold(bounds, result)


@app.command(rich_help_panel=USE)
def predict(
    model: Model,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help=".txt, .jsonl, .json, .csv, .tsv or .parquet; - for stdin.", show_default=False),
    ] = None,
    text: Annotated[list[str] | None, typer.Option("--text", help="A text; repeatable.", show_default=False)] = None,
    text_pair: Annotated[
        list[str] | None, typer.Option("--text-pair", help="The second text of a pair; repeatable.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The file to write; stdout if not given.", show_default=False)] = None,
    form: Annotated[Literal["jsonl", "csv"] | None, typer.Option("--format", help="csv where --out ends so, else jsonl.")] = None,
    column: Column = None,
    top: Annotated[
        int | None,
        typer.Option(
            "--top-k",
            min=1,
            help="Only the k best scores, best first; of tokens that are drawn, the k likeliest.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", min=0, help="Draw tokens, for models that write; below 1 favours likely ones.", show_default=False
        ),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", help="Draw only from the likeliest that make up this probability.", show_default=False),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=2**63 - 1, help="Every draw follows from it; 17 if not given.", show_default=False),
    ] = None,
    beams: Beams = None,
    length_penalty: LengthPenalty = None,
    precision: PrecisionOption = "auto",
    batch: BatchOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file that --out names.")] = False,
) -> None:
    """Predict the labels of texts; a pretrained model fills [MASK], or flags replaced tokens."""
    from encoderkit import preflight

    step = preflight.find_step(model)
    rows = preflight.predicted(step, source, text or [], text_pair or [])
    preflight.file_out(out, source, "--out", overwrite)
    drawn = preflight.drawn(step, temperature, top, top_p, seed)
    from encoderkit.stages import predict as stage

    sampling = stage.Sampling(1.0 if temperature is None else temperature, top, top_p) if drawn else None
    form = form or ("csv" if out is not None and out.suffix.lower() == ".csv" else "jsonl")
    named_as_written(out, form, "--out")
    kept = None if drawn else top
    first = 17 if seed is None else seed
    stage.predict(
        step, source, rows, out, form, column, kept, precision, batch, overwrite, sampling, first, beams, length_penalty
    )


@app.command(rich_help_panel=USE)
def generate(
    model: Model,
    source: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help=".txt, .jsonl, .json, .csv, .tsv or .parquet; - for stdin.", show_default=False),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help='How it begins; "" for anything at all; repeatable.', show_default=False),
    ] = None,
    count: Annotated[int, typer.Option("-n", min=1, help="Texts for each beginning.")] = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="The most tokens to write.")] = 64,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="0 always takes the likeliest token; below 1 likelier ones more often.")
    ] = 1.0,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Draw from the k likeliest tokens alone.", show_default=False)
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option("--top-p", help="Draw from the likeliest tokens that make up this probability.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, max=2**63 - 1, help="Every draw follows from it.")] = 17,
    column: Annotated[
        str | None,
        typer.Option("--column", metavar="NAME", help="The column of the text, or its number; else text.", show_default=False),
    ] = None,
    precision: PrecisionOption = "auto",
    json: Json = False,
) -> None:
    """Continue texts with a model that guesses next tokens (objective causal)."""
    from encoderkit import preflight

    step = preflight.find_step(model)
    preflight.generated(step, source, text or [])
    from encoderkit.stages import generate as stage

    sampling = stage.Sampling(temperature, top_k, top_p)
    result = stage.generate(step, source, text or [], count, max_tokens, sampling, seed, column, precision)
    print_result(result, json, stage.describe)


@app.command(rich_help_panel=USE)
def embed(
    model: Model,
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help=".txt, .jsonl, .json, .csv, .tsv or .parquet; - for stdin.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", help="The .npy file to write.", show_default=False)],
    pooling: Annotated[
        Literal["cls", "mean", "max", "last"] | None,
        typer.Option(
            "--pooling", help="From one vector a token to one a text: that of a similarity model, else mean.", show_default=False
        ),
    ] = None,
    normalize: Annotated[bool, typer.Option("--normalize", help="Scale every vector to length 1.")] = False,
    dimensions: Annotated[
        int | None,
        typer.Option("--dimensions", min=1, help="So many of the first ones, if it was trained for that.", show_default=False),
    ] = None,
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
    preflight.file_out(out, source, "--out", overwrite)
    from encoderkit.stages import embed as stage

    result = stage.embed(step, source, out, pooling, normalize, column, precision, batch, overwrite, dimensions)
    print_result(result, json)
