"""Continuous bag of words: the mean of the vectors around a word tells it from drawn ones.

Mikolov et al. 2013, "Efficient Estimation of Word Representations in Vector Space", section 3.1, with negative sampling.
"""

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

_BOUND = 16.0
"""Beyond it a sigmoid is 0 or 1, to seven digits."""
_POINTS = np.linspace(0, _BOUND, 4097)
_TABLES = np.stack([1 / (1 + np.exp(-_POINTS)), np.log1p(np.exp(-_POINTS))]).astype(np.float32)


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
    """The sum of the losses of `_tell`, which makes the gradients of both tables' rows as it goes."""

    @staticmethod
    def forward(ctx: Any, tell: Callable[..., None], words: Tensor, outputs: Tensor, *of: Any) -> Tensor:
        gradients = torch.zeros_like(words), torch.zeros_like(outputs)
        losses = _told(tell, words, outputs, *of, *gradients)
        ctx.save_for_backward(*gradients)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(saved * gradients[0] for saved in ctx.saved_tensors), None, None, None, None


def _told(
    tell: Callable[..., None],
    words: Tensor,
    outputs: Tensor,
    around: Means,
    others: Tensor,
    draws: int,
    share: float,
    *gradients: Tensor,
) -> Tensor:
    """(N,) losses; `gradients`, of `words` and `outputs`, are added to if they are given. `others`: (N + G K,) as in `Places`."""
    count = len(around.begins)
    losses, ends = torch.empty(count), np.append(around.begins.numpy(), len(around.members))
    of = ends, around.members.numpy(), others[:count].numpy(), others[count:].view(-1, draws).numpy()
    into = [gradient.numpy() for gradient in gradients] or [np.zeros((0, 0), np.float32)] * 2
    tell(words.detach().numpy(), outputs.detach().numpy(), *of, np.float32(share), _TABLES, *into, losses.numpy())
    return losses


