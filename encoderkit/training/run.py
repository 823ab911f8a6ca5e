"""A run: the loop with its log, evaluations, checkpoints, early stop and signals, for objectives and tasks alike."""

import json
import math
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from torch import nn

from encoderkit import files, world
from encoderkit.console import progress, say
from encoderkit.errors import DivergedError, ExitCode, Interrupted
from encoderkit.learner import Learner
from encoderkit.training.average import averaged
from encoderkit.training.checkpoint import Description, State, save
from encoderkit.training.config import EveryConfig
from encoderkit.training.distributed import any_of
from encoderkit.training.evaluate import Halted, evaluate
from encoderkit.training.loop import Plan, Source, Update
from encoderkit.training.plan import steps
from encoderkit.training.schedule import updates_in
from encoderkit.units import interval


class Goal(NamedTuple):
    """What the best checkpoint is, and when to stop looking for a better one."""

    metric: str
    direction: str
    patience: int | None
    least: int = 0
    """Updates before which nothing is too late: at its beginning a model may say the same of every row for long."""

    def better(self, value: float, than: float | None) -> bool:
        """Whether `value` is better than the best so far."""
        return than is None or (value < than if self.direction == "min" else value > than)

    def tired(self, state: State) -> bool:
        """Whether it has been looked for long enough."""
        return self.patience is not None and state.stale >= self.patience and state.update >= self.least


class Due:
    """Whether an interval has passed; a clock, that of the first process, decides only about looking, never about training."""

    def __init__(self, every: str, epoch: float, start: int) -> None:
        """`epoch`: updates in one pass over the data."""
        self._text, self._every, self._epoch = every, interval(every), epoch
        self._last, self._time = start, time.monotonic()

    def __call__(self, update: int) -> bool:
        """Whether it is time, at the end of `update`."""
        if self._every.unit == "seconds":
            due = world.first() and time.monotonic() - self._time >= self._every.size
        else:
            step = updates_in(self._text, self._epoch)
            due = int(update / step) > int(self._last / step)
        if due:
            self._time = time.monotonic()
        self._last = update
        return due


