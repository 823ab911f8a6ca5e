"""Averages of the weights over the updates of a run (Polyak and Juditsky 1992), for evaluation and for the saved model.

They are optimizers that change nothing: what they remember is kept, saved and restored as moments are, by the name of the
parameter.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import floor

import torch
from torch import Tensor, nn

from encoderkit.training.config import AverageConfig, EmaConfig, LastConfig
from encoderkit.training.schedule import updates_in

_PREFIX = "average"
"""What all that is remembered here begins with, and nothing that moves weights remembers."""


class Average(torch.optim.Optimizer):
    """What both averages have in common."""

    def __init__(self, learner: nn.Module) -> None:
        named = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
        group = {"params": [p for _, p in named], "names": [name for name, _ in named], "lr": 0.0, "lr_peak": 0.0}
        super().__init__([group], {})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Remember the weights after an update; the loop has put its number, and that of the last one, into the group."""
        [group] = self.param_groups
        for p in group["params"]:
            self.note(p, self.state[p], group["update"], group["end"])

    def note(self, p: Tensor, state: dict[str, Tensor], update: int, end: int) -> None:
        """Remember `p` as it is after `update` of `end`."""
        raise NotImplementedError

    def mean(self, state: dict[str, Tensor]) -> Tensor:
        """The average of what was remembered; there is something."""
        raise NotImplementedError


class Ema(Average):
    """After update n the sum of decay^(n - i) times the weights after update i, by the sum of these factors."""

    def __init__(self, learner: nn.Module, decay: float) -> None:
        super().__init__(learner)
        self._decay = decay

    def note(self, p: Tensor, state: dict[str, Tensor], update: int, end: int) -> None:
        """The newest weights have 1 of the factors, which add up to (1 - decay^n) / (1 - decay)."""
        if not state:
            state[_PREFIX] = torch.zeros_like(p)
        state[_PREFIX].lerp_(p, (1 - self._decay) / (1 - self._decay**update))

    def mean(self, state: dict[str, Tensor]) -> Tensor:
        """As it is kept."""
        return state[_PREFIX]


class Last(Average):
    """The mean at the last `count` of the updates end, end - every, end - 2 every, ..."""

    def __init__(self, learner: nn.Module, count: int, every: float) -> None:
        super().__init__(learner)
        self._count, self._every = count, every

    def note(self, p: Tensor, state: dict[str, Tensor], update: int, end: int) -> None:
        """A copy of the weights in place of the oldest one; none as long as the end is not settled."""
        if not end:
            return
        left = end - update
        number = floor(left / self._every)
        if number != floor((left - 1) / self._every):
            state[f"{_PREFIX}_{number % self._count}"] = p.detach().clone()

    def mean(self, state: dict[str, Tensor]) -> Tensor:
        """Of the copies, fewer than `count` at the start."""
        return torch.stack([state[name] for name in sorted(state)]).mean(0)


def build_average(learner: nn.Module, config: AverageConfig | None, epoch: float) -> list[torch.optim.Optimizer]:
    """The average that a recipe asks for, if any; `epoch` updates are one pass over the data."""
    if config is None:
        return []
    if isinstance(config, EmaConfig):
        return [Ema(learner, config.decay)]
    return [Last(learner, config.count, max(1.0, updates_in(config.every, epoch)))]


def too_few(config: AverageConfig | None, epoch: float, updates: int) -> str | None:
    """Why a run comes to an average of fewer weights than its recipe says; None if it does not."""
    if not isinstance(config, LastConfig):
        return None
    copies = 1 + floor((updates - 1) / max(1.0, updates_in(config.every, epoch)))
    if copies >= config.count:
        return None
    return f"training.average is of {config.count} states, {config.every} apart, and a run of {updates} updates has {copies}"


def means(optimizers: Sequence[torch.optim.Optimizer]) -> list[tuple[Tensor, Tensor]]:
    """Each parameter that has an average, and the average."""
    kept = [optimizer for optimizer in optimizers if isinstance(optimizer, Average)]
    return [(p, average.mean(state)) for average in kept for p, state in average.state.items() if state]


@contextmanager
def averaged(optimizers: Sequence[torch.optim.Optimizer]) -> Iterator[None]:
    """The averages in place of the weights for a while, if there are any."""
    held = []
    with torch.no_grad():
        for p, mean in means(optimizers):
            held.append((p, p.clone()))
            p.copy_(mean)
    try:
        yield
    finally:
        with torch.no_grad():
            for p, before in held:
                p.copy_(before)


def remembers(optimizer: torch.optim.Optimizer, key: str) -> bool:
    """Whether this optimizer, of all that move or average a parameter, is the one that remembers `key` of it."""
    return key.startswith(_PREFIX) == isinstance(optimizer, Average)
