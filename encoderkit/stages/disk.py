"""What a run writes, and whether there is room for it: known before hours are spent."""

import shutil
from pathlib import Path

from torch import nn

from encoderkit import ours
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
    """Raise `ResourceError` where the disk of `out` has no room for the run, or for those of several that follow it.

    What an earlier run holds there makes room, as what this one has saved already does.
    """
    each, later = checkpoint_bytes(recipe, learner), _to_come(out)
    need = (KEPT * (1 + later) + 1) * each  # the next one stands beside those that are kept until it is whole
    held = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    free = shutil.disk_usage(out).free + held
    if free < need:
        mega = 1 << 20
        raise ResourceError(
            f"the disk has {free // mega:,} MiB left, and this run needs {need // mega:,}: it keeps {KEPT} checkpoints of "
            f"{each // mega:,} while it writes another" + f", and so does each of {later} to come" * bool(later),
            where=out,
            fix="make room, or another --out, on a larger disk",
        )


def _to_come(out: Path) -> int:
    """How many of several runs, of which this is one, have not begun; their directory says which there are."""
    names = ours.several(out.parent)
    return sum(not (out.parent / name / "plan.json").exists() for name in names if name != out.name) if out.name in names else 0
