"""How likely a text is to a learner: what it is shown, what it has to guess there, and what that costs in all.

Every objective that can say so has a method `log_likelihoods` (see `learner.Scorer`); those that guess tokens at places
have it from here.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from encoderkit.data.blocks import Row
from encoderkit.learner import Masking
from encoderkit.models.inputs import Inputs, pad


class Probe(NamedTuple):
    """One row that is shown to a learner, and the tokens that it has to guess."""

    text: int
    """The number of the text that it counts for."""
    ids: np.ndarray
    """(T,) what it is shown."""
    places: np.ndarray
    """(K,) where it guesses."""
    labels: np.ndarray
    """(K,) the tokens that are right."""


def in_turn(row: Row, masking: Masking | None) -> Iterator[tuple[int, int]]:
    """For each token of a text, special ones left out: its place, and the end of what is hidden where it is asked for."""
    ends = np.append(np.flatnonzero(row.starts | row.special), len(row.ids))  # a word ends where the next thing begins
    for place in np.flatnonzero(~row.special).tolist():
        yield place, int(ends[np.searchsorted(ends, place, "right")]) if masking == "within_word" else place + 1


def log_likelihoods(
    probes: Iterable[Probe], texts: int, nats: Callable[[Inputs, Tensor, Tensor], Tensor], padding: int, tokens: int, device: str
) -> np.ndarray:
    """(texts,) float64: for each text minus the sum of what its guesses cost, rows of like length computed together.

    `nats` maps inputs, (N,) places as flat indices into (B * T) and (N,) labels to the (N,) cost of each; `padding` is the
    id that fills up rows, of which so many are computed together as have `tokens` tokens.
    """
    probes, total, done = sorted(probes, key=lambda probe: -len(probe.ids)), np.zeros(texts), 0
    while done < len(probes):
        width = len(probes[done].ids)
        batch = probes[done : done + max(1, tokens // width)]
        done += len(batch)
        real = torch.arange(width) < torch.tensor([len(probe.ids) for probe in batch])[:, None]
        inputs = Inputs.of(pad([probe.ids for probe in batch], width, padding), real)
        where = np.concatenate([i * width + probe.places for i, probe in enumerate(batch)])
        labels = np.concatenate([probe.labels for probe in batch])
        cost = nats(inputs.to(device), torch.from_numpy(where).to(device), torch.from_numpy(labels).to(device))
        owner = np.repeat([probe.text for probe in batch], [len(probe.places) for probe in batch])
        np.subtract.at(total, owner, cost.double().cpu().numpy())
    return total
