"""What is taken out, what is written, that nothing is lost, and that every encoder learns to write it."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from encoderkit.config import validate
from encoderkit.data.order import rng
from encoderkit.errors import UserError
from encoderkit.learner import IGNORE
from encoderkit.models.config import LstmConfig, T5Config
from encoderkit.objectives.config import SpansConfig
from encoderkit.objectives.spans import STEP, Spans, noise_mask
from encoderkit.recipe import PretrainRecipe
from encoderkit.training.config import AdamWConfig
from encoderkit.training.evaluate import evaluate
from encoderkit.training.optim import build_optimizers
from tests.objectives.test_masked import VOCABULARY, make_row, rngs
from tests.training import runs

TINY = T5Config(dim=32, layers=2, heads=2, max_length=128)


def learner(model: Any = TINY, length: int = 128, **settings: object) -> Spans:
    torch.manual_seed(0)
    return Spans(SpansConfig.model_validate(settings), model, VOCABULARY, length)


def reference_mask(length: int, rate: float, mean: float, generator: np.random.Generator) -> np.ndarray:
    """T5's random_spans_noise_mask (text-to-text-transfer-transformer, preprocessors.py) in numpy, line by line."""
    original, length = length, max(length, 2)
    noise = min(max(int(np.round(length * rate)), 1), length - 1)
    spans = max(int(np.round(noise / mean)), 1)

    def random_segmentation(items: int, segments: int) -> np.ndarray:
        first = np.arange(items - 1) < segments - 1
        generator.shuffle(first)
        number = np.cumsum(np.pad(first, (1, 0)))
        return np.bincount(number, minlength=segments)

    lengths = np.stack([random_segmentation(length - noise, spans), random_segmentation(noise, spans)], 1).reshape(-1)
    starts = np.zeros(length, np.int64)
    starts[np.cumsum(lengths)[:-1]] = 1
    return (np.cumsum(starts) % 2 == 1)[:original]


@pytest.mark.parametrize(("length", "rate", "mean"), [(126, 0.15, 3.0), (40, 0.5, 2.0), (9, 0.15, 3.0), (200, 0.15, 10.0)])
def test_spans_are_drawn_as_by_the_reference(length: int, rate: float, mean: float) -> None:
    """The same number of tokens and of spans each time, and each place is taken out as often."""
    ours = np.array([noise_mask(length, rate, mean, np.random.default_rng((1, i))) for i in range(4000)])
    theirs = np.array([reference_mask(length, rate, mean, np.random.default_rng((2, i))) for i in range(4000)])
    assert set(ours.sum(1)) == set(theirs.sum(1)) and len(set(ours.sum(1))) == 1
    begins = [np.diff(masks.astype(int), axis=1, prepend=0).clip(min=0).sum(1) for masks in (ours, theirs)]
    assert set(begins[0]) == set(begins[1]) and len(set(begins[0])) == 1
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 5 * (0.5 / 4000) ** 0.5


@pytest.mark.parametrize("sentinels", [100, 2])
def test_source_and_target_together_are_the_text(sentinels: int) -> None:
    made = learner(sentinels=sentinels, rate=0.3)
    first = VOCABULARY.size
    for seed in range(50):
        row = make_row(np.random.default_rng(seed), [40, 1, 30, 2, 40])
        batch = made.collate([row], [np.random.default_rng(seed)], None)
        ids, documents = batch.inputs.ids[0].numpy(), batch.inputs.documents[0].numpy()
        labels, of = batch.targets["labels"][0].numpy(), batch.targets["documents"][0].numpy()
        given = batch.targets["given"][0].numpy()
        for document in range(1, 6):
            target = labels[of == document].tolist()
            assert given[of == document].tolist() == [VOCABULARY.cls, *target][: len(target)]
            assert not target or target.pop() == VOCABULARY.sep
            spans: dict[int, list[int]] = {}
            for token in target:
                if token >= first:
                    spans[token] = []
                else:
                    spans[max(spans)].append(token)
            assert list(spans) == list(range(first, first + len(spans))) and len(spans) <= sentinels
            source = ids[documents == document]
            text = [t for token in source for t in (spans.pop(token) if token >= first else [token])]
            assert text == row.ids[row.documents == document].tolist() and not spans
            assert batch.inputs.positions[0][documents == document].tolist() == list(range(len(source)))
        assert batch.counts["spans"] == (labels != IGNORE).sum() and len(labels) % STEP == 0


