"""Every recipe that comes with the package is complete, says what it is for, builds, and survives being shown."""

from pathlib import Path
from typing import Any

import pytest
import torch

from encoderkit.config import dump, parse_yaml, validate
from encoderkit.learner import Vocabulary
from encoderkit.models.build import build_encoder
from encoderkit.models.config import BertConfig
from encoderkit.objectives.build import OBJECTIVES
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages import init
from encoderkit.stages.show import RECIPES, complete
from encoderkit.tasks.build import TASKS

FILES = sorted(init.recipes_folder().rglob("*.yaml"))
VOCABULARY = Vocabulary(300, 0, 1, 2, 3, 4)


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}/{p.stem}")
class TestRecipe:
    """Each file under recipes/."""

    def test_is_of_its_folders_kind_and_round_trips(self, path: Path) -> None:
        kind, recipe = complete(path, [])
        assert kind == path.parent.name
        assert validate(RECIPES[kind], parse_yaml(dump(recipe), "shown")[0], "shown") == recipe

    def test_says_what_it_is_for(self, path: Path) -> None:
        first, *lines = path.read_text(encoding="utf-8").split("\n")
        assert first.startswith("# ") and len(first) > 30
        assert max(map(len, [first, *lines])) <= 140 and lines[-1] == ""

    def test_builds(self, path: Path) -> None:
        recipe = complete(path, [])[1]
        with torch.device("meta"):
            if isinstance(recipe, PretrainRecipe) and recipe.model is not None:
                learner = OBJECTIVES[type(recipe.objective)](recipe.objective, recipe.model, VOCABULARY, recipe.data.length)
                assert learner.encoder.dim == recipe.model.dim and set(learner.directions) == set(recipe.objective.metrics)
            elif isinstance(recipe, FinetuneRecipe):
                model = recipe.model or BertConfig()
                learner = TASKS[type(recipe.task)](recipe.task, model, VOCABULARY, recipe.data.length, ["B-a", "I-a", "O"])
                assert build_encoder(model, 300, 0).dim == learner.encoder.dim
                assert set(learner.directions) <= set(recipe.task.metrics)


def test_metrics_are_better_when_they_are_larger_but_for_those_of_loss() -> None:
    least = ("loss", "mse", "mae", "perplexity", "bits_per_byte")
    monitored: dict[str, set[str]] = {"objective": set(), "task": set()}
    for path in FILES:
        recipe = complete(path, [])[1]
        with torch.device("meta"):
            if isinstance(recipe, PretrainRecipe) and recipe.model is not None:
                learner: Any = OBJECTIVES[type(recipe.objective)](recipe.objective, recipe.model, VOCABULARY, recipe.data.length)
                monitored["objective"].add(learner.monitor)
            elif isinstance(recipe, FinetuneRecipe):
                model = recipe.model or BertConfig()
                labels = ["B-a", "I-a", "O"]
                learner = TASKS[type(recipe.task)](recipe.task, model, VOCABULARY, recipe.data.length, labels)
                monitored["task"].add(learner.monitor)
            else:
                continue
        for name, direction in learner.directions.items():
            assert direction == ("min" if name.endswith(least) else "max"), (path, name)
    assert monitored["objective"] == {"loss"}
    assert monitored["task"] == {"accuracy", "macro_f1", "spearman", "mrr", "map", "f1", "chrf"}


def test_init_writes_each_recipe_and_overwrites_none(tmp_path: Path) -> None:
    for path in FILES:
        assert init.find(path.parent.name, path.stem) == path
    assert init.find("finetune", "lstm").stem == "classify-lstm-scratch"
    assert all(f"  {path.stem} " in init.listing() for path in FILES)
    out = tmp_path / "new" / "mine.yaml"
    init.write("a", out, overwrite=False)
    with pytest.raises(ValueError, match="exists already"):
        init.write("b", out, overwrite=False)
    assert out.read_text(encoding="utf-8") == "a"
    init.write("b", out, overwrite=True)
    assert out.read_text(encoding="utf-8") == "b"


def test_every_stage_has_a_recipe_to_begin_with() -> None:
    for stage in RECIPES:
        assert init.find(stage, None).is_file()
