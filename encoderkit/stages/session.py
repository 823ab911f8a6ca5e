"""What pretraining and fine-tuning have in common: opening or continuing a run, and training it."""

import json
import os
import platform
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import ValidationError
from torch import nn

from encoderkit import __version__, files, world
from encoderkit.config import dump, parse_yaml
from encoderkit.console import many, say, warn
from encoderkit.errors import DataError, ExitCode, UsageError
from encoderkit.inference import read_config
from encoderkit.learner import Learner, SingleThreaded
from encoderkit.models.attention import train_by
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages.disk import check_room
from encoderkit.text.tokenizers import Tokenizer
from encoderkit.training.average import build_average, too_few
from encoderkit.training.checkpoint import Description, State, config_of, newest, publish, restore, set_aside, step_path
from encoderkit.training.config import MuonConfig, TrainingConfig
from encoderkit.training.distributed import by_first, joined
from encoderkit.training.loop import Plan, Source
from encoderkit.training.lora import adapt
from encoderkit.training.machine import DTYPES, check_compiler, check_precision, has_bf16, keep_memory
from encoderkit.training.optim import Muon, build_optimizers, depths, freeze
from encoderkit.training.plan import Looks, draft, settle
from encoderkit.training.run import Goal, endings, handled, rewind_log, train
from encoderkit.training.sharding import place, sharded
from encoderkit.units import interval, span_updates


class Material(NamedTuple):
    """What a stage brings to a run."""

    learner: Learner
    train: Source
    dev: Source | None
    test: Source | None
    tokenizer: Tokenizer
    labels: list[str] | None
    length: int
    inputs: dict[str, str]
    """Fingerprints of the data and of the parents; a run is only continued on the same."""
    one_shape: bool
    """Whether every batch has the same shape."""
    target: Tokenizer | None = None
    """Of what is written, if it is not that of what is read."""


