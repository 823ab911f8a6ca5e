"""A run is a function of its recipe and its data: stopping, resuming, looking and portioning change nothing in it."""

import json
import shutil
from collections.abc import Callable
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from encoderkit.data.order import examples_of
from encoderkit.errors import UsageError
from encoderkit.models import dropout
from encoderkit.objectives.config import ContrastiveConfig, PermutedConfig, SpansConfig
from encoderkit.objectives.contrastive import Contrastive
from encoderkit.objectives.permuted import Permuted
from encoderkit.objectives.spans import Spans
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.tasks.classify import Classify, Example
from encoderkit.tasks.texts import WIDTH, Tokens
from encoderkit.training.loop import WIDE, Plan, micro_batches, portions, updates
from encoderkit.training.machine import can_compile
from tests.reliability.small import assert_same, result
from tests.training.runs import (
    BOTH_WAYS,
    KINDS,
    LENGTH,
    TRANSFORMERS,
    VOCABULARY,
    causal,
    classify,
    encoder,
    examples,
    finetuning,
    go,
    go_until,
    go_until_evaluated,
    masked,
    plan,
    pretraining,
    replaced,
    rows,
    weights,
)

Make = Callable[..., PretrainRecipe | FinetuneRecipe]
MODELS = {
    "bert": {"kind": "bert", "dim": 32, "layers": 2, "heads": 2, "max_length": 64},
    "modernbert": {"kind": "modernbert", "dim": 32, "layers": 2, "heads": 2, "max_length": 64, "dropout": 0.1, "window": 4},
    "lstm": {"kind": "lstm", "dim": 32},
}
ADAMW, MUON = {"kind": "adamw", "lr": 3e-3}, {"kind": "muon", "lr": 0.02, "adamw_lr": 3e-3}


@pytest.fixture(params=["pretrain", "finetune"])
def make(request: pytest.FixtureRequest, tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path]) -> Make:
    """A recipe of each stage, with what it is given changed."""
    if request.param == "pretrain":
        return lambda **more: pretraining(tokenizer_dir, store_dir, **more)
    return lambda **more: finetuning(tokenizer_dir, labelled, **more)


@pytest.mark.parametrize(("model", "optimizer"), [("bert", MUON), ("lstm", ADAMW), ("modernbert", MUON)])
def test_six_updates_are_one_and_one_and_one(make: Make, tmp_path: Path, model: str, optimizer: dict[str, Any]) -> None:
    """Stopped after each update and continued each time: weights, moments, log and pointers are bitwise the same."""
    recipe = make(model=MODELS[model], optimizer=optimizer)
    go(recipe, tmp_path / "whole")
    for update in range(1, 6):
        go_until(recipe, tmp_path / "pieces", update)
    go(recipe, tmp_path / "pieces", resume=True)
    reference = result(tmp_path / "whole")
    assert reference["state"]["update"] == 6
    assert [entry["update"] for entry in reference["log"] if "loss" in entry] == [4, 6]
    assert_same(tmp_path / "pieces", reference)


def test_six_updates_are_some_and_the_rest(make: Make, tmp_path: Path) -> None:
    recipe = make(model=MODELS["bert"])
    go(recipe, tmp_path / "whole")
    reference = result(tmp_path / "whole")
    for update in range(1, 6):
        go_until(recipe, tmp_path / str(update), update)
        go(recipe, tmp_path / str(update), resume=True)
        assert_same(tmp_path / str(update), reference)


def test_an_evaluation_that_is_cut_short_is_done_when_the_run_goes_on(make: Make, tmp_path: Path) -> None:
    """A signal need not wait for its end; whoever resumes begins with it, though it be cut short again."""
    recipe, out = make(model=MODELS["bert"]), tmp_path / "pieces"
    go(recipe, tmp_path / "whole")
    for update in (2, 2, 6):
        go_until_evaluated(recipe, out, update)
        state = json.loads((out / f"step-{update:07d}" / "resume" / "state.json").read_text(encoding="utf-8"))
        assert state["update"] == update and state["due"]
        said = (out / "metrics.jsonl").read_text(encoding="utf-8") if (out / "metrics.jsonl").exists() else ""
        assert [update for update in range(7) if f'"update": {update}, "dev"' in said] == list(range(2, update, 2))
    go(recipe, out, resume=True)
    assert_same(out, result(tmp_path / "whole"))


