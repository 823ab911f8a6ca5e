"""`encoderkit predict`: labels for texts, a line each, in the order of the input."""

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from encoderkit import files
from encoderkit.console import progress, say
from encoderkit.data.unlabelled import open_texts
from encoderkit.errors import UsageError
from encoderkit.inference import BLANK, Account, Engine, Precision, check_blank, fill, open_model, start, with_blanks
from encoderkit.objectives.masked import Masked
from encoderkit.tasks.classify import Classify
from encoderkit.tasks.texts import Tokens

WINDOW = 4096
"""Rows in memory at once; within a window, rows of like length are computed together."""

Form = Literal["jsonl", "csv"]


def columns_of(engine: Engine, given: Sequence[str] | None) -> list[str]:
    """The columns of the text in files: those of `--column`, or those that the model was trained with."""
    if given:
        if len(given) > 2:
            raise UsageError(f"a text or a pair of texts is read, found {len(given)} columns", where="--column")
        return list(given)
    task = engine.model.learner
    return list(task.config.columns) if isinstance(task, Classify) else ["text"]


def windows(rows: Iterable[list[str]]) -> Iterator[list[list[str]]]:
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
) -> Account:
    """Predict the rows of `source` (`-`: standard input), or `texts`, to `out` or stdout; what was read.

    A file is read twice, so that a row that cannot be used is told before anything is computed.
    """
    if out is not None:
        files.refuse_existing(out, overwrite)
    engine = start(open_model(step), precision, batch)
    wanted = columns_of(engine, columns)
    held = open_texts(source, wanted) if source is not None else None
    pair = len(wanted) > 1 if held else any(len(row) > 1 for row in texts)
    writer = _writer(engine, form, pair, top)
    total = 0
    for place, row in held.placed() if held else ((None, row) for row in texts):
        total += 1
        if isinstance(engine.model.learner, Masked):
            check_blank(row[0], place)
    account = Account()
    quiet = out is None and sys.stdout.isatty()
    with (
        files.staged_file(out, overwrite) if out else nullcontext(sys.stdout.buffer) as target,
        nullcontext() if quiet else progress("predicting", total, "rows") as bar,
    ):
        target.write(writer.header)
        for window in windows(held.rows() if held else map(list, texts)):
            tokens = writer.tokens(window)
            target.write("".join(map(writer.line, writer.entries(window, tokens))).encode())
            account = account.add(tokens, engine.model.tokenizer.unk)
            if bar is not None:
                bar.advance(len(window))
        if out is None:
            sys.stdout.flush()
    say(account.told(engine.model.config["length"]))
    return account


class _Writer(NamedTuple):
    """How the predictions of a model are made and written."""

    header: bytes
    tokens: Callable[[Sequence[Sequence[str]]], list[Tokens]]
    entries: Callable[[Sequence[Sequence[str]], list[Tokens]], Iterator[dict[str, Any]]]
    line: Callable[[dict[str, Any]], str]


def _writer(engine: Engine, form: Form, pair: bool, top: int | None) -> _Writer:
    learner = engine.model.learner
    if isinstance(learner, Masked):
        if form == "csv" or pair:
            raise UsageError(f"a pretrained model fills {BLANK} in single texts, as jsonl", fix="--format jsonl")
        return _Writer(b"", partial(with_blanks, engine), partial(_filled, engine, top or 5), _json_line)
    assert isinstance(learner, Classify)
    labels = learner.labels
    if top is not None and not 1 <= top <= len(labels):
        raise UsageError(f"should be between 1 and {len(labels)}, the number of labels, found {top}", where="--top-k")
    names = ["text", *(["text_pair"] if pair else []), "labels" if learner.config.several else "label", "truncated"]
    header = _csv_line([*names, *(f"score:{label}" for label in labels)]).encode() if form == "csv" else b""

    def csv_line(entry: dict[str, Any]) -> str:
        values = [json.dumps(entry[n], ensure_ascii=False) if isinstance(entry[n], list | bool) else entry[n] for n in names]
        return _csv_line([*values, *(entry["scores"].get(label, "") for label in labels)])

    return _Writer(header, engine.tokens, partial(_labelled, engine, top), csv_line if form == "csv" else _json_line)


def _json_line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


def _csv_line(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(values)
    return line.getvalue()


def _entry(row: Sequence[str]) -> dict[str, Any]:
    return dict(zip(("text", "text_pair"), row, strict=False))


def _labelled(engine: Engine, top: int | None, texts: Sequence[Sequence[str]], rows: list[Tokens]) -> Iterator[dict[str, Any]]:
    task = engine.model.learner
    assert isinstance(task, Classify)
    logits = engine.logits(rows)
    decided, scores = task.decide(logits), task.probabilities(logits)
    for text, row, chosen, p in zip(texts, rows, decided, scores, strict=True):
        order = range(len(p)) if top is None else np.argsort(-p, kind="stable")[:top]
        several = {"labels": [task.labels[i] for i in np.flatnonzero(chosen)]} if task.config.several else None
        yield {
            **_entry(text),
            **(several or {"label": task.labels[int(chosen)]}),
            "scores": {task.labels[i]: float(f"{p[i]:.6g}") for i in order},
            "truncated": row.cut > 0,
        }


def _filled(engine: Engine, top: int, texts: Sequence[Sequence[str]], rows: list[Tokens]) -> Iterator[dict[str, Any]]:
    for text, row in zip(texts, rows, strict=True):
        guesses = [
            {"mask": number, "token": token, "score": float(f"{p:.6g}")}
            for number, found in enumerate(fill(engine, row, top), start=1)
            for token, p in found
        ]
        yield {**_entry(text), "predictions": guesses, "truncated": row.cut > 0}
