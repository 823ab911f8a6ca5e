"""Columns by number: of files in which no line names them, whose first line is a row."""

import os
from pathlib import Path

import pytest

from encoderkit.data.config import CorpusConfig
from encoderkit.data.corpus import Account, read_documents
from encoderkit.data.labelled import read_rows
from encoderkit.data.unlabelled import open_texts
from encoderkit.errors import DataError, UsageError

ROWS = [("pos", "a good film"), ("neg", 'a "bad" one, \u3000really'), ("pos", "again")]
FORMS = {
    "a.tsv": 'pos\ta good film\nneg\ta "bad" one, \u3000really\n\npos\tagain\n',
    "a.csv": 'pos,a good film\nneg,"a ""bad"" one, \u3000really"\npos,again\n',
    "tabs.txt": 'pos\ta good film\nneg\ta "bad" one, \u3000really\npos\tagain',
    "words.txt": 'pos a good film\r\nneg  a "bad" one, \u3000really\r\n\r\npos again\r\n',
    "fasttext.txt": '__label__pos a good film\n__label__neg\ta "bad" one, \u3000really\n__label__pos again\n',
}


@pytest.mark.parametrize("name", FORMS)
def test_the_rows_are_the_same_in_every_form(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / name
    path.write_text(FORMS[name], encoding="utf-8", newline="")
    rows = read_rows(path, ["2", "1"])
    assert [(row.label("1"), row.text("2")) for row in rows] == ROWS
    assert 'no line is a header; the first row: 1: "pos", 2: "a good film"' in capsys.readouterr().err
    assert [*open_texts(path, ["2"]).rows()] == [[text] for _, text in ROWS]
    assert [*open_texts(path, ["2", "1"]).rows()] == [[text, label] for label, text in ROWS]
    if path.suffix != ".txt":  # in which a document is a line, or more
        documents = read_documents([path], CorpusConfig.model_validate({"column": 2}), Account())
        assert [document.text for document in documents] == [text for _, text in ROWS]


def test_labels_of_fasttext_may_be_several_or_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("__label__a __label__b __x and __label__c\n__label__a\nno label\n", encoding="utf-8")
    rows = read_rows(tmp_path / "a.txt", ["2", "1"])
    assert [row.labels("1") for row in rows] == [["a", "b"], ["a"], []]
    assert [row.text("2") for row in rows] == ["__x and __label__c", "", "no label"]
    (tmp_path / "b.txt").write_text("no label\n__label__a and text\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"b\.txt:2: begins with __label__, and the first row does not"):
        read_rows(tmp_path / "b.txt", ["1", "2"])


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        (
            "a.tsv",
            ["text", "label"],
            r'a\.tsv:1: .* the columns are "pos", "a good film" .*is a row already, name all of them by',
        ),
        ("a.csv", ["2", "label"], r'a\.csv:1: there is no column "2"; the columns are "pos", .*name all of them by number'),
        ("a.tsv", ["3", "1"], r'a\.tsv:1: there is no column "3"; the columns are "1", "2"$'),
        ("a.tsv", ["0", "1"], r'a\.tsv:1: there is no column "0"'),
        ("words.txt", ["text", "label"], r"a \.txt names no columns, and text, label are needed\s+fix: columns by number"),
    ],
)
def test_names_and_numbers_that_are_not_there(tmp_path: Path, name: str, columns: list[str], message: str) -> None:
    (tmp_path / name).write_text(FORMS[name], encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name, columns)


def test_rows_have_as_many_columns_as_the_first(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("1\ta\n0\tb\tc\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.tsv:2: has 3 fields where the first row has 2"):
        read_rows(tmp_path / "a.tsv", ["2", "1"])


def test_a_line_is_a_text_where_no_column_was_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels that can be known as such are not read as text, and of a model of numbers it is told what is read."""
    (tmp_path / "words.txt").write_text(FORMS["words.txt"], encoding="utf-8")
    assert next(open_texts(tmp_path / "words.txt", ["2"], named=False).rows()) == ["pos a good film"]
    assert "words.txt: each line is a text, whole; --column 2 reads that column of it" in capsys.readouterr().err
    (tmp_path / "fasttext.txt").write_text(FORMS["fasttext.txt"], encoding="utf-8")
    with pytest.raises(DataError, match=r"fasttext\.txt:1: begins with a label of fastText"):
        open_texts(tmp_path / "fasttext.txt", ["text"])
    with pytest.raises(UsageError, match="cannot hold a pair"):
        open_texts(tmp_path / "words.txt", ["2", "1"], named=False)


@pytest.mark.skipif("ENCODERKIT_DATA" not in os.environ, reason="needs the benchmark data (ENCODERKIT_DATA)")
def test_published_files_without_a_header_are_read_whole() -> None:
    root = Path(os.environ["ENCODERKIT_DATA"])
    rows = read_rows(root / "csl/cls_ctg_train.tsv", ["2", "3"])
    assert len(rows) == 8000 and len({row.label("3") for row in rows}) == 13
    for part, size in (("train", 29000), ("val", 1014), ("test_2016_flickr", 1000)):
        given = {name: str(root / f"multi30k/{part}.{name}") for name in ("en", "de")}
        assert len(read_rows(given, ["en", "de"])) == size