def test_two_runs_and_other_cadences_make_the_same_weights(make: Make, tmp_path: Path) -> None:
    cadences = {
        "one": ("4 updates", "2 updates", "1 updates"),
        "again": ("4 updates", "2 updates", "1 updates"),
        "often": ("1 updates", "1 updates", "3 updates"),
        "seldom": ("1h", "1h", "1h"),
    }
    for name, (log, evaluate, save) in cadences.items():
        go(make(model=MODELS["bert"], every={"log": log, "evaluate": evaluate, "save": save}), tmp_path / name)
    assert len({weights(tmp_path / name) for name in cadences}) == 1


def test_bf16_is_resumed_exactly_too(make: Make, tmp_path: Path) -> None:
    training = {"updates": 6, "precision": "bf16"}
    recipe = make(model=MODELS["bert"], training=training)
    go(recipe, tmp_path / "whole")
    go_until(recipe, tmp_path / "pieces", 3)
    go(recipe, tmp_path / "pieces", resume=True)
    assert_same(tmp_path / "pieces", result(tmp_path / "whole"))


def test_a_batch_straddles_epochs_and_the_last_is_short() -> None:
    """90 of 60 examples, 16 at a time: each once in the first epoch, thirty of them in the second."""
    batches = [examples_of(update, 16, 60, seed=3, total=90) for update in range(6)]
    assert [len(batch) for batch in batches] == [16, 16, 16, 16, 16, 10]
    assert {epoch for epoch, _ in batches[3]} == {0, 1}
    drawn = [pair for batch in batches for pair in batch]
    assert sorted(i for epoch, i in drawn if epoch == 0) == list(range(60))
    assert len(set(drawn)) == 90


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
@pytest.mark.skipif(not can_compile("cpu"), reason="no C++ compiler")
def test_a_compiled_run_goes_on_compiled(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    """By the real compiler: bitwise as undisturbed, and but for rounding as one that is not compiled."""
    model = {"kind": "bert", "dim": 32, "layers": 1, "heads": 2, "max_length": 64, "dropout": 0, "attention_dropout": 0}
    made = {}
    for compile in ("on", "off"):
        training = {"updates": 4, "batch": 8, "micro_batch": 8, "compile": compile}
        recipe = pretraining(tokenizer_dir, store_dir, model=model, training=training)
        go(recipe, tmp_path / f"whole-{compile}")
        made[compile] = recipe
    go_until(made["on"], tmp_path / "pieces", 2)
    go(made["on"], tmp_path / "pieces", resume=True)
    assert_same(tmp_path / "pieces", result(tmp_path / "whole-on"))
    on, off = (safetensors.torch.load(weights(tmp_path / f"whole-{compile}")) for compile in ("on", "off"))
    for name, tensor in on.items():
        torch.testing.assert_close(tensor, off[name], atol=1e-4, rtol=1e-3)
    assert any(not torch.equal(tensor, off[name]) for name, tensor in on.items())  # it was compiled


class Recorder(torch.optim.Optimizer):
    """Keeps the gradients of each step and changes nothing."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__([{"params": list(learner.parameters()), "lr_peak": 1.0, "lr": 0.0}], {})
        self.gradients: list[list[Tensor | None]] = []

    def step(self, closure: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.gradients.append([None if p.grad is None else p.grad.clone() for p in self.param_groups[0]["params"]])


def gradients(learner: Any, source: Any, micro_batch: int) -> tuple[list[list[Tensor | None]], list[float]]:
    """Of two updates of eight examples, and the losses."""
    recorder = Recorder(learner)
    taken = list(updates(learner, [recorder], source, plan(2, 8, micro_batch)))
    return recorder.gradients, [update.loss for update in taken]


@pytest.mark.parametrize("micro_batch", [4, 3, 2, 1])
@pytest.mark.parametrize("kind", ["bert", "lstm", "cnn"])
@pytest.mark.parametrize("task", [False, True])
def test_the_gradient_does_not_depend_on_the_micro_batch(kind: str, micro_batch: int, task: bool) -> None:
    """Texts of several lengths, so that portions differ in targets and padding."""
    learner: Any = classify(kind, 3, class_weights={"0": 3.0}) if task else masked(kind)
    source: Any = examples(11, 3) if task else rows(11)
    if task:
        learner.prepare(source)
    whole, losses = gradients(learner, source, 8)
    parts, portioned = gradients(learner, source, micro_batch)
    assert losses == pytest.approx(portioned, abs=1e-6)
    for expected, found in zip((g for step in whole for g in step), (g for step in parts for g in step), strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


DROPPED = {"dropout": 0.3}
MAKES: dict[str, Any] = {
    **{kind: lambda kind=kind: masked(kind, **_dropped(kind), **BOTH_WAYS.get(kind, {})) for kind in KINDS},
    "transformer_xl": lambda: masked("bert", position="transformer_xl", **_dropped("bert")),
    "causal": lambda: causal("gpt", **_dropped("gpt")),
    "elmo": lambda: causal("lstm", stacks="apart", **DROPPED),
    "rdrop": lambda: classify("bert", 3, rdrop=1.0, dropout=0.3, model=_dropped("bert")),
    "spans": lambda: Spans(SpansConfig(), encoder("t5", **_dropped("t5")), VOCABULARY, LENGTH),
    "permuted": lambda: Permuted(PermutedConfig(memory=4), encoder("xlnet", **DROPPED), VOCABULARY, LENGTH),
    "replaced": lambda: replaced(more=_dropped("bert")),
    "contrastive": lambda: Contrastive(ContrastiveConfig(masked=0.1), encoder("bert", **_dropped("bert")), VOCABULARY, LENGTH),
}


def _dropped(kind: str) -> dict[str, Any]:
    return DROPPED | ({"attention_dropout": 0.3} if kind in TRANSFORMERS else {})


@pytest.mark.parametrize("name", MAKES)
def test_dropout_does_not_depend_on_the_micro_batch(name: str) -> None:
    """Of any encoder or objective, of texts that stand beside other ones and in rows of other widths."""
    learner = MAKES[name]()
    source: Any = examples(11, 3) if isinstance(learner, Classify) else rows(11)
    if name == "permuted":
        source = [row._replace(before=row.ids[:size]) for row, size in zip(source, [0, 4, 2, 3] * 3, strict=False)]
    if isinstance(learner, Classify):
        learner.prepare(source)
    whole, losses = gradients(learner, source, 8)
    parts, portioned = gradients(learner, source, 3)
    assert losses == pytest.approx(portioned, abs=1e-5)
    for expected, found in zip((g for step in whole for g in step), (g for step in parts for g in step), strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, atol=3e-6, rtol=1e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dropout, "_level", lambda rate: 0)
        assert gradients(MAKES[name](), source, 8)[1] != losses


def cost(lengths: list[int], cuts: tuple[int, ...] | list[int], fixed: int, packed: bool) -> float:
    """Of the parts between `cuts`: `fixed` for each, and its tokens with the padding or with the price of wide rows."""
    parts = [lengths[a:b] for a, b in pairwise([0, *cuts, len(lengths)])]
    return sum((sum(part) * (1 + max(part) / WIDE) if packed else len(part) * max(part)) + fixed for part in parts)


@given(
    lengths=st.lists(st.integers(1, 30) | st.integers(1, 3000), min_size=1, max_size=9).map(sorted),
    fixed=st.integers(0, 60),
    packed=st.booleans(),
)
def test_portions_are_the_cheapest_of_all(lengths: list[int], fixed: int, packed: bool) -> None:
    found = portions(lengths, len(lengths), fixed, packed)
    assert [a for a, _ in found] == [0, *(b for _, b in found[:-1])] and found[-1][1] == len(lengths)
    places = range(1, len(lengths))
    every = (cuts for count in range(len(lengths)) for cuts in combinations(places, count))
    least = min(cost(lengths, cuts, fixed, packed) for cuts in every)
    assert cost(lengths, [b for _, b in found[:-1]], fixed, packed) == pytest.approx(least)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40).map(sorted), most=st.integers(1, 9), packed=st.booleans())
def test_portions_hold_each_row_once_and_no_more_than_fit(lengths: list[int], most: int, packed: bool) -> None:
    found = portions(lengths, most, 20, packed)
    assert [i for a, b in found for i in range(a, b)] == list(range(len(lengths)))
    assert max(b - a for a, b in found) <= most


@pytest.mark.parametrize("kind", ["bert", "lstm"])
def test_long_rows_do_not_make_short_ones_wide(kind: str) -> None:
    learner = classify(kind)
    own = plan(1, 40, 40)
    short = examples(39)
    source: Any = [*short, Example((Tokens(np.full(4000, 5), None, 0),), 0)]
    (rows, width), long = [batch.inputs.ids.shape for batch in micro_batches(learner, source, own, 0)]
    assert long == (1, 4000)
    longest = max(len(example.texts[0].ids) for example in short)
    assert (rows, width) == (39, longest) if kind == "lstm" else width == longest * (WIDTH // longest)


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_the_weights_do_not_depend_on_the_micro_batch(make: Make, tmp_path: Path, micro_batch: int) -> None:
    """With dropout; eps well above the rounding of gradients, which Adam would otherwise blow up where they are zero."""
    model = MODELS["bert"] | {"dropout": 0.1, "attention_dropout": 0.1}
    task = {"task": {"dropout": 0.1}} if make().model_dump().get("task") else {}
    found = []
    for size in (8, micro_batch):
        training = {"updates": 6, "batch": 8, "micro_batch": size}
        go(make(model=model, training=training, optimizer=ADAMW | {"eps": 1e-3}, **task), tmp_path / str(size))
        found.append(safetensors.torch.load(weights(tmp_path / str(size))))
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, atol=1e-6, rtol=0)


def test_a_budget_becomes_a_plan_that_is_kept(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    """Stopped after its length is settled, or begun again with the plan of before, a run by the clock is the same run."""
    go(pretraining(tokenizer_dir, store_dir, training={"updates": 1}), tmp_path / "warm")  # what torch imports late takes seconds
    recipe = pretraining(tokenizer_dir, store_dir, training={"updates": None, "budget": "2s"})
    go_until(recipe, tmp_path / "first", 1)
    first = Plan.model_validate_json((tmp_path / "first" / "plan.json").read_bytes())
    assert first.clock and not first.clock.settled and first.clock.at > 1
    go_until(recipe, tmp_path / "first", first.clock.at + 1)
    planned = Plan.model_validate_json((tmp_path / "first" / "plan.json").read_bytes())
    assert planned.clock == first.clock.model_copy(update={"settled": True})
    (tmp_path / "again").mkdir()
    for name in ("recipe.yaml", "manifest.json", "plan.json"):
        shutil.copy(tmp_path / "first" / name, tmp_path / "again")
    for name in ("first", "again"):
        assert go(recipe, tmp_path / name, resume=True)["updates"] == planned.updates > planned.clock.at
        assert Plan.model_validate_json((tmp_path / name / "plan.json").read_bytes()) == planned
    assert weights(tmp_path / "first") == weights(tmp_path / "again")


def test_a_compiled_run_goes_on_without_a_compiler(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it is told to: what it has learnt is not lost with the compiler."""
    recipe = finetuning(tokenizer_dir, labelled, training={"epochs": 1.5, "compile": "auto"})
    go_until(recipe, tmp_path, 2)
    known = json.loads((tmp_path / "plan.json").read_bytes())
    (tmp_path / "plan.json").write_text(json.dumps({**known, "compile": True}), encoding="utf-8")
    monkeypatch.setattr("encoderkit.training.machine.can_compile", lambda device: False)
    with pytest.raises(UsageError, match=r"no C.. compiler was found") as raised:
        go(recipe, tmp_path, resume=True)
    assert "training.compile=off" in str(raised.value.fix)
    off = finetuning(tokenizer_dir, labelled, training={"epochs": 1.5, "compile": "off"})
    assert go(off, tmp_path, resume=True)["updates"] == 6


def test_patience_counts_the_evaluations_that_it_began_with(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:
    recipe = finetuning(tokenizer_dir, labelled, training={"epochs": 1.5, "patience": 3})
    go_until(recipe, tmp_path, 2)
    other = recipe.model_copy(update={"every": recipe.every.model_copy(update={"evaluate": "5 updates"})})
    with pytest.raises(UsageError, match=r"every\.evaluate"):
        go(other, tmp_path, resume=True)
    assert go(recipe, tmp_path, resume=True)["updates"] == 6


def test_a_run_from_before_a_key_was_there_goes_on(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    """What its recipe does not name is what the key stands at by itself, and not another recipe."""
    recipe = finetuning(tokenizer_dir, labelled)
    go_until(recipe, tmp_path, 2)
    known = tmp_path / "recipe.yaml"
    lines = known.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith(("rdrop:", "attention:", "sampling:"))]
    assert len(lines) - len(kept) == 3
    known.write_text("".join(kept), encoding="utf-8")
    assert go(recipe, tmp_path, resume=True)["updates"] == 6
    known.write_text("".join(kept).replace("patience:", "patienc:").replace("epochs: 1.5", "epochs: 2"), encoding="utf-8")
    with pytest.raises(UsageError, match="another recipe; different: training"):
        go(recipe, tmp_path, resume=True)
