"""What is guessed, in which order, what each guess may see, and what a text is worth."""

import math
from itertools import pairwise
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from encoderkit.config import validate
from encoderkit.data.blocks import Row
from encoderkit.errors import UsageError
from encoderkit.learner import IGNORE, Batch
from encoderkit.models.config import XlnetConfig
from encoderkit.models.inputs import Inputs
from encoderkit.models.xlnet import Order
from encoderkit.objectives.config import PermutedConfig
from encoderkit.objectives.permuted import Permuted
from encoderkit.recipe import PretrainRecipe
from tests.objectives.test_masked import VOCABULARY, make_row, rngs

TINY = XlnetConfig(dim=32, layers=2, heads=2, dropout=0)
LENGTH = 128
Unit = Literal["span", "token"]
units = pytest.mark.parametrize("unit", ["span", "token"])


def learner(summary: Literal["first", "last"] = "first", dropout: float = 0.0, **settings: object) -> Permuted:
    """A tiny learner with weights far enough from zero that a leak would show."""
    torch.manual_seed(0)
    vocabulary = VOCABULARY._replace(summary=summary)
    made = Permuted(PermutedConfig.model_validate(settings), TINY.model_copy(update={"dropout": dropout}), vocabulary, LENGTH)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return made


def many(count: int, sizes: list[int] | None = None) -> list[Row]:
    return [make_row(np.random.default_rng(i), sizes or [40, 30, 50]) for i in range(count)]


@units
def test_one_in_six_is_guessed_last_of_an_order_in_which_special_tokens_come_first(unit: Unit) -> None:
    made, rows = learner(unit=unit), many(200)
    batch = made.collate(rows, rngs(200), 0.5)
    labels, places, ranks = (batch.targets[name].numpy() for name in ("labels", "places", "ranks"))
    real = labels != IGNORE
    assert batch.counts["permuted"] == real.sum() == 200 * 20  # of 120 ordinary tokens
    guessed_where = np.zeros(LENGTH)
    for i, row in enumerate(rows):
        guessed = places[i][real[i]]
        assert len(set(guessed)) == 20 and (row.ids[guessed] == labels[i][real[i]]).all() and not row.special[guessed].any()
        own = ranks[i, : len(row.ids)]
        assert (own[row.special] == 0).all() and (ranks[i][places[i][~real[i]]] == 0).all()
        others = np.setdiff1d(np.arange(len(row.ids)), guessed)
        assert own[guessed].min() > own[others].max() and len(set(own[guessed])) == 20
        assert len(set(own[~row.special])) == (120 if unit == "token" else 21)
        guessed_where[guessed] += 1
    special = rows[0].special
    shares = guessed_where[: len(special)][~special] / 200
    assert shares.mean() == pytest.approx(1 / 6) and shares[:3].mean() > 0.1 and shares[-3:].mean() > 0.1


def test_spans_are_longer_than_chance_begin_with_words_and_end_with_their_document() -> None:
    made = learner(unit="span")
    runs: dict[Unit, list[int]] = {"span": [], "token": []}
    for i, row in enumerate(many(200)):
        rng = np.random.default_rng(i)
        ordinary = np.flatnonzero(~row.special)
        span = made._spans(ordinary, row, rng)
        heads = span[np.diff(span, prepend=-9) > 1]
        assert row.starts[heads].all() and (np.diff(span) > 0).all()
        for unit in runs:
            places = learner(unit=unit).draw(row, np.random.default_rng(i), 99).places if i < 40 else span[:0]
            runs[unit] += [len(part) for part in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(part)]
    assert np.mean(runs["span"]) > 1.25 * np.mean(runs["token"])


@pytest.mark.parametrize("summary", ["first", "last"])
@units
def test_a_short_row_and_short_documents_have_something_to_guess_from(unit: Unit, summary: Literal["first", "last"]) -> None:
    made = learner(summary, unit=unit)
    rows = [make_row(np.random.default_rng(0), [1]), make_row(np.random.default_rng(1), [1] * 30)]
    batch = made.collate(rows, rngs(2), 0.0)
    assert batch.counts["permuted"] == 1 + 5
    found = made(batch.inputs, batch.targets)["permuted"]
    found.backward()
    assert found.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


