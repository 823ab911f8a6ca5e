"""Question answering: answers found and compared as the official scripts do, windows, spans, and the whole way."""

import csv
import json
import random
from collections import Counter
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from encoderkit.config import validate
from encoderkit.data.labelled import Row, read_rows
from encoderkit.errors import DataError, UsageError
from encoderkit.inference import open_model
from encoderkit.models.config import EncoderConfig
from encoderkit.preflight import find_step, predicted
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import export, finetune, import_model, split
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.predict import predict
from encoderkit.tasks import baselines
from encoderkit.tasks.answers import Answer, answers_of, compared, is_chinese, locate
from encoderkit.tasks.calibration import reliability
from encoderkit.tasks.config import SpanConfig
from encoderkit.tasks.passages import Example, Passage, bands, threshold, trimmed
from encoderkit.tasks.span import Span, _id
from encoderkit.tasks.texts import Tokens
from encoderkit.text.config import TokenizerConfig, TokenizerKind
from encoderkit.text.tokenizers import Tokenizer, open_tokenizer
from encoderkit.text.training import train
from encoderkit.training.config import AdamWConfig
from encoderkit.training.evaluate import evaluate as evaluate_source
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.conftest import BAD, GOOD, THINGS
from tests.tasks import official
from tests.training.runs import KINDS, LENGTH, VOCABULARY, encoder, plan, sequences

PIECES = (
    *("the", "The", "an", "a", "A.", "U.S.", "dog", "Dog's", "can't", "theatre", "an-the", "3.5%", "$1,000", "-", "_", "“", "…"),
    *("北京", "北", "大学", "。", "，", "（", "）", "ｆｕｌｌ", "１２", "Ａ", "iPhone 4", "1998年", "々", "・"),
    *("", " ", "\u3000", "\n", "é", "İ", "ß"),
)


def test_answers_are_compared_as_the_official_scripts_do() -> None:
    rng = random.Random(0)

    def text() -> str:
        return rng.choice(("", " ")).join(rng.choices(PIECES, k=rng.randint(0, 5)))

    seen: Counter[str] = Counter()
    for _ in range(1000):
        right = [text() for _ in range(rng.randint(1, 3))]
        given = rng.choice((text(), right[0], right[-1].upper(), "the " + right[0] + "."))
        assert compared(tuple(right), given, "english", False) == pytest.approx(official.squad1(right, given)), (right, given)
        assert compared(tuple(right), given, "english", True) == pytest.approx(official.squad2(right, given)), (right, given)
        found = compared(tuple(right), given, "chinese", False)
        assert found == pytest.approx(official.cmrc(right, given)), (right, given)
        seen["whole" if found[1] == 1 else "part" if found[1] else "none"] += 1
    assert min(seen.values()) > 50, seen
    assert compared((), "", "english", True) == compared((), "", "chinese", True) == (1.0, 1.0)
    assert compared((), "x", "chinese", True) == compared(("x",), "", "english", True) == (0.0, 0.0)
    assert compared(("the",), "a", "english", False) == (1.0, 0.0), "as SQuAD 1.1's script has it"


def test_whose_script_it_is_follows_from_the_answers() -> None:
    assert is_chinese(["1998年", "北京大学"]) and not is_chinese(["Beijing (北京)"]) and not is_chinese(["—"])


