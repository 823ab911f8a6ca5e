"""`predict`: row i of the output is row i of the input, in every format."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from encoderkit.cli.app import named_as_written
from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, UsageError
from encoderkit.inference import open_model
from encoderkit.preflight import find_step, predicted
from encoderkit.stages import predict as stage
from encoderkit.stages.predict import predict
from encoderkit.tasks.classify import Classify

TEXTS = ["the film was good", "", 'the day was sad, "very"', "天气\u2028不错", "the house was dull and " * 12, "\tfine"]


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "in.txt"
    path.write_text("".join(text + "\n" for text in TEXTS), encoding="utf-8")
    return path


def test_a_file_without_rows_is_refused(classifier_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.txt: holds no row"):
        predict(find_step(classifier_dir), tmp_path / "empty.txt", out=tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@pytest.mark.parametrize("end", ["tsv", "json", "parquet", "{}.gz"])
def test_what_is_written_is_not_called_otherwise(form: str, end: str) -> None:
    name = f"p.{end.format(form)}"
    with pytest.raises(UsageError, match=f"is called .{name.split('.')[-1]}, and what is written is") as error:
        named_as_written(Path(name), form, "--out")
    assert error.value.fix == f"--out p.{form}"
    named_as_written(Path(f"p.{form}"), form, "--out")
    named_as_written(Path("p"), form, "--out")


@pytest.mark.parametrize("window", [1, 4, 4096])
def test_every_row_in_order(classifier_dir: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    monkeypatch.setattr(stage, "WINDOW", window)
    step, out = find_step(classifier_dir), text_file.with_name("out.jsonl")
    account = predict(step, text_file, out=out, precision="fp32")
    found = _read(out)
    assert [row["text"] for row in found] == TEXTS
    assert [row["truncated"] for row in found] == [False, False, False, False, True, False]
    assert (account.rows, account.empty, account.truncated) == (6, 1, 1)
    for row, text in zip(found, TEXTS, strict=True):
        one = out.with_name("one.jsonl")
        predict(step, None, [[text]], one, precision="fp32", overwrite=True)
        [alone] = _read(one)
        assert alone["scores"] == pytest.approx(row["scores"], abs=1e-5)
        assert row["label"] == max(row["scores"], key=row["scores"].__getitem__)
        assert sum(row["scores"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
def test_columns_of_tables(classifier_dir: Path, tmp_path: Path, suffix: str) -> None:
    source, out = tmp_path / f"in.{suffix}", tmp_path / "out.jsonl"
    texts = ["the film was good", "a, b", ""]
    with open(source, "w", encoding="utf-8", newline="") as file:
        if suffix == "jsonl":
            file.writelines(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts))
        else:
            csv.writer(file, delimiter="," if suffix == "csv" else "\t").writerows([["id", "text"], *enumerate(texts)])
    predict(find_step(classifier_dir), source, out=out)
    assert [row["text"] for row in _read(out)] == texts
    with pytest.raises(DataError, match=r'no column "body"; the columns are "id", "text"'):
        predict(find_step(classifier_dir), source, out=out, columns=["body"], overwrite=True)
    assert [row["text"] for row in _read(out)] == texts  # what was there before is untouched


def test_csv_is_read_back(classifier_dir: Path, text_file: Path) -> None:
    out = text_file.with_name("out.csv")
    predict(find_step(classifier_dir), text_file, out=out, form="csv", top=1)
    rows = list(csv.reader(io.StringIO(out.read_bytes().decode(), newline="")))
    assert rows[0] == ["text", "label", "truncated", "score:negative", "score:positive"]
    assert [row[0] for row in rows[1:]] == TEXTS
    assert all((row[3] == "") != (row[4] == "") for row in rows[1:])
    for row in rows[1:]:  # the likeliest is told, and it is the label
        told = {"negative": row[3], "positive": row[4]}
        assert float(told[row[1]]) >= 0.5


def test_pairs_with_several_labels(pairs_dir: Path, pairs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    predict(find_step(pairs_dir), pairs["dev"], out=out)
    rows = _read(out)
    assert [(row["text"], row["text_pair"]) for row in rows] == [(row["first"], row["second"]) for row in _read(pairs["dev"])]
    task = open_model(find_step(pairs_dir)).learner
    assert isinstance(task, Classify) and task.tuned().keys() == {"first", "second"}
    for row in rows:
        assert row["labels"] == [label for label, score in row["scores"].items() if score > task.tuned()[label]]
    predict(find_step(pairs_dir), pairs["dev"], out=tmp_path / "out.csv", form="csv")
    first = next(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_bytes().decode(), newline="")))
    assert Row(first, 1, "out.csv").labels("labels") == rows[0]["labels"], "as it is read, to train on it"
    (tmp_path / "in.txt").write_text("a\n", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot hold a pair"):
        predict(find_step(pairs_dir), tmp_path / "in.txt", out=out, overwrite=True)


def test_texts_on_the_command_line_are_checked(classifier_dir: Path, pairs_dir: Path) -> None:
    single, pair = find_step(classifier_dir), find_step(pairs_dir)
    assert predicted(single, None, ["a", "b"], []) == [["a"], ["b"]]
    assert predicted(pair, None, ["a"], ["b"]) == [["a", "b"]]
    for step, source, texts, others in (
        (single, None, [], []),
        (single, Path("x.txt"), ["a"], []),
        (single, None, ["a"], ["b"]),
        (single, None, ["\udcff"], []),
        (pair, None, ["a"], []),
        (pair, None, ["a", "b"], ["c"]),
        (single, Path("not-there.txt"), [], []),
    ):
        with pytest.raises(UsageError):
            predicted(step, source, texts, others)


def test_too_many_scores(classifier_dir: Path) -> None:
    with pytest.raises(UsageError, match="between 1 and 2"):
        predict(find_step(classifier_dir), None, [["a"]], top=3)


def test_a_pretrained_model_fills_blanks(pretrained_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    predict(find_step(pretrained_dir), None, [["the [MASK] was [MASK]"]], out, top=2)
    [row] = _read(out)
    assert [guess["mask"] for guess in row["predictions"]] == [1, 1, 2, 2]
    with pytest.raises(UsageError, match="this text has none"):
        predict(find_step(pretrained_dir), None, [["the film"]], out, overwrite=True)
    source = tmp_path / "rows.txt"
    source.write_text("the [MASK]\nthe film\n")
    with pytest.raises(DataError, match="this text has none") as refused:
        predict(find_step(pretrained_dir), source, out=out, overwrite=True)
    assert refused.value.where == f"{source}:2" and len(_read(out)) == 1  # told before anything is written
    source.write_text("the [MASK]\n" + "the film " * 40 + "[MASK]\n")
    with pytest.raises(DataError, match="stands beyond the 32 tokens") as refused:
        predict(find_step(pretrained_dir), source, out=out, overwrite=True)
    assert refused.value.where == f"{source}:2" and len(_read(out)) == 1


def test_standard_input_and_a_reader_that_leaves(pairs_dir: Path) -> None:
    command = [sys.executable, "-m", "encoderkit", "predict", str(pairs_dir), "-", "--precision", "fp32"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b'{"first": "good", "second": "bad"}\n' * 5000)
        process.stdin.close()
        first = json.loads(process.stdout.readline())
        process.stdout.close()
        said = process.stderr.read().decode()
    assert first["text"] == "good" and process.returncode == 0
    assert "Traceback" not in said and "Broken" not in said
