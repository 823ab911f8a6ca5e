"""Full sharding: each of several processes keeps a part of every weight, gradient and moment (torch's FSDP2).

For a model that one GPU cannot hold. A layer of an encoder is gathered when it is computed, forward and backward, and let
go of after it; what is not in a layer (embeddings, heads, a decoder) is gathered as a whole, and kept for a pass. Zhao et
al. 2023, "PyTorch FSDP", section 3; Rajbhandari et al. 2020, "ZeRO", section 5.

All processes must take part in the same passes in the same order: see `loop.micro_batches`. What else has to do with parts
is in `distributed`, which does not import FSDP2: that takes a second, and who only opens a model has no use for it.
"""

import warnings

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from encoderkit import world
from encoderkit.training.config import Shard


def place(learner: nn.Module, device: str, shard: Shard) -> None:
    """Put a learner on `device`: all of it or, `full` and in several processes, the part of this one."""
    if shard == "none" or world.size() == 1:
        learner.to(device)
        return
    mesh = init_device_mesh(device, (world.size(),))
    stacks = [stack for name, stack in learner.named_modules() if name.endswith("encoder.layers")]
    for module in [*(layer for stack in stacks for layer in stack.children()), learner]:
        # The learner, too, lets go of its weights after a pass: one without a backward pass would leave them as they then are.
        made = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        made.set_gradient_divide_factor(1.0)  # losses are divided already: gradients are added up
        made.set_force_sum_reduction_for_comms(True)
    assert isinstance(learner, FSDPModule)
    learner.set_reduce_scatter_unused_params(True)
    for name in ("observe", "parts"):  # what is computed besides the loss
        if hasattr(learner, name):
            register_fsdp_forward_method(learner, name)
    # A warning for who writes into what `parts` gives; the loop does not.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
