"""What the loop hands on and asks for, each against numbers that are written out here: nothing is compared with itself."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoderkit.data.order import rng
from encoderkit.errors import ExitCode, Interrupted
from encoderkit.models.inputs import Inputs
from encoderkit.objectives.config import ContrastiveConfig
from encoderkit.objectives.contrastive import Contrastive
from encoderkit.training import loop, run
from encoderkit.training.config import LoraConfig, MuonConfig, ScheduleConfig, TrainingConfig
from encoderkit.training.evaluate import evaluate
from encoderkit.training.loop import micro_batches, updates
from encoderkit.training.lora import adapt
from encoderkit.training.optim import Muon, _fused, build_optimizers
from encoderkit.training.plan import draft
from encoderkit.training.run import Due
from tests.training.runs import (
    LENGTH,
    VOCABULARY,
    classify,
    encoder,
    examples,
    finetuning,
    go,
    masked,
    plan,
    pretraining,
    replaced,
    rows,
)
from tests.training.test_exact import Recorder


def contrastive() -> Contrastive:
    torch.manual_seed(1)
    return Contrastive(ContrastiveConfig(masked=0.1), encoder("bert", dropout=0.1), VOCABULARY, LENGTH)


@pytest.mark.parametrize(
    ("make", "weights"),
    [
        (lambda: replaced(discriminator_weight=50), {"masked": 1.0, "replaced": 50.0}),
        (lambda: classify("bert", dropout=0.1, rdrop=3.0), {"classify": 1.0, "rdrop": 1.5}),  # half of the sum of two losses
        (contrastive, {"contrastive": 1.0, "masked": 0.1}),
    ],
)
def test_terms_are_weighed_as_their_papers_say(make: Any, weights: dict[str, float]) -> None:
    """The gradient of an update is that of the sum of each weight times the mean of its term."""
    learner = make()
    source = examples(6) if "classify" in weights else rows(6)
    settings = plan(1, 6)
    recorder = Recorder(learner)
    [update] = updates(learner, [recorder], source, settings)
    [batch] = micro_batches(learner, source, settings, 0)
    loop._sow(settings, 0)
    terms = learner.train()(batch.inputs, batch.targets)
    assert terms.keys() == weights.keys() == update.losses.keys()
    means = {name: terms[name] / batch.counts[name] for name in terms}
    whole = torch.stack([weights[name] * mean for name, mean in means.items()]).sum()
    assert update.loss == pytest.approx(float(whole.detach()), rel=1e-5)
    assert update.losses == pytest.approx({name: float(mean.detach()) for name, mean in means.items()}, rel=1e-5)
    found = torch.autograd.grad(whole, [p for p in learner.parameters() if p.requires_grad], allow_unused=True)
    for own, expected in zip(recorder.gradients[0], found, strict=True):
        if own is not None and expected is not None:
            torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-3)


def test_each_epoch_and_update_draws_anew_and_knows_how_far_it_is() -> None:
    seen: list[tuple[float, dict[int, float]]] = []
    learner = masked("bert")
    source = rows(4)
    numbers = {id(row): i for i, row in enumerate(source)}

    def collate(examples: Any, rngs: Any, progress: float) -> Any:
        seen.append((progress, {numbers[id(row)]: float(rng.random()) for row, rng in zip(examples, rngs, strict=True)}))
        return type(learner).collate(learner, examples, rngs, progress)

    learner.collate = collate  # pyright: ignore[reportAttributeAccessIssue]
    for update in range(4):
        list(micro_batches(learner, source, plan(4, 4), update))
    assert [progress for progress, _ in seen] == [0, 0.25, 0.5, 0.75]
    assert all(set(drawn) == {0, 1, 2, 3} for _, drawn in seen)
    assert len({value for _, drawn in seen for value in drawn.values()}) == 16


def test_dropout_is_another_each_time_an_example_is_seen() -> None:
    """And the same whichever process computes it."""
    learner, source = classify("bert", dropout=0.5).train(), examples(6)

    def drawn(epoch: int) -> torch.Tensor:
        batch = learner.collate(source, [rng(3, epoch, i) for i in range(6)], 0.0)
        return learner.logits(batch.inputs).detach()

    first, later = drawn(0), drawn(1)
    assert torch.equal(first, drawn(0)) and not torch.isclose(first, later).any()
    turned = learner.collate(source[::-1], [rng(3, 0, 5 - i) for i in range(6)], 0.0)
    torch.testing.assert_close(learner.logits(turned.inputs), first.flip(0))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_torchs_generators_differ_by_update_and_on_a_gpu_by_process(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    """What all texts share is dropped by that of the CPU; what a GPU drops, by its own."""
    seen: list[int] = []
    monkeypatch.setattr(loop.torch.cuda, "manual_seed_all", seen.append)

    def sown(update: int, rank: int) -> int:
        monkeypatch.setattr(loop.world, "rank", lambda: rank)
        loop._sow(plan(9, 6, device=device), update)
        return torch.initial_seed()

    assert sown(0, 0) == sown(0, 0) == sown(0, 1) != sown(1, 0)
    assert (len(seen), len(set(seen))) == ((4, 3) if device == "cuda" else (0, 0))


def test_intervals_are_minutes_epochs_or_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(run.time, "monotonic", lambda: now[0])
    clock, epochs, steps = Due("5m", 7.5, 0), Due("1 epoch", 7.5, 0), Due("4 updates", 7.5, 0)
    fired: dict[str, list[int]] = {"clock": [], "epochs": [], "steps": []}
    for update in range(1, 25):
        now[0] += 60
        for name, due in (("clock", clock), ("epochs", epochs), ("steps", steps)):
            if due(update):
                fired[name].append(update)
    assert fired == {"clock": [5, 10, 15, 20], "epochs": [8, 15, 23], "steps": [4, 8, 12, 16, 20, 24]}
    monkeypatch.setattr(run.world, "first", lambda: False)  # whose clock it is not
    now[0] += 10_000
    assert not clock(25) and epochs(30)


def test_a_length_in_tokens_is_so_many_updates() -> None:
    training = TrainingConfig(tokens=100_000, batch=64)
    found = draft(training, ScheduleConfig(), MuonConfig(lr=1e-2, adamw_lr=1e-3), 1, 128, 10_000)
    assert found.updates == round(100_000 / (64 * 128)) == 12 and found.examples == 12 * 64


def test_only_the_best_and_the_newest_two_are_kept(
    tokenizer_dir: Path, store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([5.0, 1.0, 4.0, 3.0, 6.0, 7.0, 8.0, 9.0])

    def measured(*_: Any, **__: Any) -> dict[str, float]:
        return {"loss": next(losses), "accuracy": 0.0}

    monkeypatch.setattr(run, "evaluate", measured)
    every = {"log": "4 updates", "evaluate": "1 updates", "save": "1 updates"}
    go(pretraining(tokenizer_dir, store_dir, training={"updates": 8}, every=every), tmp_path / "run")
    kept = sorted(path.name for path in (tmp_path / "run").iterdir() if path.name.startswith("step-"))
    assert kept == ["step-0000002", "step-0000007", "step-0000008"]
    assert (tmp_path / "run" / "best").read_text(encoding="utf-8") == "step-0000002\n"


def test_the_rate_in_the_log_is_that_of_the_schedule(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    every = {"log": "1 updates", "evaluate": "9 updates", "save": "9 updates"}
    schedule = {"kind": "cosine", "warmup": 2, "floor": 0.1}
    go(pretraining(tokenizer_dir, store_dir, schedule=schedule, every=every), tmp_path / "run")
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rising = [3e-3 * 1 / 3, 3e-3 * 2 / 3]
    falling = [3e-3 * (0.1 + 0.9 * (1 + np.cos(np.pi * i / 4)) / 2) for i in range(4)]
    assert [entry["lr"] for entry in log if "lr" in entry] == pytest.approx([*rising, *falling])


KEYS: dict[str, dict[str, Any]] = {
    "clip": {"optimizer": {"kind": "adamw", "lr": 3e-3, "clip": 1e-4}},
    "weight_decay": {"optimizer": {"kind": "adamw", "lr": 3e-3, "weight_decay": 50}},
    "betas": {"optimizer": {"kind": "adamw", "lr": 3e-3, "betas": [0.5, 0.6]}},
    "eps": {"optimizer": {"kind": "adamw", "lr": 3e-3, "eps": 0.1}},
    "layer_decay": {"optimizer": {"kind": "adamw", "lr": 3e-3, "layer_decay": 0.5}},
    "muon": {"optimizer": {"kind": "muon", "lr": 3e-3, "adamw_lr": 3e-3}},
    "schedule": {"schedule": {"kind": "constant", "warmup": 0}},
    "warmup": {"schedule": {"warmup": 3}},
    "floor": {"schedule": {"kind": "linear", "warmup": 0, "floor": 0.9}},
    "freeze": {"training": {"updates": 3, "freeze": "embeddings"}},
    "unfreeze": {"training": {"updates": 3, "unfreeze": "1 updates"}},
    "reinit": {"training": {"updates": 3, "reinit": 1}},
    "lora": {"training": {"updates": 3, "lora": {"rank": 2, "matrices": ["query"]}}},
    "adversarial": {"training": {"updates": 3, "adversarial": 1.0}},
    "average": {"training": {"updates": 3, "average": {"kind": "ema", "decay": 0.9}}},
    "dropout": {"dropout": 0.5},
    "pooling": {"task": {"kind": "classify", "pooling": "mean"}},
    "head_dropout": {"task": {"kind": "classify", "dropout": 0.9}},
    "label_smoothing": {"task": {"kind": "classify", "label_smoothing": 0.3}},
    "focal": {"task": {"kind": "classify", "focal": 2}},
    "rdrop": {"task": {"kind": "classify", "rdrop": 5.0}},
    "word_dropout": {"task": {"kind": "classify", "word_dropout": 0.5}},
    "class_weights": {"task": {"kind": "classify", "class_weights": {"positive": 3.0, "negative": 1.0}}},
    "sampling": {"task": {"kind": "classify", "sampling": "balanced"}},
    "seed": {"seed": 5},
    "length": {"data": {"length": 6}},
}


@pytest.fixture(scope="module")
def uneven(labelled: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows of which few have the first label: what balances them changes something."""
    lines = labelled["train"].read_text(encoding="utf-8").splitlines(keepends=True)
    first = json.loads(lines[0])["label"]
    few = [line for line in lines if json.loads(line)["label"] == first][:5]
    path = tmp_path_factory.mktemp("uneven") / "train.jsonl"
    path.write_text("".join([*few, *(line for line in lines if json.loads(line)["label"] != first)]), encoding="utf-8")
    return {"train": path, "dev": labelled["dev"]}


