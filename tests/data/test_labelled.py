"""Labelled rows: all of them, or the one that is wrong."""

import json
import math
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from encoderkit.data.labelled import Row, read_rows
from encoderkit.data.unlabelled import open_texts
from encoderkit.errors import DataError


def test_labels_are_the_same_in_every_format(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": 1}\n{"text": "", "label": true}\n\n', encoding="utf-8")
    (tmp_path / "b.csv").write_text('text,label\nx,1\n"",true\n', encoding="utf-8")
    (tmp_path / "c.tsv").write_text("text\tlabel\nx\t1\n\ttrue\n", encoding="utf-8")
    for name in ("a.jsonl", "b.csv", "c.tsv"):
        rows = read_rows(tmp_path / name, ["text", "label"])
        assert [(row.text("text"), row.label("label")) for row in rows] == [("x", "1"), ("", "true")]
    assert [row.line for row in rows] == [2, 3]


def test_values_as_a_task_needs_them(tmp_path: Path) -> None:
    line = '{"many": ["a", 2], "one": "a", "n": "2.5", "i": 3, "tokens": ["x", "y"], "bad": null, "f": 1.0, "nan": "nan", '
    line += '"huge": 1e300}'
    (tmp_path / "a.jsonl").write_text(line + "\n", encoding="utf-8")
    (row,) = read_rows(tmp_path / "a.jsonl", ["many"], optional=["absent"])
    assert (row.labels("many"), row.labels("one"), row.number("n"), row.number("i")) == (["a", "2"], ["a"], 2.5, 3.0)
    assert (row.texts("tokens"), row.label("f")) == (["x", "y"], "1")
    for read, column in (
        (row.label, "bad"),
        (row.number, "nan"),
        (row.number, "huge"),
        (row.number, "one"),
        (row.text, "i"),
        (row.texts, "one"),
    ):
        with pytest.raises(DataError, match=rf'a\.jsonl:1: "{column}"'):
            read(column)
    with pytest.raises(DataError, match="a list of labels"):
        Row({"labels": "['joy', 'love']"}, 1, "a.csv").labels("labels")
    for text, labels in (('["joy", "love"]', ["joy", "love"]), ("[]", []), ("[1, 2]", ["1", "2"]), ("[joy]", ["[joy]"])):
        assert Row({"labels": text}, 1, "a.csv").labels("labels") == labels
    words = Row({"tokens": '["New York", "is"]', "code": "[] ["}, 1, "a.csv")
    assert words.words("tokens") == ["New York", "is"] and words.words("code") == ["[]", "["]
    with pytest.raises(DataError, match=r'a\.jsonl:1: there is no column "absent"; the columns are "many", "one"'):
        row.text("absent")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"holds no row"),
        ("a.csv", "text,label\n", r"holds no row"),
        ("a.csv", "good film,1\nbad film,0\n", r'a\.csv:1: there is no column "text"; .*the first line names the columns'),
        ("a.tsv", "text\tlabel\n\na\t1\nb\n", r"a\.tsv:4: has 1 fields"),
        ("a.jsonl", '{"text": "a"}\n', r'a\.jsonl:1: there is no column "label"'),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b"}\n', r'a\.jsonl:2: this row has no "label", which the rows before'),
        ("a.json", '[{"text": "a", "label": 1}, {"text": "b"}]', r'a\.json:2: this row has no "label"'),
        ("a.txt", "a\n", r"a \.txt names no columns"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name, ["text", "label"])


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_pairs_of_spacy(tmp_path: Path, name: str) -> None:
    """A text and what is known of it, as spaCy's own examples of training data are written."""
    pairs = [["in Rome", {"entities": [[3, 7, "LOC"]]}], ["nowhere", {"entities": []}]]
    text = json.dumps(pairs) if name == "a.json" else "".join(json.dumps(pair) + "\n" for pair in pairs)
    (tmp_path / name).write_text(text, encoding="utf-8")
    rows = read_rows(tmp_path / name, ["text", "entities"])
    assert [row.values for row in rows] == [{"text": text, **known} for text, known in pairs]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_no_label(value: float) -> None:
    row = Row({"label": value}, 7, "train.parquet")
    for read in (row.label, row.labels):
        with pytest.raises(DataError, match="not empty"):
            read("label")


