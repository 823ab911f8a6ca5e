"""LoRA: low-rank changes of frozen matrices (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models").

A matrix W becomes W + alpha / rank * B A for whoever asks for it, so that no module knows. `model.safetensors` holds the
sum, and what opens a model directory knows nothing of it either; the factors are for resuming.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from encoderkit.errors import UsageError
from encoderkit.training.config import LoraConfig

_HELD = {"qkv": ("query", "key", "value"), "up": ("mlp",), "down": ("mlp",)}
"""The matrices in a weight, one below the other; other weights are named as the one that they are."""


class Change(nn.Module):
    """(parts * R, C) -> the same with low-rank changes of some of the parts, which are nothing at first."""

    parts: Tensor

    def __init__(self, weight: Tensor, parts: list[int], of: int, config: LoraConfig, generator: torch.Generator) -> None:
        """`parts`: which of `of` equal parts of the rows."""
        super().__init__()
        rows, columns = weight.shape[0] // of, weight.shape[1]
        self.of, self.scale = of, config.alpha / config.rank
        self.register_buffer("parts", torch.tensor(parts), persistent=False)
        self.down = nn.Parameter(torch.randn(len(parts), config.rank, columns, generator=generator) * columns**-0.5)
        self.up = nn.Parameter(torch.zeros(len(parts), rows, config.rank))

    def forward(self, weight: Tensor) -> Tensor:
        """(R, C) the frozen matrix to the one that is used: (R, C)."""
        with torch.autocast(weight.device.type, enabled=False):  # what is trained is to the last digit what `merged` gives
            change = self.scale * (self.up @ self.down)  # (parts, R, C)
        return weight.unflatten(0, (self.of, -1)).index_add(0, self.parts, change).flatten(0, 1)


def adapt(learner: nn.Module, config: LoraConfig | None, seed: int) -> None:
    """Freeze the encoder and give its matrices factors to train; raises `UsageError` where it has none of those."""
    if config is None:
        return
    encoder = learner.get_submodule("encoder").requires_grad_(False)
    generator, found = torch.Generator().manual_seed(seed), set[str]()
    for name, module in [*encoder.named_modules()]:
        last = name.rpartition(".")[2]
        held = _HELD.get(last, (last,))
        parts = [i for i, matrix in enumerate(held) if matrix in config.matrices]
        if parts and name.startswith("layers.") and isinstance(module, nn.Linear):
            if config.rank > (most := min(module.weight.shape[0] // len(held), module.weight.shape[1])):
                message = f"training.lora.rank is {config.rank}, and a matrix of {last} has a rank of {most} at most"
                raise UsageError(message, fix=f"--set training.lora.rank={min(8, most)}")
            change = Change(module.weight, parts, len(held), config, generator).to(module.weight.device)
            parametrize.register_parametrization(module, "weight", change)
            found |= {held[i] for i in parts}
    if missing := set(config.matrices) - found:
        message = f"training.lora changes {' and '.join(sorted(missing))}, and the layers of this encoder have no such matrices"
        raise UsageError(message, fix="training.lora is for Transformers; --set training.lora=null")


def merged(learner: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """`tensors`, by the names of `learner`'s state, as they are named and what they are without factors."""
    found = dict(tensors)
    for name, module in learner.named_modules():
        if isinstance(module, Change):
            prefix = name.removesuffix(".0")  # x.parametrizations.weight
            whole, down, up = (found.pop(f"{prefix}.{part}") for part in ("original", "0.down", "0.up"))
            values = {"down": down, "up": up, "parts": module.parts.to(whole.device)}
            found[prefix.replace(".parametrizations.", ".")] = torch.func.functional_call(module, values, whole).detach()
    return found
