"""Several processes are one run: the same weights as one process, whoever stops, resumes or dies."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from encoderkit import files
from encoderkit.cli import main
from encoderkit.config import dump
from encoderkit.errors import UsageError
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.training.config import AdamWConfig
from encoderkit.training.distributed import Sum, joined
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.training.runs import classify, examples, finetuning, go, masked, plan, pretraining, rows, weights
from tests.training.several import Run, early_sums, several, together

BERT = {"kind": "bert", "dim": 32, "layers": 2, "heads": 2, "max_length": 64, "dropout": 0.1, "attention_dropout": 0.1}
# eps well above the rounding of gradients, which Adam would otherwise blow up where they are zero
SAME = {"model": BERT, "optimizer": {"kind": "adamw", "lr": 3e-3, "eps": 1e-3}}


def command(count: int, recipe: PretrainRecipe | FinetuneRecipe, out: Path, *more: str) -> list[str]:
    """The command that trains in `count` processes; the recipe is written beside `out`."""
    path = out.parent / f"{out.name}.yaml"
    path.write_text(dump(recipe), encoding="utf-8")
    stage = "pretrain" if isinstance(recipe, PretrainRecipe) else "finetune"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), "-m", "encoderkit"]
    return [*torchrun, stage, str(path), "--out", str(out), "--json", *more]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def train(count: int, recipe: PretrainRecipe | FinetuneRecipe, out: Path, *more: str) -> dict[str, Any]:
    """Train in `count` processes; what the command says on stdout, which only one of them does."""
    done = subprocess.run(command(count, recipe, out, *more), env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    [line] = done.stdout.splitlines()
    return json.loads(line)


def assert_close(first: Path, second: Path, atol: float = 2e-6) -> None:
    """The same weights, but for the rounding of sums in another order."""
    a, b = (safetensors.torch.load(weights(out)) for out in (first, second))
    for name, tensor in a.items():
        torch.testing.assert_close(b[name], tensor, atol=atol, rtol=0)


def log(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if "second" not in k} for line in lines]


@pytest.mark.parametrize("count", [2, 4])
def test_pretraining_is_that_of_one_process(tokenizer_dir: Path, store_dir: Path, tmp_path: Path, count: int) -> None:
    """Two are started by `torchrun` as a person would; 12 rows are 3 or 6 for each."""
    recipe = pretraining(tokenizer_dir, store_dir, **SAME)
    expected = go(recipe, tmp_path / "one")
    out = tmp_path / "several"
    [found] = [train(count, recipe, out)] if count == 2 else several(count, [Run(recipe, out)])
    assert_close(tmp_path / "one", out)
    assert (found["updates"], found["tokens"]) == (expected["updates"], expected["tokens"])
    assert found["dev"]["loss"] == pytest.approx(expected["dev"]["loss"], abs=1e-5)
    for one, other in zip(log(tmp_path / "one"), log(out), strict=True):
        assert one.keys() == other.keys()
        assert other.get("loss") == pytest.approx(one.get("loss"), abs=1e-5)
        assert other.get("grad_norm") == pytest.approx(one.get("grad_norm"), abs=1e-4)


def test_what_is_not_used_is_not_decayed(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    """XLNet's segments, of single texts: nobody has a gradient of them, so that nobody's weights move."""
    model = {"kind": "xlnet", "dim": 32, "layers": 2, "heads": 2, "dropout": 0.0}
    optimizer = {"kind": "adamw", "lr": 3e-3, "eps": 1e-3, "weight_decay": 10.0}
    recipe = pretraining(tokenizer_dir, store_dir, model=model, objective={"kind": "permuted"}, optimizer=optimizer)
    go(recipe, tmp_path / "one")
    several(2, [Run(recipe, tmp_path / "two")])
    assert_close(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("failing", [False, True])
def test_gradients_are_sent_while_others_are_computed(failing: bool) -> None:
    """And stay right where one process runs out of memory in between, and begins its passes again in halves."""
    learner = masked("bert")
    list(updates(learner, build_optimizers(learner, AdamWConfig(lr=1e-3, eps=1e-3), torch.float32), rows(16), plan(2, 8, 2)))
    early, state = together(2, early_sums, failing)
    assert early >= 4
    for name, tensor in learner.state_dict().items():
        torch.testing.assert_close(state[name], tensor, atol=2e-6, rtol=0)


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr("encoderkit.world.size", lambda: 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UsageError, match="process 3 of this machine has no GPU of its own: there are 2"), joined():
        pass


def test_fine_tuning_is_that_of_one_process(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    """With a last batch of ten rows, and metrics that need all of the data."""
    task = {"kind": "classify", "dropout": 0.1, "class_weights": {"positive": 3.0}}
    data = {"train": str(labelled["train"]), "dev": str(labelled["dev"]), "test": str(labelled["dev"]), "length": 24}
    recipe = finetuning(tokenizer_dir, labelled, task=task, data=data, **SAME)
    expected, [found] = go(recipe, tmp_path / "one"), several(2, [Run(recipe, tmp_path / "several")])
    assert_close(tmp_path / "one", tmp_path / "several")
    assert found["test"] == pytest.approx(expected["test"], abs=1e-5)


def test_runs_with_several_seeds_are_those_of_one_process(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:  # fmt: skip
    """One after the other in the same processes."""
    recipe = finetuning(tokenizer_dir, labelled, seeds=[1, 2], task={"kind": "classify", "dropout": 0.1}, **SAME)
    go(recipe, tmp_path / "one")
    several(2, [Run(recipe, tmp_path / "several")])
    for seed in ("seed-1", "seed-2"):
        assert_close(tmp_path / "one" / seed, tmp_path / "several" / seed)


def test_a_pretraining_loss_of_the_whole_update_is_that_of_one_process(
    tokenizer_dir: Path, store_dir: Path, tmp_path: Path
) -> None:  # fmt: skip
    """With another term beside it, which is not."""
    objective = {"kind": "contrastive", "masked": 0.5, "pooling": "mean"}
    recipe = pretraining(tokenizer_dir, store_dir, **SAME, objective=objective)
    go(recipe, tmp_path / "one")
    several(2, [Run(recipe, tmp_path / "several")])
    assert_close(tmp_path / "one", tmp_path / "several")


def test_steps_of_glove_are_those_of_one_process(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    """Which are taken one after the other; a process may have none."""
    settings: dict[str, Any] = {
        "model": {"kind": "static", "dim": 8, "context": "add"},
        "objective": {"kind": "glove"},
        "optimizer": {"kind": "adagrad", "lr": 0.1, "initial": 1},
        "data": {"train": str(store_dir), "dev": None, "length": 32},
    }
    recipe = pretraining(tokenizer_dir, store_dir, **settings, training={"updates": 5, "batch": 3, "micro_batch": 1})
    go(recipe, tmp_path / "one")
    several(2, [Run(recipe, tmp_path / "several")])
    assert weights(tmp_path / "one") == weights(tmp_path / "several")


def test_a_loss_of_the_whole_update_is_that_of_one_process(tokenizer_dir: Path, pairs: dict[str, Path], tmp_path: Path) -> None:
    """The positives of rows that another process computes are negatives too."""
    task = {"kind": "similarity", "text": ["first", "second"], "symmetric": True}
    data = {"train": str(pairs["train"]), "dev": str(pairs["dev"]), "length": 24}
    recipe = finetuning(tokenizer_dir, pairs, task=task, data=data, **SAME)
    expected, [found] = go(recipe, tmp_path / "one"), several(2, [Run(recipe, tmp_path / "several")])
    assert_close(tmp_path / "one", tmp_path / "several")
    assert found["dev"] == pytest.approx(expected["dev"], abs=1e-4)


@pytest.mark.parametrize(
    "tricks",
    [
        {"adversarial": 1.0, "unfreeze": "2 updates", "average": {"kind": "ema", "decay": 0.7}},
        {"lora": {"rank": 2}, "average": {"kind": "last", "count": 2, "every": "2 updates"}},
    ],
)
def test_tricks_are_those_of_one_process(
    tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path], tmp_path: Path, tricks: dict[str, Any]
) -> None:
    """Layers that are frozen for a while stay as they are in all processes."""
    go(pretraining(tokenizer_dir, store_dir, **SAME), tmp_path / "pretrained")
    task = {"kind": "classify", "dropout": 0.1, "sampling": "balanced", "focal": 1.0}
    recipe = finetuning(
        tokenizer_dir,
        labelled,
        checkpoint=str(tmp_path / "pretrained"),
        task=task,
        training={"epochs": 1.5, **tricks},
        optimizer=SAME["optimizer"],
    )
    go(recipe, tmp_path / "one")
    several(2, [Run(recipe, tmp_path / "several")])
    assert_close(tmp_path / "one", tmp_path / "several")


def test_stopped_and_resumed_by_another_number_of_processes(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    recipe = pretraining(tokenizer_dir, store_dir, training={"updates": 200}, **SAME)
    out = tmp_path / "several"
    running = started(recipe, out)
    os.kill(second_child(running.pid), signal.SIGTERM)  # one hears it, all stop
    _, said = running.communicate(timeout=120)
    assert said.count("stopped by SIGTERM after update") == 1
    assert said.count("to continue: the same torchrun command with --resume") == 1
    stopped = int((out / "last").read_text(encoding="utf-8")[5:])
    assert 0 < stopped < 200
    found = train(1, recipe, out, "--resume")
    assert found["updates"] == 200
    go(recipe, tmp_path / "one")
    assert_close(tmp_path / "one", out)


def test_an_evaluation_is_cut_short_in_all_processes(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    recipe = pretraining(tokenizer_dir, store_dir, training={"micro_batch": 2}, **SAME)
    out = tmp_path / "several"
    several(2, [Run(recipe, tmp_path / "whole"), Run(recipe, out, 2, evaluated=True), Run(recipe, out)])
    assert weights(tmp_path / "whole") == weights(out)
    assert log(tmp_path / "whole") == log(out)


def started(recipe: PretrainRecipe, out: Path) -> subprocess.Popen[str]:
    """A run of two processes that has saved its first checkpoint."""
    running = subprocess.Popen(command(2, recipe, out), env=environment(), stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not (out / "last").exists() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    if not (out / "last").exists():
        running.kill()
        pytest.fail(f"it saved nothing: {running.communicate()[1]}")
    return running


def second_child(pid: int) -> int:
    """The process of rank 1 that torchrun started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_bytes().split()
    [found] = [int(n) for n in children if b"\0RANK=1\0" in Path(f"/proc/{int(n)}/environ").read_bytes()]
    return found