def test_answers_in_all_their_forms() -> None:
    def read(value: object) -> list[Answer]:
        return answers_of(Row({"id": "q7", "answers": value}, 3, "t.jsonl"), "answers")

    expected = [Answer("cat", 4), Answer("a cat", None)]
    assert read([{"text": "cat", "answer_start": 4}, {"text": "a cat", "answer_start": -1}]) == expected
    assert read({"text": ["cat", "a cat"], "answer_start": [4, -1]}) == expected
    assert read(["cat", "a cat"]) == [Answer("cat", None), Answer("a cat", None)]
    assert read({"text": "cat", "answer_start": 4}) == [Answer("cat", 4)]
    assert read("cat") == [Answer("cat", None)] and read([]) == read({"text": [], "answer_start": []}) == read("") == []
    for wrong, told in (
        (None, "should be answers"),
        (7, "should be answers"),
        ([{"text": "cat", "answer_start": "4"}], 'whole number, found "4"'),
        ([{"answer_start": 4}], "should be a text, found null"),
        ([{"text": " ", "answer_start": 4}], "empty"),
        ({"text": ["cat"], "answer_start": []}, "1 texts and 0 values"),
    ):
        with pytest.raises(DataError, match=told) as caught:
            read(wrong)
        assert str(caught.value.where) == 't.jsonl:3 (id "q7")'


def test_answers_are_found_where_they_stand() -> None:
    text = "the cat saw the cat and the cat"

    def find(answer: str, start: int | None) -> tuple[int, str] | None:
        return locate(Answer(answer, start), text)

    assert find("cat", 16) == (16, "")
    assert find("cat", 15) == (16, "moved") and find("cat", 5) == (4, "moved") and find("cat", 999) == (28, "moved")
    assert find("cat", 10) is None, "two are equally near"
    assert find("cat", None) == (4, "chosen") and find("saw", None) == (8, "") and find("dog", 4) is None
    assert locate(Answer("aa", 3), "aaaaa") == (3, ""), "places may overlap"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return open_tokenizer(tokenizer_dir)


def span(model: EncoderConfig | None = None, length: int = LENGTH, **settings: Any) -> Span:
    torch.manual_seed(1)
    config = SpanConfig.model_validate({"question_length": 4, "overlap": 3} | settings)
    return Span(config, model or encoder("bert"), VOCABULARY._replace(size=200), length)


def rows_of(count: int, seed: int = 0, silent: bool = False) -> list[Row]:
    """Which word of a passage is a good one, of several bad ones; `silent`: every third passage has none."""
    rng = random.Random(seed)
    rows = []
    for i in range(count):
        said = [rng.choice(BAD) for _ in range(rng.randint(2, 6))]
        good = None if silent and i % 3 == 0 else rng.choice(GOOD)
        if good:
            said[rng.randrange(len(said))] = good
        context = " and ".join(f"the {rng.choice(THINGS)} was {word}" for word in said) + "."
        answers = [{"text": good, "answer_start": context.index(f" {good}") + 1}] if good else []
        rows.append(Row({"id": f"q{i}", "question": "was good", "context": context, "answers": answers}, i + 1, "t.jsonl"))
    return rows


def test_windows_cover_the_passage_and_point_at_the_answer(tokenizer: Tokenizer) -> None:
    task, rows = span(answer_length=20), rows_of(40)
    examples = task.encode(rows, tokenizer)
    assert len(examples) > len(rows) + 20
    for i, row in enumerate(rows):
        own = [example for example in examples if example.row == i]
        context, answer = row.values["context"], row.values["answers"][0]
        [ids] = [tokenizer.spans([context]).ids]
        covered = np.zeros(len(ids), bool)
        pointed = []
        for example in own:
            inside = slice(example.place, example.place + example.held)
            assert (example.tokens.ids[inside] == ids[example.first : example.first + example.held]).all()
            assert example.size <= LENGTH and example.allowed.sum() == example.held + 1 and example.allowed[example.null]
            assert not example.allowed[1 : example.place].any(), "neither the question nor what is special"
            covered[example.first : example.first + example.held] = True
            assert example.target is not None
            if example.target != (example.null, example.null):
                first, last = (place - example.place + example.first for place in example.target)
                pointed.append(example.passage.cut(first, last))
        assert covered.all(), "nothing is lost"
        once = sum(len(one.tokens.ids) - one.tokens.special - one.tokens.shared for one in own)
        assert once == len(ids) + own[0].place - 2, "the question and each piece of the passage are counted once"
        start = answer["answer_start"]
        assert set(pointed) == {(answer["text"], start, start + len(answer["text"]))}


