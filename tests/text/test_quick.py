"""The faster way: the same ids or none, however strange the text."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine

from encoderkit.compiled import compiled
from encoderkit.errors import DataError
from encoderkit.text import lattice, quick
from encoderkit.text.quick import Laid, Quick
from encoderkit.text.tokenizers import Tokenizer
from tests.text.text_samples import CHINESE, CONFIGS, MIXED

LIBRARIES = {
    "wordpiece": "nanotoken",
    "wordpiece-uncased": "nanotoken",
    "bpe": "gigatoken",
    "bpe-nfkc": "gigatoken",
    "unigram": "numba",
    "unigram-bytes": "numba",
    "unigram-split": "numba",
    "char": "tokenizers",
}
"""What each kind needs."""
NAMES = {"tokenizers": "a table of characters"}
NASTY = [
    *CHINESE.split("\n"),
    *MIXED,
    "",
    " \t\n\u3000",
    "a [SEP] b [MASK] [PAD] </s><unk>",
    "a <0x41> b<0xE4><0xB8><0xAD> <0x4>",
    " " * 400 + "x",  # after a short text
    "\x00\x07\u200b\u200d\ufeff\ufffd\u00ad",
    "x" * 99 + " " + "y" * 101,
    "e\u0301" * 40 + "ｶﾞ ㍿ ﷺ",
    "İstanbul STRASSE ſ ẞ ǅ",
    "x" * 95 + " " + "y" * 96 + " " + "1" * 97 + "a" + "-" * 97 + " " * 99 + "中" * 33 + "é" * 50 + "。" * 40,
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 🇨🇳",
]


@pytest.fixture(params=LIBRARIES)
def quickened(request: pytest.FixtureRequest, tokenizers: dict[str, Tokenizer]) -> Iterator[Tokenizer]:
    pytest.importorskip(LIBRARIES[request.param])
    tokenizer = tokenizers[request.param]
    library = LIBRARIES[request.param]
    assert tokenizer.quicken(["some text"]) == NAMES.get(library, library)
    yield tokenizer
    tokenizer.slow()


def test_the_ids_are_the_same(quickened: Tokenizer) -> None:
    assert quickened.agrees(NASTY)
    fast = quickened.encode(NASTY)
    quickened.slow()
    slow = quickened.encode(NASTY)
    assert fast.ids.dtype == slow.ids.dtype and fast.unknown == slow.unknown
    for a, b in zip(fast[:3], slow[:3], strict=True):
        assert np.array_equal(a, b)


@given(texts=st.lists(st.text(max_size=30), max_size=5))
def test_the_ids_are_the_same_for_any_text(tokenizers: dict[str, Tokenizer], texts: list[str]) -> None:
    for name in LIBRARIES.keys() - {"bpe-nfkc"}:
        pytest.importorskip(LIBRARIES[name])
        tokenizers[name].quicken([])
        try:
            assert tokenizers[name].agrees(texts)
        finally:
            tokenizers[name].slow()


def test_half_a_character_is_told_as_by_the_other_library(quickened: Tokenizer) -> None:
    with pytest.raises(DataError, match="text 1 holds half a surrogate pair"):
        quickened.encode(["fine", "a\ud800b"])


@pytest.mark.parametrize("name", sorted(CONFIGS.keys() - LIBRARIES.keys()))
def test_what_is_not_supported_stays_as_it_was(tokenizers: dict[str, Tokenizer], name: str) -> None:
    assert tokenizers[name].quicken(["some text"]) is None and not tokenizers[name].quick


@pytest.mark.parametrize("name", ["wordpiece", "unigram", "char"])
def test_what_was_added_to_a_vocabulary_is_found_in_text(tokenizers: dict[str, Tokenizer], name: str) -> None:
    content = tokenizers[name].save_files()
    engine = Engine.from_str(content["tokenizer.json"].decode())
    engine.add_tokens(["covid19"])
    larger = Tokenizer(content | {"tokenizer.json": engine.to_str().encode()})
    assert larger.quicken(["some text"]) is None  # which the others do not look for
    assert larger.find("covid19") in larger.encode(["a covid19 b"]).ids


def test_what_a_library_refuses_the_other_one_encodes(tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(texts: Sequence[str]) -> Laid:
        raise ValueError("not this one")

    wanted = tokenizers["wordpiece"].encode(["two words"]).ids
    monkeypatch.setattr(tokenizers["wordpiece"], "_quick", Quick("refusing", refusing))
    assert not tokenizers["wordpiece"].agrees(["two words"])
    assert np.array_equal(tokenizers["wordpiece"].encode(["two words"]).ids, wanted)


def test_a_library_that_lies_is_not_used(tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    def lie(texts: Sequence[str]) -> Laid:
        return np.full(len(texts), 7), np.arange(len(texts) + 1)

    monkeypatch.setattr("encoderkit.text.tokenizers.quick_engine", lambda *_: Quick("liar", lie))
    assert tokenizers["wordpiece"].quicken(["two words"]) is None
    assert len(tokenizers["wordpiece"].encode(["two words"]).ids) > 1


def test_without_the_library_nothing_changes(tokenizers: dict[str, Tokenizer], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(quick.importlib, "import_module", missing)
    assert tokenizers["wordpiece"].quicken(["two words"]) is None
    monkeypatch.setattr(lattice, "compiled", compiled.__wrapped__)
    assert tokenizers["unigram"].quicken(["two words"]) == "remembered parts"
    tokenizers["unigram"].slow()
