"""What can be told from the recipe and the file system alone: checked before torch is even imported."""

import difflib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from encoderkit import files, world
from encoderkit.console import warn
from encoderkit.data.parallel import Given, paths_of
from encoderkit.errors import ANEW, DataError, ResourceError, UsageError, need, shown
from encoderkit.models.config import DecoderConfig, EncoderConfig, longest
from encoderkit.objectives.config import misfit
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe, unfit
from encoderkit.tasks.config import GenerateConfig, TaskConfig

_MADE_BY = {"encoderkit.json": "train-tokenizer", "meta.json": "tokenize"}


def directory(path: str | Path, kind: str, command: str) -> Path:
    """`path`, if it is a directory; `kind` and `command` say what is wanted and what makes it."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        name = command.split()[0]
        raise UsageError(f"expected {kind}, but this is a file", where=folder, fix=f"the directory that {name} wrote")
    raise UsageError(f"expected {kind}, but there is nothing here", where=folder, fix=f"encoderkit {command} ... --out {folder}")


def input_file(path: str | Path) -> Path:
    """`path`, if it is a file that can be read."""
    file = Path(path)
    if not file.exists():
        column, _, rest = str(path).partition("=")
        if rest and Path(rest).is_file():
            message = "is one file of a column, and rows in such files have another for each other column"
            raise UsageError(message, where=path, fix=f"--data {column}=FILE --data OTHER=FILE")
        names = sorted(p.name for p in file.parent.iterdir() if p.name[0] != ".") if file.parent.is_dir() else []
        near = difflib.get_close_matches(file.name, names, 8, 0)
        there = f"{file.parent} is empty" if file.parent.is_dir() else f"there is no folder {file.parent}"
        there = f"; in {file.parent} there are {', '.join(near)}" if near else f"; {there}"
        what = f"is a link to {file.readlink()}, which is not there" if file.is_symlink() else f"there is no such file{there}"
        raise UsageError(what, where=file, fix="look at the path; it is relative to where you are")
    if file.is_dir():
        raise UsageError("expected a file of rows, but this is a directory", where=file, fix="name a file in it")
    return file


def find_step(path: str | Path) -> Path:
    """The model directory that `path` means: a step itself, or a run's best step (its last if none is best)."""
    if Path(path).is_file() and (Path(path).parent / "config.json").is_file():
        fix = f"the directory that holds it: {Path(path).parent}"
        raise UsageError("expected a run or a model directory, but this is a file of one", where=path, fix=fix)
    folder = directory(path, "a run or a model directory", "pretrain")
    if not (folder / files.MANIFEST).exists() and _foreign(folder / "config.json"):
        fix = f"encoderkit import {path} --out runs/base"
        raise UsageError("this is a checkpoint of transformers, and not yet a model directory of ours", where=folder, fix=fix)
    if (folder / "config.json").is_file() and (folder / "model.safetensors").is_file():
        return folder
    for pointer in ("best", "last"):
        if (folder / pointer).is_file():
            name = (folder / pointer).read_text(encoding="utf-8", errors="replace").strip()
            if not (folder / name / "config.json").is_file():
                message = f"names {shown(name)}, and there is no model of this name; the run is damaged"
                raise DataError(message, where=folder / pointer, fix="name one of its steps instead of the run")
            return folder / name
    held = next((f"it was written by {made}" for name, made in _MADE_BY.items() if (folder / name).exists()), None)
    if held is None:
        held = "its run has saved no checkpoint yet" if (folder / "recipe.yaml").exists() else "it holds neither"
    fix = "name what encoderkit pretrain, finetune or import wrote"
    raise UsageError(f"expected a run or a model directory, but {held}", where=folder, fix=fix)