def test_what_is_taken_out_depends_on_the_generator_alone() -> None:
    rows = [make_row(np.random.default_rng(i), [60, 40]) for i in range(8)]
    made = learner()
    whole = made.collate(rows, rngs(8), 0.0)
    halves = [made.collate(rows[i : i + 4], rngs(8)[i : i + 4], 0.0) for i in (0, 4)]
    assert torch.equal(whole.inputs.ids, torch.cat([half.inputs.ids for half in halves]))
    assert not torch.equal(whole.inputs.ids, made.collate(rows, rngs(8, epoch=1), 0.0).inputs.ids)


@pytest.mark.parametrize("decoder", [{}, {"head": "own"}, {"dim": 16, "heads": 2}])
def test_the_loss_starts_near_that_of_guessing(decoder: dict[str, Any]) -> None:
    """Logits of variance 1 cost half a nat more than equal ones."""
    rows = [make_row(np.random.default_rng(i), [60, 40]) for i in range(8)]
    made = learner(decoder=decoder)
    found = evaluate(made, rows, 3, "cpu", "fp32")
    assert found["loss"] == pytest.approx(math.log(VOCABULARY.size + 100) + 0.5, abs=0.3)
    batch = made.collate(rows, [rng(271_828, 0, i) for i in range(8)], None)
    with torch.no_grad():
        loss = float(made(batch.inputs, batch.targets)["spans"])
    assert found["loss"] == pytest.approx(loss / batch.counts["spans"], rel=1e-5)


def test_a_change_in_one_document_changes_nothing_in_its_neighbour() -> None:
    made = learner().eval()
    batch = made.collate([make_row(np.random.default_rng(0), [60, 50])], rngs(1), None)
    second = batch.inputs.documents == 2
    other = batch.inputs._replace(ids=torch.where(second, 9, batch.inputs.ids))
    with torch.no_grad():
        before, after = (made._vectors(inputs, batch.targets)[0] for inputs in (batch.inputs, other))
    mine = batch.targets["documents"].flatten() == 1
    assert torch.equal(before[mine], after[mine]) and not torch.equal(before, after)


def test_sentinels_of_the_tokenizer_itself() -> None:
    made = learner(first_sentinel=499, sentinel_step=-1, sentinels=50)
    batch = made.collate([make_row(np.random.default_rng(0), [60])], rngs(1), None)
    assert made.encoder.tokens.num_embeddings == 500
    assert batch.targets["labels"][0, 0] == 499 and 498 in batch.targets["labels"]
    with pytest.raises(UserError, match="a sentinel has the id 500, but"):
        learner(first_sentinel=401)


@pytest.mark.parametrize("kind", runs.KINDS)
def test_eight_sequences_are_memorised(kind: str) -> None:
    torch.manual_seed(1)
    made = Spans(SpansConfig(), runs.encoder(kind, **runs.BOTH_WAYS.get(kind, {})), runs.VOCABULARY, runs.LENGTH)
    batch = made.collate(runs.rows(8), [rng(1, 0, i) for i in range(8)], 0.0)
    (optimizer,) = build_optimizers(made, AdamWConfig(lr=1e-3, weight_decay=0.0), torch.float32)
    for group in optimizer.param_groups:
        group["lr"] = 5e-3
    loss = torch.tensor(torch.inf)
    for _ in range(200):
        loss = made(batch.inputs, batch.targets)["spans"] / batch.counts["spans"]
        if loss < 0.1:
            break
        loss.backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.1


@pytest.mark.parametrize(
    ("model", "objective", "reason"),
    [
        (
            {"kind": "lstm", "directions": 1},
            {},
            "this lstm has not seen them; model.directions: 2",
        ),
        ({"kind": "gpt"}, {}, "this gpt has not seen them; model.direction: both does"),
        ({"kind": "t5"}, {"decoder": {"heads": 7}}, r"objective\.decoder: heads \(7\) must divide dim \(256\)"),
        ({"kind": "t5"}, {"first_sentinel": 9, "sentinel_step": -1}, "there are no 99 more ids"),
        ({"kind": "t5", "buckets": 16, "bucket_distance": 8}, {}, "must be more than half of buckets"),
    ],
)
def test_what_does_not_fit_is_told_when_the_recipe_is_read(model: dict, objective: dict, reason: str) -> None:
    recipe = {
        "tokenizer": "t",
        "data": {"train": "d"},
        "model": model,
        "objective": {"kind": "spans", **objective},
        "training": {"updates": 1},
    }
    with pytest.raises(UserError, match=reason):
        validate(PretrainRecipe, recipe, "recipe")


def test_an_encoder_that_cannot_pack_gets_narrow_batches() -> None:
    made = learner(LstmConfig(dim=32))
    rows = [make_row(np.random.default_rng(i), [size]) for i, size in enumerate((10, 30, 5))]
    batch = made.collate(rows, rngs(3), 0.0)
    assert batch.inputs.ids.shape[1] < 32 and batch.targets["labels"].shape == (3, STEP)