@contextmanager
def session(recipe: PretrainRecipe | FinetuneRecipe, out: Path, resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold `out` for this run alone, with what was there before refused, or (resume) checked to be the same run."""
    keep_memory()
    with joined(), ExitStack() as held, _terminable():
        by_first(lambda: hold(held, recipe, out, resume, overwrite))
        yield


def hold(held: ExitStack, recipe: PretrainRecipe | FinetuneRecipe, out: Path, resume: bool, overwrite: bool) -> None:
    """Lock `out` for as long as `held` is open, and refuse what is there already or (resume) another run."""
    known = out / "recipe.yaml"
    held.enter_context(files.locked(out))
    files.sweep(out)
    if overwrite:
        # What is there goes when the new run is ready to begin, and not for one that cannot.
        files.refuse_existing(out, overwrite, resume=True)
    elif resume and known.exists():
        before = parse_yaml(known.read_text(encoding="utf-8", errors="replace"), str(known))[0]
        if not isinstance(before, dict):
            raise DataError("not the recipe of a run; it is damaged", where=known, fix="--overwrite to begin again")
        _same_recipe(_completed(before, type(recipe)), _identity(recipe), known)
    elif resume and any(path.name != "lock" for path in out.iterdir()):
        raise UsageError("there is something here, but it is not a run to continue", where=out, fix="another --out")
    else:
        files.refuse_existing(out, overwrite=False, resume=True)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and its like before the first update, or after the last one, end with the code that says: run me again."""

    def leave(number: int, frame: FrameType | None) -> None:
        name, again = signal.Signals(number).name, "the same command, with --resume where it has that, goes on"
        say(f"stopped by {name} while not training; nothing is lost: {again}")
        raise SystemExit(ExitCode.PREEMPTED)

    with handled(endings(), leave):
        yield


def _identity(recipe: PretrainRecipe | FinetuneRecipe) -> dict[str, Any]:
    return json.loads(recipe.model_dump_json(exclude_none=True))


def _completed(before: dict[str, Any], kind: type[PretrainRecipe] | type[FinetuneRecipe]) -> dict[str, Any]:
    """The recipe of a run, with the defaults of keys that there were not yet when it began."""
    try:
        return _identity(kind.model_validate(before))
    except ValidationError:  # of another kind, or one that has changed since
        return before


_OF_THE_MACHINE = ("training.shard", "training.micro_batch", "training.attention", "training.compile")
"""Where, in what portions and by what kernel an update is computed is of no account for what it is."""


def _same_recipe(before: Any, now: dict[str, Any], where: Path) -> None:
    patient = bool(now.get("training", {}).get("patience"))  # which counts evaluations
    if patient and _different(before.get("every"), now.get("every")).count("evaluate"):
        raise UsageError(
            "training.patience counts evaluations, and the run was begun with others: every.evaluate",
            where=where,
            fix="resume with every.evaluate as it was",
        )
    changed = [
        name
        for section in sorted((before.keys() | now.keys()) - {"every"})
        for key in _different(before.get(section), now.get(section))
        if (name := f"{section}.{key}") not in _OF_THE_MACHINE
    ]
    if changed:
        raise UsageError(
            f"the run was begun with another recipe; different: {', '.join(name.removesuffix('.') for name in changed[:8])}",
            where=where,
            fix=f"resume with the recipe it was begun with (only `every`, {', '.join(_OF_THE_MACHINE)} may change), or "
            "begin a new run in another --out",
        )


def _different(before: Any, now: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        return [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    return [] if before == now else [""]


def run(recipe: PretrainRecipe | FinetuneRecipe, material: Material, out: Path, overwrite: bool) -> tuple[State, Plan]:
    """Train `material` as the recipe says, from the newest checkpoint in `out` if there is one (unless `overwrite`)."""
    with own_threads(material.learner):
        return _run(recipe, material, out, overwrite)


@contextmanager
def own_threads(learner: Learner) -> Iterator[None]:
    """One thread of torch while it is open, for a learner that is faster so (`SingleThreaded`)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if isinstance(learner, SingleThreaded) and learner.single_threaded else threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _run(recipe: PretrainRecipe | FinetuneRecipe, material: Material, out: Path, overwrite: bool) -> tuple[State, Plan]:
    learner = material.learner
    assert isinstance(learner, nn.Module)
    training = recipe.training
    fit(recipe, learner)
    goal = find_goal(learner, training)
    found, plan = by_first(lambda: (None, None) if overwrite else (newest(out), _known_plan(out, material)))
    if found is not None and plan is None:
        raise DataError("the run has checkpoints but no plan.json; it is damaged", where=out, fix="--overwrite to begin again")
    if plan is None:
        count, size = len(material.train), tokens_each(material) if training.tokens is not None else None
        # By the first: what a processor is measured to be good at may differ between processes.
        plan = by_first(lambda: draft(training, recipe.schedule, recipe.optimizer, recipe.seed, material.length, count, size))
        by_first(lambda: check_room(recipe, learner, out))
        place(learner, plan.device, training.shard)
        dev = looks(recipe, len(material.dev or ()), count)
        plan = settle(plan, training, learner, material.train, dev, material.one_shape)
        settled = plan
        by_first(lambda: _begin(recipe, material, settled, out, overwrite))
    else:
        plan = _resumed(plan, training, learner, out)
        if found is None or not (found[1].update == plan.updates or goal.tired(found[1])):
            by_first(lambda: check_room(recipe, learner, out))
    say(_where(plan))
    made, state = build_optimizers(learner, recipe.optimizer, DTYPES[plan.precision]), State()
    if isinstance(recipe.optimizer, MuonConfig) and not any(isinstance(optimizer, Muon) for optimizer in made):
        warn("optimizer.kind muon is for the matrices of layers, and here are none to train: all is adamw's, at adamw_lr")
    if (last := plan.unfreeze * (depths(learner).layers + 1)) >= plan.updates:
        warn(f"training.unfreeze opens the last part after {last:g} updates of {plan.updates}: some parts are never trained")
    if (rise := span_updates(plan.schedule.warmup, plan.updates)) >= plan.updates:
        warn(f"schedule.warmup has {rise} updates, and the run {plan.updates}: the rate only rises, and never to optimizer.lr")
    epoch = len(material.train) / plan.batch
    if few := too_few(training.average, epoch, plan.updates):
        warn(few)
    made += build_average(learner, training.average, epoch)
    if found is not None:
        step, state = found
        read_config(step)  # one of another version is refused, not continued
        restore(step, learner, made)
        if state.best_update is not None and not step_path(out, state.best_update).exists():
            state = state.model_copy(update={"best_update": None, "best_value": None})
        say(f"continuing {out} after update {state.update} of {plan.updates}")
    restored = state
    by_first(lambda: _tidy(out, restored, found is not None))
    target = material.target.save_files() if material.target else None
    description = Description(_config(recipe, material), material.labels, material.tokenizer.save_files(), target)
    if state.due or (state.update < plan.updates and not goal.tired(state)):
        state, plan = train(
            learner, made, material.train, material.dev, plan, recipe.every, goal, out, description, state
        )  # fmt: skip
        by_first(lambda: None)  # the first process has written the last checkpoint before another one reads it
    return state, plan


def _where(plan: Plan) -> str:
    """On what, and how, a run is computed."""
    device = plan.device
    if device == "cpu":
        found = "" if torch.cuda.is_available() else "; torch finds no GPU it can use"
        threads = torch.get_num_threads()
        device = f"processor ({many(threads, 'thread')}{found})"
    processes = f"by {world.size()} processes, each " if world.size() > 1 else ""
    compiled = ", compiled" if plan.compile else ""
    return f"computed {processes}on the {device}, in {plan.precision}, {many(plan.micro_batch, 'example')} at once{compiled}"


def _resumed(plan: Plan, training: TrainingConfig, learner: Learner, out: Path) -> Plan:
    """The plan of a run that goes on, as far as this machine and the recipe have a say in it; and the learner as it asks."""
    assert isinstance(learner, nn.Module)
    if plan.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "the run was begun on a GPU, and torch finds none here; it would not be the same run",
            where=out,
            fix="go on where the GPU is, or begin anew: --overwrite",
        )
    if plan.processes == world.size():
        torch.set_num_threads(plan.threads)
    check_precision(learner, plan.precision, plan.device)
    if plan.precision == "bf16" and plan.device == "cpu" and not has_bf16():
        warn("the run was begun in bf16, for which this processor has no instructions: it goes on, but slowly")
    if training.compile != "auto":
        plan = plan.model_copy(update={"compile": training.compile == "on"})
    check_compiler(plan.compile, plan.device)
    if isinstance(training.micro_batch, int) and training.micro_batch != _asked(out):  # else the plan knows what fitted
        plan = plan.model_copy(update={"micro_batch": min(training.micro_batch, plan.batch)})
    if training.attention != "auto":
        plan = plan.model_copy(update={"attention": training.attention})
    train_by(plan.attention)
    place(learner, plan.device, training.shard)
    if plan.compile and not sharded(learner):
        learner.compile()
    return plan


def _asked(out: Path) -> object:
    """The micro-batch of the recipe with which the run was begun."""
    before: Any = parse_yaml((out / "recipe.yaml").read_text(encoding="utf-8"), "recipe.yaml")[0]
    return (before.get("training") or {}).get("micro_batch")


def fit(recipe: PretrainRecipe | FinetuneRecipe, learner: nn.Module) -> None:
    """Freeze what the recipe freezes and add what it adds; raises `UsageError` where nothing would be trained, or not yet."""
    training = recipe.training
    freeze(learner, training.freeze)
    adapt(learner, training.lora, recipe.seed)
    if not any(parameter.requires_grad for parameter in learner.parameters()):
        raise UsageError(
            f"training.freeze: {training.freeze} leaves nothing to train: this task has no layers of its own",
            fix="freeze less, or begin with fresh layers: training.reinit",
        )
    found = depths(learner)
    if training.unfreeze and max(found.of.values()) <= found.layers:
        message = "training.unfreeze begins with what stands above the layers, and here is nothing"
        raise UsageError(message, fix="--set training.unfreeze=null")


def _tidy(out: Path, state: State, continued: bool) -> None:
    """Nothing in the run is of later than where it is continued."""
    if continued:
        set_aside(out, state)
        publish(out, state)
    rewind_log(out, state)


def looks(recipe: PretrainRecipe | FinetuneRecipe, dev: int, examples: int) -> Looks:
    """About how many of `dev` held-out examples a run will evaluate, which trains on so many `examples` an epoch."""
    every, budget = interval(recipe.every.evaluate), recipe.training.budget
    if every.unit == "seconds":
        return Looks(dev * (1 + int((budget or 0) / every.size)))
    return Looks(dev, dev / (every.size * (max(1, examples / recipe.training.batch) if every.unit == "epochs" else 1)))


def tokens_each(material: Material) -> float:
    """How many real tokens an example has on average, by some of them: rows that are not packed are not full."""
    count = min(len(material.train), 256)
    some = [material.train[int(i)] for i in np.linspace(0, len(material.train) - 1, count)]
    return material.learner.collate(some, [np.random.default_rng(i) for i in range(count)], 0.0).tokens / count


def find_goal(learner: Learner, training: TrainingConfig) -> Goal:
    """What the best checkpoint is; raises `UsageError` for a metric that the learner does not have."""
    name = training.metric or learner.monitor
    if name not in learner.directions:
        fix = f"--set training.metric={learner.monitor}"
        raise UsageError(f"training.metric {name} is not a metric here; there are {', '.join(learner.directions)}", fix=fix)
    return Goal(name, learner.directions[name], training.patience, training.least or 0)


def _known_plan(out: Path, material: Material) -> Plan | None:
    if not (out / "plan.json").exists():
        return None
    manifest = files.read_json(out / "manifest.json")
    inputs = manifest.get("inputs") if isinstance(manifest, dict) else None
    known = inputs if isinstance(inputs, dict) else {}
    # Which rows were held out by chance was not noted by earlier versions.
    names = [n for n in material.inputs if known.get(n) != material.inputs[n] and (n in known or n != "data.dev")]
    if names or not known.keys() <= material.inputs.keys():
        raise DataError(
            f"{' and '.join(names) or 'what the run was begun with'} changed since the run began, so it cannot be continued",
            where=out,
            fix="restore the files, or the version of encoderkit, as they were, or begin a new run in another --out",
        )
    try:
        return Plan.model_validate(files.read_json(out / "plan.json"))
    except ValidationError:
        raise DataError("not the plan of a run; it is damaged", where=out / "plan.json", fix="begin a new run") from None


def ready(recipe: PretrainRecipe | FinetuneRecipe, material: Material) -> None:
    """Raise what would keep a run from being begun, as far as no update has to be measured for it."""
    assert isinstance(material.learner, nn.Module)
    fit(recipe, material.learner)
    find_goal(material.learner, recipe.training)
    draft(recipe.training, recipe.schedule, recipe.optimizer, recipe.seed, material.length, len(material.train))


def clear(out: Path) -> None:
    """Remove the run, or the runs, in `out`: first what it goes on by, and last what tells that it is one.

    For this may be killed, and then what is left is to go, and not to be continued.
    """
    mark = out / "plan.json"
    if not mark.exists():  # of several runs
        files.replace(mark, "{}")
    held = [path for path in out.iterdir() if path.name not in ("lock", mark.name)]
    for path in [*sorted(held, key=lambda path: path.name != "recipe.yaml"), mark]:
        files.remove(path)


def _begin(recipe: PretrainRecipe | FinetuneRecipe, material: Material, plan: Plan, out: Path, overwrite: bool) -> None:
    """Write what the run is, in place (`overwrite`) of what was there; plan.json last, since it says that the rest is there."""
    assert isinstance(material.learner, nn.Module)
    if overwrite:
        clear(out)
    manifest = {
        "encoderkit": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": {"platform": platform.platform(), "cores": os.cpu_count(), "threads": plan.threads, "device": plan.device},
        "parameters": sum(p.numel() for p in material.learner.parameters()),
        "inputs": material.inputs,
    }
    files.replace(out / "recipe.yaml", dump(recipe))
    files.replace(out / "manifest.json", json.dumps(manifest, indent=1))
    files.replace(out / "plan.json", plan.model_dump_json(indent=1))


def _config(recipe: PretrainRecipe | FinetuneRecipe, material: Material) -> dict[str, Any]:
    learner = material.learner
    task: Any = learner  # its config may have taken something from the checkpoint that the recipe leaves open
    part = {"objective": recipe.objective} if isinstance(recipe, PretrainRecipe) else {"task": task.config}
    return {
        **config_of(learner.encoder_config, learner.vocabulary._asdict(), **part),
        **({"target_vocabulary": task.target._asdict()} if material.target else {}),
        "length": material.length,
        "recipe": _identity(recipe),
    }


def outcome(out: Path, state: State, plan: Plan) -> dict[str, Any]:
    """The JSON of a training command: what was done, and the held-out metrics of the best checkpoint."""
    best = None if state.best_update is None else step_path(out, state.best_update)
    dev = {}
    if (out / "metrics.jsonl").exists():
        for line in (out / "metrics.jsonl").read_text(encoding="utf-8").split("\n"):
            entry = json.loads(line) if line else {}
            if entry.get("update") == state.best_update and "dev" in entry:
                dev = entry["dev"]
    return {
        "updates": state.update,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 1),
        "tokens_per_second": round(state.speed),
        "dev": dev,
        "test": {},
        "best": str(best or step_path(out, state.update)),
        "out": str(out),
    }
