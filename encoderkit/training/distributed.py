"""Several processes that train as one: torch's own collectives, behind a few functions that do nothing where there is one.

Every process holds the whole model, or a part of it (see `sharding`), and computes a share of each update's examples;
gradients are added up, so that the update is that of one process but for rounding. The first process alone writes, and
decides what depends on a clock.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from encoderkit import world
from encoderkit.errors import ResourceError, UsageError, UserError
from encoderkit.learner import PairSteps

PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others: longer than the longest evaluation or save."""

PORTION = 8_000_000
"""Numbers that are sent at once, or those of one parameter that has more."""

T = TypeVar("T")


@contextmanager
def joined() -> Iterator[None]:
    """Be one of the processes that `torchrun` started; raises `ResourceError` when another of them is gone.

    Once: a second meeting would find the addresses of the first. Who does several runs joins before them all.
    """
    if world.size() == 1 or dist.is_initialized():
        yield
        return
    if torch.cuda.is_available():
        number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if number >= count:
            fix = f"torchrun --nproc-per-node {count}, or CUDA_VISIBLE_DEVICES= in front of it, which computes on the CPU"
            raise UsageError(f"process {number} of this machine has no GPU of its own: there are {count}", fix=fix)
        torch.cuda.set_device(number)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
        yield
    except RuntimeError as error:
        if not lost(error):
            raise
        raise _lost() from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def lost(error: BaseException) -> bool:
    """Whether this is what a process hears when another one is gone."""
    words = ("gloo", "Gloo", "NCCL", "Connection closed", "Connection reset")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def _lost() -> ResourceError:
    return ResourceError(
        f"process {world.rank()} of {world.size()} has lost another one, whose own message says why; what was saved is intact",
        fix="run the same command again with --resume",
    )


def by_first(work: Callable[[], T]) -> T:
    """What `work` gives in the first process, in all of them; it runs in the first alone. What it raises ends them all."""
    if world.size() == 1:
        return work()
    box: list[object] = [None, None]
    if world.first():
        try:
            box[0] = work()
        except UserError as error:
            dist.broadcast_object_list([None, int(error.exit_code)])
            raise
    dist.broadcast_object_list(box)
    if isinstance(box[1], int):
        raise SystemExit(box[1])  # the first process says why
    return box[0]  # pyright: ignore[reportReturnType]


def total(values: Sequence[float]) -> list[float]:
    """The sums over all processes."""
    if world.size() == 1:
        return list(values)
    summed = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(summed)
    return summed.tolist()


def any_of(flags: Sequence[bool]) -> list[bool]:
    """For each flag, whether it is set in any of the processes."""
    if world.size() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.uint8)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return [bool(flag) for flag in raised.tolist()]


def least(value: int) -> int:
    """The smallest of all processes."""
    if world.size() == 1:
        return value
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return int(found)


class Sum:
    """The gradients of an update, which become their sums over all processes, or none where no process has one.

    They are sent in portions, from the last parameter back, as the backward pass comes to them: within `sending`, a portion
    goes out as soon as it is whole, while what stands before it is still computed (Li et al. 2020, "PyTorch Distributed",
    section 3.2). Portions go in one order in all processes, and those that are left over go at the end.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self._parts: list[list[nn.Parameter]] = []
        room = 0
        for parameter in reversed(parameters) if world.size() > 1 else ():
            if room < parameter.numel():
                self._parts.append([])
                room = PORTION
            self._parts[-1].append(parameter)
            room -= parameter.numel()
        self._sent: list[tuple[Tensor, dist.Work]] = []

    @contextmanager
    def sending(self) -> Iterator[None]:
        """In this block is the last backward pass of the update. It may be done again where memory ran out in it."""
        missing = {part: len(self._parts[part]) for part in range(len(self._sent), len(self._parts))}

        def note(part: int, _: Tensor) -> None:
            missing[part] -= 1
            while missing.get(len(self._sent)) == 0:
                self._send()

        hooks = [p.register_post_accumulate_grad_hook(partial(note, part)) for part in missing for p in self._parts[part]]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _send(self) -> None:
        part = self._parts[len(self._sent)]
        # What is sparse in one process may be empty in another: rows are added up as whole tables.
        held = [p.grad.to_dense() if p.grad is not None and p.grad.is_sparse else p.grad for p in part]
        there = (p.new_full((1,), g is not None) for p, g in zip(part, held, strict=True))  # a GPU fills them, unwaited for
        gradients = (torch.zeros_like(p) if g is None else g for p, g in zip(part, held, strict=True))
        joint = torch.cat([*(gradient.reshape(-1) for gradient in gradients), *there])
        for parameter in part:
            parameter.grad = None  # not twice in memory
        work = dist.all_reduce(joint, async_op=True)
        assert work is not None
        self._sent.append((joint, work))

    def finish(self) -> None:
        """Send what is left, and wait for all of it."""
        while len(self._sent) < len(self._parts):
            self._send()
        for _, work in self._sent:
            work.wait()
        ends = [joint[-len(part) :] for part, (joint, _) in zip(self._parts, self._sent, strict=True)]
        known = iter(torch.cat(ends).tolist() if ends else [])
        for part, (joint, _) in zip(self._parts, self._sent, strict=True):
            *sums, _ = joint.split([*(p.numel() for p in part), len(part)])
            for parameter, found in zip(part, sums, strict=True):
                parameter.grad = found.view_as(parameter) if next(known) else None  # what is not used is not decayed either


def in_order(steps: Sequence[PairSteps], tables: tuple[Tensor, Tensor, Tensor, Tensor]) -> PairSteps | None:
    """The steps of all processes, by their rounds, so that neither processes nor portions decide; None if there are none.

    `tables`: the four that are moved, which a process without steps of its own has too.
    """
    own = {name: [getattr(pairs, name).cpu() for pairs in steps] for name in PairSteps._fields[1:]}
    every: list[dict[str, list[Tensor]]] = [own]
    if world.size() > 1:
        every = [{} for _ in range(world.size())]
        dist.all_gather_object(every, own)
    joint = {name: [one for part in every for one in part[name]] for name in own}
    if not joint["rounds"]:
        return None
    found = {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in joint.items()}
    if bool((torch.diff(found["rounds"]) < 0).any()):
        order = torch.argsort(found["rounds"], stable=True)
        found = {name: values[order] for name, values in found.items()}
    return PairSteps(tables, **{name: values.to(tables[0].device) for name, values in found.items()})


def concatenated(parts: Sequence[Any]) -> Any:
    """Arrays, or lists, one after the other."""
    return np.concatenate(parts) if isinstance(parts[0], np.ndarray) else [*chain(*parts)]


def everyone(values: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """Tensors (N, ...) of all processes, one after the other, and where this one's own begin; a process may have none."""
    if world.size() == 1:
        return dict(values), 0
    parts: list[dict[str, Tensor]] = [{} for _ in range(world.size())]
    dist.all_gather_object(parts, {name: value.cpu() for name, value in values.items()})
    sizes = [len(next(iter(part.values()))) if part else 0 for part in parts]
    filled = [part for part in parts if part]
    joint = {name: torch.cat([part[name] for part in filled]) for name in filled[0]}
    return joint, sum(sizes[: world.rank()])


def gathered(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arrays, or lists, of all processes, one after the other; a process may have none."""
    if world.size() == 1:
        return dict(values)
    parts: list[dict[str, Any]] = [{} for _ in range(world.size())]
    dist.all_gather_object(parts, dict(values))
    filled = [part for part in parts if part]
    return {name: concatenated([part[name] for part in filled]) for name in filled[0]}
