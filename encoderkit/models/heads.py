"""What turns the vectors of an encoder into logits: over the vocabulary, over labels, or whether a token was replaced."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoderkit.models.dropout import Dropout
from encoderkit.models.families import Activation
from encoderkit.models.layers import ACTIVATIONS, initialise


class WordHead(nn.Module):
    """What scores words: a product of vectors with a table of all words, that of the encoder's embeddings (Press and Wolf 2017).

    That one is given at each call rather than owned: it is the encoder's parameter, saved and optimised once.
    """

    own: nn.Embedding | None
    """A table that it does own instead; None: there is none."""

    def table(self, shared: Tensor) -> Tensor:
        """The table of the product, (V, E), where `shared` (V, E) are the encoder's word embeddings."""
        return shared if self.own is None else self.own.weight


class VocabularyHead(WordHead):
    """A transform, then the product. Devlin et al. 2019, appendix A."""

    def __init__(
        self,
        dim: int,
        width: int,
        vocab_size: int,
        activation: Activation,
        bias: bool,
        eps: float,
        scale: float = 1.0,
        own: bool = False,
    ) -> None:
        """`scale`: what the word embeddings are multiplied by here; `own`: whether it has a table of its own."""
        super().__init__()
        self.scale = scale
        self.own = nn.Embedding(vocab_size, width) if own else None
        self.dense = nn.Linear(dim, width, bias=bias)
        self.norm = nn.LayerNorm(width, eps=eps, bias=bias)
        self.bias = nn.Parameter(torch.zeros(vocab_size))
        self.activation = ACTIVATIONS[activation]
        initialise(self)

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """(N, D) vectors and (V, E) word embeddings -> (N, V) logits. Give it only the places that have a target."""
        return F.linear(self.transform(hidden), self.table(table), self.bias)

    def transform(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, E): all but the product with the word embeddings."""
        return self.norm(self.activation(self.dense(hidden))) * self.scale


class TableHead(WordHead):
    """The product (GPT-2), and a bias for each word (XLNet), nothing else."""

    def __init__(self, dim: int, vocab_size: int, bias: bool, own: bool = False) -> None:
        """`own`: whether it has a table of its own."""
        super().__init__()
        self.own = nn.Embedding(vocab_size, dim) if own else None
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None
        initialise(self)

    def forward(self, hidden: Tensor, table: Tensor) -> Tensor:
        """(N, D) vectors and (V, D) word embeddings -> (N, V) logits."""
        return F.linear(hidden, self.table(table), self.bias)

    def transform(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N, D): there is none."""
        return hidden


HEAD = 1 << 23
"""The use of a text's seeds that is a head's: no encoder has as many layers, and XLNet and decoders have other uses."""


class ClassificationHead(nn.Module):
    """Dropout and a linear layer on the vector of a text: (B, D) -> (B, L)."""

    def __init__(self, dim: int, labels: int, rate: float, bias: bool = True) -> None:
        super().__init__()
        self.dropout = Dropout(rate)
        self.out = nn.Linear(dim, labels, bias=bias)
        initialise(self)

    def forward(self, pooled: Tensor, seeds: Tensor | None = None) -> Tensor:
        """`seeds` (B,): what dropout goes by."""
        return self.out(self.dropout(pooled, seeds, HEAD))


class DenseClassificationHead(nn.Module):
    """A dense layer and an activation before the linear one: (B, D), or (B, K D), -> (B, L).

    With tanh it is BERT's pooler and classifier, RoBERTa's head and XLNet's summary and projection; with the encoder's
    activation and a norm ModernBERT's.
    """

    def __init__(
        self, dim: int, labels: int, rate: float, activation: Activation, bias: bool, norm: nn.Module, vectors: int = 1
    ) -> None:
        """`vectors`: how many (B, D) it is given side by side."""
        super().__init__()
        self.dense = nn.Linear(vectors * dim, dim, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.norm = norm
        self.dropout = Dropout(rate)
        self.out = nn.Linear(dim, labels)
        initialise(self)

    def forward(self, pooled: Tensor, seeds: Tensor | None = None) -> Tensor:
        """`seeds` (B,): what dropout goes by."""
        return self.out(self.dropout(self.norm(self.activation(self.dense(pooled))), seeds, HEAD))


class Projection(nn.Module):
    """A dense layer with tanh between vectors and a contrastive loss, in training alone: (N, D) -> (N, D). Gao et al. 2021."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        initialise(self)

    def forward(self, pooled: Tensor) -> Tensor:
        """(N, D) -> (N, D), between -1 and 1."""
        return torch.tanh(self.dense(pooled))


class ReplacedHead(nn.Module):
    """Whether a token was replaced: (N, D) -> (N,) logits. ELECTRA (Clark et al. 2020), with the dense layer of its code."""

    def __init__(self, dim: int, activation: Activation) -> None:
        super().__init__()
        self.dense = nn.Linear(dim, dim)
        self.activation = ACTIVATIONS[activation]
        self.out = nn.Linear(dim, 1)
        initialise(self)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, D) -> (N,)."""
        return self.out(self.activation(self.dense(hidden))).squeeze(-1)
