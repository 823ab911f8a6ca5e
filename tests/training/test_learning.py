"""That learners learn, from the right start, and that what is kept is what was best."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoderkit.data.labelled import read_rows
from encoderkit.data.order import rng
from encoderkit.errors import DivergedError
from encoderkit.inference import open_model
from encoderkit.learner import IGNORE, Batch
from encoderkit.models.config import reading
from encoderkit.models.inputs import Inputs
from encoderkit.tasks.classify import Classify, Example
from encoderkit.tasks.texts import Tokens
from encoderkit.text.tokenizers import open_tokenizer
from encoderkit.training.checkpoint import Description, State, save
from encoderkit.training.config import AdamWConfig
from encoderkit.training.evaluate import evaluate
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.training.runs import (
    APART,
    BOTH_WAYS,
    KINDS,
    LEFT_TO_RIGHT,
    VOCABULARY,
    causal,
    classify,
    examples,
    finetuning,
    go,
    go_until,
    masked,
    permuted,
    plan,
    rows,
)


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_start_every_token_is_as_likely(kind: str) -> None:
    assert evaluate(masked(kind), rows(64), 16, "cpu", "fp32")["loss"] == pytest.approx(math.log(VOCABULARY.size), abs=0.15)
    assert evaluate(classify(kind, 5), examples(64, 5), 16, "cpu", "fp32")["loss"] == pytest.approx(math.log(5), abs=0.2)


def least(batch: Batch, whole: bool) -> float:
    """The least mean loss in nats: where the same context has several answers. It is the row, or all up to the place."""
    width, answers = batch.inputs.ids.shape[1], defaultdict(Counter)
    for where, label in zip(batch.targets["where"].tolist(), batch.targets["labels"].tolist(), strict=True):
        if label != IGNORE:
            row, place = batch.inputs.ids[where // width].tolist(), where % width
            answers[place, tuple(row if whole else row[: place + 1])][label] += 1
    nats = sum(-n * math.log(n / seen.total()) for seen in answers.values() for n in seen.values())
    return nats / batch.counts["masked"]


@pytest.mark.parametrize(("kind", "reads"), [*((kind, BOTH_WAYS.get(kind, {})) for kind in KINDS), *LEFT_TO_RIGHT, *APART])
def test_eight_sequences_are_memorised(kind: str, reads: dict[str, Any]) -> None:
    """With the same tokens hidden each time, as everything random hangs on the numbers of the examples."""
    learner = masked(kind, **reads)
    batch = learner.collate(rows(8), [rng(1, 0, i) for i in range(8)], 0.0)
    (optimizer,) = build_optimizers(learner, AdamWConfig(lr=1e-3, weight_decay=0.0), torch.float32)
    for group in optimizer.param_groups:
        group["lr"] = 5e-3
    loss = torch.tensor(torch.inf)
    for _ in range(200):
        loss = learner(batch.inputs, batch.targets)["masked"] / batch.counts["masked"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < least(batch, whole=reading(learner.encoder_config) != "left_to_right") + 0.1


@pytest.mark.parametrize(("kind", "reads"), [*LEFT_TO_RIGHT, *APART])
def test_eight_sequences_are_memorised_in_their_order(kind: str, reads: dict[str, Any]) -> None:
    """As well as can be without seeing the answer: which of the eight it is costs the logarithm of eight for each of them."""
    learner, source = causal(kind, **reads), rows(8)
    batch = learner.collate(source, [rng(1, 0, i) for i in range(8)], 0.0)
    (optimizer,) = build_optimizers(learner, AdamWConfig(lr=1e-3, weight_decay=0.0), torch.float32)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    losses: dict[str, float] = {}
    for _ in range(150):
        terms = learner(batch.inputs, batch.targets)
        sum(terms.values()).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses = {term: float(nats.detach()) / batch.counts[term] for term, nats in terms.items()}
    assert losses.keys() == learner.weights.keys()
    for term, loss in losses.items():
        bound = 8 * math.log(8) / batch.counts[term]
        assert bound - 1e-3 < loss < bound + 0.1
    assert evaluate(learner, source, 3, "cpu", "fp32")["loss"] == pytest.approx(np.mean(list(losses.values())), abs=0.02)


@pytest.mark.parametrize("settings", [{}, {"unit": "token"}, {"memory": 8}])
def test_eight_sequences_are_memorised_in_permuted_order(settings: dict[str, Any]) -> None:
    """XLNet's own objective, with the same order each time; the memory is of other tokens than the row."""
    learner = permuted(**settings)
    source = [row._replace(before=np.arange(5, 5 + i)) for i, row in enumerate(rows(8))]
    batch = learner.collate(source, [rng(1, 0, i) for i in range(8)], 0.0)
    (optimizer,) = build_optimizers(learner, AdamWConfig(lr=1e-3, weight_decay=0.0), torch.float32)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    loss = torch.tensor(torch.inf)
    for _ in range(100):
        loss = learner(batch.inputs, batch.targets)["permuted"] / batch.counts["permuted"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1
    assert evaluate(permuted(), rows(64), 16, "cpu", "fp32")["loss"] == pytest.approx(math.log(VOCABULARY.size), abs=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_eight_labels_are_memorised(kind: str) -> None:
    learner, lr = classify(kind), 3e-3 if kind == "deberta" else 5e-3  # with more its loss falls to nothing, and jumps
    optimizers = build_optimizers(learner, AdamWConfig(lr=lr, weight_decay=0.0), torch.float32)
    taken = list(updates(learner, optimizers, examples(8), plan(50, 8, clip=1.0)))
    assert taken[-1].loss < 0.1
    assert evaluate(learner, examples(8), 3, "cpu", "fp32")["accuracy"] == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, "balanced", {"1": 4.0}])
