"""Optimizers for tables of which an update touches few rows, and the norm of gradients some of which are such tables'.

Their gradients are sums over the targets of an update, as word2vec's and GloVe's code has them, not means: the learning
rate is that of one target, whatever the size of the update. The loop says in each group how many targets there were.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from encoderkit.compiled import compiled
from encoderkit.learner import PairSteps, Stepwise
from encoderkit.training.distributed import in_order
from encoderkit.training.sharding import whole


class _Rowwise(torch.optim.Optimizer):
    """One update of everything that has a gradient; of a sparse one only its rows are touched."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update."""
        assert closure is None
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if p.grad.is_sparse:
                    gradient = coalesced(p.grad)
                    self.move(p, gradient.indices()[0], gradient.values(), group)
                else:
                    p.sub_(self.change(p, None, p.grad, group))

    def move(self, p: Tensor, rows: Tensor, gradient: Tensor, group: dict) -> None:
        """Take their change from the `rows` of `p`, which ascend."""
        p.index_add_(0, rows, self.change(p, rows, gradient, group), alpha=-1)

    def change(self, p: Tensor, rows: Tensor | None, gradient: Tensor, group: dict) -> Tensor:
        """What is taken from `p`, or from its `rows`; `gradient`, a mean over targets, may be overwritten."""
        raise NotImplementedError


class Sgd(_Rowwise):
    """Plain stochastic gradient descent, as word2vec's; a row whose gradient is longer than `row_clip` moves as if it were not.

    Word by word, a frequent word would move many times and its gradient shrink while it does; summed over an update it
    overshoots. The clip is of no account for all other words.
    """

    def __init__(self, groups: Iterable[dict], row_clip: float | None) -> None:
        super().__init__(list(groups), {"row_clip": row_clip, "targets": 1.0})

    def move(self, p: Tensor, rows: Tensor, gradient: Tensor, group: dict) -> None:
        """Row by row in compiled code, where there is some: a quarter of the time of torch's, which goes over them five times."""
        fits = p.ndim == 2 and p.device.type == "cpu" and p.dtype == gradient.dtype == torch.float32
        if not fits or (descend := compiled(_descend, fastmath=True)) is None:
            return super().move(p, rows, gradient, group)
        most = float("inf") if group["row_clip"] is None else group["row_clip"]
        numbers = np.array([group["lr"], group["targets"], most], np.float32)
        descend(p.detach().numpy(), rows.numpy(), gradient.numpy(), *numbers)

    def change(self, p: Tensor, rows: Tensor | None, gradient: Tensor, group: dict) -> Tensor:
        """The gradient, clipped by rows, times the learning rate."""
        most, scale = group["row_clip"], group["lr"] * group["targets"]
        if most is None or p.ndim == 1:
            return gradient.mul_(scale)
        norm = torch.linalg.vector_norm(gradient, dim=tuple(range(1, p.ndim)), keepdim=True) * group["targets"]
        return gradient.mul_(scale * (most / norm.clamp(min=1e-30)).clamp(max=1))


def _descend(table: np.ndarray, rows: np.ndarray, gradient: np.ndarray, rate: float, targets: float, most: float) -> None:
    """Compiled: what `Sgd.change` says, taken from the rows of a table."""
    for i in range(len(rows)):
        row, change, square = table[rows[i]], gradient[i], np.float32(0)
        for d in range(len(change)):
            square += change[d] * change[d]
        norm = np.sqrt(square) * targets
        scale = rate * targets * (most / norm) if norm > most else rate * targets
        for d in range(len(change)):
            row[d] -= scale * change[d]


