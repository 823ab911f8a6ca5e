"""Settling how long a run is and in what portions: before its first update, and by the clock after a few of them."""

import logging
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import torch
from torch import nn

from encoderkit import world
from encoderkit.console import say, warn
from encoderkit.errors import DataError, ResourceError, UsageError, out_of_memory
from encoderkit.learner import Learner
from encoderkit.models.attention import Attention, Kernel, fastest, train_by
from encoderkit.training.config import OptimizerConfig, ScheduleConfig, TrainingConfig
from encoderkit.training.distributed import any_of, by_first, lost
from encoderkit.training.loop import Clock, Plan, Source, Update, accumulate_gradients, halved, micro_batches, updates
from encoderkit.training.machine import DTYPES, can_compile, check_compiler, check_precision, choose_device, choose_precision
from encoderkit.training.optim import build_optimizers
from encoderkit.training.schedule import updates_in
from encoderkit.training.sharding import sharded

TOKENS_AT_ONCE = {"cpu": 8_192, "cuda": 65_536}
"""On two cores 2,048 to 16,384 at once were equally fast to within 5 %, and fewer take less memory."""
LONG_RUN = 300.0
"""Seconds of training in which compiling, which takes about half a minute, can be won back."""
FEW = 50
"""Updates that are not worth measuring a few beforehand."""
START = 2.0
"""Seconds that measuring takes at most before the first update, but for compiling, and for what one portion takes."""
SLOW = 0.5
"""Seconds that are long enough to measure: a portion that takes so long is computed once more after the first time."""
VERY_SLOW = 10.0
"""Seconds of a first portion that are taken as they are: what is done for the first time (memory, libraries) is little of it.
Of 3.5 it was half, and for such a measurement a run was compiled that is faster without."""
FEWEST, ENOUGH, MEASURING = 3, 7, 0.05
"""Updates by whose speed a budget is planned: this share of them; of short runs so many, while these are less than a seventh."""
GAIN = 0.97
"""What is to be faster must take less than this share of the time, or the measurement may be noise."""
_ENDLESS = 1_000_000
FORWARD = 0.4
"""The time to evaluate an example, as a share of that to train on it."""


class Looks(NamedTuple):
    """Held-out examples that a run evaluates."""

    fixed: int
    """However long it is."""
    each: float = 0.0
    """More for each update, on average."""

    def total(self, updates: int) -> float:
        """In a run of so many updates."""
        return self.fixed + self.each * updates


