"""Numbers: their metrics against scipy, their units, and the way from rows to predictions and to transformers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from encoderkit.config import validate
from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, UsageError
from encoderkit.learner import Vocabulary
from encoderkit.metrics import bootstrap_numbers, numbers, ranks
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import export
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.finetune import finetune
from encoderkit.stages.predict import predict
from encoderkit.tasks.config import RegressConfig
from encoderkit.tasks.regress import Example, Regress
from encoderkit.tasks.task import EncoderTask
from encoderkit.tasks.texts import Tokens
from encoderkit.training.config import AdamWConfig, ScheduleConfig
from encoderkit.training.evaluate import evaluate as evaluate_source
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.training.runs import KINDS, LENGTH, VOCABULARY, encoder, plan, sequences


def test_a_last_layer_without_a_bias_has_no_place_for_a_mean() -> None:
    """GPT-2's."""
    task = Regress(RegressConfig(pooling="last"), encoder("gpt"), Vocabulary(50, 0, 1, 2, 3, 4), 32, ["score"])
    assert not isinstance(task.exported(), str)
    task.mean.fill_(2.0)
    found = task.exported()
    assert isinstance(found, str) and "no bias" in found


@pytest.mark.parametrize("kind", KINDS)
def test_eight_numbers_are_memorised(kind: str) -> None:
    torch.manual_seed(1)
    task = Regress(RegressConfig(pooling="mean", dropout=0), encoder(kind), VOCABULARY, LENGTH, ["score"])
    numbers_of = np.random.default_rng(2).normal(50, 20, (8, 1))
    source = [Example((Tokens(ids, None, 0),), numbers_of[i], i) for i, ids in enumerate(sequences(8))]
    task.prepare(source)
    optimizers = build_optimizers(task, AdamWConfig(lr=5e-3, weight_decay=0.0), torch.float32)
    schedule = ScheduleConfig(kind="linear", warmup=0)
    for update in updates(task, optimizers, source, plan(400, 8, clip=1.0, schedule=schedule)):
        if update.loss < 1e-4:
            break
    found = evaluate_source(task, source, 8, "cpu", "fp32")
    assert found["pearson"] > 0.999 and found["mae"] < 2


VALUES = st.lists(st.tuples(st.integers(-4, 4), st.floats(-1e6, 1e6).map(lambda x: round(x, 6))), min_size=3, max_size=40)


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@given(VALUES)
def test_metrics_are_scipys(values: list[tuple[int, float]]) -> None:
    gold, predicted = np.array(values, dtype=np.float64).T
    found = numbers(gold[:, None], predicted[:, None])
    assert found["mse"] == pytest.approx(np.square(gold - predicted).mean())
    assert found["mae"] == pytest.approx(np.abs(gold - predicted).mean())
    np.testing.assert_allclose(ranks(predicted, np.ones((1, len(gold))))[0], stats.rankdata(predicted))
    if np.ptp(gold) == 0 or np.ptp(predicted) == 0:
        assert found["spearman"] == found["pearson"] == 0
        return
    assert found["spearman"] == pytest.approx(stats.spearmanr(gold, predicted).statistic, abs=1e-9)
    if np.ptp(predicted) > 1e-3 * np.abs(predicted).max():
        assert found["pearson"] == pytest.approx(stats.pearsonr(gold, predicted).statistic, abs=1e-6)


def test_what_does_not_vary_has_no_correlation() -> None:
    """Not even that of what rounding leaves of it; and what varies little has one."""
    for one, other in ((3.7, 2.3), (3.8, 0.1), (1e9 / 3, -1 / 7)):
        gold, predicted = np.full((10, 1), one), np.full((10, 1), other)
        assert numbers(gold, predicted)["pearson"] == 0 and bootstrap_numbers(gold, predicted)["pearson"] == (0, 0)
    small = 1e6 + 1e-3 * np.arange(5.0)[:, None]
    assert numbers(small, np.arange(5.0)[:, None])["pearson"] == pytest.approx(1, abs=1e-6)


def test_a_resample_counts_as_its_rows_do() -> None:
    """How often each row occurs, in place of the rows themselves, and so the whole bootstrap."""
    rng = np.random.default_rng(0)
    gold, predicted = rng.integers(0, 5, (30, 2)).astype(float), rng.normal(size=(30, 2)).round(1)
    chosen = rng.integers(0, 30, 30)
    np.testing.assert_allclose(
        np.sort(ranks(predicted[:, 0], np.bincount(chosen, minlength=30)[None])[0][chosen]),
        np.sort(stats.rankdata(predicted[chosen, 0])),
    )
    drawn = np.random.default_rng(5).integers(0, 30, (1000, 30))
    expected = [np.mean([stats.spearmanr(gold[d, i], predicted[d, i]).statistic for i in (0, 1)]) for d in drawn]
    low, high = bootstrap_numbers(gold, predicted)["spearman"]
    assert (low, high) == pytest.approx(np.quantile(expected, (0.025, 0.975)), abs=0.04)


