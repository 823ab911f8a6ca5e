"""`doctor data`: every fault that was put into a file is found in its line, repaired where that is safe, and nothing else is."""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoderkit.cli import main as cli
from encoderkit.data.labelled import read_rows
from encoderkit.errors import DataError, UsageError
from encoderkit.stages.doctor import describe, doctor, of_files, of_recipe
from encoderkit.text import variants
from encoderkit.text.tokenizers import open_tokenizer

WORDS = [f"the {word} film was {other}" for word in "abcde" for other in "xyz"]
GOOD = [{"text": text, "label": label} for label in ("pos", "neg") for text in WORDS]


def write(path: Path, rows: list[dict[str, Any]], encoding: str = "utf-8") -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(text.encode(encoding))
    return path


def found(
    *paths: Path, tokenizer: Path | None = None, length: int | None = None, **columns: list[str]
) -> dict[tuple[str, str], Any]:
    patient = of_files(paths, columns.get("text", []), columns.get("label", []), tokenizer, length)
    return {(one["check"], Path(one["file"]).name): one for one in doctor(patient)["findings"]}


def rows_of_one_text_each() -> list[dict[str, Any]]:
    return [{**row, "text": f"{row['text']} {row['label']} {i}"} for i, row in enumerate(GOOD)]


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows_of_one_text_each())
    assert found(path) == {}
    assert "nothing was found" in describe(doctor(of_files([path], [], [], None, None)))


def test_each_fault_is_found_in_its_line(tmp_path: Path) -> None:
    rows = rows_of_one_text_each()
    faults: list[dict[str, Any]] = [
        {"text": rows[3]["text"], "label": rows[3]["label"]},  # 31
        {"text": rows[4]["text"].upper() + " ", "label": "neg"},  # 32
        {"text": " ", "label": "pos"},  # 33
        {"text": "lost \ufffd and \u200bunseen", "label": "pos"},  # 34
        {"text": "ＡＢＣ 123 这们", "label": "pos"},  # 35
        {"text": "你好，我们, 走吧", "label": "pos"},  # 36
        {"text": "這個電影還會來嗎", "label": "pos"},  # 37
        {"text": "a rare one", "label": "odd"},  # 38
        {"text": 7, "label": "pos"},  # 39
        {"text": "no label", "label": None},  # 40
    ]
    train = write(tmp_path / "train.jsonl", [*rows, *faults], "gb18030")
    with train.open("ab") as file:
        file.write(b"{broken\n")
    dev = write(tmp_path / "dev.jsonl", [rows[9], {**rows[8], "text": rows[8]["text"] + "!"}, {"text": "new", "label": "other"}])
    result = found(train, dev)
    lines = {check: one["lines"] for (check, name), one in result.items() if name == "train.jsonl"}
    assert lines == {
        "encoding": [],
        "duplicate": [31],
        "conflict": [32],
        "empty": [33],
        "characters": [34],
        "width": [35],
        "marks": [36],
        "script": [37],
        "rare_label": [38],
        "refused": [39, 40, 41],
    }
    assert result["conflict", "train.jsonl"]["others"] == [f"{train}:5"]
    assert result["overlap", "dev.jsonl"]["lines"] == [1] and result["overlap", "dev.jsonl"]["others"] == [f"{train}:10"]
    assert result["near_overlap", "dev.jsonl"]["lines"] == [2]
    assert result["unseen_label", "dev.jsonl"]["lines"] == [3]


@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
def test_copies_are_repaired_and_nothing_else_is_changed(tmp_path: Path, form: str) -> None:
    rows = [('一个，"好" 电影', "1"), ("ＡＢ１ 好,", "2"), ('一个，"好" 电影', "1"), (" ", "1"), ("最后", "2")]
    if form == "jsonl":
        lines = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]
    elif form == "csv":
        lines = ["text,label", *('"' + text.replace('"', '""') + f'",{label}' for text, label in rows)]
    else:
        lines = ["text\tlabel", *("\t".join(row) for row in rows)]
    path = tmp_path / f"a.{form}"
    path.write_bytes("".join(line + "\n" for line in lines).encode("gb18030"))
    before = path.read_bytes()
    first = len(lines) - len(rows)
    kept = [*lines[: first + 2], lines[first + 4]]
    patient = of_files([path], [], [], None, None)
    doctor(patient, tmp_path / "plain")
    assert (tmp_path / "plain" / path.name).read_text(encoding="utf-8") == "".join(line + "\n" for line in kept)
    result = doctor(patient, tmp_path / "narrow", widths=True)
    kept[first + 1] = kept[first + 1].replace("ＡＢ１", "AB1")
    assert (tmp_path / "narrow" / path.name).read_text(encoding="utf-8").replace("\r", "") == "".join(k + "\n" for k in kept)
    assert result["fixed"][0]["dropped"] == {"empty": 1, "duplicate": 1} and result["fixed"][0]["narrowed"] == 1
    assert path.read_bytes() == before
    again = doctor(of_files([tmp_path / "narrow" / path.name], [], [], None, None))
    assert not {one["check"] for one in again["findings"]} & {"encoding", "duplicate", "empty", "width"}
    with pytest.raises(UsageError, match=r"overwritten unasked|would be replaced"):
        doctor(patient, tmp_path)


