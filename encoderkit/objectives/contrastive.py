"""Contrastive learning without labels: a text must find itself again under another dropout (Gao et al. 2021, "SimCSE").

Each piece of a document is a text. Both passes of a text are in one batch; those of all other texts of the update are its
negatives, whatever is computed at once (see `learner.Coupled`). Beside it, if wanted, masked language modelling on a third
copy of the rows keeps the vectors of the tokens (section 3 and table 6 there: it helps transfer).

Without dropout, as in evaluation, both passes are equal. What is measured on held-out data is therefore whether the first
half of a text finds its second half among all of them.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from encoderkit.data.blocks import Row
from encoderkit.errors import DataError
from encoderkit.learner import IGNORE, Batch, Encoder, Export, Picture, Vocabulary, directions
from encoderkit.models.build import build_encoder, build_vocabulary_head
from encoderkit.models.config import EncoderConfig
from encoderkit.models.dropout import along, drawn, fold
from encoderkit.models.heads import Projection
from encoderkit.models.inputs import Inputs, pad
from encoderkit.models.pooling import apart, pool
from encoderkit.objectives.config import ContrastiveConfig
from encoderkit.objectives.masking import Masker, pictures

MOST = 16_384
"""Held-out texts that are compared with one another at most, evenly spaced: time grows with their square."""


class Contrastive(nn.Module):
    """Encoder and projection under the contrastive objective; with the masked term also a vocabulary head."""

    def __init__(self, config: ContrastiveConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int) -> None:
        """`length`: the tokens a row has at most."""
        super().__init__()
        if config.masked and vocabulary.mask == vocabulary.sep:
            raise DataError("this tokenizer has no [MASK] to hide tokens with", fix="--set objective.masked=0")
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.encoder_config = encoder
        self.encoder: Encoder = build_encoder(encoder, vocabulary.size, vocabulary.padding)
        self.projection = Projection(encoder.dim) if config.projection == "dense" else nn.Identity()
        self.head: nn.Module = build_vocabulary_head(encoder, vocabulary.size) if config.masked else nn.Identity()
        self.weights = {"contrastive": 1.0, **({"masked": config.masked} if config.masked else {})}
        self.directions = directions(*config.metrics)
        self.monitor = "accuracy"  # the loss is that of the temperature too, which makes vectors sure of themselves
        self.coupled = True
        self.masking = Masker(config.hiding, vocabulary)

    def collate(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Rows to a batch: the rows twice, and a third time with tokens hidden for the masked term."""
        if progress is None:
            return self._halves(examples)
        count, width = len(examples), self.length if self.encoder.packs else max(len(row.ids) for row in examples)
        copies = [row.ids for row in examples] * 2
        targets: dict[str, Tensor] = {}
        if self.config.masked:
            hidden, targets = self._hide(examples, rngs, 2 * count * width, width)
            copies += hidden
        places = [i * width + piece for i, row in enumerate(examples) for piece in _pieces(row)]
        texts = pad(places, max(map(len, places)), -1)
        again = torch.where(texts < 0, texts, texts + count * width)
        times = len(copies) // count
        inputs = Inputs(
            pad(copies, width, self.vocabulary.pad),
            pad([row.documents for row in examples] * times, width, 0),
            pad([row.positions for row in examples] * times, width, 0),
            texts=torch.cat([texts, again]),
        )
        seeds = drawn(rngs)
        if seeds is not None:  # each copy has a dropout of its own
            copied = torch.cat([fold(seeds, copy) for copy in range(times)])
            inputs = inputs._replace(seeds=along(copied, width))
        counts: dict[str, float] = {"contrastive": len(places)}
        if self.config.masked:
            counts["masked"] = int((targets["labels"] != IGNORE).sum())
        return Batch(inputs, targets, counts, sum(len(row.ids) for row in examples))

    def picture(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], batch: Batch) -> list[Picture]:
        """The copy of the rows in which tokens are hidden, if there is one; the two that are compared are whole."""
        return pictures(examples, batch, self.vocabulary.mask, 2 * len(examples) if self.config.masked else 0)

    def _hide(
        self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], first: int, width: int
    ) -> tuple[list[np.ndarray], dict[str, Tensor]]:
        """The rows with tokens hidden, and the targets of the masked term; `first`: where they begin in (B * T)."""
        hidden, where, labels = [], [], []
        for i, (row, rng) in enumerate(zip(examples, rngs, strict=True)):
            places = self.masking.places(row, self.config.rate, rng, len(row.ids))
            where.append(first + i * width + places)
            labels.append(row.ids[places])
            hidden.append(self.masking.corrupt(row.ids, places, rng))
        joined = {"where": np.concatenate(where), "labels": np.concatenate(labels)}
        return hidden, {name: torch.from_numpy(value) for name, value in joined.items()}

    def _halves(self, examples: Sequence[Row]) -> Batch:
        """The first half of every text and then the second half of each, a row each; of a single token both are it."""
        sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
        for row in examples:
            for piece in _pieces(row):
                before, own, after = _around(row, piece)
                middle = len(own) // 2
                for side, half in zip(sides, (own[: middle or None], own[middle:]), strict=True):
                    side.append(np.concatenate([before, half, after]))
        rows = [*sides[0], *sides[1]]
        width = max(map(len, rows))
        ids = pad(rows, width, self.vocabulary.pad)
        mask = torch.arange(width) < torch.tensor([len(row) for row in rows])[:, None]
        return Batch(Inputs.of(ids, mask), {}, {"contrastive": len(sides[0])}, sum(map(len, rows)))

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of finding each text's second pass among all, and of the hidden tokens."""
        vectors, terms = self.parts(inputs, targets)
        return self.joint(vectors, targets) | terms

    def parts(self, inputs: Inputs, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(N, 2, D) both passes of each text, and the loss of the hidden tokens."""
        hidden = self.encoder(inputs)
        pooling = self.vocabulary.pooling(self.config.pooling)
        vectors = self.projection(pool(pooling, *apart(hidden, inputs))).float().unflatten(0, (2, -1)).transpose(0, 1)
        if not self.config.masked:
            return vectors, {}
        logits = self.head(hidden.flatten(0, 1)[targets["where"]], self.encoder.tokens.weight).float()
        return vectors, {"masked": cross_entropy(logits, targets["labels"], reduction="sum")}

    def joint(self, vectors: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of finding each text's second pass by its first among those of all."""
        with torch.autocast(vectors.device.type, enabled=False):  # bf16 has two digits, and the temperature takes one
            first, second = normalize(vectors, dim=-1).unbind(1)
            scores = first @ second.T / self.config.temperature  # (N, N)
            goal = torch.arange(len(scores), device=scores.device)
            return {"contrastive": cross_entropy(scores, goal, reduction="sum")}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The vectors of both halves of each text, of length 1, without the projection, which is for training alone."""
        pooling = self.vocabulary.pooling(self.config.pooling)
        first, second = normalize(pool(pooling, *apart(self.encoder(inputs), inputs)).float(), dim=-1).chunk(2)
        return {"first": first, "second": second}

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Loss in nats and accuracy of finding the second half of a text by its first, among those of all texts."""
        count = len(observed["first"])
        chosen = np.linspace(0, count - 1, min(count, MOST)).astype(np.int64)
        first, second = (torch.from_numpy(observed[name][chosen]) for name in ("first", "second"))
        loss, right = 0.0, 0
        for start in range(0, len(chosen), 1024):
            scores = first[start : start + 1024] @ second.T / self.config.temperature
            goal = torch.arange(start, start + len(scores))
            loss += float(cross_entropy(scores, goal, reduction="sum"))
            right += int((scores.argmax(-1) == goal).sum())
        return {"loss": loss / len(chosen), "accuracy": right / len(chosen)}

    def exported(self) -> Export | str:
        """The encoder alone: its vectors, pooled, are what was trained."""
        tensors = {name: tensor for name, tensor in self.state_dict().items() if name.startswith("encoder.")}
        return Export("none", tensors, self.encoder)


def _around(row: Row, piece: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The special tokens before a piece, its own tokens, and the special ones after it."""
    ids, own = row.ids[piece], np.flatnonzero(~row.special[piece])
    return ids[: own[0]], ids[own], ids[own[-1] + 1 :]


def _pieces(row: Row) -> Iterator[np.ndarray]:
    """The places of each document piece of a row, special tokens included."""
    ends = np.flatnonzero(np.diff(row.documents)) + 1
    return iter(np.split(np.arange(len(row.ids)), ends))