def certain(examples: list[Example], rows: list[Row]) -> list[np.ndarray]:
    """The scores of a model that knows."""
    found = []
    for example in examples:
        scores = np.zeros((example.size, 2), np.float32)
        assert example.target is not None
        for side in (0, 1):
            scores[example.target[side], side] = 9
        found.append(scores)
    return found


@pytest.mark.parametrize(("name", "told"), [(7, 7), ("q1", "q1"), (date(2026, 1, 2), "2026-01-02"), ("a\ud800", "a?")])
def test_what_a_question_is_called_can_be_written(name: object, told: object) -> None:
    assert _id(Row({"id": name}, 1, "a.parquet")) == told


def test_a_model_that_knows_is_right_to_the_character(tokenizer: Tokenizer) -> None:
    for silent in (False, True):
        task, rows = span(unanswerable=silent), rows_of(60, 1, silent)
        examples = task.encode(rows, tokenizer)
        observed = {"scores": certain(examples, rows)}
        assert task.metrics(examples, observed)["exact_match"] == 100
        predictions = task.predictions(rows, task.encode(rows, tokenizer, labelled=False), observed, 3)
        for row, found in zip(rows, predictions, strict=True):
            answers = row.values["answers"]
            assert found["answer"] == (answers[0]["text"] if answers else "") and found["id"] == row.values["id"]
            assert all(0 <= each["score"] <= 1 for each in found["answers"]) and len(found["answers"]) == 3
            for each in (found, *found["answers"]):
                assert row.values["context"][each["start"] : each["end"]] == each["answer"]
            if answers:
                assert found["start"] == answers[0]["answer_start"]


def test_spans_are_those_of_an_exhaustive_search() -> None:
    rng = np.random.default_rng(0)
    characters = np.array([[i, i + (i % 7 != 0)] for i in range(25)])
    passage = Passage("x" * 30, characters)
    examples, scores = [], []
    for first, held in ((0, 10), (7, 10), (14, 11)):
        ids = np.arange(held + 4)
        examples.append(Example(Tokens(ids, None, 0), passage, first, held, 3, 0, None))
        scores.append(rng.normal(size=(held + 4, 2)).astype(np.float32))
    [band] = bands(examples, scores, 4)
    expected: dict[tuple[int, int], float] = {}
    for example, own in zip(examples, scores, strict=True):
        for i in range(example.held):
            for j in range(i, min(i + 4, example.held)):
                span = (i + example.first, j + example.first)
                if all(characters[end][0] < characters[end][1] for end in span):
                    total = float(own[3 + i, 0]) + float(own[3 + j, 1])
                    expected[span] = max(expected.get(span, -np.inf), total)
    found = {(i, i + more): value for (i, more), value in np.ndenumerate(band.scores) if value > -np.inf}
    assert found.keys() == expected.keys() and found == pytest.approx(expected)
    assert band.best == max(expected.values())
    assert band.null == pytest.approx(min(float(own[0].astype(float).sum()) for own in scores))
    assert band.span(band.scores.size) == ("", 0, 0)


def test_the_threshold_is_the_best_there_is() -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 60):
        ahead, gain = rng.integers(-5, 6, count) / 2, rng.choice([-1.0, 0.0, 0.4, 1.0], count)
        best = max(float(gain[ahead <= place].sum()) for place in [-99.0, *ahead])
        assert float(gain[ahead <= threshold(list(ahead), list(gain))].sum()) == pytest.approx(best)


