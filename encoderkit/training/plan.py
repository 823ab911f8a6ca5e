"""Settling how long a run is and in what portions, before its first update."""

import time
from itertools import islice
from typing import NamedTuple

import torch
from torch import nn

from encoderkit import world
from encoderkit.console import say, warn
from encoderkit.errors import DataError, ResourceError, UsageError, out_of_memory
from encoderkit.learner import Learner
from encoderkit.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from encoderkit.training.distributed import any_of, by_first, lost
from encoderkit.training.loop import Plan, Source, updates
from encoderkit.training.machine import DTYPES, can_compile, check_precision, choose_device, choose_precision
from encoderkit.training.optim import build_optimizers
from encoderkit.training.schedule import updates_in
from encoderkit.training.sharding import sharded

TOKENS_AT_ONCE = {"cpu": 8_192, "cuda": 65_536}
"""On two cores 2,048 to 16,384 at once were equally fast to within 5 %, and fewer take less memory."""
LONG_RUN = 300.0
"""Seconds of training in which compiling, which takes about half a minute, can be won back."""
FEW = 50
"""Updates that are not worth measuring a few beforehand."""
MEASURED, MEASURING = 20, 0.05
"""Updates that are measured to plan a budget: so many, or fewer where they would take more than this share of it."""
GAIN = 0.97
"""What is to be faster must take less than this share of the time, or the measurement may be noise."""
FORWARD = 0.4
"""The time to evaluate an example, as a share of that to train on it."""


