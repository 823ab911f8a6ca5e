"""Files to documents: nothing lost, nothing guessed silently, every mistake told with its place."""

import bz2
import gzip
import io
import json
import lzma
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from encoderkit.data import corpus
from encoderkit.data.config import CorpusConfig
from encoderkit.data.corpus import Account, Document, read_documents
from encoderkit.data.streams import converted, cut, find_sources, lines
from encoderkit.errors import DataError, UsageError

LINE, BLANK = CorpusConfig(documents="line"), CorpusConfig(documents="blank_line")


def read(path: Path, config: CorpusConfig = LINE) -> list[str]:
    return [document.text for document in read_documents([path], config, Account())]


def write(folder: Path, name: str, data: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@pytest.mark.parametrize(
    ("suffix", "pack"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".bz2", bz2.compress),
        (".zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_every_format_in_every_compression_gives_the_same_documents(tmp_path: Path, suffix: str, pack) -> None:
    texts = ["one, two", 'say "hi"', "三 四", "x\u2028y\x85z\x1c"]
    files = {
        "a.txt": "\n".join(texts),
        "b.jsonl": "\n".join(json.dumps({"id": 1, "text": text}) for text in texts),
        "c.csv": "id,text\r\n" + "\r\n".join(f'1,"{text.replace(chr(34), chr(34) * 2)}"' for text in texts),
        "d.tsv": "id\ttext\n" + "\n".join(f"1\t{text}" for text in texts) + "\n",
    }
    for name, content in files.items():
        assert read(write(tmp_path, name + suffix, pack(content.encode()))) == texts, name


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", None, "b"], "n": [1, 2, 3]}), tmp_path / "a.parquet")
    account = Account()
    assert [d.text for d in read_documents([tmp_path / "a.parquet"], LINE, account)] == ["a", "b"]
    assert account.dropped == {"empty": 1} and account.documents == 3
    with pytest.raises(DataError, match='no column "body"; the columns are "text", "n"'):
        read(tmp_path / "a.parquet", CorpusConfig(column="body"))


@given(st.text(alphabet=st.sampled_from(["a", "字", " ", "\n", "\r", "\0", "\u2028", "é"]), max_size=80))
def test_lines_of_text_are_accounted_for_to_the_byte(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = write(tmp_path_factory.getbasetemp(), "any.txt", text)
    expected = [line[:-1] if line.endswith("\r") else line for line in text.split("\n")]
    expected = expected[:-1] if text.endswith("\n") or not text else expected
    account = Account()
    try:
        found = [document.text for document in read_documents([path], LINE, account)]
    except DataError:
        found = []
    assert found == [line for line in expected if line and not line.isspace()]
    assert account.bytes == len(text.encode())
    assert account.documents == len(expected) == account.kept + account.dropped.total()
    assert account.document_bytes == sum(len(line.encode()) for line in expected)
    assert account.document_bytes == account.kept_bytes + account.dropped_bytes.total()


@given(st.text(alphabet="ab \n\r", max_size=120), st.integers(2, 9), st.integers(1, 7))
def test_long_documents_come_in_pieces_that_join_to_the_text(text: str, limit: int, block: int) -> None:
    blocks = [text[i : i + block] for i in range(0, len(text), block)]
    whole = [line for _, line, _ in lines(blocks)]
    joined, held = [], ""
    for _, piece, last in lines(blocks, limit):
        assert len(piece) <= limit
        held += piece
        if last:
            joined.append(held)
            held = ""
    assert joined == whole == [line[:-1] if line.endswith("\r") else line for line in text.split("\n")][: len(whole)]
    assert "".join(piece for piece, _ in cut(text, limit)) == text


def test_documents_above_the_limit_keep_their_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paragraphs = ["word " * 30, "x" * 100, "z"]
    path = write(tmp_path, "a.txt", "\n".join(paragraphs) + "\n\n \nsecond\n")
    monkeypatch.setattr(corpus, "PIECE", 64)
    found = list(read_documents([path], BLANK, Account()))
    assert max(len(document.text) for document in found) <= 64
    assert "".join(document.text for document in found[:-1]) == "\n".join(paragraphs)
    assert [document.part for document in found] == [*range(len(found) - 1), 0]
    assert [document.last for document in found] == [False] * (len(found) - 2) + [True, True]
    assert found[-1] == Document("second", str(path), 6)


def test_auto_is_decided_once_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = write(tmp_path, "a.txt", "\na\nb\n\nc\n\n"), write(tmp_path, "b.txt", "d\ne\n")
    found = [d.text for d in read_documents([first, second], CorpusConfig(), Account())]
    assert found == ["a\nb", "c", "d\ne"] and "separated by blank lines" in capsys.readouterr().err
    assert [d.text for d in read_documents([second, first], CorpusConfig(), Account())] == ["d", "e", "a", "b", "c"]
    assert "one document a line" in capsys.readouterr().err


def test_auto_is_not_decided_by_what_holds_no_text(tmp_path: Path) -> None:
    empty, blank, text = (
        write(tmp_path, "a.txt", ""),
        write(tmp_path, "b.txt", "\n" * 2_000_000),
        write(tmp_path, "c.txt", "a\nb\n\nc\n"),
    )
    found = [d.text for d in read_documents([empty, blank, text], CorpusConfig(min_chars=1), Account())]
    assert found == ["a\nb", "c"]
    noise = "\n".join(
        random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=200_000)
    )  # the first of its bytes give no text yet
    packed = write(tmp_path, "d.txt.zst", zstandard.ZstdCompressor().compress(f"{noise}\n\nsecond".encode()))
    assert len(read(packed, CorpusConfig())) == 2


def test_encodings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "plain\n" + "汉字𠀀\n" * 3
    assert read(write(tmp_path, "a.txt", b"\xef\xbb\xbf" + text.encode())) == text.split("\n")[:-1]
    assert "GB18030" not in capsys.readouterr().err
    assert read(write(tmp_path, "b.txt", text.encode("gb18030"))) == text.split("\n")[:-1]
    read(tmp_path / "b.txt")
    assert capsys.readouterr().err.count("read as GB18030") == 1, "a file that is read twice is told of once"
    broken = "第一行\n第二行\n".encode("gb18030") + b"\xff\xff\n"
    with pytest.raises(DataError, match=r"b\.txt:3: is not valid GB18030: bytes ff ff") as error:
        read(write(tmp_path, "b.txt", broken))
    assert error.value.where is not None
    with pytest.raises(DataError, match=r"b\.txt:2: is not valid UTF-8"):
        read(write(tmp_path, "b.txt", "第一行\n".encode() + b"\xff\xff\n"))
    for encoding in ("utf-8", "gb18030"):  # characters across two blocks, and ASCII alone in the first
        for before, word in ((1, "汉字"), (1, "你好中文"), (2, "你好中文"), (3, "你好𠀀")):
            long = ("a" * (2**20 - before) + word + "\n").encode(encoding)
            assert "".join(read(write(tmp_path, "c.txt", long), CorpusConfig(documents="blank_line"))).endswith(word)
    for text in ("é", "你", "a你"):
        assert read(write(tmp_path, "e.txt", text.encode())) == [text]
    with pytest.raises(DataError, match=r"is UTF-16 text(.|\n)*iconv -f UTF-16 -t UTF-8 \S+ > \S+\.utf8"):
        read(write(tmp_path, "d.txt", "a".encode("utf-16")))
    with pytest.raises(DataError, match=r"gzip -dc \S+d\.txt\.gz \| iconv -f UTF-16 -t UTF-8 > d\.utf8\.txt"):
        read(write(tmp_path, "d.txt.gz", gzip.compress("a".encode("utf-16"))))
    assert "iconv -c -f UTF-8 -t" in converted("UTF-8 with a byte order mark", find_sources([tmp_path / "d.txt"])[0], drop=True)


@pytest.mark.parametrize(
    ("text", "damage"),
    [
        ("Müller läßt grüßen\n" * 50, b"Gr\xf6\xdfe\n"),
        ("Привет, как дела\n" * 30, b"D\xfcsseldorf\n"),
        ("\ufeffIt’s fine.\n", b"It\x92s not bad.\n"),
    ],
)
def test_a_damaged_byte_makes_no_chinese_of_other_letters(text: str, damage: bytes, tmp_path: Path) -> None:
    """Most pairs of bytes of UTF-8 are characters of GB18030."""
    for content in (text.encode() + damage, damage + text.removeprefix("\ufeff").encode()):
        with pytest.raises(DataError, match="is not valid UTF-8") as error:
            read(write(tmp_path, "a.txt", content))
        assert "correct these bytes" in str(error.value.fix) or len(text) < 20
        if text[0] == "\ufeff":
            break  # without its mark it is too short to tell


def test_empty_lines_are_those_of_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [write(tmp_path, "a.txt", "one\ntwo\n"), write(tmp_path, "b.jsonl", '{"text": ""}\n{"text": "three"}\n')]
    assert len(list(read_documents(paths, CorpusConfig(), Account()))) == 3
    assert "empty lines" not in capsys.readouterr().err


def test_tokens_are_the_text_that_they_make(tmp_path: Path) -> None:
    """So a tokenizer is trained on rows of tokens and tags, as the model will read them."""
    assert read(write(tmp_path, "a.bmes", "王 B-NAME\n明 E-NAME\n\n他 O\n")) == ["王明", "他"]
    rows = '{"tokens": ["in", "Rome"]}\n{"tokens": ["北", "京"]}\n'
    assert read(write(tmp_path, "a.jsonl", rows), CorpusConfig(documents="line", column="tokens")) == ["in Rome", "北京"]


def test_a_packed_file_whose_name_does_not_tell(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not tell its format") as error:
        read(write(tmp_path, "train.en.gz", gzip.compress(b"text")))
    assert error.value.fix == "give it a name that tells: train.en.txt.gz"


def test_bad_bytes_are_told_with_line_and_offset(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "好\nok\nab".encode() + b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"a\.txt:3: is not valid UTF-8: bytes ff fe 0a at byte 9 of the file"):
        read(path)
    big = "好\n" * 400_000
    with pytest.raises(DataError, match=rf"b\.txt:400001: .* at byte {len(big.encode())} "):
        read(write(tmp_path, "b.txt", big.encode() + b"\xe5\xa5\n"))
    with pytest.raises(DataError, match=r"c\.txt:2: .* at byte 2 "):
        read(write(tmp_path, "c.txt", b"a\n\xe5\xa5"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", '{"text": "a"}\n\n["text"]\n', r"a\.jsonl:3: each line holds one JSON object, this one list"),
        ("a.jsonl", '{"txt": "a", "id": 3}\n', r'a\.jsonl:1: there is no column "text"; the columns are "txt", "id"'),
        ("a.jsonl", '{"text": "a", "text": "b"}\n', r'a\.jsonl:1: .*the key "text" stands twice'),
        ("a.jsonl", '{"text": 3}\n', r'a\.jsonl:1: "text" should be a text, found int'),
        ("a.jsonl", '{"text": "\\ud800"}\n', r'a\.jsonl:1: "text" holds half a character'),
        ("a.jsonl", '{"text": ' + "[" * 100_000 + "\n", r"a\.jsonl:1: not valid JSON"),
        ("a.csv", "id,txt\n1,a\n", r'a\.csv:1: there is no column "text"; the columns are "id", "txt"'),
        ("a.csv", "text,text\n1,a\n", r'a\.csv:1: the column "text" stands twice'),
        ("a.csv", 'id,text\n1,a\n2,"b\n3,c\n', r"a\.csv:3: a quote is opened here and never closed"),
        ("a.csv", 'id,text\n1,"a\n2,"b"\n', r"a\.csv:2: not valid CSV"),
        ("a.csv", 'id,text\n1,"a\n' + "2,b\n" * 2000 + '3,"c"\n', r"a\.csv:2: a quote is opened here and not closed"),
        ("a.csv", "id,text\n1,a,b\n", r"a\.csv:2: has 3 fields where the header has 2"),
        ("a.tsv", "id\ttext\n1\ta\tb\n", r"a\.tsv:2: has 3 fields where the header has 2"),
        ("a.txt", "version https://git-lfs.github.com/spec/v1\noid", r"is a git-lfs pointer"),
        ("a.txt", ("words " * 99).encode("utf-16-le"), r"is no text: 50% of its bytes are zero, as in UTF-16"),
        ("a.txt", "", r"no document is left to read: there is no text"),
        ("a.txt", "\n \n", r"no document is left to read \(dropped: 2 empty\)"),
        ("a.txt.gz", "plain", r"is not \.gz data, as its name says"),
        ("a.txt", gzip.compress(b"a", mtime=0), r"is not plain text, as its name says: it is \.gz data"),
        ("a.txt.gz", gzip.compress(b"abc" * 99, mtime=0)[:-9], r"ends in the middle of its compressed data"),
        ("a.txt.xz", lzma.compress(b"abc" * 99)[:-9], r"ends in the middle of its compressed data"),
        ("a.txt.zst", zstandard.ZstdCompressor().compress(b"abc" * 99)[:-2], r"ends in the middle of its compressed data"),
        ("a.txt.bz2", bz2.compress(b"abc" * 99)[:-9], r"ends in the middle of its compressed data"),
        ("a.txt.xz", lzma.compress(b"abc" * 99)[:40] + b"\0" * 60, r"cannot be read"),
        ("a.parquet", "text", r"cannot be read as parquet"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_place(tmp_path: Path, name: str, content: bytes | str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path, name, content))


def test_rows_that_span_lines_are_kept_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path, "a.csv", 'id,text\r\n1,"a\r\nb"\r\n2,c\0\r\n')
    assert (
        read(path) == ["a\nb", "c\0"]
        and "1 rows span several lines (the longest 2 lines, from line 2)" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("name", "message"), [("none.txt", "no such file"), (".", "is a directory"), ("a.pdf", "format"), ("a" * 300, "too long")]
)
def test_paths_are_checked_before_anything_is_read(tmp_path: Path, name: str, message: str) -> None:
    write(tmp_path, "a.pdf", "")
    with pytest.raises(UsageError, match=message):
        read(tmp_path / name)


def test_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = b'{"text": "a"}\n{"text": "b"}'
    for content, said in ((b"a\nb\n", ".txt"), (rows, ".jsonl"), (b"\xef\xbb\xbf" + rows.replace(b"{", b"{ "), ".jsonl")):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        assert [d.text for d in read_documents(["-"], LINE, Account())] == ["a", "b"]
        assert f"standard input: read as {said}" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="standard input: is closed"):
        list(read_documents(["-"], LINE, Account()))


def test_short_documents_are_dropped_and_counted(tmp_path: Path) -> None:
    account = Account()
    path = write(tmp_path, "a.txt", "ab\nabc\n\nabcd\n")
    assert [d.text for d in read_documents([path], CorpusConfig(documents="line", min_chars=3), account)] == ["abc", "abcd"]
    assert account.dropped == {"too_short": 1, "empty": 1} and (account.kept, account.documents) == (2, 4)
