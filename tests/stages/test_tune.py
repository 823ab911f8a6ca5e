"""`tune`: what is searched, on which data, and that a search that was killed at any moment goes on as if it had not been."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from encoderkit import files
from encoderkit.cli import main as cli
from encoderkit.config import dump, load
from encoderkit.data.labelled import read_rows
from encoderkit.errors import DataError, DivergedError, MissingDependency, UsageError
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import tune as stage
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.space import Axis, read_space, untried, usual
from encoderkit.stages.tune import describe, tune
from tests.training.runs import finetuning

SEARCH = ["optimizer.lr=1e-4..1e-2:log", "training.batch=8,16", "model.dropout=0..0.3"]


def given(recipe: FinetuneRecipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude_unset=True)


def test_ranges_and_values_are_typed_by_the_schema(tokenizer_dir: Path, labelled: dict[str, Path]) -> None:
    recipe = given(finetuning(tokenizer_dir, labelled))
    space = [
        "optimizer.lr=1e-5..1e-3:log",
        "model.layers=1..3",
        "model.dropout=0..1e-1",
        "task.pooling=mean,max",
        "training.patience=null,3",
    ]
    lr, layers, dropout, pooling, patience = read_space(space, recipe)
    assert lr == Axis("optimizer.lr", None, 1e-5, 1e-3, log=True)
    assert layers.whole and list(layers.options() or ()) == [1, 2, 3]
    assert not dropout.whole and dropout.options() is None
    assert pooling.values == ["mean", "max"] and patience.values == [None, 3]
    assert not read_space(["optimizer.weight_decay=0..1"], recipe)[0].whole  # whole ends of a key that takes any number
    left = untried([layers, pooling], [{"model.layers": 2, "task.pooling": "max"}])
    assert left is not None and len(left) == 5 and untried([lr, pooling], []) is None


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("optimizer.lrr=1e-5..1e-3", "did you mean lr"),
        ("optimizer.lr=1e-3..1e-5", "a range rises"),
        ("optimizer.lr=0..1e-5:log", "above 0"),
        ("task.dropout=0..1.5", "less than 1"),
        ("task.pooling=mean,maxx", "maxx"),
        ("training.batch=8", "two values"),
        ("training.batch", "expected key=values"),
        ("data.test=a,b", "is what trials are judged by"),
        ("seed=1,2", "seed is what trials are judged by"),
        ("training.metric=loss,accuracy", "is what trials are judged by"),
        ("data.train=a.jsonl,b.jsonl", "data.train is what trials are judged by"),
    ],
)
def test_a_space_that_the_recipe_cannot_have(search: str, message: str, tokenizer_dir: Path, labelled: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=message):
        data = {"train": str(labelled["train"]), "dev": 0.1}
        read_space([search], given(finetuning(tokenizer_dir, labelled, data=data)))
    assert len(read_space(["seed=1,2"], given(finetuning(tokenizer_dir, labelled)))) == 1  # of a file all rows are looked at


def test_the_usual_space_is_legal(tokenizer_dir: Path, labelled: dict[str, Path], pretrained_dir: Path) -> None:
    muon = {"kind": "muon", "lr": 2e-3, "adamw_lr": 3e-4}
    tricks = {
        "checkpoint": str(pretrained_dir),
        "task": {"kind": "classify", "rdrop": 1.0},
        "training": {"epochs": 1, "least": 1},
    }
    for more in ({"training": {"epochs": 2, "least": 9}}, {"checkpoint": str(pretrained_dir), "optimizer": muon}, tricks):
        recipe = finetuning(tokenizer_dir, labelled, **more)
        assert len(read_space(usual(recipe), given(recipe))) >= 4


def test_a_search_ends_with_a_recipe_and_a_model_and_never_reads_the_test_set(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = tmp_path / "there-is-no-such-file.jsonl"
    data = {"train": str(labelled["train"]), "dev": str(labelled["dev"]), "test": str(test), "length": 24}
    recipe = finetuning(tokenizer_dir, labelled, data=data, seeds=[1, 2])
    result = tune(recipe, tmp_path / "out", SEARCH, trials=4)
    first, *others = result["trials"]
    assert first["params"] == {"optimizer.lr": 3e-3, "training.batch": 16, "model.dropout": recipe.model.dropout}
    assert result["best"]["value"] == max(trial["value"] for trial in (first, *others))
    runs = json.loads((tmp_path / "out/trial-001/summary.json").read_bytes())["runs"]
    assert len(runs) == 2 and others[0]["value"] == pytest.approx(sum(run["dev"]["accuracy"] for run in runs.values()) / 2)
    found = load(FinetuneRecipe, tmp_path / "out/recipe.yaml")
    assert found.data.test == str(test) and found.optimizer.lr == result["best"]["params"]["optimizer.lr"]
    assert found.seeds == [1, 2]
    step = find_step(tmp_path / "out")
    kept = {path.relative_to(tmp_path / "out").parts[0] for path in (tmp_path / "out").rglob("step-*")}
    assert kept == {f"trial-{result['best']['number']:03d}"}  # the others' weights are gone
    assert evaluate(step, labelled["dev"], with_baselines=False)["rows"] == 30
    assert "the recipe as it is" in describe(result)


def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:
    recipe = finetuning(tokenizer_dir, labelled)
    whole = tune(recipe, tmp_path / "whole", SEARCH, trials=4)
    timeless = [{key: trial[key] for key in ("params", "value", "dev")} for trial in whole["trials"]]

    class Killed(BaseException):
        pass

    for moment in (9, 40, 77):  # the n-th change of the disk is the last
        out, left = tmp_path / f"killed-{moment}", [moment]
        while True:
            with pytest.MonkeyPatch.context() as patch:

                def operate(operation: str, path: Path, left: list[int] = left) -> None:
                    left[0] -= 1
                    if left[0] == 0:
                        raise Killed

                patch.setattr(files, "_operate", operate)
                try:
                    result = tune(recipe, out, SEARCH, trials=4)
                    break
                except Killed:
                    continue
        assert [{key: trial[key] for key in ("params", "value", "dev")} for trial in result["trials"]] == timeless
    more = tune(recipe, tmp_path / "whole", SEARCH, trials=5)
    assert more["trials"][:4] == whole["trials"] and len(more["trials"]) == 5
    with pytest.raises(UsageError, match="another --search"):
        tune(recipe, tmp_path / "whole", SEARCH[:2], trials=5)


def test_a_small_space_is_tried_whole_and_a_trial_that_fails_is_no_end(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stage.finetune

    def diverging(recipe: FinetuneRecipe, out: Path, resume: bool) -> dict[str, Any]:
        if recipe.optimizer.lr > 0.1:
            if getattr(recipe.model, "layers", 0) == 2:
                raise DataError("cannot be with two layers", where="a.jsonl:1", fix=None)
            raise DivergedError("the loss is no longer finite")
        if recipe.optimizer.lr > 2e-3 and getattr(recipe.model, "layers", 0) == 2:
            raise MemoryError
        return run(recipe, out, resume)

    monkeypatch.setattr(stage, "finetune", diverging)
    search = ["optimizer.lr=1e-3,3e-3,1", "model.layers=1,2"]
    result = tune(finetuning(tokenizer_dir, labelled), tmp_path / "out", search)
    tried = [(t["params"]["optimizer.lr"], t["params"]["model.layers"]) for t in result["trials"]]
    assert sorted(tried) == [(lr, layers) for lr in (1e-3, 3e-3, 1) for layers in (1, 2)]
    failed = {tried[i]: trial["why"] for i, trial in enumerate(result["trials"]) if trial["value"] is None}
    assert failed.keys() == {(3e-3, 2), (1, 1), (1, 2)} and failed[3e-3, 2] == "memory ran out"
    assert set(result["importance"]) in (set(), {"optimizer.lr", "model.layers"})
    assert "no longer finite" in describe(result) and "cannot be with" in describe(result)
    monkeypatch.setattr(stage, "finetune", lambda *_, **__: read_rows("nowhere.jsonl", []))
    with pytest.raises(UsageError, match="there is no such file"):  # the recipe itself: nothing is tried
        tune(finetuning(tokenizer_dir, labelled), tmp_path / "other", search)


def test_the_command(
    tokenizer_dir: Path,
    labelled: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(finetuning(tokenizer_dir, labelled)), encoding="utf-8")
    words = ["encoderkit", "tune", str(path), "--out", str(tmp_path / "out"), "--search", "training.batch=8,16"]
    monkeypatch.setattr(sys, "argv", [*words, "--trials", "1", "--json"])
    assert cli.run() == 0
    assert json.loads(capsys.readouterr().out)["best"]["number"] == 0
    monkeypatch.setattr(sys, "argv", [*words, "--set", "data.dev=null"])
    assert cli.run() == 2 and "data.dev=10%" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", words)
    assert cli.run() == MissingDependency.exit_code and "encoderkit[tune]" in capsys.readouterr().err
