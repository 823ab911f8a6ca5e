"""Whether compiling is worth it, decided by what it costs and brings; here the clock is a list."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from encoderkit.config import validate
from encoderkit.errors import UsageError
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages.session import looks
from encoderkit.training import machine
from encoderkit.training import plan as planning
from encoderkit.training.average import Last
from encoderkit.training.config import AdamWConfig, ScheduleConfig, TrainingConfig
from encoderkit.training.machine import check_precision
from encoderkit.training.optim import build_optimizers
from encoderkit.training.plan import Looks, Portion, Step, Trial, draft, fitting, settle, steps
from tests.training.runs import masked, plan, rows

OPTIMIZER = AdamWConfig(lr=1e-3)


def settled(monkeypatch: pytest.MonkeyPatch, seconds: list[float], updates: int, compiler: bool = True) -> tuple[bool, Any]:
    """Whether a run of so many updates was compiled, where an update takes `seconds`: first as it is, then compiled."""
    monkeypatch.setattr(Trial, "portion", lambda *_: Portion(seconds.pop(0) / 8, 1))
    monkeypatch.setattr(planning, "can_compile", lambda device: compiler)
    learner, training = masked("bert"), TrainingConfig(updates=updates, micro_batch=8, attention="products")
    monkeypatch.setattr(learner, "compile", lambda: setattr(learner, "_compiled_call_impl", learner.forward))
    own = plan(updates, 8)
    made = settle(own, training, learner, rows(8), Looks(0), compilable=True)
    assert made.compile == (learner._compiled_call_impl is not None)
    assert made == own.model_copy(update={"compile": made.compile})
    return made.compile, learner


def test_a_small_set_is_passed_more_often(capsys: pytest.CaptureFixture[str]) -> None:
    def updates(examples: int, **length: Any) -> int:
        training = TrainingConfig(batch=8, **length)
        return draft(training, ScheduleConfig(), OPTIMIZER, 1, 16, examples).updates

    assert updates(400, epochs=3, least=100) == 150  # enough already
    assert capsys.readouterr().err == ""
    assert updates(40, epochs=3, least=100) == 100 and updates(40, epochs=3) == 15
    assert "100 updates are 20.0 passes over the data, not 3; --set training.least=null" in capsys.readouterr().err
    with pytest.raises(ValueError, match="least goes with"):
        TrainingConfig(updates=10, least=5)


def test_tokens_are_counted_as_rows_have_them() -> None:
    training = TrainingConfig(batch=8, tokens=6400)
    made = [draft(training, ScheduleConfig(), OPTIMIZER, 1, 16, 400, size).updates for size in (None, 4.0)]
    assert made == [50, 200]


@pytest.mark.parametrize(("every", "of"), [("1 epoch", 20), ("50 updates", 50)])
def test_evaluations_have_their_part_of_a_budget(every: str, of: int) -> None:
    """400 rows in batches of 20; 100 held out, which cost as much as 2 updates."""
    recipe = validate(
        FinetuneRecipe,
        {
            "checkpoint": "c",
            "data": {"train": "t", "dev": "d"},
            "every": {"evaluate": every},
            "training": {"budget": 1000, "batch": 20},
        },
        "r",
    )
    each = looks(recipe, 100, 400)
    updates = fitting(1000, 1.0, each, plan(1, 20))
    assert each.total(of) == 200 and updates + 0.4 * each.total(updates) / 20 == pytest.approx(1000, abs=1.1)


def test_a_short_run_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not settled(monkeypatch, [1.0], 299)[0]


def test_a_long_run_is_compiled_where_that_is_faster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert settled(monkeypatch, [1.0, 0.5], 301)[0]
    assert "0.5 s an update compiled, 1 s not: compiled" in capsys.readouterr().err
    assert not settled(monkeypatch, [1.0, 0.99], 10_000)[0]
    assert "0.99 s an update compiled, 1 s not: not compiled" in capsys.readouterr().err


def test_without_a_compiler_a_long_run_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not settled(monkeypatch, [1.0], 301, compiler=False)[0]
    assert "not compiled: there is no C++ compiler" in capsys.readouterr().err
    monkeypatch.setattr("encoderkit.training.machine.can_compile", lambda device: False)
    with pytest.raises(UsageError, match="no C\\+\\+ compiler was found"):
        settle(plan(5, 8, compile=True), TrainingConfig(updates=5), masked("bert"), rows(8), Looks(0), compilable=True)


def test_a_compiler_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def fails(*_: object) -> Portion:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("g++: fatal error\nand much more")
        return Portion(1.0, 1)

    monkeypatch.setattr(Trial, "portion", fails)
    monkeypatch.setattr(planning, "_compile", lambda learner: None)
    monkeypatch.setattr(planning, "can_compile", lambda device: True)
    made = settle(
        plan(400, 8),
        TrainingConfig(updates=400, micro_batch=8, attention="products"),
        masked("bert"),
        rows(8),
        0,
        compilable=True,
    )
    assert not made.compile
    assert "not compiled, as that failed: g++: fatal error\n" in capsys.readouterr().err


def by_the_clock(monkeypatch: pytest.MonkeyPatch, budget: float, guess: float, real: float, average: Any = None) -> list[Step]:
    """The steps of a run whose updates are estimated to take `guess` seconds and take `real`; here the clock is a number."""
    now = [0.0]
    monkeypatch.setattr(planning.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(Trial, "portion", lambda *_: Portion(guess / 8, 1))
    learner, source = masked("bert"), rows(8)
    made = settle(plan(0, 8), TrainingConfig(budget=budget), learner, source, Looks(0), compilable=True)
    assert made.updates == max(1, int(budget / guess)) and made.clock and not made.clock.settled
    real_updates = planning.updates

    def timed(*given: Any) -> Any:
        for update in real_updates(*given):
            now[0] += real * (3 if update.number == 1 else 1)  # the first takes longer
            yield update

    monkeypatch.setattr(planning, "updates", timed)
    optimizers = [*build_optimizers(learner, OPTIMIZER, torch.float32), *([average(learner, 3, 2.0)] if average else [])]
    return list(steps(learner, optimizers, source, made, 0, 0.0))


@pytest.mark.parametrize(("guess", "real"), [(0.125, 0.25), (0.25, 0.125), (0.25, 0.25)])
def test_a_budget_is_settled_by_the_first_updates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], guess: float, real: float
) -> None:
    """Seven, or a twentieth of the estimate, by all of them but the first; then the run ends with the time."""
    done = by_the_clock(monkeypatch, 20, guess, real)
    at = max(7, int(0.05 * int(20 / guess)))
    assert [step.plan.clock and step.plan.clock.settled for step in done] == [False] * (at - 1) + [True] * (len(done) - at + 1)
    assert done[-1].update.number == len(done) == done[-1].plan.updates == int(20 / real) - 2
    assert f"{real:.2g} s an update, by {at - 1} of them: {len(done)} updates fit" in capsys.readouterr().err
    rates = [step.plan.length(step.update.number - 1) for step in done]
    assert rates == [int(20 / guess)] * at + [len(done)] * (len(done) - at)


def test_averages_are_of_the_end_as_it_is_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places of copies count from the end; before that is known there are none, which others would not replace."""
    noted: list[tuple[int, int]] = []

    class Noted(Last):
        def note(self, p: torch.Tensor, state: dict[str, torch.Tensor], update: int, end: int) -> None:
            before = len(state)
            super().note(p, state, update, end)
            noted.append((update, end if end else len(state) - before))

    done = by_the_clock(monkeypatch, 20, 0.25, 0.25, Noted)
    at = next(step.update.number for step in done if step.plan.clock and step.plan.clock.settled)
    assert {end for update, end in noted if update <= at} == {0} and {end for update, end in noted if update > at} == {len(done)}