def test_the_threshold_is_set_by_dev_and_kept(tokenizer: Tokenizer) -> None:
    task, rows = span(unanswerable=True), rows_of(30, 2, silent=True)
    examples = task.encode(rows, tokenizer)
    scores = certain(examples, rows)
    for own, example in zip(scores, examples, strict=True):
        own[example.null] += 10  # a model that says none too often, by as much
    before = task.metrics(examples, {"scores": scores})["exact_match"]
    task.tune(examples, {"scores": scores})
    assert before < task.metrics(examples, {"scores": scores})["exact_match"] == 100
    assert 2 < float(task.state_dict()["threshold"]) < 38
    found = task.details(task.gold(rows), task.decide(examples, {"scores": scores}))
    assert found["has_answer_rows"] == 20 and found["no_answer_f1"] == found["has_answer_exact_match"] == 100


def test_white_space_is_no_part_of_an_answer() -> None:
    context = " a  b\n"
    found = trimmed(context, np.array([[0, 2], [2, 3], [2, 5], [5, 6]]))
    assert [context[i:j] for i, j in found] == ["a", "", "b", ""]
    assert Passage(context, found).tokens(0, 5) == (0, 2, True) and Passage(context, found).tokens(2, 4) is None
    assert Passage("abcd", np.array([[0, 2], [2, 4]])).tokens(1, 3) == (0, 1, False)
    assert trimmed("", np.zeros((0, 2), np.int64)).shape == (0, 2)


def test_what_no_token_holds_belongs_to_the_token_before() -> None:
    """Accents that a tokenizer takes away are part of an answer all the same."""
    context = "cafe\u0301 दे x"
    found = trimmed(context, np.array([[0, 4], [6, 7], [9, 10]]))
    assert [context[i:j] for i, j in found] == ["cafe\u0301", "दे", "x"]
    context = "1990\u200b[4]"  # of no width, and no part of the year
    assert [context[i:j] for i, j in trimmed(context, np.array([[0, 4], [5, 6], [6, 7], [7, 8]]))][:2] == ["1990", "["]


@pytest.mark.parametrize("kind", KINDS)
def test_eight_are_memorised_alone_and_together(kind: str) -> None:
    task, rng = span(encoder(kind)), np.random.default_rng(5)
    examples = []
    for i, ids in enumerate(sequences(8)):
        held = len(ids) - 4
        characters = np.stack([np.arange(held), 1 + np.arange(held)], axis=1)
        start = int(rng.integers(held - 1))
        passage = Passage("".join(chr(97 + n) for n in rng.permutation(held)), characters, ())
        passage = passage._replace(right=(passage.context[start : start + 2],))
        null = len(ids) - 1 if kind == "gpt" else 0
        examples.append(Example(Tokens(ids, None, 0), passage, 0, held, 3, null, (3 + start, 4 + start), i))
    optimizers = build_optimizers(task, AdamWConfig(lr=5e-3, weight_decay=0.0), torch.float32)
    list(updates(task, optimizers, examples, plan(100, 8, 3, clip=1.0)))
    found = evaluate_source(task, examples, 3, "cpu", "fp32")
    assert found["exact_match"] == 100, found
    assert evaluate_source(task, examples[::-1], 8, "cpu", "fp32") == pytest.approx(found, abs=1e-5)


def test_the_loss_is_that_of_transformers(tokenizer: Tokenizer) -> None:
    """The mean of the cross-entropies of beginnings and ends; there, over padding and question too, which are masked here."""
    task = span()
    examples = task.encode(rows_of(5), tokenizer)
    batch = task.collate(examples)
    each = []
    for example in examples:
        alone = task.collate([example])
        scores = task.bounds(alone.inputs)[0][0]
        kept = torch.from_numpy(np.flatnonzero(example.allowed))
        assert example.target is not None
        for side in (0, 1):
            place = (kept == example.target[side]).nonzero()[0]
            each.append(cross_entropy(scores[kept, side][None], place))
    expected = torch.stack(each).mean()
    torch.testing.assert_close(task(batch.inputs, batch.targets)["span"] / batch.counts["span"], expected)
    observed = [scores.detach().numpy() for scores in task.observe(batch.inputs, batch.targets)["scores"]]
    assert task.metrics(examples, {"scores": observed})["loss"] == pytest.approx(expected.item(), abs=1e-6)
    windows = np.bincount([example.row for example in examples])
    rows = task.losses(examples, {"scores": observed})
    assert (rows * windows).sum() / windows.sum() == pytest.approx(expected.item(), abs=1e-6)


