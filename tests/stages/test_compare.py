"""Several runs: seeds, folds, recipes beside one another, and whether a difference is more than chance."""

import datetime
import json
import re
from contextlib import nullcontext
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from encoderkit.config import dump, load, validate
from encoderkit.data.labelled import read_rows
from encoderkit.errors import DataError, DivergedError, UsageError, fault_of_one
from encoderkit.metrics import paired_differences
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages.compare import compare, over_runs
from encoderkit.stages.compare_plans import Plan, check_alike, drawn
from encoderkit.stages.compare_table import describe
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.finetune import finetune, prepare
from encoderkit.stages.repeats import mean_interval, variants
from encoderkit.stages.split import divided, read_parts
from encoderkit.stages.suites import evaluate as evaluate_suite
from tests.training.runs import finetuning, pretraining


def accuracy(gold: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {"accuracy": float((gold == predicted).mean())}


def test_paired_differences_are_those_of_the_normal_approximation() -> None:
    rng = np.random.default_rng(5)
    gold = rng.integers(0, 2, 600)
    first = np.where(rng.random(600) < 0.85, gold, 1 - gold)
    second = np.where(rng.random(600) < 0.78, gold, 1 - gold)
    found = paired_differences(accuracy, gold, first, second)["accuracy"]
    gains = (first == gold).astype(float) - (second == gold)
    assert found.value == pytest.approx(gains.mean())
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    assert (found.low, found.high) == pytest.approx((gains.mean() - 1.96 * error, gains.mean() + 1.96 * error), abs=0.15 * error)
    z = abs(gains.mean()) / error
    assert found.p == pytest.approx(2 * stats.norm.sf(z), abs=0.02)
    assert paired_differences(accuracy, gold, first, first)["accuracy"] == (0.0, 0.0, 0.0, 1.0)


def test_the_interval_of_a_mean_is_students() -> None:
    values = [0.81, 0.84, 0.79, 0.83]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert mean_interval(values) == pytest.approx((np.mean(values), low, high))


def test_seeds(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    recipe = finetuning(tokenizer_dir, labelled, seeds=[3, 4])
    result = finetune(recipe, tmp_path / "out")
    alone = finetune(finetuning(tokenizer_dir, labelled, seed=4), tmp_path / "alone")
    assert result["runs"]["seed-4"]["dev"] == alone["dev"]
    both = [run["dev"]["accuracy"] for run in result["runs"].values()]
    assert result["dev"]["accuracy"] == pytest.approx(np.mean(both))
    assert result["intervals"]["dev"]["loss"][0] < result["dev"]["loss"] < result["intervals"]["dev"]["loss"][1]
    best = max(result["runs"], key=lambda name: result["runs"][name]["dev"]["accuracy"])
    assert find_step(tmp_path / "out").parent.name == best
    again = finetune(recipe, tmp_path / "out", resume=True)
    assert again["runs"] == result["runs"]
    with pytest.raises(UsageError, match="seeds"):
        finetune(finetuning(tokenizer_dir, labelled, seeds=[3, 5]), tmp_path / "out", resume=True)
    with pytest.raises(UsageError):
        finetune(recipe, tmp_path / "out")


def test_each_row_is_in_one_fold(tokenizer_dir: Path, labelled: dict[str, Path]) -> None:
    recipe = finetuning(tokenizer_dir, labelled, folds=3, data={"train": str(labelled["train"]), "length": 24})
    count = len(read_rows(str(labelled["train"]), ["text", "label"]))
    folds: list[set[tuple[int, ...]]] = []
    for own in variants(recipe).values():
        material = prepare(own)
        parts = (material.train, material.dev or (), material.test or ())
        assert sum(map(len, parts)) == count
        train, dev, fold = ({tuple(one.texts[0].ids.tolist()) for one in part} for part in parts)
        assert dev and fold and not train & dev and not (train | dev) & fold
        folds.append(fold)
        everything = train | dev | fold
    assert len(folds) == 3 and set().union(*folds) == everything
    assert not any(one & other for one, other in combinations(folds, 2))


def test_a_fold_is_reported_and_chooses_nothing(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    data = {"train": str(labelled["train"]), "dev": None, "length": 24}
    with pytest.raises(UsageError, match="patience"):
        finetuning(tokenizer_dir, labelled, folds=3, data=data, training={"epochs": 2, "patience": 1})
    result = finetune(finetuning(tokenizer_dir, labelled, folds=2, seeds=[1, 2], data=data), tmp_path / "out")
    assert not result["dev"] and set(result["runs"]) == {f"seed-{s}-fold-{f}" for s in (1, 2) for f in (1, 2)}
    by_seed = [np.mean([result["runs"][f"seed-{s}-fold-{f}"]["test"]["loss"] for f in (1, 2)]) for s in (1, 2)]
    assert result["test"]["loss"] == pytest.approx(np.mean(by_seed))
    low, high = result["intervals"]["test"]["loss"]  # of two seeds, not of four runs as if their folds had no row in common
    assert high - low == pytest.approx(2 * 12.7062047 * abs(by_seed[0] - by_seed[1]) / 2)


def test_more_folds_than_there_are_groups_are_refused_before_the_first(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:
    rows = labelled["train"].read_text(encoding="utf-8").splitlines(keepends=True)[:5]
    (tmp_path / "five.jsonl").write_text("".join(rows), encoding="utf-8")
    recipe = finetuning(tokenizer_dir, labelled, folds=6, data={"train": str(tmp_path / "five.jsonl"), "length": 24})
    with pytest.raises(DataError, match="folds = 6, and there are 5"):
        finetune(recipe, tmp_path / "out")
    assert not (tmp_path / "out").exists()  # so that the corrected command finds nothing in its way


def test_recipes_without_rows_to_measure_by_are_not_trained(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:
    path = _finetuning(tokenizer_dir, labelled, tmp_path)
    other = path.with_name("other.yaml")
    other.write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match="neither dev nor test"):
        compare([path, other], tmp_path / "out", ["data.dev=null"])
    with pytest.raises(UsageError, match="two recipes or more"):
        compare([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_held_out_of_training_data_is_not_taken_for_it(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:
    data = {"train": str(labelled["train"]), "dev": 0.3, "length": 24}
    recipe = finetuning(tokenizer_dir, labelled, data=data)
    held = read_parts(recipe)["dev"]
    (tmp_path / "held.jsonl").write_text("".join(json.dumps(row.values) + "\n" for row in held), encoding="utf-8")
    finetune(recipe, tmp_path / "run")
    found = evaluate(find_step(tmp_path / "run"), tmp_path / "held.jsonl")
    assert found["in_training"] == 0 and evaluate(find_step(tmp_path / "run"), labelled["train"])["in_training"] > 0


def test_a_teacher_chooses_no_row_that_is_measured_by(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    rows = [json.loads(line) for line in labelled["train"].read_text(encoding="utf-8").splitlines()]
    taught = [{**row, "p": {row["label"]: 0.9 if i % 2 else 0.2}} for i, row in enumerate(rows)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taught), encoding="utf-8")
    task = {"kind": "classify", "soft": "p", "confidence": 0.8}
    data = {"train": str(tmp_path / "train.jsonl"), "dev": 0.5, "length": 24}
    parts = read_parts(finetuning(tokenizer_dir, labelled, data=data, task=task))
    assert {max(row.values["p"].values()) for row in parts["train"]} == {0.9}
    everywhere = read_parts(finetuning(tokenizer_dir, labelled, data={**data, "train": str(labelled["train"])}))["dev"]
    assert [row.line for row in parts["dev"]] == [row.line for row in everywhere]
    assert not any("p" in row.values for row in parts["dev"])  # where nothing of it is read, it cannot be refused either


def test_equal_rows_are_equal_whatever_else_stands_beside_them(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in labelled["train"].read_text(encoding="utf-8").splitlines()]
    path = tmp_path / "train.jsonl"
    numbered = [{**row, "idx": i} for i, row in enumerate(rows * 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in numbered), encoding="utf-8")
    data = {"train": str(path), "dev": 0.3, "length": 24}
    material = prepare(finetuning(tokenizer_dir, labelled, data=data))
    sides = [{tuple(one.texts[0].ids.tolist()) for one in part} for part in (material.train, material.dev or ())]
    assert all(sides) and not sides[0] & sides[1]


def test_a_source_and_its_other_translations_are_on_one_side(tokenizer_dir: Path, tmp_path: Path) -> None:
    """And an anchor with all its positives, and a text with whatever label: what was trained on would tell the answer."""
    path = tmp_path / "train.jsonl"
    texts = [f"the {thing} was {word}" for thing in ("film", "meal") for word in ("good", "bad", "late", "short", "cold")]
    rows = [{"source": text, "target": f"{text}, {i}", "label": f"{i}"} for text in texts for i in range(3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    similar = {"kind": "similarity", "text": ["source", "target"]}
    for task in ({"kind": "generate"}, similar, {"kind": "classify", "text": "source"}):
        given = {"tokenizer": str(tokenizer_dir), "model": {"kind": "lstm", "dim": 8}, "data": {"train": str(path), "dev": 0.3}}
        parts = divided(read_rows(str(path), ["source"]), validate(FinetuneRecipe, {**given, "task": task}, "recipe"))
        train, dev = ({row.values["source"] for row in parts[part]} for part in ("train", "dev"))
        assert train and dev and not train & dev and len(parts["dev"]) == 3 * len(dev)


def test_what_is_no_json_is_told_by_its_row(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    pq.write_table(
        pa.table({"text": ["a film", "a day"] * 9, "label": [datetime.date(2020, 1, i % 2 + 1) for i in range(18)]}), path
    )
    with pytest.raises(DataError, match="label"):
        prepare(finetuning(tokenizer_dir, labelled, data={"train": str(path), "dev": 0.3, "length": 24}))


def test_recipes_with_dev_sets_of_their_own_have_figures(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{name}.yaml" for name in ("plain", "folded")]
    for path, more in zip(paths, ({"data": {"dev": 0.3}}, {"folds": 2, "data": {}}), strict=True):
        data = {"train": str(labelled["train"]), "length": 24, **more.pop("data")}
        path.write_text(dump(finetuning(tokenizer_dir, labelled, data=data, **more)), encoding="utf-8")
    header, plain, folded = describe(compare(paths, tmp_path / "out")).splitlines()
    assert "accuracy, dev" in header and "mean of 2, test" in header
    assert re.search(r"0\.\d{4}", plain) and "±" in folded
    assert "no p will tell" in (told := capsys.readouterr().err) and "some have seeds or folds" in told


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seeds": [1, 1]}, "twice"),
        ({"fold": 2}, "fold 2"),
        ({"folds": 3, "fold": 4}, "fold 4"),
        ({"folds": 3, "data": {"train": "a.jsonl", "test": "b.jsonl"}}, "set data.test to null"),
    ],
)
def test_what_cannot_be_repeated(keys: dict[str, Any], message: str, tokenizer_dir: Path, labelled: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=message):
        finetuning(tokenizer_dir, labelled, **keys)


def test_recipes_are_compared_and_a_stopped_comparison_goes_on(
    tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:
    paths = []
    for name, layers in (("shallow", 1), ("deep", 3)):
        recipe = pretraining(tokenizer_dir, store_dir)
        model = recipe.model.model_copy(update={"layers": layers})
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(dump(recipe.model_copy(update={"model": model})), encoding="utf-8")
    then = tmp_path / "finetune.yaml"
    then.write_text(dump(finetuning(tokenizer_dir, labelled, checkpoint="elsewhere")), encoding="utf-8")
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"good": "the film was good.", "bad": "the film good was."}\n', encoding="utf-8")
    settings, suites = ["training.updates=4", "finetune.optimizer.lr=1e-3"], [f"minimal_pairs={pairs}"]
    result = compare(paths, tmp_path / "out", settings, then, suites=suites)
    assert [entry["name"] for entry in result["recipes"]] == ["shallow", "deep"]
    shallow, deep = result["recipes"]
    assert shallow["parameters"] < deep["parameters"]
    assert shallow["pretrain"]["updates"] == deep["pretrain"]["updates"] == 4
    assert "difference" not in shallow
    own = evaluate(find_step(deep["model"]), labelled["dev"], with_baselines=False, against=find_step(shallow["model"]))
    assert own["metrics"]["accuracy"] == deep["metrics"]["accuracy"]
    assert own["against"]["differences"] == deep["difference"]
    assert load(FinetuneRecipe, Path(deep["model"]) / "recipe.yaml").optimizer.lr == 1e-3
    alone = evaluate_suite("minimal_pairs", find_step(tmp_path / "out/deep/pretrain"), [pairs])
    assert deep["suites"]["minimal_pairs"]["metrics"] == alone["metrics"]
    own, first = alone["metrics"]["accuracy"], shallow["suites"]["minimal_pairs"]["metrics"]["accuracy"]
    assert deep["suites"]["minimal_pairs"]["difference"]["accuracy"]["value"] == own - first
    assert "minimal_pairs, p" in describe(result) and "difference" not in shallow["suites"]["minimal_pairs"]
    assert compare(paths, tmp_path / "out", settings, then, suites=suites) == result
    header, _, deep_line = describe(result).splitlines()
    assert [*header.split()[:4]] == ["recipe", "parameters", "seconds", "tokens/s"] and "minimal_pairs" in header
    written = (tmp_path / "out/table.md").read_text(encoding="utf-8").splitlines()
    assert len(written) == 4 and written[3].split("|")[1].strip() == "deep" and deep_line.split()[-1] in written[3]
    with pytest.raises(UsageError, match="another recipe"):
        compare(paths, tmp_path / "out", ["training.updates=5"], then)
    words = {"model": {"kind": "static", "dim": 8}, "objective": {"kind": "skipgram"}, "optimizer": {"kind": "sgd", "lr": 0.1}}
    vectors = tmp_path / "vectors.yaml"
    vectors.write_text(dump(pretraining(tokenizer_dir, store_dir, **words)), encoding="utf-8")
    with pytest.raises(UsageError, match=r"vectors: task\.pooling cls is a vector that is the same for all texts"):
        compare([vectors, paths[0]], tmp_path / "early", then=then)
    assert not (tmp_path / "early").exists()
    with pytest.raises(UsageError, match="is read once"):
        evaluate(find_step(deep["model"]), Path("-"), against=find_step(shallow["model"]))
    with pytest.raises(UsageError, match=r"same-size.*deep"):
        compare(paths, tmp_path / "sizes", settings, then, same_size=0.1)
    with pytest.raises(UsageError, match="only like"):
        compare([paths[0], _finetuning(tokenizer_dir, labelled, tmp_path)], tmp_path / "mixed")
    # Suites are asked anew of other files and models, of several files of one kind together.
    pairs.write_text('{"good": "the film good was.", "bad": "the film was good."}\n', encoding="utf-8")
    other = tmp_path / "other.jsonl"
    other.write_text('{"good": "a good film.", "bad": "good film a."}\n' * 3, encoding="utf-8")
    again = compare(paths, tmp_path / "out", settings, then, suites=[*suites, f"minimal_pairs={other}"])
    for name, entry in zip(("shallow", "deep"), again["recipes"], strict=True):
        alone = evaluate_suite("minimal_pairs", find_step(tmp_path / "out" / name / "pretrain"), [pairs, other])
        assert entry["suites"]["minimal_pairs"]["metrics"] == alone["metrics"] and alone["rows"] == 4


def test_what_cannot_be_measured_is_told_before_anything_is_trained(
    tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:
    recipes = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for path in recipes:
        path.write_text(dump(pretraining(tokenizer_dir, store_dir)), encoding="utf-8")
    then = tmp_path / "finetune.yaml"
    then.write_text(dump(finetuning(tokenizer_dir, labelled, checkpoint="elsewhere")), encoding="utf-8")
    wrong, out = tmp_path / "wrong.jsonl", tmp_path / "out"
    wrong.write_text('{"sentence": "a", "label": "positive"}\n', encoding="utf-8")
    with pytest.raises(DataError, match='no column "sentence_good"'):
        compare(recipes, out, suites=[f"minimal_pairs={wrong}"])
    with pytest.raises(DataError, match="expected four words"):
        compare(recipes, out, suites=[f"analogy={then}"])
    with pytest.raises(UsageError, match="is a directory"):
        compare(recipes, out, suites=[f"wordsim={tmp_path}"])
    with pytest.raises(DataError, match='no column "text"') as error:
        compare(recipes, out, then=then, data=wrong)
    assert error.value.fix == "--set finetune.task.text=NAME"
    tuned = [_finetuning(tokenizer_dir, labelled, tmp_path), tmp_path / "c.yaml"]
    tuned[1].write_bytes(tuned[0].read_bytes())
    with pytest.raises(UsageError, match="asks for the likelihood of sentences"):
        good = tmp_path / "good.jsonl"
        good.write_text('{"good": "a", "bad": "b"}\n', encoding="utf-8")
        compare(tuned, out, suites=[f"minimal_pairs={good}"])
    out.mkdir()
    (out / "table.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="no comparison wrote it"):
        compare(recipes, out)
    (out / "comparison.json").write_text('{"recipes": [{"name": "a"}, {"name": "z"}], "out": "x"}', encoding="utf-8")
    with pytest.raises(UsageError, match="holds a comparison of z too"):
        compare(recipes, out)
    assert (out / "table.md").read_text(encoding="utf-8") == "mine"


def test_a_metric_without_a_difference_has_a_place_in_the_table() -> None:
    done = {"seconds": 1.0, "chosen_by": {"metric": "map"}, "dev": {}, "test": {}}
    entry = {"name": "a", "parameters": 1, "finetune": done, "metrics": {"map": 0.5}, "part": "dev", "difference": {}}
    assert "0.5000" in describe({"recipes": [entry]})


def test_equal_time_and_seeds(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    paths = []
    for name, pooling in (("mean", "mean"), ("max", "max")):
        paths.append(tmp_path / f"{name}.yaml")
        recipe = finetuning(tokenizer_dir, labelled, seeds=[1, 2], task={"kind": "classify", "pooling": pooling})
        paths[-1].write_text(dump(recipe), encoding="utf-8")
    result = compare(paths, tmp_path / "out", budget=0.3)
    for entry in result["recipes"]:
        run = load(FinetuneRecipe, tmp_path / "out" / entry["name"] / "run/seed-1/recipe.yaml")
        assert run.training.budget == 0.3 and run.training.epochs is None
        assert entry["finetune"]["intervals"]["dev"]["accuracy"][0] <= entry["finetune"]["dev"]["accuracy"]
    assert "mean of 2, dev" in describe(result) and "p over runs" in describe(result)
    runs = [entry["finetune"]["runs"] for entry in result["recipes"]]
    losses = [[run["dev"]["loss"] for run in own.values()] for own in runs]
    assert result["recipes"][1]["finetune"]["p"]["dev"]["loss"] == stats.ttest_rel(losses[1], losses[0]).pvalue
    assert set(result["recipes"][1]["difference"]) == set(result["recipes"][1]["metrics"])


def test_folds_of_a_seed_are_one_measurement_and_what_does_not_vary_is_not_judged() -> None:
    def runs(values: dict[int, list[float]]) -> dict[str, Any]:
        pairs = [(f"seed-{seed}-fold-{n}", v) for seed, own in values.items() for n, v in enumerate(own, start=1)]
        return {name: {"dev": {}, "test": {"f1": value}} for name, value in pairs}

    first, other = {1: [0.5, 0.6], 2: [0.7, 0.6]}, {1: [0.9, 0.8], 2: [0.71, 0.63]}
    means = [[sum(own) / 2 for own in of.values()] for of in (other, first)]
    assert over_runs(runs(other), runs(first)) == {"test": {"f1": pytest.approx(stats.ttest_rel(*means).pvalue)}}
    assert over_runs(runs(dict(reversed(other.items()))), runs(first)) == over_runs(runs(other), runs(first))
    alike = {1: [0.81, 0.81], 2: [0.83, 0.83]}, {1: [0.80, 0.80], 2: [0.82, 0.82]}
    assert over_runs(runs(alike[0]), runs(alike[1])) == {}


def test_repeated_recipes_that_measure_on_other_rows_have_no_p(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for name, share in (("much", 0.4), ("little", 0.2)):
        paths.append(tmp_path / f"{name}.yaml")
        data = {"train": str(labelled["train"]), "dev": share, "length": 24}
        paths[-1].write_text(dump(finetuning(tokenizer_dir, labelled, seeds=[1, 2], data=data)), encoding="utf-8")
    result = compare(paths, tmp_path / "out", ["training.epochs=1"])
    assert result["recipes"][1]["finetune"]["p"] == {}
    assert "each holds out other rows" in capsys.readouterr().err


def test_labelled_rows_are_not_for_what_is_only_pretrained(
    tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:
    paths = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    for path in paths:
        path.write_text(dump(pretraining(tokenizer_dir, store_dir)), encoding="utf-8")
    with pytest.raises(UsageError, match="only pretrained"):
        compare(paths, tmp_path / "out", data=labelled["dev"])


def test_without_rows_to_measure_by_suites_alone_are_shown() -> None:
    done = {"seconds": 1.0, "dev": {}, "test": {}, "chosen_by": None}
    assert "1,000" in describe({"recipes": [{"name": "a", "parameters": 1000, "finetune": done}]})


def test_runs_of_other_seeds_are_not_paired() -> None:
    runs = [{name: {"dev": {}, "test": {"f1": value}} for name, value in own.items()}
            for own in ({"seed-1": 0.5, "seed-2": 0.7, "seed-3": 0.6}, {"seed-4": 0.4, "seed-5": 0.45})]  # fmt: skip
    expected = stats.ttest_ind([0.5, 0.7, 0.6], [0.4, 0.45], equal_var=False).pvalue
    assert over_runs(*runs) == {"test": {"f1": pytest.approx(expected)}}


def test_the_metric_that_chooses_is_the_one_that_is_shown(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    """On rows that all recipes hold out of their training data, if they are the same rows."""
    paths = []
    for name, rate in (("slow", 1e-3), ("fast", 3e-3)):
        data = {"train": str(labelled["train"]), "dev": 0.3, "length": 24}
        more = {"training": {"epochs": 1, "metric": "macro_f1"}, "optimizer": {"kind": "adamw", "lr": rate}}
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(dump(finetuning(tokenizer_dir, labelled, data=data, **more)), encoding="utf-8")
    result = compare(paths, tmp_path / "out")
    header, slow, fast = describe(result).splitlines()
    assert "macro_f1, dev, 95 %" in header and header.split()[-1] == "p" and fast.split()[-1] != slow.split()[-1]
    for entry in result["recipes"]:
        assert entry["metrics"]["macro_f1"] == pytest.approx(entry["finetune"]["dev"]["macro_f1"])
        assert entry["data"] == "18 rows held out of data.train"


def test_one_that_diverges_and_those_that_are_not_alike(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    paths, models = [], {"kind": "lstm", "dim": 8}
    for name, lr in (("sound", 1e-3), ("wild", 1e30), ("other", 2e-3)):
        paths.append(tmp_path / f"{name}.yaml")
        recipe = finetuning(tokenizer_dir, labelled, model=models, optimizer={"kind": "adamw", "lr": lr, "clip": None})
        paths[-1].write_text(dump(recipe), encoding="utf-8")
    result = compare(paths, tmp_path / "out")
    sound, wild, other = result["recipes"]
    assert re.search("which cannot be trained on|loss of the held-out data is nan", wild["why"])  # as the machine rounds
    assert "metrics" not in wild and "difference" in other
    assert "not trained" in describe(result) and sound["metrics"]
    with pytest.raises(DivergedError):
        compare(paths[1:], tmp_path / "first")
    assert fault_of_one(MemoryError()) == "memory ran out" and fault_of_one(UsageError("another", fix=None)) is None
    recipe = finetuning(tokenizer_dir, labelled, data={"train": str(labelled["train"]), "dev": "10%"}, model=models)
    paths[2].write_text(dump(recipe), encoding="utf-8")
    with pytest.raises(UsageError, match="judged on different rows"):
        compare([paths[0], paths[2]], tmp_path / "rows")
    task = {"kind": "regress", "label": "label"}
    paths[2].write_text(dump(finetuning(tokenizer_dir, labelled, task=task)), encoding="utf-8")
    with pytest.raises(UsageError, match="different tasks cannot be compared: sound classify, other regress"):
        compare([paths[0], paths[2]], tmp_path / "tasks")


SHORT = {"kind": "span", "question_length": 8, "overlap": 4}


@pytest.mark.parametrize(
    ("one", "other", "wrong"),
    [
        ({"kind": "tag"}, {"kind": "tag", "scheme": "bioes"}, None),
        (
            {"kind": "tag", "scheme": "plain"},
            {"kind": "tag", "scheme": "bioes"},
            "by loss, accuracy, macro_f1 and some by loss, f1",
        ),
        (SHORT, {"normalise": "chinese", **SHORT}, "f1 as the data decide and some by"),
        ({"normalise": "english", **SHORT}, {"normalise": "chinese", **SHORT}, "f1 chinese and some by"),
    ],
)
def test_what_is_measured_alike_can_be_compared(
    one: dict[str, Any], other: dict[str, Any], wrong: str | None, tokenizer_dir: Path, labelled: dict[str, Path]
) -> None:
    recipes = [finetuning(tokenizer_dir, labelled, task=task, model={"kind": "lstm", "dim": 8}) for task in (one, other)]
    plans = [Plan(f"{i}", recipe, None, 1) for i, recipe in enumerate(recipes)]
    with nullcontext() if wrong is None else pytest.raises(UsageError, match=wrong):
        check_alike(plans, None)


def test_folds_of_other_seeds_are_of_other_rows(tokenizer_dir: Path, labelled: dict[str, Path]) -> None:
    def of(**more: Any) -> tuple[Any, ...]:
        return drawn(finetuning(tokenizer_dir, labelled, data={"train": str(labelled["train"]), "dev": 0.1}, folds=5, **more))

    assert of(seed=1) != of(seed=2) and of(seed=1, seeds=[3, 4]) == of(seed=2, seeds=[3, 4])


def _finetuning(tokenizer: Path, labelled: dict[str, Path], folder: Path) -> Path:
    path = folder / "scratch.yaml"
    recipe: FinetuneRecipe = finetuning(tokenizer, labelled)
    path.write_text(dump(recipe), encoding="utf-8")
    return path
