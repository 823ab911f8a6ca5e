"""A file for each column: a row for each line, whatever the files are called and however they are written."""

import gzip
from pathlib import Path

import pytest

from encoderkit.config import validate
from encoderkit.data.labelled import read_rows
from encoderkit.data.parallel import hash_of
from encoderkit.errors import DataError, UsageError
from encoderkit.preflight import input_file
from encoderkit.recipe import FinetuneRecipe

COLUMNS = ["source", "target"]


def test_lines_of_all_files_are_rows(tmp_path: Path) -> None:
    """Only \\n ends a line: other marks are part of a text, as `wc -l` has it, and an empty line is an empty text."""
    (tmp_path / "train.en").write_bytes(b"\xef\xbb\xbfone\r\ntwo\xe2\x80\xa8lines\x0c\n\nfour\tof it")
    with gzip.open(tmp_path / "train.zh.gz", "wb") as file:
        file.write("一\n二\n三\n四\n".encode("gb18030"))
    given = {"source": str(tmp_path / "train.en"), "target": str(tmp_path / "train.zh.gz")}
    rows = read_rows(given, COLUMNS)
    assert [row.text("source") for row in rows] == ["one", "two\u2028lines\x0c", "", "four\tof it"]
    assert [row.text("target") for row in rows] == ["一", "二", "三", "四"]
    assert [row.line for row in rows] == [1, 2, 3, 4] and rows[2].place == f"{given['source']}, {given['target']}:3"


@pytest.mark.parametrize(("source", "target", "counts"), [("a\nb\nc\n", "a\n", "3 and 1"), ("a\n", "a\n\n", "1 and 2")])
def test_files_of_other_lengths_are_refused(tmp_path: Path, source: str, target: str, counts: str) -> None:
    given = {}
    for name, text in zip(COLUMNS, (source, target), strict=True):
        given[name] = str(tmp_path / f"train.{name}")
        Path(given[name]).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=rf"train\.source, .*train\.target: have {counts} lines") as error:
        read_rows(given, COLUMNS)
    assert error.value.exit_code == 3


def test_what_cannot_be_a_column_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"a\.jsonl: is \.jsonl, and a file for one column has a text a line"):
        read_rows(dict.fromkeys(COLUMNS, str(tmp_path / "a.jsonl")), COLUMNS)
    with pytest.raises(UsageError, match="there are files for source, to, and the columns that are read are source, target"):
        read_rows({"source": "a", "to": "b"}, COLUMNS)


def test_the_hash_is_of_every_file_and_of_what_it_is(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(name, encoding="utf-8")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    by_column = ({"source": a, "target": b}, {"source": b, "target": a}, {"text": a, "label": b})
    hashes = {hash_of(given) for given in (a, b, *by_column)}
    assert len(hashes) == 5 and hash_of({"target": b, "source": a}) in hashes


@pytest.mark.parametrize(
    ("train", "task", "message"),
    [
        ({"en": "a", "de": "b"}, {"kind": "generate"}, "data.train: there are files for en, de, and .* source, target"),
        ({"source": "a"}, {"kind": "generate"}, "data.train: there are files for source, and"),
        ({"tokens": "a"}, {"kind": "tag"}, "data.train: there are files for tokens, and the .* tokens, tags"),
        (["a", "b"], {"kind": "generate"}, r"data\.train: should be a file of rows, or a file for each column: \{source: FILE"),
        ({}, {"kind": "generate"}, r"data\.train: should be a file of rows, or"),
    ],
)
def test_recipes_that_are_refused(train: object, task: dict[str, str], message: str) -> None:
    recipe = {"checkpoint": "runs/mini", "data": {"train": train}, "task": task}
    with pytest.raises(UsageError, match=message):
        validate(FinetuneRecipe, recipe, "recipe")


def test_one_file_of_a_column_needs_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("a\n", encoding="utf-8")
    with pytest.raises(UsageError, match="is one file of a column"):
        input_file(f"en={tmp_path / 'a.en'}")
