"""`encoderkit compare`: several recipes under the same conditions, and whether what differs is more than chance.

Equal time is `budget`, equal size a check on the encoders' parameters. Pretraining recipes are compared by what becomes of
them: by suites, and with a fine-tuning recipe by the labels that each encoder learns by it. The paired bootstrap then says
of each model whether it differs from the first one.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import stats

from encoderkit import files
from encoderkit.config import overridden, override, read_yaml
from encoderkit.console import markdown, say, warn
from encoderkit.data.labelled import Row, read_rows
from encoderkit.data.parallel import Given, name_of, paths_of
from encoderkit.errors import UsageError, fault_of_one
from encoderkit.inference import open_model, read_config, start
from encoderkit.metrics import Answered
from encoderkit.models.build import build_encoder
from encoderkit.models.decoder import Decoder
from encoderkit.preflight import encoder_of, find_step, finetune_inputs, input_file, pretrain_inputs, task_of
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe, unfit
from encoderkit.stages import suites as tests_of
from encoderkit.stages.against import Judged, differences
from encoderkit.stages.compare_table import lines
from encoderkit.stages.evaluate import judge
from encoderkit.stages.finetune import finetune
from encoderkit.stages.pretrain import pretrain
from encoderkit.stages.repeats import independent
from encoderkit.stages.show import recipe_kind
from encoderkit.stages.split import divided
from encoderkit.tasks.config import GenerateConfig
from encoderkit.text.tokenizers import open_tokenizer
from encoderkit.training.config import by_the_clock

SAME_SIZE = 0.1
"""Encoders that differ by a larger share of the parameters than this are told apart."""
NESTED = "finetune."
"""A setting that begins with this is for the fine-tuning recipe of what was pretrained."""


class _Plan(NamedTuple):
    """A recipe, checked, and what is to be done with what it made."""

    name: str
    first: PretrainRecipe | FinetuneRecipe
    second: FinetuneRecipe | None
    parameters: int

    @property
    def last(self) -> PretrainRecipe | FinetuneRecipe:
        """What makes the model that is judged."""
        return self.second or self.first

    @property
    def part(self) -> str:
        """Of which part of its data the figures are."""
        return "test" if isinstance(self.last, FinetuneRecipe) and "test" in self.last.data.files else "dev"


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
    asked = [_suite(text) for text in suites]
    plans = _plans(recipes, settings if budget is None else [*settings, *by_the_clock(budget)], then)
    _check_alike(plans, data)
    if data is None and not asked:
        _check_measured(plans)
    _check_sizes(plans, same_size)
    held = _held_out(plans) if data is None else None
    if data is None and held is None:
        _tell_unpaired(plans)
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
            entries[-1]["finetune"]["p"] = over_runs(runs, first, _same_rows(plans))
        if asked:
            asked_of.append({kind: _measured(out / plan.name, plan, kind, file) for kind, file in asked})
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


def _suite(text: str) -> tuple[str, Path]:
    kind, _, file = text.partition("=")
    if kind not in tests_of.SUITES or not file:
        fix = f"--suite {'=FILE, --suite '.join(tests_of.SUITES)}=FILE"
        raise UsageError(f"expected a suite and its file, found {text}", where="--suite", fix=fix)
    return kind, Path(file) if Path(file).is_dir() else input_file(file)


def _plans(recipes: Sequence[Path], settings: Sequence[str], then: Path | None) -> list[_Plan]:
    """Every recipe, checked before the first is run."""
    found: list[_Plan] = []
    nested = [text.removeprefix(NESTED) for text in settings if text.startswith(NESTED)]
    own = [text for text in settings if not text.startswith(NESTED)]
    if nested and then is None:
        raise UsageError(f"{NESTED}{nested[0]} is for --finetune, and there is none", where="--set", fix="add --finetune RECIPE")
    for path in recipes:
        first, name = _load(path, own), path.stem
        if name in (plan.name for plan in found):
            fix = "rename one of the files"
            raise UsageError(f"two of the recipes are named {name}; each is run in a directory of its name", where=path, fix=fix)
        second = None
        if isinstance(first, PretrainRecipe):
            pretrain_inputs(first)
            if then is not None:
                second = _load(then, [*nested, "checkpoint=PRETRAINED", "model=null", "tokenizer=null"])
        else:
            finetune_inputs(first)
            if then is not None:
                fix = "leave --finetune out, or compare recipes that pretrain"
                raise UsageError("is a fine-tuning recipe, and --finetune is for what was pretrained", where=path, fix=fix)
        if second is not None and not isinstance(second, FinetuneRecipe):
            raise UsageError(
                "--finetune takes a fine-tuning recipe", where=then, fix="encoderkit init finetune --out finetune.yaml"
            )
        if second is not None and first.model is not None and (reason := unfit(first.model, second.task, second.dropout)):
            raise UsageError(f"{name}: {reason}", where=then, fix=None)
        if second is not None:
            for path in (path for given in second.data.files.values() for path in paths_of(given)):
                input_file(path)
        found.append(_Plan(name, first, second, _parameters(first)))
    if len({type(plan.first) for plan in found}) > 1:
        fix = "compare those that pretrain, with --finetune RECIPE to fine-tune each"
        raise UsageError("some recipes pretrain and some fine-tune: only like can be compared with like", fix=fix)
    return found


def _load(path: Path, settings: Sequence[str]) -> PretrainRecipe | FinetuneRecipe:
    data, numbers = read_yaml(path)
    kind = recipe_kind(override(data, settings), path)
    if kind not in ("pretrain", "finetune"):
        raise UsageError(
            f"a {kind} recipe; compare takes recipes that train", where=path, fix="name recipes of pretrain or finetune"
        )
    return overridden(PretrainRecipe if kind == "pretrain" else FinetuneRecipe, data, settings, str(path), numbers)


def _parameters(recipe: PretrainRecipe | FinetuneRecipe) -> int:
    """Of the encoder, embeddings included, and of the decoder of what writes; without heads and generators."""
    step = None if recipe.checkpoint is None else find_step(recipe.checkpoint)
    if step is not None:
        model, size = encoder_of(step, None), read_config(step)["vocabulary"]["size"]
    else:
        assert recipe.model is not None and recipe.tokenizer is not None
        model, size = recipe.model, open_tokenizer(Path(recipe.tokenizer)).vocab_size
    with torch.device("meta"):
        encoder = build_encoder(model, size, 0)
        count = sum(p.numel() for p in encoder.parameters())
        if isinstance(recipe, FinetuneRecipe) and isinstance(task := task_of(recipe, step), GenerateConfig):
            assert task.decoder is not None
            own = None if task.tokenizer is None else open_tokenizer(Path(task.tokenizer)).vocab_size
            shared = encoder.tokens.embedding_dim if own is None else None
            count += sum(p.numel() for p in Decoder(task.decoder, model, own or size, 0, shared).parameters())
    return count


def _check_alike(plans: Sequence[_Plan], data: Path | None) -> None:
    """All are judged by the same task on the same rows, or nothing could be said of how they differ."""
    tasks = {plan.name: last.task.kind for plan in plans if isinstance(last := plan.last, FinetuneRecipe)}
    own = [last.task for plan in plans if isinstance(last := plan.last, FinetuneRecipe)]
    ways = {(task.metrics, task.yardstick) for task in own}
    shared = {*own[0].metrics}.intersection(*(task.metrics for task in own[1:])) - {"loss"} if own else set()
    if len(set(tasks.values())) == 1 < len(ways) and (not shared or len({yardstick for _, yardstick in ways}) > 1):
        unnamed = ["as the data decide"] * any(named for _, named in ways)
        each = (" ".join([", ".join(metrics), *(named or unnamed)]) for metrics, named in sorted(ways))
        told = " and some by ".join(each)
        raise UsageError(f"some of the recipes are measured by {told}", fix="compare those that are measured alike")
    if len(set(tasks.values())) > 1:
        told = ", ".join(f"{name} {kind}" for name, kind in tasks.items())
        raise UsageError(
            f"recipes of different tasks cannot be compared: {told}", where="task.kind", fix="compare those of one task"
        )
    if data is not None and not tasks:
        message = "has labelled rows, and what is only pretrained has no answers to them"
        raise UsageError(message, where="--data", fix="--finetune RECIPE")
    judged = [_labelled(plan.last) for plan in plans]
    rows = {"none" if given is None else name_of(given) for given in judged}
    if data is None and len(rows) > 1:
        message = f"the recipes would be judged on different rows: {', '.join(sorted(rows))}"
        raise UsageError(message, where="data.test", fix="--data FILE, or --set data.test=FILE")


def _check_measured(plans: Sequence[_Plan]) -> None:
    """Each fine-tuning recipe has rows to measure by, or its training would show nothing."""
    for plan in plans:
        last = plan.last
        if isinstance(last, FinetuneRecipe) and not (last.data.dev or last.data.test or last.folds):
            message = "has neither dev nor test rows, so that nothing would be measured in the end"
            raise UsageError(message, where=plan.name, fix="--data FILE, or --set data.dev=10%")


def _tell_unpaired(plans: Sequence[_Plan]) -> None:
    """Say beforehand why no p will stand beside the figures: each recipe is measured by rows of its own."""
    recipes = [last for plan in plans if isinstance(last := plan.last, FinetuneRecipe)]
    several = [bool(recipe.seeds or recipe.folds) for recipe in recipes]
    measured = "test" if any(recipe.folds for recipe in recipes) else "dev"
    if not recipes or _labelled(recipes[0]) is not None or (all(several) and measured in _same_rows(plans)):
        return
    why = "some have seeds or folds and some have not" if len({*several}) > 1 else "each holds out other rows of its data.train"
    warn(f"no p will tell whether they differ by more than chance: {why}; with --data FILE all are judged on the same rows")


def _check_sizes(plans: Sequence[_Plan], most: float | None) -> None:
    size = plans[0].parameters
    others = [plan for plan in plans if abs(plan.parameters / size - 1) > (SAME_SIZE if most is None else most)]
    if others:
        told = ", ".join(f"{plan.name} {plan.parameters:,}" for plan in others)
        message = f"{plans[0].name} has {size:,} parameters, and others have not: {told}"
        if most is not None:
            raise UsageError(message, where="--same-size", fix="other model.dim or model.layers, or a larger share")
        warn(message)


def _one(out: Path, plan: _Plan) -> tuple[dict[str, Any], Given | None]:
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
    return entry, _labelled(last)


def _labelled(recipe: PretrainRecipe | FinetuneRecipe) -> Given | None:
    """The rows that its model is judged on: those of test, or of dev."""
    if isinstance(recipe, PretrainRecipe):
        return None
    return None if recipe.folds else recipe.data.files.get("test", recipe.data.files.get("dev"))


def _drawn(recipe: FinetuneRecipe) -> tuple[Any, ...]:
    """What decides which rows of `data.train` are held out; of a list of seeds each has its own."""
    data, columns = recipe.data, recipe.task.together
    seed = None if recipe.seeds else recipe.seed
    return (name_of(data.train), data.dev if isinstance(data.dev, float) else None, recipe.folds, seed, *columns)


def _same_rows(plans: Sequence[_Plan]) -> list[str]:
    """The parts that all recipes read from one file, or draw alike from the same rows, as often as they do it."""
    recipes = [plan.last for plan in plans if isinstance(plan.last, FinetuneRecipe)]
    found = {
        part: {name_of(recipe.data.files[part]) if part in recipe.data.files else _drawn(recipe) for recipe in recipes}
        for part in ("dev", "test")
    }
    return [part for part, ways in found.items() if len(ways) == 1]


def _held_out(plans: Sequence[_Plan]) -> list[Row] | None:
    """The rows that all recipes hold out of `data.train`, if these are the same ones, once: nothing is trained on them."""
    recipes = [plan.last for plan in plans if isinstance(plan.last, FinetuneRecipe)]
    once = [r for r in recipes if isinstance(r.data.dev, float) and not (r.seeds or r.folds)]
    if len(once) < len(plans) or len({_drawn(recipe) for recipe in once}) > 1:
        return None
    first, task, given = once[0], once[0].task, once[0].data.train
    return divided(read_rows(given, task.all_columns, task.optional_columns, txt=task.txt), first).get("dev")


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


def _measured(out: Path, plan: _Plan, kind: str, file: Path) -> Answered:
    """What a suite found, kept in a file beside the run; of a model that it cannot ask, why not and no answers."""
    step, kept = find_step(out / ("pretrain" if isinstance(plan.first, PretrainRecipe) else "run")), out / f"{kind}.json"
    about = {"model": str(step), "data": [str(file)]}
    known = files.read_json(kept) if kept.exists() else {}
    answered = "given" in known and "why" not in known["figures"]  # a later version may ask what this one could not
    if not (about.items() <= known.items() and answered):
        try:
            found = tests_of.SUITES[kind](start(open_model(step)), [file])
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
