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
    """`_tell` and `_pull`: rows of the tables of words (R, D) and of outputs (Q, D) to the losses (N,)."""

    @staticmethod
    def forward(
        ctx: Any, kernels: Any, words: Tensor, outputs: Tensor, around: Means, others: Tensor, draws: int, share: float
    ) -> Tensor:
        tell, ctx.pull = kernels
        count = len(around.begins)
        own, drawn = others[:count].numpy(), others[count:].view(-1, draws).numpy()
        batch = np.append(around.begins.numpy(), len(around.members)), around.members.numpy(), own, drawn
        losses, means = torch.empty(count), np.empty((count, words.shape[1]), np.float32)
        slopes = np.empty((len(drawn), draws + 1, count // max(len(drawn), 1)), np.float32)
        tell(words.detach().numpy(), outputs.detach().numpy(), *batch, np.float32(share), _TABLES, means, slopes, losses.numpy())
        ctx.save_for_backward(words, outputs)
        ctx.made = *batch, means, slopes
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        words, outputs = ctx.saved_tensors
        found = torch.zeros_like(words), torch.zeros_like(outputs)
        pull = gradients[0].contiguous().numpy()
        ctx.pull(outputs.detach().numpy(), *ctx.made, pull, *(one.numpy() for one in found))
        return None, *found, None, None, None, None


def _kernels() -> list[Callable[..., None]] | None:
    """`_tell` and `_pull` compiled, if they can be."""
    made = [kernel for function in (_tell, _pull) if (kernel := compiled(function, fastmath=True))]
    return made if len(made) == 2 else None


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
        return not self.encoder_config.ngrams and _kernels() is not None

    def _losses(self, targets: dict[str, Tensor]) -> Tensor:
        """(N,); by compiled code, where there is some for these tables, which takes three quarters of the time of torch's."""
        around, others = Means.found("around", targets), Places.found("others", targets)
        words, share = self.word_rows(around.rows), self.config.negatives / self.config.draws
        fits = words.device.type == "cpu" and words.dtype == self.outputs.dtype == torch.float32
        if fits and (kernels := _kernels()) is not None:
            outputs = sparse_rows(self.outputs, others.rows)
            return _Told.apply(kernels, words, outputs, around, others.which, self.config.draws, share)  # pyright: ignore
        scored = _Scores.apply(averaged(words, around), self.outputs_at(others), self.config.block)
        own, drawn = scored  # pyright: ignore[reportGeneralTypeIssues]
        return (softplus(-own) + softplus(drawn).sum(1).view(-1) * share) * targets["real"]

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum over words of -log sigmoid of their score, and of that of the negatives with the other sign."""
        return {"cbow": self._losses(targets).sum()}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of each word that has a context: its loss."""
        losses = self._losses(targets)[targets["real"] > 0]
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
    means: np.ndarray,
    slopes: np.ndarray,
    losses: np.ndarray,
) -> None:
    """Means of rows of `words` against a row of `outputs` of their own and those drawn for their block: losses, and slopes.

    `tables`: of x from 0 to `_BOUND` the sigmoid, and the softplus less x; read between their points. `slopes` (G, 1 + K, S) are
    of the losses by the scores, the own one with the other sign first.
    """
    (count, draws), width, size = drawn.shape, words.shape[1], slopes.shape[2]
    steps, noise = np.float32((tables.shape[1] - 1) / _BOUND), np.empty((draws, width), np.float32)
    for block in range(count):
        first = block * size
        for n in range(first, first + size):
            row, x = own[n], np.float32(0)
            for d in range(width):
                means[n, d] = 0
            for e in range(ends[n], ends[n + 1]):
                member = members[e]
                for d in range(width):
                    means[n, d] += words[member, d]
            part = np.float32(1) / np.float32(max(ends[n + 1] - ends[n], 1))
            for d in range(width):
                means[n, d] *= part
                x += means[n, d] * outputs[row, d]
            slopes[block, 0, n - first], losses[n] = -x, 0
        for k in range(draws):
            row = drawn[block, k]
            for d in range(width):
                noise[k, d] = outputs[row, d]
        np.dot(noise, means[first : first + size].T, slopes[block, 1:])
        for k in range(draws + 1):
            for s in range(size):
                x, real = slopes[block, k, s], np.float32(ends[first + s + 1] > ends[first + s])
                weight = real * share if k else real
                at = min(abs(x), np.float32(0.999 * _BOUND)) * steps
                low = max(0, min(int(at), tables.shape[1] - 2))  # of what is no number, too
                between = at - np.float32(low)
                y = tables[0, low] + (tables[0, low + 1] - tables[0, low]) * between
                tail = tables[1, low] + (tables[1, low + 1] - tables[1, low]) * between
                losses[first + s] += weight * (max(x, np.float32(0)) + tail)
                slopes[block, k, s] = weight * (y if x > 0 else np.float32(1) - y)


def _pull(
    outputs: np.ndarray,
    ends: np.ndarray,
    members: np.ndarray,
    own: np.ndarray,
    drawn: np.ndarray,
    means: np.ndarray,
    slopes: np.ndarray,
    pull: np.ndarray,
    for_words: np.ndarray,
    for_outputs: np.ndarray,
) -> None:
    """Add the gradients of rows of both tables; each member of a mean has the whole of the mean's. `pull` (N,): of the losses."""
    (count, draws), width, size = drawn.shape, outputs.shape[1], slopes.shape[2]
    noise, noise_back = np.empty((draws, width), np.float32), np.empty((draws, width), np.float32)
    back, scores = np.empty((size, width), np.float32), np.empty((draws, size), np.float32)
    for block in range(count):
        first = block * size
        for k in range(draws):
            row = drawn[block, k]
            for d in range(width):
                noise[k, d] = outputs[row, d]
            for s in range(size):
                scores[k, s] = slopes[block, k + 1, s] * pull[first + s]
        np.dot(scores.T, noise, back)
        np.dot(scores, means[first : first + size], noise_back)
        for k in range(draws):
            row = drawn[block, k]
            for d in range(width):
                for_outputs[row, d] += noise_back[k, d]
        for s in range(size):
            n, row, slope = first + s, own[first + s], slopes[block, 0, s] * pull[first + s]
            for d in range(width):
                back[s, d] -= slope * outputs[row, d]
                for_outputs[row, d] -= slope * means[n, d]
            for e in range(ends[n], ends[n + 1]):
                member = members[e]
                for d in range(width):
                    for_words[member, d] += back[s, d]