def test_a_process_that_dies_ends_all_with_one_message(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    recipe = pretraining(tokenizer_dir, store_dir, training={"updates": 4000}, **SAME)
    out = tmp_path / "run"
    running = started(recipe, out)
    os.kill(second_child(running.pid), signal.SIGKILL)
    _, said = running.communicate(timeout=120)
    assert running.returncode != 0
    assert said.count("error: process 0 of 2 has lost another one") <= 1 and "this is a bug" not in said
    files.verify(out / (out / "last").read_text(encoding="utf-8").strip())


def test_an_error_is_told_once(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    recipe = pretraining(tokenizer_dir, store_dir, **SAME)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("something else", encoding="utf-8")
    for more, code in (((), 2), (("--resume",), 2)):
        done = subprocess.run(
            command(2, recipe, tmp_path / "run", *more), env=environment(), capture_output=True, text=True, timeout=120
        )
        assert done.returncode != 0 and f"exitcode  : {code} " in done.stderr
        assert done.stderr.count("error: ") == 1, done.stderr


def test_other_commands_are_for_one_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(sys, "argv", ["encoderkit", "schema", "pretrain"])
    assert main.run() == 2
    assert "schema runs in one process; torchrun is for pretrain and finetune" in capsys.readouterr().err


def test_a_share_may_be_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three examples and four processes: the fourth computes nothing, and takes part all the same."""
    monkeypatch.setattr("encoderkit.world.size", lambda: 4)
    monkeypatch.setattr("encoderkit.world.rank", lambda: 3)
    monkeypatch.setattr("encoderkit.training.loop.total", lambda values: [v + 1 for v in values])
    monkeypatch.setattr("encoderkit.training.loop.Sum", lambda parameters: Sum([]))
    learner = classify("bert")
    optimizers = build_optimizers(learner, AdamWConfig(lr=1e-3), torch.float32)
    [update] = updates(learner, optimizers, examples(3), plan(1, 3))
    assert update.tokens == 1