def output(out: Path, resume: bool, overwrite: bool) -> None:
    """Refuse to write over anything unasked."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other", fix="--resume goes on, --overwrite begins anew")
    if not world.first():
        return  # the first process may be writing there already
    if out.exists() and not out.is_dir():
        raise UsageError("a run needs a directory, but this is a file", where=out, fix="another --out")
    if not resume:
        files.refuse_existing(out, overwrite, resume=True)


def apart(out: Path, *inputs: str | Path | None, flag: str = "--out") -> None:
    """What is replaced must not hold what is read."""
    target = out.resolve()
    for path in inputs:
        if path is not None and Path(path).resolve().is_relative_to(target):
            raise UsageError(f"would be replaced, and this command reads {path}", where=out, fix=f"another {flag}")


def file_out(out: Path | None, source: Given | None, flag: str, overwrite: bool) -> None:
    """The file that `flag` names may be written, and is not what is read."""
    if out is None:
        return
    if out.is_dir():
        raise UsageError("a file is to be written, but this is a directory", where=out, fix=f"{flag} {out / 'NAME'}")
    files.refuse_existing(out, overwrite, flag=flag, file=True)
    if source is not None:
        apart(out, *paths_of(source), flag=flag)
    folder = next(folder for folder in out.absolute().parents if folder.exists())
    if not os.access(folder, os.W_OK):
        raise ResourceError("cannot be written to", where=folder, fix=f"another {flag}")


def corpus(paths: list[Path], out: Path, overwrite: bool) -> None:
    """All files of text are there, and `out` may be written."""
    for path in paths:
        text_file(path)
    files.refuse_existing(out, overwrite)
    apart(out, *paths)


def pretrain(recipe: PretrainRecipe, out: Path, resume: bool, overwrite: bool) -> None:
    """All that a pretraining recipe names is there, and is of the kind it should be; `out` may be written."""
    stores = pretrain_inputs(recipe)
    if overwrite:
        apart(out, recipe.checkpoint, recipe.tokenizer, *stores)
    output(out, resume, overwrite)


def pretrain_inputs(recipe: PretrainRecipe) -> list[str]:
    """All that a pretraining recipe names is there, and is of the kind it should be; its token stores."""
    embeddings(recipe.embeddings)
    tokenizer = recipe.tokenizer
    if recipe.checkpoint is not None:
        step = find_step(recipe.checkpoint)
        check_length(step, recipe.data.length)
        if reason := misfit(recipe.objective, encoder_of(step, recipe.dropout)):
            raise UsageError(reason, where=recipe.checkpoint, fix=None)
        tokenizer = str(step / "tokenizer")
    directory(tokenizer or "", "a tokenizer directory", "train-tokenizer")
    stores = [recipe.data.train] + ([recipe.data.dev] if isinstance(recipe.data.dev, str) else [])
    for store in stores:
        folder = directory(store, "a token store", f"tokenize --tokenizer {tokenizer} --data FILE")
        if not (folder / "meta.json").is_file():
            fix = f"encoderkit tokenize --tokenizer {tokenizer} --data FILE --out DIR"
            raise UsageError("this is not a token store", where=folder, fix=fix)
    return stores


def finetune(recipe: FinetuneRecipe, out: Path, resume: bool, overwrite: bool) -> None:
    """All that a fine-tuning recipe names is there, and is of the kind it should be; `out` may be written."""
    data = finetune_inputs(recipe)
    if overwrite:
        apart(out, recipe.checkpoint, recipe.tokenizer, _target(recipe), *data)
    output(out, resume, overwrite)


def _target(recipe: FinetuneRecipe) -> str | None:
    """The directory of the target's own tokenizer."""
    return recipe.task.tokenizer if isinstance(recipe.task, GenerateConfig) else None


def finetune_inputs(recipe: FinetuneRecipe) -> list[Path]:
    """All that a fine-tuning recipe names is there, and is of the kind it should be; its files of rows."""
    data = [path for given in recipe.data.files.values() for path in paths_of(given)]
    for path in data:
        input_file(path)
    embeddings(recipe.embeddings)
    if recipe.tokenizer is not None:
        directory(recipe.tokenizer, "a tokenizer directory", "train-tokenizer")
    if target := _target(recipe):
        directory(target, "a tokenizer directory", "train-tokenizer")
    if recipe.checkpoint is not None:
        step = find_step(recipe.checkpoint)
        check_length(step, recipe.data.length)
        if target and getattr(recipe.task, "decoder", None) is None and decoder_of(step) is not None:
            message = f"the decoder of {recipe.checkpoint} writes with the checkpoint's own vocabulary, and no other fits it"
            raise UsageError(message, where="task.tokenizer", fix="leave it out, or describe a new decoder: task.decoder")
        if reason := unfit(encoder_of(step, None), task_of(recipe, step), recipe.dropout):
            raise UsageError(reason, where=step, fix=None)
    return data


def tune(recipe: FinetuneRecipe, out: Path) -> None:
    """A search has a dev set to judge by, all that its trials read is there, and so is Optuna; the test set is not looked at."""
    need("optuna", "tune needs", "tune")
    if not recipe.data.dev:
        raise UsageError("tune judges by a dev set, and the recipe has none", where="data.dev", fix="--set data.dev=10%")
    output(out, resume=True, overwrite=False)
    finetune_inputs(recipe.model_copy(update={"data": recipe.data.model_copy(update={"test": None})}))


def embeddings(path: str | None) -> None:
    """What a recipe begins with is there: a file of word vectors, or a model."""
    if path is not None and Path(path).is_dir():
        find_step(path)
    elif path is not None:
        input_file(path)


