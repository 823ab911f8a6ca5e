"""Optimizers and which parameters each of them moves, at what share of the learning rate.

Every trained parameter is in exactly one group; a test and an assertion hold that.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from encoderkit.errors import UsageError
from encoderkit.learner import Stepwise
from encoderkit.models.attention import Attention
from encoderkit.models.config import TransformerConfig
from encoderkit.models.deberta import DisentangledAttention
from encoderkit.models.decoder import CausalAttention, CrossAttention
from encoderkit.models.layers import GatedMlp
from encoderkit.training.config import AdagradConfig, MuonConfig, OptimizerConfig, SgdConfig
from encoderkit.training.rowwise import Adagrad, Sgd
from encoderkit.training.sharding import like, whole


def depth(name: str, layers: int) -> int:
    """How deep a parameter lies: 0 for embeddings, i + 1 for block i, layers + 1 for all above."""
    if match := re.match(r"encoder\.layers\.(\d+)\.", name):
        return int(match[1]) + 1
    embeddings = "tokens|ngrams|contexts|positions|segments|distance_bias|embedding_norm|embedding_projection|projection|unknown"
    return 0 if re.match(rf"encoder\.({embeddings}|distances|distance_norm|convolution)\b", name) else layers + 1


class Depths(NamedTuple):
    """How deep each parameter of a learner lies, and how many layers its encoder has."""

    of: dict[str, int]
    """0 for embeddings, i + 1 for layer i, layers + 1 for all above; weights that layers share belong to the last of them."""
    layers: int
    shared: dict[int, int]
    """The first layer of weights that layers share -> the last one, counted from 1."""


def depths(learner: nn.Module) -> Depths:
    """The depths of all parameters, trained or not."""
    names = [name for name, _ in learner.named_parameters()]
    config = learner.encoder_config
    if not isinstance(config, TransformerConfig):
        layers = max((depth(name, -1) for name in names), default=0)
        return Depths({name: depth(name, layers) for name in names}, layers, {})
    uses = config.uses
    level = [0, *(last + 1 for _, last in uses), config.layers + 1]  # of each block, of which there may be fewer than layers
    shared = {first + 1: last + 1 for first, last in uses if first < last}
    return Depths({name: level[depth(name, len(uses))] for name in names}, config.layers, shared)


def freeze(learner: nn.Module, what: str | int | None) -> None:
    """Keep the embeddings (and the first n layers) as they are; raises `UsageError` where there are not as many.

    Nor can the first n be kept where one of them shares its weights with a layer above.
    """
    if what is None:
        return
    limit, found = 0 if what == "embeddings" else int(what), depths(learner)
    if limit > found.layers:
        message = f"training.freeze is {limit}, but the encoder has {found.layers} layers"
        raise UsageError(message, fix=f"--set training.freeze={found.layers}")
    for first, last in found.shared.items():
        if first <= limit < last:
            message = f"training.freeze is {limit}, but layers {first} to {last} share their weights"
            raise UsageError(message, fix=f"--set training.freeze={last}, or {first - 1 or 'embeddings'}")
    for name, parameter in learner.named_parameters():
        if found.of[name] <= limit:
            parameter.requires_grad_(False)


def unfreeze(optimizers: Sequence[torch.optim.Optimizer], steps: float) -> None:
    """Train what stands above the layers and as many layers, from the top, as there were `steps`; the rest waits."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for p in group["params"] if "below" in group else ():
                p.requires_grad_(group["below"] <= steps)


def renewed(learner: nn.Module, count: int | None) -> dict[str, Tensor]:
    """Copies of the weights of the top `count` layers and of all above them; raises `UsageError` as `freeze` does."""
    if count is None:
        return {}
    found = depths(learner)
    if count > found.layers:
        message = f"training.reinit is {count}, but the encoder has {found.layers} layers"
        raise UsageError(message, fix=f"--set training.reinit={found.layers}")
    below = found.layers - count
    for first, last in found.shared.items():
        if first <= below < last:
            fix = f"--set training.reinit={found.layers} for all of them, or null"
            raise UsageError(f"training.reinit is {count}, but layers {first} to {last} share their weights", fix=fix)
    return {name: p.detach().clone() for name, p in learner.named_parameters() if found.of[name] > below}


