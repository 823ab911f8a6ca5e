"""`encoderkit evaluate`: how good a model is on data of your own, how sure that is, and what simple models reach there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from encoderkit import files
from encoderkit.console import number, say, table, warn
from encoderkit.data.blocks import Rows
from encoderkit.data.labelled import Row, read_rows
from encoderkit.data.store import open_store
from encoderkit.errors import DataError, UserError
from encoderkit.inference import TOKENS, Engine, Precision, open_model, start
from encoderkit.metrics import (
    bootstrap_several,
    bootstrap_single,
    confusion,
    outcomes,
    per_class,
    several_labels,
    single_label,
    tally,
)
from encoderkit.tasks import baselines
from encoderkit.tasks.classify import Classify
from encoderkit.training.evaluate import evaluate as evaluate_source

_CONFUSION = 12  # labels up to which the matrix is shown to a person; --json always has it


class _Labelled(NamedTuple):
    """Rows as the baselines read them."""

    texts: list[list[str]]
    targets: np.ndarray
    """(N,) label numbers, or (N, L) of 0 and 1."""


def evaluate(
    step: Path, data: Path, precision: Precision = "auto", batch: int | None = None, with_baselines: bool = True
) -> dict[str, Any]:
    """Evaluate the model in `step` on `data`: a file of labelled rows, or a token store for a pretrained model.

    Raises `DataError` with file and line for a row that cannot be used, before anything is computed.
    """
    engine = start(open_model(step), precision, batch)
    about = {"model": str(step), "data": str(data), "precision": engine.precision}
    task = engine.model.learner
    return about | (_rows(engine, task, data, with_baselines) if isinstance(task, Classify) else _store(engine, data))


def _store(engine: Engine, data: Path) -> dict[str, Any]:
    """The held-out metrics of an objective; they have no baselines, and no intervals: neighbouring tokens are not independent."""
    tokenizer, learner, length = engine.model.tokenizer, engine.model.learner, engine.model.config["length"]
    store = open_store(data)
    if store.meta.tokenizer.get("fingerprint") != tokenizer.fingerprint:
        raise DataError(
            "these tokens were made with another tokenizer than the model's, so the ids would mean other things",
            where=data,
            fix=f"encoderkit tokenize --tokenizer {engine.model.path / 'tokenizer'} --data FILE --out DIR",
        )
    rows = Rows(store, length, tokenizer.cls, tokenizer.sep, packed=learner.encoder.packs)
    metrics = evaluate_source(learner, rows, engine.batch or max(1, TOKENS // length), engine.device, engine.precision)
    metrics["perplexity"] = float(np.exp(metrics["loss"]))
    unknown = {"tokens": store.meta.unknown, "share": store.meta.unknown / max(store.meta.tokens, 1)}
    return {"rows": len(rows), "tokens": rows.tokens, "metrics": metrics, "unknown": unknown}


def _rows(engine: Engine, task: Classify, data: Path, with_baselines: bool) -> dict[str, Any]:
    rows = read_rows(data, task.config.all_columns)
    examples = task.encode(rows, engine.model.tokenizer)
    given = _Labelled(_texts(task, rows), np.array([example.target for example in examples]))
    logits = engine.logits([example.tokens for example in examples])
    predicted, targets = task.decide(logits), given.targets
    metrics: dict[str, Any] = _scores(task, targets, predicted)
    metrics["loss"] = task.metrics({"logits": logits, "labels": targets})["loss"]
    metrics["per_class"] = _per_class(task, targets, predicted)
    if not task.config.several:
        metrics["confusion"] = confusion(targets, predicted, len(task.labels)).tolist()
    cuts = [example.tokens.cut for example in examples]
    special = 2 + (len(task.config.columns) > 1)
    size = sum(len(example.tokens.ids) - special for example in examples)
    unknown = sum(int((example.tokens.ids == task.vocabulary.unk).sum()) for example in examples)
    train = _training(engine, task) if with_baselines else None
    return {
        "rows": len(rows),
        "labels": task.labels,
        "metrics": metrics,
        "intervals": _intervals(task, targets, predicted),
        "baselines": {} if train is None else _baselines(task, train, given),
        "truncated": {"rows": sum(cut > 0 for cut in cuts), "tokens": sum(cuts), "length": task.length},
        "unknown": {"tokens": unknown, "share": unknown / max(size, 1)},
        "in_training": None if train is None else _shared(given.texts, train.texts),
    }


def _texts(task: Classify, rows: Sequence[Row]) -> list[list[str]]:
    return [[row.text(column) for column in task.config.columns] for row in rows]


def _scores(task: Classify, targets: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    if task.config.several:
        exact = {"accuracy": (targets.astype(bool) == predicted.astype(bool)).all(1).mean()}
        values = exact | several_labels(outcomes(targets, predicted).sum(0))
    else:
        values = single_label(tally(confusion(targets, predicted, len(task.labels))))
    return {name: float(value) for name, value in values.items()}


def _per_class(task: Classify, targets: np.ndarray, predicted: np.ndarray) -> dict[str, dict[str, float]]:
    if task.config.several:
        counts = outcomes(targets, predicted).sum(0)
    else:
        counts = tally(confusion(targets, predicted, len(task.labels)))
    parts = {name: values.tolist() for name, values in per_class(counts).items()}
    return {label: {name: values[i] for name, values in parts.items()} for i, label in enumerate(task.labels)}


def _intervals(task: Classify, targets: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
    if task.config.several:
        return bootstrap_several(targets, predicted)
    return bootstrap_single(confusion(targets, predicted, len(task.labels)))


def _training(engine: Engine, task: Classify) -> _Labelled | None:
    """The rows that the model was trained on, if they are still there; says why if they cannot be used."""
    path = Path(engine.model.config["recipe"]["data"]["train"])
    if not path.is_file():
        say(f"no baselines: the training data, {path}, is not there (seen from the working directory)")
        return None
    manifest = engine.model.path.parent / "manifest.json"
    if manifest.is_file() and files.read_json(manifest).get("inputs", {}).get("data.train") != files.sha256(path):
        warn(f"{path} has changed since the model was trained on it; the baselines are fitted on what it is now")
    try:
        rows = read_rows(path, task.config.all_columns)
        return _Labelled(_texts(task, rows), np.array([task.target(row) for row in rows]))
    except UserError as error:
        warn(f"no baselines: {error.where}: {error.message}")
        return None


def _baselines(task: Classify, train: _Labelled, given: _Labelled) -> dict[str, dict[str, float]]:
    fitted = len(baselines.fitted_rows(train.texts))
    if fitted < len(train.texts):
        say(f"the TF-IDF baseline is fitted on {fitted:,} of the {len(train.texts):,} training rows, evenly spaced")
    majority = baselines.majority(train.targets, len(given.texts))
    tfidf = baselines.tfidf(train.texts, train.targets, given.texts)
    return {"majority": _scores(task, given.targets, majority), "tfidf": _scores(task, given.targets, tfidf)}


def _shared(texts: list[list[str]], train: list[list[str]]) -> int:
    """How many of `texts` are also training texts, but for white space and case; warns if there are any."""

    def plain(row: list[str]) -> tuple[str, ...]:
        return tuple(" ".join(text.split()).casefold() for text in row)

    known = {plain(row) for row in train}
    shared = sum(plain(row) in known for row in texts)
    if shared:
        warn(
            f"{shared:,} of the {len(texts):,} rows ({shared / len(texts):.1%}) are also in the training data, "
            "but for spaces and case: the figures are too good by as much as the model has learnt them by heart"
        )
    return shared


def describe(result: dict[str, Any]) -> str:
    """The result for a person: metrics with intervals beside the baselines, each class, the confusion matrix if it is small."""
    parts = [_account(result)]
    metrics, intervals, others = result["metrics"], result.get("intervals", {}), result.get("baselines", {})
    rows = [["", "model", *(["95 % interval"] if intervals else []), *others]]
    for name, value in metrics.items():
        if isinstance(value, float):
            low_high = intervals.get(name)
            interval = [f"{low_high[0]:.4f} - {low_high[1]:.4f}" if low_high else ""] if intervals else []
            rows.append([name, f"{value:.4f}", *interval, *(f"{o[name]:.4f}" if name in o else "" for o in others.values())])
    parts.append(table(rows))
    if "per_class" in metrics:
        names = ["precision", "recall", "f1"]
        rows = [["label", *names, "support"]]
        for label, values in metrics["per_class"].items():
            rows.append([label, *(f"{values[name]:.4f}" for name in names), f"{values['support']:,}"])
        parts.append(table(rows))
    if "confusion" in metrics and len(result["labels"]) <= _CONFUSION:
        rows = [["label \\ predicted", *result["labels"]]]
        rows += [[label, *map(str, row)] for label, row in zip(result["labels"], metrics["confusion"], strict=True)]
        parts.append(table(rows))
    return "\n\n".join(parts)


def _account(result: dict[str, Any]) -> str:
    lines = [f"{result['data']}: {number(result['rows'])} rows, {result['unknown']['share']:.2%} of the tokens unknown"]
    cut = result.get("truncated", {"rows": 0})
    if cut["rows"]:
        many = f"{cut['rows']:,} rows are longer than {cut['length']} tokens and were cut"
        lines.append(f"{many}; {cut['tokens']:,} tokens are lost")
    return "\n".join(lines)