def check_length(step: Path, length: int) -> None:
    """A checkpoint's positions must hold `length` tokens; says where those that are learned were not all trained."""
    config, limit = _config(step), longest(encoder_of(step, None))
    if config["encoder"].get("position") == "learned" and "recipe" in config and length > config["length"]:
        known = config["length"]
        warn(f"{step} was trained on rows of {known} tokens: its positions from there to data.length ({length}) are untrained")
    if limit is not None and length > limit:
        fix = f"--set data.length={limit}"
        raise UsageError(f"data.length is {length}, but the checkpoint {shown(str(step))} has {limit} positions", fix=fix)


def encoder_of(step: Path, dropout: float | None) -> EncoderConfig:
    """What kind of encoder a model directory holds, with `dropout` instead of its own if that is given."""
    config = _understood(EncoderConfig, _config(step)["encoder"], step)
    return config if dropout is None else config.model_copy(update={"dropout": dropout})


def decoder_of(step: Path) -> Any:
    """What config.json says of the decoder in a model directory; None if it has none."""
    config = _config(step)
    return (config.get("objective") or config.get("task") or {}).get("decoder")


def task_of(recipe: FinetuneRecipe, step: Path | None) -> TaskConfig:
    """The task; one that writes with its decoder, that of the checkpoint where there is one and the recipe describes none."""
    task = recipe.task
    if not isinstance(task, GenerateConfig) or task.decoder is not None:
        return task
    before = step and decoder_of(step)
    return task.model_copy(update={"decoder": _understood(DecoderConfig, before, step) if step and before else task.writer})


def text_file(path: Path) -> None:
    """`path` is a file, or `-` for standard input."""
    if str(path) != "-":
        input_file(path)


def evaluated(step: Path, data: Given) -> None:
    """`data` is what the model in `step` can be evaluated on: rows for a task, a token store for a pretrained model."""
    first, *others = paths_of(data)
    if "task" in _config(step):
        for path in (first, *others):
            text_file(path)
    elif others or not (first / "meta.json").is_file():
        found = "a file" if first.is_file() else "something else" if first.exists() else "not there"
        fix = f"encoderkit tokenize --tokenizer {step / 'tokenizer'} --data FILE --out DIR, then --data DIR"
        raise UsageError(f"{step} is a pretrained model and is evaluated on a token store; this is {found}", where=first, fix=fix)


def renamed(step: Path, given: list[str]) -> dict[str, str]:
    """What the columns that the model in `step` was trained with are called in another file, from COLUMN=NAME each."""
    pairs = [one.partition("=") for one in given]
    task = _task(step)
    if given and task is None:
        fix = "encoderkit evaluate RUN --data STORE, which encoderkit tokenize wrote"
        raise UsageError("is of labelled rows, and a pretrained model is evaluated on tokens", where="--column", fix=fix)
    known = [] if task is None else [*task.all_columns, *task.optional_columns]
    for (column, _, name), one in zip(pairs, given, strict=True):
        if not (column and name):
            raise UsageError(
                f"is a column of the model and what it is called in the file, found {shown(one)}",
                where="--column",
                fix=f"--column {known[0]}=NAME",
            )
        if column not in known:
            message = f"{shown(column)} is no column that the model was trained with; those are {', '.join(known)}"
            (near,) = difflib.get_close_matches(column, known, 1, 0)
            raise UsageError(message, where="--column", fix=f"--column {near}={name}")
    return {column: name for column, _, name in pairs}


def suite(kind: str, step: Path, data: list[Path], against: Path | None = None, errors: Path | None = None) -> None:
    """The files of a suite are there, and for minimal pairs the model in `step` was pretrained and not fine-tuned."""
    if errors is not None:
        raise UsageError("is for labelled rows, not for a suite", where="--errors", fix="leave it out")
    for path in data:
        if not path.is_dir():
            input_file(path)
    for model in (step, *([against] if against else [])):
        if kind == "minimal_pairs" and "task" in _config(model):
            raise UsageError(
                "was fine-tuned for a task, and gives sentences no likelihood", where=model, fix="the run it was fine-tuned from"
            )


def only_for_rows(**given: object) -> None:
    """Nothing was given, by the names of flags, that a suite has not; raises `UsageError`."""
    for flag in (f"--{name.replace('_', '-')}" for name, value in given.items() if value):
        raise UsageError("is for labelled rows, not for a suite", where=flag, fix="leave it out")


def masked(kind: str | None, masking: str | None) -> dict[str, str]:
    """The setting of a suite that `--masking` is, if it was given; raises `UsageError` where nothing is hidden."""
    if masking is not None and kind != "minimal_pairs":
        raise UsageError("is for --suite minimal_pairs", where="--masking", fix="leave it out")
    return {} if masking is None else {"masking": masking}


