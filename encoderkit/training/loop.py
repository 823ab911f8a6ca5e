"""The one training loop: a generator that yields an `Update` for each step of the optimizer.

It knows only the `Learner`. Everything random in update n depends on (seed, n) and on which examples are in it, so
resuming needs only n, and evaluating or logging between updates cannot change training. Nor can micro-batches or the
number of processes, but for the order of sums; on a GPU they also change what dropout draws (`models.dropout`).
"""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from itertools import accumulate
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from encoderkit import world
from encoderkit.config import Config
from encoderkit.console import warn
from encoderkit.data.order import Order, examples_of, permutation, rng
from encoderkit.errors import DivergedError, ResourceError, out_of_memory
from encoderkit.learner import Batch, Coupled, CoupledLearner, Learner
from encoderkit.models.attention import Kernel
from encoderkit.training.adversarial import passes
from encoderkit.training.config import ScheduleConfig
from encoderkit.training.distributed import Sum, everyone, total
from encoderkit.training.machine import DTYPES
from encoderkit.training.optim import unfreeze
from encoderkit.training.rowwise import clip_gradients
from encoderkit.training.schedule import factor
from encoderkit.training.sharding import sharded

FIXED = {"cpu": 512, "cuda": 16_384}
"""What a micro-batch costs whatever is in it, as tokens computed in the same time: launches, casts of the weights, the
gradient of the embeddings."""
WIDE = 1536
"""The width of a row at which attention costs as much as all other parts of a layer of 256, the width of small models."""


class Clock(Config):
    """How a run by the clock comes to its number of updates: estimated before the first one, settled by the speed of a few."""

    at: int
    """The update after which the number is settled."""
    updates: int
    """The number as estimated, which the schedule goes by until then."""
    seconds: float
    """What was left of the budget before the first update."""
    looks: int
    """Held-out examples that are evaluated, however many updates there are."""
    looks_each: float = 0.0
    """More of them for each update, on average."""
    settled: bool = False


class Plan(Config):
    """What a run has settled on; written into the run, so that a resumed run is the same run."""

    updates: int
    """Optimizer steps in all."""
    examples: int
    """Examples in all: updates * batch, or a little less if the last batch is short."""
    batch: int
    micro_batch: int
    seed: int
    precision: Literal["fp32", "bf16"]
    compile: bool
    attention: Kernel = "products"
    """That of a run from before there was a choice."""
    device: Literal["cpu", "cuda"]
    threads: int
    """Of the CPU; sums depend on it in the last bit."""
    processes: int = 1
    """That had so many threads each."""
    schedule: ScheduleConfig
    clip: float | None
    unfreeze: float = 0.0
    """Updates from one layer's being trained too to the next one's; 0: all are from the start."""
    adversarial: float = 0.0
    """See `adversarial.passes`."""
    clock: Clock | None = None
    """Of a run that is as long as its budget of time."""

    def length(self, update: int) -> int:
        """The number of updates that the schedule of update 0, 1, ... goes by."""
        return self.clock.updates if self.clock and update < self.clock.at else self.updates


class Update(NamedTuple):
    """One step of the optimizer."""

    number: int
    """1 for the first."""
    losses: dict[str, float]
    """Mean of each term, in nats; where texts are disturbed too, of the texts as they are."""
    loss: float
    """Their weighted sum, which was minimised."""
    lr: float
    norm: float
    """Of the gradient, before clipping."""
    tokens: int
    """Real tokens in it."""
    micro_batch: int
    """Rows at once: half of the plan's, or less, once memory has run out."""