class Cbow(Sampled):
    """Means over the windows of words, each against its word and the drawn words of its block."""

    def collate(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Rows to the contexts of words (N means), the words themselves (N) and those drawn for each block of S (N / S, K)."""
        found, wide = self.thinned(examples, rngs), self.config.window
        places = found.blocks.reshape(-1)
        steps = np.delete(np.arange(-wide, wide + 1), wide)
        around = places[:, None] + steps  # (N, 2 W)
        own = found.documents[places]
        near = (np.abs(steps) <= found.reach[places, None]) & (found.documents[around] == own[:, None]) & (own > 0)[:, None]
        sizes = near.sum(1)
        means, words = Means.of(found.words[around[near]], sizes), found.words[places]
        outputs = Places.of(np.concatenate([words, found.drawn.reshape(-1)]))
        made = {"real": torch.from_numpy((sizes > 0).astype(np.float32))} | means.named("around") | outputs.named("others")
        read = sum(len(row.ids) for row in examples)
        return Batch(Inputs.of(means.rows[None]), made, {"cbow": float((sizes > 0).sum())}, read)

    @property
    def single_threaded(self) -> bool:
        """Whether there is compiled code for the loss, and little else to do."""
        return not self.encoder_config.ngrams and compiled(_tell, fastmath=True) is not None

    def _compiled(self, targets: dict[str, Tensor]) -> tuple[Any, ...] | None:
        """What `_told` takes, where there is compiled code for these tables: it takes half the time of torch's."""
        fits = self.outputs.device.type == "cpu" and self.outputs.dtype == torch.float32
        if not fits or (tell := compiled(_tell, fastmath=True)) is None:
            return None
        around, others = Means.found("around", targets), Places.found("others", targets)
        rows = self.word_rows(around.rows), sparse_rows(self.outputs, others.rows)
        return tell, *rows, around, others.which, self.config.draws, self.config.negatives / self.config.draws

    def _losses(self, targets: dict[str, Tensor]) -> Tensor:
        """(N,), by torch."""
        around, real = Means.found("around", targets), targets["real"]
        means = averaged(self.word_rows(around.rows), around)  # (N, D)
        own, drawn = _Scores.apply(means, self.outputs_at(Places.found("others", targets)), self.config.block)  # pyright: ignore
        wrong = softplus(drawn).sum(1).view(-1) * (self.config.negatives / self.config.draws)
        return (softplus(-own) + wrong) * real  # (N,)

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum over words of -log sigmoid of their score, and of that of the negatives with the other sign."""
        found = self._compiled(targets)
        total: Any = self._losses(targets).sum() if found is None else _Told.apply(*found)
        return {"cbow": total}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of each word that has a context: its loss."""
        found = self._compiled(targets)
        losses = (self._losses(targets) if found is None else _told(*found))[targets["real"] > 0]
        return {"nats": losses, "targets": torch.ones_like(losses)}


# What follows is compiled: numbers, arrays and loops.


def _tell(
    words: np.ndarray,
    outputs: np.ndarray,
    ends: np.ndarray,
    members: np.ndarray,
    own: np.ndarray,
    drawn: np.ndarray,
    share: float,
    tables: np.ndarray,
    for_words: np.ndarray,
    for_outputs: np.ndarray,
    losses: np.ndarray,
) -> None:
    """Means of rows of `words` against a row of `outputs` of their own and those drawn for their block: losses, gradients.

    `tables`: of x from 0 to `_BOUND` the sigmoid, and the softplus less x; read between their points.
    """
    width, (count, draws) = words.shape[1], drawn.shape
    size, steps = len(own) // max(count, 1), np.float32((tables.shape[1] - 1) / _BOUND)
    means, back = np.empty((size, width), np.float32), np.empty((size, width), np.float32)
    noise, noise_back = np.empty((draws, width), np.float32), np.empty((draws, width), np.float32)
    scores, real = np.empty((draws + 1, size), np.float32), np.empty(size, np.float32)
    for block in range(count):
        first = block * size
        for s in range(size):
            begin, end, row, x = ends[first + s], ends[first + s + 1], own[first + s], np.float32(0)
            real[s] = np.float32(end > begin)
            for d in range(width):
                means[s, d] = 0
            for e in range(begin, end):
                member = members[e]
                for d in range(width):
                    means[s, d] += words[member, d]
            part = np.float32(1) / np.float32(max(end - begin, 1))
            for d in range(width):
                means[s, d] *= part
                x += means[s, d] * outputs[row, d]
            scores[0, s], losses[first + s] = -x, 0
        for k in range(draws):
            row = drawn[block, k]
            for d in range(width):
                noise[k, d] = outputs[row, d]
        np.dot(noise, means.T, scores[1:])
        for k in range(draws + 1):
            weight = share if k else np.float32(1)
            for s in range(size):
                x = scores[k, s]
                at = min(abs(x), np.float32(0.999 * _BOUND)) * steps
                low = max(0, min(int(at), tables.shape[1] - 2))  # of what is no number, too
                between = at - np.float32(low)
                y = tables[0, low] + (tables[0, low + 1] - tables[0, low]) * between
                tail = tables[1, low] + (tables[1, low + 1] - tables[1, low]) * between
                losses[first + s] += weight * real[s] * (max(x, np.float32(0)) + tail)
                scores[k, s] = weight * real[s] * (y if x > 0 else np.float32(1) - y)
        if not len(for_words):
            continue
        np.dot(scores[1:].T, noise, back)
        np.dot(scores[1:], means, noise_back)
        for k in range(draws):
            row = drawn[block, k]
            for d in range(width):
                for_outputs[row, d] += noise_back[k, d]
        for s in range(size):
            row, slope = own[first + s], scores[0, s]
            for d in range(width):
                back[s, d] -= slope * outputs[row, d]
                for_outputs[row, d] -= slope * means[s, d]
            for e in range(ends[first + s], ends[first + s + 1]):
                member = members[e]
                for d in range(width):
                    for_words[member, d] += back[s, d]
