"""Replaced token detection: a generator fills in masked tokens, the encoder tells which of them are not the original ones.

ELECTRA (Clark et al. 2020, section 2). The generator is a small masked language model; what it draws from its softmax
(temperature 1) stands in the encoder's input, and the encoder decides for every real token, special ones included as in
the authors' code, whether it is the original. A drawn token that equals the original counts as original. No gradient
passes through the draw. The uniform numbers of the draw come from the rows' own generators, so that it depends on the
seed, the epoch and the row, and on the generator's probabilities.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoderkit.data.blocks import Row
from encoderkit.errors import UsageError
from encoderkit.learner import IGNORE, Batch, Encoder, Export, Likelihood, Masking, Picture, Vocabulary, directions
from encoderkit.models.build import build_encoder, build_replaced_head
from encoderkit.models.config import EncoderConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import apart
from encoderkit.objectives.config import ReplacedConfig
from encoderkit.objectives.likelihood import Probe, log_likelihoods
from encoderkit.objectives.masked import Masked

TABLES = ("tokens", "positions", "segments")
"""The embeddings that ELECTRA shares."""


class Shifted(nn.Module):
    """Embeddings that are another table, which is not moved from here, plus a difference that starts at zero.

    Gradient-disentangled embedding sharing (DeBERTaV3, He et al. 2021, section 3.3, equation 4): E_D = sg(E_G) + E_delta.
    """

    def __init__(self, base: nn.Embedding) -> None:
        super().__init__()
        self.base = base
        self.difference = nn.Parameter(torch.zeros_like(base.weight))

    @property
    def weight(self) -> Tensor:
        """(V, E) the table that is read here."""
        return self.base.weight.detach() + self.difference

    def forward(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T, E): gradients reach the difference alone."""
        pad = self.base.padding_idx
        return F.embedding(ids, self.base.weight.detach(), pad) + F.embedding(ids, self.difference, pad)


