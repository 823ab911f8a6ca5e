"""Similarity: texts encoded apart, near one another where they mean the same (Reimers and Gurevych 2019).

Two kinds of data. Pairs with a score: the cosine of their vectors learns the score itself, or (CoSENT, Su 2022) only its
order over all pairs of an update. Pairs that belong together, an anchor and its positive, perhaps with a text that does
not: the positives of all other rows of the update are negatives too (van den Oord et al. 2018; Karpukhin et al. 2020,
section 3.2). Both losses but the first couple the rows of an update; see `learner.Coupled` for how it may yet be large.

With `dimensions`, the first few dimensions of a vector are trained to be a good vector as well (Matryoshka, Kusupati et
al. 2022): cut the vectors of `embed` and scale them to length 1 again.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, UsageError
from encoderkit.learner import Batch, Export, Vocabulary
from encoderkit.metrics import bootstrap_means, bootstrap_numbers, candidates, numbers, ranks, retrieved, searched
from encoderkit.models.config import EncoderConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import apart, pool
from encoderkit.tasks.config import SimilarityConfig
from encoderkit.tasks.task import Baseline, EncoderTask, Observed, tell_constant
from encoderkit.tasks.texts import SIZE, Tokens, assemble_apart, named, names_of
from encoderkit.text.tokenizers import Tokenizer

_CORRELATIONS = ("pearson", "spearman")
_TOGETHER = 1024  # held-out rows that are taken as one update to tell their loss, whatever fits at once


class Example(NamedTuple):
    """Two or three texts that are encoded apart."""

    texts: tuple[Tokens, ...]
    """Of a pair, or anchor, positive and perhaps negative."""
    keys: tuple[int, ...]
    """A number for each text: equal texts have the same."""
    target: float | None = None
    """The score of a pair; None: not known, or the texts belong together."""
    row: int = 0
    """The number of its row."""

    size = SIZE


class Similarity(EncoderTask):
    """An encoder and pooling; there is no head."""

    config: SimilarityConfig
    low: Tensor
    """The least score of the training rows."""
    span: Tensor
    """The greatest score less the least."""

    def __init__(
        self, config: SimilarityConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int, labels: Sequence[str] = ()
    ) -> None:
        """`length`: the tokens a text has at most. Raises `UsageError` for more `dimensions` than the encoder has."""
        super().__init__(config, encoder, vocabulary, length, labels)
        if max(config.dimensions, default=1) > self.encoder.dim:
            raise UsageError(
                f"task.dimensions has {max(config.dimensions)}, and the vectors have {self.encoder.dim} dimensions",
                fix=f"--set task.dimensions=[{self.encoder.dim}], or fewer",
            )
        self.head = nn.Identity()
        self.register_buffer("low", torch.tensor(0.0))
        self.register_buffer("span", torch.tensor(1.0))
        scored = config.label is not None
        self.weights = {"similarity": 1.0}
        self.monitor = "spearman" if scored else "mrr"
        self.baselines: tuple[Baseline, ...] = ("cosine",) if scored else ("search",)
        self.fields = [*names_of(config.columns), "score", "truncated"]
        self.coupled = config.loss != "cosine"
        self._loss = {"cosine": self._squares, "cosent": self._order, "contrastive": self._contrast}[config.loss]

    @staticmethod
    def find_labels(rows: Sequence[Row], config: SimilarityConfig) -> list[str]:
        """None; raises `DataError` where all scores are the same, or no two texts that do not belong together."""
        if config.label is not None and len({row.number(config.label) for row in rows}) == 1:
            fix = "name another column in task.label, or other rows"
            raise DataError(f"all rows have the same {config.label}, so there is nothing to learn", where=rows[0].source, fix=fix)
        if config.label is None and config.negative is None and len({row.text(config.columns[1]) for row in rows}) == 1:
            message = f"all rows have the same {config.columns[1]}: there is no other to tell it from, and nothing to learn"
            raise DataError(message, where=rows[0].source, fix="rows with other texts there")
        return []

    def prepare(self, examples: Sequence[Example]) -> None:
        """Take the range of the scores, which becomes 0 to 1."""
        scores = [example.target for example in examples if example.target is not None]
        if scores:
            self.low.fill_(min(scores))
            self.span.fill_(max(scores) - min(scores) or 1.0)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, labelled: bool = True) -> list[Example]:
        """Rows as examples; raises `DataError` with file and line for a score that is no number."""
        negative = self.config.negative if labelled else None
        if negative is None or not all(negative in row.values for row in rows):
            texts = [self.texts(row) for row in rows]
        else:
            texts = [[*self.texts(row), row.text(negative)] for row in rows]
        score = self.config.label if labelled else None
        if score is not None:
            tell_constant(rows, score)
        return [
            Example(tokens, tuple(map(_key, own)), None if score is None else row.number(score), i)
            for i, (row, own, tokens) in enumerate(zip(rows, texts, assemble_apart(texts, tokenizer, self.length), strict=True))
        ]

    def collate(
        self, examples: Sequence[Example], rngs: Sequence[np.random.Generator] = (), progress: float | None = None
    ) -> Batch:
        """Examples to a batch, all their texts in it one after the other; nothing is drawn but dropout, in training."""
        inputs, size = self.batched([example.texts for example in examples], rngs)
        targets = {"keys": torch.tensor([example.keys for example in examples])}
        if examples[0].target is not None:
            targets["scores"] = torch.tensor([example.target for example in examples], dtype=torch.float32)
        return Batch(inputs, targets, {"similarity": len(examples)}, size)

    def vectors(self, inputs: Inputs, targets: dict[str, Tensor]) -> Tensor:
        """(N, K, D) the vectors of the K texts of each example."""
        pooling = self.vocabulary.pooling(self.config.pooling)
        return pool(pooling, *apart(self.encoder(inputs), inputs)).float().view(*targets["keys"].shape, -1)

    def joint(self, vectors: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of all examples of an update, times their number; the mean over `dimensions` where there are some."""
        sizes = sorted({*self.config.dimensions, vectors.shape[-1]})
        with torch.autocast(vectors.device.type, enabled=False):  # bf16 has two digits, and the temperature takes one
            losses = [self._loss(normalize(vectors[..., :size], dim=-1), targets) for size in sizes]
        return {"similarity": torch.stack(losses).mean()}

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of the examples among themselves."""
        return self.joint(self.vectors(inputs, targets), targets)

    def parts(self, inputs: Inputs, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The vectors; there is nothing else to the loss."""
        return self.vectors(inputs, targets), {}

    def _squares(self, units: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """The squared difference of cosine and score."""
        goal = (targets["scores"] - self.low) / self.span
        return ((units[:, 0] * units[:, 1]).sum(-1) - goal).square().sum()

    def _order(self, units: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """CoSENT: log(1 + the sum of exp((cos of the lower - cos of the higher) / temperature) over all pairs of rows)."""
        cosine, scores = (units[:, 0] * units[:, 1]).sum(-1) / self.config.temperature, targets["scores"]
        difference = cosine[None, :] - cosine[:, None]  # of column less row
        wrong = difference.masked_fill(scores[:, None] <= scores[None, :], float("-inf")).flatten()
        return torch.cat([wrong.new_zeros(1), wrong]).logsumexp(0) * len(units)

    def _contrast(self, units: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """The cross-entropy of each positive among all texts but the anchors; `symmetric`: and of each anchor among them."""
        keys = targets["keys"]
        # The positives first, so that row i's own is number i.
        loss = self._among(units[:, 0], units[:, 1:].transpose(0, 1).flatten(0, 1), keys, keys[:, 1:].T.flatten())
        if not self.config.symmetric:
            return loss
        return (loss + self._among(units[:, 1], units[:, 0], keys.flip(1)[:, -2:], keys[:, 0])) / 2

    def _among(self, units: Tensor, others: Tensor, keys: Tensor, other_keys: Tensor) -> Tensor:
        """(N, D) and (M, D), of which the first N are theirs.

        Others that equal a row's own texts, or belong to an equal text in another row, are no negatives.
        """
        scores, own = units @ others.T / self.config.temperature, torch.arange(len(units), device=units.device)
        alike = (keys[:, :1] == keys[None, :, 0]).float() @ (keys[:, 1:2] == other_keys[None]).float()  # (N, M)
        same = (other_keys[None] == keys[:, :1]) | (alike > 0)
        same[own, own] = False
        return cross_entropy(scores.masked_fill(same, float("-inf")), own, reduction="sum")

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The vectors of each example, of length 1."""
        return {"vectors": normalize(self.vectors(inputs, targets), dim=-1)}

    def metrics(self, examples: Sequence[Example], observed: Observed) -> dict[str, float]:
        """`score` of all rows, its main value in fewer dimensions, and the loss that they would have as updates of 1,024 rows."""
        units, keys = torch.from_numpy(observed["vectors"]), torch.tensor([example.keys for example in examples])
        targets, gold = {"keys": keys}, np.array([np.nan if e.target is None else e.target for e in examples])
        if self.config.label is None:
            gold = _right(keys[:, :2].numpy())
        else:
            targets["scores"] = torch.from_numpy(gold).float()
        device, loss = self.low.device, 0.0
        with torch.no_grad():
            for start in range(0, len(units), _TOGETHER):
                part = {name: target[start : start + _TOGETHER].to(device) for name, target in targets.items()}
                loss += float(self._loss(units[start : start + _TOGETHER].to(device), part))
        found = {"loss": loss / len(units), **self.score(gold, self.decide(examples, observed))}
        for size in sorted(self.config.dimensions):
            cut = {"vectors": normalize(units[..., :size], dim=-1).numpy()}
            found[f"{self.monitor}_of_{size}"] = self.score(gold, self.decide(examples, cut))[self.monitor]
        return found

    def losses(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) how wrong each row is, as its loss is of many: how far the ranks of score and cosine are apart, of all ranks;
        or 1 less the reciprocal of the rank of the best right text."""
        found = self.decide(examples, observed)
        if self.config.label is None:
            return np.array([1 - 1 / places.min() for places in found])
        gold, once = np.array([example.target for example in examples]), np.ones((1, len(examples)))
        return np.abs(ranks(gold, once) - ranks(found, once))[0] / len(examples)

    def gold(self, rows: Sequence[Row]) -> np.ndarray:
        """(N,) scores, or how many texts are right for each anchor."""
        if self.config.label is not None:
            return np.array([row.number(self.config.label) for row in rows])
        return _right(np.array([[_key(text) for text in self.texts(row)] for row in rows]))

    def decide(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) cosines, or for each anchor the places of the right texts among those that belong to some anchor."""
        vectors = observed["vectors"]
        if self.config.label is not None:
            return (vectors[:, 0] * vectors[:, 1]).sum(-1)
        keys = np.array([example.keys[:2] for example in examples])
        found = candidates(keys)
        others = vectors[found.where, 1]
        return searched(lambda rows: vectors[rows, 0] @ others.T, found)

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """The correlations of scores; or mean reciprocal rank, nDCG and recall."""
        if self.config.label is None:
            return {name: float(values.mean()) for name, values in retrieved(gold, predicted).items()}
        found = numbers(gold[:, None], predicted[:, None])
        return {name: found[name] for name in _CORRELATIONS}

    def intervals(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
        """Of `score`, over rows."""
        if self.config.label is None:
            return bootstrap_means(retrieved(gold, predicted))
        found = bootstrap_numbers(gold[:, None], predicted[:, None])
        return {name: found[name] for name in _CORRELATIONS}

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], observed: Observed, top: int | None
    ) -> Iterator[dict[str, Any]]:
        """The cosine of the two texts as `score`."""
        vectors = observed["vectors"]
        for row, example, cosine in zip(rows, examples, (vectors[:, 0] * vectors[:, 1]).sum(-1), strict=True):
            cut = any(text.cut > 0 for text in example.texts)
            yield {**named(self.texts(row)[:2]), "score": float(f"{cosine:.6g}"), "truncated": cut}

    def probe(self, tokens: Tokens) -> Example:
        """A pair of the same tokens."""
        return Example((tokens, tokens), (0, 0))

    def exported(self) -> Export:
        """As transformers' encoders; whoever loads it pools and takes cosines."""
        outputs: Callable[[Inputs], Tensor] = self.encoder
        return Export("none", {name: t for name, t in self.state_dict().items() if name.startswith("encoder.")}, outputs)


def _right(keys: np.ndarray) -> np.ndarray:
    """(N, K) to (N,) how many texts are right for each anchor."""
    return np.array([len(found) for found in candidates(keys).relevant])


def _key(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")