def test_the_copy_of_what_has_no_line_for_each_row_has_one(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([GOOD[0], GOOD[0], GOOD[-1]], indent=1), encoding="utf-8")
    assert found(path)["duplicate", "a.json"]["lines"] == [2]
    [done] = doctor(of_files([path], [], [], None, None), tmp_path / "out")["fixed"]
    assert done["copy"] == str(tmp_path / "out" / "a.jsonl") and done["aside"] is None
    assert [json.loads(line) for line in (tmp_path / "out" / "a.jsonl").read_text().splitlines()] == [GOOD[0], GOOD[-1]]


@pytest.mark.parametrize("form", ["jsonl", "csv", "json"])
def test_what_training_refuses_is_set_aside(tmp_path: Path, tokenizer_dir: Path, form: str) -> None:
    """With the copy that is left a model can be trained, and no row is gone."""
    rows = [{"text": "a good film", "label": "1"}, {"text": "bad", "label": ""}, {"text": "a bad film", "label": "2"}]
    path = tmp_path / f"a.{form}"
    if form == "csv":
        path.write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows), encoding="utf-8")
    elif form == "json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    else:
        write(path, rows)
        path.write_text(path.read_text(encoding="utf-8") + "{\n", encoding="utf-8")
    [done] = doctor(of_files([path], [], ["label"], None, None), tmp_path / "out")["fixed"]
    last = "jsonl" if form == "json" else form
    assert done["refused"] == 1 + (form == "jsonl") and done["aside"] == str(tmp_path / "out" / f"a.refused.{last}")
    kept, aside = ((tmp_path / "out" / f"a{part}.{last}").read_text(encoding="utf-8").split("\n") for part in ("", ".refused"))
    assert kept[0] == aside[0] if form == "csv" else kept[0] != aside[0]
    assert len(kept) == 3 + (form == "csv") and len(aside) == 2 + (form == "csv") + (form == "jsonl")
    again = doctor(of_files([Path(done["copy"])], [], ["label"], None, None))["findings"]
    assert not {one["check"] for one in again} & {"refused", "empty"}


def test_answers_that_training_refuses_are_set_aside(tmp_path: Path, tokenizer_dir: Path) -> None:
    """Where none of the answers stands in the passage; a space too many is no such thing."""
    rows = [{"question": "q", "context": "a b c", "answers": answers} for answers in (["b "], ["d"], ["d", "c"])]
    task = {"kind": "span", "question_length": 8, "overlap": 8}
    path = recipe(tmp_path / "r.yaml", tokenizer_dir, write(tmp_path / "a.jsonl", rows), task)
    [done] = doctor(of_recipe(path), tmp_path / "out")["fixed"]
    aside = Path(done["aside"]).read_text(encoding="utf-8").splitlines()
    assert done["refused"] == 1 and [json.loads(line) for line in aside] == [rows[1]]


def test_all_columns_of_parquet_are_kept(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = [{"text": f"row {i // 2}", "category": "ab"[i % 2], "id": i} for i in range(20)] + [
        {"text": " ", "category": "a", "id": 20}
    ]
    parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows), tmp_path / "a.parquet")
    [fixed] = doctor(of_files([tmp_path / "a.parquet"], [], [], None, None), tmp_path / "out")["fixed"]
    assert fixed["dropped"] == {"empty": 1, "duplicate": 0}
    copy = (tmp_path / "out" / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in copy] == rows[:-1]
    more = {"day": [date(2026, 1, 2)] * 2, "share": [0.5, float("nan")], "raw": [b"x"] * 2}
    for columns in (["day", "share"], ["raw"]):
        table = {"text": ["a", "b"], **{name: more[name] for name in columns}}
        parquet.write_table(pytest.importorskip("pyarrow").table(table), tmp_path / f"{columns[0]}.parquet")
    doctor(of_files([tmp_path / "day.parquet"], [], [], None, None), tmp_path / "days")
    copied = [json.loads(line) for line in (tmp_path / "days" / "day.jsonl").read_text(encoding="utf-8").splitlines()]
    assert copied[0] == {"text": "a", "day": "2026-01-02", "share": 0.5} and copied[1]["share"] is None
    with pytest.raises(UsageError, match=r"holds bytes, as of pictures, and copies are \.jsonl"):
        doctor(of_files([tmp_path / "raw.parquet"], [], [], None, None), tmp_path / "raw")


