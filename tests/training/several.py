"""What torchrun starts in tests of several processes: many runs one after the other, at the cost of one start.

    torchrun ... -m tests.training.several RECIPE.yaml OUT UNTIL RECIPE.yaml OUT UNTIL ...

UNTIL: the update at which the run is stopped by a signal; 0: at its end. A line of JSON for each on stdout, as the commands
have it, and one that tells how much of a small model the processes hold.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from encoderkit import world
from encoderkit.config import load, read_yaml
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.training.config import AdamWConfig
from encoderkit.training.distributed import joined, total
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from encoderkit.training.sharding import place
from tests.training.runs import go, go_until, masked, plan, rows


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
    sum(learner(batch.inputs, batch.targets).values()).backward()
    parameters = list(learner.parameters())
    moments = [optimizers[0].state[p][key] for p in parameters for key in ("exp_avg", "exp_avg_sq")]
    parts = {"weights": parameters, "gradients": [p.grad for p in parameters if p.grad is not None], "moments": moments}
    found = {}
    for name, tensors in parts.items():
        whole, own = held(tensors)
        found[name] = [whole, *total([own * (rank == world.rank()) for rank in range(world.size())])]
    return found


def main(words: Sequence[str]) -> None:
    """See above."""
    torch.set_num_threads(1)
    with joined():
        for path, out, until in zip(*[iter(words)] * 3, strict=True):
            recipe = load(FinetuneRecipe if "task" in read_yaml(Path(path))[0] else PretrainRecipe, Path(path))
            result = go_until(recipe, Path(out), int(until)) if int(until) else go(recipe, Path(out), resume=True)
            if world.first():
                print(json.dumps(result), flush=True)
        found = shares()
        if world.first():
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