class Source(Protocol):
    """Examples by number."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def micro_batches(learner: Learner, source: Source, plan: Plan, update: int) -> Iterator[Batch]:
    """The batches of update 0, 1, ..., those of like length together; of several processes each has its share.

    The shares are alike in lengths: one deals the examples, sorted, like cards. They are cut alike, too, as processes that
    share the weights must do the same passes; where nothing is left to one of them, it has a batch that counts for nothing.
    """
    drawn = _slots(source, plan, update)
    known = sizes(source, [index for _, index in drawn])
    order = np.argsort(known, kind="stable")
    own = [drawn[i] for i in order[world.rank() :: world.size()]]  # alone are read
    lengths = known[order[:: world.size()]].tolist()  # of the largest share
    for start, end in portions(lengths, plan.micro_batch, FIXED[plan.device], learner.encoder.packs):
        part = own[start:end] or [drawn[order[0]]]
        rngs = [rng(plan.seed, epoch, index) for epoch, index in part]
        batch = learner.collate([source[index] for _, index in part], rngs, update / plan.length(update))
        yield batch if own[start:end] else batch._replace(counts=dict.fromkeys(batch.counts, 0.0), tokens=0)


def _slots(source: Source, plan: Plan, update: int) -> list[tuple[int, int]]:
    """See `examples_of`; a source may have an order of its own."""
    order: Order = getattr(source, "order", permutation)
    return examples_of(update, plan.batch, len(source), plan.seed, plan.examples, order)


def portions(lengths: Sequence[int], most: int, fixed: int, packed: bool) -> list[tuple[int, int]]:
    """Where to cut rows of ascending `lengths` into parts of at most `most` rows: the parts that cost least.

    A part costs `fixed` and its tokens: each row padded to the longest or, `packed`, none padded, but attention as wide
    as the longest. Fine-tuning on sentences computes twice to three times as many tokens without it. Exact, by the best
    cut before each length.
    """
    ends = [i for i in range(1, len(lengths)) if lengths[i] != lengths[i - 1]] + [len(lengths)]
    before = [0, *accumulate(lengths)]

    def cost(start: int, end: int) -> float:
        long = lengths[end - 1]
        tokens = (before[end] - before[start]) * (1 + long / WIDE) if packed else (end - start) * long
        return tokens + -(-(end - start) // most) * fixed

    best: dict[int, tuple[float, int]] = {0: (0, 0)}  # rows so far -> the least cost, and where the last part begins
    for end in ends:
        best[end] = min((so_far + cost(start, end), start) for start, (so_far, _) in best.items())
    groups, end = [], len(lengths)
    while end:
        groups.append((best[end][1], end))
        end = groups[-1][0]
    return [(i, min(i + most, end)) for start, end in reversed(groups) for i in range(start, end, most)]


def sizes(source: Source, numbers: Sequence[int]) -> np.ndarray:
    """(n,) the tokens of n examples, which are not read where the source knows (`Rows.sizes`)."""
    if hasattr(source, "sizes"):
        return source.sizes(np.asarray(numbers))  # pyright: ignore[reportAttributeAccessIssue]
    examples = (source[number] for number in numbers)
    return np.array([len(one.ids) if hasattr(one, "ids") else one.size for one in examples])


def updates(
    learner: Learner, optimizers: Sequence[torch.optim.Optimizer], source: Source, plan: Plan, start: int = 0
) -> Generator[Update]:
    """Train from update `start` to the end of the plan. Raises `DivergedError` before a step that is not finite is taken."""
    assert isinstance(learner, nn.Module)
    with ThreadPoolExecutor(1, "reader") as reader:  # the next batch is made while this one is computed
        coming = reader.submit(_batches, learner, source, plan, start)
        for n in range(start, plan.updates):
            batches = coming.result()
            if n + 1 < plan.updates:
                coming = reader.submit(_batches, learner, source, plan, n + 1)
            learner.train()
            if plan.unfreeze:
                unfreeze(optimizers, n / plan.unfreeze)
            parameters = [p for p in learner.parameters() if p.requires_grad]
            share = factor(plan.schedule, n, plan.length(n))
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = share * group["lr_peak"]
            own = [sum(batch.counts[term] for batch in batches) for term in learner.weights]
            *found, tokens = total([*own, sum(batch.tokens for batch in batches)])
            counts = {term: max(count, 1e-9) for term, count in zip(learner.weights, found, strict=True)}
            joint = Sum([] if sharded(learner) else parameters)
            while (sums := accumulate_gradients(learner, batches, counts, plan, n, joint)) is None:
                plan = halved(plan)
                batches = _batches(learner, source, plan, n)
                coming = reader.submit(_batches, learner, source, plan, min(n + 1, plan.updates - 1))
            joint.finish()
            norm = clip_gradients(parameters, plan.clip)
            losses = {term: s / counts[term] for term, s in zip(sums, total(list(sums.values())), strict=True)}
            loss = sum(learner.weights[term] * losses[term] for term in losses)
            if not (_finite(loss) and _finite(norm)):
                raise _diverged(plan, n, loss, norm, source)
            end = plan.updates if plan.clock is None or plan.clock.settled else 0  # not known yet
            for optimizer in optimizers:
                for group in optimizer.param_groups:
                    group["targets"], group["update"], group["end"] = sum(counts.values()), n + 1, end
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            lr = max(group["lr"] for optimizer in optimizers for group in optimizer.param_groups)
            yield Update(n + 1, losses, loss, lr, norm, int(tokens), plan.micro_batch)


def _batches(learner: Learner, source: Source, plan: Plan, update: int) -> list[Batch]:
    made = micro_batches(learner, source, plan, update)
    return [batch.pinned() if plan.device == "cuda" else batch for batch in made]


def accumulate_gradients(
    learner: Learner, batches: list[Batch], counts: dict[str, float], plan: Plan, update: int, joint: Sum | None = None
) -> dict[str, float] | None:
    """Add up the gradients of an update; the sum of each term of its loss, or None (and no gradients) if memory ran out.

    `joint`: what adds them up over the processes, which may begin with it in the last pass.
    """
    assert isinstance(learner, nn.Module)
    _sow(plan, update)
    seen: list[tuple[str, int, Tensor | float]] = []
    try:
        if (len(batches) > 1 or world.size() > 1) and isinstance(learner, Coupled) and learner.coupled:
            return _accumulate_coupled(learner, batches, counts, plan, update)
        for left, batch in zip(reversed(range(len(batches))), batches, strict=True):
            moved = batch.to(plan.device)
            sending = nullcontext if joint is None or left or plan.adversarial else joint.sending
            with closing(passes(learner, moved.inputs, plan.adversarial)) as runs:
                for again in runs:
                    with torch.autocast(plan.device, DTYPES[plan.precision], enabled=plan.precision != "fp32"):
                        terms = learner(moved.inputs, moved.targets)
                    with sending():
                        (_working(batch) * _weighed(learner, terms, counts)).backward()
                    seen += [(term, _working(batch), _at_hand(terms[term].detach())) for term in terms if not again]
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error) or plan.micro_batch <= 1:
            raise
        coupled = isinstance(learner, Coupled) and learner.coupled
        if sharded(learner) or (coupled and world.size() > 1):  # the others wait for this process in the middle of their pass
            message = f"memory ran out with a micro-batch of {plan.micro_batch} rows, and no process can go on alone here"
            fix = f"the same command with --resume --set training.micro_batch={plan.micro_batch // 2}"
            raise ResourceError(message, fix=fix) from None
        learner.zero_grad(set_to_none=True)
        return None
    sums = dict.fromkeys(learner.weights, 0.0)
    for term, working, value in seen:
        sums[term] += working * float(value)
    return sums


def _at_hand(value: Tensor) -> Tensor | float:
    """A number, where it need not be waited for; a GPU is asked at the end of the update.

    A tensor that is kept lies in memory behind the pass that it is of, whose place then is not used by the next one.
    """
    return float(value) if value.device.type == "cpu" else value


def _accumulate_coupled(
    learner: CoupledLearner, batches: list[Batch], counts: dict[str, float], plan: Plan, update: int
) -> dict[str, float]:
    """The same for a loss of all examples of the update, in two passes over the batches (see `Coupled`)."""

    def parts(batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        moved = batch.to(plan.device)
        with torch.autocast(plan.device, DTYPES[plan.precision], enabled=plan.precision != "fp32"):
            return learner.parts(moved.inputs, moved.targets)

    with torch.no_grad():
        known = [(batch, parts(batch)[0]) for batch in batches]
    known = [(batch.targets, vectors) for batch, vectors in known if _working(batch)]
    own = {name: torch.cat([targets[name] for targets, _ in known]) for name in (known[0][0] if known else ())}
    joint, first = everyone({_VECTORS: torch.cat([vectors for _, vectors in known]), **own} if known else {})
    joint = {name: value.to(plan.device) for name, value in joint.items()}
    leaf = joint.pop(_VECTORS).requires_grad_()
    terms = learner.joint(leaf, joint)
    _weighed(learner, terms, counts).backward()
    assert leaf.grad is not None
    sums = dict.fromkeys(learner.weights, 0.0) | {name: float(term.detach()) / world.size() for name, term in terms.items()}
    _sow(plan, update)  # the same dropout again
    for batch in batches:
        vectors, own_terms = parts(batch)
        pull = leaf.grad[first : first + len(vectors)] if _working(batch) else torch.zeros_like(vectors)
        ((vectors * pull).sum() + _working(batch) * _weighed(learner, own_terms, counts)).backward()
        first += _working(batch) * len(vectors)
        for name, term in own_terms.items():
            sums[name] += _working(batch) * float(term.detach())
    return sums


def _working(batch: Batch) -> int:
    """1, or 0 for a batch that counts for nothing (see `micro_batches`)."""
    return int(any(batch.counts.values()))


def _weighed(learner: Learner, terms: dict[str, Tensor], counts: dict[str, float]) -> Tensor:
    """What is minimised; 0 where there are no terms."""
    return torch.stack([learner.weights[term] * terms[term] / counts[term] for term in terms]).sum() if terms else torch.zeros(())


_VECTORS = " vectors"
"""No name of a learner's own targets."""


