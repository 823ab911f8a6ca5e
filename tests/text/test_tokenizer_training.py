"""What every trained tokenizer promises, whatever its kind."""

import hashlib
import json
import lzma
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from encoderkit.errors import DataError, UsageError
from encoderkit.text.alphabet import HAN_CLASS
from encoderkit.text.config import TokenizerConfig
from encoderkit.text.sampling import cut, draw
from encoderkit.text.tokenizers import Tokenizer
from encoderkit.text.training import Trained, train
from tests.text.text_samples import CHINESE, CONFIGS, MIXED


def pieces(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.token(i) for i in range(tokenizer.vocab_size)]


@pytest.mark.parametrize("name", CONFIGS)
def test_special_tokens_are_first_and_the_size_is_kept(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    assert pieces(tokenizer)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tuple(tokenizer.special) == (0, 1, 2, 3, 4)
    assert 100 < tokenizer.vocab_size <= CONFIGS[name].vocab_size
    assert len(set(pieces(tokenizer))) == tokenizer.vocab_size
    assert tokenizer.kind == CONFIGS[name].kind


@pytest.mark.parametrize("name", ["wordpiece", "unigram", "bpe", "word", "char"])
def test_the_same_text_makes_the_same_files_in_another_process(
    trained: dict[str, Trained], documents: list[str], name: str
) -> None:
    code = (
        "import json,sys,hashlib;from encoderkit.text.training import train;"
        "from encoderkit.text.config import TokenizerConfig as C;"
        "given=json.load(sys.stdin);r=train(iter(given['corpus']),C(**given['config']));"
        "print({n:hashlib.sha256(d).hexdigest() for n,d in sorted(r.files.items())})"
    )
    given = json.dumps({"corpus": documents, "config": CONFIGS[name].model_dump()})
    run = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, text=True, check=True)
    expected = {n: hashlib.sha256(d).hexdigest() for n, d in sorted(trained[name].files.items())}
    assert run.stdout.strip() == str(expected)


@pytest.mark.parametrize("name", [n for n in CONFIGS if n.startswith("unigram")])
def test_unigram_ids_are_those_of_sentencepiece(
    trained: dict[str, Trained], tokenizers: dict[str, Tokenizer], documents: list[str], name: str
) -> None:
    texts = [line for document in documents for line in document.split("\n")]
    texts += [
        "",
        "  two  spaces ",
        "\ttab\u3000wide\u00a0",
        "[CLS] [MASK]",
        "▁x ▁",
        "e\u0301 é",
        "龘𠮷",
        "a\u200bb",
        "½ ㎏",
        "\x07bell",
    ]
    if folder := os.environ.get("ENCODERKIT_DATA"):
        for language in ("en", "zh"):
            with lzma.open(Path(folder) / f"pretrain_{language}.valid.txt.xz", "rt", encoding="utf-8") as file:
                texts += file.read(200_000).split("\n")
    reference = sentencepiece.SentencePieceProcessor(model_proto=trained[name].files["tokenizer.model"])
    encoded = tokenizers[name].encode(texts)
    rows = [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]
    for text, row, theirs in zip(texts, rows, reference.encode(texts), strict=True):
        if row != theirs:  # only where both are equally likely: float32 there, float64 here
            scores = [sum(map(reference.get_score, ids)) for ids in (row, theirs)]
            assert scores[0] == pytest.approx(scores[1], rel=1e-6, abs=1e-6), text


def test_chinese_split_never_joins_two_characters(tokenizers: dict[str, Tokenizer]) -> None:
    han = re.compile(HAN_CLASS)
    for name in ("wordpiece", "wordpiece-uncased", "unigram-split", "word"):
        found = {p for p in pieces(tokenizers[name]) if len(han.findall(p)) > 1 or (p.startswith("##") and han.search(p))}
        assert found <= {"##〇"}, (name, found)  # which is a character for everybody but BERT
    phrases = ["我们在学校里学习", "学校里有很多学生", "我们喜欢学校"] * 20
    kept = Tokenizer(train(iter(phrases), TokenizerConfig(kind="unigram", vocab_size=64)).files)
    assert any(len(han.findall(p)) > 1 for p in pieces(kept))
    tokenizer = tokenizers["bpe-split"]
    assert not any(len(han.findall(tokenizer.decode([i]))) > 1 for i in range(5, tokenizer.vocab_size))


def test_a_character_that_bert_does_not_part_has_a_piece_inside_words() -> None:
    tokenizer = Tokenizer(train(iter(["二〇〇八年", "一〇〇年前"] * 9), TokenizerConfig(vocab_size=60)).files)
    assert tokenizer.encode(["二〇〇八年，一〇〇年"]).unknown == 1  # the comma


@pytest.mark.parametrize("settings", [{"kind": "char", "byte_fallback": True}, {"kind": "word", "alphabet": 100}])
def test_what_would_do_nothing_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"is for unigram|is not for word"):
        TokenizerConfig.model_validate(settings)


def test_words_become_a_text_without_spaces_between_chinese_characters() -> None:
    texts = ["我们在学校里学习，学校里有很多学生。", "we read python at school"] * 20
    for kind in ("wordpiece", "word"):
        tokenizer = Tokenizer(train(iter(texts), TokenizerConfig(kind=kind, vocab_size=120, nfkc=False)).files)
        for text in [*texts[:2], "我们 read 学校 python。", "学校里有 school"]:
            encoded = tokenizer.encode([text])
            written = text.replace("我们 read 学校 python。", "我们 read 学校 python 。")  # Latin letters stand apart
            assert not encoded.unknown and tokenizer.decode(encoded.ids) == written, kind