def draft(
    training: TrainingConfig,
    schedule: ScheduleConfig,
    optimizer: OptimizerConfig,
    seed: int,
    length: int,
    examples: int,
    tokens: float | None = None,
) -> Plan:
    """The plan of a run but for `updates`, which is 0 where only the clock can tell.

    `length`: the most tokens of an example; `tokens`: of one on average, if that is less.
    """
    if examples == 0:
        fix = "more text or rows, or less held out: data.dev"
        raise DataError("there is nothing to train on: the training data hold no examples", fix=fix)
    device = choose_device(training.device)
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("training.device is cuda, but torch finds no GPU here", fix="--set training.device=cpu")
    micro = max(1, TOKENS_AT_ONCE[device] // length) if training.micro_batch == "auto" else training.micro_batch
    total = 0
    if training.epochs is not None:
        total = max(1, round(training.epochs * examples))
        if (least := (training.least or 0) * training.batch) > total:
            passes = f"{least / examples:.1f} passes over the data, not {training.epochs:g}"
            say(f"training.least: {training.least:,} updates are {passes}; --set training.least=null for these")
            total = least
    elif training.updates is not None:
        total = training.updates * training.batch
    elif training.tokens is not None:
        total = max(1, round(training.tokens / (training.batch * (tokens or length)))) * training.batch
    precision = choose_precision(training.precision, device)
    usual: Kernel = "products" if precision == "bf16" and device == "cpu" else "fused"
    return Plan(
        updates=-(-total // training.batch),
        examples=total,
        batch=training.batch,
        micro_batch=min(micro, training.batch),
        seed=seed,
        precision=precision,
        compile=training.compile == "on",
        attention=usual if training.attention == "auto" else training.attention,
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
    source: Source,
    looks: Looks,
    compilable: bool,
) -> Plan:
    """Choose the kernel of attention, the micro-batch and whether to compile; estimate the updates that fit into a budget.

    `looks`: held-out examples that will be evaluated; they take time too. `compilable`: batches have
    one shape, so that compiling once is enough. Short runs are not measured, as they would be over before.
    """
    started = time.monotonic()
    assert isinstance(learner, nn.Module)
    check_precision(learner, plan.precision, plan.device)
    check_compiler(plan.compile, plan.device)
    train_by(plan.attention)
    if plan.compile:
        _compile(learner)
    # A process that has its part of the model alone can neither fail in an attempt nor compile.
    undecided = not sharded(learner) and (training.micro_batch == "auto" or (training.compile == "auto" and compilable))
    if training.budget is None and (plan.updates < FEW or not (undecided or training.attention == "auto")):
        return plan
    trial = Trial(learner, source)
    plan, portion = _with_what_fits(plan, trial)
    length = training.budget if training.budget is not None else plan.updates * portion.update(plan)
    if training.attention == "auto" and length >= LONG_RUN:
        plan, portion = _with_best_attention(plan, trial, portion)
    if undecided and length >= LONG_RUN:
        if training.micro_batch == "auto":
            plan, portion = _with_best_micro_batch(plan, trial, portion, started)
        if training.compile == "auto" and compilable:
            plan, portion = _compiled_if_worth_it(plan, trial, portion, length)
    if training.budget is None:
        return plan
    budget = training.budget
    seconds = by_first(lambda: budget - (time.monotonic() - started))
    count = max(1, fitting(seconds, portion.update(plan), looks, plan))
    say(f"about {count:,} updates fit into the budget")
    at = min(count, max(FEWEST, min(ENOUGH, count // 7), int(MEASURING * count)))
    clock = Clock(at=at, updates=count, seconds=seconds, looks=looks.fixed, looks_each=looks.each)
    return plan.model_copy(update={"updates": count, "examples": count * plan.batch, "clock": clock})


def fitting(seconds: float, pace: float, looks: Looks, plan: Plan) -> int:
    """The updates for which there is time beside the evaluations, where one takes `pace` seconds."""
    return int((seconds / pace - FORWARD * looks.fixed / plan.batch) / (1 + FORWARD * looks.each / plan.batch))


class Step(NamedTuple):
    """What `steps` yields."""

    update: Update
    seconds: float
    """That it took."""
    plan: Plan
    """As it is from then on."""


def steps(
    learner: Learner, optimizers: Sequence[torch.optim.Optimizer], source: Source, plan: Plan, start: int, spent: float
) -> Iterator[Step]:
    """`updates` from `start` on, before which `spent` seconds of training went; by the clock, their number is settled.

    A plan that is settled goes on as a run that is resumed does.
    """
    coming, took = updates(learner, optimizers, source, plan, start), []
    try:
        while True:
            before = time.monotonic()
            if (update := next(coming, None)) is None:
                return
            seconds = time.monotonic() - before
            if update.micro_batch != plan.micro_batch:  # neither an evaluation nor a resumed run is to try it again
                plan = plan.model_copy(update={"micro_batch": update.micro_batch})
            if plan.clock and not plan.clock.settled:
                took.append(seconds)
                if update.number == plan.clock.at:
                    plan = _settled(plan, plan.clock, took, spent + sum(took))
                    coming.close()
                    coming = updates(learner, optimizers, source, plan, update.number)
            yield Step(update, seconds, plan)
    finally:
        coming.close()


def _settled(plan: Plan, clock: Clock, took: Sequence[float], spent: float) -> Plan:
    """The plan for the rest of the budget, by what updates took, but for the first, which takes longer."""
    known = took[1:] or took
    pace = by_first(lambda: sum(known) / len(known))
    left = by_first(lambda: clock.seconds - spent)
    count = clock.at + max(0, fitting(left, pace, Looks(clock.looks, clock.looks_each), plan))
    say(f"{pace:.2g} s an update, by {len(known)} of them: {count:,} updates fit into the budget")
    if len(known) < ENOUGH - 1:
        warn("so few say little, and the run may end early or late by a good part; training.updates says exactly how many")
    done = {"updates": count, "examples": count * plan.batch, "clock": clock.model_copy(update={"settled": True})}
    return plan.model_copy(update=done)


class Portion(NamedTuple):
    """What the passes over a micro-batch cost."""

    seconds: float
    """That a token takes."""
    tokens: float
    """Of a row."""

    def update(self, plan: Plan) -> float:
        """Seconds that the passes of an update take, without the step of the optimizer."""
        return self.seconds * self.tokens * plan.batch / world.size()


class Trial(NamedTuple):
    """Some of the work of a run, whose effect is then undone, to see how long it takes."""

    learner: Learner
    source: Source

    def portion(self, plan: Plan) -> Portion | None:
        """What single micro-batches cost after a first one (two where they are compiled); None if memory ran out."""
        learner = self.learner
        assert isinstance(learner, nn.Module)
        alone = _endless(plan, plan.micro_batch * world.size())
        learner.train()
        seconds, tokens, rows, warm = 0.0, 0, 0, 2 if plan.compile else 1
        for n in range(warm + 3):
            if n == warm:
                seconds, tokens, rows = 0.0, 0, 0
            batches = list(micro_batches(learner, self.source, alone, n))
            before = time.monotonic()
            found = accumulate_gradients(learner, batches, dict.fromkeys(learner.weights, 1.0), alone, n)
            seconds += time.monotonic() - before
            learner.zero_grad(set_to_none=True)
            tokens, rows = tokens + sum(batch.tokens for batch in batches), rows + plan.micro_batch
            lacking, slow, very = any_of([found is None, seconds >= SLOW, seconds >= VERY_SLOW])
            if lacking:
                return None
            if (slow and n >= warm) or (very and not plan.compile):
                break
        tokens = max(tokens, 1)
        return by_first(lambda: Portion(seconds / tokens, tokens / rows))

    def speed(self, plan: Plan, optimizer: OptimizerConfig, count: int) -> float:
        """Seconds an update takes, the mean of `count` after a first one (which compiles); the learner is as before."""
        learner = self.learner
        assert isinstance(learner, nn.Module)
        before = {name: tensor.clone() for name, tensor in learner.state_dict().items()}
        times = [time.monotonic()]
        optimizers = build_optimizers(learner, optimizer, DTYPES[plan.precision])
        for _ in islice(updates(learner, optimizers, self.source, _endless(plan, plan.batch)), count + 1):
            times.append(time.monotonic())
        learner.load_state_dict(before)
        learner.zero_grad(set_to_none=True)
        mean = (times[-1] - times[1]) / count
        return by_first(lambda: mean)


def _endless(plan: Plan, batch: int) -> Plan:
    """The plan of a run that is to be measured: by the clock it has no length yet, and what it trains in the end counts."""
    return plan.model_copy(
        update={"updates": _ENDLESS, "examples": _ENDLESS * batch, "batch": batch, "unfreeze": 0.0, "clock": None}
    )


def _with_what_fits(plan: Plan, trial: Trial) -> tuple[Plan, Portion]:
    """What a micro-batch costs; of half as many rows, or less, if memory runs out."""
    while (portion := trial.portion(plan)) is None:
        plan = halved(plan)
    return plan, portion


def _with_best_attention(plan: Plan, trial: Trial, portion: Portion) -> tuple[Plan, Portion]:
    """The plan with the kernel that is fastest for the rows of the run, where its encoder has a choice; and its portion."""
    assert isinstance(trial.learner, nn.Module)
    parts = (part for part in trial.learner.modules() if type(part) is Attention and (plan.device == "cuda" or not part.dropout))
    if (part := next(parts, None)) is None:
        return plan, portion
    rows, length = next(micro_batches(trial.learner, trial.source, _endless(plan, plan.batch), 0)).inputs.ids.shape
    width, dtype = part.out.in_features // part.heads, DTYPES[plan.precision]
    kernel: Kernel = by_first(lambda: fastest(plan.attention, rows, length, part.heads, width, dtype, plan.device))
    if kernel == plan.attention:
        return plan, portion
    say(f"attention by {'the fused kernel' if kernel == 'fused' else 'two products'}, which is faster here")
    train_by(kernel)
    return _with_what_fits(plan.model_copy(update={"attention": kernel}), trial)


def _with_best_micro_batch(plan: Plan, trial: Trial, portion: Portion, started: float) -> tuple[Plan, Portion]:
    """Twice as many rows at once, or half as many, for as long as that is clearly faster and there is time to try."""
    first = plan.micro_batch
    for factor in (2, 0.5):
        while 1 <= (size := int(plan.micro_batch * factor)) <= plan.batch // world.size():
            seconds = time.monotonic() - started + 2 * portion.seconds * portion.tokens * size
            if any_of([seconds > START])[0]:
                break
            other = plan.model_copy(update={"micro_batch": size})
            if (found := trial.portion(other)) is None or found.seconds >= GAIN * portion.seconds:
                break
            plan, portion = other, found
        if plan.micro_batch != first:
            say(f"{plan.micro_batch} rows at once are faster than {first}")
            break
    return plan, portion


def _compile(learner: Learner) -> None:
    assert isinstance(learner, nn.Module)
    _hush()
    say("compiling the model (about half a minute; --set training.compile=off does without)")
    learner.compile()


def _compiled_if_worth_it(plan: Plan, trial: Trial, plain: Portion, length: float) -> tuple[Plan, Portion]:
    """The plan compiled, and so the learner, if a run of `length` seconds ends sooner so, compiling included; or as it was."""
    learner = trial.learner
    assert isinstance(learner, nn.Module)
    able = can_compile(plan.device)
    if not able:
        say("not compiled: there is no C++ compiler here (g++ would do)")
    if any_of([not able or (world.size() > 1 and not _compiles(plan.device))])[0]:  # processes compute together
        return plan, plain
    _compile(learner)
    started, other = time.monotonic(), plan.model_copy(update={"compile": True})
    try:
        found = trial.portion(other)
    except RuntimeError as error:  # of the compiler, before anything has changed
        if out_of_memory(error):
            raise
        if world.size() > 1:  # the others wait for this process, or one of them is gone
            if lost(error):
                raise
            raise ResourceError(f"compiling failed: {_first_line(error)}", fix="--set training.compile=off") from None
        warn(f"not compiled, as that failed: {_first_line(error)}")
        _undo_compiling(learner)
        return plan, plain
    cost = by_first(lambda: time.monotonic() - started)
    share = found.seconds / plain.seconds if found else math.inf
    worth = share < GAIN and cost + length * share < length
    before, after = (f"{seconds:.2g} s" for seconds in (plain.update(plan), plain.update(plan) * share))
    say(f"{after} an update compiled, {before} not: {'compiled' if worth else 'not compiled'}")
    if worth and found:
        return other, found
    _undo_compiling(learner)
    return plan, plain


def _compiles(device: str) -> bool:
    """Whether the compiler works: tried on next to nothing, where one process could not do without it alone later."""
    _hush()
    try:
        torch.compile(torch.relu)(torch.ones(2, device=device))
    except RuntimeError as error:
        warn(f"not compiled, as that failed: {_first_line(error)}")
        return False
    return True


def _hush() -> None:
    """What torch's compiler says of itself and nobody can act upon: of a CUDA without a GPU, and of Python 3.13.0's guards."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="Guards may run slower on Python", category=RuntimeWarning)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _undo_compiling(learner: nn.Module) -> None:
    learner._compiled_call_impl = None  # what torch itself looks at; there is no call for it
    learner.zero_grad(set_to_none=True)
