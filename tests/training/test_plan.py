"""Whether compiling is worth it, decided by what it costs and brings; here the clock is a list."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from encoderkit.errors import UsageError
from encoderkit.training import machine
from encoderkit.training import plan as planning
from encoderkit.training.config import AdamWConfig, ScheduleConfig, TrainingConfig
from encoderkit.training.machine import check_precision
from encoderkit.training.plan import Trial, draft, settle
from tests.training.runs import masked, plan, rows

OPTIMIZER = AdamWConfig(lr=1e-3)


def settled(monkeypatch: pytest.MonkeyPatch, seconds: list[float], updates: int, compiler: bool = True) -> tuple[bool, Any]:
    """Whether a run of so many updates was compiled, where an update takes `seconds`: first as it is, then compiled."""
    monkeypatch.setattr(Trial, "speed", lambda *_: seconds.pop(0))
    monkeypatch.setattr(planning, "can_compile", lambda device: compiler)
    learner, training = masked("bert"), TrainingConfig(updates=updates, micro_batch=8)
    monkeypatch.setattr(learner, "compile", lambda: setattr(learner, "_compiled_call_impl", learner.forward))
    own = plan(updates, 8)
    made = settle(own, training, learner, OPTIMIZER, rows(8), 0, compilable=True)
    assert made.compile == (learner._compiled_call_impl is not None)
    assert made == own.model_copy(update={"compile": made.compile})
    return made.compile, learner


def test_a_small_set_is_passed_more_often() -> None:
    def updates(examples: int, **length: Any) -> int:
        training = TrainingConfig(batch=8, **length)
        return draft(training, ScheduleConfig(), OPTIMIZER, 1, 16, examples).updates

    assert updates(400, epochs=3, least=100) == 150  # enough already
    assert updates(40, epochs=3, least=100) == 100 and updates(40, epochs=3) == 15
    with pytest.raises(ValueError, match="least goes with"):
        TrainingConfig(updates=10, least=5)


def test_a_short_run_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not settled(monkeypatch, [1.0], 299)[0]


def test_a_long_run_is_compiled_where_that_is_faster(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert settled(monkeypatch, [1.0, 0.5], 301)[0]
    assert "0.50 s an update compiled, 1.00 s not: compiled" in capsys.readouterr().err
    assert not settled(monkeypatch, [1.0, 0.99], 10_000)[0]
    assert "0.99 s an update compiled, 1.00 s not: not compiled" in capsys.readouterr().err


def test_without_a_compiler_a_long_run_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert not settled(monkeypatch, [1.0], 301, compiler=False)[0]
    assert "not compiled: there is no C++ compiler" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no C\\+\\+ compiler was found"):
        settle(plan(5, 8, compile=True), TrainingConfig(updates=5), masked("bert"), OPTIMIZER, rows(8), 0, compilable=True)


def test_a_compiler_that_fails_is_done_without(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def fails(*_: object) -> float:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("g++: fatal error\nand much more")
        return 1.0

    monkeypatch.setattr(Trial, "speed", fails)
    monkeypatch.setattr(planning, "_compile", lambda learner: None)
    monkeypatch.setattr(planning, "can_compile", lambda device: True)
    made = settle(
        plan(400, 8), TrainingConfig(updates=400, micro_batch=8), masked("bert"), OPTIMIZER, rows(8), 0, compilable=True
    )
    assert not made.compile
    assert "not compiled, as that failed: g++: fatal error\n" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "measured", "told"), [(1.0, 3, True), (0.05, 10, False), (0.001, 20, False)])
def test_a_budget_is_planned_from_what_it_has_time_to_measure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: float, measured: int, told: bool
) -> None:
    counts = []
    monkeypatch.setattr(Trial, "speed", lambda self, plan, count: counts.append(count) or seconds)
    made = settle(plan(0, 8), TrainingConfig(budget=10), masked("bert"), OPTIMIZER, rows(8), 0, compilable=True)
    assert counts[-1] == measured and made.updates == pytest.approx(10 / seconds, rel=0.01, abs=1)
    talk = capsys.readouterr().err
    assert f"{seconds:.2g} s an update, by {measured} of them" in talk and ("warning: a budget of 10 s" in talk) == told


def test_an_lstm_in_bf16_where_the_processor_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "has_bf16", lambda: False)
    check_precision(masked("lstm"), "fp32", "cpu")
    check_precision(masked("gru"), "bf16", "cpu")
    with pytest.raises(UsageError, match="torch has no LSTM in bf16 for this processor"):
        check_precision(masked("lstm"), "bf16", "cpu")


def test_measuring_the_speed_changes_nothing() -> None:
    learner = masked("bert")
    before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
    assert Trial(learner, OPTIMIZER, rows(20)).speed(plan(5, 8), 2) > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())


@pytest.mark.parametrize(
    ("seconds", "best"), [({2: 9, 4: 9, 8: 9, 16: 9}, 8), ({8: 9, 16: 8}, 16), ({2: 9, 4: 6, 8: 9, 16: 10}, 4)]
)
def test_the_micro_batch_is_the_fastest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seconds: dict[int, float], best: int
) -> None:
    """From eight rows twice as many or half as many, as long as it gets faster."""
    monkeypatch.setattr(Trial, "speed", lambda self, plan, count: seconds[plan.micro_batch])
    training = TrainingConfig(updates=1000, compile="off")
    made = settle(plan(1000, 16, 8), training, masked("bert"), OPTIMIZER, rows(8), 0, compilable=True)
    assert made.micro_batch == best
    assert ("rows at once are faster than 8" in capsys.readouterr().err) == (best != 8)


def test_bf16_is_for_machines_that_are_faster_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for share, expected in ((0.5, "bf16"), (0.9, "fp32"), (30.0, "fp32")):
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
