"""Held-out metrics: over all targets at once, so that neither batch size nor padding changes them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from encoderkit import world
from encoderkit.console import counted, warn
from encoderkit.data.order import rng
from encoderkit.errors import out_of_memory
from encoderkit.learner import Learner, Objective
from encoderkit.tasks.task import Observed, Task, Tunable, is_task
from encoderkit.training.distributed import concatenated, gathered, least
from encoderkit.training.loop import Source, sizes
from encoderkit.training.machine import DTYPES
from encoderkit.training.sharding import sharded

T = TypeVar("T")
DEV_SEED = 271_828
"""Corruption of held-out data depends on this and the example alone, so that all runs are measured on the same."""


def _reading(learner: nn.Module) -> AbstractContextManager[object]:
    """Without gradients. Weights in parts are gathered into memory that training uses after it, so it may not be inference's."""
    return torch.no_grad() if sharded(learner) else torch.inference_mode()


def observe(
    learner: Objective, source: Source, batches: Iterable[Sequence[int]], device: str, precision: str
) -> dict[str, np.ndarray]:
    """What the objective observes of every example, in the order of `batches`, of which several processes have shares."""
    assert isinstance(learner, nn.Module)
    learner.eval()
    parts: dict[str, list[np.ndarray]] = {}
    for numbers in batches:
        examples = [source[i] for i in numbers or _ANY]
        made = learner.collate(examples, [rng(DEV_SEED, 0, i) for i in numbers or _ANY], None).to(device)
        with _reading(learner), torch.autocast(device, DTYPES[precision], enabled=precision != "fp32"):
            seen = learner.observe(made.inputs, made.targets)
        for name, value in seen.items() if numbers else ():
            parts.setdefault(name, []).append(value.cpu().numpy())
    return gathered({name: np.concatenate(values) for name, values in parts.items()})


def outputs(task: Task, examples: Sequence[Any], batches: Iterable[Sequence[int]], device: str, precision: str) -> Observed:
    """What the task observes of every example, in their order, computed in `batches` of their numbers.

    Several processes may each have a share of the batches; each gets all that was observed.
    """
    assert isinstance(task, nn.Module)
    task.eval()
    order: list[int] = []
    parts: dict[str, list[Any]] = {}
    for numbers in batches:
        made = task.collate([examples[i] for i in (numbers if len(numbers) else _ANY)], [], None).to(device)
        with _reading(task), torch.autocast(device, DTYPES[precision], enabled=precision != "fp32"):
            seen = task.observe(made.inputs, made.targets)
        order.extend(int(i) for i in numbers)
        for name, value in seen.items() if len(numbers) else ():
            found = value.cpu().numpy() if isinstance(value, Tensor) else [one.cpu().numpy() for one in value]
            assert len(found) == len(numbers), "one entry an example"
            parts.setdefault(name, []).append(found)
    joined = {name: concatenated(values) for name, values in parts.items()}
    joined = gathered({_ORDER: np.array(order), **joined}) if order else gathered({})
    back = np.argsort(joined.pop(_ORDER))
    return {name: v[back] if isinstance(v, np.ndarray) else [v[i] for i in back] for name, v in joined.items()}


_ORDER = " order"
"""No name of a task's own."""
_ANY = [0]
"""What is computed, and dropped, where a batch is empty: processes that share the weights must do the same passes."""


class Halted(Exception):
    """An evaluation was cut short, as it was asked to be."""


def _shortest_first(source: Source, batch: int, halted: Callable[[], bool]) -> Iterator[list[int]]:
    """The numbers of this process's share of the examples, `batch` at a time; the last may be empty, as many as others have.

    Raises `Halted` before a batch by which `halted()` says so, which all processes ask as often.
    """
    order = np.argsort(sizes(source, range(len(source))), kind="stable")
    own = order[world.rank() :: world.size()]
    batches = (own[start : start + batch].tolist() for start in range(0, -(-len(order) // world.size()), batch))
    for numbers in counted("evaluating", batches, len(own)):
        if halted():
            raise Halted
        yield numbers


def _never() -> bool:
    return False


def evaluate(
    learner: Learner,
    source: Source,
    batch: int,
    device: str,
    precision: str,
    tune: bool = False,
    halted: Callable[[], bool] = _never,
) -> dict[str, float]:
    """The learner's metrics on a data set; `tune`: it is the dev set, on which a task may choose thresholds first.

    Raises `Halted` soon after `halted()` is true.
    """

    def in_memory(compute: Callable[[Iterable[list[int]]], T]) -> T:
        # What ran out of memory in one process alone has left it with smaller batches, and all must do as many.
        return _in_memory(lambda rows: compute(_shortest_first(source, rows, halted)), least(batch), device)

    if is_task(learner):
        examples = [source[i] for i in range(len(source))]
        observed = in_memory(lambda batches: outputs(learner, examples, batches, device, precision))
        if tune and isinstance(learner, Tunable):
            learner.tune(examples, observed)
        return learner.metrics(examples, observed)
    objective = cast(Objective, learner)
    return objective.metrics(in_memory(lambda batches: observe(objective, source, batches, device, precision)))


def _in_memory(compute: Callable[[int], T], rows: int, device: str) -> T:
    """What `compute` gives for so many rows at once, or for half as many where memory runs out: beams need more than training.

    Of several processes the others wait for this one in the middle of their pass, so that none can begin again.
    """
    while True:
        try:
            return compute(rows)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error) or rows <= 1 or world.size() > 1:
                raise
        if device == "cuda":
            torch.cuda.empty_cache()
        warn(f"memory ran out with {rows} rows at once, which are evaluated; going on with {rows // 2}")
        rows //= 2
