"""Calibration and thresholds against scikit-learn, and thresholds from the dev set to the prediction."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import f1_score, precision_recall_curve

from encoderkit.config import validate
from encoderkit.errors import UsageError
from encoderkit.inference import open_model, start
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.export import run as export
from encoderkit.stages.finetune import finetune
from encoderkit.stages.predict import predict
from encoderkit.tasks.calibration import FEWEST, best_cut, reliability
from encoderkit.tasks.classify import Classify
from tests.conftest import ENCODERS

PAIRS = st.lists(st.tuples(st.floats(0, 1) | st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.booleans()), min_size=1, max_size=60)


@given(PAIRS)
def test_the_table_is_scikit_learns(values: list[tuple[float, bool]]) -> None:
    p, right = np.array([value for value, _ in values]), np.array([truth for _, truth in values])
    found = reliability(p, right)
    shares, means = calibration_curve(right, p, n_bins=10, strategy="uniform", pos_label=True)
    assert [part["right"] for part in found["bins"]] == pytest.approx(shares.tolist())
    assert [part["confidence"] for part in found["bins"]] == pytest.approx(means.tolist())
    count = np.array([part["answers"] for part in found["bins"]])
    assert count.sum() == len(values)
    assert found["expected_error"] == pytest.approx(count @ np.abs(shares - means) / len(values))


@given(st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=2, max_size=40))
def test_no_threshold_has_a_better_f1(values: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([s / 2 for s, _ in values], np.float32), np.array([t for _, t in values])
    cut = best_cut(scores, truth)
    if min(truth.sum(), (~truth).sum()) < FEWEST:
        assert cut == 0
        return
    precision, recall, _ = precision_recall_curve(truth, scores)
    best = (2 * precision * recall / np.maximum(precision + recall, 1e-12)).max()
    assert f1_score(truth, scores > cut) == pytest.approx(best)
    if f1_score(truth, scores > 0) == pytest.approx(best):
        assert cut == 0 or not (scores == 0).any() or (scores > 0).tolist() == (scores > cut).tolist()


def test_thresholds_are_tuned_kept_and_used(tokenizer_dir: Path, pairs: dict[str, Path], tmp_path: Path) -> None:
    """Of an encoder that has learnt next to nothing one half is far from the best threshold."""
    recipe = {
        "tokenizer": str(tokenizer_dir),
        "model": ENCODERS["bert"],
        "data": {"train": str(pairs["train"]), "dev": str(pairs["dev"]), "test": str(pairs["dev"]), "length": 24},
        "task": {"text": ["first", "second"], "label": "labels", "multiple": True},
        "optimizer": {"kind": "adamw", "lr": 5e-3},
        "training": {"updates": 10, "batch": 16, "precision": "fp32", "compile": "off", "device": "cpu"},
    }
    found = finetune(validate(FinetuneRecipe, recipe, "recipe"), tmp_path / "run")
    step = find_step(tmp_path / "run")
    assert found["test"]["macro_f1"] == found["dev"]["macro_f1"]
    task = open_model(step).learner
    assert isinstance(task, Classify) and task.tuned() == found["tuned"] and set(found["tuned"].values()) != {0.5}
    result = evaluate(step, pairs["dev"], "fp32")
    assert result["metrics"]["thresholds"] == found["tuned"]
    assert result["metrics"]["macro_f1"] == pytest.approx(found["dev"]["macro_f1"])
    predict(step, pairs["dev"], out=tmp_path / "out.jsonl", precision="fp32")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    for label, threshold in found["tuned"].items():
        apart = [row for row in rows if abs(row["scores"][label] - threshold) > 1e-6]  # scores are written with six digits
        assert len(apart) > 10 and all((label in row["labels"]) == (row["scores"][label] > threshold) for row in apart)
    truth = [set(json.loads(line)["labels"]) for line in pairs["dev"].read_text(encoding="utf-8").splitlines()]
    for label in found["tuned"]:
        p, right = np.array([row["scores"][label] for row in rows]), np.array([label in own for own in truth])
        scores = [f1_score(right, p > cut, zero_division=0) for cut in (0.5, *(p - 1e-6))]
        assert f1_score(right, [label in row["labels"] for row in rows]) == pytest.approx(max(scores))
    fixed = recipe | {"task": recipe["task"] | {"threshold": 0.9}, "training": recipe["training"] | {"updates": 1}}
    assert "tuned" not in finetune(validate(FinetuneRecipe, fixed, "recipe"), tmp_path / "fixed")
    assert evaluate(find_step(tmp_path / "fixed"), pairs["dev"])["metrics"]["thresholds"] == {"first": 0.9, "second": 0.9}
    assert export(step, ["hf"], tmp_path / "dist")["parity"]["max_abs_diff"] < 1e-5
    assert start(open_model(step)).model.labels == ["first", "second"]
    with pytest.raises(UsageError, match="threshold is for several labels"):
        validate(FinetuneRecipe, recipe | {"task": {"threshold": 0.3}}, "recipe")