def test_held_out_rows_of_a_label_that_is_not_trained_on_are_set_aside(tmp_path: Path, tokenizer_dir: Path) -> None:
    train, dev = write(tmp_path / "a.jsonl", GOOD), write(tmp_path / "b.jsonl", [{"text": "new", "label": "zz"}, GOOD[0]])
    patient = of_recipe(recipe(tmp_path / "r.yaml", tokenizer_dir, train, {"kind": "classify"}, dev))
    fixed = doctor(patient, tmp_path / "out")["fixed"]
    assert [one["refused"] for one in fixed] == [0, 1]
    assert json.loads((tmp_path / "out" / "b.refused.jsonl").read_text(encoding="utf-8"))["label"] == "zz"


def test_two_files_of_one_name(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, [GOOD[0]]) for name in ("a.jsonl", "a.refused.jsonl")]
    with pytest.raises(UsageError, match=r"two of the files would be .*a\.refused\.jsonl"):
        doctor(of_files(paths, [], [], None, None), tmp_path / "out")


def test_marks_between_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text;label\ngood;pos\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r'has ";" between its columns, and \.csv has commas'):
        doctor(of_files([tmp_path / "a.csv"], ["text"], ["label"], None, None))


def test_a_file_without_rows_is_copied_as_it_is(tmp_path: Path) -> None:
    train, empty = write(tmp_path / "a.jsonl", [GOOD[0], GOOD[0], GOOD[-1]]), write(tmp_path / "b.jsonl", [])
    fixed = doctor(of_files([train, empty], [], [], None, None), tmp_path / "out")["fixed"]
    assert [one["dropped"]["duplicate"] for one in fixed] == [1, 0]
    assert (tmp_path / "out" / "b.jsonl").read_text(encoding="utf-8") == ""


def test_columns_of_conll_in_a_txt_of_a_recipe_of_tags(tmp_path: Path, tokenizer_dir: Path) -> None:
    rows = "".join(f"{word} {tag}\n" for word, tag in (("Ada", "B-PER"), ("wrote", "O"))) + "\n"
    (tmp_path / "train.txt").write_text(rows * 3, encoding="utf-8")
    recipe = tmp_path / "tag.yaml"
    start = f"tokenizer: {tokenizer_dir}\nmodel: {{kind: lstm, dim: 32}}\ntask: {{kind: tag}}\n"
    recipe.write_text(f"{start}data: {{train: {tmp_path / 'train.txt'}, dev: 30%, length: 16}}\n", encoding="utf-8")
    result = doctor(of_recipe(recipe))
    assert result["files"][0]["rows"] == 3 and "duplicate" in {one["check"] for one in result["findings"]}


def test_rows_are_equal_in_all_columns_where_no_label_is_named(tmp_path: Path) -> None:
    rows = [{"text": "ok", "sentiment": "pos"}, {"text": "ok", "sentiment": "neg"}, {"text": "ok", "sentiment": "pos"}]
    assert found(write(tmp_path / "a.jsonl", rows))["duplicate", "a.jsonl"]["lines"] == [3]
    later = [{"text": "a"}, {"text": "b", "label": "x"}, {"text": "c", "label": "x"}]  # a label that the first row lacks
    assert found(write(tmp_path / "b.jsonl", later))["refused", "b.jsonl"]["lines"] == [1]


def test_columns_that_are_no_flags_are_answers_of_their_own(tmp_path: Path) -> None:
    """Without a recipe two columns may be flags of labels, or scores and groups."""
    rows = [
        {"text": "ok", "a": "sport", "b": "pos"},
        {"text": "ok", "a": "art", "b": "neg"},
        {"text": "ok", "a": "art", "b": "neg"},
    ]
    told = found(write(tmp_path / "a.jsonl", rows), text=["text"], label=["a", "b"])
    assert told["duplicate", "a.jsonl"]["lines"] == [3] and told["conflict", "a.jsonl"]["lines"] == [2, 3]
    flags = [{"text": "ok", "a": 1, "b": 0}, {"text": "ok", "a": 0, "b": 0}]
    told = found(write(tmp_path / "b.jsonl", flags), text=["text"], label=["a", "b"])
    assert told["conflict", "b.jsonl"]["lines"] == [2]


