"""The same recipe several times: with other seeds, on other folds of the data; means and how sure they are.

Small sets and small models differ more from seed to seed than many published gains (Dodge et al. 2020). Each repetition is
a run of its own in a directory of its own, so that a stopped one goes on with `--resume`, and none is done twice.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from encoderkit import files, world
from encoderkit.config import dump
from encoderkit.console import say
from encoderkit.errors import UserError
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages.session import clear, hold
from encoderkit.training.distributed import joined


def variants(recipe: FinetuneRecipe) -> dict[str, FinetuneRecipe]:
    """The runs that a recipe with `seeds` or `folds` stands for, by the names of their directories."""
    seeds = recipe.seeds or [recipe.seed]
    folds = [recipe.fold] if recipe.fold or not recipe.folds else list(range(1, recipe.folds + 1))
    found = {}
    for seed, fold in product(seeds, folds):
        parts = [f"seed-{seed}"] * bool(recipe.seeds) + [f"fold-{fold}"] * (fold is not None and len(folds) > 1)
        found["-".join(parts)] = recipe.model_copy(update={"seeds": None, "seed": seed, "fold": fold})
    return found


def repeated(
    recipe: FinetuneRecipe,
    out: Path,
    once: Callable[..., dict[str, Any]],
    ready: Callable[[FinetuneRecipe], object],
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Run each variant by `once` into a directory below `out`; the JSON of the command, with means for single values.

    `out` stands for the best of them on dev from then on. `ready` raises for a variant that cannot be run, before what was
    there goes (`overwrite`).
    """
    with joined(), ExitStack() as held:
        if world.first():
            hold(held, recipe, out, resume, overwrite)
            if overwrite:
                ready(next(iter(variants(recipe).values())))
                clear(out)
            files.replace(out / "recipe.yaml", dump(recipe))
            files.replace(out / "manifest.json", json.dumps({"runs": list(variants(recipe))}, indent=1))
        runs: dict[str, dict[str, Any]] = {}
        for number, (name, own) in enumerate(variants(recipe).items(), start=1):
            say(f"{name}: run {number} of {len(variants(recipe))}")
            try:
                runs[name] = once(own, out / name, resume=(out / name).exists())
            except UserError:
                if world.first() and {path.name for path in out.iterdir()} == {"recipe.yaml", "manifest.json", "lock"}:
                    files.remove(out / "recipe.yaml")  # nothing was begun, and the corrected command finds nothing in its way
                    files.remove(out / "manifest.json")
                raise
        result = _together(runs, out)
        if world.first():
            files.replace(out / "best", f"{Path(result['best']).relative_to(out)}\n")
            files.replace(out / "summary.json", json.dumps(result, indent=1, ensure_ascii=False))
        return result


def _together(runs: dict[str, dict[str, Any]], out: Path) -> dict[str, Any]:
    names = list(runs)
    values = list(runs.values())
    result: dict[str, Any] = {key: sum(run[key] for run in values) for key in ("updates", "tokens")}
    result["seconds"] = round(sum(run["seconds"] for run in values), 1)
    result["tokens_per_second"] = round(result["tokens"] / max(result["seconds"], 1e-9))
    result["intervals"] = {}
    for part in ("dev", "test"):
        found = {name: mean_interval([*independent(runs, part, name).values()]) for name in values[0][part]}
        result[part] = {name: mean for name, (mean, _, _) in found.items()}
        result["intervals"][part] = {name: [low, high] for name, (_, low, high) in found.items()}
    result["runs"] = {name: {part: runs[name][part] for part in ("dev", "test")} for name in names}
    result["best"] = runs[names[_best(values)]]["best"]
    result["chosen_by"] = values[0]["chosen_by"]
    return {**result, "out": str(out)}


def independent(runs: Mapping[str, Any], part: str, metric: str) -> dict[str, float]:
    """A value for each run; with seeds and folds for each seed, the mean over its folds, which share their rows with others'."""
    by_seed: dict[str, list[float]] = {}
    for name, run in runs.items():
        if metric in run[part]:
            by_seed.setdefault(name.partition("-fold-")[0], []).append(run[part][metric])
    return {name: float(np.mean(values)) for name, values in by_seed.items()}


def _best(runs: Sequence[dict[str, Any]]) -> int:
    """The number of the run with the best value of what chooses checkpoints; the first without a dev set."""
    chosen = runs[0]["chosen_by"]
    if chosen is None:
        return 0
    found = [run["dev"][chosen["metric"]] for run in runs]
    return int(np.argmin(found) if chosen["direction"] == "min" else np.argmax(found))


def mean_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean and its 95 % interval by Student's t, for runs that differ in their seed or fold."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, mean, mean
    width = float(stats.t.ppf(0.975, count - 1)) * float(np.std(values, ddof=1)) / math.sqrt(count)
    return mean, mean - width, mean + width
