"""A model in parts, each in another process, is trained as a whole one is, and its checkpoints are those of a whole one."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from encoderkit.errors import ResourceError, UsageError
from encoderkit.models.inputs import Inputs
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.tasks.classify import Classify
from encoderkit.training.config import AdamWConfig
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.training.runs import classify, encoder, examples, finetuning, go, go_until, plan, pretraining
from tests.training.several import Run, several, shares, together
from tests.training.test_distributed import BERT, SAME, assert_close

MUON = {"kind": "muon", "lr": 0.01, "adamw_lr": 3e-3, "eps": 1e-3}
HALF = 3
"""The update at which some of the runs are stopped."""


@pytest.fixture(scope="module")
def recipes(
    tokenizer_dir: Path,
    store_dir: Path,
    labelled: dict[str, Path],
    pairs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, PretrainRecipe | FinetuneRecipe]:
    """Runs in parts: of each stage, kind of loss, optimizer and trick that has something of its own to do there."""
    adam = {"optimizer": SAME["optimizer"], "every": {"log": "4 updates", "evaluate": "3 updates", "save": "3 updates"}}
    base, fresh = tmp_path_factory.mktemp("base") / "run", adam | {"model": BERT}
    go(pretraining(tokenizer_dir, store_dir, **fresh), base)
    # Micro-batches of a size that leaves some processes without a last one, in training or in evaluation.
    two, four = ({"micro_batch": n, "shard": "full"} for n in (2, 4))
    data = {"train": str(labelled["train"]), "dev": str(labelled["dev"]), "test": str(labelled["dev"]), "length": 24}
    matched = {"train": str(pairs["train"]), "dev": str(pairs["dev"]), "length": 24}
    task = {"kind": "classify", "dropout": 0.0}
    tricks = {"adversarial": 1.0, "lora": {"rank": 2}, "average": {"kind": "last", "count": 2, "every": "2 updates"}}
    ema = {"average": {"kind": "ema", "decay": 0.7}, "shard": "full"}
    shared = {"model": encoder("albert").model_dump(), "objective": {"kind": "replaced", "generator": {"share": 0.5}}}
    return {
        "masked": pretraining(tokenizer_dir, store_dir, **fresh, training=four),
        "muon": pretraining(tokenizer_dir, store_dir, **fresh | {"optimizer": MUON}, training=ema),
        "shared": pretraining(tokenizer_dir, store_dir, **adam | shared, training={"shard": "full"}),
        "classify": finetuning(tokenizer_dir, labelled, **fresh, task=task, data=data, training={"epochs": 1.5, **two}),
        "tricks": finetuning(
            tokenizer_dir, labelled, **adam, checkpoint=str(base), task=task, training={"epochs": 1.5, "shard": "full", **tricks}
        ),
        "coupled": finetuning(
            tokenizer_dir,
            pairs,
            **fresh,
            task={"kind": "similarity", "text": ["first", "second"]},
            data=matched,
            training={"epochs": 1.325, **two},
        ),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs are: `1-NAME` in one process, `2-NAME`, `4-NAME`."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def one(recipes: dict[str, PretrainRecipe | FinetuneRecipe], folder: Path) -> dict[str, Any]:
    """What is said of each run in one process."""
    return {name: go(recipe, folder / f"1-{name}") for name, recipe in recipes.items()}


@pytest.fixture(scope="module")
def two(recipes: dict[str, PretrainRecipe | FinetuneRecipe], folder: Path) -> list[Any]:
    """What is said of them in two; and of runs that are stopped and go on elsewhere, or in the same two."""
    again = recipes["muon"]
    go_until(again, folder / "on", HALF)
    more = [Run(again, folder / "on"), Run(again, folder / "off", HALF), Run(again, folder / "exact", HALF)]
    due = recipes["masked"].model_copy(update={"every": recipes["masked"].every.model_copy(update={"save": "1 update"})})
    more += [Run(due, folder / "due", HALF, evaluated=True), Run(due, folder / "due")]
    runs = [Run(recipe, folder / f"2-{name}") for name, recipe in recipes.items()]
    said = several(2, [*runs, *more, Run(again, folder / "exact")])  # "due": an evaluation comes first
    go(again, folder / "off", resume=True)
    return said


@pytest.fixture(scope="module")
def four(recipes: dict[str, PretrainRecipe | FinetuneRecipe], folder: Path) -> list[Any]:
    """And in four."""
    return several(4, [Run(recipes[name], folder / f"4-{name}") for name in FOUR])


NAMES, FOUR = ("masked", "muon", "shared", "classify", "tricks", "coupled"), ("masked", "classify")


def rounding(name: str) -> float:
    """Muon's steps make it larger: small singular values grow by two orders of magnitude."""
    return 1e-5 if name.endswith("muon") else 2e-6