def guesses(made: Permuted, batch: Batch, ids: Tensor) -> Tensor:
    with torch.no_grad():
        order = Order(batch.targets["ranks"], batch.targets["places"])
        return made.logits(batch.inputs._replace(ids=ids), order, batch.targets)


@units
def test_a_guess_sees_what_comes_before_it_in_the_order_and_nothing_else(unit: Unit) -> None:
    """By changing one token at a time: its own guess, and those of what comes before it, stay as they are, exactly."""
    made = learner(unit=unit)
    row = make_row(np.random.default_rng(5), [25, 20])
    batch = made.collate([row], rngs(1), None)
    before, ranks = guesses(made, batch, batch.inputs.ids), batch.targets["ranks"][0]
    real = batch.targets["labels"][0] != IGNORE
    places = batch.targets["places"][0][real]
    for changed in range(len(row.ids)):
        other = batch.inputs.ids.clone()
        other[0, changed] = VOCABULARY.size - 1 if other[0, changed] != VOCABULARY.size - 1 else 7
        moved = (guesses(made, batch, other) != before)[0][real].any(-1)
        same = torch.from_numpy(row.documents)[places] == row.documents[changed]
        assert torch.equal(moved, same & (ranks[changed] < ranks[places]))


@torch.no_grad()
def test_the_order_depends_on_the_generator_alone_and_micro_batches_change_nothing() -> None:
    made, rows = learner(memory=16), [row._replace(before=np.arange(5, 5 + i)) for i, row in enumerate(many(8))]
    whole = made.collate(rows, rngs(8), 0.0)
    halves = [made.collate(rows[i : i + 4], rngs(8)[i : i + 4], 0.0) for i in (0, 4)]
    for name, value in whole.targets.items():
        assert torch.equal(value, torch.cat([half.targets[name] for half in halves]))
    parts = sum(float(made(half.inputs, half.targets)["permuted"]) for half in halves)
    assert float(made(whole.inputs, whole.targets)["permuted"]) == pytest.approx(parts, rel=1e-6)
    assert not torch.equal(whole.targets["ranks"], made.collate(rows, rngs(8, epoch=1), 0.0).targets["ranks"])


def test_the_memory_is_read_by_the_first_document_alone_and_gets_no_gradient() -> None:
    made = learner(memory=6)
    row = make_row(np.random.default_rng(0), [30, 20])

    def of(before: list[int]) -> tuple[Batch, Tensor]:
        batch = made.collate([row._replace(before=np.array(before, np.int64))], rngs(1), None)
        return batch, guesses(made, batch, batch.inputs.ids)[0]

    batch, with_one = of([400, 401, 402])
    assert batch.targets["before"].tolist() == [[0, 0, 0, 400, 401, 402]]
    assert batch.targets["before_documents"].tolist() == [[0, 0, 0, 1, 1, 1]]
    real = batch.targets["labels"][0] != IGNORE
    first = (batch.inputs.documents[0][batch.targets["places"][0]] == 1) & real
    moved = (of([400, 401, 403])[1] != with_one).any(-1)
    assert torch.equal(moved & real, first) and first.any() and not first[real].all()
    assert torch.equal(of([])[1][~first & real], with_one[~first & real])
    order, documents = Order(batch.targets["ranks"], batch.targets["places"]), batch.targets["before_documents"]
    memory = made.encoder.remember(Inputs(batch.targets["before"], documents, documents))
    made.encoder.queries(batch.inputs, order, memory).square().sum().backward()
    table = made.encoder.tokens.weight.grad
    assert table is not None and table[batch.inputs.ids[batch.inputs.mask]].any(-1).all()
    assert not table[[i for i in (400, 401, 402) if i not in batch.inputs.ids]].any()


@units
def test_every_parameter_but_the_segments_learns(unit: Unit) -> None:
    made = learner(unit=unit, dropout=0.1, memory=8)
    batch = made.collate([row._replace(before=np.arange(5, 13)) for row in many(2)], rngs(2), 0.0)
    made.train()(batch.inputs, batch.targets)["permuted"].backward()
    for name, parameter in made.named_parameters():
        if "segment" in name:  # one segment a row: they are learned on pairs
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None and parameter.grad.any(), name


