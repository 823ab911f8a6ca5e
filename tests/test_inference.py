"""Running a trained model: whatever is computed together, each text has the result that it has alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from encoderkit.data.labelled import Row
from encoderkit.inference import TOKENS, Account, Engine, fill, open_model, start, with_blanks
from encoderkit.models.inputs import Inputs
from encoderkit.preflight import find_step

TEXTS = [["the film was good and the day was warm"], [""], ["the song"], ["the garden was sad. " * 20], ["a meal"]]


@pytest.fixture
def engine(classifier_dir: Path) -> Engine:
    return start(open_model(find_step(classifier_dir)), "fp32")


def test_batches_hold_every_row_once_within_the_budget(engine: Engine) -> None:
    lengths, most = np.random.default_rng(0).integers(1, 600, size=500).tolist(), TOKENS[engine.device]
    found = list(engine.batches(lengths))
    assert sorted(np.concatenate(found)) == list(range(500))
    assert all(len(batch) * max(lengths[i] for i in batch) <= most for batch in found)
    assert [len(batch) for batch in engine._replace(batch=3).batches([5] * 7)] == [3, 3, 1]
    assert [len(batch) for batch in engine.batches([2 * most, 1])] == [1, 1]
    assert not list(engine.batches([]))


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
def test_vectors_are_those_of_each_text_alone(engine: Engine, pooling: str) -> None:
    rows = engine.tokens(TEXTS)
    encoder, expected = engine.model.learner.encoder, []
    for row in rows:
        with torch.inference_mode():
            [hidden] = encoder(Inputs.of(torch.from_numpy(row.ids)[None])).numpy()  # (T, D)
        expected.append({"cls": hidden[0], "mean": hidden.mean(0), "max": hidden.max(0), "last": hidden[-1]}[pooling])
    for batch in (None, 1, 2):
        found = engine._replace(batch=batch).vectors(rows, pooling)  # pyright: ignore[reportArgumentType]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_what_is_observed_does_not_depend_on_the_batch(engine: Engine) -> None:
    task = engine.model.task
    assert task is not None
    rows = [Row({"text": text}, i, "texts") for i, [text] in enumerate(TEXTS * 9)]
    examples = task.encode(rows, engine.model.tokenizer, labelled=False)
    alone = engine._replace(batch=1).observe(examples)["logits"]
    for batch in (7, 64, None):
        np.testing.assert_allclose(engine._replace(batch=batch).observe(examples)["logits"], alone, atol=1e-5)


def test_account(engine: Engine) -> None:
    rows = engine.tokens([*TEXTS, ["§"]])
    account = Account()
    for some in (rows[:2], rows[2:]):
        account = account.add_each([[row] for row in some], engine.model.tokenizer.unk)
    encoded = engine.model.tokenizer.encode([text for [text] in [*TEXTS, ["§"]]])
    assert (account.rows, account.empty, account.truncated, account.unknown) == (6, 1, 1, encoded.unknown)
    assert account.tokens + account.lost == len(encoded.ids)
    assert "1 are longer than 24 tokens" in account.told(24) and "1 without a single token" in account.told(24)


def test_opening_leaves_the_model_ready(engine: Engine) -> None:
    assert isinstance(engine.model.learner, nn.Module) and not engine.model.learner.training
    assert engine.model.labels == ["negative", "positive"]


def test_blanks_are_filled_with_the_likeliest_tokens(pretrained_dir: Path) -> None:
    engine = start(open_model(find_step(pretrained_dir)), "fp32")
    [row] = with_blanks(engine, [["the [MASK] was good and [MASK]"]])
    tokenizer = engine.model.tokenizer
    whole = tokenizer.encode(["the film was good and"])
    [place] = np.flatnonzero(whole.ids == tokenizer.encode(["film"]).ids[0])
    expected = [tokenizer.cls, *whole.ids.tolist(), tokenizer.mask, tokenizer.sep]
    expected[place + 1] = tokenizer.mask
    assert row.ids.tolist() == expected
    first, second = fill(engine, row, 200)
    assert len(first) == len(second) == tokenizer.vocab_size
    assert sum(p for _, p in first) == pytest.approx(1, abs=1e-4)
    assert [p for _, p in first] == sorted((p for _, p in first), reverse=True)
