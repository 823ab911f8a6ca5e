"""`encoderkit predict`: what a model says of texts, a line each, in the order of the input."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from encoderkit import files
from encoderkit.console import many, progress, say
from encoderkit.data.labelled import Row
from encoderkit.data.order import rng
from encoderkit.data.unlabelled import open_texts
from encoderkit.errors import DataError, UsageError
from encoderkit.inference import (
    Account,
    Engine,
    Precision,
    by_row,
    check_blank,
    fill,
    open_model,
    start,
    suspicions,
    with_blanks,
)
from encoderkit.models.decoding import Sampling
from encoderkit.objectives.masked import Masked
from encoderkit.objectives.permuted import Permuted
from encoderkit.objectives.replaced import Replaced
from encoderkit.tasks.generate import Generate
from encoderkit.tasks.task import Observed, Task
from encoderkit.tasks.texts import Tokens, named

WINDOW = 4096
"""Rows in memory at once; within a window, rows of like length are computed together."""

Form = Literal["jsonl", "csv"]
T = TypeVar("T")


def searching(task: Task | None, beams: int | None, length_penalty: float | None, drawn: bool = False) -> None:
    """See `Generate.search`; raises `UsageError` for a model that does not write, and for one whose tokens are `drawn`."""
    if drawn and beams is not None:
        reason = "are followed to the likeliest text, and none is drawn"
        raise UsageError(reason, where="--beams", fix="leave out --temperature, --top-k, --top-p and --seed, or this")
    if isinstance(task, Generate):
        task.search(beams, length_penalty)
    elif (beams, length_penalty) != (None, None):
        flag = "--beams" if beams is not None else "--length-penalty"
        raise UsageError("is for models that write (task generate)", where=flag, fix="leave it out")


def windows(rows: Iterable[T]) -> Iterator[list[T]]:
    """The rows, `WINDOW` at a time."""
    rows = iter(rows)
    while window := list(islice(rows, WINDOW)):
        yield window


def predict(
    step: Path,
    source: Path | None,
    texts: Sequence[Sequence[str]] = (),
    out: Path | None = None,
    form: Form = "jsonl",
    columns: Sequence[str] | None = None,
    top: int | None = None,
    precision: Precision = "auto",
    batch: int | None = None,
    overwrite: bool = False,
    sampling: Sampling | None = None,
    seed: int = 17,
    beams: int | None = None,
    length_penalty: float | None = None,
) -> Account:
    """Predict the rows of `source` (`-`: standard input), or `texts`, to `out` or stdout; what was read.

    With `sampling` a model that writes draws its tokens: what it draws for row i depends on the seed and i alone; else it
    follows `beams`, compared with `length_penalty`, in place of those that it was trained with.

    A file is read twice, so that a row that cannot be used is told before anything is computed.
    """
    if out is not None:
        files.refuse_existing(out, overwrite, file=True)
    engine = start(open_model(step), precision, batch)
    task = engine.model.task
    searching(task, beams, length_penalty, sampling is not None)
    predictor = _predictor(engine, top, sampling, seed)
    if form == "csv" and not predictor.fields:
        raise UsageError("what a pretrained model says of tokens is written as jsonl", fix="--format jsonl")
    optional = [] if task is None else task.config.repeated
    rows = _rows(predictor.columns, source, texts, columns, optional)
    total, repeated = 0, set[str]()
    for row in rows():
        total += 1
        predictor.check(row)
        repeated.update(name for name in optional if name in row.values)
    header, line = _written(predictor, form, sorted(repeated - {*predictor.fields}))
    if not total:
        raise DataError("holds no row", where="standard input" if str(source) == "-" else source, fix="give it at least one text")
    account = Account()
    quiet = out is None and sys.stdout.isatty()
    with (
        files.staged_file(out, overwrite) if out else nullcontext(sys.stdout.buffer) as target,
        nullcontext() if quiet else progress("predicting", total, "rows") as bar,
    ):
        target.write(header)
        for window in windows(rows()):
            entries, read = predictor.entries(window)
            target.write("".join(map(line, entries)).encode())
            account = account.add_each(read, engine.model.learner.vocabulary.unknown)
            if bar is not None:
                bar.advance(len(window))
        if out is None:
            sys.stdout.flush()
    length, task = engine.model.config["length"], engine.model.task
    say(account.told(*((length,) if task is None else task.config.read(length))))
    return account


def _predictor(engine: Engine, top: int | None, sampling: Sampling | None, seed: int) -> "_Predictor":
    if sampling is not None:
        sampling.check()
        return _Drawn(engine, sampling, seed)
    task = engine.model.task
    return _pretrained(engine, top) if task is None else _Rows(engine, task, top)


def _rows(
    names: Sequence[str],
    source: Path | None,
    texts: Sequence[Sequence[str]],
    columns: Sequence[str] | None,
    optional: Sequence[str],
) -> Callable[[], Iterator[Row]]:
    """The rows, as often as they are asked for, under the `names` of what the model reads; `columns`: what a file calls them.

    `optional`: what a prediction repeats where a file has it.
    """
    if source is None and columns is not None:
        raise UsageError("names columns of a file, and --text has none", where="--column", fix="leave it out")
    if source is None:
        return lambda: (Row(dict(zip(names, row, strict=True)), i, "--text", typed=True) for i, row in enumerate(texts, start=1))
    named, columns = columns is not None, names if columns is None else columns
    if len(columns) != len(names):
        message = f"the model reads {many(len(names), 'column')}, found {len(columns)}"
        raise UsageError(message, where="--column", fix=f"one for each of {', '.join(names)}")
    held = open_texts(source, columns, optional, named)
    if list(columns) == list(names):
        return held.whole
    renamed = dict(zip(names, columns, strict=True))
    return lambda: (row._replace(values=row.values | {n: row.values[c] for n, c in renamed.items()}) for row in held.whole())


class _Predictor(Protocol):
    """How the predictions of a model are made."""

    @property
    def columns(self) -> Sequence[str]:
        """What it reads."""
        ...

    @property
    def fields(self) -> Sequence[str]:
        """Of .csv; none where there is no such form."""
        ...

    def check(self, row: Row) -> None:
        """Raise `DataError` for a row that cannot be used."""
        ...

    def entries(self, rows: Sequence[Row]) -> tuple[Iterable[dict[str, Any]], list[list[Tokens]]]:
        """The prediction of each row, and what was read of it."""
        ...


class _Rows:
    """What a task says of rows."""

    def __init__(self, engine: Engine, task: Task, top: int | None) -> None:
        self._engine, self._task, self._top = engine, task, top
        self.columns, self.fields = task.config.columns, [*task.fields, *(task.listed if top is not None else ())]
        if top is not None and not task.choices:
            raise UsageError(
                f"predictions of {task.config.kind} have no scores to choose from", where="--top-k", fix="leave it out"
            )
        if top is not None and not 1 <= top <= task.choices:
            what = ", the number of labels" if task.labels else ""
            message = f"should be between 1 and {task.choices}{what}, found {top}"
            raise UsageError(message, where="--top-k", fix=f"--top-k {task.choices}")

    def check(self, row: Row) -> None:
        """The texts are there."""
        self._task.texts(row)

    def entries(self, rows: Sequence[Row]) -> tuple[Iterable[dict[str, Any]], list[list[Tokens]]]:
        """One a row, whatever it was cut into."""
        examples = self._task.encode(rows, self._engine.model.tokenizer, labelled=False)
        found = self._task.predictions(rows, examples, self._observe(examples), self._top)
        return found, by_row(examples)

    def _observe(self, examples: Sequence[Any]) -> Observed:
        return self._engine.observe(examples)


class _Drawn(_Rows):
    """What a model that writes draws for rows."""

    def __init__(self, engine: Engine, sampling: Sampling, seed: int) -> None:
        assert isinstance(engine.model.learner, Generate), "preflight says so to the user"
        super().__init__(engine, engine.model.learner, None)
        self._writer, self._sampling, self._seed, self._before = engine.model.learner, sampling, seed, 0

    def _observe(self, examples: Sequence[Any]) -> Observed:
        written: list[list[int]] = [[]] * len(examples)
        with self._engine.arithmetic():
            for numbers in self._engine.batches([example.size for example in examples]):
                inputs = self._writer.collate([examples[i] for i in numbers]).inputs.to(self._engine.device)
                rngs = [rng(self._seed, self._before + i, 0) for i in numbers.tolist()]
                for i, ids in zip(numbers.tolist(), self._writer.draw(inputs, rngs, self._sampling), strict=True):
                    written[i] = ids
        self._before += len(examples)
        return {"written": written}


class _Blanks:
    """What a masked model puts into the blanks of texts."""

    columns = ("text",)
    fields = ()

    def __init__(self, engine: Engine, top: int | None) -> None:
        if not isinstance(engine.model.learner, Masked | Permuted):
            message = "was pretrained to another end than to fill blanks"
            fix = f"fine-tune it: encoderkit finetune, --set checkpoint={engine.model.path}; or encoderkit embed, for vectors"
            raise UsageError(message, where=engine.model.path, fix=fix)
        self._engine, self._top = engine, top or 5

    def check(self, row: Row) -> None:
        """There is something to fill in."""
        text, place = row.text("text"), None if row.source == "--text" else row.place
        check_blank(text, place)
        with_blanks(self._engine, [[text]], place)

    def entries(self, rows: Sequence[Row]) -> tuple[Iterable[dict[str, Any]], list[list[Tokens]]]:
        """The likeliest tokens of each blank."""
        texts = [row.text("text") for row in rows]
        read = with_blanks(self._engine, [[text] for text in texts])
        return map(self._filled, texts, read), [[tokens] for tokens in read]

    def _filled(self, text: str, tokens: Tokens) -> dict[str, Any]:
        guesses = [
            {"mask": number, "token": token, "score": float(f"{p:.6g}")}
            for number, found in enumerate(fill(self._engine, tokens, self._top), start=1)
            for token, p in found
        ]
        return {**named([text]), "predictions": guesses, "truncated": tokens.cut > 0}


class _Replacements:
    """What a discriminator suspects of not being what was there, token by token."""

    columns = ("text",)
    fields = ()

    def __init__(self, engine: Engine, top: int | None) -> None:
        self._engine, self._top = engine, top

    def check(self, row: Row) -> None:
        """Every text can be read."""
        row.text("text")

    def entries(self, rows: Sequence[Row]) -> tuple[Iterable[dict[str, Any]], list[list[Tokens]]]:
        """Every token of a text in its order, or the `top` most suspicious ones."""
        texts = [row.text("text") for row in rows]
        read = self._engine.tokens([[text] for text in texts])
        return map(self._flagged, texts, read, suspicions(self._engine, read)), [[tokens] for tokens in read]

    def _flagged(self, text: str, tokens: Tokens, found: np.ndarray) -> dict[str, Any]:
        tokenizer = self._engine.model.tokenizer
        ordinary = np.flatnonzero(~np.isin(tokens.ids, (tokenizer.cls, tokenizer.sep)))
        order = ordinary if self._top is None else ordinary[np.argsort(-found[ordinary], kind="stable")[: self._top]]
        flags = [
            {
                "place": i,
                "token": tokenizer.token(int(tokens.ids[i])),
                "replaced": bool(found[i] > 0.5),
                "score": float(f"{found[i]:.6g}"),
            }
            for i in order.tolist()
        ]
        return {**named([text]), "predictions": flags, "truncated": tokens.cut > 0}


def _pretrained(engine: Engine, top: int | None) -> _Predictor:
    return _Replacements(engine, top) if isinstance(engine.model.learner, Replaced) else _Blanks(engine, top)


def _written(predictor: _Predictor, form: Form, repeated: Sequence[str]) -> tuple[bytes, Callable[[dict[str, Any]], str]]:
    """What stands before all predictions, and how each is written; `repeated`: what some rows have that is told with them."""
    if form == "jsonl":
        return b"", _json_line

    def value(entry: dict[str, Any], field: str) -> Any:
        if field.startswith("score:"):
            return entry["scores"].get(field.removeprefix("score:"), "")
        found = entry.get(field, "") if field in repeated else entry[field]
        return json.dumps(found, ensure_ascii=False) if isinstance(found, list | dict | bool) else found

    fields = [*repeated, *predictor.fields]
    return _csv_line(fields).encode(), lambda entry: _csv_line([value(entry, field) for field in fields])


def _json_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _csv_line(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue()
