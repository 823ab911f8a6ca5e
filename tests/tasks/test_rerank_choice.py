"""Reranking and multiple choice: losses by hand, metrics against scikit-learn, and the whole way through the stages."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from encoderkit.config import validate
from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, UsageError
from encoderkit.metrics import ranked
from encoderkit.preflight import find_step, predicted
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import export, finetune, split
from encoderkit.stages.against import Judged, differences
from encoderkit.stages.evaluate import describe, evaluate
from encoderkit.stages.predict import predict
from encoderkit.tasks import baselines, choice, rerank, truth
from encoderkit.tasks.config import ChoiceConfig, RerankConfig
from encoderkit.tasks.texts import Tokens
from encoderkit.training.config import AdamWConfig
from encoderkit.training.evaluate import evaluate as evaluate_source
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.conftest import BAD, GOOD, THINGS
from tests.training.runs import KINDS, LENGTH, VOCABULARY, encoder, plan, sequences

BERT = {"kind": "bert", "dim": 32, "layers": 1, "heads": 2, "max_length": 64}


def reranker(kind: str = "bert") -> rerank.Rerank:
    torch.manual_seed(1)
    return rerank.Rerank(RerankConfig(dropout=0, pooling="mean"), encoder(kind), VOCABULARY, LENGTH)


def candidates(count: int) -> list[rerank.Example]:
    grades = np.random.default_rng(2).integers(0, 3, count)
    made = zip(sequences(count), grades, strict=True)
    return [rerank.Example(Tokens(ids, None, 0), f"q{i // 4}", float(grade), i) for i, (ids, grade) in enumerate(made)]


def chooser(kind: str = "bert") -> choice.Choice:
    torch.manual_seed(1)
    return choice.Choice(ChoiceConfig(dropout=0, pooling="mean"), encoder(kind), VOCABULARY, LENGTH)


def questions(count: int) -> list[choice.Example]:
    """With two, three and four options."""
    texts, found = iter(sequences(4 * count)), []
    for i in range(count):
        size = 2 + i % 3
        found.append(choice.Example(tuple(Tokens(next(texts), None, 0) for _ in range(size)), (7 * i) % size, i))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_eight_of_each_are_memorised(kind: str) -> None:
    for task, source, metric in ((reranker(kind), candidates(8), "map"), (chooser(kind), questions(8), "accuracy")):
        task.prepare(source)
        optimizers = build_optimizers(task, AdamWConfig(lr=5e-3, weight_decay=0.0), torch.float32)
        list(updates(task, optimizers, source, plan(60, 8, 3, clip=1.0)))
        found = evaluate_source(task, source, 3, "cpu", "fp32")
        assert found[metric] == 1, (kind, found)
        assert evaluate_source(task, source, 8, "cpu", "fp32") == pytest.approx(found, abs=1e-5)


def test_the_losses_are_torchs() -> None:
    task, source = reranker(), candidates(9)
    task.prepare(source)
    batch = task.collate(source)
    grades = torch.tensor([example.target for example in source])
    expected = binary_cross_entropy_with_logits(task.logits(batch.inputs)[:, 0], grades / 2)
    torch.testing.assert_close(task(batch.inputs, batch.targets)["rerank"] / batch.counts["rerank"], expected)
    other, asked = chooser(), questions(7)
    batch = other.collate(asked)
    each = []
    for question in asked:
        alone = other.collate([question])
        each.append(cross_entropy(other.logits(alone.inputs).T, torch.tensor([question.target])))
    found = other(batch.inputs, batch.targets)["choice"] / batch.counts["choice"]
    torch.testing.assert_close(found, torch.stack(each).mean())
    observed = [scores.detach().numpy() for scores in other.observe(batch.inputs, batch.targets)["scores"]]
    assert other.metrics(asked, {"scores": observed})["loss"] == pytest.approx(found.item(), abs=1e-5)


def test_ranking_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    relevance, query, scores = rng.integers(0, 3, 200), rng.integers(0, 30, 200), rng.normal(size=200)
    relevance[query == 7] = 0
    found = ranked(relevance, query, scores)
    asked = [q for q in np.unique(query) if relevance[query == q].any()]
    assert len(found["map"]) == len(asked) < len(np.unique(query))
    for i, number in enumerate(asked):
        truth, guess = relevance[query == number], scores[query == number]
        assert found["map"][i] == pytest.approx(average_precision_score(truth > 0, guess))
        assert found["mrr"][i] == pytest.approx(1 / (1 + np.flatnonzero(truth[np.argsort(-guess)])[0]))
        if len(truth) > 1:
            assert found["ndcg_at_10"][i] == pytest.approx(ndcg_score([truth], [guess], k=10))
    equal = ranked(np.array([1, 0, 0]), np.zeros(3), np.zeros(3))
    assert equal["mrr"].tolist() == [1 / 3], "what is right does not win by chance"
    nearly = ranked(np.array([1, 0, 0]), np.zeros(3), np.array([0.3000002, 0.3000001, 0.3]))
    assert nearly["mrr"].tolist() == [1 / 3], "nor by the last digits of its score"


def test_models_are_compared_by_queries() -> None:
    """The interval of the difference is the normal one over queries, however many candidates each has."""
    rng, task = np.random.default_rng(4), reranker()
    query = np.repeat(np.arange(80), rng.integers(3, 30, 80))
    gold = np.stack([(rng.random(len(query)) < 0.3).astype(float), query], axis=1)
    first, second = (gold[:, 0] * strength + rng.normal(size=len(query)) for strength in (2.0, 1.0))
    judged = [Judged(task, [], [], {}, gold, predicted) for predicted in (first, second)]
    found = differences(*judged)["map"]
    gains = np.subtract(*(task.each(gold, predicted)["map"] for predicted in (first, second)))
    assert found["value"] == pytest.approx(gains.mean())
    error = gains.std(ddof=1) / np.sqrt(len(gains))
    expected = gains.mean() - 1.96 * error, gains.mean() + 1.96 * error
    assert (found["low"], found["high"]) == pytest.approx(expected, abs=0.2 * error)


def test_a_question_of_a_table_may_have_fewer_options_than_the_table_columns() -> None:
    """What is empty at the end is none; in between it would move the numbers of those behind it."""
    config = ChoiceConfig.model_validate({"options": ["a", "b", "c", "d"]})
    values = {"question": "q", "label": "2"}
    row = Row({**values, "a": "x", "b": "", "c": "z", "d": " "}, 2, "t.csv")
    assert truth.options(row, config) == ["x", "", "z"] and truth.option(row, config) == 2
    with pytest.raises(DataError, match="two options or more, found 1"):
        truth.options(Row({**values, "a": "x", "b": "", "c": "", "d": ""}, 2, "t.csv"), config)


def test_an_option_is_named_by_number_or_letter() -> None:
    task = chooser()

    def target(label: object, first: int = 0) -> int:
        task.config = ChoiceConfig.model_validate({"first": first})
        return truth.option(Row({"question": "q", "options": ["a", "b", "c"], "label": label}, 4, "t.jsonl"), task.config)

    assert [target(label) for label in (0, "2", "B", "c", 1.0)] == [0, 2, 1, 2, 1]
    assert [target(label, first=1) for label in (1, "3", "A")] == [0, 2, 0]
    for wrong, first in ((3, 0), ("D", 0), (0, 1), ("b) this", 0), (-1, 0)):
        with pytest.raises(DataError, match=r"t\.jsonl:4: \"label\" should name one of the options"):
            target(wrong, first)
    with pytest.raises(DataError, match="two options or more, found 1"):
        task.texts(Row({"question": "q", "options": ["a"], "label": 0}, 1, "t.jsonl"))


def test_the_nearest_option() -> None:
    train = [["a cat sat", "the cat sat"]]
    assert baselines.nearest(train, np.zeros(1), [["cat", "the", "a cat"], ["sat", "sat", "cat", "the"]]).tolist() == [1, 0]


def test_the_candidates_of_a_query_are_held_out_together() -> None:
    rows = [Row({"query": f"q{i % 9}", "candidate": str(i), "relevance": 0}, i, "t.jsonl") for i in range(60)]
    kept, held = split._hold_out(rows, partial(split._first, 1 / 3), (17, 1), RerankConfig().together)
    assert len(kept) + len(held) == 60 and held
    assert not {row.values["query"] for row in kept} & {row.values["query"] for row in held}


@pytest.mark.parametrize("seed", range(5))
def test_repeated_texts_change_little_of_how_much_is_held_out(seed: int) -> None:
    """By rows, not by different texts: of 400 rows a quarter says the same."""
    texts = ["good"] * 100 + ["bad"] * 40 + [f"text {i}" for i in range(260)]
    rows = [Row({"text": text}, i, "t.jsonl") for i, text in enumerate(texts)]
    kept, held = split._hold_out(rows, partial(split._first, 0.1), (seed, 1), ["text"])
    assert len(held) == 40 and not {row.values["text"] for row in kept} & {row.values["text"] for row in held}
    folds = [split._hold_out(rows, partial(split._fold, number, 3), (seed, 1), ["text"])[1] for number in (1, 2, 3)]
    assert sorted(map(len, folds)) == [133, 133, 134]
    assert sorted(row.line for fold in folds for row in fold) == [row.line for row in rows]


def file(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def trained(out: Path, tokenizer: Path, data: Path, model: dict[str, Any], task: dict[str, Any]) -> Path:
    recipe = {
        "tokenizer": str(tokenizer),
        "model": model,
        "data": {"train": str(data), "dev": 0.2, "length": 24},
        "task": task,
        "optimizer": {"kind": "adamw", "lr": 5e-3},
        "training": {"updates": 40, "batch": 16, "precision": "fp32", "compile": "off", "device": "cpu"},
    }
    finetune.finetune(validate(FinetuneRecipe, recipe, "recipe"), out)
    return find_step(out)


def test_the_whole_way_of_reranking(tokenizer_dir: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"query": f"{thing} {other}", "candidate": f"the {thing} was {word}", "relevance": 2 * (word in GOOD)}
        for thing in THINGS
        for other in THINGS[:3]
        for word in rng.permutation([*GOOD, *BAD])[:5].tolist()
    ]
    data = file(tmp_path / "rows.jsonl", rows)
    step = trained(tmp_path / "run", tokenizer_dir, data, BERT, {"kind": "rerank"})
    result = evaluate(step, data, "fp32", errors=tmp_path / "errors.jsonl")
    assert result["metrics"]["map"] > 0.9 and result["metrics"]["queries"] == 24
    assert {"gold", "predicted", "text", "text_pair", "nearest"} <= read(tmp_path / "errors.jsonl")[0].keys()
    assert all(sum(part["rows"] for part in parts) == len(rows) for name, parts in result["slices"].items() if name != "metric")
    assert sum(part["answers"] for part in result["calibration"]["bins"]) == len(rows)
    assert result["baselines"].keys() == {"cosine"}
    none = [{**rows[0], "query": "nothing of it", "relevance": 0}]
    told = describe(evaluate(step, file(tmp_path / "none.jsonl", [*rows, *none]), "fp32"))
    assert "1 of the 25 queries have no relevant candidate" in told
    other = [{"query": "an odd one", "candidate": f"{word} {word}", "relevance": int(word in GOOD)} for word in (*GOOD, *BAD)]
    mixed = file(tmp_path / "mixed.jsonl", [rows[5], *({**row, "query": rows[5]["query"]} for row in other), *other])
    without = evaluate(step, mixed, "fp32")["overlap"]["without"]
    alone = evaluate(step, file(tmp_path / "other.jsonl", other), "fp32")
    assert without["rows"] == len(other) and without["metrics"] == {n: alone["metrics"][n] for n in without["metrics"]}
    assert all(low <= result["metrics"][name] <= high for name, (low, high) in result["intervals"].items())
    predict(step, data, out=tmp_path / "out.jsonl")
    assert all(
        0 <= row["score"] <= 1 and row["text_pair"] == given["candidate"]
        for row, given in zip(read(tmp_path / "out.jsonl"), rows, strict=True)
    )
    assert export.run(step, ["hf"], tmp_path / "dist")["parity"]["max_abs_diff"] < 1e-5


def test_the_whole_way_of_choosing(tokenizer_dir: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        words = rng.permutation([rng.choice(GOOD), *rng.choice(BAD, 2)]).tolist()
        right = next(n for n, word in enumerate(words) if word in GOOD)
        rows.append({"question": f"the {THINGS[i % 8]} was", "options": words[: max(2, right + 1)], "label": "ABC"[right]})
    data = file(tmp_path / "rows.jsonl", rows)
    for name, model in (("bert", BERT), ("lstm", {"kind": "lstm", "dim": 32})):
        step = trained(
            tmp_path / name, tokenizer_dir, data, model, {"kind": "choice", "pooling": "cls" if name == "bert" else "max"}
        )
        result = evaluate(step, data, "fp32")
        assert result["metrics"]["accuracy"] > 0.9 and result["baselines"].keys() == {"majority", "nearest"}
        out = tmp_path / f"{name}.csv"
        predict(step, data, out=out, form="csv")
        predict(step, data, out=tmp_path / f"{name}.jsonl")
        found = read(tmp_path / f"{name}.jsonl")
        right = [row["answer"] == given["options"]["ABC".index(given["label"])] for row, given in zip(found, rows, strict=True)]
        assert np.mean(right) == pytest.approx(result["metrics"]["accuracy"])
        assert all(sum(row["probabilities"]) == pytest.approx(1, abs=1e-4) for row in found)
        assert out.read_text(encoding="utf-8").startswith("text,options,label,answer,probabilities,truncated")
        with pytest.raises(UsageError, match="reads question and options"):
            predicted(step, None, ["q"], ["o"])
    assert export.run(tmp_path / "bert", ["hf"], tmp_path / "dist")["parity"]["max_abs_diff"] < 1e-5