def test_what_cannot_be_as_it_is_written_is_told(tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]) -> None:
    context = "the film was lovely and the day was dark and the song was dark"

    def row(answers: list[dict[str, Any]], question: str = "what") -> Row:
        return Row({"id": "q1", "question": question, "context": context, "answers": answers}, 9, "t.jsonl")

    task = span(answer_length=2)
    task.encode(
        [
            row([{"text": "lovely", "answer_start": 14}]),
            row([{"text": "dark"}], question="the film was the film was"),
            row([{"text": "nowhere", "answer_start": 3}, {"text": "ovel", "answer_start": 14}]),
            row([{"text": context, "answer_start": 0}]),
        ],
        tokenizer,
    )
    told = capsys.readouterr().err
    for line in (
        "stand elsewhere than answer_start says, and were taken where they are nearest: 1",
        "in several places, answer_start not saying in which, and were taken in the first: 1",
        "are not in their passage, and count as right but are not trained on: 1",
        "begin or end inside a token, so that the model can only give more than they are: 1",
        "no window holds whole, and count as none in training (task.overlap = 3): 1",
        "of more than task.answer_length = 2 tokens, which will not be given: 1",
        "of more than task.question_length = 4 tokens, which were cut: 1",
    ):
        assert line in " ".join(told.split()), (line, told)
    for answers, said in (
        ([{"text": "cat", "answer_start": 3}], 'answer "cat" does not stand in "context"'),
        ([{"text": "the", "answer_start": 12}], "nor is it once nearest to 12"),
        ([], "task.unanswerable: true"),
    ):
        with pytest.raises(DataError) as caught:
            task.encode([row(answers)], tokenizer)
        assert said in str(caught.value) and 't.jsonl:9 (id "q1")' in str(caught.value)
    with pytest.raises(DataError, match=r'"context" is empty'):
        task.texts(Row({"question": "what", "context": " "}, 1, "t.jsonl"))


def test_the_sentence_most_like_the_question() -> None:
    for texts, expected in (
        ([["Who saw the dog?", "A cat sat. The dog ran off! Then 3.5 birds came."]], "The dog ran off!"),
        ([["猫在哪？", "狗在家。猫在外面！"]], "猫在外面！"),
    ):
        assert baselines.BASELINES["sentence"](texts, np.zeros(1), texts).tolist() == [expected]
    assert baselines.BASELINES["silence"]([], np.zeros(0), [["q", "c"]] * 2).tolist() == ["", ""]


def nested(rows: list[Row]) -> dict[str, Any]:
    paragraphs = [
        {"context": row.values["context"], "qas": [{key: row.values[key] for key in ("id", "question", "answers")}]}
        for row in rows
    ]
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": paragraphs}]}


