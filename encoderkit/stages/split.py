"""Which labelled rows a fine-tuning recipe trains on, and which of them it holds out: the same ones whoever asks."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from encoderkit.console import say
from encoderkit.data.labelled import Row, read_rows
from encoderkit.data.parallel import Given, name_of
from encoderkit.data.records import MissingColumn
from encoderkit.errors import DataError
from encoderkit.recipe import FinetuneRecipe
from encoderkit.tasks.config import ClassifyConfig, TaskConfig
from encoderkit.tasks.truth import labels_of, teacher, untaught

Parts = dict[str, list[Row]]
"""train, and dev and test where there are such."""


def read_parts(recipe: FinetuneRecipe) -> Parts:
    """The rows of train and, where the recipe has them, dev and test; says how many are held out, and left out."""
    task, data = recipe.task, recipe.data

    def read(given: Given, more: Sequence[str] = ()) -> list[Row]:
        return read_rows(given, [*task.all_columns, *more], task.optional_columns, txt=task.txt)

    name = name_of(data.train)
    rows = read(data.train, task.training_columns)
    parts = divided(rows, recipe)
    if recipe.folds:
        count, fold = f"{len(parts['test']):,}", recipe.fold or 1
        say(f"test: {count} of the rows of {name}, fold {fold} of {recipe.folds} (seed {recipe.seed})")
    if "dev" in parts:
        say(f"dev: {len(parts['dev']):,} of the rows of {name}, drawn at random (seed {recipe.seed})")
    if left := len(rows) - sum(map(len, parts.values())):
        sure = recipe.task.confidence if isinstance(recipe.task, ClassifyConfig) else 0
        say(f"train: {left:,} rows left out, as their teacher is less sure than {sure:g}")
    for part, given in data.files.items():
        if part != "train":
            parts[part] = read(given)
    return {part: rows if part == "train" else untaught(rows, task) for part, rows in parts.items()}


def divided(rows: list[Row], recipe: FinetuneRecipe) -> Parts:
    """The rows of `data.train`: what is trained on, and what is held out as dev and, with folds, as test.

    Rows with equal texts are on one side. Rows that a teacher is not sure of are left out of train alone.
    """
    task, data, parts = recipe.task, recipe.data, {"train": rows}
    name = name_of(data.train)
    if recipe.folds:
        if (groups := len({_key(row, task.together) for row in rows})) < recipe.folds:  # told before the first of them is trained
            message = f"folds = {recipe.folds}, and there are {groups} rows or groups of rows that stay together"
            raise DataError(message, where=name, fix=f"--set folds={max(groups, 2)}, or more rows")
        held = partial(_fold, recipe.fold or 1, recipe.folds)
        parts["train"], parts["test"] = _hold_out(rows, held, (recipe.seed, 1), task.together)
    if isinstance(data.dev, float) and data.dev:
        draw = (recipe.seed, 2) if recipe.folds else (recipe.seed, 1)
        parts["train"], parts["dev"] = _hold_out(parts["train"], partial(_first, data.dev), draw, task.together)
        if not (parts["dev"] and parts["train"]):
            message = f"data.dev = {data.dev} leaves no rows on one side (rows with equal texts stay together)"
            raise DataError(message, where=name, fix="--set data.dev=FILE")
    return {**parts, "train": _sure(parts["train"], task, name)}


def numbers_hash(rows: Sequence[Row]) -> str:
    """Of which rows of a file these are."""
    return hashlib.sha256(repr([row.line for row in rows]).encode()).hexdigest()


def of_training(recipe: FinetuneRecipe, parts: Parts) -> list[Row]:
    """All rows that stood in `data.train`, a share of which may be held out."""
    files = recipe.data.files
    return [row for part, rows in parts.items() if part == "train" or part not in files for row in rows]


def _sure(rows: list[Row], task: TaskConfig, path: str) -> list[Row]:
    """Without rows of whose label their teacher is not sure enough."""
    if not isinstance(task, ClassifyConfig) or task.soft is None:
        return rows
    if not any(task.soft in row.values for row in rows):
        if any(name.startswith("score:") for name in rows[0].values):
            message = "has a column for each score, as predict --format csv writes them, and they are read as one"
            raise DataError(message, where=path, fix="encoderkit predict ... --format jsonl, and task.soft: scores")
        raise MissingColumn(task.soft, list(rows[0].values), path)

    def sure(row: Row) -> bool:
        scores, own = teacher(row, task), labels_of(row, task)
        if scores is None:
            return True
        if not task.several:
            return scores.get(own[0], 0.0) >= task.confidence
        sure = (scores.get(name, 0.0) if name in own else 1 - scores[name] for name in {*own, *scores})
        return min(sure) >= task.confidence

    kept = [row for row in rows if sure(row)]
    if not kept:
        fix = "a lower task.confidence"
        raise DataError(f"no row has a label of which the teacher is as sure as {task.confidence:g}", where=path, fix=fix)
    return kept


def _first(share: float, sizes: np.ndarray) -> np.ndarray:
    """Groups until they have that share of the rows; one that would be too much is left out, unless there is no other."""
    goal, held = round(share * int(sizes.sum())), np.zeros(len(sizes), bool)
    left = goal
    for i, size in enumerate(sizes.tolist()):
        if size <= left:
            held[i], left = True, left - size
    if goal and not held.any():
        held[sizes.argmin()] = True
    return held


def _fold(number: int, of: int, sizes: np.ndarray) -> np.ndarray:
    """Those of a fold, where each group goes to the one that has the fewest rows by then, the largest groups first."""
    rows, own = [0] * of, np.empty(len(sizes), np.int64)
    for i in np.argsort(-sizes, kind="stable").tolist():
        own[i] = rows.index(min(rows))
        rows[own[i]] += int(sizes[i])
    return own == number - 1


def _hold_out(
    rows: list[Row], part: Callable[[np.ndarray], np.ndarray], draw: tuple[int, int], together: Sequence[str]
) -> tuple[list[Row], list[Row]]:
    """Some of the rows at random, but equal ones on one side: what is held out must not be trained on.

    Rows count as equal that are so in the columns `together`. What is no JSON (a date of .parquet) is told when it is read.
    `part`: the sizes of groups of equal rows, in a random order, to (N,) bool: which of them.
    """
    of = [_key(row, together) for row in rows]
    counts = Counter(of)
    keys = sorted(counts)
    drawn = [keys[i] for i in np.random.default_rng(draw).permutation(len(keys))]
    chosen = part(np.array([counts[key] for key in drawn], np.int64))
    held = {key for key, own in zip(drawn, chosen.tolist(), strict=True) if own}
    sides: tuple[list[Row], list[Row]] = ([], [])
    for row, key in zip(rows, of, strict=True):
        sides[key in held].append(row)
    return sides


def _key(row: Row, together: Sequence[str]) -> str:
    return json.dumps({name: row.values.get(name) for name in together}, sort_keys=True, default=str)
