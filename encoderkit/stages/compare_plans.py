"""What `encoderkit compare` compares: its recipes, checked before the first is run, and whether like is held against like."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from encoderkit import files
from encoderkit.config import overridden, override, read_yaml
from encoderkit.console import warn
from encoderkit.data.labelled import Row, read_rows
from encoderkit.data.parallel import Given, name_of, paths_of
from encoderkit.data.records import named_by
from encoderkit.errors import UsageError
from encoderkit.inference import read_config
from encoderkit.models.build import build_encoder
from encoderkit.models.decoder import Decoder
from encoderkit.preflight import encoder_of, find_step, finetune_inputs, input_file, pretrain_inputs, task_of
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe, unfit
from encoderkit.stages import suites as tests_of
from encoderkit.stages.show import recipe_kind
from encoderkit.stages.split import divided
from encoderkit.tasks.columns import ways
from encoderkit.tasks.config import GenerateConfig
from encoderkit.text.tokenizers import open_tokenizer

SAME_SIZE = 0.1
"""Encoders that differ by a larger share of the parameters than this are told apart."""
NESTED = "finetune."
"""A setting that begins with this is for the fine-tuning recipe of what was pretrained."""


class Plan(NamedTuple):
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


def suites_of(texts: Sequence[str]) -> dict[str, list[Path]]:
    """The files of each suite; what is wrong with them is told before anything is trained."""
    asked: dict[str, list[Path]] = {}
    for text in texts:
        kind, _, file = text.partition("=")
        if kind not in tests_of.SUITES or not file:
            fix = f"--suite {'=FILE, --suite '.join(tests_of.SUITES)}=FILE"
            raise UsageError(f"expected a suite and its file, found {text}", where="--suite", fix=fix)
        asked.setdefault(kind, []).append(Path(file) if Path(file).is_dir() else input_file(file))
    for kind, paths in asked.items():
        tests_of.SUITES[kind].read(paths)
    return asked


def plans_of(recipes: Sequence[Path], settings: Sequence[str], then: Path | None) -> list[Plan]:
    """Every recipe, checked before the first is run."""
    found: list[Plan] = []
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
        found.append(Plan(name, first, second, _parameters(first)))
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


def check_alike(plans: Sequence[Plan], data: Path | None) -> None:
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
    judged = [labelled_rows(plan.last) for plan in plans]
    rows = {"none" if given is None else name_of(given) for given in judged}
    if data is None and len(rows) > 1:
        message = f"the recipes would be judged on different rows: {', '.join(sorted(rows))}"
        raise UsageError(message, where="data.test", fix="--data FILE, or --set data.test=FILE")


def check_measured(plans: Sequence[Plan]) -> None:
    """Each fine-tuning recipe has rows to measure by, or its training would show nothing."""
    for plan in plans:
        last = plan.last
        if isinstance(last, FinetuneRecipe) and not (last.data.dev or last.data.test or last.folds):
            message = "has neither dev nor test rows, so that nothing would be measured in the end"
            raise UsageError(message, where=plan.name, fix="--data FILE, or --set data.dev=10%")


def tell_unpaired(plans: Sequence[Plan]) -> None:
    """Say beforehand why no p will stand beside the figures: each recipe is measured by rows of its own."""
    recipes = [last for plan in plans if isinstance(last := plan.last, FinetuneRecipe)]
    several = [bool(recipe.seeds or recipe.folds) for recipe in recipes]
    measured = "test" if any(recipe.folds for recipe in recipes) else "dev"
    if not recipes or labelled_rows(recipes[0]) is not None or (all(several) and measured in same_rows(plans)):
        return
    why = "some have seeds or folds and some have not" if len({*several}) > 1 else "each holds out other rows of its data.train"
    warn(f"no p will tell whether they differ by more than chance: {why}; with --data FILE all are judged on the same rows")


def check_sizes(plans: Sequence[Plan], most: float | None) -> None:
    """Say which encoders are of another size than the first; raises `UsageError` where they differ by more than `most`."""
    size = plans[0].parameters
    others = [plan for plan in plans if abs(plan.parameters / size - 1) > (SAME_SIZE if most is None else most)]
    if others:
        told = ", ".join(f"{plan.name} {plan.parameters:,}" for plan in others)
        message = f"{plans[0].name} has {size:,} parameters, and others have not: {told}"
        if most is not None:
            raise UsageError(message, where="--same-size", fix="other model.dim or model.layers, or a larger share")
        warn(message)


def check_files(plans: Sequence[Plan], data: Path | None, asked: Mapping[str, object]) -> None:
    """The rows of `--data` have the columns of the tasks that are judged on them, and some model is asked what was asked for."""
    tasks = [last.task for plan in plans if isinstance(last := plan.last, FinetuneRecipe)]
    where = NESTED if any(plan.second for plan in plans) else ""
    # Once for all that read the same columns.
    for task in {str((task.all_columns, task.optional_columns, task.txt)): task for task in tasks}.values() if data else ():
        with named_by({column: way.replace("--set ", f"--set {where}") for column, way in ways(task).items()}):
            read_rows(str(data), task.all_columns, task.optional_columns, txt=task.txt)
    if "minimal_pairs" in asked and all(isinstance(plan.first, FinetuneRecipe) for plan in plans):
        message = "asks for the likelihood of sentences, which a model that is fine-tuned for a task does not give"
        raise UsageError(message, where="--suite minimal_pairs", fix="compare recipes that pretrain, or leave it out")


def check_place(out: Path, plans: Sequence[Plan]) -> None:
    """The table that would be written is not somebody's own, nor one of recipes that would be missing in it."""
    table, known = out / "table.md", out / "comparison.json"
    found = files.read_json(known) if known.exists() else {}
    entries = found.get("recipes") if isinstance(found, dict) else None
    before = [entry.get("name") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    others = [str(name) for name in before if name not in {plan.name for plan in plans}]
    if (table.exists() or known.exists()) and not before:
        where = table if table.exists() else known
        raise UsageError("would be replaced, and no comparison wrote it", where=where, fix="another --out")
    if others:
        message = f"holds a comparison of {' and '.join(others)} too, which the new table would not have"
        raise UsageError(message, where=out, fix="another --out, or name these recipes as well")


def labelled_rows(recipe: PretrainRecipe | FinetuneRecipe) -> Given | None:
    """The rows that its model is judged on: those of test, or of dev."""
    if isinstance(recipe, PretrainRecipe):
        return None
    return None if recipe.folds else recipe.data.files.get("test", recipe.data.files.get("dev"))


def drawn(recipe: FinetuneRecipe) -> tuple[Any, ...]:
    """What decides which rows of `data.train` are held out; of a list of seeds each has its own."""
    data, columns = recipe.data, recipe.task.together
    seed = None if recipe.seeds else recipe.seed
    return (name_of(data.train), data.dev if isinstance(data.dev, float) else None, recipe.folds, seed, *columns)


def same_rows(plans: Sequence[Plan]) -> list[str]:
    """The parts that all recipes read from one file, or draw alike from the same rows, as often as they do it."""
    recipes = [plan.last for plan in plans if isinstance(plan.last, FinetuneRecipe)]
    found = {
        part: {name_of(recipe.data.files[part]) if part in recipe.data.files else drawn(recipe) for recipe in recipes}
        for part in ("dev", "test")
    }
    return [part for part, ways in found.items() if len(ways) == 1]


def held_out(plans: Sequence[Plan]) -> list[Row] | None:
    """The rows that all recipes hold out of `data.train`, if these are the same ones, once: nothing is trained on them."""
    recipes = [plan.last for plan in plans if isinstance(plan.last, FinetuneRecipe)]
    once = [r for r in recipes if isinstance(r.data.dev, float) and not (r.seeds or r.folds)]
    if len(once) < len(plans) or len({drawn(recipe) for recipe in once}) > 1:
        return None
    first, task, given = once[0], once[0].task, once[0].data.train
    return divided(read_rows(given, task.all_columns, task.optional_columns, txt=task.txt), first).get("dev")