def test_nothing_is_lost_by_bpe_and_char(tokenizers: dict[str, Tokenizer]) -> None:
    for text in [*CHINESE.split("\n"), *MIXED, "a  b\tc", " \u202e lead", "\U0001f9ff x"]:
        assert tokenizers["bpe"].decode(tokenizers["bpe"].encode([text]).ids) == text
    for text in ["two  spaces here", "春天 来了，", " ends "]:
        encoded = tokenizers["char"].encode([text])
        assert len(encoded.ids) == len(text)
        assert encoded.unknown or tokenizers["char"].decode(encoded.ids) == text.replace("，", ",")


def test_the_alphabet_is_capped_at_the_commonest() -> None:
    texts = ["b a a a c c c c ddddd e"] * 3
    for kind in ("wordpiece", "char", "unigram"):
        config = TokenizerConfig(kind=kind, vocab_size=64, alphabet=3)
        tokenizer = Tokenizer(train(iter(texts), config).files)
        single = {p.removeprefix("##") for p in pieces(tokenizer)[5:]} - {"▁"}
        assert {p for p in single if p in "abcde" and len(p) == 1} == {"a", "c", "d"}, kind
        assert tokenizer.encode(["b"]).unknown == 1


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "char"])
def test_a_vocabulary_too_small_is_told_before_training(kind: str) -> None:
    alphabet = 200 if kind != "bpe" else None
    config = TokenizerConfig(kind=kind, vocab_size=100, alphabet=alphabet)
    texts = ["".join(chr(0x4E00 + i) for i in range(300)) * 2]
    with pytest.raises(UsageError, match=r"vocab_size 100 is too small.*\n  fix: --vocab-size [0-9]+") as caught:
        train(iter(texts), config)
    if kind != "bpe":
        counts = [int(number) for number in re.findall("[0-9]+", caught.value.message)]  # 100, of each kind, all together
        space = "the space" in caught.value.message
        assert sum(counts[1:-1]) + space == counts[-1], caught.value.message
        more = config.model_copy(update={"vocab_size": counts[-1]})
        assert Tokenizer(train(iter(texts), more).files).vocab_size == counts[-1]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "word", "char"])
def test_never_more_pieces_than_asked_for(kind: str) -> None:
    texts = [" ".join(chr(c) for c in range(0x4E00 + i, 0x5E00, 7)) + " the quick brown fox " for i in range(7)] * 2
    tokenizer = Tokenizer(train(iter(texts), TokenizerConfig(kind=kind, vocab_size=300)).files)
    assert tokenizer.vocab_size <= 300


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "word", "char"])
def test_text_without_spaces_takes_linear_time(kind: str) -> None:
    texts = ["a" * 400_000, "春" * 100_000, "ab春" * 50_000, "\u0301" * 20_000, "x y"]
    tokenizer = Tokenizer(train(iter(texts), TokenizerConfig(kind=kind, vocab_size=400)).files)
    assert len(tokenizer.encode(texts).offsets) == 6


def test_no_text_is_an_error() -> None:
    for texts in ([], ["", "\0"]):
        with pytest.raises(DataError, match="no text"):
            train(iter(texts), TokenizerConfig())


def test_every_byte_is_accounted_for() -> None:
    texts = ["one\0two", "half \ud800 pair", "▅ bar", "x" * 5000, "", *[f"document {i} 文本" * (i % 9) for i in range(3000)]]
    trained = train(iter(texts), TokenizerConfig(kind="unigram", vocab_size=200, sample=20_000))
    sample, lost = trained.sample, trained.sample.dropped
    size = sum(len(t.encode("utf-8", "surrogatepass")) for t in texts)
    parts = (sample.training.amount, sample.held_out.amount, sample.not_used)
    assert size == sum(p.bytes for p in parts) + sum(lost.values())
    assert lost == {"nul": 1, "not_unicode": 3}
    assert 10_000 < sample.training.amount.bytes <= 20_000
    assert sample.held_out.amount.documents


def test_the_sample_is_bounded_and_does_not_depend_on_the_order() -> None:
    texts = [f"{i} " * (1 + i % 50) for i in range(20_000)]
    one, two = draw(iter(texts), 50_000, 3), draw(iter(texts[::-1]), 50_000, 3)
    assert sorted(one.training) == sorted(two.training) and sorted(one.held_out) == sorted(two.held_out)
    assert sorted(draw(iter(texts), 50_000, 4).training) != sorted(one.training)
    lengths = [len(t) for t in one.training]
    everywhere = sum(map(len, texts)) / len(texts)
    assert abs(sum(lengths) / len(lengths) / everywhere - 1) < 0.15  # documents are drawn evenly, not by their length
    big = draw(iter(["word " * 500_000]), 1_000_000, 3)
    assert 0 < big.training.amount.bytes <= 1_000_000


@given(st.text(max_size=200), st.integers(4, 40))
def test_cutting_loses_nothing(text: str, most: int) -> None:
    data = text.encode("utf-8", "ignore")
    parts = list(cut(data, most))
    assert b"".join(parts) == data
    assert all(len(p) <= most for p in parts)
    assert "".join(p.decode() for p in parts) == data.decode()


def test_sentencepiece_keeps_long_lines() -> None:
    words = " ".join(f"w{i}" for i in range(3000))
    trained = train(iter([words] * 2), TokenizerConfig(kind="unigram", vocab_size=400))
    model = sentencepiece.SentencePieceProcessor(model_proto=trained.files["tokenizer.model"])
    assert model.encode("w7", out_type=str)[0].startswith("▁w")