def test_fields_of_several_lines_stay_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"ＡＢ１２\nsecond line",x\nabc,y\nabc,y\n,y\n', encoding="utf-8")
    [done] = doctor(of_files([path], ["text"], ["label"], None, None), tmp_path / "out", widths=True)["fixed"]
    copied = [(row.values["text"], row.values["label"]) for row in read_rows(str(tmp_path / "out" / "a.csv"), ["text", "label"])]
    assert copied == [("AB12\nsecond line", "x"), ("abc", "y")]
    assert done["dropped"] == {"empty": 1, "duplicate": 1} and done["narrowed"] == 1


def test_a_replacement_character_may_be_meant_and_every_mark_goes(tmp_path: Path) -> None:
    rows = [{"text": f"odd \ufffd {i}", "label": row["label"]} for i, row in enumerate(GOOD)]
    for encoding in ("utf-8-sig", "utf-16", "gb18030"):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path = tmp_path / f"{encoding}.jsonl"
        path.write_bytes((text if encoding != "gb18030" else "\ufeff" + text).encode(encoding))
        told = found(path)
        assert ("bytes", path.name) not in told and ("refused", path.name) not in told, encoding
        doctor(of_files([path], [], [], None, None), tmp_path / f"{encoding}.out")
        assert len(read_rows(str(tmp_path / f"{encoding}.out" / path.name), ["text"])) == len(rows)


def test_a_damaged_byte_makes_no_chinese_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = "".join(f'{{"text": "Müller läßt grüßen {i}", "label": "x"}}\n' for i in range(5))
    path.write_bytes(good.encode() + b'{"text": "Gr\xf6\xdfe", "label": "y"}\n')
    assert found(path)["bytes", "a.jsonl"]["lines"] == [6]
    with pytest.raises(UsageError, match="nobody can put back"):
        doctor(of_files([path], [], [], None, None), tmp_path / "out")


def test_a_mark_within_a_file_is_refused_as_in_training(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows_of_one_text_each())
    with path.open("ab") as file:
        file.write("\ufeff".encode() + b'{"text": "joined", "label": "pos"}\n')
    assert found(path)["refused", "a.jsonl"]["lines"] == [len(GOOD) + 1]
    with pytest.raises(DataError, match="not valid JSON"):
        list(read_rows(str(path), ["text", "label"]))


def test_texts_of_a_recipe_are_what_training_takes_for_them(tmp_path: Path, tokenizer_dir: Path) -> None:
    """A list is none for a classifier; the negative of a pair is one, and no label."""
    start = f"tokenizer: {tokenizer_dir}\nmodel: {{kind: lstm, dim: 32}}\n"
    recipe = tmp_path / "r.yaml"
    data = f"data: {{train: {write(tmp_path / 'a.jsonl', [{'text': ['a', 'b'], 'label': 'x'}, *GOOD])}, dev: 30%}}\n"
    recipe.write_text(start + data, encoding="utf-8")
    assert {one["check"]: one["lines"] for one in doctor(of_recipe(recipe))["findings"]}["refused"] == [1]
    rows = [{"text": "who", "text_pair": "he", "other": name} for name in ("she", "it", " ")]
    task = "task: {kind: similarity, loss: contrastive, label: null, negative: other}\n"
    recipe.write_text(start + task + f"data: {{train: {write(tmp_path / 'b.jsonl', rows)}, dev: 30%}}\n", encoding="utf-8")
    findings = {one["check"]: one["lines"] for one in doctor(of_recipe(recipe))["findings"]}
    assert "conflict" not in findings and "duplicate" not in findings


def test_answers_that_do_not_stand_where_they_should(tmp_path: Path, tokenizer_dir: Path) -> None:
    context = "Ada wrote it in May, and May was warm."
    answers: list[Any] = [
        {"text": ["Ada"], "answer_start": [0]},
        {"text": ["Bob"], "answer_start": [0]},  # 2
        {"text": ["May"], "answer_start": [3]},  # 3
        {"text": ["May"], "answer_start": [16, 25]},  # 4
        "in June",  # 5
        7,  # 6
    ]
    rows = [{"question": f"who {i}", "context": context, "answers": answer} for i, answer in enumerate(answers)]
    recipe = tmp_path / "span.yaml"
    start = f"tokenizer: {tokenizer_dir}\nmodel: {{kind: lstm, dim: 32}}\ntask: {{kind: span}}\n"
    recipe.write_text(f"{start}data: {{train: {write(tmp_path / 'a.jsonl', rows)}, dev: 30%}}\n", encoding="utf-8")
    findings = {one["check"]: one["lines"] for one in doctor(of_recipe(recipe))["findings"]}
    assert (findings["answer_absent"], findings["answer_moved"], findings["refused"]) == ([2, 5], [3], [4, 6])


