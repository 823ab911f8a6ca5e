"""`encoderkit tune`: look for the values of a recipe's keys that are best on the dev set; the test set is never read.

Trials are runs of `finetune` in directories of their own. What is tried next depends on the seed, the trial's number and
the trials before it, by the tree-structured Parzen estimator (Bergstra et al. 2011) of Optuna, whose study is built anew
each time: no state of a sampler is kept that could be restored wrongly, so a search that was killed goes on as if it
had not been. The first trial is the recipe as it is: what is found is never worse on dev, and the table says by how much.
"""

import importlib
import json
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoderkit import files, preflight
from encoderkit.config import override, to_yaml, validate
from encoderkit.console import duration, number, say, table, warn
from encoderkit.errors import DataError, DivergedError, UsageError, fault_of_one
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages.finetune import finetune
from encoderkit.stages.space import Axis, Params, own, read_space, settings, untried, usual

TRIALS = 20
"""Where neither their number nor a time is given."""

Trial = dict[str, Any]
"""number, params, and once it has ended: value (None: it failed), seconds, dev, chosen_by or why."""


def tune(
    recipe: FinetuneRecipe, out: Path, searches: Sequence[str] = (), trials: int | None = None, budget: float | None = None
) -> dict[str, Any]:
    """Search until there are `trials` or `budget` seconds are over; the same call goes on where it was stopped.

    `searches`: `--search`, see `stages.space`. The best recipe is left in `out`/recipe.yaml, and `out` stands for its model.
    Raises `UsageError` if `out` holds another search.
    """
    preflight.tune(recipe, out)
    given = recipe.model_dump(mode="json", exclude_unset=True)
    searches = list(searches) or usual(recipe)
    axes = read_space(searches, given)
    say(f"searching {'  '.join(searches)}")
    keys, least = {axis.key for axis in axes}, recipe.training.least
    if "training.epochs" in keys and least and "training.least" not in keys:
        warn(f"training.least: trials on a small set make {least} updates, however few their epochs; --set training.least=null")
    about = {"recipe": given, "search": searches}
    with files.locked(out):
        files.sweep(out)
        done = _known(out, about)
        _keep_best(out, done)  # it may have been killed before it did so
        most = trials or (TRIALS if budget is None else None)
        while (most is None or _ended(done) < most) and not _over(done, budget):
            if not done or "value" in done[-1]:
                params = _next(recipe, axes, done)
                if params is None:
                    say("every combination has been tried")
                    break
                done.append({"number": len(done), "params": params})
                _save(out, about, done)
            done[-1] |= _tried(given, done[-1], out, _best(done) is not None)
            _save(out, about, done)
            _keep_best(out, done)
        return _result(out, given, axes, [trial for trial in done if "value" in trial])


def _known(out: Path, about: dict[str, Any]) -> list[Trial]:
    path = out / "trials.json"
    if not path.exists():
        if any(entry.name != "lock" for entry in out.iterdir()):
            raise UsageError("there is something here, but it is not a search to go on with", where=out, fix="another --out")
        return []
    known = files.read_json(path)
    for name, what in (("recipe", "another recipe"), ("search", "another --search")):
        if known.get(name) != about[name]:
            raise UsageError(f"the search was begun with {what}", where=path, fix="the same command, or another --out")
    return known["trials"]


def _save(out: Path, about: dict[str, Any], done: Sequence[Trial]) -> None:
    files.replace(out / "trials.json", json.dumps({**about, "trials": done}, indent=1, ensure_ascii=False))


def _ended(done: Sequence[Trial]) -> int:
    return sum("value" in trial for trial in done)


def _over(done: Sequence[Trial], budget: float | None) -> bool:
    return budget is not None and sum(trial.get("seconds", 0) for trial in done) >= budget


def _next(recipe: FinetuneRecipe, axes: Sequence[Axis], done: Sequence[Trial]) -> Params | None:
    """What trial number `len(done)` tries; None if nothing is left."""
    if not done:
        return own(recipe, axes)
    tried = [trial["params"] for trial in done]
    seed = int(np.random.SeedSequence((recipe.seed, len(done))).generate_state(1)[0])
    proposed = _proposed(axes, done, seed)
    if proposed not in tried:
        return proposed
    left = untried(axes, tried)
    return proposed if left is None else left[seed % len(left)] if left else None


