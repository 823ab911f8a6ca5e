"""`encoderkit evaluate`: how good a model is on data of your own, how sure that is, and what simple models reach there."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import ValidationError

from encoderkit import files
from encoderkit.console import many, say, table, warn
from encoderkit.data.duplicates import NEAR, Copies, copies
from encoderkit.data.labelled import Row, read_rows
from encoderkit.data.parallel import Given, hash_of, name_of, paths_of
from encoderkit.data.records import named_by
from encoderkit.data.store import open_store
from encoderkit.errors import DataError, UsageError, UserError
from encoderkit.inference import Account, Engine, Precision, by_row, open_model, rows_of, start
from encoderkit.learner import Coupled
from encoderkit.objectives.replaced import Replaced
from encoderkit.objectives.windows import Sampled
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import gate, slices, worst_rows
from encoderkit.stages.against import Judged, check_alike, describe_against, differences, of_rival, paired
from encoderkit.stages.predict import searching
from encoderkit.stages.pretrain import measure
from encoderkit.stages.split import divided, numbers_hash
from encoderkit.tasks import baselines
from encoderkit.tasks.calibration import reliability
from encoderkit.tasks.rows import cut
from encoderkit.tasks.span import Span
from encoderkit.tasks.task import Lossy, Probable, Queried, Task
from encoderkit.tasks.token_config import TagConfig
from encoderkit.tasks.truth import untaught
from encoderkit.training.evaluate import evaluate as evaluate_source

_CONFUSION = 12  # labels up to which the matrix is shown to a person; --json always has it


def evaluate(
    step: Path,
    data: Given,
    precision: Precision = "auto",
    batch: int | None = None,
    with_baselines: bool = True,
    against: Path | None = None,
    errors: Path | None = None,
    overwrite: bool = False,
    columns: Mapping[str, str] | None = None,
    beams: int | None = None,
    length_penalty: float | None = None,
    bounds: Sequence[gate.Bound] = (),
) -> dict[str, Any]:
    """Evaluate the model in `step` on `data`: labelled rows, or a token store for a pretrained model.

    `against`: another model, to tell whether the difference on these rows is more than chance. `errors`: a file to write with
    all rows, the worst first (`overwrite`: in place of what is there). `columns`: what those that the model was trained with
    are called in `data`. `beams`, `length_penalty`: see `predict`. `bounds`: what the caller will hold the result to, whose
    metrics must be there. Raises `DataError` with file and line for a row that cannot be used, before anything is computed.
    """
    if errors is not None:
        files.refuse_existing(errors, overwrite, flag="--errors", file=True)
    if against is not None and str(data) == "-":
        raise UsageError("is read once, and two models are to answer it", where="--data", fix="--data FILE")
    engine = start(open_model(step), precision, batch)
    gate.check_names(bounds, engine.model.learner.directions)
    about = {"model": str(step), "data": name_of(data), "precision": engine.precision}
    task = engine.model.task
    searching(task, beams, length_penalty)
    if task is None:
        if against is not None:
            raise UsageError(
                "neighbouring tokens are not independent, so two pretrained models are not tested on a store",
                fix="compare their losses: encoderkit evaluate each on the store",
            )
        if errors is not None:
            raise UsageError(
                "is of labelled rows, and a pretrained model is evaluated on tokens", where="--errors", fix="leave it out"
            )
        return about | _store(engine, paths_of(data)[0])
    rival = None if against is None else open_model(against)
    if rival is not None and rival.task is not None:
        check_alike(task, rival.task)
        searching(rival.task, beams, length_penalty)
    more = [] if rival is None or rival.task is None else rival.task.config.all_columns
    decided = judge(engine, data, columns or {}, more)
    train = _training(engine, task)
    found = about | _rows(decided, train, with_baselines)
    if errors is not None:
        near = None if train is None else worst_rows.nearest(task, decided.rows, train.rows, train.texts)
        worst_rows.write(errors, task, decided.rows, decided.examples, decided.observed, near, overwrite)
        say(f"{len(decided.rows):,} rows, the worst first: {errors}")
    if rival is not None:
        named = {} if rival.task is None else of_rival(task, rival.task, columns or {}, decided.rows[0].values)
        if own := [name for name in more if name not in (*named, *task.config.all_columns)]:
            say(f"{against} was trained on other columns, and reads those: {', '.join(own)}")
        other = judge(start(rival, precision, batch), data, named)
        found["against"] = {"model": str(against), "differences": differences(decided, other)}
    return found


class Training(NamedTuple):
    """The rows that a model was trained on."""

    rows: list[Row]
    texts: list[list[str]]
    gold: np.ndarray


def judge(engine: Engine, data: Given | list[Row], columns: Mapping[str, str], more: Sequence[str] = ()) -> Judged:
    """What the model says of each row of `data`, beside what is right; `columns`, of files, as in `evaluate`.

    `more`: columns that the rows keep besides, where the file has them.
    """
    task = engine.model.task
    if task is None:
        fix = "encoderkit finetune RECIPE --set checkpoint=RUN first; a pretrained model is measured on a store"
        raise UsageError("is a pretrained model, which has no answers to labelled rows", where=engine.model.path, fix=fix)
    rows = untaught(data if isinstance(data, list) else _read(task, data, columns, more), task.config)
    examples = task.encode(rows, engine.model.tokenizer)
    if isinstance(task, Span) and "recipe" not in engine.model.config:  # an import does not say in which language it answers
        task.prepare(examples)
    observed = engine.observe(examples, "evaluating")
    return Judged(task, rows, examples, observed, task.gold(rows), task.decide(examples, observed))


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
    manifest = engine.model.path.parent / "manifest.json"
    if manifest.is_file() and files.read_json(manifest).get("inputs", {}).get("data.train") == store.meta.fingerprint:
        warn(f"{data} is what the model was trained on: the figures are too good by what it has learnt by heart")
    rows = rows_of(engine.model.config, store, learner.encoder.packs)
    measure(learner, store)
    metrics = evaluate_source(learner, rows, engine.rows_at_once(length), engine.device, engine.precision)
    # Otherwise the loss is of telling things apart, and no token's.
    if not isinstance(learner, Coupled | Replaced | Sampled):
        metrics["perplexity"] = float(np.exp(metrics["loss"]))
    unknown = {"tokens": store.meta.unknown, "share": store.meta.unknown / max(store.meta.tokens, 1)}
    return {"rows": len(rows), "tokens": rows.tokens, "metrics": metrics, "unknown": unknown}


def _rows(judged: Judged, train: Training | None, with_baselines: bool) -> dict[str, Any]:
    task, rows, examples, observed, gold, predicted = judged
    metrics = {**task.score(gold, predicted), **task.metrics(examples, observed), **task.details(gold, predicted)}
    read = by_row(examples)
    account = Account().add_each(read, task.vocabulary.unknown)
    texts = [task.texts(row) for row in rows]
    shared = None if train is None else copies(_wholes(task, train.texts), _wholes(task, texts))
    limit, of = task.config.read(task.length)
    return {
        "rows": len(rows),
        "labels": task.labels,
        "metrics": metrics,
        "intervals": task.intervals(gold, predicted),
        **(_baselines(judged, train, texts) if train and with_baselines else {"baselines": {}}),
        "truncated": {"rows": account.truncated, "tokens": account.lost, "length": limit, "of": of},
        **({"lost": task.lost(examples)} if isinstance(task, Lossy) else {}),
        "unknown": {"tokens": account.unknown, "share": account.unknown / max(account.tokens, 1)},
        "in_training": None if shared is None else int(shared.exact.sum()),
        "overlap": None if shared is None or train is None else _overlap(judged, shared, train.rows),
        "slices": slices.slices(task, gold, predicted, read),
        "calibration": reliability(*task.confidence(examples, observed)) if isinstance(task, Probable) else None,
    }


def _wholes(task: Task, texts: list[list[str]]) -> list[list[str]]:
    """What is compared for copies: the texts of a row, of tokens the text that they make."""
    return [[" ".join(row)] for row in texts] if isinstance(task.config, TagConfig) else texts


def _read(task: Task, given: Given, columns: Mapping[str, str], more: Sequence[str] = ()) -> list[Row]:
    """Rows whose columns are called as the model was trained with, and in the file as `columns` says."""
    wanted, optional = task.config.all_columns, task.config.optional_columns
    there = {column: columns.get(column, column) for column in (*wanted, *optional)}
    ways = {there[column]: f"say what it is called in the file: --column {column}=NAME" for column in wanted}
    with named_by(ways):
        also = [there[column] for column in optional] + [name for name in more if name not in there.values()]
        rows = read_rows(given, [there[column] for column in wanted], also, txt=task.config.txt)
    if not columns:
        return rows
    called = {column: name for column, name in there.items() if column != name}
    return [
        row._replace(values=row.values | {column: row.values[name] for column, name in called.items() if name in row.values})
        for row in rows
    ]


def _training(engine: Engine, task: Task) -> Training | None:
    """The rows that the model was trained on, if they are still there; says why if they cannot be used."""
    what = "no baselines, and no look at what test and training data share"
    if "recipe" not in engine.model.config:
        say(f"{what}: the model was imported, and does not say what it was trained on")
        return None
    given = engine.model.config["recipe"]["data"]["train"]
    if not all(path.is_file() for path in paths_of(given)):
        say(f"{what}: the training data, {name_of(given)}, is not there (seen from the working directory)")
        return None
    manifest = engine.model.path.parent / "manifest.json"
    inputs = files.read_json(manifest).get("inputs", {}) if manifest.is_file() else {}
    same = inputs.get("data.train") == hash_of(given)
    if manifest.is_file() and not same:
        warn(f"{name_of(given)} has changed since the model was trained on it; what it is now is what is compared with")
    try:
        parts = divided(_read(task, given, {}), _recipe(engine))
        held = {f"data.{part}": numbers_hash(rows) for part, rows in parts.items() if part != "train"}
        if same and any(inputs.get(name, own) != own for name, own in held.items()):
            warn(f"{what}: an earlier version trained it, which held other rows of {name_of(given)} out")
            return None
        rows = parts["train"]
        return Training(rows, [task.texts(row) for row in rows], task.gold(rows))
    except UserError as error:
        warn(f"the training data cannot be used, so there are no baselines: {error.where}: {error.message}")
        return None


def _recipe(engine: Engine) -> FinetuneRecipe:
    """What the model was trained by; raises `DataError` where another version wrote it in another way."""
    try:
        return FinetuneRecipe.model_validate(engine.model.config["recipe"])
    except ValidationError:
        reason = "the recipe in config.json is of another version"
        raise DataError(reason, where=engine.model.path, fix="evaluate with the version that trained it") from None


def _baselines(judged: Judged, train: Training, texts: list[list[str]]) -> dict[str, Any]:
    """The metrics of simple models, and by how much the model is better than the best of them, with interval and p."""
    task, gold = judged.task, judged.gold
    fitted = len(baselines.fitted_rows(train.texts))
    if task.baselines and fitted < len(train.rows):
        say(f"baselines on words are fitted on {fitted:,} of the {len(train.rows):,} training rows, evenly spaced")
    guesses = {name: baselines.BASELINES[name](train.texts, train.gold, texts) for name in task.baselines}
    scores = {name: task.score(gold, guess) for name, guess in guesses.items()}
    if not (known := [name for name in (task.monitor, *task.directions) if all(name in score for score in scores.values())]):
        return {"baselines": scores}
    sign = 1 if task.directions[known[0]] == "max" else -1
    best = max(scores, key=lambda name: sign * scores[name][known[0]], default=None)
    if best is None:
        return {"baselines": scores}
    found = paired(task, gold, judged.predicted, guesses[best]).get(known[0])
    return {"baselines": scores, "over_baseline": found and {"baseline": best, "metric": known[0], **found}}


def _overlap(judged: Judged, shared: Copies, train: Sequence[Row]) -> dict[str, Any]:
    """What of the rows stands in the training data too, and the metrics without it; warns if there is any."""
    both, exact = np.flatnonzero(shared.of >= 0), int(shared.exact.sum())
    apart = shared.of < 0
    if isinstance(judged.task, Queried):  # a query without some of its candidates would be an easier one
        queries = judged.task.queries(judged.gold)
        apart = ~np.isin(queries, queries[both])
    kept = np.flatnonzero(apart)
    if len(both):
        pairs = [(judged.rows[i].line, train[int(shared.of[i])].line) for i in both[:3]]
        first = ", ".join(f"line {line} is line {there} there" for line, there in pairs)
        warn(
            f"{len(both):,} of the {len(judged.rows):,} rows ({len(both) / len(judged.rows):.1%}) are also in the training data, "
            f"{exact:,} but for case and spaces, {len(both) - exact:,} nearly so ({first}): the figures are too good by as much "
            "as the model has learnt them by heart"
        )
    task, gold, predicted = judged.task, judged.gold[kept], judged.predicted[kept]
    return {
        "exact": exact,
        "near": len(both) - exact,
        "least_likeness": NEAR,
        "rows": [
            {"line": judged.rows[i].line, "training_line": train[int(shared.of[i])].line, "likeness": float(shared.likeness[i])}
            for i in both
        ],
        "without": {"rows": len(kept), "metrics": task.score(gold, predicted), "intervals": task.intervals(gold, predicted)}
        if len(both) and len(kept)
        else None,
    }


def describe(result: dict[str, Any]) -> str:
    """The result for a person: metrics with intervals beside the baselines, each class, the slices, the calibration."""
    parts = [_account(result), _metrics(result) + _lead(result), *_classes(result)]
    if result.get("slices"):
        parts.append(slices.describe(result["slices"]))
    if result.get("calibration"):
        parts.append(_calibration(result["calibration"]))
    if "against" in result:
        parts.append(describe_against(result["against"]))
    return "\n\n".join(part for part in parts if part)


def _metrics(result: dict[str, Any]) -> str:
    intervals = result.get("intervals", {})
    without = (result.get("overlap") or {}).get("without") or {"metrics": {}}
    others = dict(result.get("baselines", {}))
    if without["metrics"]:
        others = {f"without the {result['rows'] - without['rows']:,} in training": without["metrics"], **others}
    rows = [["", "model", *(["95 % interval"] if intervals else []), *others]]
    for name, value in result["metrics"].items():
        if isinstance(value, float):
            low_high = intervals.get(name)
            interval = [f"{low_high[0]:.4f} - {low_high[1]:.4f}" if low_high else ""] if intervals else []
            rows.append([name, f"{value:.4f}", *interval, *(f"{o[name]:.4f}" if name in o else "" for o in others.values())])
    return table(rows)


def _lead(result: dict[str, Any]) -> str:
    """Whether the model is better than the simple ones beside it."""
    if not (found := result.get("over_baseline")):
        return ""
    name, other, value, low, high, p = (found[key] for key in ("metric", "baseline", "value", "low", "high", "p"))
    chance = ", which may be chance" if low <= 0 <= high else ""
    return f"\n{name} less that of {other}: {value:+.4f} ({low:+.4f} to {high:+.4f}, p {p:.3f}){chance}"


def _classes(result: dict[str, Any]) -> Iterator[str]:
    """Each label, and the confusion matrix if it is small."""
    metrics = result["metrics"]
    if "per_class" in metrics:
        names, thresholds = ["precision", "recall", "f1"], metrics.get("thresholds", {})
        rows = [["label", *names, "support", *(["threshold"] if thresholds else [])]]
        for label, values in metrics["per_class"].items():
            threshold = [f"{thresholds[label]:.4f}"] if thresholds else []
            rows.append([label, *(f"{values[name]:.4f}" for name in names), f"{values['support']:,}", *threshold])
        yield table(rows)
    if "per_number" in metrics:
        names = [*next(iter(metrics["per_number"].values()))]
        numbers = [[label, *(f"{found[name]:.4f}" for name in names)] for label, found in metrics["per_number"].items()]
        yield table([["number", *names], *numbers])
    if "confusion" in metrics and len(result["labels"]) <= _CONFUSION:
        rows = [["label \\ predicted", *result["labels"]]]
        rows += [[label, *map(str, row)] for label, row in zip(result["labels"], metrics["confusion"], strict=True)]
        yield table(rows)


def _calibration(found: dict[str, Any]) -> str:
    rows = [["probability", "answers", "mean", "right"]]
    for part in found["bins"]:
        title = f"{part['low']:.1f} - {part['high']:.1f}"
        rows.append([title, f"{part['answers']:,}", f"{part['confidence']:.4f}", f"{part['right']:.4f}"])
    return f"expected calibration error {found['expected_error']:.4f}\n{table(rows)}"


def _account(result: dict[str, Any]) -> str:
    lines = [f"{result['data']}: {many(result['rows'], 'row')}, {result['unknown']['share']:.2%} of the tokens unknown"]
    lacking, lost = result.get("truncated", {"rows": 0}), result.get("lost", {})
    if lacking["rows"]:
        lines.append(f"{lacking['rows']:,} rows {cut(lacking['length'], lacking['of'])}; {lacking['tokens']:,} tokens are lost")
    if missed := result["metrics"].get("queries_without_relevant"):
        queries = result["metrics"]["queries"]
        lines.append(f"{missed:,} of the {queries:,} queries have no relevant candidate, and are in no figure")
    lines += [f"{count:,} {what}, which the model cannot give: they count as misses" for what, count in lost.items()]
    return "\n".join(lines)
