"""What a run writes, and whether there is room for it: known before hours are spent."""

import shutil
from pathlib import Path

from torch import nn

from encoderkit.errors import ResourceError
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.training.machine import DTYPES
from encoderkit.training.optim import Muon, build_optimizers
from encoderkit.training.rowwise import Adagrad, Sgd

KEPT = 3
"""Checkpoints that a run keeps: the two newest and the best."""


def checkpoint_bytes(recipe: PretrainRecipe | FinetuneRecipe, learner: nn.Module) -> int:
    """Of a checkpoint: weights, and what the optimizer remembers of each of them."""
    size = sum(t.numel() * t.element_size() for t in learner.state_dict().values())
    if average := recipe.training.average:  # of the weights: saved as the model, beside them and what it is made of
        size *= 2 + getattr(average, "count", 1)
    for optimizer in build_optimizers(learner, recipe.optimizer, DTYPES["fp32"]):
        moments = 0 if isinstance(optimizer, Sgd) else 1 if isinstance(optimizer, Muon | Adagrad) else 2
        size += moments * sum(4 * p.numel() for group in optimizer.param_groups for p in group["params"])
    return size


def check_room(recipe: PretrainRecipe | FinetuneRecipe, learner: nn.Module, out: Path) -> None:
    """Raise `ResourceError` where the disk of `out` has no room for the run; what an earlier one holds there makes room."""
    each = checkpoint_bytes(recipe, learner)
    need = (KEPT + 1) * each  # the next one stands beside those that are kept until it is whole
    held = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    free = shutil.disk_usage(out).free + held
    if free < need:
        mega = 1 << 20
        raise ResourceError(
            f"the disk has {free // mega:,} MiB left, and this run needs {need // mega:,}: it keeps {KEPT} checkpoints of "
            f"{each // mega:,} while it writes another",
            where=out,
            fix="make room, or another --out, on a larger disk",
        )
