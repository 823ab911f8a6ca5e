"""Continuous bag of words: the mean of the vectors around a word tells it from drawn ones.

Mikolov et al. 2013, "Efficient Estimation of Word Representations in Vector Space", section 3.1, with negative sampling.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from encoderkit.compiled import compiled
from encoderkit.data.blocks import Row
from encoderkit.learner import Batch
from encoderkit.models.inputs import Inputs
from encoderkit.models.static import sparse_rows
from encoderkit.objectives.places import Means, Places, averaged
from encoderkit.objectives.windows import Sampled

_EXP = tuple(np.float32((-1) ** n / math.factorial(n)) for n in range(7, -1, -1))
_ARTANH = tuple(np.float32(2 / n) for n in range(11, 0, -2))
"""Factors of the series of exp(-x), and of 2 artanh(x) / x in x²; the highest power first."""


class _Scores(torch.autograd.Function):
    """Means (N, D) times their own words, (N,), and times the words drawn for their block of S, (G, K, S).

    `others` (N + G K, D) are both kinds of words. What autograd would do by itself takes half as long again: it would make
    and add up the gradients of each part of `means` and `others` apart.
    """

    @staticmethod
    def forward(ctx: Any, means: Tensor, others: Tensor, block: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(means, others)
        blocks, drawn = _in_blocks(means, others, block)
        return torch.linalg.vecdot(means, others[: len(means)]).float(), torch.bmm(drawn, blocks.mT).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        means, others = ctx.saved_tensors
        own, apart = (gradient.to(means.dtype) for gradient in gradients)
        blocks, drawn = _in_blocks(means, others, apart.shape[2])
        for_means = others[: len(means)] * own[:, None]
        for_means.view_as(blocks).baddbmm_(apart.mT, drawn)
        for_others = torch.empty_like(others)
        torch.mul(means, own[:, None], out=for_others[: len(means)])
        for_others[len(means) :].view_as(drawn).copy_(torch.bmm(apart, blocks))  # written there at once it takes longer
        return for_means, for_others, None


def _in_blocks(means: Tensor, others: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Means as (G, S, D), and the drawn words as (G, K, D)."""
    blocks = means.view(-1, block, means.shape[1])
    draws = (len(others) - len(means)) // max(len(blocks), 1)
    return blocks, others[len(means) :].view(len(blocks), draws, means.shape[1])


class _Told(torch.autograd.Function):
    """`_told`: the sum of the losses, whose gradients are found with it."""

    @staticmethod
    def forward(ctx: Any, words: Tensor, outputs: Tensor, *of: Any) -> Tensor:
        losses, *ctx.found = _told(words, outputs, *of)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(one.mul_(gradients[0]) for one in ctx.found), *[None] * 5


