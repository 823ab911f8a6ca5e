"""Held-out metrics: over all targets at once, so that neither batch size nor padding changes them."""

import numpy as np
import torch
from torch import nn

from encoderkit import world
from encoderkit.data.order import rng
from encoderkit.learner import Learner
from encoderkit.training.distributed import gathered
from encoderkit.training.loop import Source, size
from encoderkit.training.machine import DTYPES

DEV_SEED = 271_828
"""Corruption of held-out data depends on this and the example alone, so that all runs are measured on the same."""


@torch.inference_mode()
def observe(learner: Learner, source: Source, batch: int, device: str, precision: str) -> dict[str, np.ndarray]:
    """What the learner observes of every example, shortest examples first; several processes share the work."""
    assert isinstance(learner, nn.Module)
    learner.eval()
    lengths = np.array([size(source[i]) for i in range(len(source))])
    order = np.argsort(lengths, kind="stable")[world.rank() :: world.size()]
    parts: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(order), batch):
        numbers = order[start : start + batch].tolist()
        examples = [source[i] for i in numbers]
        made = learner.collate(examples, [rng(DEV_SEED, 0, i) for i in numbers], None).to(device)
        with torch.autocast(device, DTYPES[precision], enabled=precision != "fp32"):
            for name, value in learner.observe(made.inputs, made.targets).items():
                parts.setdefault(name, []).append(value.cpu().numpy())
    return gathered({name: np.concatenate(values) for name, values in parts.items()})


def evaluate(learner: Learner, source: Source, batch: int, device: str, precision: str) -> dict[str, float]:
    """The learner's metrics on a data set."""
    return learner.metrics(observe(learner, source, batch, device, precision))