def build_optimizers(learner: nn.Module, config: OptimizerConfig, dtype: torch.dtype) -> list[torch.optim.Optimizer]:
    """The optimizers of a learner; each group has `lr_peak`, which a schedule scales into `lr`, and `below`: how many layers
    deep it is, counted from what stands above them.

    `dtype` is that of the run's products; weights and averages are float32 in any case.
    """
    named = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    levels, layers, _ = depths(learner)
    hidden = {name for name, p in named if isinstance(config, MuonConfig) and ".layers." in name and p.ndim == 2}
    groups: dict[tuple[bool, bool, int], list[tuple[str, nn.Parameter]]] = {}
    for name, p in named:
        groups.setdefault((name in hidden, p.ndim >= 2, levels[name]), []).append((name, p))
    adamw_lr = config.adamw_lr if isinstance(config, MuonConfig) else config.lr
    decay = 0.0 if isinstance(config, SgdConfig | AdagradConfig) else config.weight_decay

    def settings(muon: bool) -> list[dict]:
        return [
            {
                "params": [p for _, p in members],
                "names": [name for name, _ in members],
                "lr_peak": (config.lr if muon else adamw_lr) * config.layer_decay ** (layers + 1 - level),
                "below": layers + 1 - level,
                "lr": 0.0,
                "weight_decay": decay if matrix else 0.0,
            }
            for (is_muon, matrix, level), members in groups.items()
            if is_muon == muon
        ]

    optimizers: list[torch.optim.Optimizer] = []
    if isinstance(config, AdagradConfig):
        pairwise = learner if isinstance(learner, Stepwise) else None
        optimizers.append(Adagrad(settings(muon=False), config.eps, config.initial, pairwise))
    elif isinstance(config, SgdConfig):
        optimizers.append(Sgd(settings(muon=False), config.row_clip))
    elif rest := settings(muon=False):
        optimizers.append(torch.optim.AdamW(rest, lr=adamw_lr, betas=config.betas, eps=config.eps, fused=True))
    if matrices := settings(muon=True):
        assert isinstance(config, MuonConfig)
        optimizers.append(Muon(matrices, config.momentum, dtype, _fused(learner)))
    assert sorted(name for o in optimizers for g in o.param_groups for name in g["names"]) == sorted(n for n, _ in named)
    return optimizers


class Muon(torch.optim.Optimizer):
    """Momentum whose update is the nearest orthogonal matrix (Jordan et al. 2024), for the matrices of hidden layers.

    torch.optim.Muon always computes in bfloat16, which is slow where the hardware has none; this one computes in
    the arithmetic of the run, and takes matrices of one shape together as a batch. A fused matrix of queries, keys and
    values is three matrices, a gated MLP's first one two, and an LSTM's one for each gate. Of sharded matrices each
    process computes the change of the whole, and takes its part.
    """

    def __init__(self, groups: Iterable[dict], momentum: float, dtype: torch.dtype, fused: dict[str, int]) -> None:
        super().__init__(list(groups), {"momentum": momentum})
        self._dtype, self._fused = dtype, fused

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update of every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            by_shape: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for name, p in zip(group["names"], group["params"], strict=True):
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                direction = whole(torch.lerp(p.grad, state["momentum"], group["momentum"]))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                parts = direction.unflatten(0, (self._fused.get(name, 1), -1))
                by_shape.setdefault(tuple(parts.shape[1:]), []).append((p, parts))
            for (rows, columns), pairs in by_shape.items():
                scale = group["lr"] * max(1.0, rows / columns) ** 0.5
                changes = orthogonal(torch.cat([parts for _, parts in pairs]), self._dtype)
                for (p, _), change in zip(pairs, changes.split([len(parts) for _, parts in pairs]), strict=True):
                    p.add_(like(change.flatten(0, 1), p), alpha=-scale)


def _fused(learner: nn.Module) -> dict[str, int]:
    """How many matrices a parameter holds, for those that hold more than one."""
    parts = {}
    for path, module in learner.named_modules():
        if isinstance(module, Attention | CausalAttention | DisentangledAttention):
            parts[f"{path}.qkv.weight"] = 3
        elif isinstance(module, CrossAttention):
            parts[f"{path}.kv.weight"] = 2
        elif isinstance(module, GatedMlp):
            parts[f"{path}.up.weight"] = 2
        elif isinstance(module, nn.LSTM | nn.GRU):
            gates = 4 if isinstance(module, nn.LSTM) else 3
            parts |= {f"{path}.{name}": gates for name, weight in module.named_parameters() if weight.ndim == 2}
    return parts


STEPS = (
    (8.3837, -24.7659, 18.3571),
    (4.0434, -3.0114, 0.5695),
    (3.5056, -2.6267, 0.5257),
    (2.4901, -1.8343, 0.4368),
)
"""a, b, c of a x + b x^3 + c x^5, step by step: of all such four, one after the other, those that bring singular values from
0.003 to 1 nearest to 1 (Amsel et al. 2025, "The Polar Express", algorithm 1): between 0.8 and 1.2. Five steps of Jordan's (2024)
one polynomial, 3.4445, -4.7750, 2.0315, bring them between 0.68 and 1.2."""


def orthogonal(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, R, C) matrices to about the nearest orthogonal ones, by quintic Newton-Schulz steps.

    Singular values below 0.003 of the norm of a matrix stay smaller than the others.
    """
    x = matrices.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # a norm that was rounded down must not leave more than 1
    if dtype != torch.bfloat16 and x.shape[-1] >= 2 * x.shape[-2]:
        x = _gathered(x @ x.mT) @ x
    else:
        for a, b, c in STEPS:
            square = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


def _gathered(square: Tensor) -> Tensor:
    """(N, R, R) products of matrices with themselves to what the steps multiply the matrices by in all: only the short side is
    worked on, in half the time where the other is four times as long. bfloat16 has not digits enough for it.
    """
    gathered = factor = _factor(square, STEPS[0])
    for step in STEPS[1:]:
        square = factor @ square @ factor
        factor = _factor(square, step)
        gathered = factor @ gathered
    return gathered


def _factor(square: Tensor, step: tuple[float, float, float]) -> Tensor:
    """What a step multiplies matrices by whose product with themselves this is."""
    a, b, c = step
    factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
    factor.diagonal(dim1=-2, dim2=-1).add_(a)
    return factor