def test_the_loss_starts_at_that_of_guessing_and_held_out_metrics_agree() -> None:
    torch.manual_seed(0)
    made = Permuted(PermutedConfig(), TINY, VOCABULARY, LENGTH).eval()
    batch = made.collate(many(8), rngs(8), None)
    with torch.no_grad():
        loss = float(made(batch.inputs, batch.targets)["permuted"]) / batch.counts["permuted"]
        seen = {name: value.numpy() for name, value in made.observe(batch.inputs, batch.targets).items()}
    assert loss == pytest.approx(math.log(VOCABULARY.size), rel=0.05)
    assert made.metrics(seen)["loss"] == pytest.approx(loss, rel=1e-5)


@torch.no_grad()
def test_log_likelihoods_are_those_of_one_token_at_a_time_and_batches_change_nothing() -> None:
    made = learner().eval()
    texts = [row.ids for row in (make_row(np.random.default_rng(i), [n]) for i, n in enumerate((9, 1, 6)))]
    ids = torch.zeros(3, 11, dtype=torch.int64)
    for i, text in enumerate(texts):
        ids[i, : len(text)] = torch.from_numpy(text)
    found = made.left_to_right(Inputs.of(ids, ids > 0))
    for tokens in (1, 20, 1000):
        whole = made.log_likelihoods([make_row(np.random.default_rng(i), [n]) for i, n in enumerate((9, 1, 6))], None, tokens)
        np.testing.assert_allclose(whole, found.sum(1).numpy(), atol=1e-4)
    for i, text in enumerate(texts):
        one = torch.from_numpy(text)[None]
        assert not found[i][[0, *range(len(text) - 1, 11)]].any()
        for place in range(1, len(text) - 1):
            ranks = torch.arange(len(text))[None] * (one != VOCABULARY.sep)
            unseen = one.clone()
            unseen[0, place:-1] = 5  # nothing of it may be read
            logits = made.logits(Inputs.of(unseen), Order(ranks, torch.tensor([[place]])))[0, 0]
            assert float(found[i, place]) == pytest.approx(float(logits.log_softmax(-1)[text[place]]), abs=1e-4)


@torch.no_grad()
def test_a_blank_is_filled_from_all_other_tokens() -> None:
    made = learner().eval()
    ids = torch.from_numpy(make_row(np.random.default_rng(0), [9]).ids)[None]
    places = torch.tensor([[3, 6]])
    found = made.fill(Inputs.of(ids), places)
    for place in range(ids.shape[1]):
        other = ids.clone()
        other[0, place] = 400
        moved = not torch.equal(made.fill(Inputs.of(other), places), found)
        assert moved == (place not in (3, 6))


def test_what_has_one_stream_is_refused_with_what_fits() -> None:
    recipe = {"tokenizer": "t", "data": {"train": "d"}, "training": {"updates": 1}, "objective": {"kind": "permuted"}}
    with pytest.raises(
        UsageError, match=r"two streams of xlnet, and a bert has one; model\.kind: xlnet, or objective\.kind: masked"
    ):
        validate(PretrainRecipe, recipe | {"model": {"kind": "bert"}}, "recipe")
    for kind in ("permuted", "masked"):
        validate(PretrainRecipe, recipe | {"model": {"kind": "xlnet"}, "objective": {"kind": kind}}, "recipe")


def test_ranks_of_documents_are_orders_of_them() -> None:
    """Every order of a document is about as likely, though a row is drawn as a whole."""
    made = learner(unit="token", one_in=1)
    seen: dict[tuple[int, ...], int] = {}
    row = make_row(np.random.default_rng(0), [3, 40])
    for i in range(1200):
        ranks = made.draw(row, np.random.default_rng(i), 99).ranks[1:4]
        key = tuple(int(r) for r in np.argsort(ranks))
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 6 and all(150 < count < 250 for count in seen.values())
    assert all(a < b for a, b in pairwise(made.draw(row, np.random.default_rng(1), 99).places))
