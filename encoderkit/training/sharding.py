"""Full sharding: each of several processes keeps a part of every weight, gradient and moment (torch's FSDP2).

For a model that one GPU cannot hold. A layer of an encoder is gathered when it is computed, forward and backward, and let
go of after it; what is not in a layer (embeddings, heads, a decoder) is gathered as a whole, and kept for a pass. Zhao et
al. 2023, "PyTorch FSDP", section 3; Rajbhandari et al. 2020, "ZeRO", section 5.

All processes must take part in the same passes in the same order: see `loop.micro_batches`.
"""

import importlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from encoderkit import world
from encoderkit.training.config import Shard


def place(learner: nn.Module, device: str, shard: Shard) -> None:
    """Put a learner on `device`: all of it or, `full` and in several processes, the part of this one."""
    if shard == "none" or world.size() == 1:
        learner.to(device)
        return
    fsdp: Any = importlib.import_module("torch.distributed.fsdp")  # takes a second, which nobody else has a use for
    mesh = importlib.import_module("torch.distributed.device_mesh").init_device_mesh(device, (world.size(),))
    stacks = [stack for name, stack in learner.named_modules() if name.endswith("encoder.layers")]
    modules = [*(layer for stack in stacks for layer in stack.children()), learner]
    # The learner, too, lets go of its weights after a pass: one without a backward pass would leave them as they then are.
    made = [fsdp.fully_shard(module, mesh=mesh, reshard_after_forward=True) for module in modules]
    for part in made:
        part.set_gradient_divide_factor(1.0)  # losses are divided already: gradients are added up
        part.set_force_sum_reduction_for_comms(True)
    made[-1].set_reduce_scatter_unused_params(True)
    for name in ("observe", "parts"):  # what is computed besides the loss
        if hasattr(learner, name):
            fsdp.register_fsdp_forward_method(learner, name)
    # A warning for who writes into what `parts` gives; the loop does not.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)


def sharded(learner: object) -> bool:
    """Whether this process has only a part of the learner."""
    return hasattr(learner, "unshard")


def _in_parts(tensor: Tensor) -> bool:
    """Whether it is a DTensor, of which each process has some of the rows."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> Tensor:
    """All of a tensor, in all processes, which must all ask for it; itself where it is whole."""
    return tensor.detach().full_tensor() if _in_parts(tensor) else tensor


def on_first(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, each whole, in the first process: on the CPU those that were in parts; other processes get none of these."""
    found = {}
    for name, tensor in sorted(tensors.items()):  # in one order everywhere: what safetensors reads comes in any
        full = whole(tensor)  # one at a time
        if full is tensor or world.first():
            found[name] = full if full is tensor else full.cpu()
    return found


def like(tensor: Tensor, other: Any) -> Tensor:
    """A whole `tensor` where `other` is: all of it, or this process's part if `other`, of the same shape, is in parts."""
    if not _in_parts(other) or tensor.shape != other.shape:
        return tensor.to(other.device)
    made: Any = torch.empty_like(other, requires_grad=False)
    rows = tensor.chunk(world.size())
    if world.rank() < len(rows):  # there may be fewer rows than processes
        made.to_local().copy_(rows[world.rank()])
    return made
