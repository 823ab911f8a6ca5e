"""Words counted once and merges learnt from the counts: the same as the tokenizers library makes of the whole text."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from encoderkit.text import counting
from encoderkit.text.config import TokenizerConfig
from encoderkit.text.counting import count_by_gigatoken, count_byte_words, count_words
from encoderkit.text.merging import Laid, learn
from encoderkit.text.training import Trained, train
from tests.text.text_samples import CHINESE, CONFIGS, MIXED

STRANGE = [
    "don't we're I'd '' 's x's 'll'",
    "a  b   c\td\t e \u3000f\u00a0 g  ",
    "a\x1cb \x1d c\x0bd\x0c\x85e\u2028f\x07",
    "〇〇 葛\U000e0100 ㍿ ㊊ a㊊ \u0301b 中\u0301 ¨x ﷺ",
    "x" * 99 + " " + "-" * 61 + " é" * 3 + "中" * 70,
    "ẞ İstanbul e\u0301 ＡＢＣ\u200b1٣",
]
SIGNS = " \t\n\x1c\u3000\u00a0'sl1.-aBé\u0301中〇㊊ﬁ…\u200b¨"
TEXT = st.text(st.sampled_from(SIGNS) | st.characters(exclude_categories=["Cs"]), max_size=40)


def as_the_library(tokenizer: Tokenizer, texts: list[str]) -> Counter[str]:
    lines = [tokenizer.normalizer.normalize_str(line) for text in texts for line in text.split("\n")]
    return Counter(word for line in lines for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(line))


def counted(tokenizer: Tokenizer, config: TokenizerConfig, texts: list[str]) -> Counter[str]:
    count = count_byte_words if config.kind == "bpe" else count_words
    return count(texts, tokenizer, config.splits_chinese(), config.lowercase)


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if config.kind in ("wordpiece", "bpe", "word")])
def test_words_are_counted_as_by_the_library(trained: dict[str, Trained], documents: list[str], name: str) -> None:
    tokenizer = Tokenizer.from_buffer(trained[name].files["tokenizer.json"])
    texts = [*documents, CHINESE, *MIXED, *STRANGE]
    assert counted(tokenizer, CONFIGS[name], texts) == as_the_library(tokenizer, texts)


@given(texts=st.lists(TEXT, max_size=4))
def test_words_of_any_text_are_counted_as_by_the_library(trained: dict[str, Trained], texts: list[str]) -> None:
    for name in ("wordpiece", "wordpiece-uncased", "wordpiece-keep", "bpe", "bpe-nfkc", "bpe-split"):
        tokenizer = Tokenizer.from_buffer(trained[name].files["tokenizer.json"])
        assert counted(tokenizer, CONFIGS[name], texts) == as_the_library(tokenizer, texts), name


@pytest.mark.parametrize("name", ["bpe", "bpe-nfkc"])
def test_gigatoken_counts_the_same(
    trained: dict[str, Trained],
    documents: list[str],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    library = pytest.importorskip("gigatoken.gigatoken_rs")
    monkeypatch.setattr(counting, "_BLOCK", 20_000)
    tokenizer = Tokenizer.from_buffer(trained[name].files["tokenizer.json"])
    texts = [*documents, CHINESE, *MIXED, *STRANGE]
    found = count_by_gigatoken(texts, tokenizer, CONFIGS[name].nfkc, 96)
    assert found == as_the_library(tokenizer, texts)
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(counting, "_PROOF", 100)
    texts.append("a\U00010940")  # a letter since Unicode 17, which not every library knows
    assert count_by_gigatoken(texts, tokenizer, CONFIGS[name].nfkc, 96) in (None, as_the_library(tokenizer, texts))
    monkeypatch.setattr(library, "pretokenized_counts", lambda *_: [(b"wrong", 1)])
    assert count_by_gigatoken(texts, tokenizer, CONFIGS[name].nfkc, 96) is None


def test_without_gigatoken_the_tokenizer_is_the_same(
    trained: dict[str, Trained], documents: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(counting.importlib, "import_module", missing)
    assert train(iter(documents), CONFIGS["bpe"]).files == trained["bpe"].files


WORDS = st.dictionaries(st.text("abc", min_size=1, max_size=9), st.integers(1, 9), min_size=1, max_size=40)


@given(words=WORDS, size=st.integers(4, 60), least=st.integers(1, 3))
def test_merges_are_those_of_the_library(words: dict[str, int], size: int, least: int) -> None:
    letters = list("abc")
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=least, initial_alphabet=letters, show_progress=False)
    theirs = Tokenizer(models.BPE())
    theirs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    theirs.train_from_iterator([" ".join([word] * count) for word, count in words.items()], trainer)
    model = json.loads(theirs.to_str())["model"]
    numbers = {letter: i for i, letter in enumerate(letters)}
    ours = learn(Laid(words).symbols(numbers, numbers), letters, size, least)
    assert {piece: i for i, piece in enumerate(ours.pieces)} == model["vocab"]
    assert [list(pair) for pair in ours.merge_names()] == model["merges"]


def test_wordpiece_is_that_of_the_library(trained: dict[str, Trained], documents: list[str]) -> None:
    """Its trainer gives ##-characters the numbers of a hash table, by which ties are broken: told them beforehand."""
    words = count_words(documents, Tokenizer.from_buffer(trained["wordpiece"].files["tokenizer.json"]), True, False)
    letters = sorted(Laid(words).letters())
    inside = [f"##{letter}" for letter in letters]
    trainer = trainers.WordPieceTrainer(
        vocab_size=1500, min_frequency=2, special_tokens=inside, initial_alphabet=letters, show_progress=False
    )
    theirs = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    theirs.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    theirs.train_from_iterator([" ".join([word] * count) for word, count in words.items()], trainer)
    first = {letter: i for i, letter in enumerate(letters, len(letters))}
    numbers = {letter: i for i, letter in enumerate(letters)}
    ours = learn(Laid(words).symbols(first, numbers), [*inside, *letters], 1500, 2, "##")
    assert len(ours.pieces) == 1500
    assert {piece: i for i, piece in enumerate(ours.pieces)} == theirs.get_vocab(with_added_tokens=False)
