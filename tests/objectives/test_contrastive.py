"""Contrastive learning: the loss and the measure against plain torch, portions that change nothing, legal recipes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from encoderkit.config import validate
from encoderkit.data.blocks import Row
from encoderkit.data.order import rng
from encoderkit.errors import UsageError
from encoderkit.models.inputs import Inputs
from encoderkit.objectives.config import ContrastiveConfig
from encoderkit.objectives.contrastive import Contrastive
from encoderkit.recipe import PretrainRecipe
from encoderkit.stages.pretrain import prepare
from encoderkit.training.config import AdamWConfig
from encoderkit.training.evaluate import evaluate
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.training.runs import KINDS, LENGTH, VOCABULARY, encoder, go, plan, pretraining, rows
from tests.training.test_exact import gradients


def contrastive(kind: str, dropout: float = 0.0, **settings: Any) -> Contrastive:
    """A learner with fresh weights, the same each time."""
    torch.manual_seed(1)
    return Contrastive(ContrastiveConfig(**settings), encoder(kind, dropout=dropout), VOCABULARY, LENGTH)


def rngs(count: int) -> list[np.random.Generator]:
    return [rng(1, 0, i) for i in range(count)]


def packed(first: Row, second: Row) -> Row:
    """Two documents in one row, for encoders that keep them apart."""
    both = Row(*(np.concatenate(parts) for parts in zip(first[:5], second[:5], strict=True)))
    return both._replace(documents=np.repeat([1, 2], [len(first.ids), len(second.ids)]))


def alone(learner: Contrastive, row: Row) -> torch.Tensor:
    """(D,) the vector of a text by itself."""
    hidden = learner.encoder(Inputs.of(torch.from_numpy(row.ids)[None]))[0]
    return learner.projection(hidden.mean(0) if learner.config.pooling == "mean" else hidden[0])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("kind", ["bert", "modernbert", "lstm", "cnn"])
def test_the_loss_is_that_of_each_text_against_all(kind: str, pooling: str) -> None:
    """Some rows of two documents; without dropout, each text computed alone."""
    learner, texts = contrastive(kind, pooling=pooling), rows(9)
    examples = [packed(texts[0], texts[1]), *texts[2:5], packed(texts[5], texts[6]), *texts[7:]]
    if not learner.encoder.packs:
        examples = texts
    learner.length = 2 * LENGTH
    batch = learner.collate(examples, rngs(len(examples)), 0.0)
    vectors = torch.stack([alone(learner, row) for row in texts])
    scores = cosine_similarity(vectors[:, None], vectors, dim=-1) / 0.05
    expected = cross_entropy(scores, torch.arange(9), reduction="sum")
    assert batch.counts == {"contrastive": 9} and batch.tokens == sum(len(row.ids) for row in examples)
    torch.testing.assert_close(learner(batch.inputs, batch.targets)["contrastive"], expected, atol=1e-4, rtol=1e-5)


def test_the_vector_is_that_of_cls_where_the_tokenizer_puts_it() -> None:
    """Last, as XLNet's does: the same loss as by taking the last token, and halves that end with it."""
    learner = contrastive("xlnet")
    learner.vocabulary = VOCABULARY._replace(summary="last")
    texts = [row._replace(ids=np.r_[row.ids[1:], 2], special=np.r_[row.special[1:], True]) for row in rows(4)]
    batch = learner.collate(texts, rngs(4), 0.0)
    vectors = torch.stack(
        [learner.projection(learner.encoder(Inputs.of(torch.from_numpy(row.ids)[None]))[0, -1]) for row in texts]
    )
    scores = cosine_similarity(vectors[:, None], vectors, dim=-1) / 0.05
    expected = cross_entropy(scores, torch.arange(4), reduction="sum")
    torch.testing.assert_close(learner(batch.inputs, batch.targets)["contrastive"], expected, atol=1e-4, rtol=1e-5)
    halves = learner.collate(texts, (), None).inputs
    for row, length in zip(halves.ids, halves.mask.sum(1), strict=True):
        assert row[length - 2 : length].tolist() == [3, 2] and (row[: length - 2] > 4).all()


def test_the_two_passes_differ_by_dropout_alone() -> None:
    learner = contrastive("bert", dropout=0.1).train()
    seen: list[torch.Tensor] = []

    def note(module: nn.Module, given: Any, found: torch.Tensor) -> None:
        seen.append(found)

    learner.projection.register_forward_hook(note)
    batch = learner.collate(rows(4), rngs(4), 0.0)
    learner(batch.inputs, batch.targets)
    learner.eval()(batch.inputs, batch.targets)
    (first, second), (third, fourth) = (vectors.chunk(2) for vectors in seen)
    assert (first - second).abs().amax(-1).min() > 1e-3
    torch.testing.assert_close(third, fourth)