def without_suite(data: list[Path]) -> Path | dict[str, str]:
    """What a model is evaluated on without a suite: one thing, or COLUMN=FILE for each column."""
    if len(data) == 1:
        return data[0]
    pairs = [str(path).partition("=") for path in data]
    by_column = {column: path for column, _, path in pairs if column and path}
    if len(by_column) < len(data):
        message = f"is one file or token store without --suite, or a file for each column, found {len(data)}"
        fix = f"--data {data[0]}, and the others in commands of their own; of a file for each column, --data COLUMN=FILE"
        raise UsageError(message, where="--data", fix=fix)
    return by_column


def predicted(step: Path, source: Path | None, texts: list[str], pairs: list[str]) -> list[list[str]]:
    """The rows of `--text` and `--text-pair`; none where there is a `source`. Raises `UsageError` for what does not fit."""
    if (source is None) == (not texts):
        raise UsageError("predict takes a file, - for standard input, or --text", fix=f'encoderkit predict {step} --text "..."')
    if source is not None:
        text_file(source)
    task = _task(step)
    if texts and task is not None and not task.typed:
        raise UsageError(f"the model reads {' and '.join(task.columns)}, and --text is one text", fix="a file with these columns")
    pair = task is not None and len(task.columns) == 2
    if pairs and (not pair or len(pairs) != len(texts)):
        found = f"{len(texts)} --text and {len(pairs)} --text-pair" if pair else "but the model reads single texts"
        raise UsageError(
            f"each --text has one --text-pair, {found}" if pair else f"there is a --text-pair, {found}",
            fix="as many of --text-pair as of --text, in their order" if pair else "leave it out",
        )
    if texts and pair and not pairs:
        raise UsageError("the model reads pairs of texts", fix='--text "..." --text-pair "..."')
    _refuse_broken([*texts, *pairs])
    return [[text, other] for text, other in zip(texts, pairs, strict=True)] if pair else [[text] for text in texts]


def drawn(step: Path, temperature: float | None, top_k: int | None, top_p: float | None, seed: int | None) -> bool:
    """Whether predictions are to be drawn, as by a model that writes they can be; raises `UsageError` for what does not fit."""
    given = {"--temperature": temperature, "--top-p": top_p, "--seed": seed}
    flags = [flag for flag, value in given.items() if value is not None]
    writes = isinstance(_task(step), GenerateConfig)
    if flags and not writes:
        message = "is for a model that writes texts (task.kind: generate), and this is none"
        raise UsageError(message, where=flags[0], fix="leave it out")
    if temperature == 0 and seed is not None:
        message = "always takes the likeliest token: --seed changes nothing"
        raise UsageError(message, where="--temperature 0", fix="leave one of them out")
    return writes and bool(flags or top_k)


def _task(step: Path) -> TaskConfig | None:
    """The task of the model in `step`; None for a pretrained model."""
    task = _config(step).get("task")
    return None if task is None else _understood(TaskConfig, task, step)


def _understood(kind: Any, part: Any, step: Path) -> Any:
    """A part of a config.json as the config that it is; raises `DataError` if it is none."""
    try:
        return TypeAdapter(kind).validate_python(part)
    except ValidationError as error:
        message = f"cannot be understood: {str(error).splitlines()[0]}"
        raise DataError(message, where=step / "config.json", fix=ANEW) from None


def generated(step: Path, source: Path | None, texts: list[str]) -> None:
    """The model in `step` can write, and there is a file or a text to begin from."""
    objective = _config(step).get("objective")
    kind = objective.get("kind") if isinstance(objective, dict) else None
    if kind != "causal":
        found = f"was pretrained by objective.kind: {kind}" if kind else "was fine-tuned for a task"
        raise UsageError(
            f"only a model that guesses next tokens can write (objective.kind: causal), and this one {found}",
            where=step,
            fix="encoderkit init pretrain --kind gpt-mini",
        )
    if (source is None) == (not texts):
        raise UsageError("generate takes a file, - for standard input, or --text", fix=f'encoderkit generate {step} --text "..."')
    if source is not None:
        text_file(source)
    _refuse_broken(texts)


def _refuse_broken(texts: list[str]) -> None:
    for text in texts:
        if any("\ud800" <= c <= "\udfff" for c in text):
            fix = "set the terminal to UTF-8, or give the texts in a file"
            raise UsageError(f"is not valid UTF-8: {shown(text)}", where="--text", fix=fix)


def _foreign(path: Path) -> bool:
    """Whether a config.json is one of transformers."""
    with suppress(OSError, ValueError, RecursionError):
        described = json.loads(path.read_bytes())
        return isinstance(described, dict) and "encoder" not in described and bool({"model_type", "architectures"} & {*described})
    return False


def _config(step: Path) -> dict[str, Any]:
    config = files.read_json(step / "config.json")
    if not isinstance(config, dict) or not isinstance(config.get("encoder"), dict):
        raise DataError("not a config.json of encoderkit", where=step / "config.json", fix=ANEW)
    return config