def draft(
    training: TrainingConfig, schedule: ScheduleConfig, optimizer: OptimizerConfig, seed: int, length: int, examples: int
) -> Plan:
    """The plan of a run but for `updates`, which is 0 where only the clock can tell."""
    if examples == 0:
        raise DataError("there is nothing to train on: the training data hold no examples")
    device = choose_device(training.device)
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("training.device is cuda, but torch finds no GPU here", fix="--set training.device=cpu")
    micro = max(1, TOKENS_AT_ONCE[device] // length) if training.micro_batch == "auto" else training.micro_batch
    total = 0
    if training.epochs is not None:
        total = max(1, round(training.epochs * examples), (training.least or 0) * training.batch)
    elif training.updates is not None:
        total = training.updates * training.batch
    elif training.tokens is not None:
        total = max(1, round(training.tokens / (training.batch * length))) * training.batch
    return Plan(
        updates=-(-total // training.batch),
        examples=total,
        batch=training.batch,
        micro_batch=min(micro, training.batch),
        seed=seed,
        precision=choose_precision(training.precision, device),
        compile=training.compile == "on",
        device=device,  # pyright: ignore[reportArgumentType]
        threads=torch.get_num_threads(),
        processes=world.size(),
        schedule=schedule,
        clip=optimizer.clip,
        unfreeze=updates_in(training.unfreeze, examples / training.batch) if training.unfreeze else 0.0,
        adversarial=training.adversarial or 0.0,
    )


def settle(
    plan: Plan,
    training: TrainingConfig,
    learner: Learner,
    optimizer: OptimizerConfig,
    source: Source,
    looks: int,
    compilable: bool,
) -> Plan:
    """Choose the micro-batch and whether to compile, and plan the updates that fit into `training.budget`.

    `looks`: held-out examples that will be evaluated in the whole run; they take time too. `compilable`: batches have
    one shape, so that compiling once is enough. Short runs are not measured, as they would be over before.
    """
    started = time.monotonic()
    assert isinstance(learner, nn.Module)
    check_precision(learner, plan.precision, plan.device)
    if plan.compile and not can_compile(plan.device):
        raise UsageError(
            "training.compile is on, but no C++ compiler was found", fix="install g++, or --set training.compile=off"
        )
    trial = Trial(learner, optimizer, source)
    # A process that has its part of the model alone can neither fail in an attempt nor compile.
    undecided = not sharded(learner) and (training.micro_batch == "auto" or (training.compile == "auto" and compilable))
    long = plan.updates >= FEW if training.budget is None else training.budget >= LONG_RUN
    if undecided and long:
        seconds = trial.speed(plan, 3)
        length = training.budget if training.budget is not None else plan.updates * seconds
        if length >= LONG_RUN and training.micro_batch == "auto" and length >= 100 * seconds:
            plan, seconds = _with_best_micro_batch(plan, trial, seconds)
        if length >= LONG_RUN and training.compile == "auto" and compilable:
            plan = plan.model_copy(update={"compile": _worth_compiling(plan, trial, seconds, length)})
    if training.compile == "on":
        _compile(learner)
    if training.budget is None:
        return plan
    budget, measured = training.budget, 3
    seconds = trial.speed(plan, measured)
    if (more := by_first(lambda: min(MEASURED, int(MEASURING * budget / seconds)))) > measured:
        seconds, measured = trial.speed(plan, more), more
    left = training.budget - (time.monotonic() - started) - FORWARD * seconds * looks / plan.batch
    count = by_first(lambda: max(1, int(left / seconds)))
    say(f"{seconds:.2g} s an update, by {measured} of them: {count:,} updates fit into the budget")
    if measured < MEASURED / 2:
        short = f"a budget of {training.budget:g} s has time to measure {measured} updates alone"
        warn(f"{short}, so it may end early or late by a good part; training.updates says exactly how many")
    return plan.model_copy(update={"updates": count, "examples": count * plan.batch})


class Trial(NamedTuple):
    """A few real updates, whose effect is then undone, to see how long one takes."""

    learner: Learner
    optimizer: OptimizerConfig
    source: Source

    def speed(self, plan: Plan, count: int) -> float:
        """Seconds an update takes, the mean of `count` after a first one (which compiles); the learner is as before."""
        learner = self.learner
        assert isinstance(learner, nn.Module)
        before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
        endless = {"updates": 1_000_000, "examples": 1_000_000 * plan.batch, "unfreeze": 0.0}  # what it takes in the end
        times = [time.monotonic()]
        optimizers = build_optimizers(learner, self.optimizer, DTYPES[plan.precision])
        for _ in islice(updates(learner, optimizers, self.source, plan.model_copy(update=endless)), count + 1):
            times.append(time.monotonic())
        learner.load_state_dict(before)
        learner.zero_grad(set_to_none=True)
        mean = (times[-1] - times[1]) / count
        return by_first(lambda: mean)


def _with_best_micro_batch(plan: Plan, trial: Trial, seconds: float) -> tuple[Plan, float]:
    """Twice as many rows at once, or half as many, for as long as that is clearly faster; and the time of an update then."""
    first = plan.micro_batch
    for factor in (2, 0.5):
        while 1 <= (size := int(plan.micro_batch * factor)) <= plan.batch // world.size():
            other = plan.model_copy(update={"micro_batch": size})
            if (time_of_other := trial.speed(other, 2)) >= GAIN * seconds:
                break
            plan, seconds = other, time_of_other
        if plan.micro_batch != first:
            say(f"{plan.micro_batch} rows at once are faster than {first}")
            break
    return plan, seconds


def _compile(learner: Learner) -> None:
    assert isinstance(learner, nn.Module)
    say("compiling the model (about half a minute; --set training.compile=off does without)")
    learner.compile()


def _worth_compiling(plan: Plan, trial: Trial, plain: float, length: float) -> bool:
    """Whether a run of `length` seconds ends sooner compiled, compiling included; if so the learner is compiled now."""
    learner = trial.learner
    assert isinstance(learner, nn.Module)
    able = can_compile(plan.device)
    if not able:
        say("not compiled: there is no C++ compiler here (g++ would do)")
    if any_of([not able or (world.size() > 1 and not _compiles(plan.device))])[0]:  # processes compute together
        return False
    _compile(learner)
    started = time.monotonic()
    try:
        compiled = trial.speed(plan, 3)
    except RuntimeError as error:  # of the compiler, before anything has changed
        if out_of_memory(error):
            raise
        if world.size() > 1:  # the others wait for this process, or one of them is gone
            if lost(error):
                raise
            raise ResourceError(f"compiling failed: {_first_line(error)}", fix="--set training.compile=off") from None
        warn(f"not compiled, as that failed: {_first_line(error)}")
        _undo_compiling(learner)
        return False
    cost = by_first(lambda: time.monotonic() - started)
    worth = compiled < GAIN * plain and cost + length * compiled / plain < length
    say(f"{compiled:.2f} s an update compiled, {plain:.2f} s not: {'compiled' if worth else 'not compiled'}")
    if not worth:
        _undo_compiling(learner)
    return worth


def _compiles(device: str) -> bool:
    """Whether the compiler works: tried on next to nothing, where one process could not do without it alone later."""
    try:
        torch.compile(torch.relu)(torch.ones(2, device=device))
    except RuntimeError as error:
        warn(f"not compiled, as that failed: {_first_line(error)}")
        return False
    return True


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _undo_compiling(learner: nn.Module) -> None:
    learner._compiled_call_impl = None  # what torch itself looks at; there is no call for it
    learner.zero_grad(set_to_none=True)
