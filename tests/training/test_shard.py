"""A model in parts, each in another process, is trained as a whole one is, and its checkpoints are those of a whole one."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from encoderkit.config import dump
from encoderkit.errors import ResourceError, UsageError
from encoderkit.models.inputs import Inputs
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.tasks.classify import Classify
from encoderkit.training.config import AdamWConfig
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.training.runs import classify, encoder, examples, finetuning, go, go_until, plan, pretraining
from tests.training.test_distributed import BERT, SAME, assert_close, environment

MUON = {"kind": "muon", "lr": 0.01, "adamw_lr": 3e-3, "eps": 1e-3}
HALF = 3
"""The update at which some of the runs are stopped."""


class Run(NamedTuple):
    recipe: PretrainRecipe | FinetuneRecipe
    out: Path
    until: int = 0


def several(count: int, runs: list[Run]) -> list[Any]:
    """What `tests.training.several` says of `runs` in `count` processes."""
    words = []
    for number, (recipe, out, until) in enumerate(runs):
        path = out.parent / f"{count}-{number}.yaml"
        path.write_text(dump(recipe), encoding="utf-8")
        words += [str(path), str(out), str(until)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    command = [*torchrun, "-m", "tests.training.several", *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def recipes(
    tokenizer_dir: Path,
    store_dir: Path,
    labelled: dict[str, Path],
    pairs: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, PretrainRecipe | FinetuneRecipe]:
    """Runs in parts: of each stage, kind of loss, optimizer and trick that has something of its own to do there."""
    base = tmp_path_factory.mktemp("base") / "run"
    go(pretraining(tokenizer_dir, store_dir, **SAME), base)
    # Micro-batches of two rows, of which some processes have one fewer.
    training = {"epochs": 1.5, "micro_batch": 2, "shard": "full"}
    data = {"train": str(labelled["train"]), "dev": str(labelled["dev"]), "test": str(labelled["dev"]), "length": 24}
    matched = {"train": str(pairs["train"]), "dev": str(pairs["dev"]), "length": 24}
    task = {"kind": "classify", "dropout": 0.0}
    tricks = {"adversarial": 1.0, "lora": {"rank": 2}, "average": {"kind": "last", "count": 2, "every": "2 updates"}}
    ema = {"shard": "full", "average": {"kind": "ema", "decay": 0.7}}
    shared = {"model": encoder("albert").model_dump(), "objective": {"kind": "replaced", "generator": {"share": 0.5}}}
    return {
        "masked": pretraining(tokenizer_dir, store_dir, **SAME, training={"shard": "full"}),
        "muon": pretraining(tokenizer_dir, store_dir, model=BERT, optimizer=MUON, training=ema),
        "shared": pretraining(tokenizer_dir, store_dir, **shared, optimizer=SAME["optimizer"], training={"shard": "full"}),
        "classify": finetuning(tokenizer_dir, labelled, task=task, data=data, **SAME, training=training),
        "tricks": finetuning(
            tokenizer_dir, labelled, checkpoint=str(base), task=task, optimizer=SAME["optimizer"], training=training | tricks
        ),
        "coupled": finetuning(
            tokenizer_dir,
            pairs,
            task={"kind": "similarity", "text": ["first", "second"]},
            data=matched,
            **SAME,
            training=training,
        ),
    }


@pytest.fixture(scope="module")
def done(
    recipes: dict[str, PretrainRecipe | FinetuneRecipe], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[int, list[Any]]]:
    """Where the runs are (`1-NAME` in one process, `2-NAME`, `4-NAME`), and what several processes said."""
    folder = tmp_path_factory.mktemp("runs")
    said: dict[int, list[Any]] = {1: [go(recipe, folder / f"1-{name}") for name, recipe in recipes.items()]}
    again = recipes["muon"]
    go_until(again, folder / "on", HALF)
    more = [Run(again, folder / "on"), Run(again, folder / "off", HALF), *[Run(again, folder / "exact", n) for n in (HALF, 0)]]
    said[2] = several(2, [*(Run(recipe, folder / f"2-{name}") for name, recipe in recipes.items()), *more])
    go(again, folder / "off", resume=True)
    said[4] = several(4, [Run(recipes[name], folder / f"4-{name}") for name in ("masked", "classify")])
    return folder, said


NAMES = ("masked", "muon", "shared", "classify", "tricks", "coupled")


@pytest.mark.parametrize(("count", "name"), [*((2, name) for name in NAMES), (4, "masked"), (4, "classify")])
def test_it_is_trained_as_a_whole(done: tuple[Path, dict[int, list[Any]]], count: int, name: str) -> None:
    folder, said = done
    assert_close(folder / f"1-{name}", folder / f"{count}-{name}")
    expected = said[1][NAMES.index(name)]
    found = said[count][("masked", "classify").index(name) if count == 4 else NAMES.index(name)]
    assert (found["updates"], found["tokens"]) == (expected["updates"], expected["tokens"])
    for part in ("dev", "test"):
        assert found[part] == pytest.approx(expected[part], abs=1e-4)


@pytest.mark.parametrize("count", [2, 4])
def test_each_process_holds_its_part(done: tuple[Path, dict[int, list[Any]]], count: int) -> None:
    """Of weights, gradients and moments, after a pass too; a norm of 32 has a part everywhere."""
    for whole, *parts in done[1][count][-1].values():
        assert sum(parts) == whole
        assert max(parts) < 1.1 * whole / count


@pytest.mark.parametrize("name", NAMES)
def test_its_checkpoints_are_those_of_a_whole_one(done: tuple[Path, dict[int, list[Any]]], name: str) -> None:
    """The same files, tensors and moments, and the same description but for the key itself."""
    steps = [done[0] / f"{count}-{name}" / "step-0000006" for count in (1, 2)]
    one, two = ({str(p.relative_to(step)): p for p in sorted(step.rglob("*")) if p.is_file()} for step in steps)
    assert one.keys() == two.keys()
    for path, file in one.items():
        if path.endswith(".safetensors"):
            first, second = (safetensors.torch.load(step[path].read_bytes()) for step in (one, two))
            assert first.keys() == second.keys()
            for key, tensor in first.items():
                torch.testing.assert_close(second[key], tensor, atol=2e-6, rtol=1e-4)
        elif path.split("/")[0] in ("config.json", "labels.json", "tokenizer"):
            assert file.read_bytes() == two[path].read_bytes()


def test_it_is_resumed_in_parts_and_as_a_whole(done: tuple[Path, dict[int, list[Any]]]) -> None:
    """On: begun by one process, continued by two; off: the reverse; by the same two, bit for bit."""
    folder, _ = done
    for name in ("on", "off"):
        assert_close(folder / "1-muon", folder / name)
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


def test_memory_that_runs_out_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes wait for this one within the pass, which it cannot begin again alone."""

    def full(self: Classify, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        raise MemoryError

    monkeypatch.setattr(Classify, "forward", full)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
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