class Adagrad(_Rowwise):
    """AdaGrad (Duchi et al. 2011, figure 1), element by element. `initial`: its sum of squares before the first update.

    torch.optim.Adagrad gives the same numbers and takes several times as long on sparse gradients. `learner`: whose
    pairs of rows are moved one after the other, in place of gradients. Several processes make the steps of all.
    """

    def __init__(self, groups: Iterable[dict], eps: float, initial: float, learner: Stepwise | None = None) -> None:
        super().__init__(list(groups), {"eps": eps, "initial": initial, "targets": 1.0})
        self._learner = learner

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """One update."""
        super().step(closure)
        if self._learner is not None:
            if (pairs := in_order(self._learner.steps, self._learner.tables)) is not None:
                self._walk(pairs)
            self._learner.steps.clear()

    def _walk(self, pairs: PairSteps) -> None:
        """Pair by pair in compiled code, where there is some; otherwise round by round, whose pairs share no row."""
        group = self.param_groups[0]  # all have one rate
        sums = [self._sum(p, group) for p in pairs.tables]
        on_cpu = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in pairs.tables)
        if on_cpu and (walk := compiled(_walk, fastmath=True)) is not None:
            given = [one.detach().numpy() for one in (*pairs.tables, *sums, *pairs[1:5])]
            walk(*given, np.float32(group["lr"]), np.float32(group["eps"]))
            return
        edges = torch.nonzero(torch.diff(pairs.rounds)).flatten().add_(1).tolist()
        for begin, end in zip([0, *edges], [*edges, len(pairs.rounds)], strict=True):
            self._round(pairs, sums, slice(begin, end), group)

    def _round(self, pairs: PairSteps, sums: list[Tensor], here: slice, group: dict) -> None:
        rows = [ids[here].long() for ids in (pairs.words, pairs.contexts)] * 2
        left, right, *biases = (p[own] for p, own in zip(pairs.tables, rows, strict=True))
        error = (left * right).sum(-1) + biases[0] + biases[1] - pairs.goals[here]
        pull = pairs.weights[here] * error
        for p, total, own, gradient in zip(
            pairs.tables, sums, rows, (pull[:, None] * right, pull[:, None] * left, pull, pull), strict=True
        ):
            seen = total[own] + gradient.square()
            total[own] = seen
            p[own] -= group["lr"] * gradient / (seen.sqrt() + group["eps"])

    def _sum(self, p: Tensor, group: dict) -> Tensor:
        if "sum" not in self.state[p]:
            self.state[p]["sum"] = torch.full_like(p, group["initial"])
        return self.state[p]["sum"]

    def change(self, p: Tensor, rows: Tensor | None, gradient: Tensor, group: dict) -> Tensor:
        """The gradient by the root of its sum of squares so far, times the learning rate."""
        total = self._sum(p, group)
        gradient.mul_(group["targets"])
        if rows is None:
            seen = total.addcmul_(gradient, gradient).clone()
        else:
            seen = total.index_select(0, rows).addcmul_(gradient, gradient)
            total.index_copy_(0, rows, seen)
        return gradient.div_(seen.sqrt_().add_(group["eps"])).mul_(group["lr"])


def _walk(
    left: np.ndarray, right: np.ndarray, left_bias: np.ndarray, right_bias: np.ndarray,
    left_sum: np.ndarray, right_sum: np.ndarray, left_bias_sum: np.ndarray, right_bias_sum: np.ndarray,
    words: np.ndarray, contexts: np.ndarray, goals: np.ndarray, weights: np.ndarray, rate: float, eps: float,
) -> None:  # fmt: skip
    """Compiled: AdaGrad's step for the weighted square of each pair's error (halved), one after the other."""
    for n in range(len(words)):
        i, j = words[n], contexts[n]
        a, b, a_sum, b_sum = left[i], right[j], left_sum[i], right_sum[j]
        product = np.float32(0)
        for d in range(len(a)):
            product += a[d] * b[d]
        pull = weights[n] * (product + left_bias[i] + right_bias[j] - goals[n])
        for d in range(len(a)):
            down, across = pull * b[d], pull * a[d]
            a_sum[d] += down * down
            b_sum[d] += across * across
            a[d] -= rate * down / (np.sqrt(a_sum[d]) + eps)
            b[d] -= rate * across / (np.sqrt(b_sum[d]) + eps)
        left_bias_sum[i] += pull * pull
        right_bias_sum[j] += pull * pull
        left_bias[i] -= rate * pull / (np.sqrt(left_bias_sum[i]) + eps)
        right_bias[j] -= rate * pull / (np.sqrt(right_bias_sum[j]) + eps)


def coalesced(gradient: Tensor) -> Tensor:
    """`gradient`, sparse, with each row once; one whose rows ascend is so already, which autograd forgets to say."""
    rows = gradient._indices()[0]
    return gradient._coalesced_(True) if bool((rows[1:] > rows[:-1]).all()) else gradient.coalesce()


def clip_gradients(parameters: Sequence[nn.Parameter], most: float | None) -> float:
    """Scale the gradients down to a norm of `most`, sparse ones too; the norm that they had."""
    limit = float("inf") if most is None else most
    if not any(p.grad is not None and p.grad.is_sparse for p in parameters):
        return float(whole(nn.utils.clip_grad_norm_(parameters, limit)))
    values = []
    for p in parameters:
        if p.grad is not None:
            p.grad = coalesced(p.grad) if p.grad.is_sparse else p.grad
            values.append(p.grad.values() if p.grad.is_sparse else p.grad)
    norm = float(nn.utils.get_total_norm(values))
    if norm > limit:
        for value in values:
            value.mul_(limit / (norm + 1e-6))  # as torch does it
    return norm