def test_targets_are_learned_in_their_own_units() -> None:
    """The loss is that of standardised targets, and what leaves the model is in the units of the data."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(40, 0, 1, 2, 3, 4)
    task = Regress(RegressConfig(label=["a", "b"], dropout=0), encoder("lstm"), vocabulary, 16, ["a", "b"])
    targets = np.random.default_rng(0).normal((1000, -3), (50, 0.01), (20, 2))
    made = [Example((Tokens(np.array([2, 5 + i, 3]), None, 0),), target, i) for i, target in enumerate(targets)]
    task.prepare(made)
    batch = task.collate(made)
    outputs = EncoderTask.logits(task, batch.inputs)
    goal = torch.from_numpy((targets - targets.mean(0)) / targets.std(0)).float()
    loss = task(batch.inputs, batch.targets)["regress"] / batch.counts["regress"]
    torch.testing.assert_close(loss, torch.nn.functional.mse_loss(outputs, goal), rtol=1e-3, atol=1e-4)
    seen = {"numbers": task.observe(batch.inputs, batch.targets)["numbers"].detach().numpy()}
    assert task.metrics(made, seen)["loss"] == pytest.approx(loss.item(), rel=1e-3)
    np.testing.assert_allclose(seen["numbers"], outputs.detach().numpy() * targets.std(0) + targets.mean(0), rtol=1e-4)


def test_targets_that_will_not_do() -> None:
    rows = [Row({"text": "a", "score": value}, i + 1, "t.jsonl") for i, value in enumerate((1, "2.5", "many"))]
    with pytest.raises(DataError, match=r't\.jsonl:3: "score" should be a number, found "many"'):
        Regress.find_labels(rows, RegressConfig())
    with pytest.raises(DataError, match="all rows have 1 in score"):
        Regress.find_labels(rows[:1], RegressConfig())


@pytest.fixture(scope="module")
def scored(labelled: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Texts whose scores are 100 for the good ones and 200 for the bad ones, about, and their length in words."""
    folder, paths = tmp_path_factory.mktemp("scored"), {}
    rng = np.random.default_rng(0)
    for name, path in labelled.items():
        rows = read(path)
        for row in rows:
            row["score"] = round((100 if row.pop("label") == "positive" else 200) + rng.normal(), 2)
            row["words"] = len(row["text"].split())
        paths[name] = folder / path.name
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


def trained(out: Path, tokenizer: Path, data: dict[str, Path], model: dict, **task: object) -> Path:
    recipe = {
        "tokenizer": str(tokenizer),
        "model": model,
        "data": {"train": str(data["train"]), "dev": str(data["dev"]), "length": 24},
        "task": {"kind": "regress", **task},
        "optimizer": {"kind": "adamw", "lr": 5e-3},
        "training": {"updates": 40, "batch": 16, "precision": "fp32", "compile": "off", "device": "cpu"},
    }
    finetune(validate(FinetuneRecipe, recipe, "recipe"), out)
    return find_step(out)


def test_the_whole_way(tokenizer_dir: Path, scored: dict[str, Path], tmp_path: Path) -> None:
    """Trained, evaluated beside its baselines, predicted, and read by transformers with equal numbers."""
    model = {"kind": "bert", "dim": 32, "layers": 1, "heads": 2, "max_length": 64}
    step = trained(tmp_path / "run", tokenizer_dir, scored, model)
    result = evaluate(step, scored["dev"], "fp32")
    assert result["metrics"]["pearson"] > 0.9 and result["labels"] == ["score"]
    assert result["baselines"]["mean"]["pearson"] == 0 and result["baselines"]["ridge"]["pearson"] > 0.9
    predict(step, scored["dev"], out=tmp_path / "out.jsonl", precision="fp32")
    guess, truth = [r["score"] for r in read(tmp_path / "out.jsonl")], [r["score"] for r in read(scored["dev"])]
    assert result["metrics"]["pearson"] == pytest.approx(stats.pearsonr(truth, guess).statistic, abs=1e-6)
    assert result["metrics"]["mse"] == pytest.approx(np.square(np.subtract(truth, guess)).mean(), rel=1e-3)
    assert all(low <= result["metrics"][name] <= high for name, (low, high) in result["intervals"].items())
    found = export.run(step, ["hf"], tmp_path / "dist")
    assert found["parity"]["max_abs_diff"] < 1e-2  # of numbers about 150, held to 1e-5 of them
    described = json.loads((tmp_path / "dist" / "config.json").read_bytes())
    assert described["problem_type"] == "regression" and described["id2label"] == {"0": "score"}
    with pytest.raises(UsageError, match="no scores to choose from"):
        predict(step, scored["dev"], out=tmp_path / "top.jsonl", top=1)


def test_several_numbers_as_csv(tokenizer_dir: Path, scored: dict[str, Path], tmp_path: Path) -> None:
    step = trained(tmp_path / "run", tokenizer_dir, scored, {"kind": "lstm", "dim": 16}, label=["score", "words"], pooling="max")
    result = evaluate(step, scored["dev"], "fp32")
    assert result["metrics"]["per_number"].keys() == {"score", "words"}
    predict(step, scored["dev"], out=tmp_path / "out.csv", form="csv")
    first, *rows = (tmp_path / "out.csv").read_text(encoding="utf-8").splitlines()
    assert first == "text,score:score,score:words,truncated" and len(rows) == result["rows"]