@pytest.mark.parametrize(
    ("task", "good", "bad", "why"),
    [
        ("span", {"question": "q", "context": "a b", "answers": ["b"]}, {"answers": []}, "the question has no answer"),
        ("span", {"question": "q", "context": "a b", "answers": ["b"]}, {"context": " "}, "an answer is a part of it"),
        ("choice", {"text": "q", "options": ["a", "b"], "label": 1}, {"label": 2}, "should name one of the options"),
        ("choice", {"text": "q", "options": ["a", "b"], "label": 1}, {"options": ["a"]}, "two options or more, found 1"),
        ("rerank", {"query": "q", "candidate": "a", "label": 1}, {"label": -1}, "0 or more, found -1"),
        ("regress", {"text": "q", "label": 1}, {"label": True}, "should be a number"),
        ("similarity", {"a": "q", "b": "p", "label": 1}, {"label": 1e300}, "should be a number from"),
    ],
)
def test_what_training_refuses(
    task: str, good: dict[str, Any], bad: dict[str, Any], why: str, tmp_path: Path, tokenizer_dir: Path
) -> None:
    """The same rule, and the same words, as in the task itself."""
    texts = [name for name in good if name not in ("label", "answers", "options")]
    own = {
        "span": {"question": "question", "context": "context", "answers": "answers"},
        "choice": {"text": "text", "options": "options", "label": "label"},
        "rerank": {"text": texts, "label": "label"},
        "regress": {"text": "text", "label": "label"},
        "similarity": {"text": texts, "label": "label", "loss": "cosent"},
    }[task]
    data = write(tmp_path / "a.jsonl", [good, good | bad, good])
    described = {"tokenizer": str(tokenizer_dir), "model": {"kind": "lstm"}, "data": {"train": str(data)}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(described | {"task": {"kind": task, **own}}), encoding="utf-8")
    (refused,) = [one for one in doctor(of_recipe(recipe))["findings"] if one["check"] == "refused"]
    assert refused["lines"] == [2] and why in refused["message"]


def test_lengths_unknown_characters_and_spans(tmp_path: Path, tokenizer_dir: Path) -> None:
    tokenizer = open_tokenizer(tokenizer_dir)
    texts = ["the film was good", "the film was good and the house was bad and the day was warm", "the 画 was good"]
    spans = [[[4, 8, "THING"]], [{"start": 5, "end": 8, "label": "THING"}], [[4, 5, "THING"]]]
    path = write(tmp_path / "a.jsonl", [{"text": t, "entities": s} for t, s in zip(texts, spans, strict=True)])
    result = found(path, tokenizer=tokenizer_dir, length=12, label=["entities"])
    lengths = np.diff(tokenizer.encode(texts).offsets) + 2
    assert result["long", "a.jsonl"]["lines"] == [i + 1 for i, size in enumerate(lengths) if size > 12] == [2]
    assert result["unknown", "a.jsonl"]["lines"] == [3] and '"画" 1' in result["unknown", "a.jsonl"]["message"]
    assert result["inside_piece", "a.jsonl"]["lines"] == [2]  # "ilm" of the piece "film"
    facts = doctor(of_files([path], [], ["entities"], tokenizer_dir, None))["files"][0]["length"]
    assert facts["mean"] == pytest.approx(lengths.mean(), abs=0.05) and facts["most"] == lengths.max()
    wrong = write(tmp_path / "b.jsonl", [{"text": "abc", "entities": [[1, 9, "X"]]}, {"text": "abc", "entities": []}])
    assert found(wrong, label=["entities"])["refused", "b.jsonl"]["lines"] == [1]


def test_tokens_inside_a_piece(tmp_path: Path, tokenizer_dir: Path) -> None:
    rows = [
        {"tokens": ["the", "film"], "tags": ["O", "B-X"]},
        {"tokens": [*" film"], "tags": [*"OOOOO"]},
        {"tokens": ["a"], "tags": []},
    ]
    result = found(write(tmp_path / "a.jsonl", rows), tokenizer=tokenizer_dir, text=["tokens"], label=["tags"])
    assert result["inside_piece", "a.jsonl"]["lines"] == [2] and result["refused", "a.jsonl"]["lines"] == [3]


