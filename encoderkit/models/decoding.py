"""From a model that reads tokens to the texts that it writes: greedily, by beams, or by drawing.

Causal language models and decoders behind an encoder are the same here: a `Reader`. A text ends with the token `end`,
which is not given back, or after `limit` tokens.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from encoderkit.errors import UsageError

NEVER = -1e9
"""The score of what must not be chosen; finite, so that sums of it are numbers."""


class Reader(Protocol):
    """N texts that are read on from where they were left: what has been read is kept (a cache), not given again."""

    def read(self, tokens: Tensor) -> Tensor:
        """(N, n) the next n tokens of each text -> (N, V) logits of the token after them."""
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with the texts `rows` (M,) in this order; each may be taken any number of times."""
        ...


class Written(NamedTuple):
    """A text that was written by beams."""

    ids: list[int]
    """Without what it began with and without the end."""
    score: float
    """Log probability of its tokens, the end included, divided by their number to the power of the penalty."""


class Sampling(NamedTuple):
    """How a token is chosen from the scores of all."""

    temperature: float = 1.0
    """The scores are divided by it; 0: always the likeliest."""
    top_k: int | None = None
    """Only so many of the likeliest may be drawn (Fan et al. 2018, section 5.3)."""
    top_p: float | None = None
    """Only the likeliest that together have this probability may be drawn (Holtzman et al. 2020, section 3.1)."""

    def check(self, count: int = 1) -> None:
        """Raise `UsageError` for what cannot be meant."""
        if self.temperature != 0 and not 1e-3 <= self.temperature <= 1e3:
            raise UsageError(
                f"should be 0, or from 0.001 to 1,000, found {self.temperature:g}", where="--temperature", fix="--temperature 0.8"
            )
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"should be more than 0 and at most 1, found {self.top_p:g}", where="--top-p", fix="--top-p 0.9")
        if self.temperature == 0 and (count > 1 or self.top_k is not None or self.top_p is not None):
            raise UsageError(
                "always takes the likeliest token: several draws, --top-k and --top-p change nothing",
                where="--temperature 0",
                fix="--temperature 1, or leave the others out",
            )

    def choose(self, logits: Tensor, rngs: Sequence[np.random.Generator]) -> Tensor:
        """(N, V) logits and a generator for each row to (N,) tokens."""
        if self.temperature == 0:
            return logits.argmax(-1)
        sums = restrict(logits, *self).double().softmax(-1).cumsum(-1)  # (N, V)
        places = torch.tensor([[rng.random()] for rng in rngs], dtype=sums.dtype, device=sums.device)
        return torch.searchsorted(sums, places * sums[:, -1:], right=True)[:, 0]


def greedy(reader: Reader, start: Tensor, end: int, limit: int) -> list[list[int]]:
    """The likeliest token, again and again; `start` is (N, S), the tokens that the texts begin with."""
    return _one_by_one(reader, start, end, limit, lambda logits, rows: logits.argmax(-1))


def sample(
    reader: Reader,
    start: Tensor,
    end: int,
    limit: int,
    rngs: Sequence[np.random.Generator],
    sampling: Sampling,
    never: Sequence[int] = (),
) -> list[list[int]]:
    """Tokens drawn by their probabilities, those of `never` left out. Each text has its own generator: no other changes it."""

    def draw(logits: Tensor, rows: Sequence[int]) -> Tensor:
        hidden = torch.tensor(never, dtype=torch.int64, device=logits.device)
        return sampling.choose(logits.index_fill(-1, hidden, -torch.inf), [rngs[row] for row in rows])

    return _one_by_one(reader, start, end, limit, draw)


def restrict(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """(N, V) logits divided by `temperature`, with -inf for all but the `top_k` likeliest and, of these, the fewest that
    have a probability of `top_p` together (Holtzman et al. 2020, section 3.1).
    """
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[:, -1:], -torch.inf)
    if top_p is not None:
        ordered, order = logits.sort(descending=True, stable=True)
        before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # of those that are likelier
        logits = logits.masked_fill((before >= top_p).scatter(-1, order, before >= top_p), -torch.inf)
    return logits


def _one_by_one(
    reader: Reader, start: Tensor, end: int, limit: int, choose: Callable[[Tensor, Sequence[int]], Tensor]
) -> list[list[int]]:
    """`choose` is given (n, V) logits and the numbers of the n texts that have not ended."""
    ids: list[list[int]] = [[] for _ in start]
    rows, tokens = list(range(len(start))), start
    for _ in range(limit):
        chosen = choose(reader.read(tokens).float(), rows)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if token != end:
                ids[row].append(token)
        going = (chosen != end).nonzero()[:, 0]
        if len(going) == 0:
            break
        if len(going) < len(rows):
            reader.select(going)
            rows = [rows[i] for i in going.tolist()]
        tokens = chosen[going, None]
    return ids


def beam_search(
    reader: Reader, start: Tensor, end: int, limit: int, beams: int = 4, length_penalty: float = 1.0
) -> list[Written]:
    """The best text found by going on with the `beams` likeliest beginnings at a time (Sutskever et al. 2014, section 3.2).

    Texts are compared by log probability / tokens ** `length_penalty`. The search for a text ends when `beams` have ended
    and none that goes on is better, were it to end now: what transformers calls early_stopping=False.
    """
    ended: list[list[Written]] = [[] for _ in start]
    rows = list(range(len(start)))
    reader.select(torch.arange(len(start), device=start.device).repeat_interleave(beams))
    tokens, paths = start.repeat_interleave(beams, 0), start.new_empty(len(start), beams, 0)
    scores = torch.full((len(start), beams), NEVER, device=start.device)
    scores[:, 0] = 0.0  # all beams are alike at first, so only one of them counts
    for step in range(1, limit + 1):
        gains = reader.read(tokens).float().log_softmax(-1).view(len(rows), beams, -1)
        best, where = (scores[:, :, None] + gains).flatten(1).topk(2 * beams)  # as many can end as there are beams
        parent, token = where // gains.shape[-1], where % gains.shape[-1]
        grown = torch.cat((paths.gather(1, parent[:, :, None].expand(-1, -1, step - 1)), token[:, :, None]), -1)
        ends = (token == end) | (step == limit)
        for i, j in ends[:, :beams].nonzero().tolist():
            text = [t for t in grown[i, j].tolist() if t != end]
            ended[rows[i]].append(Written(text, float(best[i, j]) / step**length_penalty))
            ended[rows[i]] = sorted(ended[rows[i]], key=lambda text: -text.score)[:beams]
        kept = ends.long().argsort(dim=-1, stable=True)[:, :beams]  # the likeliest that go on
        scores, parent = best.gather(1, kept), parent.gather(1, kept)
        paths = grown.gather(1, kept[:, :, None].expand(-1, -1, step))
        bounds = (scores[:, 0] / step**length_penalty).tolist()
        going = [i for i, row in enumerate(rows) if len(ended[row]) < beams or bounds[i] > ended[row][-1].score]
        if not going or step == limit:
            break
        chosen = torch.tensor(going, device=start.device)
        reader.select((parent + torch.arange(len(rows), device=start.device)[:, None] * beams)[chosen].flatten())
        rows, scores, paths = [rows[i] for i in going], scores[chosen], paths[chosen]
        tokens = paths[:, :, -1:].flatten(0, 1)
    return [texts[0] for texts in ended]
