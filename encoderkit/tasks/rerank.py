"""Reranking: how relevant a candidate is to a query, read together (Nogueira and Cho 2019).

Slower than comparing vectors of `similarity`, and better: it is for the first hundred that a search has found. Each row
is a query and one candidate; metrics are over queries, whose candidates stand in rows of their own.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from encoderkit.data.labelled import Row
from encoderkit.errors import DataError
from encoderkit.learner import Batch, Export, Vocabulary
from encoderkit.metrics import bootstrap_means, ranked
from encoderkit.models.build import build_classification_head
from encoderkit.models.config import EncoderConfig
from encoderkit.models.inputs import Inputs
from encoderkit.tasks import truth
from encoderkit.tasks.config import RerankConfig
from encoderkit.tasks.losses import disagreement, each_of, in_passes, weights_of
from encoderkit.tasks.task import Baseline, EncoderTask, Observed
from encoderkit.tasks.texts import ONE_TEXT, SIZE, Tokens, assemble, named, names_of
from encoderkit.text.tokenizers import Tokenizer


class Example(NamedTuple):
    """A query with a candidate."""

    tokens: Tokens
    query: str
    """The text that its candidates have in common."""
    target: float | None
    """The relevance, 0 or more; None: not known."""
    row: int = 0
    """The number of its row."""

    texts = ONE_TEXT
    size = SIZE


class Rerank(EncoderTask):
    """Encoder, pooling and the head of a classifier with one output: the logit of being relevant."""

    config: RerankConfig
    most: Tensor
    """The greatest relevance of the training rows."""

    def __init__(
        self, config: RerankConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int, labels: Sequence[str] = ()
    ) -> None:
        """`length`: the tokens an example has at most."""
        super().__init__(config, encoder, vocabulary, length, labels)
        self.head = build_classification_head(encoder, 1, config.dropout)
        self.register_buffer("most", torch.tensor(1.0))
        self.weights = weights_of("rerank", config.rdrop)
        self.monitor = "map"
        self.baselines: tuple[Baseline, ...] = ("cosine",)
        self.fields = [*names_of(config.columns), "score", "truncated"]

    @staticmethod
    def find_labels(rows: Sequence[Row], config: RerankConfig) -> list[str]:
        """None; raises `DataError` for a negative relevance, or where all are the same."""
        if len({truth.relevance(row, config) for row in rows}) == 1:
            fix = "name another column in task.label, or other rows"
            raise DataError(f"all rows have the same {config.label}, so there is nothing to learn", where=rows[0].source, fix=fix)
        return []

    def prepare(self, examples: Sequence[Example]) -> None:
        """Take the greatest relevance, which becomes 1."""
        self.most.fill_(max(example.target or 0.0 for example in examples) or 1.0)

    def encode(self, rows: Sequence[Row], tokenizer: Tokenizer, labelled: bool = True) -> list[Example]:
        """Rows as examples; raises `DataError` with file and line for a relevance that is no number of 0 or more."""
        texts = [self.texts(row) for row in rows]
        tokens = assemble(texts, tokenizer, self.length)
        return [
            Example(own, query, truth.relevance(row, self.config) if labelled else None, i)
            for i, (row, own, (query, _)) in enumerate(zip(rows, tokens, texts, strict=True))
        ]

    def collate(
        self, examples: Sequence[Example], rngs: Sequence[np.random.Generator] = (), progress: float | None = None
    ) -> Batch:
        """Examples to a batch, packed where the encoder can; nothing is drawn but dropout, in training."""
        inputs, size = self.batched([example.texts for example in examples], rngs)
        if examples[0].target is None:
            return Batch(inputs, {}, {}, size)
        targets = torch.tensor([example.target for example in examples], dtype=torch.float32)
        return Batch(inputs, {"relevance": targets}, dict.fromkeys(self.weights, len(examples)), size)

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy with the share of the greatest relevance; with R-Drop that of two passes."""
        goal = (targets["relevance"] / self.most).clamp(max=1)[:, None]
        return in_passes(
            self.weights,
            inputs,
            self.logits,
            lambda logits: binary_cross_entropy_with_logits(logits, goal, reduction="none"),
            partial(disagreement, chances=each_of),
        )

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The logit of each pair."""
        return {"logits": self.logits(inputs)[:, 0]}

    def metrics(self, examples: Sequence[Example], observed: Observed) -> dict[str, float]:
        """The loss over rows, and `score` over queries."""
        relevance = np.array([example.target for example in examples])
        gold = _by_query(relevance, [example.query for example in examples])
        loss = float(self.losses(examples, observed).mean())
        return {"loss": loss, **self.score(gold, self.decide(examples, observed))}

    def losses(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) the cross-entropy of each row."""
        relevance = torch.tensor([example.target for example in examples], dtype=torch.float64)
        logits, goal = torch.from_numpy(observed["logits"]).double(), (relevance / self.most.cpu()).clamp(max=1)
        return binary_cross_entropy_with_logits(logits, goal, reduction="none").numpy()

    def confidence(self, examples: Sequence[Example], observed: Observed) -> tuple[np.ndarray, np.ndarray]:
        """The probability of being relevant; of graded relevance, of at least half of the greatest."""
        logits = torch.from_numpy(observed["logits"]).double()
        return logits.sigmoid().numpy(), np.array([example.target for example in examples]) >= float(self.most) / 2

    def gold(self, rows: Sequence[Row]) -> np.ndarray:
        """(N, 2) the relevance, and the number of the query."""
        queries = [row.text(self.config.columns[0]) for row in rows]
        return _by_query(np.array([truth.relevance(row, self.config) for row in rows]), queries)

    def decide(self, examples: Sequence[Example], observed: Observed) -> np.ndarray:
        """(N,) logits."""
        return observed["logits"].astype(np.float64)

    def score(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
        """Mean average precision, mean reciprocal rank and nDCG, over the queries that have a relevant candidate."""
        return {name: float(v.mean()) if len(v) else 0.0 for name, v in self.each(gold, predicted).items()}

    def queries(self, gold: np.ndarray) -> np.ndarray:
        """(N,) the number of each row's query."""
        return gold[:, 1]

    def each(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
        """(Q,) the metrics of each query that has a relevant candidate."""
        return ranked(gold[:, 0], gold[:, 1], predicted)

    def intervals(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
        """Of `score`, over queries."""
        values = self.each(gold, predicted)
        return bootstrap_means(values) if len(values["map"]) else {}

    def details(self, gold: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
        """How many queries there are, and how many have no relevant candidate and are left out."""
        queries = len(np.unique(gold[:, 1]))
        return {"queries": queries, "queries_without_relevant": queries - len(np.unique(gold[gold[:, 0] > 0, 1]))}

    def predictions(
        self, rows: Sequence[Row], examples: Sequence[Example], observed: Observed, top: int | None
    ) -> Iterator[dict[str, Any]]:
        """The probability of being relevant (of graded relevance: the share of the greatest) as `score`."""
        scores = torch.from_numpy(observed["logits"]).sigmoid().tolist()
        for row, example, score in zip(rows, examples, scores, strict=True):
            yield {**named(self.texts(row)), "score": float(f"{score:.6g}"), "truncated": example.tokens.cut > 0}

    def probe(self, tokens: Tokens) -> Example:
        """An example without a relevance."""
        return Example(tokens, "", None)

    def exported(self) -> Export:
        """As transformers' sequence classifiers with one output, the logit; so cross-encoders are kept."""
        pooling, dropout = self.config.pooling, self.config.dropout
        tensors = {name: tensor for name, tensor in self.state_dict().items() if name != "most"}
        return Export("classify", tensors, self.logits, ("relevance",), "regression", pooling, dropout)


def _by_query(relevance: np.ndarray, queries: Sequence[str]) -> np.ndarray:
    """(N,) each to (N, 2): the relevance, and a number for each distinct query."""
    numbers = {query: i for i, query in enumerate(dict.fromkeys(queries))}
    return np.stack([relevance.astype(np.float64), np.array([numbers[query] for query in queries], dtype=np.float64)], axis=1)