def recipe(path: Path, tokenizer: Path, data: Path, task: dict[str, Any], dev: Path | None = None) -> Path:
    described = {
        "model": {"kind": "lstm", "dim": 8},
        "tokenizer": str(tokenizer),
        "data": {"train": str(data), "dev": None if dev is None else str(dev), "length": 32},
        "task": task,
        "training": {"updates": 1},
    }
    path.write_text(json.dumps(described), encoding="utf-8")
    return path


def of(path: Path) -> dict[str, Any]:
    return {one["check"]: one for one in doctor(of_recipe(path))["findings"]}


def test_tags_that_are_written_with_spaces_between(tmp_path: Path, tokenizer_dir: Path) -> None:
    """As training reads them: each is one, and there are as many as tokens."""
    rows = [{"words": f"in {place}", "tags": "O B-LOC"} for place in ("Rome", "Bonn", "Wien", "Oslo", "Bern", "Riga")]
    data = write(tmp_path / "a.jsonl", [*rows, {"words": "to Paris now", "tags": "O B-LOC"}])
    task = {"kind": "tag", "text": None, "spans": None, "tokens": "words", "tags": "tags"}
    found = of(recipe(tmp_path / "r.yaml", tokenizer_dir, data, task))
    assert "rare_label" not in found and "unseen_label" not in found
    assert found["refused"]["lines"] == [7] and '"tags" 2;' in found["refused"]["message"]


def test_pairs_are_shared_whatever_was_a_negative_to_them(tmp_path: Path, tokenizer_dir: Path) -> None:
    pairs = [{"q": f"who wrote the book number {i}", "d": f"it was written by author {i}"} for i in range(6)]
    train = write(tmp_path / "a.jsonl", [{**pair, "n": "it was not written"} for pair in pairs])
    task = {"kind": "similarity", "text": ["q", "d"], "negative": "n"}
    for dev in (pairs[:2], [{**pair, "n": "by nobody"} for pair in pairs[:2]]):
        path = recipe(tmp_path / "r.yaml", tokenizer_dir, train, task, dev=write(tmp_path / "b.jsonl", dev))
        assert of(path)["overlap"]["rows"] == 2


def test_tags_of_no_scheme_are_told_as_training_tells_them(tmp_path: Path, tokenizer_dir: Path) -> None:
    rows: list[dict[str, Any]] = [{"tokens": ["in", place], "tags": ["O", "B-LOC"]} for place in ("Rome", "Bonn", "Wien")]
    data = write(tmp_path / "a.jsonl", [*rows, {"tokens": ["in", "Bern"], "tags": ["O", "LOC"]}])
    found = of(recipe(tmp_path / "r.yaml", tokenizer_dir, data, {"kind": "tag"}))
    assert found["refused"]["lines"] == [4] and "LOC" in found["refused"]["message"]
    plain = write(tmp_path / "b.jsonl", [{"tokens": ["in", place], "tags": ["ADP", "NOUN"]} for place in ("Rome", "Bonn")])
    assert "refused" not in of(recipe(tmp_path / "s.yaml", tokenizer_dir, plain, {"kind": "tag"}))


def test_no_entities_and_labels_in_another_order_are_no_fault(tmp_path: Path, tokenizer_dir: Path) -> None:
    rows = [{"text": f"no place {i}", "spans": {"entities": []}} for i in range(5)]
    rows += [{"text": f"in Rome {i}", "spans": {"entities": [[3, 7, "LOC"]]}} for i in range(5)]
    task = {"kind": "tag", "text": "text", "spans": "spans"}
    assert "refused" not in of(recipe(tmp_path / "r.yaml", tokenizer_dir, write(tmp_path / "a.jsonl", rows), task))
    both = [{"text": "the film was good", "label": ["a", "b"]}, {"text": "the film was good", "label": ["b", "a"]}]
    found = of(recipe(tmp_path / "s.yaml", tokenizer_dir, write(tmp_path / "b.jsonl", both), {"multiple": True}))
    assert "conflict" not in found and found["duplicate"]["lines"] == [2]