def _told(
    words: Tensor, outputs: Tensor, tell: Callable[..., None], around: Means, others: Tensor, draws: int, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """By `_tell`, of words (R, D) and outputs (Q, D): the losses (N,), and the gradients of their sum.

    `others`: the own words of the N means, and those drawn for each block, as rows of `outputs`.
    """
    count = len(around.begins)
    own, drawn = others[:count].numpy(), others[count:].view(-1, draws).numpy()
    ends = np.append(around.begins.numpy(), len(around.members))
    found = torch.zeros(count), torch.zeros(words.shape), torch.zeros(outputs.shape)
    tables, batch = (words.detach().numpy(), outputs.detach().numpy()), (ends, around.members.numpy(), own, drawn)
    tell(*tables, batch, np.float32(share), tuple(one.numpy() for one in found))
    return found


class Cbow(Sampled):
    """Means over the windows of words, each against its word and the drawn words of its block."""

    def collate(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Rows to the contexts of words (N means), the words themselves (N) and those drawn for each block of S (N / S, K)."""
        found, wide = self.thinned(examples, rngs), self.config.window
        places = found.blocks.reshape(-1)
        if (near := compiled(_near)) is not None:
            ids, sizes = np.empty(len(places) * 2 * wide, np.int64), np.zeros(len(places), np.int64)
            ids = ids[: near(found.words, found.documents, found.reach, places, ids, sizes)]
        else:
            steps = np.delete(np.arange(-wide, wide + 1), wide)
            around = places[:, None] + steps  # (N, 2 W)
            own = found.documents[places]
            inside = (np.abs(steps) <= found.reach[places, None]) & (found.documents[around] == own[:, None])
            inside &= (own > 0)[:, None]
            ids, sizes = found.words[around[inside]], inside.sum(1)
        means, words = Means.of(ids, sizes), found.words[places]
        outputs = Places.of(np.concatenate([words, found.drawn.reshape(-1)]))
        made = {"real": torch.from_numpy((sizes > 0).astype(np.float32))} | means.named("around") | outputs.named("others")
        read = sum(len(row.ids) for row in examples)
        return Batch(Inputs.of(means.rows[None]), made, {"cbow": float((sizes > 0).sum())}, read)

    @property
    def single_threaded(self) -> bool:
        """Whether there is compiled code for the loss, and little else to do."""
        return not self.encoder_config.ngrams and compiled(_tell, fastmath=True) is not None

    def _losses(self, targets: dict[str, Tensor], summed: bool) -> Tensor:
        """(N,), or their sum; by compiled code, where there is some for these tables, almost twice as fast as by torch."""
        around, others = Means.found("around", targets), Places.found("others", targets)
        words, share = self.word_rows(around.rows), self.config.negatives / self.config.draws
        fits = words.device.type == "cpu" and words.dtype == self.contexts.dtype == torch.float32
        if fits and (tell := compiled(_tell, fastmath=True)) is not None:
            given = words, sparse_rows(self.contexts, others.rows), tell, around, others.which, self.config.draws, share
            return _Told.apply(*given) if summed else _told(*given)[0]  # pyright: ignore[reportReturnType]
        scored = _Scores.apply(averaged(words, around), self.outputs_at(others), self.config.block)
        own, drawn = scored  # pyright: ignore[reportGeneralTypeIssues]
        losses = (softplus(-own) + softplus(drawn).sum(1).view(-1) * share) * targets["real"]
        return losses.sum() if summed else losses

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum over words of -log sigmoid of their score, and of that of the negatives with the other sign."""
        return {"cbow": self._losses(targets, summed=True)}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of each word that has a context: its loss."""
        losses = self._losses(targets, summed=False)[targets["real"] > 0]
        return {"nats": losses, "targets": torch.ones_like(losses)}


# What follows is compiled: numbers, arrays and loops.


def _near(
    words: np.ndarray, documents: np.ndarray, reach: np.ndarray, places: np.ndarray, ids: np.ndarray, sizes: np.ndarray
) -> int:
    """The words around each of `places`, end to end; how many each has; and how many there are in all."""
    found = 0
    for n in range(len(places)):
        place, first = places[n], found
        if documents[place] > 0:
            for at in range(place - reach[place], place + reach[place] + 1):
                if at != place and documents[at] == documents[place]:
                    ids[found] = words[at]
                    found += 1
        sizes[n] = found - first
    return found


def _tell(
    words: np.ndarray, outputs: np.ndarray, batch: tuple[np.ndarray, ...], share: float, found: tuple[np.ndarray, ...]
) -> None:
    """Means of rows of `words` against a row of `outputs` of their own and those drawn for their block.

    Losses, and gradients to be added up; each member of a mean has the whole of the mean's. Both numbers that a loss is made of
    come of u = exp(-|x|), the 8th power of the series of exp(-|x| / 8); log(1 + u) is 2 artanh(u / (2 + u)).
    """
    (ends, members, own, drawn), (losses, for_words, for_outputs) = batch, found
    draws, width, size = drawn.shape[1], words.shape[1], len(own) // len(drawn)
    means, back = np.empty((size, width), np.float32), np.empty((size, width), np.float32)
    noise, noise_back = np.empty((draws, width), np.float32), np.empty((draws, width), np.float32)
    slopes, real, lost = np.empty((draws + 1, size), np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    for block in range(len(drawn)):
        first = block * size
        for s in range(size):
            n, mean, output, x = first + s, means[s], outputs[own[first + s]], np.float32(0)
            mean[:] = 0
            for e in range(ends[n], ends[n + 1]):
                member = words[members[e]]
                for d in range(width):
                    mean[d] += member[d]
            part = np.float32(1) / np.float32(max(ends[n + 1] - ends[n], 1))
            for d in range(width):
                mean[d] *= part
                x += mean[d] * output[d]
            slopes[0, s], real[s], lost[s] = -x, np.float32(ends[n + 1] > ends[n]), 0
        for k in range(draws):
            noise[k] = outputs[drawn[block, k]]
        np.dot(noise, means.T, slopes[1:])
        for k in range(draws + 1):
            line, weight = slopes[k], share if k else np.float32(1)
            for s in range(size):
                x, far = line[s], abs(line[s])
                t, u, tail = min(far, np.float32(16)) * np.float32(1 / 8), np.float32(0), np.float32(0)
                for factor in _EXP:
                    u = u * t + factor
                for _ in range(3):
                    u *= u
                z = u / (np.float32(2) + u)
                for factor in _ARTANH:
                    tail = tail * z * z + factor
                counts, near = weight * real[s], np.float32(1) / (np.float32(1) + u)
                lost[s] += counts * (np.float32(0.5) * (x + far) + tail * z)
                line[s] = counts * (near if x > 0 else np.float32(1) - near)
        losses[first : first + size] = lost
        np.dot(slopes[1:].T, noise, back)
        np.dot(slopes[1:], means, noise_back)
        for k in range(draws):
            for_outputs[drawn[block, k]] += noise_back[k]
        for s in range(size):
            n, slope, row = first + s, slopes[0, s], own[first + s]
            for d in range(width):
                back[s, d] -= slope * outputs[row, d]
                for_outputs[row, d] -= slope * means[s, d]
            for e in range(ends[n], ends[n + 1]):
                word = for_words[members[e]]
                for d in range(width):
                    word[d] += back[s, d]