class Replaced(nn.Module):
    """The encoder as discriminator, with a masked language model as its generator.

    Each tensor stands once in its state, and `encoder.tokens.weight` is what the encoder reads, however the two share.
    """

    likelihood: Likelihood = "discriminator"
    maskings: tuple[Masking, ...] = ()

    def __init__(self, config: ReplacedConfig, encoder: EncoderConfig, vocabulary: Vocabulary, length: int) -> None:
        """`length`: the tokens a row has at most."""
        super().__init__()
        self.config, self.vocabulary, self.length = config, vocabulary, length
        self.encoder_config = encoder
        self.encoder: Encoder = build_encoder(encoder, vocabulary.size, vocabulary.padding)
        self.head = build_replaced_head(encoder)
        alone = config.generator is None
        self.generator = None if alone else Masked(config.hiding, config.generator_of(encoder), vocabulary, length)
        self.weights = {"masked": 1.0, "replaced": config.discriminator_weight}
        self.directions = directions(*config.metrics)
        self.monitor = "loss"
        self._aliases = self._share()
        self.register_state_dict_post_hook(_one_name_each)
        self.register_load_state_dict_pre_hook(_every_name)

    def _share(self) -> dict[str, str]:
        """Let the two share embeddings; the names under which tensors appear a second time, and their first names."""
        mine: Any = self.encoder
        if self.generator is None:
            return {}
        theirs: Any = self.generator.encoder
        if self.config.sharing == "gradient_disentangled":
            mine.tokens = Shifted(theirs.tokens)
            return {"encoder.tokens.base.weight": "generator.encoder.tokens.weight"}
        if self.config.sharing == "none":
            return {}
        shared = [name for name in TABLES if isinstance(getattr(mine, name, None), nn.Embedding)]
        for name in shared:
            setattr(theirs, name, getattr(mine, name))
        return {f"generator.encoder.{name}.weight": f"encoder.{name}.weight" for name in shared}

    @property
    def masked(self) -> Masked:
        """The generator. Raises `UsageError` for a discriminator that was imported without one."""
        if self.generator is None:
            message = "this discriminator came without its generator, and nothing can be replaced for it to find"
            raise UsageError(message, fix="predict with it, embed with it, or fine-tune it")
        return self.generator

    def collate(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], progress: float | None) -> Batch:
        """The generator's batch, with a uniform number for each place that it fills."""
        batch = self.masked.collate(examples, rngs, progress)
        slots = len(batch.targets["where"]) // len(examples)
        draws = np.stack([rng.random(slots, dtype=np.float32) for rng in rngs]).reshape(-1)
        targets = batch.targets | {"draws": torch.from_numpy(draws)}
        return Batch(batch.inputs, targets, {**batch.counts, "replaced": batch.tokens}, batch.tokens)

    def picture(self, examples: Sequence[Row], rngs: Sequence[np.random.Generator], batch: Batch) -> list[Picture]:
        """The rows, with what the generator is to guess."""
        return self.masked.picture(examples, rngs, batch)

    def guesses(self, inputs: Inputs, targets: dict[str, Tensor]) -> Tensor:
        """(N, V) logits of the generator at the places of the batch, those that nothing is hidden in included."""
        return self.masked.logits(self.masked.encoder(inputs), targets["where"])

    def replace(self, inputs: Inputs, targets: dict[str, Tensor], logits: Tensor) -> tuple[Inputs, Tensor]:
        """The inputs with what the generator draws from `logits` (N, V), and (B, T) whether a token is not the original."""
        labels, drawn = targets["labels"], draw(logits, targets["draws"])
        # Slots that nothing is hidden in write to a place behind the last one, which is cut off.
        where = torch.where(labels == IGNORE, inputs.ids.numel(), targets["where"])
        ids = F.pad(inputs.ids.flatten(), (0, 1)).scatter(0, where, drawn)[:-1].view_as(inputs.ids)
        replaced = inputs.ids.new_zeros(inputs.ids.numel() + 1, dtype=torch.bool).scatter(0, where, drawn != labels)
        return inputs._replace(ids=ids), replaced[:-1].view_as(ids)

    def scores(self, inputs: Inputs) -> Tensor:
        """(B, T) logits of having been replaced."""
        return self.head(self.encoder(inputs)).float()

    def suspicion(self, inputs: Inputs) -> Tensor:
        """(N, L) for N texts in the rows: the probability of each of their tokens of having been replaced; 0 for padding."""
        scores, real = apart(self.scores(inputs)[:, :, None], inputs)
        return scores.squeeze(-1).sigmoid() * real

    def log_likelihoods(self, texts: Sequence[Row], masking: Masking | None, tokens: int) -> np.ndarray:
        """(N,) sums, over the tokens of a text as it stands, of the discriminator's log-probability of being the original.

        It is the encoder that is asked, as where it chooses between wordings without being fine-tuned for that (Xia et al.
        2022, "Prompting ELECTRA"): the generator's pseudo-likelihood would be about another network. At its best the
        discriminator tells how much likelier a token is in the data than with the generator (Clark et al. 2020,
        "Pre-Training Transformers as Energy-Based Cloze Models"), so that the sum finds what is out of place, and is no
        probability of the text.
        """
        if masking is not None:
            raise UsageError(
                "a discriminator hides none; it judges all tokens of a text as it stands", where="--masking", fix="leave it out"
            )

        def nats(inputs: Inputs, where: Tensor, labels: Tensor) -> Tensor:
            return F.softplus(self.scores(inputs).flatten()[where])  # -log(1 - sigmoid)

        ordinary = [np.flatnonzero(~row.special) for row in texts]
        probes = (Probe(i, row.ids, at, row.ids[at]) for i, (row, at) in enumerate(zip(texts, ordinary, strict=True)))
        return log_likelihoods(probes, len(texts), nats, self.vocabulary.pad, tokens, str(self.encoder.tokens.weight.device))

    def _compute(self, inputs: Inputs, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(N, V) logits of the generator, (R,) logits of every place, and (R,) whether it was replaced, as 0 and 1."""
        logits = self.guesses(inputs, targets)
        shown, replaced = self.replace(inputs, targets, logits.detach())
        return logits, self.scores(shown.again(1)), replaced.float()

    def forward(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """The summed cross-entropy of the hidden tokens, and of the decision on every real one."""
        logits, scores, replaced = self._compute(inputs, targets)
        detection = F.binary_cross_entropy_with_logits(scores, replaced, inputs.mask.float(), reduction="sum")
        nats = F.cross_entropy(logits, targets["labels"], ignore_index=IGNORE, reduction="sum")
        return {"masked": nats, "replaced": detection}

    def observe(self, inputs: Inputs, targets: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the generator guesses of each hidden token, and for each real one the loss, the truth and the decision."""
        logits, scores, replaced = self._compute(inputs, targets)
        scores, replaced, real = scores[inputs.mask], replaced[inputs.mask], targets["labels"] != IGNORE
        logits, labels = logits[real], targets["labels"][real]
        return {
            "generator_nats": F.cross_entropy(logits, labels, reduction="none"),
            "generator_right": (logits.argmax(-1) == labels).float(),
            "nats": F.binary_cross_entropy_with_logits(scores, replaced, reduction="none"),
            "replaced": replaced,
            "found": (scores > 0).float(),
        }

    def metrics(self, observed: dict[str, np.ndarray]) -> dict[str, float]:
        """Both losses and their weighted sum; of the decisions accuracy, and precision and recall of the replaced tokens.

        `replaced` is the share of tokens that were: always saying no has an accuracy of 1 less that.
        """
        generator = self.masked.metrics({name: observed[f"generator_{name}"] for name in ("nats", "right")})
        replaced, found = observed["replaced"] > 0, observed["found"] > 0
        hits, loss = int((replaced & found).sum()), float(observed["nats"].mean(dtype=np.float64))
        return {
            "loss": self.weights["masked"] * generator["loss"] + self.weights["replaced"] * loss,
            "accuracy": float((replaced == found).mean()),
            "precision": hits / max(int(found.sum()), 1),
            "recall": hits / max(int(replaced.sum()), 1),
            "replaced": float(replaced.mean()),
            "discriminator_loss": loss,
            "generator_loss": generator["loss"],
            "generator_accuracy": generator["accuracy"],
        }

    def exported(self) -> Export | str:
        """The discriminator: logits of having been replaced at every place."""
        tensors = {name: tensor for name, tensor in self.state_dict().items() if name.startswith(("encoder.", "head."))}
        return Export("replaced", tensors, self.scores)


@torch.no_grad()
def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """(N,) a token of each row of (N, V) logits, by the inverse of its distribution function at (N,) numbers of [0, 1)."""
    cumulative = logits.float().softmax(-1).cumsum(-1)
    levels = uniform[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, levels, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def _one_name_each(learner: nn.Module, state: dict[str, Tensor], prefix: str, _: Any) -> None:
    """In a state, what the two share stands once, and the encoder's table as it is read beside how it came about."""
    assert isinstance(learner, Replaced)
    for name in learner._aliases:
        del state[prefix + name]
    if isinstance(learner.encoder.tokens, Shifted):
        state[f"{prefix}difference"] = state.pop(f"{prefix}encoder.tokens.difference")
        state[f"{prefix}encoder.tokens.weight"] = learner.encoder.tokens.weight.detach()


def _every_name(learner: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The reverse of `_one_name_each`. A table for the encoder that is not the sum becomes that of both: how training goes on."""
    assert isinstance(learner, Replaced)
    if isinstance(learner.encoder.tokens, Shifted):
        table, base = state.pop(f"{prefix}encoder.tokens.weight"), f"{prefix}generator.encoder.tokens.weight"
        difference = state.pop(f"{prefix}difference")
        if not torch.equal(table, state[base] + difference):
            state[base], difference = table, torch.zeros_like(table)
        state[f"{prefix}encoder.tokens.difference"] = difference
    for alias, name in learner._aliases.items():
        state[prefix + alias] = state[prefix + name]