def test_rows_of_which_nothing_can_be_learnt(tmp_path: Path, tokenizer_dir: Path) -> None:
    same = write(tmp_path / "a.jsonl", [{"text": f"film {i}", "label": "good"} for i in range(6)])
    one = of(recipe(tmp_path / "r.yaml", tokenizer_dir, same, {}))["one_label"]
    assert one["rows"] == 6 and "nothing to learn" in one["message"]
    none = write(tmp_path / "b.jsonl", [{"tokens": ["in", "Rome"], "tags": ["O", "O"]} for _ in range(6)])
    assert "no_entity" in of(recipe(tmp_path / "s.yaml", tokenizer_dir, none, {"kind": "tag"}))
    wrong = write(tmp_path / "c.jsonl", [{"text": f"film {i}", "label": {"good": 0.5}} for i in range(2)])
    assert "should be a label" in of(recipe(tmp_path / "t.yaml", tokenizer_dir, wrong, {}))["refused"]["message"]


def test_a_recipe_whose_columns_are_not_there_says_how_to_name_others(tmp_path: Path, tokenizer_dir: Path) -> None:
    data = write(tmp_path / "a.jsonl", [{"sentence": "a film", "entities": []}])
    with pytest.raises(UsageError) as caught:
        doctor(of_recipe(recipe(tmp_path / "r.yaml", tokenizer_dir, data, {"text": "text"})))
    assert caught.value.fix == "--set task.text=NAME"
    with pytest.raises(UsageError) as caught:
        doctor(of_recipe(recipe(tmp_path / "s.yaml", tokenizer_dir, data, {"kind": "tag"})))
    assert caught.value.fix is not None
    asked = [word for word in caught.value.fix.split(" of texts with entities, ")[1].split() if word != "--set"]
    named = [word.replace("text=NAME", "text=sentence").replace("spans=NAME", "spans=entities") for word in asked]
    assert not any(one["check"] == "refused" for one in doctor(of_recipe(tmp_path / "s.yaml", named))["findings"])


def test_what_is_to_be_written_is_looked_at_too(tmp_path: Path, tokenizer_dir: Path) -> None:
    rows = [{"a": "good film", "b": "the film was good"}, {"a": "bad day", "b": "\u2603 " + "the day was bad. " * 9}]
    task = {"kind": "generate", "source": "a", "target": "b", "target_length": 16}
    found = of(recipe(tmp_path / "r.yaml", tokenizer_dir, write(tmp_path / "a.jsonl", rows), task))
    assert found["target_long"]["lines"] == [2] and found["target_unknown"]["lines"] == [2] and "long" not in found


def test_answers_go_on_to_stand_where_they_did(tmp_path: Path, tokenizer_dir: Path) -> None:
    """What is narrowed in a passage is narrowed in its answers, and what becomes of a text in the text."""
    answer = {"text": "Ａ１", "answer_start": 4}
    task = {"kind": "span", "question": "q", "context": "p", "answers": "answers", "question_length": 8, "overlap": 8}
    spans = write(tmp_path / "a.jsonl", [{"q": "which?", "p": "the Ａ１ film A1", "answers": [answer]}])
    doctor(of_recipe(recipe(tmp_path / "r.yaml", tokenizer_dir, spans, task)), tmp_path / "fixed", widths=True)
    [row] = [json.loads(line) for line in (tmp_path / "fixed/a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert row == {"q": "which?", "p": "the A1 film A1", "answers": [{"text": "A1", "answer_start": 4}]}
    pairs = write(tmp_path / "b.jsonl", [{"a": "A1", "b": "Ｂ２"}, {"a": "Ａ１", "b": "B2"}])
    task = {"kind": "generate", "source": "a", "target": "b"}
    doctor(of_recipe(recipe(tmp_path / "s.yaml", tokenizer_dir, pairs, task)), tmp_path / "both", widths=True)
    assert (tmp_path / "both/b.jsonl").read_text(encoding="utf-8") == '{"a": "A1", "b": "B2"}\n'  # which are equal now


def test_answers_inside_a_piece(tmp_path: Path, tokenizer_dir: Path) -> None:
    task = {"kind": "span", "question": "q", "context": "p", "answers": "answers", "question_length": 8, "overlap": 8}
    rows = [{"q": "how?", "p": "the film was good", "answers": [{"text": text, "answer_start": at}]}
            for text, at in (("good", 13), ("ood", 14))]  # fmt: skip
    found = of(recipe(tmp_path / "r.yaml", tokenizer_dir, write(tmp_path / "a.jsonl", rows), task))
    assert found["inside_piece"]["lines"] == [2]


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"text": "好", "label": 1}\n'.encode() + b'{"text": "\xff\xfe\x80", "label": 1}\n')
    assert found(path)["bytes", "a.jsonl"]["lines"] == [2]
    with pytest.raises(UsageError, match="nobody can put back"):
        doctor(of_files([path], [], [], None, None), tmp_path / "out")
    path.write_bytes('{"text": "好", "label": 1}\n'.encode("utf-16"))
    assert "UTF-16" in found(path)["encoding", "a.jsonl"]["message"]
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match="holds no row"):
        found(path)