def test_a_short_budget_is_settled_by_few_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(by_the_clock(monkeypatch, 10, 1.0, 1.0)) == 8
    assert "by 2 of them: 8 updates fit into the budget\nwarning: so few say little" in capsys.readouterr().err
    assert len(by_the_clock(monkeypatch, 1, 2.0, 2.0)) == 1


def test_an_lstm_in_bf16_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_bf16", lambda: False)
    check_precision(masked("lstm"), "fp32", "cpu")
    check_precision(masked("gru"), "bf16", "cpu")
    with pytest.raises(UsageError, match="torch has no LSTM in bf16 for this processor"):
        check_precision(masked("lstm"), "bf16", "cpu")


def test_measuring_the_speed_changes_nothing() -> None:
    learner = masked("bert")
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    assert Trial(learner, rows(20)).speed(plan(5, 8), OPTIMIZER, 2) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())


def test_a_portion_is_what_it_costs_and_leaves_nothing() -> None:
    """As long as the passes alone of an update; weights and gradients are as before."""
    learner, source = masked("bert"), rows(20)
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    found = Trial(learner, source).portion(plan(5, 8, 4))
    assert found and found.tokens == pytest.approx(sum(len(row.ids) for row in source) / 20, rel=0.2)
    assert 0 < found.update(plan(5, 8, 4)) == found.seconds * found.tokens * 8 < 10
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())


