"""Many runs one after the other in several processes that have torch imported once, in tests: a start costs seconds."""

import multiprocessing
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.tensor import DTensor

from encoderkit import world
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.training import distributed
from encoderkit.training.config import AdamWConfig
from encoderkit.training.distributed import Sum, any_of, joined, total
from encoderkit.training.evaluate import evaluate
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from encoderkit.training.sharding import place
from tests.training.runs import go, go_until, go_until_evaluated, masked, plan, rows

T = TypeVar("T")


class Run(NamedTuple):
    """A run to begin or to continue."""

    recipe: PretrainRecipe | FinetuneRecipe
    out: Path
    until: int = 0
    """The update at which a signal stops it; 0: its end."""
    evaluated: bool = False
    """Whether the signal comes in the evaluation after that update, to the second process."""


def several(count: int, runs: Sequence[Run]) -> list[Any]:
    """Do `runs` in `count` processes; of each what its command says, None if it was stopped."""
    return together(count, _do, runs)


def together(count: int, work: Callable[..., T], *arguments: object) -> T:
    """Let `count` processes do the same work; what the first of them gives."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    with ProcessPoolExecutor(count, context) as pool:
        results = [pool.submit(_process, rank, count, store.port, work, arguments) for rank in range(count)]
        first, *_ = [result.result(timeout=600) for result in results]
        return first


def _process(rank: int, count: int, port: int, work: Callable[..., T], arguments: tuple[object, ...]) -> T:
    """What one of the processes does, which finds itself as `torchrun` would have started it."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": True, "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {name: str(value) for name, value in {"RANK": rank, "WORLD_SIZE": count, **where}.items()}
    with joined():
        return work(*arguments)


def _do(runs: Sequence[Run]) -> list[Any]:
    found = []
    for recipe, out, until, evaluated in runs:
        if evaluated:
            found.append(go_until_evaluated(recipe, out, until, rank=1))
        else:
            found.append(go_until(recipe, out, until) if until else go(recipe, out, resume=True))
    return found


def held(tensors: Sequence[Tensor]) -> tuple[int, int]:
    """The numbers of elements of tensors: in all, and in this process."""
    local = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return sum(tensor.numel() for tensor in tensors), sum(tensor.numel() for tensor in local)


def shares() -> dict[str, list[float]]:
    """Of a model that has been trained for an update and has computed once more: its elements, and those in each process."""
    learner = masked("bert")
    place(learner, "cpu", "full")
    optimizers = build_optimizers(learner, AdamWConfig(lr=1e-3), torch.float32)
    list(updates(learner, optimizers, rows(8), plan(1, 8)))
    batch = learner.collate(rows(1), [np.random.default_rng(0)], None)
    learner(batch.inputs, batch.targets)["masked"].backward()
    parameters = list(learner.parameters())
    moments = [optimizers[0].state[p][key] for p in parameters for key in ("exp_avg", "exp_avg_sq")]
    parts = {"weights": parameters, "gradients": [p.grad for p in parameters if p.grad is not None], "moments": moments}
    found = {}
    for name, tensors in parts.items():
        whole, own = held(tensors)
        found[name] = [whole, *total([own * (rank == world.rank()) for rank in range(world.size())])]
    return found


def early_sums(failing: bool) -> tuple[int, dict[str, Tensor]]:
    """Two updates in portions that hold little: how many of them went out in the last pass of each, and the weights.

    `failing`: the second process runs out of memory once, when two are under way, and is left with smaller batches.
    """
    distributed.PORTION = 2000
    learner, sent, failed = masked("bert"), 0, not failing or world.rank() == 0
    joint: Sum | None = None
    sending = Sum.sending

    @contextmanager
    def watched(own: Sum) -> Iterator[None]:
        nonlocal joint, sent
        joint, before = own, len(own._sent)
        with sending(own):
            yield
        sent += len(own._sent) - before

    def fail(_: Tensor) -> None:
        nonlocal failed
        if not failed and joint is not None and len(joint._sent) == 2:
            failed = True
            raise torch.OutOfMemoryError("of a GPU, as it might be")

    for parameter in learner.parameters():
        parameter.register_post_accumulate_grad_hook(fail)
    Sum.sending = watched
    optimizers = build_optimizers(learner, AdamWConfig(lr=1e-3, eps=1e-3), torch.float32)
    *_, last = updates(learner, optimizers, rows(16), plan(2, 8, 2))
    assert failed and last.micro_batch == (1 if failing and world.rank() else 2)
    # Each asks the others before each of its batches, so that all must have as many.
    evaluate(learner, rows(7), last.micro_batch, "cpu", "fp32", halted=lambda: any_of([False])[0])
    return sent, learner.state_dict()
