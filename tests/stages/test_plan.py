"""`plan`: what it foretells is what the run then does and takes."""

import json
from pathlib import Path

import pytest

from encoderkit.config import override, validate
from encoderkit.data.config import CorpusConfig
from encoderkit.errors import UsageError
from encoderkit.recipe import PretrainRecipe
from encoderkit.stages.plan import SIZES, describe, run
from encoderkit.training.plan import Trial
from tests.training.runs import finetuning, go, pretraining


def test_what_is_foretold_is_what_happens(
    tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path], pretrained_dir: Path, tmp_path: Path
) -> None:
    """Of pretraining, of a model from random weights, and of a checkpoint; the optimizers keep one or two averages."""
    muon = {"kind": "muon", "lr": 0.02, "adamw_lr": 1e-3}
    recipes = {
        "pretrain": pretraining(tokenizer_dir, store_dir, optimizer=muon),
        "lstm": finetuning(tokenizer_dir, labelled),
        "checkpoint": finetuning(tokenizer_dir, labelled, checkpoint=str(pretrained_dir)),
    }
    for name, recipe in recipes.items():
        value = run(recipe, None)
        done = go(recipe, tmp_path / name)
        steps = [path for path in (tmp_path / name).iterdir() if path.name.startswith("step-")]
        tensors = sum(file.stat().st_size for file in steps[0].rglob("*.safetensors"))
        assert value["updates"] == done["updates"]
        assert value["tokens"] == pytest.approx(done["tokens"], rel=0.01)
        assert value["disk_bytes"] / 4 == pytest.approx(tensors, rel=0.15)  # names and step counts take a little here
        manifest = json.loads((tmp_path / name / "manifest.json").read_bytes())
        assert value["parameters"]["total"] == manifest["parameters"]
        assert 0 <= value["padding"] < 0.6 and value["seconds"] > 0 and value["memory_bytes"] > 1 << 20
        assert json.loads(json.dumps(value)) == value
        assert f"{value['updates']:,} updates" in describe(value, tmp_path, [])


def test_seeds_and_folds_are_runs(tokenizer_dir: Path, labelled: dict[str, Path]) -> None:
    data = {"train": str(labelled["train"]), "dev": 0.3, "length": 24}
    value = run(finetuning(tokenizer_dir, labelled, data=data, folds=2, seeds=[1, 2, 3]), None)
    assert value["runs"] == 6 and "6 of seeds and folds" in describe(value, Path("r.yaml"), [])


@pytest.mark.parametrize("compiled", [False, True])
def test_sizes_are_compared_for_a_budget(
    compiled: bool, tokenizer_dir: Path, store_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What compiling brings to the recipe's own size (here half the time) is counted for all."""
    recipe = pretraining(tokenizer_dir, store_dir)
    measured = {128: 0.01, 256: 0.1, 384: 0.3, 512: 0.6, 768: 2.0, 32: 0.005}
    seconds = {dim: value / 2 if compiled else value for dim, value in measured.items()}
    monkeypatch.setattr(Trial, "speed", lambda self, *more: (seconds if more[-1] == 4 else measured)[self.learner.encoder.dim])
    monkeypatch.setattr("encoderkit.stages.plan.settle", lambda plan, *_: plan.model_copy(update={"compile": compiled}))
    value = run(recipe, 3000)
    assert value["updates"] > 0
    assert [(s["layers"], s["dim"]) for s in value["sizes"]] == [(2, 32), *SIZES[: len(value["sizes"]) - 1]]
    ratios = [s["tokens_per_parameter"] for s in value["sizes"]]
    assert ratios == sorted(ratios, reverse=True) and ratios[-1] < 5 <= ratios[-2]
    [proposed] = [s for s in value["sizes"] if s["proposed"]]
    for size in value["sizes"]:
        assert size["updates"] == int(3000 / seconds[size["dim"]])
        assert size["tokens_per_parameter"] == pytest.approx(size["tokens"] / size["parameters"], rel=1e-3)
    text = describe(value, Path("my r.yaml"), ["seed=3"])
    changed = " ".join(f"--set {setting}" for setting in proposed["settings"] if setting.startswith("model."))
    assert changed.startswith(f"--set model.layers={proposed['layers']} --set model.dim={proposed['dim']} --set model.heads=")
    assert (
        f"encoderkit pretrain 'my r.yaml' --set seed=3 {changed} --set training.budget=3000s --set training.updates=null" in text
    )


def test_a_width_of_embeddings_that_is_the_layers_own_is_left_out(tokenizer_dir: Path, store_dir: Path) -> None:
    """ELECTRA's sizes have no place for it."""
    model = {"kind": "electra", "dim": 256, "layers": 1, "heads": 4, "embedding_dim": 128}
    recipe = pretraining(tokenizer_dir, store_dir, model=model)
    value = run(recipe, 1)
    assert [size["dim"] for size in value["sizes"]] == [128]
    told = override(json.loads(recipe.model_dump_json(exclude_unset=True)), value["sizes"][0]["settings"])
    resized = validate(PretrainRecipe, told, "as it is told").model
    assert resized is not None and (resized.dim, resized.layers) == (128, value["sizes"][0]["layers"])


def test_word_vectors_take_what_their_optimizer_remembers(tokenizer_dir: Path, store_dir: Path) -> None:
    model, sgd = {"kind": "static", "dim": 8}, {"kind": "sgd", "lr": 0.05}
    found = run(pretraining(tokenizer_dir, store_dir, model=model, objective={"kind": "skipgram"}, optimizer=sgd), None)
    size = found["parameters"]["total"]
    assert found["disk_bytes"] / 4 < 8 * size  # the tables, and the counts of words; nothing besides


def test_other_recipes_have_no_plan() -> None:
    with pytest.raises(UsageError, match="plan is for recipes of pretrain and finetune"):
        run(CorpusConfig(), None)
