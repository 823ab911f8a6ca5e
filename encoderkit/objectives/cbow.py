"""Continuous bag of words: the mean of the vectors around a word tells it from drawn ones.

Mikolov et al. 2013, "Efficient Estimation of Word Representations in Vector Space", section 3.1, with negative sampling.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from encoderkit.data.blocks import Row
from encoderkit.learner import Batch
from encoderkit.models.inputs import Inputs
from encoderkit.objectives.places import Means, Places, averaged
from encoderkit.objectives.windows import Sampled


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

    def _losses(self, targets: dict[str, Tensor]) -> Tensor:
        around, real = Means.found("around", targets), targets["real"]
        means = averaged(self.word_rows(around.rows), around)  # (N, D)
        own, drawn = _Scores.apply(means, self.outputs_at(Places.found("others", targets)), self.config.block)  # pyright: ignore
        wrong = softplus(drawn).sum(1).view(-1) * (self.config.negatives / self.config.draws)
        return (softplus(-own) + wrong) * real  # (N,)

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum over words of -log sigmoid of their score, and of that of the negatives with the other sign."""
        return {"cbow": self._losses(targets).sum()}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of each word that has a context: its loss."""
        losses = self._losses(targets)[targets["real"] > 0]
        return {"nats": losses, "targets": torch.ones_like(losses)}
