"""`encoderkit plan`: what a recipe will take on this machine, from a few real updates of it, before anything is begun."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from encoderkit.config import Config
from encoderkit.console import duration, say, table
from encoderkit.errors import UsageError
from encoderkit.learner import Learner
from encoderkit.models.config import AlbertConfig, EncoderConfig, StaticConfig
from encoderkit.objectives.build import OBJECTIVES
from encoderkit.objectives.config import misfit
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages import finetune, pretrain
from encoderkit.stages.disk import KEPT, checkpoint_bytes
from encoderkit.stages.repeats import variants
from encoderkit.stages.session import Material, find_goal, fit, looks, own_threads, tokens_each
from encoderkit.training.config import by_the_clock
from encoderkit.training.loop import Plan, micro_batches
from encoderkit.training.machine import keep_memory, peak_memory
from encoderkit.training.optim import depth
from encoderkit.training.plan import FORWARD, Trial, draft, fitting, settle

SIZES = ((2, 128), (4, 256), (6, 384), (8, 512), (12, 768))
"""Layers and width of the models that are compared for a budget: those of Turc et al. 2019, and one between."""
RATIO = 20
"""Tokens a parameter at which time is used best (Hoffmann et al. 2022, "Chinchilla", table 3); for language models that
read left to right, so a rule of thumb here, and a flat optimum: half or twice as many costs little."""
_LENGTHS = ("updates", "epochs", "least", "tokens")


def run(recipe: Config, budget: float | None) -> dict[str, Any]:
    """What `recipe` takes; with `budget` (seconds) instead of its own length, and other sizes compared for that time.

    Seeds and folds are runs of their own: the figures are of one of them, `runs` is how many there are.
    Raises what the run itself would raise on the way to its first update.
    """
    if not isinstance(recipe, PretrainRecipe | FinetuneRecipe):
        raise UsageError("plan is for recipes of pretrain and finetune", fix="name a recipe of pretrain or finetune")
    keep_memory()
    training = recipe.training
    if budget is not None:
        training = training.model_copy(update=dict.fromkeys(_LENGTHS) | {"budget": budget})
        recipe = recipe.model_copy(update={"training": training})
    material = pretrain.prepare(recipe) if isinstance(recipe, PretrainRecipe) else finetune.prepare(recipe)
    learner = material.learner
    assert isinstance(learner, nn.Module)
    fit(recipe, learner)
    find_goal(learner, training)
    size = tokens_each(material) if training.tokens is not None else None
    plan = draft(training, recipe.schedule, recipe.optimizer, recipe.seed, material.length, len(material.train), size)
    learner.to(plan.device)
    dev = looks(recipe, len(material.dev or ()), len(material.train))
    plan = settle(plan, training, learner, material.train, dev, material.one_shape)
    with own_threads(learner):
        seconds = Trial(learner, material.train).speed(plan, recipe.optimizer, 4)
    if training.budget is not None:
        count = max(1, fitting(training.budget, seconds, dev, plan))
        plan = plan.model_copy(update={"updates": count, "examples": count * plan.batch})
    batches = _batches(material, plan)
    value = {
        "parameters": _parameters(learner),
        "updates": plan.updates,
        "micro_batch": plan.micro_batch,
        "precision": plan.precision,
        "compiled": plan.compile,
        "seconds_per_update": seconds,
        "tokens_per_second": batches.tokens / seconds,
        "padding": batches.padding,
        "tokens": round(batches.tokens * plan.updates),
        "passes": plan.examples / len(material.train),
        "tokens_per_parameter": batches.tokens * plan.updates / _parameters(learner)["total"],
        "seconds": seconds * plan.updates + FORWARD * seconds * dev.total(plan.updates) / plan.batch,
        "memory_bytes": peak_memory(plan.device),
        "disk_bytes": (KEPT + 1) * checkpoint_bytes(recipe, learner),
        "runs": len(variants(recipe)) if isinstance(recipe, FinetuneRecipe) else 1,
    }
    if budget is not None and isinstance(recipe, PretrainRecipe) and recipe.model is not None:
        value["sizes"] = _compare(recipe, material, plan, budget, seconds)
    return value


class _Sample(NamedTuple):
    tokens: float
    """Real tokens an update, on average."""
    padding: float
    """The share of the places computed that hold no token."""


def _batches(material: Material, plan: Plan) -> _Sample:
    """Of the first updates, which are like all others."""
    count = min(plan.updates, 20)
    made = [batch for n in range(count) for batch in micro_batches(material.learner, material.train, plan, n)]
    tokens, places = sum(batch.tokens for batch in made), sum(batch.inputs.ids.numel() for batch in made)
    # Word vectors have no rows that could be padded, only the words that occur.
    return _Sample(tokens / count, max(0.0, 1 - tokens / places))


def _parameters(learner: nn.Module) -> dict[str, int]:
    """By part: what stands below the layers of the encoder, the layers, and all above them."""
    deepest = 1 << 30
    parts = {"embeddings": 0, "layers": 0, "head": 0}
    for name, parameter in learner.named_parameters():
        level = depth(name, deepest)
        parts["embeddings" if level == 0 else "layers" if level <= deepest else "head"] += parameter.numel()
    return {"total": sum(parts.values()), **parts}


def _compare(recipe: PretrainRecipe, material: Material, plan: Plan, budget: float, known: float) -> list[dict[str, Any]]:
    """How far each size would come within the budget, from the smallest to the first that sees too little text.

    `known`: the seconds of an update of the recipe's own size.
    """
    assert recipe.model is not None
    if isinstance(recipe.model, StaticConfig):
        raise UsageError("--budget compares sizes of layers, and word vectors have none", fix="leave --budget out")
    found: list[dict[str, Any]] = []
    length = by_the_clock(budget)
    own, gain = (recipe.model.layers, recipe.model.dim), 1.0
    if plan.compile:  # takes half a minute a size: what it brings is taken to be the same for all
        gain = known / Trial(_learner(recipe, material, plan, recipe.model), material.train).speed(plan, recipe.optimizer, 1)
        say(f"the sizes are measured without compiling; an update is taken to need {gain:.0%} of that, as the recipe's own does")
    for layers, dim in sorted({*SIZES, own}, key=lambda size: size[0] * size[1] ** 2):
        model = recipe.model if (layers, dim) == own else _resized(recipe, layers, dim)
        if reason := misfit(recipe.objective, model):
            say(f"{layers} x {dim} is left out: {reason}")
            continue
        learner = _learner(recipe, material, plan, model)
        say(f"measuring {layers} x {dim}")
        trial = Trial(learner, material.train)
        seconds = known if (layers, dim) == own else gain * trial.speed(plan, recipe.optimizer, 1)
        tokens = _batches(material, plan).tokens * budget / seconds
        inside = _parameters(learner)["layers"]
        found.append(
            {
                "layers": layers,
                "dim": dim,
                "parameters": inside,
                "updates": int(budget / seconds),
                "tokens": round(tokens),
                "tokens_per_parameter": tokens / inside,
                "passes": budget / seconds * plan.batch / len(material.train),
                "settings": _told(recipe.model, model) + length,
            }
        )
        if tokens / inside < RATIO / 4:
            break
    best = min(found, key=lambda size: abs(math.log(size["tokens_per_parameter"] / RATIO)))
    return [size | {"proposed": size is best} for size in found]


def _learner(recipe: PretrainRecipe, material: Material, plan: Plan, model: EncoderConfig) -> Any:
    learner: Learner = OBJECTIVES[type(recipe.objective)](
        recipe.objective, model, material.learner.vocabulary, recipe.data.length
    )
    assert isinstance(learner, nn.Module)
    return learner.to(plan.device)


def _told(before: EncoderConfig, after: EncoderConfig) -> list[str]:
    """What `--set` takes to make one model of another; the numbers of layers and of their width in any case."""
    was, now = before.model_dump(mode="json"), after.model_dump(mode="json")
    keys = ["layers", "dim", *(key for key in now if now[key] != was[key] and key not in ("layers", "dim"))]
    return [f"model.{key}={'null' if now[key] is None else now[key]}" for key in keys]


def _resized(recipe: PretrainRecipe, layers: int, dim: int) -> Any:
    """The model of the recipe in another size: heads of 64, and the MLP in the same proportion to the width."""
    assert recipe.model is not None
    values = recipe.model.model_dump()
    values |= {"layers": layers, "dim": dim}
    if values.get("embedding_dim") == dim and not isinstance(recipe.model, AlbertConfig):  # which has no place for equal ones
        values["embedding_dim"] = None
    if "heads" in values:
        values["heads"] = dim // 64
    if values.get("groups"):
        values["groups"] = min(values["groups"], layers)
    if values.get("hidden"):
        values["hidden"] = round(values["hidden"] * dim / recipe.model.dim / 64) * 64
    return type(recipe.model).model_validate(values)


def describe(value: dict[str, Any], recipe: Path, settings: Sequence[str]) -> str:
    """The result of the recipe in the file `recipe`, changed by `settings`, as a person reads it."""
    parts = value["parameters"]
    mega = 1 << 20
    rows = [
        (
            "parameters",
            f"{parts['total']:,}: embeddings {parts['embeddings']:,}, layers {parts['layers']:,}, head {parts['head']:,}",
        ),
        (
            "arithmetic",
            f"{value['precision']}, {'compiled' if value['compiled'] else 'not compiled'}, {value['micro_batch']} rows at once",
        ),
        ("speed", f"{value['tokens_per_second']:,.0f} tokens a second, {value['seconds_per_update']:.3g} s an update"),
        ("padding", f"{value['padding']:.1%}"),
        ("memory", f"{value['memory_bytes'] / mega:,.0f} MiB at the most until now"),
        ("length", f"{value['updates']:,} updates, {value['tokens']:,} tokens, {value['passes']:.2f} passes over the data"),
        ("per parameter", f"{value['tokens_per_parameter']:.1f} tokens"),
        ("time", duration(value["seconds"])),
        ("disk", f"{value['disk_bytes'] / mega:,.0f} MiB: {KEPT} checkpoints, and another while it is written"),
    ]
    if (runs := value["runs"]) > 1:
        time, disk = duration(runs * value["seconds"]), runs * value["disk_bytes"] / mega
        rows.append(("all runs", f"{runs} of seeds and folds, each like this: {time}, {disk:,.0f} MiB"))
    text = "".join(f"{name:14}{what}\n" for name, what in rows)
    if "sizes" in value:
        titles = ["size", "in layers", "updates", "tokens", "per parameter", "passes", ""]
        sizes = [
            [
                f"{size['layers']} x {size['dim']}",
                *(f"{size[name]:,}" for name in ("parameters", "updates", "tokens")),
                f"{size['tokens_per_parameter']:.1f}",
                f"{size['passes']:.2f}",
                "<- proposed" if size["proposed"] else "",
            ]
            for size in value["sizes"]
        ]
        best = next(size for size in value["sizes"] if size["proposed"])
        text += f"\n{table([titles, *sizes])}\n\nAbout {RATIO} tokens a parameter in the layers use the time best. To train it:\n"
        words = [word for setting in [*settings, *best["settings"]] for word in ("--set", setting)]
        text += shlex.join(["encoderkit", "pretrain", str(recipe), *words, "--out", "DIR"]) + "\n"
        if best["tokens_per_parameter"] < RATIO / 4:
            text += "Even so it sees too little text for its size: a longer --budget would be better.\n"
    return text
