"""Word starts by a segmenter: its own words on the raw text, for every kind of tokenizer, and not an id changed."""

import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import rjieba
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers

from encoderkit.errors import DataError, MissingDependency, UsageError
from encoderkit.text import segment
from encoderkit.text.config import SegmentConfig
from encoderkit.text.segment import Segmenter, read_segmentation
from encoderkit.text.tokenizers import Tokenizer
from tests.text.text_samples import CHINESE, CONFIGS, MIXED

TEXTS = [
    *CHINESE.split("\n"),
    *MIXED,
    "",
    " \t\n\u3000",
    " 龘中国 \n 人民\t ",
    "他说C++和Python3.12都行，见https://example.org/a_b?c=1。",
    "ＧＰＵ　很贵，１２３ ㍿ 𠮷野家",
    "👨\u200d👩\u200d👧 一家人 🇨🇳",
    "привет мир，你好世界",
    "中国\x00\x07\u200b人民",
    "a [SEP] b [MASK] 中国",
]
PLAIN = [
    text for text in TEXTS if text and all(ord(c) < 128 or "\u4e00" <= c <= "\u9fff" or c in "，。：？“”！；（）、" for c in text)
]


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(read_segmentation(SegmentConfig(kind="zh")))


def words_of(text: str) -> list[int]:
    """The number of the word of each character: rjieba's on the raw text, set right one character at a time."""
    begins = {begin for _, begin, _ in rjieba.tokenize(text)}
    for i, c in enumerate(text):
        before = text[:i].rstrip("".join(d for d in text[:i] if unicodedata.combining(d)))[-1:]
        letters = c.isalnum() and before.isalnum() and not any("\u3400" <= d <= "\u9fff" or ord(d) > 0x1FFFF for d in (c, before))
        if unicodedata.combining(c) or c in "🏽\ufe0f\u200d" or (letters and not (c + text[i - 1]).isascii()):
            begins.discard(i)
    for i, c in enumerate(text):
        if i in begins and i and text[i - 1].isspace() and not c.isspace():
            begins = (begins - {i}) | {len(text[:i].rstrip())}
        elif c.isspace() and i and text[i - 1].isspace():
            begins.discard(i)
    return np.cumsum([i in begins or i == 0 for i in range(len(text))]).tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_marks_are_the_segmenters_words_and_ids_are_untouched(
    tokenizers: dict[str, Tokenizer], segmenter: Segmenter, name: str
) -> None:
    tokenizer = tokenizers[name]
    plain, found, spans = tokenizer.encode(TEXTS), tokenizer.encode(TEXTS, segmenter), tokenizer.spans(TEXTS)
    assert np.array_equal(found.ids, plain.ids) and found.ids.dtype == plain.ids.dtype
    assert np.array_equal(found.offsets, plain.offsets) and found.unknown == plain.unknown
    straddling = 0
    for text, first, end in zip(TEXTS, plain.offsets, plain.offsets[1:], strict=False):
        numbers, reached = words_of(text), 0
        for i in range(first, end):
            begin, stop = spans.characters[i]
            touched = set(numbers[begin : max(stop, begin + 1)])
            assert found.starts[i] == (min(touched) > reached), (text, tokenizer.token(int(found.ids[i])))
            straddling += len(touched) > 1
            reached = max(reached, *touched)
    assert found.straddling == straddling


def test_one_character_a_token_gives_the_words_back(tokenizers: dict[str, Tokenizer], segmenter: Segmenter) -> None:
    """What stands between the marks is the segmenter's own list of words, on Chinese and ASCII, but for spaces."""
    assert len(PLAIN) >= 8
    for text in PLAIN:
        spans, starts = tokenizers["char"].spans([text]).characters, tokenizers["char"].encode([text], segmenter).starts
        places = [int(begin) for (begin, _), start in zip(spans, starts, strict=True) if start]
        words = [text[a:b].strip() for a, b in pairwise([*places, len(text)])]
        assert [word for word in words if word] == [word for word in rjieba.cut(text) if not word.isspace()]


def test_words_that_share_a_token_are_one(segmenter: Segmenter) -> None:
    """我们 在 中国 人民, of which 们在 is one piece; then as a word that is not in the vocabulary."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "我", "##们在", "##中", "##国", "##人", "##民"]
    model = models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    engine = Engine(model)
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    found = Tokenizer({"tokenizer.json": engine.to_str().encode()}).encode(["我们在中国人民 我们在"], segmenter)
    assert found.ids.tolist() == [5, 6, 7, 8, 9, 10, 5, 6]
    assert found.starts.tolist() == [True, False, True, False, True, False, True, False]
    assert found.straddling == 2
    unknown = Tokenizer({"tokenizer.json": engine.to_str().encode()}).encode(["们在中国 我们在"], segmenter)
    assert (unknown.ids.tolist(), unknown.starts.tolist(), unknown.straddling) == ([1, 5, 6], [True, True, False], 2)


@pytest.mark.parametrize("kind", ["zh", "jieba"])
def test_a_dictionary_keeps_words_whole(tmp_path: Path, tokenizers: dict[str, Tokenizer], kind: str) -> None:
    pytest.importorskip("jieba")
    text, path = "我们用编码器工具包训练模型", tmp_path / "words.txt"
    path.write_text("编码器工具包\n\n训练模型 1000 v\r\n", encoding="utf-8")

    def words(dictionary: str | None) -> list[str]:
        config = SegmentConfig.model_validate({"kind": kind, "dictionary": dictionary})
        encoded = tokenizers["char"].encode([text], Segmenter(read_segmentation(config)))
        places = [*np.flatnonzero(encoded.starts), len(text)]
        return [text[a:b] for a, b in pairwise(places)]

    assert words(None) == ["我们", "用", "编码器", "工具包", "训练", "模型"]
    assert words(str(path)) == ["我们", "用", "编码器工具包", "训练模型"]
    path.write_bytes(path.read_bytes().decode().encode("gb18030"))  # as many word lists are
    assert words(str(path)) == ["我们", "用", "编码器工具包", "训练模型"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("词 10 n\n两 个 词 语\n".encode(), r"words\.txt:2: a line is a word, its frequency"),
        ("词 n 10\n".encode(), r"words\.txt:1: a line is a word"),
        ("词 99999999999\n".encode(), r"words\.txt:1: a line is a word"),
        (b"\n \n", "holds no word"),
        (b"\xff\xff\n", r"neither UTF-8 \(byte 0\) nor GB18030"),
    ],
)
def test_a_bad_dictionary_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_segmentation(SegmentConfig(kind="zh", dictionary=str(tmp_path / "words.txt")))
    with pytest.raises(UsageError, match="there is no such file"):
        read_segmentation(SegmentConfig(kind="zh", dictionary=str(tmp_path / "none.txt")))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(segment.importlib, "import_module", missing)
    with pytest.raises(MissingDependency, match=r"rjieba.*\n.*encoderkit\[zh\]"):
        Segmenter(read_segmentation(SegmentConfig(kind="zh")))


def test_a_library_that_loses_text_is_found_out(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "_cut", lambda text: text.split())
    with pytest.raises(DataError, match="gave 4 of 5 characters back"):
        segmenter.words(["中国 人民"])
