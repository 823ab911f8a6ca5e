"""Static embeddings: a vector for each token, the same wherever it stands, with character n-grams if wanted.

The vector of a word with n-grams is the mean of its own row and of those that its n-grams hash to (Bojanowski et al.
2017, section 3.2, with fastText's mean in place of the sum). Which n-grams a word has, only its letters tell: `spelling`
says it for each id, those of unknown words included, which have ids beyond the vocabulary.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoderkit.models.config import StaticConfig
from encoderkit.models.dropout import Dropout
from encoderkit.models.inputs import Inputs

Spelling = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(N,) ids to the rows of all their n-grams end to end, and (N,) how many each has."""


class _SparseRows(torch.autograd.Function):
    """Rows of a table, each asked for once; the gradient of the table holds these rows alone."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = table.shape
        return table.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        rows = rows[None].clone()  # gradients are added up in place, and numpy's memory cannot grow
        made = torch.sparse_coo_tensor(rows, gradients[0], ctx.shape, is_coalesced=True, check_invariants=False)
        return made, None


def sparse_rows(table: Tensor, rows: Tensor) -> Tensor:
    """(V, ...) and (R,) ascending, different row numbers -> (R, ...), whose gradient is sparse: small where V is large."""
    return _SparseRows.apply(table, rows)  # pyright: ignore[reportReturnType]


class Static(nn.Module):
    """A table of word vectors as an encoder. (B, T) -> (B, T, D); vectors of padding are zero.

    Weights start as word2vec's do, U(-1/2D, 1/2D).
    """

    packs = True
    max_length = None

    def __init__(self, config: StaticConfig, vocab_size: int, pad_id: int | None) -> None:
        super().__init__()
        self.dim = config.dim
        self.tokens = nn.Embedding(vocab_size, config.dim, padding_idx=pad_id)
        self.ngrams = nn.Embedding(config.ngrams, config.dim) if config.ngrams else None
        self.contexts = nn.Embedding(vocab_size, config.dim) if config.context == "add" else None
        self.dropout = Dropout(config.dropout)
        self.spelling: Spelling | None = None
        """To be set before use where there are n-grams."""
        with torch.no_grad():
            for table in filter(None, (self.tokens, self.ngrams, self.contexts)):
                table.weight.uniform_(-0.5 / config.dim, 0.5 / config.dim)
            if pad_id is not None:
                self.tokens.weight[pad_id] = 0

    def forward(self, inputs: Inputs) -> Tensor:
        """(B, T) tokens to their vectors, (B, T, D)."""
        if self.ngrams is None:
            x = self.tokens(inputs.ids)
            x = x if self.contexts is None else x + self.contexts(inputs.ids)
        else:
            ids, places = inputs.ids.unique(return_inverse=True)
            x = F.embedding(places, self.vectors(ids))
        return self.dropout(x, inputs.seeds) * inputs.mask[:, :, None].to(x.dtype)

    def vectors(self, ids: Tensor) -> Tensor:
        """(N,) -> (N, D): the vectors of single tokens, their part as contexts included."""
        words = self.words(ids)
        if self.contexts is None:
            return words
        known = ids < len(self.contexts.weight)
        return words + F.embedding(ids * known, self.contexts.weight) * known[:, None]

    def words(self, ids: Tensor, sparse: bool = False) -> Tensor:
        """(N,) -> (N, D): the vectors of single tokens as words. `sparse`: ids ascend, and gradients are sparse."""
        if self.ngrams is None:
            return sparse_rows(self.tokens.weight, ids) if sparse else F.embedding(ids, self.tokens.weight)
        assert self.spelling is not None, "the n-grams of the vocabulary must be told first"
        known = ids < len(self.tokens.weight)
        own = sparse_rows(self.tokens.weight, ids) if sparse else F.embedding(ids * known, self.tokens.weight) * known[:, None]
        flat, counts = (torch.from_numpy(array).to(ids.device) for array in self.spelling(ids.cpu().numpy()))
        # The same n-gram may be in many words: rows are taken once each, so that their gradient has each once.
        rows, places = flat.unique(return_inverse=True)
        held = sparse_rows(self.ngrams.weight, rows) if sparse else F.embedding(rows, self.ngrams.weight)
        parts = F.embedding_bag(places, held, counts.cumsum(0) - counts, mode="sum")
        total, share = own + parts, 1 / (counts + known).clamp(min=1)[:, None]
        # In training word vectors each row has the whole gradient of the mean, as in fastText: with its share of it, a word
        # of ten n-grams would learn eleven times slower than one without.
        return _WholeGradient.apply(total, share) if sparse else total * share  # pyright: ignore[reportReturnType]


class _WholeGradient(torch.autograd.Function):
    """(N, D) sums times (N, 1) shares; on the way back the gradient is that of the sums as it comes."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, share: Tensor) -> Tensor:
        return total * share

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