def test_labels_are_text_too(tmp_path: Path) -> None:
    row = Row({"half": "\ud83d", "some": ["a", "\ud83d"], "scores": {"\ud83d": 0.5}}, 1, "a.jsonl")
    for read, column in ((row.label, "half"), (row.labels, "some"), (row.scores, "scores")):
        with pytest.raises(DataError, match="half a character"):
            read(column)


def test_what_cannot_be_read_of_parquet_is_told(tmp_path: Path) -> None:
    latin = pa.Array.from_buffers(pa.string(), 1, [*pa.array(["x" * 4]).buffers()[:2], pa.py_buffer(b"caf\xe9")])
    pq.write_table(pa.table({"text": latin}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_rows(tmp_path / "a.parquet", ["text"])


def test_spaces_of_other_kinds_are_tokens_of_conll(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    path.write_text("\u3000 O\n10\u00a0000   B-N\n\nx O\n", encoding="utf-8")
    first, second = read_rows(path, ["tokens", "tags"])
    assert first.values["tokens"] == ["\u3000", "10\u00a0000"] and first.values["tags"] == ["O", "B-N"]
    assert second.values["tokens"] == ["x"]


def test_hashtags_are_no_comments_of_conll(tmp_path: Path) -> None:
    path = tmp_path / "a.conll"
    text = "#newparty\tO\nis\tO\n\n# newdoc id = 3\n# text[en] = Ada is\n# global.columns = FORM\n#newdoc42\tO\nAda\tB-PER\n\n"
    text += "# newpar\nx\tO\n"
    path.write_text(text, encoding="utf-8")
    assert [row.values["tokens"] for row in read_rows(path, ["tokens"])] == [["#newparty", "is"], ["#newdoc42", "Ada"], ["x"]]


def test_rows_with_too_few_fields_are_told_what_they_lack(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\tlabel\na\tb\nc\n", encoding="utf-8")
    with pytest.raises(DataError, match="has 1 fields where the header has 2") as error:
        read_rows(tmp_path / "a.tsv", ["text", "label"])
    assert error.value.fix == "give the row all its fields, or take it out"
    (tmp_path / "b.tsv").write_text("text;label\na;b\n", encoding="utf-8")
    with pytest.raises(DataError, match=r'has ";" between its columns, and \.tsv has tabs'):
        read_rows(tmp_path / "b.tsv", ["text", "label"])


def test_of_parquet_what_is_wanted_where_it_is_there_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"], "id": ["q1"], "other": [1]}), tmp_path / "a.parquet")
    assert [row.values for row in open_texts(tmp_path / "a.parquet", ["text"], ["id", "none"]).whole()] == [
        {"text": "a", "id": "q1"}
    ]


def test_plain_text_is_one_column_with_every_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n\nb", encoding="utf-8")
    assert [row.text("sentence") for row in read_rows(tmp_path / "a.txt", ["sentence"])] == ["a", "", "b"]


@pytest.mark.skipif("ENCODERKIT_DATA" not in os.environ, reason="needs the benchmark data (ENCODERKIT_DATA)")
def test_published_sets_have_their_published_sizes() -> None:
    root = Path(os.environ["ENCODERKIT_DATA"])
    assert len({row.label("label") for row in read_rows(root / "sst2/train.jsonl.xz", ["sentence", "label"])}) == 2
    for name, columns, size in (
        ("sst2/dev.jsonl", ["sentence", "label"], 872),
        ("afqmc/train.jsonl.xz", ["sentence1", "sentence2", "label"], 34334),
        ("wnut17/dev.jsonl", ["tokens", "tags"], 1009),
    ):
        assert len(read_rows(root / name, columns)) == size
    assert all(len(r.texts("tokens")) == len(r.texts("tags")) for r in read_rows(root / "wnut17/dev.jsonl", ["tokens", "tags"]))
    with pytest.raises(DataError, match=r"cls_ctg_dev\.tsv:1: there is no column .*the first line names the columns"):
        read_rows(root / "csl/cls_ctg_dev.tsv", ["text"])