@pytest.mark.parametrize(("first", "seconds", "passes"), [(3.0, 1.0, 2), (12.0, 12.0, 1), (0.1, 0.1, 4)])
def test_what_is_done_for_the_first_time_does_not_count(
    first: float, seconds: float, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless a pass takes so long that it hardly shows."""
    clock, took = [0.0], iter([first, *[min(first, 1.0)] * 9])

    def compute(*_: Any) -> dict[str, float]:
        clock[0] += next(took)
        return {}

    monkeypatch.setattr(planning, "accumulate_gradients", compute)
    monkeypatch.setattr(planning.time, "monotonic", lambda: clock[0])
    found = Trial(masked("bert"), rows(20)).portion(plan(5, 8, 4))
    assert found and found.seconds * found.tokens * 4 == pytest.approx(seconds, rel=0.2)
    assert len([*took]) == 10 - passes


def test_what_does_not_fit_is_halved_before_the_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    learner = masked("bert")
    forward = learner.forward

    def small(inputs: Any, targets: Any) -> Any:
        if len(inputs.ids) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return forward(inputs, targets)

    monkeypatch.setattr(learner, "forward", small)
    made = settle(plan(1000, 16, 16), TrainingConfig(updates=1000, compile="off"), learner, rows(32), Looks(0), compilable=True)
    assert made.micro_batch == 2 and "memory ran out with a micro-batch of 4 rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "best"), [({2: 9, 4: 9, 8: 9, 16: 9}, 8), ({8: 9, 16: 8}, 16), ({2: 9, 4: 6, 8: 9, 16: 10}, 4), ({4: 9, 8: 9}, 8)]
)
def test_the_micro_batch_is_the_fastest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: dict[int, float], best: int
) -> None:
    """From eight rows twice as many or half as many, as long as it gets faster; None: memory ran out."""
    costs = {size: Portion(second / 1000, 1) for size, second in seconds.items()}
    monkeypatch.setattr(Trial, "portion", lambda self, plan: costs.get(plan.micro_batch))
    training = TrainingConfig(updates=10_000, compile="off", attention="products")
    made = settle(plan(10_000, 16, 8), training, masked("bert"), rows(8), Looks(0), compilable=True)
    assert made.micro_batch == best
    assert ("rows at once are faster than 8" in capsys.readouterr().err) == (best != 8)


@pytest.mark.parametrize(
    ("length", "wanted", "dropout"), [(1000, "auto", 0.0), (1000, "products", 0.0), (10, "auto", 0.0), (1000, "auto", 0.1)]
)
def test_attention_is_measured_for_long_runs_that_leave_it_open(
    monkeypatch: pytest.MonkeyPatch, length: int, wanted: Any, dropout: float
) -> None:
    """On a CPU, and where the usual kernel could be used at all; with the shape that the run's batches have."""
    asked = []
    monkeypatch.setattr(planning, "fastest", lambda *given: asked.append(given) or "products")
    used: list[str] = []
    monkeypatch.setattr(planning, "train_by", used.append)
    monkeypatch.setattr(Trial, "portion", lambda *_: Portion(0.1, 1))
    learner, training = masked("bert", attention_dropout=dropout), TrainingConfig(updates=length, micro_batch=8, attention=wanted)
    began = plan(length, 8, attention="products" if wanted == "products" else "fused")
    made = settle(began, training, learner, rows(8), Looks(0), compilable=False)
    measured = wanted == "auto" and length == 1000 and not dropout
    assert asked == ([("fused", 8, 16, 2, 16, torch.float32, "cpu")] if measured else [])
    assert made.attention == used[-1] == ("products" if measured or wanted == "products" else "fused")


def test_a_long_budget_is_settled_with_everything_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before there is a length: nothing stands in for what is measured but the compiler, which is not there."""
    monkeypatch.setattr(planning, "can_compile", lambda device: False)
    began = plan(0, 16, 4)
    assert began.examples == 0
    made = settle(began, TrainingConfig(budget=600), masked("bert"), rows(40), Looks(100), compilable=True)
    assert made.clock and made.updates == made.clock.updates > made.clock.at > 2 and made.examples == 16 * made.updates
    assert made.attention in ("fused", "products") and 1 <= made.micro_batch <= 16


def test_nothing_is_tried_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen rows would take two seconds twice, eight rows one and four half of one."""
    tried = []
    monkeypatch.setattr(Trial, "portion", lambda self, plan: tried.append(plan.micro_batch) or Portion(0.125, 1))
    training = TrainingConfig(updates=1000, compile="off", attention="products")
    settle(plan(1000, 16, 8), training, masked("bert"), rows(8), Looks(0), compilable=True)
    assert tried == [8, 4]


def test_bf16_is_for_machines_that_are_faster_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for share, expected in ((0.4, "bf16"), (0.6, "fp32"), (30.0, "fp32")):
        times = {torch.bfloat16: share, torch.float32: 1.0}
        monkeypatch.setattr(machine, "_product_seconds", times.__getitem__)
        assert machine.choose_precision("auto", "cpu") == expected
        assert machine.choose_precision("bf16", "cpu") == "bf16"


def test_it_is_not_chosen_without_instructions_for_it() -> None:
    """Measured, with oneDNN held back."""
    code = "from encoderkit.training.machine import choose_precision; print(choose_precision('auto', 'cpu'))"
    held_back = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run([sys.executable, "-c", code], env=held_back, capture_output=True, text=True, check=True)
    assert done.stdout == "fp32\n"
