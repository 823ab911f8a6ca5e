"""`encoderkit compare`: several recipes under the same conditions, and whether what differs is more than chance.

Pretraining recipes are compared by what becomes of them: with a fine-tuning recipe each pretrained encoder is fine-tuned
by it, on the same labels. The paired bootstrap then says of each model whether it differs from the first one.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from encoderkit import files
from encoderkit.config import override, read_yaml, validate
from encoderkit.console import number, say, table
from encoderkit.errors import UsageError
from encoderkit.inference import open_model, start
from encoderkit.preflight import find_step, finetune_inputs, pretrain_inputs
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages.evaluate import Judged, differences, judge
from encoderkit.stages.finetune import finetune
from encoderkit.stages.pretrain import pretrain
from encoderkit.stages.show import recipe_kind


def compare(
    recipes: Sequence[Path], out: Path, settings: Sequence[str] = (), then: Path | None = None, data: Path | None = None
) -> dict[str, Any]:
    """Run `recipes`, each in a directory of `out` with its name; the JSON of the command.

    `settings` (`--set`) hold for all of them, so that all have the same time or the same updates. `then`: a fine-tuning
    recipe for what was pretrained. `data`: labelled rows on which the results are compared; the recipe's test set, or its
    dev set, if not given. What is done already is not done again, so the same command goes on where it was stopped.
    """
    plans = _plans(recipes, settings, then)
    entries, judged = [], []
    for number_, (name, first, second) in enumerate(plans, start=1):
        say(f"{name}: {number_} of {len(plans)}")
        entry, labelled = _one(out / name, first, second)
        entries.append({"name": name, **entry})
        rows = data or labelled
        if rows is not None:
            judged.append(judge(start(open_model(find_step(entry["model"]))), rows))
            entries[-1] |= _judged(judged, rows)
        files.replace(out / "comparison.json", json.dumps({"recipes": entries}, indent=1, ensure_ascii=False))
    return {"recipes": entries, "out": str(out)}


def _plans(
    recipes: Sequence[Path], settings: Sequence[str], then: Path | None
) -> list[tuple[str, PretrainRecipe | FinetuneRecipe, FinetuneRecipe | None]]:
    """Every recipe, checked before the first is run."""
    found, names = [], set()
    for path in recipes:
        first, name = _load(path, settings), path.stem
        if name in names:
            raise UsageError(f"two of the recipes are named {name}; each is run in a directory of its name", where=path)
        names.add(name)
        second = None
        if isinstance(first, PretrainRecipe):
            pretrain_inputs(first)
            if then is not None:
                second = _load(then, ["checkpoint=PRETRAINED"])
        else:
            finetune_inputs(first)
            if then is not None:
                raise UsageError("is a fine-tuning recipe, and --finetune is for what was pretrained", where=path)
        if second is not None and not isinstance(second, FinetuneRecipe):
            raise UsageError("--finetune takes a fine-tuning recipe", where=then)
        found.append((name, first, second))
    if len({type(first) for _, first, _ in found}) > 1:
        raise UsageError("some recipes pretrain and some fine-tune: only like can be compared with like")
    return found


def _load(path: Path, settings: Sequence[str]) -> PretrainRecipe | FinetuneRecipe:
    data, lines = read_yaml(path)
    data = override(data, list(settings))
    kind = recipe_kind(data, path)
    if kind not in ("pretrain", "finetune"):
        raise UsageError(f"a {kind} recipe; compare takes recipes that train", where=path)
    return validate(PretrainRecipe if kind == "pretrain" else FinetuneRecipe, data, str(path), lines)


def _one(out: Path, first: PretrainRecipe | FinetuneRecipe, second: FinetuneRecipe | None) -> tuple[dict[str, Any], Path | None]:
    """Train what a recipe says, and then what `second` says; what came out, and the labelled rows that it should be judged on."""
    entry: dict[str, Any] = {}
    run, last = out / "run", first
    if isinstance(first, PretrainRecipe):
        run = out / "pretrain"
        done = pretrain(first, run, resume=True)
        entry["pretrain"] = {key: done[key] for key in ("updates", "tokens", "tokens_per_second", "dev")}
        entry["parameters"] = files.read_json(run / "manifest.json")["parameters"]
        if second is not None:
            last = second.model_copy(update={"checkpoint": str(run)})
            finetune_inputs(last)
            run = out / "finetune"
    if isinstance(last, FinetuneRecipe):
        done = finetune(last, run, resume=True)
        entry["finetune"] = {key: done[key] for key in ("updates", "seconds", "dev", "test")}
        entry.setdefault("parameters", _parameters(run))
    entry["model"] = str(run)
    dev = last.data.dev if isinstance(last, FinetuneRecipe) else None
    test = last.data.test if isinstance(last, FinetuneRecipe) else None
    rows = test or (dev if isinstance(dev, str) else None)
    return entry, None if rows is None else Path(rows)


def _parameters(run: Path) -> int:
    folders = [run, *sorted(path for path in run.iterdir() if path.is_dir() and (path / "plan.json").exists())]
    return next(files.read_json(f / "manifest.json")["parameters"] for f in folders if (f / "plan.json").exists())


def _judged(judged: Sequence[Judged], rows: Path) -> dict[str, Any]:
    """The last model's metrics, and how it differs from the first."""
    last = judged[-1]
    found: dict[str, Any] = {
        "data": str(rows),
        "metrics": last.task.score(last.gold, last.predicted),
        "intervals": last.task.intervals(last.gold, last.predicted),
    }
    if len(judged) > 1:
        found["difference"] = differences(last, judged[0])
    return found


def describe(result: dict[str, Any]) -> str:
    """The table for a person: a line for each recipe; the last columns say how sure the difference from the first one is."""
    entries = result["recipes"]
    names = list(dict.fromkeys(name for entry in entries for name in entry.get("pretrain", {}).get("dev", {})))
    metrics = list(entries[0].get("metrics", {}))
    header = [
        "recipe",
        "parameters",
        "tokens/s" if names else "",
        *names,
        *metrics[:1],
        *(["95 % interval", "p"] if metrics else []),
    ]
    return table([header, *(list(_line(entry, names, metrics)) for entry in entries)])


def _line(entry: dict[str, Any], names: Sequence[str], metrics: Sequence[str]) -> Iterator[str]:
    yield entry["name"]
    yield number(entry["parameters"])
    before = entry.get("pretrain")
    yield number(before["tokens_per_second"]) if before else ""
    for name in names:
        yield f"{before['dev'][name]:.4f}" if before and name in before["dev"] else ""
    if metrics:
        low, high = entry["intervals"][metrics[0]]
        yield f"{entry['metrics'][metrics[0]]:.4f}"
        yield f"{low:.4f} - {high:.4f}"
        yield f"{entry['difference'][metrics[0]]['p']:.3f}" if "difference" in entry else ""