def test_files_are_read_as_they_are_downloaded(tmp_path: Path) -> None:
    columns = SpanConfig().all_columns
    rows = rows_of(4, silent=True)
    path = tmp_path / "dev-v2.0.json"
    path.write_text(json.dumps(nested(rows), indent=1), encoding="utf-8")
    assert [row.values | {} for row in read_rows(path, columns)] == [{"title": "t"} | row.values for row in rows]
    flat = [row.values for row in rows]
    for text in (json.dumps(flat), json.dumps({"version": "2", "data": flat}), "\n".join(map(json.dumps, flat))):
        path.write_text(text, encoding="utf-8")
        assert [row.values for row in read_rows(path, columns)] == flat
    cmrc = [
        {
            "context_id": "DEV_0",
            "context_text": "北京在中国。",
            "title": "北京",
            "qas": [{"query_id": "DEV_0_Q_0", "query_text": "北京在哪？", "answers": ["中国", "在中国"]}],
        }
    ]
    path.write_text(json.dumps(cmrc, ensure_ascii=False), encoding="utf-8")
    [row] = read_rows(path, columns)
    assert row.values == {
        "id": "DEV_0_Q_0", "title": "北京", "question": "北京在哪？", "context": "北京在中国。", "answers": ["中国", "在中国"],
    }  # fmt: skip
    impossible = nested(rows[1:2])
    impossible["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = True
    missing = nested(rows[1:2])
    del missing["data"][0]["paragraphs"][0]["qas"][0]["answers"]
    for content, told in (
        (json.dumps(impossible), 'id "q1".*is_impossible'),
        (json.dumps(missing), 'dev-v2.0.json:1 .id "q1".*no column "answers"'),
        ('{"data": 3}', "expected a list of objects, found int"),
        ('{"data": [3]}', "expected an object, found int"),
        ('{"data":\n [}', r"dev-v2.0.json:2: not valid JSON"),
        ('{"a": 1, "a": 2}', "stands twice"),
    ):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match=told):
            read_rows(path, columns)


def test_questions_about_one_passage_are_held_out_together() -> None:
    rows = [Row({"question": str(i), "context": f"c{i % 9}", "answers": ["c"]}, i, "t.jsonl") for i in range(60)]
    kept, held = split._hold_out(rows, partial(split._first, 1 / 3), (17, 1), SpanConfig().together)
    assert held and not {row.values["context"] for row in kept} & {row.values["context"] for row in held}


def test_a_recipe_leaves_room_for_the_passage() -> None:
    recipe = {"tokenizer": "t", "model": {"kind": "lstm"}, "task": {"kind": "span", "overlap": 64}, "data": {"train": "x.json"}}
    with pytest.raises(UsageError, match=r"data.length \(128\) is less than .* = 133"):
        validate(FinetuneRecipe, recipe, "recipe")
    tagging = recipe | {"task": {"kind": "tag", "overlap": 126}}
    with pytest.raises(UsageError, match=r"data.length \(128\) is less than 3 \+ task.overlap = 129"):
        validate(FinetuneRecipe, tagging, "recipe")
    recipe["task"] = {"kind": "span", "overlap": "50%"}
    assert validate(FinetuneRecipe, recipe, "recipe").task.model_dump()["overlap"] == "50%"


TRAINING = {"batch": 16, "precision": "fp32", "compile": "off", "device": "cpu"}


