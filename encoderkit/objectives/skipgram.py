"""Skip-gram with negative sampling: a word's vector tells the words around it from drawn ones.

Mikolov et al. 2013, "Distributed Representations of Words and Phrases", equation 4. At its optimum the product of a word's
vector and a context's is their pointwise mutual information less the logarithm of the number of negatives (Levy and
Goldberg 2014, section 3.1).
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from encoderkit.data.blocks import Row
from encoderkit.learner import Batch
from encoderkit.models.inputs import Inputs
from encoderkit.objectives.places import Places
from encoderkit.objectives.windows import Sampled


class SkipGram(Sampled):
    """Each word of a block against all words around it and all drawn ones; weights pick the pairs that count."""

    def collate(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """Rows to blocks of words (G, S), the words around and drawn (G, M), and the weight of each pair (G, S, M)."""
        found, wide = self.thinned(examples, rngs), self.config.window
        size = self.config.block
        places = found.blocks[:, :1] + np.arange(-wide, size + wide)
        distance = np.abs(np.arange(-wide, size + wide) - np.arange(size)[:, None]).astype(np.int32)
        others, inside = found.documents[places].astype(np.int32), (slice(None), slice(wide, wide + size))
        near = distance <= found.reach[found.blocks].astype(np.int32)[:, :, None]  # (G, S, S + 2 W)
        near &= (distance > 0) & (others[inside][:, :, None] == others[:, None, :])
        near &= (others[inside] > 0)[:, :, None]
        targets = near.sum(-1, keepdims=True, dtype=np.float32)  # (G, S, 1)
        share = np.float32(self.config.negatives / self.config.draws)
        drawn = np.broadcast_to(targets * share, (*targets.shape[:2], self.config.draws))
        weight = np.concatenate([near.astype(np.float32), drawn], -1)
        sign = np.where(np.arange(weight.shape[-1]) < near.shape[-1], -1, 1).astype(np.float32)
        inputs = Places.of(found.words[found.blocks])
        outputs = Places.of(np.concatenate([found.words[places], found.drawn], 1))
        made = {"weight": torch.from_numpy(weight), "sign": torch.from_numpy(sign)}
        made |= {"targets": torch.from_numpy(targets[..., 0])} | inputs.named("words") | outputs.named("others")
        read = sum(len(row.ids) for row in examples)
        return Batch(Inputs.of(inputs.rows[None]), made, {"skipgram": float(targets.sum())}, read)

    def _losses(self, targets: dict[str, Tensor]) -> Tensor:
        words, others = self.words_at(Places.found("words", targets)), self.outputs_at(Places.found("others", targets))
        scores = torch.bmm(others, words.mT).mT  # (G, S, M); the other way round takes twice as long
        return targets["weight"] * softplus(scores.float() * targets["sign"])

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum over targets of -log sigmoid of their score, and of that of the negatives with the other sign."""
        return {"skipgram": self._losses(targets).sum()}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of each word that has targets: the loss over them, and their number."""
        real = targets["targets"] > 0
        return {"nats": self._losses(targets).sum(-1)[real], "targets": targets["targets"][real]}