@pytest.mark.parametrize("name", NAMES)
def test_in_two_it_is_trained_as_a_whole(folder: Path, one: dict[str, Any], two: list[Any], name: str) -> None:
    assert_same(folder, one[name], two[NAMES.index(name)], "1-" + name, "2-" + name)


@pytest.mark.parametrize("name", FOUR)
def test_in_four_it_is_trained_as_a_whole(folder: Path, one: dict[str, Any], four: list[Any], name: str) -> None:
    assert_same(folder, one[name], four[FOUR.index(name)], "1-" + name, "4-" + name)


def assert_same(folder: Path, expected: Any, found: Any, first: str, second: str) -> None:
    """The same weights, metrics and length."""
    assert_close(folder / first, folder / second, rounding(first))
    assert (found["updates"], found["tokens"]) == (expected["updates"], expected["tokens"])
    for part in ("dev", "test"):
        assert found[part] == pytest.approx(expected[part], abs=1e-4)


@pytest.mark.parametrize("count", [2, 4])
def test_each_process_holds_its_part(count: int) -> None:
    """Of weights, gradients and moments, after a pass too."""
    found = together(count, shares)
    assert found.keys() == {"weights", "gradients", "moments"}
    for whole, *parts in found.values():
        assert sum(parts) == whole and len(parts) == count
        assert max(parts) < 1.1 * whole / count


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("one", "two")
def test_its_checkpoints_are_those_of_a_whole_one(folder: Path, name: str) -> None:
    """The same files, tensors and moments, and the same description."""
    runs = [folder / f"{count}-{name}" for count in (1, 2)]
    steps = [run / (run / "last").read_text(encoding="utf-8").strip() for run in runs]
    first, second = ({str(p.relative_to(step)): p for p in sorted(step.rglob("*")) if p.is_file()} for step in steps)
    assert first.keys() == second.keys()
    for path in first:
        if path.endswith(".safetensors"):
            expected, found = (safetensors.torch.load(step[path].read_bytes()) for step in (first, second))
            assert expected.keys() == found.keys()
            for key, tensor in expected.items():
                torch.testing.assert_close(found[key], tensor, atol=rounding(name), rtol=1e-4)
        elif path.split("/")[0] in ("config.json", "labels.json", "tokenizer"):
            assert first[path].read_bytes() == second[path].read_bytes()


@pytest.mark.usefixtures("one", "two")
def test_it_is_resumed_in_parts_and_as_a_whole(folder: Path) -> None:
    """On: begun by one process, continued by two; off: the reverse; by the same two, bit for bit."""
    for name in ("on", "off"):
        assert_close(folder / "1-muon", folder / name, rounding("muon"))
    for file in ("model.safetensors", "resume/optimizer.safetensors", "resume/weights.safetensors"):
        first, second = ((folder / name / "step-0000006" / file).read_bytes() for name in ("2-muon", "exact"))
        assert first == second


def test_how_the_work_is_divided_may_change(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    """A run goes on with smaller micro-batches, as after memory ran out, and in parts; but not with another batch."""
    recipe = pretraining(tokenizer_dir, store_dir, **SAME)
    go(recipe, tmp_path / "one")
    go_until(recipe, tmp_path / "two", HALF)
    go(pretraining(tokenizer_dir, store_dir, **SAME, training={"micro_batch": 2, "shard": "full"}), tmp_path / "two", resume=True)
    assert_close(tmp_path / "one", tmp_path / "two")
    with pytest.raises(UsageError, match=r"another recipe; different: training\.batch"):
        go(pretraining(tokenizer_dir, store_dir, **SAME, training={"batch": 6}), tmp_path / "two", resume=True)


def test_memory_that_runs_out_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes wait for this one within the pass, which it cannot begin again alone."""

    def full(self: Classify, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        raise MemoryError

    monkeypatch.setattr(Classify, "forward", full)
    dist.init_process_group("gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1)
    try:
        learner = classify("bert")
        fully_shard(learner)
        optimizers = build_optimizers(learner, AdamWConfig(lr=5e-3), torch.float32)
        with pytest.raises(ResourceError, match=r"micro-batch of 8 rows(.|\n)*--resume --set training.micro_batch=4"):
            next(updates(learner, optimizers, examples(8), plan(3, 8)))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"training": {"compile": "on"}}, "which is not compiled; set compile to off"),
        ({"training": {"unfreeze": "1 updates"}, "checkpoint": "base"}, "unfreeze changes it; give one of them"),
        ({"optimizer": {"kind": "sgd", "lr": 0.1}}, "training.shard is for adamw and muon"),
    ],
)
def test_what_it_cannot_do_is_refused(labelled: dict[str, Path], more: dict[str, Any], why: str) -> None:
    training = {"epochs": 1, "shard": "full"} | more.pop("training", {})
    with pytest.raises(UsageError, match=why):
        finetuning(Path("tokenizer"), labelled, **more, training=training)
