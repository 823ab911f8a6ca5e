"""The learning rate, the groups and the two optimizers, beside values made by hand and torch's own."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from encoderkit.errors import UsageError
from encoderkit.inference import open_model
from encoderkit.objectives.config import MaskedConfig
from encoderkit.objectives.masked import Masked
from encoderkit.training import optim
from encoderkit.training.config import AdamWConfig, MuonConfig, ScheduleConfig
from encoderkit.training.loop import updates
from encoderkit.training.machine import DTYPES
from encoderkit.training.optim import STEPS, Muon, build_optimizers, depths, freeze, orthogonal
from encoderkit.training.schedule import factor
from tests.training.runs import KINDS, LENGTH, VOCABULARY, classify, encoder, examples, finetuning, go, masked, plan, rows

HALF = math.sqrt(0.5) / 2
SCHEDULES = {
    "linear": (ScheduleConfig(kind="linear", warmup=2), [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
    "linear to a floor": (ScheduleConfig(kind="linear", warmup=2, floor=0.1), [1 / 3, 2 / 3, 1, 0.775, 0.55, 0.325]),
    "linear, a share": (ScheduleConfig(kind="linear", warmup="50%"), [0.25, 0.5, 0.75, 1, 2 / 3, 1 / 3]),
    "cosine": (ScheduleConfig(kind="cosine", warmup=2), [1 / 3, 2 / 3, 1, 0.5 + HALF, 0.5, 0.5 - HALF]),
    "wsd": (ScheduleConfig(kind="wsd", warmup=1, decay=3), [1 / 2, 1, 1, 1, 2 / 3, 1 / 3]),
    "wsd to a floor": (ScheduleConfig(kind="wsd", warmup=0, decay="50%", floor=0.4), [1, 1, 1, 1, 0.8, 0.6]),
    "constant": (ScheduleConfig(kind="constant", warmup=1), [1 / 2, 1, 1, 1, 1, 1]),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_learning_rate_is_as_computed_by_hand(name: str) -> None:
    schedule, expected = SCHEDULES[name]
    assert [factor(schedule, update, 6) for update in range(6)] == pytest.approx(expected, abs=1e-12)


def test_an_update_uses_the_rate_that_the_schedule_gives() -> None:
    learner = masked("cnn")
    optimizers = build_optimizers(learner, AdamWConfig(lr=2e-3), torch.float32)
    schedule = ScheduleConfig(kind="linear", warmup=2)
    taken = list(updates(learner, optimizers, rows(8), plan(6, 4, schedule=schedule)))
    assert [update.lr for update in taken] == pytest.approx([2e-3 * share for share in SCHEDULES["linear"][1]])


@pytest.mark.parametrize("config", [AdamWConfig(lr=1e-3, weight_decay=0.1), MuonConfig(lr=0.02, adamw_lr=3e-3, weight_decay=0.1)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_is_in_one_group_and_only_matrices_decay(kind: str, config: AdamWConfig | MuonConfig) -> None:
    for learner in (masked(kind), classify(kind)):
        groups = [group for o in build_optimizers(learner, config, torch.float32) for group in o.param_groups]
        held = [id(p) for group in groups for p in group["params"]]
        assert len(held) == len(set(held)) and set(held) == {id(p) for p in learner.parameters()}
        norms = {id(p) for m in learner.modules() if isinstance(m, nn.LayerNorm | nn.RMSNorm) for p in m.parameters()}
        for group in groups:
            for name, p in zip(group["names"], group["params"], strict=True):
                plain = id(p) in norms or "bias" in name.rpartition(".")[2]
                assert group["weight_decay"] == (0.0 if plain else 0.1), name


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str) -> None:
    """Of a masked learner; of a classifier too, but for the second row of the segments, where texts are single."""
    for learner, source in ((masked(kind), rows(8)), (classify(kind), examples(8))):
        seen = dict.fromkeys((name for name, _ in learner.named_parameters()), False)
        for _ in updates(learner, [Watch(learner, seen)], source, plan(1, 8)):
            pass
        # XLNet's query stream is for its own objective, and its segments are for pairs.
        unused = ("unknown", "segment") if kind == "xlnet" else ()
        assert [name for name, ok in seen.items() if not ok and not any(part in name for part in unused)] == []


class Watch(torch.optim.Optimizer):
    """Notes which parameters have a gradient that is not zero."""

    def __init__(self, learner: nn.Module, seen: dict[str, bool]) -> None:
        self.named, self.seen = list(learner.named_parameters()), seen
        super().__init__([{"params": [p for _, p in self.named], "lr_peak": 1.0}], {})

    def step(self, closure: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for name, p in self.named:
            self.seen[name] |= p.grad is not None and bool(p.grad.abs().sum() > 0)


def test_without_decay_it_is_plain_adamw() -> None:
    ours, plain = masked("bert"), masked("bert")
    config = AdamWConfig(lr=1e-3, weight_decay=0.0)
    built = build_optimizers(ours, config, torch.float32)
    reference = torch.optim.AdamW(plain.parameters(), lr=1e-3, betas=config.betas, eps=config.eps, weight_decay=0, fused=True)
    reference.param_groups[0]["lr_peak"] = 1e-3
    list(updates(ours, built, rows(8), plan(5, 4)))
    list(updates(plain, [reference], rows(8), plan(5, 4)))
    for expected, found in zip(plain.parameters(), ours.parameters(), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("shape", [(16, 24), (24, 16), (20, 20)])
def test_orthogonal_keeps_the_singular_vectors(shape: tuple[int, int]) -> None:
    """Each singular value between 0.8 and 1.2 where it was at least 0.003 of the norm; nothing off the diagonal."""
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(3, *shape, dtype=torch.float64), full_matrices=False)
    values = torch.cat((torch.full((min(shape) - 1,), 0.0031), torch.ones(1))).double()
    values = torch.stack((values, torch.logspace(-2, 0, min(shape)).double(), torch.ones(min(shape)).double()))
    found = u.mT @ orthogonal(u @ torch.diag_embed(values) @ vt, torch.float64) @ vt.mT
    diagonal = found.diagonal(dim1=-2, dim2=-1)
    assert diagonal.min() > 0.8 and diagonal.max() < 1.2, (diagonal.min(), diagonal.max())
    assert (found - torch.diag_embed(diagonal)).abs().max() < 1e-9


@pytest.mark.parametrize("shape", [(64, 16), (16, 32)])
@pytest.mark.parametrize("lowest", [-1, -4, -8])
def test_working_on_the_short_side_gives_the_steps_one_by_one(shape: tuple[int, int], lowest: float) -> None:
    torch.manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(3, *shape, dtype=torch.float64), full_matrices=False)
    given = u @ torch.diag(torch.logspace(lowest, 0, min(shape), dtype=torch.float64)) @ vt
    x = given / (1.01 * given.norm(dim=(-2, -1), keepdim=True))
    for a, b, c in STEPS:
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    assert (orthogonal(given, torch.float64) - x).abs().max() < 1e-5
    assert (orthogonal(given.float(), torch.float32) - x).abs().max() < 1e-3
    assert not orthogonal(torch.zeros(1, *shape), torch.float32).any()


@pytest.mark.parametrize("shape", [(32, 16), (16, 32)])
def test_muon_is_that_of_torch(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """By its steps, in its bfloat16: the same direction within 2 degrees, and the same length within one percent."""
    monkeypatch.setattr(optim, "STEPS", ((3.4445, -4.7750, 2.0315),) * 5)
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours = nn.Parameter(start.clone())
    theirs = nn.Parameter(ours.detach().clone())
    mine = Muon([{"params": [ours], "names": ["w"], "lr": 0.02, "weight_decay": 0.1}], 0.95, torch.bfloat16, {})
    reference = torch.optim.Muon([theirs], lr=0.02, momentum=0.95, weight_decay=0.1)
    for _ in range(3):
        ours.grad = torch.randn(shape)
        theirs.grad = ours.grad.clone()
        mine.step()
        reference.step()
    found, expected = (ours - start).detach().flatten(), (theirs - start).detach().flatten()
    assert torch.cosine_similarity(found, expected, dim=0) > 0.9994
    assert found.norm() == pytest.approx(float(expected.norm()), rel=0.01)


def test_fused_matrices_are_orthogonal_each_on_its_own() -> None:
    """A step on queries, keys and values together is the three steps on each."""
    torch.manual_seed(0)
    whole = nn.Parameter(torch.zeros(48, 16))
    parts = [nn.Parameter(torch.zeros(16, 16)) for _ in range(3)]
    whole.grad = torch.randn(48, 16) * torch.tensor([1.0, 10.0, 100.0]).repeat_interleave(16)[:, None]
    for part, grad in zip(parts, whole.grad.chunk(3), strict=True):
        part.grad = grad.clone()
    group = {"lr": 1.0, "weight_decay": 0.0}
    Muon([{"params": [whole], "names": ["qkv"], **group}], 0.95, torch.float32, {"qkv": 3}).step()
    Muon([{"params": parts, "names": ["q", "k", "v"], **group}], 0.95, torch.float32, {}).step()
    torch.testing.assert_close(whole.data, torch.cat([part.data for part in parts]), atol=1e-6, rtol=0)


def test_gates_are_matrices_each_on_its_own() -> None:
    config = MuonConfig(lr=0.1, adamw_lr=1e-9, weight_decay=0.0)
    for kind, gates in (("lstm", 4), ("gru", 3), ("rnn", 1)):
        learner = masked(kind)
        before = {name: p.detach().clone() for name, p in learner.named_parameters()}
        list(updates(learner, build_optimizers(learner, config, torch.float32), rows(8), plan(1, 8)))
        moved = {n: p.detach() - before[n] for n, p in learner.named_parameters() if ".layers." in n and p.ndim == 2}
        assert moved
        for change in moved.values():
            for part in change.chunk(gates):
                scale = 0.1 * max(1.0, part.shape[0] / part.shape[1]) ** 0.5
                assert 0.78 < float(torch.linalg.matrix_norm(part, 2)) / scale < 1.22


@pytest.mark.parametrize("kind", KINDS)
def test_layers_have_decaying_rates(kind: str) -> None:
    """1 above the layers, 0.5 for the upper of two, 0.25 for the lower, 0.125 for the embeddings (and what widens them)."""
    groups = build_optimizers(classify(kind), AdamWConfig(lr=1.0, layer_decay=0.5), DTYPES["fp32"])[0].param_groups
    for name, rate in ((name, group["lr_peak"]) for group in groups for name in group["names"]):
        if ".layers." in name:
            assert rate == (0.5 if ".layers.1." in name or kind == "albert" else 0.25), name  # albert has one block for both
        else:
            above = name.startswith(("head.", "encoder.final_norm."))
            assert rate == (1.0 if above else 0.125), name


def test_shared_weights_are_as_deep_as_the_last_layer_that_has_them() -> None:
    """Five layers in two groups of two blocks: layers 1 to 3 share blocks 0 and 1, layers 4 and 5 blocks 2 and 3."""

    def fresh() -> Masked:
        return Masked(MaskedConfig(), encoder("albert", layers=5, groups=2, group_blocks=2), VOCABULARY, LENGTH)

    found = depths(fresh())
    assert found.layers == 5 and found.shared == {1: 3, 4: 5}
    expected = {"encoder.projection": 0, "encoder.tokens": 0, "head.dense": 6}
    expected |= {f"encoder.layers.{block}.mlp.up": depth for block, depth in enumerate((3, 3, 5, 5))}
    assert {name: found.of[f"{name}.weight"] for name in expected} == expected
    for limit, fix in ((2, "freeze=3, or embeddings"), (4, "freeze=5, or 3")):
        with pytest.raises(UsageError, match=f"(?s)share their weights.*{fix}"):
            freeze(fresh(), limit)
    for limit, blocks in (("embeddings", 0), (3, 2), (5, 4)):
        freeze(learner := fresh(), limit)
        still = {name for name, p in learner.named_parameters() if not p.requires_grad}
        assert {name for name in still if ".layers." in name} == {
            name for name, _ in learner.named_parameters() if any(name.startswith(f"encoder.layers.{b}.") for b in range(blocks))
        }
        assert "encoder.projection.weight" in still and not any(name.startswith("head.") for name in still)
        assert {
            name
            for o in build_optimizers(learner, MuonConfig(lr=0.02, adamw_lr=1e-3), torch.float32)
            for g in o.param_groups
            for name in g["names"]
        } == {name for name, _ in learner.named_parameters()} - still


@pytest.mark.parametrize("frozen", ["embeddings", 1])
def test_what_is_frozen_stays_bitwise_as_it_was(
    pretrained_dir: Path, labelled: dict[str, Path], tmp_path: Path, frozen: str | int
) -> None:
    training = {"updates": 4, "freeze": frozen}
    recipe = finetuning(tmp_path, labelled, checkpoint=str(pretrained_dir), training=training)
    best = go(recipe, tmp_path / "run")["best"]
    before = open_model(pretrained_dir / (pretrained_dir / "best").read_text(encoding="utf-8").strip()).learner
    after = open_model(Path(best)).learner
    old = dict(before.encoder.named_parameters())
    still = ("tokens.", "positions.", "segments.", "embedding_norm.") + (("layers.0.",) if frozen == 1 else ())
    for name, p in after.encoder.named_parameters():
        assert torch.equal(p, old[name]) == name.startswith(still), name
