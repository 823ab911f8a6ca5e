"""`evaluate` against scikit-learn on the model's own predictions, whatever the batch."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from sklearn import metrics
from sklearn.calibration import calibration_curve

from encoderkit.config import validate
from encoderkit.errors import DataError, UsageError
from encoderkit.preflight import evaluated, find_step, only_for_rows, renamed
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages.against import Judged, check_alike, differences, of_rival
from encoderkit.stages.evaluate import describe, evaluate
from encoderkit.stages.finetune import finetune
from encoderkit.stages.predict import predict
from encoderkit.tasks import baselines
from encoderkit.tasks.classify import Classify
from encoderkit.tasks.config import ClassifyConfig, RegressConfig
from encoderkit.tasks.regress import Regress
from tests.training.runs import VOCABULARY, encoder


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def _rounded(value: object) -> object:
    return json.loads(json.dumps(value), parse_float=lambda x: round(float(x), 6))


def test_metrics_are_those_of_the_predictions(classifier_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    step = find_step(classifier_dir)
    result = evaluate(step, labelled["dev"], "fp32")
    predict(step, labelled["dev"], out=tmp_path / "out.jsonl", precision="fp32")
    truth = [row["label"] for row in _rows(labelled["dev"])]
    guess = _rows(tmp_path / "out.jsonl")
    found, predicted = result["metrics"], [row["label"] for row in guess]
    assert result["rows"] == len(truth)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(truth, predicted, average="macro", zero_division=0))
    assert found["mcc"] == pytest.approx(metrics.matthews_corrcoef(truth, predicted))
    assert found["confusion"] == metrics.confusion_matrix(truth, predicted).tolist()
    positive = [row["scores"]["positive"] for row in guess]  # pyright: ignore[reportIndexIssue]
    sure = np.array([max(row["scores"].values()) for row in guess])  # pyright: ignore[reportAttributeAccessIssue]
    right = np.array([a == b for a, b in zip(truth, predicted, strict=True)])
    share, mean = calibration_curve(right, sure, n_bins=10)
    bins = result["calibration"]["bins"]
    assert [part["right"] for part in bins] == pytest.approx(share.tolist())
    assert [part["confidence"] for part in bins] == pytest.approx(mean.tolist(), abs=1e-5)
    assert found["loss"] == pytest.approx(metrics.log_loss(truth, positive), abs=1e-4)
    majority = Counter(row["label"] for row in _rows(labelled["train"])).most_common(1)[0][0]
    assert result["baselines"]["majority"]["accuracy"] == pytest.approx(truth.count(majority) / len(truth))
    assert result["baselines"]["tfidf"]["accuracy"] > 0.9  # each word of these texts tells the label
    lead, draws = result["over_baseline"], np.random.default_rng(1).integers(len(truth), size=(4000, len(truth)))
    texts = [[[row["text"]] for row in _rows(labelled[part])] for part in ("train", "dev")]
    simple = baselines.tfidf(texts[0], np.array([row["label"] for row in _rows(labelled["train"])]), texts[1])
    drawn = (right.astype(float) - (simple == np.array(truth)))[draws].mean(1)
    assert (lead["baseline"], lead["metric"]) == ("tfidf", "accuracy")
    assert lead["value"] == pytest.approx(found["accuracy"] - result["baselines"]["tfidf"]["accuracy"])
    assert [lead["low"], lead["high"]] == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.04)
    for name, (low, high) in result["intervals"].items():
        assert low <= found[name] <= high
    json.dumps(result)


def test_batch_and_padding_change_nothing(classifier_dir: Path, labelled: dict[str, Path]) -> None:
    step = find_step(classifier_dir)
    results = [evaluate(step, labelled["dev"], "fp32", batch, with_baselines=False) for batch in (1, 7, 64)]
    loss, calibration = results[0]["metrics"].pop("loss"), results[0].pop("calibration")
    for result in results[1:]:
        assert result["metrics"].pop("loss") == pytest.approx(loss, abs=1e-6)
        found = result.pop("calibration")
        assert found["expected_error"] == pytest.approx(calibration["expected_error"], abs=1e-6)
        assert [part["answers"] for part in found["bins"]] == [part["answers"] for part in calibration["bins"]]
        assert result == results[0]


def test_columns_may_be_called_otherwise(classifier_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    """Also where another column has the name that the model knows, and where both models of a test are asked."""
    step, other = find_step(classifier_dir), tmp_path / "other.jsonl"
    lines = [{"text": row["label"], "review": row["text"], "stars": row["label"]} for row in _rows(labelled["dev"])]
    other.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    columns = renamed(step, ["text=review", "label=stars"])
    expected = evaluate(step, labelled["dev"], "fp32", against=step)
    assert evaluate(step, other, "fp32", against=step, columns=columns) == expected | {"data": str(other)}
    with pytest.raises(DataError, match=r'no column "review".*\n*') as error:
        evaluate(step, labelled["dev"], "fp32", columns=columns)
    assert error.value.fix == "say what it is called in the file: --column text=NAME"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("text", r'is a column of the model and what it is called in the file, found "text"'),
        ("=review", "is a column of the model and what"),
        ("txt=review", r'"txt" is no column that the model was trained with; those are text, label\n'),
    ],
)
def test_what_does_not_say_what_a_column_is_called(classifier_dir: Path, given: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        renamed(find_step(classifier_dir), [given])
    assert error.value.where == "--column" and str(error.value.fix).startswith("--column text=")


def test_columns_are_of_labelled_rows(pretrained_dir: Path) -> None:
    assert renamed(find_step(pretrained_dir), []) == {}
    for ask in (lambda: renamed(find_step(pretrained_dir), ["text=review"]), lambda: only_for_rows(column=["text=review"])):
        with pytest.raises(UsageError, match="labelled rows"):
            ask()


def test_the_order_of_the_rows_changes_nothing(pairs_dir: Path, pairs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "turned.jsonl"
    path.write_text("".join(reversed(pairs["dev"].read_text(encoding="utf-8").splitlines(keepends=True))), encoding="utf-8")
    one, other = (evaluate(find_step(pairs_dir), data, "fp32") for data in (pairs["dev"], path))
    for key in ("metrics", "slices", "calibration", "baselines", "truncated", "in_training"):
        assert _rounded(one[key]) == _rounded(other[key])


def test_several_labels_of_pairs(pairs_dir: Path, pairs: dict[str, Path]) -> None:
    result = evaluate(find_step(pairs_dir), pairs["dev"], "fp32")
    assert result["metrics"].keys() >= {"accuracy", "macro_f1", "micro_f1", "loss", "per_class"}
    assert "confusion" not in result["metrics"]
    assert result["metrics"]["per_class"]["first"]["support"] == sum("first" in row["labels"] for row in _rows(pairs["dev"]))  # pyright: ignore[reportOperatorIssue]
    assert result["baselines"]["tfidf"].keys() == result["intervals"].keys()
    assert result["truncated"]["rows"] > 0
    assert "micro_f1" in describe(result) and "tokens are lost" in describe(result)


def test_rows_that_were_trained_on_are_told(
    classifier_dir: Path, labelled: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "again.jsonl"
    known = _rows(labelled["train"])[0]
    rows = [{"text": f"  {str(known['text']).upper()} ", "label": "negative"}, {"text": "something else", "label": "positive"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert evaluate(find_step(classifier_dir), path)["in_training"] == 1
    assert "1 of the 2 rows (50.0%) are also in the training data" in capsys.readouterr().err


def test_the_score_without_what_was_trained_on(classifier_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    rows = [*_rows(labelled["train"])[:3], *_rows(labelled["dev"])]
    rows[2] |= {"text": f"{rows[2]['text']} ".replace(".", "!?")}
    path = tmp_path / "mixed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = evaluate(find_step(classifier_dir), path, "fp32")
    own = {row["line"] for row in found["overlap"]["rows"]}
    assert own >= {1, 2, 3} and found["overlap"]["rows"][0]["training_line"] == 1
    assert found["overlap"]["exact"] + found["overlap"]["near"] == len(own) and found["overlap"]["near"] >= 1
    path.write_text("".join(json.dumps(r) + "\n" for i, r in enumerate(rows, start=1) if i not in own), encoding="utf-8")
    alone = evaluate(find_step(classifier_dir), path, "fp32")
    assert alone["overlap"]["without"] is None and alone["in_training"] == 0
    without = found["overlap"]["without"]
    assert without["rows"] == alone["rows"]
    assert all(alone["metrics"][name] == pytest.approx(value) for name, value in without["metrics"].items())
    assert f"without the {len(own)} in training" in describe(found)


def test_slices_are_the_rows_again(classifier_dir: Path, labelled: dict[str, Path]) -> None:
    result = evaluate(find_step(classifier_dir), labelled["dev"], "fp32")
    found = dict(result["slices"])
    assert found.pop("metric") == "accuracy" and {"length", "label"} <= found.keys()
    for kind, parts in found.items():
        assert sum(part["rows"] for part in parts) == result["rows"]
        mean = sum(part["rows"] * part["accuracy"] for part in parts) / result["rows"]
        assert mean == pytest.approx(result["metrics"]["accuracy"]), kind
        assert all(part["interval"][0] <= part["accuracy"] <= part["interval"][1] for part in parts)
    for part in found["label"]:
        assert part["accuracy"] == pytest.approx(result["metrics"]["per_class"][part["slice"]]["recall"])


def test_slices_of_several_labels(pairs_dir: Path, pairs: dict[str, Path]) -> None:
    result = evaluate(find_step(pairs_dir), pairs["dev"], "fp32")
    found = result["slices"]
    assert found["metric"] == "micro_f1"
    support = [values["support"] for values in result["metrics"]["per_class"].values()]
    assert [part["rows"] for part in found["label"]] == support
    assert [part["rows"] for part in found["truncation"]] == [20 - result["truncated"]["rows"], result["truncated"]["rows"]]


def test_rows_by_their_loss(classifier_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "errors.jsonl"
    baselines._features.cache_clear()
    with patch.object(baselines, "words", wraps=baselines.words) as fitted:
        result = evaluate(find_step(classifier_dir), labelled["dev"], "fp32", errors=out)
    assert fitted.call_count == 1
    found: list[Any] = _rows(out)
    losses = np.array([row["loss"] for row in found])
    assert (np.diff(losses) <= 0).all() and losses.mean() == pytest.approx(result["metrics"]["loss"], abs=1e-4)
    given, train = _rows(labelled["dev"]), _rows(labelled["train"])
    assert sorted(row["line"] for row in found) == list(range(1, len(given) + 1))
    for row in found:
        right = given[row["line"] - 1]
        assert (row["text"], row["gold"]) == (right["text"], right["label"]) and row["file"] == str(labelled["dev"])
        assert row["loss"] == pytest.approx(-np.log(row["scores"][row["gold"]]), rel=1e-3)
        source = train[row["nearest"]["line"] - 1]
        assert row["nearest"]["texts"] == [source["text"]] and row["nearest"]["gold"] == source["label"]
    assert np.mean([row["predicted"] == row["gold"] for row in found]) == pytest.approx(result["metrics"]["accuracy"])
    with pytest.raises(UsageError, match="nothing is overwritten unasked"):
        evaluate(find_step(classifier_dir), labelled["dev"], errors=out)


def test_rows_that_an_earlier_version_held_out_are_told(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {
        "tokenizer": str(tokenizer_dir),
        "model": {"kind": "lstm", "dim": 8},
        "data": {"train": str(labelled["train"]), "dev": "30%"},
        "task": {"kind": "classify"},
        "training": {"updates": 1, "compile": "off", "device": "cpu"},
    }
    finetune(validate(FinetuneRecipe, given, "recipe"), tmp_path / "run")
    assert evaluate(find_step(tmp_path / "run"), labelled["dev"])["in_training"] is not None
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(re.sub(r'"data.dev": "\w+"', '"data.dev": "0"', manifest.read_text(encoding="utf-8")), encoding="utf-8")
    found = evaluate(find_step(tmp_path / "run"), labelled["dev"])
    assert found["in_training"] is None and found["baselines"] == {} and "held other rows" in capsys.readouterr().err


def test_without_the_training_data(classifier_dir: Path, labelled: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    away = labelled["train"].rename(labelled["train"].with_suffix(".away"))
    try:
        result = evaluate(find_step(classifier_dir), labelled["dev"])
        labelled["train"].write_text('{"text": "a", "label": "other"}\n', encoding="utf-8")
        changed = evaluate(find_step(classifier_dir), labelled["dev"])
    finally:
        away.rename(labelled["train"])
    assert result["baselines"] == changed["baselines"] == {} and result["in_training"] is None
    said = capsys.readouterr().err
    assert "is not there" in said and "has changed since" in said and '"other" was not seen' in said
    assert "macro_f1" in describe(result)


def test_an_unseen_label_is_an_error_with_its_place(classifier_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"text": "a", "label": "positive"}\n{"text": "b", "label": "neutral"}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"data.jsonl:2.*\"neutral\".*negative, positive"):
        evaluate(find_step(classifier_dir), path)


def test_a_pretrained_model_is_evaluated_on_tokens(
    pretrained_dir: Path, store_dir: Path, labelled: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    step = find_step(pretrained_dir)
    results = [evaluate(step, store_dir, "fp32", batch)["metrics"] for batch in (1, 7, None)]
    assert results[0] == pytest.approx(results[1], abs=1e-5) == results[2]
    assert 0 < results[0]["loss"] < np.log(200) and "perplexity" in describe(evaluate(step, store_dir))
    assert f"{store_dir} is what the model was trained on" in capsys.readouterr().err
    with pytest.raises(UsageError, match="evaluated on a token store"):
        evaluated(step, labelled["dev"])


@pytest.mark.parametrize(
    ("texts", "spaced"),
    [
        (["a good film", "又好看"], True),
        (["这部电影很好看 ok", "天气不错"], False),
        (["", "123"], True),
        (["映画はよかった"], False),
    ],
)
def test_words_or_characters(texts: list[str], spaced: bool) -> None:
    assert baselines.spaced([[text] for text in texts]) is spaced


def test_baselines_on_odd_data() -> None:
    labels = np.array([0, 1, 1])
    assert baselines.tfidf([["a"] * 2, ["b"] * 2, ["b"] * 2], labels, [[""] * 2, ["zzz"] * 2]).tolist() == [1, 1]
    assert baselines.tfidf([[""], [" "], [""]], labels, [["a"], ["b"]]).tolist() == [1, 1]
    marks = np.array([[1, 0], [1, 0], [1, 1]])  # a label that all rows have
    assert baselines.tfidf([["好"], ["好"], ["坏"]], marks, [["坏"]]).shape == (1, 2)
    assert baselines.tfidf([["x y", "z"], ["x", "y z"]], np.array([0, 1]), [["x", "y z"]]).tolist() == [1]


def test_tfidf_of_a_large_file_is_fitted_on_evenly_spaced_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "MOST_CHARACTERS", 50)
    assert baselines.fitted_rows([["ten chars."]] * 20).tolist() == [0, 4, 9, 14, 19]


def test_models_whose_labels_stand_in_another_order_are_compared() -> None:
    """As imported ones have them: their answers are compared by name, and files are read by what their columns are for."""
    draw, orders = np.random.default_rng(3), (["a", "b", "c"], ["c", "a", "b"])
    for several in (False, True):
        tasks = [Classify(ClassifyConfig(multiple=several), encoder("lstm"), VOCABULARY, 16, labels) for labels in orders]
        gold, guess = (draw.integers(0, 2, (50, 3)) if several else draw.integers(0, 3, 50) for _ in "ab")
        numbers = [orders[1].index(label) for label in orders[0]]  # of each label of the first in the second
        as_second = [v[:, np.argsort(numbers)] if several else np.array(numbers)[v] for v in (gold, guess)]
        both = [Judged(task, [], [], {}, *v) for task, v in zip(tasks, ((gold, guess), as_second), strict=True)]
        for one, other in (both, both[::-1]):
            assert all(found["value"] == found["low"] == found["high"] == 0 for found in differences(one, other).values())
    tasks = [Classify(ClassifyConfig(), encoder("lstm"), VOCABULARY, 16, labels) for labels in (["a", "b"], ["a", "c"])]
    with pytest.raises(UsageError, match="other tasks or other labels"):
        check_alike(*tasks)
    numbers_ = [Regress(RegressConfig(label=name), encoder("lstm"), VOCABULARY, 16, [name]) for name in ("score", "stars")]
    check_alike(*numbers_)
    assert of_rival(numbers_[0], numbers_[1], {}, ["text", "score"]) == {"text": "text", "stars": "score"}
    assert of_rival(numbers_[0], numbers_[1], {}, ["text", "score", "stars"]) == {"text": "text"}  # it is there as it is
    pairs = [Regress(RegressConfig(text=text), encoder("lstm"), VOCABULARY, 16, ["score"]) for text in (["a", "b"], ["b", "a"])]
    assert of_rival(pairs[0], pairs[1], {}, ["a", "b", "score"]) == {
        "a": "a",
        "b": "b",
        "score": "score",
    }  # in another order, and not exchanged
    assert of_rival(numbers_[0], numbers_[1], {"score": "points"}, ["text", "points"]) == {
        "text": "text",
        "stars": "points",
        "score": "points",
    }


def test_each_of_several_numbers_is_shown() -> None:
    numbers = {"a": {"pearson": 0.5, "mse": 2.0}, "b": {"pearson": -0.25, "mse": 30.0}}
    result = {"data": "x", "rows": 2, "unknown": {"share": 0.0}, "metrics": {"pearson": 0.1, "per_number": numbers}}
    lines = [line.split() for line in describe(result).splitlines()]
    assert ["a", "0.5000", "2.0000"] in lines and ["b", "-0.2500", "30.0000"] in lines
