"""Two texts that are encoded apart, and compared by the head of a classifier or of a regression."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoderkit.config import validate
from encoderkit.errors import UsageError
from encoderkit.inference import open_model
from encoderkit.models.inputs import Inputs
from encoderkit.models.pooling import matched, pool
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import export
from encoderkit.stages.embed import embed
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.finetune import finetune
from encoderkit.stages.predict import predict
from encoderkit.tasks.classify import Classify, Example
from encoderkit.tasks.config import ClassifyConfig
from encoderkit.tasks.texts import Tokens
from encoderkit.training.config import AdamWConfig, ScheduleConfig
from encoderkit.training.evaluate import evaluate as evaluate_source
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.training.runs import BOTH_WAYS, KINDS, LENGTH, VOCABULARY, encoder, plan, sequences


def built(kind: str, **task: Any) -> Classify:
    torch.manual_seed(1)
    config = ClassifyConfig(text=["a", "b"], pair="bi_encoder", pooling="mean", dropout=0, **task)
    return Classify(config, encoder(kind, **BOTH_WAYS.get(kind, {})), VOCABULARY, LENGTH, ["0", "1"])


def pairs(count: int) -> list[Example]:
    texts = [Tokens(ids, None, 0) for ids in sequences(2 * count)]
    return [Example((texts[2 * i], texts[2 * i + 1]), i % 2, i) for i in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_is_read_alone(kind: str) -> None:
    """By hand: the encoder on one text at a time, and the head on u, v, |u - v|, u * v."""
    task = built(kind).eval()
    torch.nn.init.normal_(task.head.out.weight)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    source = pairs(5)
    with torch.inference_mode():
        found = task.logits(task.collate(source).inputs)
        for own, example in zip(found, source, strict=True):
            u, v = (
                pool("mean", task.encoder(inputs), inputs.mask)[0]
                for inputs in (Inputs.of(torch.from_numpy(text.ids)[None]) for text in example.texts)
            )
            by_hand = task.head(torch.cat([u, v, (u - v).abs(), u * v])[None])[0]
            torch.testing.assert_close(own, by_hand, atol=1e-5, rtol=1e-4)


def test_matched() -> None:
    vectors = torch.tensor([[1.0, -2.0], [3.0, 5.0], [0.0, 1.0], [4.0, 4.0]])
    assert matched(vectors).tolist() == [[1, -2, 3, 5, 2, 7, 3, -10], [0, 1, 4, 4, 4, 3, 0, 4]]


@pytest.mark.parametrize("kind", ["bert", "lstm"])
@pytest.mark.parametrize("trick", [{}, {"rdrop": 1.0}, {"word_dropout": 0.1}])
def test_what_two_texts_share_is_learnt(kind: str, trick: dict[str, float]) -> None:
    """Whether they have the same token in the middle, whatever stands around it."""
    task, draw = built(kind, **trick), np.random.default_rng(5)
    source = []
    for i in range(16):
        token = int(draw.integers(5, 12))
        other = token if i % 2 else token + 12
        ids = [np.array([2, *draw.integers(30, 40, 2), t, *draw.integers(30, 40, 2), 3]) for t in (token, other)]
        source.append(Example(tuple(Tokens(own, None, 0) for own in ids), i % 2, i))
    optimizers = build_optimizers(task, AdamWConfig(lr=5e-3, weight_decay=0.0), torch.float32)
    schedule = ScheduleConfig(kind="linear", warmup=0)
    for _ in updates(task, optimizers, source, plan(60, 16, clip=1.0, schedule=schedule)):
        pass
    assert evaluate_source(task, source, 5, "cpu", "fp32")["accuracy"] == 1


def recipe(tokenizer: Path, data: Path, task: dict[str, Any], model: dict[str, Any]) -> FinetuneRecipe:
    values = {
        "tokenizer": str(tokenizer),
        "model": model,
        "data": {"train": str(data), "dev": str(data), "length": 16},
        "task": {"text": ["a", "b"], "pair": "bi_encoder", "pooling": "mean", **task},
        "optimizer": {"kind": "adamw", "lr": 3e-3},
        "training": {"updates": 12, "batch": 16, "precision": "fp32", "compile": "off", "device": "cpu"},
    }
    return validate(FinetuneRecipe, values, "recipe")


@pytest.mark.parametrize(
    ("task", "model"),
    [
        ({"kind": "classify"}, {"kind": "bert", "dim": 32, "layers": 1, "heads": 2, "max_length": 16}),
        ({"kind": "regress", "label": "label"}, {"kind": "lstm", "dim": 16}),
    ],
)
def test_the_whole_way(
    task: dict[str, Any],
    model: dict[str, Any],
    tokenizer_dir: Path,
    labelled: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [json.loads(line) for line in labelled["train"].read_text(encoding="utf-8").splitlines()]
    beside = zip(given, given[5:] + given[:5], strict=True)
    given = [{"a": one["text"], "b": other["text"], "label": i % 3} for i, (one, other) in enumerate(beside)]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in given), encoding="utf-8")
    finetune(recipe(tokenizer_dir, data, task, model), tmp_path / "run")
    assert "compares two texts which are encoded apart" in capsys.readouterr().err
    step = find_step(tmp_path / "run")
    one, other = evaluate(step, data, "fp32"), evaluate(step, data, "fp32", 3)
    assert one["metrics"]["loss"] == pytest.approx(other["metrics"]["loss"], abs=1e-5)
    predict(step, data, out=tmp_path / "out.jsonl", precision="fp32")
    # Vectors are those that the head compares, of the first text where none is named.
    assert embed(step, data, tmp_path / "a.npy", precision="fp32")["pooling"] == "mean"
    embed(step, data, tmp_path / "b.npy", columns=["b"], precision="fp32")
    both = torch.from_numpy(np.stack([np.load(tmp_path / f"{side}.npy") for side in "ab"], 1)).flatten(0, 1)
    learner: Any = open_model(step).learner
    with torch.inference_mode():
        scores = learner.head.eval()(matched(both))
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    if task["kind"] == "regress":
        told, expected = [row["score"] for row in found], (scores * learner.scale + learner.mean)[:, 0]
    else:
        told, expected = [[row["scores"][label] for label in learner.labels] for row in found], scores.softmax(-1)
    np.testing.assert_allclose(told, expected, atol=1e-5, rtol=1e-4)
    result = export.run(step, ["hf"], tmp_path / "whole")
    assert result["loads_with"] is None
    if model["kind"] == "bert":
        result = export.run(step, ["hf"], tmp_path / "encoder", part="encoder")
        assert result["loads_with"] == "AutoModel" and "modules.json" in result["files"]


def test_one_text_is_no_pair(tokenizer_dir: Path) -> None:
    with pytest.raises(UsageError, match="pair: bi_encoder reads the two texts of a pair apart"):
        recipe(tokenizer_dir, Path("rows.jsonl"), {"kind": "classify", "text": "a"}, {"kind": "lstm"})