def test_the_masked_term_is_that_of_the_objective_masked() -> None:
    """Of the same hidden tokens; and the pooled copies are whole."""
    learner, examples = contrastive("bert", masked=0.1, rate=0.3, unit="word"), rows(8)
    batch = learner.collate(examples, rngs(8), 0.0)
    assert learner.weights == {"contrastive": 1.0, "masked": 0.1}
    ids = batch.inputs.ids.view(3, 8, LENGTH)
    assert torch.equal(ids[0], ids[1]) and (ids[:2] != VOCABULARY.mask).all() and (ids[2] == VOCABULARY.mask).any()
    rest = batch.targets["where"] - 2 * 8 * LENGTH
    assert torch.equal(ids[0].flatten()[rest], batch.targets["labels"]) and len(rest) == batch.counts["masked"]
    hidden = learner.encoder(Inputs(ids[2], *(t.view(3, 8, LENGTH)[2] for t in batch.inputs[1:3])))
    logits = learner.head(hidden.flatten(0, 1)[rest], learner.encoder.tokens.weight)
    expected = nn.CrossEntropyLoss(reduction="sum")(logits, batch.targets["labels"])
    torch.testing.assert_close(learner(batch.inputs, batch.targets)["masked"], expected)


@pytest.mark.parametrize("micro_batch", [1, 3, 4, 5, 8])
@pytest.mark.parametrize("kind", ["bert", "lstm"])
def test_the_micro_batch_changes_nothing(kind: str, micro_batch: int) -> None:
    """The negatives are those of the update, and the masked term has its share, whatever is computed at once."""
    learner, source = contrastive(kind, masked=0.1), rows(19)
    whole, losses = gradients(learner, source, 8)
    parts, portioned = gradients(learner, source, micro_batch)
    assert losses == pytest.approx(portioned, abs=1e-5)
    for expected, found in zip((g for step in whole for g in step), (g for step in parts for g in step), strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_held_out_halves_find_one_another_however_they_are_batched(batch: int) -> None:
    learner, texts = contrastive("bert", pooling="mean"), rows(13)
    found = evaluate(learner, texts, batch, "cpu", "fp32")
    halves: list[list[torch.Tensor]] = [[], []]
    for row in texts:
        own = row.ids[1:-1]
        for side, half in enumerate((own[: len(own) // 2], own[len(own) // 2 :])):
            ids = torch.tensor([[2, *half, 3]])
            halves[side].append(learner.encoder(Inputs.of(ids))[0].mean(0).detach())
    scores = cosine_similarity(torch.stack(halves[0])[:, None], torch.stack(halves[1]), dim=-1) / 0.05
    goal = torch.arange(13)
    assert found["loss"] == pytest.approx(float(cross_entropy(scores, goal)), abs=1e-4)
    assert found["accuracy"] == pytest.approx(float((scores.argmax(-1) == goal).float().mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_eight_texts_are_told_apart(kind: str) -> None:
    """Every encoder that the objective takes: the loss of finding a text among eight falls to next to nothing."""
    torch.manual_seed(1)
    config = ContrastiveConfig(pooling="mean", masked=0.1)
    learner, source = Contrastive(config, encoder(kind, dropout=0.1), VOCABULARY, LENGTH), rows(8)
    optimizers = build_optimizers(learner, AdamWConfig(lr=3e-3, weight_decay=0.0), torch.float32)
    taken = list(updates(learner, optimizers, source, plan(60, 8, clip=1.0)))
    assert taken[-1].losses["contrastive"] < 0.1 and taken[-1].losses["masked"] < taken[0].losses["masked"]


BASE = {"tokenizer": "t", "data": {"train": "d"}, "training": {"updates": 1, "batch": 64}, "objective": {"kind": "contrastive"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"kind": "modernbert"}}, "this encoder has none, so they would be equal; set the encoder's dropout"),
        ({"model": {"kind": "bert", "dropout": 0, "attention_dropout": 0}}, "set the encoder's dropout"),
        ({"model": {"kind": "lstm", "directions": 1}}, "the first token, which has read nothing"),
        ({"objective": {"kind": "contrastive", "rate": 0.3}}, "with masked: 0 none are"),
        ({"dropout": 0.1}, "set model.dropout"),
        ({"checkpoint": "runs/mini"}, "give either checkpoint"),
    ],
)
def test_what_cannot_work_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(PretrainRecipe, BASE | {"model": {"kind": "bert"}} | change, "recipe")


def test_it_goes_on_from_a_masked_model(
    pretrained_dir: Path, tokenizer_dir: Path, store_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Encoder and vocabulary head are those of the checkpoint, the projection is fresh; a masked run goes on with both."""
    base = pretraining(tokenizer_dir, store_dir).model_dump(exclude={"tokenizer", "model"})
    step = pretrained_dir / (pretrained_dir / "best").read_text(encoding="utf-8").strip()
    given = safetensors.torch.load_file(step / "model.safetensors")
    for objective, fresh in (
        ({"kind": "contrastive", "masked": 0.1}, {"projection.dense.weight", "projection.dense.bias"}),
        ({"kind": "masked"}, set()),
    ):
        recipe = validate(PretrainRecipe, base | {"checkpoint": str(pretrained_dir), "objective": objective}, "recipe")
        capsys.readouterr()
        material = prepare(recipe)
        learner: Any = material.learner
        own = learner.state_dict()
        assert own.keys() - given.keys() == fresh
        assert all(torch.equal(own[name], tensor) for name, tensor in given.items())
        assert ("with fresh weights: projection" in capsys.readouterr().err) == bool(fresh)
        assert "checkpoint" in material.inputs
        result = go(recipe, tmp_path / objective["kind"])
        assert result["updates"] == 6 and np.isfinite(result["dev"]["loss"])
    again = go(recipe, tmp_path / "masked", resume=True)
    assert again["updates"] == 6
