"""Being asked to stop, being alone in a directory, and numbers that are no longer numbers."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from encoderkit import files
from tests.reliability.conftest import Reference
from tests.reliability.small import Server, assert_same, assert_whole, fresh, result, steps

CODES = {signal.SIGINT: 130, signal.SIGTERM: 75}
OTHERS = {**CODES, signal.SIGHUP: 75, signal.SIGUSR1: 75}


@pytest.mark.parametrize("sent", CODES)
@pytest.mark.parametrize("moment", ["training", "evaluating", "saving", "publishing"])
def test_a_signal_saves_and_says_how_to_continue(server: Server, reference: Reference, sent: signal.Signals, moment: str) -> None:
    run = fresh(server.folder / f"signal-{reference.stage}-{moment}-{sent.name}")
    fault = {
        "training": {"signal": [reference.number("append", "metrics.jsonl"), sent]},
        "evaluating": {"evaluation": [1, sent]},
        "saving": {"signal": [reference.number("write", "model.safetensors", 2), sent]},
        "publishing": {"signal": [reference.number("rename", "last"), sent]},
    }[moment]
    ended = server.train(reference.stage, run.name, **fault)
    assert ended.code == CODES[sent], ended
    assert "to continue:" in ended.err and "--resume" in ended.err and ended.out == ""
    assert_whole(run)
    assert steps(run)
    assert server.train(reference.stage, run.name).code == 0
    assert_same(run, reference.result)


@pytest.mark.parametrize("sent", OTHERS)
def test_a_signal_saves_where_nothing_was_due(server: Server, reference: Reference, sent: signal.Signals) -> None:
    run = fresh(server.folder / f"unexpected-{reference.stage}-{sent.name}")
    seldom = ("--set", "every.save=1h", "--set", "every.evaluate=1h")
    first = reference.number("mkdir", reference.out.name, 2)  # after the beginning of the run: here the log of update 2
    ended = server.train(reference.stage, run.name, *seldom, signal=[first, sent])
    assert ended.code == OTHERS[sent] and f"by {sent.name} after update 2 of 3" in ended.err, ended
    assert ended.err.count("stopping: what was trained is saved first") == 1
    assert [step.name for step in steps(run)] == ["step-0000002"]
    assert server.train(reference.stage, run.name, *seldom).code == 0
    assert result(run)["model.safetensors"] == reference.result["model.safetensors"]


@pytest.mark.parametrize("sent", OTHERS)
def test_a_signal_before_the_first_update(server: Server, reference: Reference, sent: signal.Signals) -> None:
    run = fresh(server.folder / f"early-{reference.stage}-{sent.name}")
    ended = server.train(reference.stage, run.name, signal=[reference.number("write", "lock") + 1, sent])
    assert ended.code == OTHERS[sent] and "Traceback" not in ended.err, ended
    assert server.train(reference.stage, run.name).code == 0
    assert_same(run, reference.result)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_second_interrupt_leaves_at_once_without_harm(server: Server, reference: Reference, nth: int) -> None:
    run = fresh(server.folder / f"impatient-{reference.stage}")
    number = reference.number("write", "optimizer.safetensors", nth)
    ended = server.train(reference.stage, run.name, signal=[number, signal.SIGINT, signal.SIGINT])
    assert ended.code == 130, ended
    assert len(steps(run)) == nth - 1
    assert_whole(run)
    assert server.train(reference.stage, run.name).code == 0
    assert_same(run, reference.result)


def test_a_directory_belongs_to_one_run_at_a_time(server: Server, reference: Reference) -> None:
    run = fresh(server.folder / f"shared-{reference.stage}")
    pid, log = server.start(
        reference.stage, f"{reference.stage}.yaml", "--out", run.name,
        signal=[reference.number("append", "metrics.jsonl"), signal.SIGSTOP],
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while ") T " not in (stat := Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")):
            assert ") Z " not in stat and time.monotonic() < until, f"it was not stopped: {stat}"
            time.sleep(0.01)
        for option in ("--resume", "--overwrite"):
            ended = server.run(reference.stage, f"{reference.stage}.yaml", "--out", run.name, option)
            assert ended.code == 2 and f"in use by process {pid}" in ended.err, ended
    finally:
        os.kill(pid, signal.SIGKILL)
    assert server.wait((pid, log)).code == -9
    assert server.train(reference.stage, run.name).code == 0
    assert_same(run, reference.result)


@pytest.mark.parametrize("every", [(), ("--set", "every.evaluate=1 updates")])
def test_a_loss_that_is_not_finite_stops_the_run(server: Server, every: tuple[str, ...]) -> None:
    """Found in the next loss or, where the run evaluates first, in the held-out loss: the state is not kept."""
    run = fresh(server.folder / "diverged")
    high = ("--set", "optimizer.lr=1e30", "--set", "optimizer.adamw_lr=1e30")
    ended = server.train("pretrain", run.name, *high, *every)
    assert ended.code == 1 and "Traceback" not in ended.err, ended
    if every:
        assert "update 1: loss of the held-out data" in ended.err and steps(run) == []
    else:
        assert "update 2: the loss is" in ended.err and "; examples " in ended.err, ended
        assert [step.name for step in steps(run)] == ["step-0000001"]
    assert_whole(run)


def test_a_finished_run_is_left_as_it_is(server: Server, reference: Reference) -> None:
    run = fresh(server.folder / f"finished-{reference.stage}")
    shutil.copytree(reference.out, run)
    before = files.sha256(run / "last"), (run / "metrics.jsonl").read_bytes()
    ended = server.train(reference.stage, run.name)
    assert ended.code == 0 and "update " not in ended.err.replace("after update", ""), ended
    assert (files.sha256(run / "last"), (run / "metrics.jsonl").read_bytes()) == before
    assert_same(run, reference.result)