def _study(axes: Sequence[Axis], done: Sequence[Trial], seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """The trials as a study of Optuna, and the distributions of its parameters; a listed value is known by its place."""
    optuna = importlib.import_module("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    named = {axis.key: _distribution(optuna.distributions, axis) for axis in axes}
    direction = next((trial["chosen_by"]["direction"] for trial in done if "chosen_by" in trial), "max")
    study = optuna.create_study(direction=f"{direction}imize", sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True))
    for trial in done:
        if all(axis.holds(trial["params"][axis.key]) for axis in axes):
            places = {a.key: trial["params"][a.key] if a.values is None else a.values.index(trial["params"][a.key]) for a in axes}
            state = optuna.trial.TrialState.COMPLETE if trial["value"] is not None else optuna.trial.TrialState.PRUNED
            study.add_trial(optuna.trial.create_trial(state=state, value=trial["value"], params=places, distributions=named))
    return study, named


def _distribution(kinds: Any, axis: Axis) -> Any:
    if axis.values is not None:
        return kinds.CategoricalDistribution(list(range(len(axis.values))))
    if axis.whole:
        return kinds.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return kinds.FloatDistribution(axis.low, axis.high, log=axis.log)


def _proposed(axes: Sequence[Axis], done: Sequence[Trial], seed: int) -> Params:
    study, named = _study(axes, done, seed)
    found = study.ask(named).params
    rounded = {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in found.items()}
    return {axis.key: rounded[axis.key] if axis.values is None else axis.values[found[axis.key]] for axis in axes}


def _tried(given: dict[str, Any], trial: Trial, out: Path, proven: bool) -> Trial:
    """Run a trial, or go on with it; what became of it. What cannot be together (heads and width), diverges, or needs more
    memory than there is, has failed.

    `proven`: whether a trial has come to an end.
    """
    say(f"trial {trial['number']}: " + "  ".join(settings(trial["params"])))
    started = time.monotonic()
    try:
        unseen = override(given, ["data.test=null", *settings(trial["params"])])
        recipe = validate(FinetuneRecipe, unseen, f"trial {trial['number']}")
    except UsageError as error:
        return {"value": None, "seconds": 0.0, "why": error.message}
    try:
        result = finetune(recipe, _folder(out, trial), resume=True)
    except Exception as error:
        begun = any(_folder(out, trial).rglob("plan.json"))  # what is wrong with the data of such a run has changed since
        if isinstance(error, UsageError) or (isinstance(error, DataError) and not begun):
            why: str | None = error.message
        else:
            why = fault_of_one(error)
        # What cannot be is of the values, where the recipe as it is came to an end.
        if why is None or not (proven or isinstance(error, DivergedError)):
            raise
        return {"value": None, "seconds": round(time.monotonic() - started, 1), "why": why}
    value = result["dev"][result["chosen_by"]["metric"]]
    say(f"trial {trial['number']}: {result['chosen_by']['metric']} {value:.4f}")
    model = str(Path(result["best"]).relative_to(out))
    kept = {"dev": result["dev"], "chosen_by": result["chosen_by"], "model": model}
    return {"value": value, "seconds": round(time.monotonic() - started, 1), **kept}


def _folder(out: Path, trial: Trial) -> Path:
    return out / f"trial-{trial['number']:03d}"


def _best(done: Sequence[Trial]) -> Trial | None:
    """The earliest of the best."""
    good = [trial for trial in done if trial.get("value") is not None]
    if not good:
        return None
    choose = min if good[0]["chosen_by"]["direction"] == "min" else max
    return choose(good, key=lambda trial: trial["value"])


def _keep_best(out: Path, done: Sequence[Trial]) -> None:
    """`out` stands for the best model so far; those of the others go, their recipes and logs stay."""
    best = _best(done)
    if best is not None:
        files.replace(out / "best", f"{best['model']}\n")
    for trial in done:
        if trial is not best and "value" in trial:
            for step in [path for path in _folder(out, trial).rglob("step-*") if path.is_dir()]:
                files.remove(step)


def _result(out: Path, given: dict[str, Any], axes: Sequence[Axis], done: list[Trial]) -> dict[str, Any]:
    best = _best(done)
    if best is None:
        why = done[0]["why"] if done else "there was time for none"
        fix = "look at the trial that is named, or give it more: --trials, --budget"
        raise UsageError(f"no trial has come to an end; the first one: {why}", where=out, fix=fix)
    files.replace(out / "recipe.yaml", to_yaml(override(given, settings(best["params"]))))
    return {
        "metric": best["chosen_by"]["metric"],
        "direction": best["chosen_by"]["direction"],
        "trials": done,
        "best": {key: best[key] for key in ("number", "params", "value", "dev")},
        "importance": _importance(axes, done),
        "recipe": str(out / "recipe.yaml"),
        "model": str(out / best["model"]),
        "out": str(out),
    }


def _importance(axes: Sequence[Axis], done: Sequence[Trial]) -> dict[str, float]:
    """How much each key decides whether a trial is among the best quarter (PED-ANOVA, Watanabe et al. 2023); {} for few."""
    study, _ = _study(axes, done)
    if len({trial.value for trial in study.trials if trial.value is not None}) < 5 or len(axes) < 2:
        return {}
    optuna = importlib.import_module("optuna")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=0.25)
        return {key: float(value) for key, value in optuna.importance.get_param_importances(study, evaluator=evaluator).items()}


def describe(result: dict[str, Any]) -> str:
    """The trials for a person, best first, and how much each key matters."""
    up = result["direction"] == "max"
    good = sorted((t for t in result["trials"] if t["value"] is not None), key=lambda t: -t["value"] if up else t["value"])
    rows = [["trial", result["metric"], "time", *result["best"]["params"]]]
    for trial in good + [t for t in result["trials"] if t["value"] is None]:
        name = f"{trial['number']}{' (the recipe as it is)' if trial['number'] == 0 else ''}"
        value = trial["why"][:40] if trial["value"] is None else f"{trial['value']:.4f}"
        rows.append([name, value, duration(trial["seconds"]), *map(_short, trial["params"].values())])
    if result["importance"]:
        rows.append(["importance", "", "", *(f"{result['importance'].get(key, 0):.0%}" for key in result["best"]["params"])])
    return f"{table(rows)}\n\nbest: {result['recipe']}, and its model: {result['out']}"


def _short(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else str(value)