def test_weights_of_smoothed_losses(weights: str | dict[str, float] | None, smoothing: float) -> None:
    learner, source = classify("cnn", 3, class_weights=weights, label_smoothing=smoothing), examples(10, 3)
    learner.prepare(source)
    labels = np.array([example.target for example in source])
    balanced = [10 / (3 * (labels == i).sum()) for i in range(3)]
    values = balanced if weights == "balanced" else [1.0, 4.0 if weights else 1.0, 1.0]
    batch = learner.collate(source)
    alpha, targets = torch.tensor(values, dtype=torch.float32)[labels], torch.from_numpy(labels)
    nats = nn.CrossEntropyLoss(reduction="none", label_smoothing=smoothing)(learner.logits(batch.inputs), targets)
    found = learner(batch.inputs, batch.targets)["classify"] / batch.counts["classify"]
    torch.testing.assert_close(found, (alpha * nats).sum() / alpha.sum())


@pytest.mark.parametrize(("metric", "choose"), [("loss", min), ("accuracy", max)])
def test_the_best_is_kept_where_the_held_out_data_get_worse(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path, metric: str, choose: Callable[..., float]
) -> None:
    """What is learned is wrong for the held-out rows, whose labels are exchanged: the first evaluation is the best."""
    lines = labelled["dev"].read_text(encoding="utf-8").replace("positive", "other")
    dev = tmp_path / "dev.jsonl"
    dev.write_text(lines.replace("negative", "positive").replace("other", "negative"), encoding="utf-8")
    training = {"updates": 40, "patience": 3, "metric": metric}
    optimizer = {"kind": "adamw", "lr": 1e-2}
    data = {"train": str(labelled["train"]), "dev": str(dev), "length": 24}
    every = {"log": "1 updates", "evaluate": "5 updates", "save": "1 updates"}
    recipe = finetuning(tokenizer_dir, labelled, data=data, training=training, optimizer=optimizer, every=every)
    out = tmp_path / "run"
    found = go(recipe, out)
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    seen = {entry["update"]: entry["dev"][metric] for entry in entries if "dev" in entry}
    best = int((out / "best").read_text(encoding="utf-8").strip().removeprefix("step-"))
    assert seen[best] == choose(seen.values()) == found["dev"][metric]
    assert best == min(update for update, value in seen.items() if value == seen[best])
    assert max(seen) == best + 3 * 5 < 40, "stopped after three evaluations that were no better"
    assert seen[max(seen)] != seen[best]
    kept = evaluate(opened(Path(found["best"])), dev_examples(Path(found["best"]), dev), 7, "cpu", "fp32")
    assert kept[metric] == pytest.approx(seen[best], abs=1e-6)
    before = (out / "metrics.jsonl").read_bytes()
    go(recipe, out, resume=True)
    assert (out / "metrics.jsonl").read_bytes() == before, "a run that stopped early has nothing left to do"

    epochs = 40 * recipe.training.batch / len(labelled["train"].read_text(encoding="utf-8").splitlines())
    patient = recipe.training.model_copy(update={"updates": None, "epochs": epochs, "least": max(seen) + 7})
    assert go(recipe.model_copy(update={"training": patient}), tmp_path / "patient")["updates"] == max(seen) + 7
    entries = [json.loads(line) for line in (tmp_path / "patient/metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert max(entry["update"] for entry in entries if "dev" in entry) == max(seen) + 7, "and nothing is trained in vain"


def opened(step: Path) -> Classify:
    """The classifier of a checkpoint."""
    learner = open_model(step).learner
    assert isinstance(learner, Classify)
    return learner


def dev_examples(step: Path, path: Path) -> list[Example]:
    """Labelled rows as its examples."""
    return opened(step).encode(read_rows(path, ["text", "label"]), open_tokenizer(step / "tokenizer"))


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_nothing_is_stepped_or_kept_that_is_not_finite(tmp_path: Path, value: float) -> None:
    """The message names the update and its examples; the weights are as before; a checkpoint is refused."""
    learner = masked("bert")
    with torch.no_grad():
        learner.head.bias[7] = value
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    optimizers = build_optimizers(learner, AdamWConfig(lr=1e-3), torch.float32)
    with pytest.raises(DivergedError, match=r"update 4: the loss is .*; examples (\d+, ){3}\d+;"):
        list(updates(learner, optimizers, rows(8), plan(6, 4), start=3))
    for name, tensor in learner.state_dict().items():
        assert torch.equal(tensor.nan_to_num(), before[name].nan_to_num())
    with pytest.raises(DivergedError, match=r"head\.bias is no longer finite at update 3"):
        save(tmp_path, learner, optimizers, State(update=3), Description({}, None, {}))
    assert list(tmp_path.iterdir()) == []


def test_corruption_follows_the_example_and_the_epoch_alone() -> None:
    learner, source = masked("bert"), rows(3)

    def hidden(numbers: list[int], epoch: int) -> dict[int, np.ndarray]:
        batch = learner.collate([source[i] for i in numbers], [rng(1, epoch, i) for i in numbers], 0.5)
        return {i: ids.numpy() for i, ids in zip(numbers, batch.inputs.ids, strict=True)}

    together, alone = hidden([0, 1, 2], 0), hidden([2], 0)
    assert (together[2] == alone[2]).all()
    assert any((hidden([2], epoch)[2] != alone[2]).any() for epoch in range(1, 5))


def test_a_micro_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight rows at once are too many here, four are not: the same weights as four from the start, and said once."""
    forward, found = Classify.forward, []

    def cramped(self: Classify, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(targets["labels"]) > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return forward(self, inputs, targets)

    for micro_batch in (4, 8):
        learner = classify("bert")
        with monkeypatch.context() as patch:
            patch.setattr(Classify, "forward", cramped)
            optimizers = build_optimizers(learner, AdamWConfig(lr=5e-3), torch.float32)
            same_length = [Example((Tokens(np.full(9, 5 + i), None, 0),), i % 2) for i in range(24)]
            done = [update.micro_batch for update in updates(learner, optimizers, same_length, plan(3, 8, micro_batch))]
        assert done == [4, 4, 4]
        found.append(learner.state_dict())
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name])
    assert capsys.readouterr().err.count("memory ran out with a micro-batch of 8 rows; going on with 4") == 1


@pytest.mark.parametrize("size", ["auto", 8])
def test_what_did_not_fit_is_not_tried_again(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str | int
) -> None:
    """Neither in an evaluation nor when the run goes on, unless another size is asked for."""
    forward, asked = Classify.forward, []

    def cramped(self: Classify, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        asked.append(len(targets["labels"]))
        if asked[-1] > 4:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return forward(self, inputs, targets)

    monkeypatch.setattr(Classify, "forward", cramped)
    recipe = finetuning(tokenizer_dir, labelled, training={"updates": 6, "micro_batch": size})
    go_until(recipe, tmp_path / "run", 2)
    assert json.loads((tmp_path / "run" / "plan.json").read_bytes())["micro_batch"] == 4
    asked.clear()
    go_until(recipe, tmp_path / "run", 4)
    assert asked and max(asked) == 4
    asked.clear()
    training = recipe.training.model_copy(update={"micro_batch": 2})
    go(recipe.model_copy(update={"training": training}), tmp_path / "run", resume=True)
    assert asked and max(asked) == 2


def test_one_row_that_does_not_fit_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Classify, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(Classify, "forward", full)
    learner = classify("bert")
    optimizers = build_optimizers(learner, AdamWConfig(lr=5e-3), torch.float32)
    with pytest.raises(RuntimeError, match="can't allocate"):
        next(updates(learner, optimizers, examples(8), plan(3, 8)))
