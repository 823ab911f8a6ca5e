"""`encoderkit compare`: several recipes under the same conditions, and whether what differs is more than chance.

Equal time is `budget`, equal size a check on the encoders' parameters. Pretraining recipes are compared by what becomes of
them: by suites, and with a fine-tuning recipe by the labels that each encoder learns by it. The paired bootstrap then says
of each model whether it differs from the first one.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from encoderkit import files
from encoderkit.console import markdown, say, warn
from encoderkit.data.parallel import Given, name_of
from encoderkit.errors import UsageError, fault_of_one
from encoderkit.inference import open_model, start
from encoderkit.metrics import Answered
from encoderkit.preflight import find_step, finetune_inputs
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages import minimal_pairs
from encoderkit.stages import suites as tests_of
from encoderkit.stages.against import Judged, differences
from encoderkit.stages.compare_plans import (
    Plan,
    check_alike,
    check_files,
    check_measured,
    check_place,
    check_sizes,
    held_out,
    labelled_rows,
    plans_of,
    same_rows,
    suites_of,
    tell_unpaired,
)
from encoderkit.stages.compare_table import lines
from encoderkit.stages.evaluate import judge
from encoderkit.stages.finetune import finetune
from encoderkit.stages.pretrain import pretrain
from encoderkit.stages.repeats import independent
from encoderkit.training.config import by_the_clock


def compare(
    recipes: Sequence[Path],
    out: Path,
    settings: Sequence[str] = (),
    then: Path | None = None,
    data: Path | None = None,
    budget: float | None = None,
    suites: Sequence[str] = (),
    same_size: float | None = None,
) -> dict[str, Any]:
    """Run `recipes`, each in a directory of `out` with its name; the JSON of the command. The table is `out`/table.md as well.

    `settings` (`--set`) hold for all of them; those that begin with `finetune.` for `then`: a fine-tuning recipe for what was
    pretrained. `data`: labelled rows on which the results are compared; the recipe's test set, or its dev set, if not given.
    `budget`: seconds for each, in place of the length that each recipe has. `suites`: KIND=FILE, as `evaluate --suite` has
    them. `same_size`: the largest share by which encoders may differ from the first in parameters; `UsageError` if one
    does. What is done already is not done again, so the same command goes on where it was stopped.
    """
    if len(recipes) < 2:
        raise UsageError("compare takes two recipes or more, and there is one", fix="name another, or run it by its own command")
    asked = suites_of(suites)
    plans = plans_of(recipes, settings if budget is None else [*settings, *by_the_clock(budget)], then)
    check_alike(plans, data)
    if data is None and not asked:
        check_measured(plans)
    check_sizes(plans, same_size)
    check_files(plans, data, asked)
    check_place(out, plans)
    held = held_out(plans) if data is None else None
    if data is None and held is None:
        tell_unpaired(plans)
    entries, judged, asked_of = [], [], []
    for number_, plan in enumerate(plans, start=1):
        say(f"{plan.name}: {number_} of {len(plans)}")
        entries.append({"name": plan.name, "parameters": plan.parameters})
        try:
            entry, labelled = _one(out / plan.name, plan)
        except Exception as error:
            why = fault_of_one(error)
            if why is None or number_ == 1:  # the first is what all others are held against
                raise
            warn(f"{plan.name}: {why}")
            entries[-1]["why"] = why
            _keep(out, entries)
            continue
        entries[-1] |= entry
        runs, first = (one.get("finetune", {}).get("runs") for one in (entry, entries[0]))
        if runs and first and number_ > 1:
            entries[-1]["finetune"]["p"] = over_runs(runs, first, same_rows(plans))
        if asked:
            asked_of.append({kind: _measured(out / plan.name, plan, kind, paths) for kind, paths in asked.items()})
            entries[-1]["suites"] = {kind: _figures(kind, one, asked_of[0][kind]) for kind, one in asked_of[-1].items()}
        rows = data or labelled or held
        if rows is not None:
            judged.append(judge(start(open_model(find_step(entry["model"]))), rows, {}))
            what = f"{len(rows):,} rows held out of data.train" if isinstance(rows, list) else name_of(rows)
            part = data.name if data is not None else plan.part
            entries[-1] |= {"part": part, **_judged(judged, what)}
        _keep(out, entries)
    return {"recipes": entries, "out": str(out)}


def _keep(out: Path, entries: Sequence[dict[str, Any]]) -> None:
    result = {"recipes": entries, "out": str(out)}
    files.replace(out / "comparison.json", json.dumps(result, indent=1, ensure_ascii=False))
    files.replace(out / "table.md", markdown(lines(entries)))


def _one(out: Path, plan: Plan) -> tuple[dict[str, Any], Given | None]:
    """Train what a recipe says, and then what follows; what came out, and the labelled rows that it should be judged on."""
    entry: dict[str, Any] = {}
    run, last = out / "run", plan.first
    if isinstance(last, PretrainRecipe):
        run = out / "pretrain"
        done = pretrain(last, run, resume=True)
        entry["pretrain"] = {key: done[key] for key in ("updates", "tokens", "seconds", "tokens_per_second", "dev")}
        if plan.second is not None:
            last = plan.second.model_copy(update={"checkpoint": str(run)})
            finetune_inputs(last)
            run = out / "finetune"
    if isinstance(last, FinetuneRecipe):
        done = finetune(last, run, resume=True)
        kept = ("updates", "seconds", "dev", "test", "chosen_by", "intervals", "runs")  # the latter two with seeds or folds
        entry["finetune"] = {key: done[key] for key in kept if key in done}
    entry["model"] = str(run)
    return entry, labelled_rows(last)


def over_runs(
    runs: Mapping[str, Any], first: Mapping[str, Any], parts: Sequence[str] = ("dev", "test")
) -> dict[str, dict[str, float]]:
    """How likely the means over seeds, or folds, differ as much by chance, of `parts` and each metric: p of Student's t.

    Runs of the same seeds and folds are paired; else Welch's test. None where nothing varies, which t cannot judge.
    """
    runs, first = (dict(sorted(of.items())) for of in (runs, first))  # one may name its seeds in another order
    paired = runs.keys() == first.keys()
    found: dict[str, dict[str, float]] = {}
    for part in parts:
        for metric in next(iter(runs.values()))[part]:
            own, other = (np.array([*independent(of, part, metric).values()]) for of in (runs, first))
            if min(len(own), len(other)) < 2:
                continue
            spread = np.ptp(own - other) if paired else max(np.ptp(own), np.ptp(other))
            if spread > 1e-9 * float(np.abs(np.concatenate((own, other))).max()):
                test = stats.ttest_rel(own, other) if paired else stats.ttest_ind(own, other, equal_var=False)
                found.setdefault(part, {})[metric] = float(test.pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    return found


def _measured(out: Path, plan: Plan, kind: str, paths: Sequence[Path]) -> Answered:
    """What a suite found, kept in a file beside the run; of a model that it cannot ask, why not and no answers."""
    step, kept = find_step(out / ("pretrain" if isinstance(plan.first, PretrainRecipe) else "run")), out / f"{kind}.json"
    read = {str(file): files.sha256(file) for file in minimal_pairs.files_of(paths)}  # other suites have no folders
    about = {"model": files.sha256(step / files.MANIFEST), "data": read}
    known = files.read_json(kept) if kept.exists() else {}
    answered = "given" in known and "why" not in known["figures"]  # a later version may ask what this one could not
    if not (about.items() <= known.items() and answered):
        try:
            found = tests_of.SUITES[kind].ask(start(open_model(step)), paths)
            figures = {key: found.figures[key] for key in ("rows", "metrics", "intervals") if key in found.figures}
        except UsageError as error:
            say(f"{plan.name}: {kind}: {error.message}")
            figures, found = {"why": error.message}, Answered({}, np.zeros(0), np.zeros(0))
        given = [None if np.isnan(value) else value for value in found.given.tolist()]
        known = {**about, "figures": figures, "gold": found.gold.tolist(), "given": given}
        files.replace(kept, json.dumps(known, ensure_ascii=False))
        known = files.read_json(kept)
    return Answered(known["figures"], np.array(known["gold"]), np.array(known["given"], np.float64))


def _figures(kind: str, one: Answered, first: Answered) -> dict[str, Any]:
    """The figures, and how they differ from those of the first model."""
    if one is first or "why" in one.figures or "why" in first.figures:
        return one.figures
    return {**one.figures, "difference": tests_of.differences(kind, one, first)["differences"]}


def _judged(judged: Sequence[Judged], rows: str) -> dict[str, Any]:
    """The last model's metrics, and how it differs from the first."""
    last = judged[-1]
    found: dict[str, Any] = {
        "data": rows,
        "metrics": last.task.score(last.gold, last.predicted),
        "intervals": last.task.intervals(last.gold, last.predicted),
    }
    if len(judged) > 1:
        found["difference"] = differences(last, judged[0])
    return found