def endings() -> list[signal.Signals]:
    """The signals that end a run, which goes on another time: of schedulers (TERM, USR1), and of a terminal that is gone (HUP).

    One that is to be of no account (`nohup`) stays so.
    """
    every = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    return [number for number in every if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def handled(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Have `handler` called for these signals in the block."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


@contextmanager
def stopping() -> Iterator[list[signal.Signals]]:
    """Collect SIGINT and its like instead of dying of them; a second SIGINT leaves at once (a save is whole or not there)."""
    received: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and signal.SIGINT in received:
            os._exit(ExitCode.INTERRUPTED)
        if not received and world.first():
            with suppress(OSError):  # not by print, in the middle of which the signal may have come
                os.write(2, _STOPPING + (_AGAIN if number == signal.SIGINT else b"\n"))
        received.append(signal.Signals(number))

    with handled([signal.SIGINT, *endings()], note):
        try:
            yield received
        except Exception as error:
            if not received or not _COMPILING & {kind.__name__ for kind in type(error).__mro__}:
                raise
            # The signal went to the whole group of processes, and so to the compiler.
            raise Interrupted(f"stopped by {received[0].name}; what was saved is intact", exit_code=_code(received[0])) from None


_COMPILING = {"BackendCompilerFailed", "InductorError"}
"""What torch raises where the compiler that it has called fails."""


def _code(number: signal.Signals) -> ExitCode:
    return ExitCode.INTERRUPTED if number == signal.SIGINT else ExitCode.PREEMPTED


_STOPPING, _AGAIN = b"\nstopping: what was trained is saved first", b" (Ctrl-C again leaves at once, without)\n"


def train(
    learner: Learner,
    optimizers: Sequence[torch.optim.Optimizer],
    source: Source,
    dev: Source | None,
    plan: Plan,
    every: EveryConfig,
    goal: Goal,
    out: Path,
    description: Description,
    state: State,
) -> tuple[State, Plan]:
    """Train to the end of the plan, an early stop or a signal; leaves the best and the last checkpoint in `out`.

    The plan too: its micro-batch is smaller once memory has run out, and a budget of time is settled on the way. Raises
    `Interrupted` after a signal, once all is saved.
    """
    assert isinstance(learner, nn.Module)
    begun, cadences = state, (every.log, every.evaluate, every.save)
    logs, evaluations, saves = (Due(e, len(source) / plan.batch, state.update) for e in cadences)
    with stopping() as signals, progress("training", plan.updates, "updates", state.update) as bar:
        # Clocks and signals differ between processes: what is due in one is done by all.
        def halted() -> bool:
            return any_of([bool(signals)])[0]

        def closed(look: bool, keep: bool) -> bool:
            """Evaluate and save what is due after an update; whether it was the last one."""
            nonlocal state
            ended, best = state.update == plan.updates, state.best_update
            if look and dev is not None:
                with averaged(optimizers):
                    state = _look(learner, dev, plan, goal, out, state, halted)
            tired = goal.tired(state) and not state.due
            saved = keep or ended or tired or state.best_update != best or halted()
            if saved:
                save(out, learner, optimizers, state, description)
            if tired and not ended:
                say(f"stopped early at update {state.update}: no better {goal.metric} in {state.stale} evaluations")
            # A signal that came too late for this save waits for the next update.
            elif saved and (state.due or not ended) and halted():
                raise _interrupted(signals, state, plan)
            return tired or ended

        done = state.due and closed(look=True, keep=True)
        for update, seconds, now in steps(learner, optimizers, source, plan, state.update, state.seconds) if not done else ():
            state = _counted(state, update, seconds)
            if now != plan:
                plan, bar.total = _kept(now, out), now.updates
            ended = update.number == plan.updates
            log, look, keep = any_of([logs(update.number), evaluations(update.number), saves(update.number)])
            look = look or (goal.patience is not None and update.number == goal.least)  # for what follows may be in vain
            if log or ended:
                state = _log(out, update, state)
            bar.advance(note=f"loss {update.loss:.3f}  lr {update.lr:.1e}  {state.speed_since(begun):,.0f} tokens/s")
            if closed(look or ended, keep):
                break
        late = halted()
    if late:  # in the last update or after it: it is for what follows, the next of several runs or the test
        os.kill(os.getpid(), signals[0] if signals else signal.SIGTERM)
    return state, plan


def _kept(plan: Plan, out: Path) -> Plan:
    if world.first():
        files.replace(out / "plan.json", plan.model_dump_json(indent=1))
    return plan


def _counted(state: State, update: Update, seconds: float) -> State:
    return state.model_copy(
        update={
            "update": update.number,
            "tokens": state.tokens + update.tokens,
            "seconds": state.seconds + seconds,
            "unlogged": state.unlogged + 1,
            "unlogged_loss": state.unlogged_loss + update.loss,
        }
    )


def _log(out: Path, last: Update, state: State) -> State:
    """A line of the log, by the first process; the state in which nothing is unlogged."""
    entry = {
        "update": last.number,
        "loss": state.unlogged_loss / state.unlogged,
        **({} if len(last.losses) == 1 else {"losses": last.losses}),
        "lr": last.lr,
        "grad_norm": last.norm,
        "tokens": state.tokens,
        "tokens_per_second": round(state.speed),
        "seconds": round(state.seconds, 3),
    }
    if world.first():
        files.append(out / "metrics.jsonl", json.dumps(entry))
    return state.model_copy(update={"unlogged": 0, "unlogged_loss": 0.0})


def _look(learner: Learner, dev: Source, plan: Plan, goal: Goal, out: Path, state: State, halted: Callable[[], bool]) -> State:
    """Evaluate, and say so; the new state, in which this is still due where a signal cut it short."""
    try:
        metrics = evaluate(learner, dev, plan.micro_batch, plan.device, plan.precision, tune=True, halted=halted)
    except Halted:
        return state.model_copy(update={"due": True})
    if unusable := [name for name, value in metrics.items() if not math.isfinite(value)]:
        raise DivergedError(
            f"update {state.update}: {unusable[0]} of the held-out data is {metrics[unusable[0]]:g}; "
            "what was saved before is intact",
        )
    if world.first():
        files.append(out / "metrics.jsonl", json.dumps({"update": state.update, "dev": metrics}))
    better = goal.better(metrics[goal.metric], state.best_value)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    say(f"update {state.update}: dev {shown}{' (best so far)' if better else ''}")
    best = {"best_update": state.update, "best_value": metrics[goal.metric]} if better else {}
    return state.model_copy(update={**best, "stale": 0 if better else state.stale + 1, "due": False})


def _interrupted(received: list[signal.Signals], state: State, plan: Plan) -> Interrupted:
    first = received[0] if received else signal.SIGTERM  # heard by another process
    message = f"stopped by {first.name} after update {state.update} of {plan.updates}; all is saved"
    return Interrupted(message, exit_code=_code(first))


def rewind_log(out: Path, state: State) -> None:
    """Take out of metrics.jsonl what came after `state`, which will be done again, and a line that was half written."""
    path = out / "metrics.jsonl"
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            entry = json.loads(line)
            if entry["update"] + (state.due and "dev" in entry) <= state.update:
                kept.append(line + "\n")
        except (ValueError, TypeError, KeyError):
            continue
    files.replace(path, "".join(kept))