@pytest.fixture(scope="module")
def plain(
    pretrained_dir: Path, uneven: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], bytes]:
    base = {"checkpoint": str(pretrained_dir), "training": {"updates": 3}}
    return base, _weights(base, uneven, tmp_path_factory.mktemp("plain"))


def _weights(recipe: dict[str, Any], labelled: dict[str, Path], out: Path) -> bytes:
    more = dict(recipe)
    data = {"train": str(labelled["train"]), "dev": str(labelled["dev"]), "length": 24, **more.pop("data", {})}
    go(finetuning(out, labelled, **more, data=data), out / "run")
    return (out / "run" / "step-0000003" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("name", KEYS)
def test_every_key_does_something(
    name: str, plain: tuple[dict[str, Any], bytes], uneven: dict[str, Path], tmp_path: Path
) -> None:
    """Three updates with it end elsewhere than three without."""
    base, expected = plain
    assert _weights(base | KEYS[name], uneven, tmp_path) != expected


def test_loras_change_is_alpha_by_rank_times_the_product() -> None:
    """Hu et al. 2021, section 4.1; of the fused matrix the first third is the query's, the last the value's."""
    learner = classify("bert")
    before = {name: p.detach().clone() for name, p in learner.encoder.named_parameters()}  # pyright: ignore
    adapt(learner, LoraConfig.model_validate({"rank": 2, "alpha": 6, "matrices": ["query", "value"]}), 1)
    attention: Any = learner.encoder.layers[0].attention  # pyright: ignore
    change = attention.qkv.parametrizations.weight[0]
    with torch.no_grad():
        for p in (change.up, change.down):
            nn.init.normal_(p)
    own, after = before["layers.0.attention.qkv.weight"].chunk(3), attention.qkv.weight.chunk(3)
    for number, part in ((0, 0), (1, 2)):
        torch.testing.assert_close(after[part], own[part] + 6 / 2 * change.up[number] @ change.down[number])
    assert torch.equal(after[1], own[1])
    with torch.autocast("cpu", torch.bfloat16):  # the weight, not the product with it, is in full
        assert torch.equal(attention.qkv.weight, torch.cat(after))
        attention.qkv(torch.ones(1, 2, before["layers.0.attention.qkv.weight"].shape[1])).sum().backward()
    assert change.up.grad.abs().sum() > 0


@pytest.mark.parametrize("kind", ["bert", "modernbert", "t5", "deberta", "lstm", "cnn"])
def test_muon_has_the_matrices_of_the_layers_alone(kind: str) -> None:
    learner = classify(kind)
    optimizers = build_optimizers(learner, MuonConfig(lr=0.02, adamw_lr=1e-3, layer_decay=0.5), torch.float32)
    rates = {name: group["lr_peak"] for o in optimizers for group in o.param_groups for name in group["names"]}
    moved = {name for o in optimizers if isinstance(o, Muon) for group in o.param_groups for name in group["names"]}
    wanted = ("bert", "modernbert", "t5", "deberta")
    matrices = ("attention.qkv", "attention.out", "mlp.up", "mlp.down")
    if kind in wanted:
        assert moved == {f"encoder.layers.{i}.{part}.weight" for i in range(2) for part in matrices}
    assert all(name.startswith("encoder.layers.") for name in moved)
    assert rates["head.out.weight"] == 1e-3 and not moved & {"head.out.weight", "encoder.tokens.weight"}
    assert all(rates[name] == 0.02 * 0.5 ** (2 - int(name.split(".")[2])) for name in moved)
    parts = _fused(learner)
    assert all(parts[name] == 3 for name in moved if name.endswith("qkv.weight"))
    gated = {2} if kind in ("modernbert", "t5") else {1}
    assert kind not in wanted or {parts.get(name, 1) for name in moved if name.endswith("mlp.up.weight")} == gated


def test_evaluation_that_does_not_fit_goes_on_with_half_of_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learner, source = classify("bert"), examples(12)
    expected, plain = evaluate(learner, source, 3, "cpu", "fp32"), learner.observe

    def observe(inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        if len(targets["labels"]) > 3:
            raise MemoryError
        return plain(inputs, targets)

    monkeypatch.setattr(learner, "observe", observe)
    assert evaluate(learner, source, 12, "cpu", "fp32") == expected
    assert "going on with 6" in (said := capsys.readouterr().err) and "going on with 3" in said


def test_a_compiler_that_a_signal_has_ended_too_is_no_bug() -> None:
    """As where a scheduler sends it to all processes of a job; without a signal it is one."""

    class InductorError(RuntimeError):
        """As torch has it."""

    for number, code in ((signal.SIGTERM, ExitCode.PREEMPTED), (signal.SIGINT, ExitCode.INTERRUPTED)):
        with pytest.raises(Interrupted, match=f"stopped by {number.name}; what was saved is intact") as found, run.stopping():
            os.kill(os.getpid(), number)
            raise InductorError
        assert found.value.exit_code == code
    with pytest.raises(InductorError), run.stopping():
        raise InductorError
    with pytest.raises(ZeroDivisionError), run.stopping():
        os.kill(os.getpid(), signal.SIGTERM)
        raise ZeroDivisionError