def trained(out: Path, tokenizer: Path, data: dict[str, Any], model: dict[str, Any], updates: int = 60, **task: Any) -> Path:
    recipe = {
        "tokenizer": str(tokenizer),
        "model": model,
        "data": {"length": 32, **data},
        "task": {"kind": "span", "question_length": 8, "overlap": 12, **task},
        "optimizer": {"kind": "adamw", "lr": 5e-3},
        "training": {**TRAINING, "updates": updates},
    }
    finetune.finetune(validate(FinetuneRecipe, recipe, "recipe"), out)
    return find_step(out)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def test_the_whole_way(tokenizer_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.json"
    data.write_text(json.dumps(nested(rows_of(300, 3))), encoding="utf-8")
    test = tmp_path / "test.jsonl"
    rows = rows_of(60, 4)
    test.write_text("".join(json.dumps(row.values) + "\n" for row in rows), encoding="utf-8")
    model = {"kind": "bert", "dim": 32, "layers": 2, "heads": 2, "max_length": 64}
    step = trained(tmp_path / "run", tokenizer_dir, {"train": str(data), "dev": 0.1}, model, 80)
    weak = trained(tmp_path / "weak", tokenizer_dir, {"train": str(data), "dev": str(test)}, {"kind": "lstm", "dim": 16}, 2)
    result = evaluate(step, test, "fp32", against=weak)
    assert result["metrics"]["exact_match"] > 60 and result["metrics"]["normalise"] == "english"
    assert result["baselines"]["sentence"]["f1"] < result["metrics"]["f1"]
    assert all(low <= result["metrics"][name] <= high for name, (low, high) in result["intervals"].items())
    assert result["against"]["differences"]["f1"]["p"] < 0.01
    for batch in (1, 7):
        predict(step, test, out=tmp_path / f"{batch}.jsonl", precision="fp32", batch=batch)
    found, other = lines(tmp_path / "1.jsonl"), lines(tmp_path / "7.jsonl")
    for row, one, two in zip(rows, found, other, strict=True):
        assert row.values["context"][one["start"] : one["end"]] == one["answer"]
        assert two == one | {"score": pytest.approx(one["score"], abs=1e-5)}
    right = [official.squad1([row.values["answers"][0]["text"]], one["answer"]) for row, one in zip(rows, found, strict=True)]
    assert (100 * np.mean(right, axis=0)).tolist() == pytest.approx([result["metrics"][n] for n in ("exact_match", "f1")])
    expected = reliability(np.array([one["score"] for one in found]), np.array(right)[:, 0] > 0)
    assert result["calibration"]["expected_error"] == pytest.approx(expected["expected_error"], abs=1e-4)
    asked = [rows[0].values["question"], rows[0].values["context"]]
    predict(step, None, predicted(step, None, asked[:1], asked[1:]), tmp_path / "one.csv", "csv", overwrite=True)
    assert (tmp_path / "one.csv").read_text(encoding="utf-8").startswith("text,text_pair,answer,start,end,score,truncated")
    named = tmp_path / "named.jsonl"
    named.write_text("".join(json.dumps(row.values | {"id": f"q{i}"}) + "\n" for i, row in enumerate(rows[:2])), encoding="utf-8")
    predict(step, named, out=tmp_path / "named.csv", form="csv")
    head, *told = (tmp_path / "named.csv").read_text(encoding="utf-8").splitlines()
    assert head.startswith("id,text,") and [line.split(",")[0] for line in told] == ["q0", "q1"]


def test_questions_without_an_answer(tokenizer_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.json"
    data.write_text(json.dumps(nested(rows_of(300, 5, silent=True))), encoding="utf-8")
    model = {"kind": "bert", "dim": 32, "layers": 2, "heads": 2, "max_length": 64}
    step = trained(tmp_path / "run", tokenizer_dir, {"train": str(data), "dev": 0.2}, model, 80, unanswerable=True)
    result = evaluate(step, data, "fp32")
    dev = [entry["dev"]["f1"] for entry in lines(step.parent / "metrics.jsonl") if "dev" in entry]
    assert dev and result["baselines"]["silence"]["f1"] == pytest.approx(100 / 3)
    assert result["metrics"]["f1"] > 50 and result["metrics"]["has_answer_rows"] == 200
    assert result["metrics"]["f1"] == pytest.approx(
        (2 * result["metrics"]["has_answer_f1"] + result["metrics"]["no_answer_f1"]) / 3
    )
    assert "thresholds.json" in export.run(step, ["hf"], tmp_path / "dist")["files"]
    import_model.run(str(tmp_path / "dist"), tmp_path / "back")
    known, back = open_model(step).learner, open_model(tmp_path / "back").learner
    assert isinstance(known, Span) and isinstance(back, Span)
    assert back.config.unanswerable and torch.equal(known.threshold, back.threshold) and known.threshold


@pytest.mark.parametrize("kind", ["bert", "roberta", "albert", "electra", "modernbert", "gpt", "deberta", "xlnet", "t5", "cnn"])
def test_models_are_handed_over_and_come_back(kind: str, tokenizer_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.json"
    data.write_text(json.dumps(nested(rows_of(20, 6))), encoding="utf-8")
    config = encoder(kind).model_dump(mode="json")
    step = trained(tmp_path / "run", tokenizer_dir, {"train": str(data), "dev": None}, config, 1)
    result = export.run(step, ["hf"], tmp_path / "dist")
    if kind in ("t5", "cnn"):
        assert result["parity"] is None
        return
    assert result["loads_with"] == "AutoModelForQuestionAnswering" and result["parity"]["max_abs_diff"] < 1e-5
    if kind in ("bert", "modernbert"):
        again = import_model.run(str(tmp_path / "dist"), tmp_path / "back")
        assert again["head"] == "span" and not again["unused"]
        known, back = open_model(step).learner, open_model(tmp_path / "back").learner
        assert isinstance(known, Span) and isinstance(back, Span)
        assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in known.state_dict().items())


def test_a_passage_without_a_token_and_several_answers_in_a_table(tokenizer_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "train.json"
    data.write_text(json.dumps(nested(rows_of(20, 6))), encoding="utf-8")
    step = trained(tmp_path / "run", tokenizer_dir, {"train": str(data), "dev": None}, {"kind": "lstm", "dim": 16}, 1)
    asked = tmp_path / "asked.jsonl"
    rows = [{"question": "who", "context": text} for text in ("\u200b", "the film was good")]
    asked.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    predict(step, asked, out=tmp_path / "out.csv", form="csv", top=2)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        none, some = csv.DictReader(file)
    assert none["answer"] == "" and json.loads(none["answers"])[0]["answer"] == ""
    assert json.loads(some["answers"])[0]["answer"] == some["answer"] != ""


@pytest.mark.parametrize("kind", get_args(TokenizerKind))
def test_characters_are_exact_whatever_the_tokenizer(kind: Any) -> None:
    rng = random.Random(0)
    words = [*("北京", "大学", "the", "café", "Straße,", "U.S.", "3.5%", "(1998年)", "😀👩\u200d👩\u200d👧", "ｆｕｌｌ")]
    words += ["don't", "\u3000", "x", "y.", "İstanbul", "한국어", "日本語の"]
    texts = [" ".join(rng.choices(words, k=20)) for _ in range(100)]
    tokenizer = Tokenizer(train(iter(texts), TokenizerConfig(kind=kind, vocab_size=300)).files)
    rows = []
    for i in range(60):
        context = rng.choice((" ", "", "  ", "\n")).join(rng.choices(words, k=rng.randint(3, 30))) + "x"
        start = rng.randrange(len(context))
        text = context[start : start + rng.randint(1, 8)]
        if text.strip():
            answers = [{"text": text, "answer_start": start}]
            rows.append(Row({"question": "who", "context": context, "answers": answers}, i, "t.jsonl"))
    task = span(length=60, answer_length=30, question_length=8, overlap=30)
    examples = task.encode(rows, tokenizer)
    predictions = task.predictions(rows, examples, {"scores": certain(examples, rows)}, None)
    for row, found in zip(rows, predictions, strict=True):
        context, [answer] = row.values["context"], row.values["answers"]
        assert context[found["start"] : found["end"]] == found["answer"] == found["answer"].strip()
        first = answer["answer_start"] + len(answer["text"]) - len(answer["text"].lstrip())
        assert found["start"] <= first and answer["text"].strip() in found["answer"]


def test_chinese_answers_are_known_by_themselves(tokenizer: Tokenizer) -> None:
    row = Row({"question": "谁", "context": "他是（李）白。", "answers": ["李）白"]}, 1, "t.jsonl")
    task = span()
    task.prepare(task.encode([row], tokenizer))
    found = task.score(task.gold([row]), np.array(["李白"], dtype=object))
    assert found == {"exact_match": 100, "f1": 100} and task.details(task.gold([row]), np.array(["x"], dtype=object)) == {
        "normalise": "chinese"
    }
    assert bool(task.state_dict()["chinese"]) and not bool(span(normalise="english").state_dict()["chinese"])