def halved(plan: Plan) -> Plan:
    """The plan after a micro-batch that did not fit."""
    if plan.device == "cuda":
        torch.cuda.empty_cache()
    size = plan.micro_batch
    changed = "what dropout draws" if plan.device == "cuda" else "the order of sums"
    warn(f"memory ran out with a micro-batch of {size} rows; going on with {size // 2}, which changes nothing but {changed}")
    return plan.model_copy(update={"micro_batch": size // 2})


def _seed(seed: int, update: int, rank: int) -> int:
    """Of torch's dropout; so far apart for two processes that no update of one has the masks of a later update of another.

    Also in the lower 32 bits, which are all that torch's generator of the CPU looks at.
    """
    return (seed * 1_000_003 + update + rank * 0x9E3779B1) % (1 << 63)


def _sow(plan: Plan, update: int) -> None:
    """Seed torch's generators, that of the CPU alike in all processes: what all texts share is dropped by it.

    Of the device alone: `torch.manual_seed`, where there is no GPU, notes the stack each time.
    """
    torch.default_generator.manual_seed(_seed(plan.seed, update, 0))
    if plan.device == "cuda":
        torch.cuda.manual_seed_all(_seed(plan.seed, update, world.rank()))


def _finite(value: float) -> bool:
    return value - value == 0


def _diverged(plan: Plan, update: int, loss: float, norm: float, source: Source) -> DivergedError:
    examples = [i for _, i in _slots(source, plan, update)]
    shown = ", ".join(map(str, examples[:16])) + (f" and {len(examples) - 16} more" if len(examples) > 16 else "")
    return DivergedError(
        f"update {update + 1}: the loss is {loss:g} and the gradient's norm {norm:g}, which cannot be trained on; "
        f"examples {shown}; what was saved before is intact",
    )