def test_a_recipe_and_the_exit_code(
    tmp_path: Path,
    tokenizer_dir: Path,
    labelled: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.yaml"
    data = f"{{train: {labelled['train']}, dev: {labelled['dev']}, length: 12}}"
    recipe.write_text(f"tokenizer: {tokenizer_dir}\nmodel: {{kind: lstm, dim: 8}}\ndata: {data}\ntask: {{kind: classify}}\n")
    patient = of_recipe(recipe)
    assert patient.layout.texts == ["text"] and patient.layout.labels == ["label"] and patient.layout.length == 12

    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["encoderkit", "doctor", "data", *arguments, "--json"])
        code = cli.run()
        out = capsys.readouterr().out
        return code, json.loads(out) if out else {}

    code, result = run(str(recipe))
    assert code == 0 and {"long", "overlap"} <= {one["check"] for one in result["findings"]}
    assert run(str(recipe), "--strict") == (4, result)
    assert run(str(labelled["train"]), "--text", "words")[0] == 2
    assert run(str(labelled["train"]), "--fix")[0] == 2
    clean = write(tmp_path / "clean.jsonl", rows_of_one_text_each())
    assert run(str(clean), "--strict")[0] == 0


def test_scores_are_no_rare_labels(tmp_path: Path) -> None:
    rows = [{"first": f"{i} a", "second": f"{i} b", "score": i / 2} for i in range(6)]
    path = write(tmp_path / "a.jsonl", [*rows, {**rows[2], "second": ""}, {"first": "", "second": " ", "score": 1}])
    assert found(path, text=["first", "second"], label=["score"])["empty", "a.jsonl"]["lines"] == [7, 8]
    done = doctor(of_files([path], ["first", "second"], ["score"], None, None), tmp_path / "out")
    assert done["fixed"][0]["dropped"] == {"empty": 1, "duplicate": 0}  # one text of a pair may be empty for a reason
    assert [one["check"] for one in done["findings"]] == ["empty"]


def test_scripts_and_widths() -> None:
    assert variants.script("我们在学习") == "simplified" and variants.script("我們為學習") == "traditional"
    assert variants.script("我们在學習") == "both"
    assert variants.script("床前明月光") is None and variants.script("国の電車") is None and variants.script("plain") is None
    assert variants.narrowed("Ａｚ９，。") == "Az9，。" and variants.wide("Ａ") and not variants.wide("，A")


def test_labels_that_differ_in_case_alone_are_told(tmp_path: Path) -> None:
    rows = rows_of_one_text_each()
    rows[5]["label"] = rows[5]["label"].upper()
    one = found(write(tmp_path / "a.jsonl", rows))["cased_label", "a.jsonl"]
    assert one["lines"] == [6] and "differ in case and spaces alone" in one["message"]


def test_entities_that_overlap_and_texts_in_quotes(tmp_path: Path) -> None:
    rows = [{"text": "Ada in May", "label": spans} for spans in ([[0, 3, "A"], [7, 10, "B"]], [[0, 6, "A"], [4, 6, "B"]])]
    findings = doctor(of_files([write(tmp_path / "a.jsonl", rows)], [], [], None, None))["findings"]
    assert {one["check"]: one["lines"] for one in findings}["overlapping"] == [2]
    (tmp_path / "b.tsv").write_text('text\tlabel\na "good" film\t1\n"a ""good"" film"\t2\n', encoding="utf-8")
    findings = doctor(of_files([tmp_path / "b.tsv"], [], [], None, None))["findings"]
    assert {one["check"]: one["lines"] for one in findings}["quotes"] == [3]


def test_columns_of_tokens_need_no_names(tmp_path: Path) -> None:
    """Comments of CoNLL-U are no tokens."""
    (tmp_path / "a.conll").write_text("# sent_id = 1\n# text = Ada\nAda\tB-PER\n# \tO\n\nwrote\tO\n", encoding="utf-8")
    result = doctor(of_files([tmp_path / "a.conll"], [], [], None, None))
    assert result["files"][0]["rows"] == 2 and not {one["check"] for one in result["findings"]} & {"refused"}
