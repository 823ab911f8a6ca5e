"""Parts of texts that no piece lies across have the pieces of the whole text."""

import json
from collections.abc import Iterator
from itertools import pairwise
from unicodedata import normalize

import numpy as np
import pytest

from encoderkit.text import parts
from encoderkit.text.parts import Parts, same_pieces
from encoderkit.text.tokenizers import Tokenizer
from tests.text.text_samples import CHINESE, MIXED


@pytest.fixture(params=["unigram", "unigram-bytes"])
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Tokenizer]) -> Iterator[Tokenizer]:
    yield tokenizers[request.param]


def opened(tokenizer: Tokenizer) -> Parts:
    content = tokenizer.save_files()
    return Parts(content["tokenizer.model"], json.loads(content["tokenizer.json"]))


def texts(count: int, length: int) -> list[str]:
    """Words and characters of the samples in any order: long texts, in which sums of scores are rounded."""
    rng = np.random.default_rng(0)
    words = (
        [word for line in [CHINESE, *MIXED] for word in line.split()]
        + list(CHINESE)
        + [" ", "é", "e\u0301", "각", "\u3042\u3099"]
    )
    return ["".join(words[i] + " " * (not i % 3) for i in rng.integers(len(words), size=length).tolist()) for _ in range(count)]


def same(tokenizer: Tokenizer, encoded: tuple[np.ndarray, np.ndarray], given: list[str]) -> bool:
    """Whether the ids are those of the tokenizers library, text by text."""
    wanted = tokenizer.encode(given)
    assert not tokenizer.quick
    return all(np.array_equal(a, b) for a, b in zip(encoded, (wanted.ids, wanted.offsets), strict=True))


def test_long_texts_have_the_pieces_of_the_other_library(tokenizer: Tokenizer) -> None:
    given = texts(20, 2000)
    own = opened(tokenizer)
    assert same(tokenizer, own.encode(given), given)
    assert same(tokenizer, own.encode(given[::-1]), given[::-1])  # all parts are known by now


def test_pairs_that_share_a_place_make_parts_longer(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    given = texts(5, 300)
    monkeypatch.setattr(parts, "_BITS", 3)
    assert same(tokenizer, opened(tokenizer).encode(given), given)


def test_what_is_remembered_is_bounded(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_REMEMBERED", 640)
    own = opened(tokenizer)
    for text in texts(20, 50):
        assert same(tokenizer, own.encode([text]), [text])
    assert len(own._known) == len(own._rows) < 60


def test_pieces_of_the_same_text_that_are_as_likely_are_as_good(tokenizers: dict[str, Tokenizer]) -> None:
    content = tokenizers["unigram"].save_files()
    description = json.loads(content["tokenizer.json"])
    description["model"] |= {"vocab": [["[UNK]", 0.0], ["▁", -1.0], ["慢", -2.0], ["慢慢", -3.0], ["快", -2.0]], "unk_id": 0}
    own = Parts(content["tokenizer.model"], description)
    as_likely = same_pieces(description)

    def same(one: list[int], other: list[int]) -> bool:
        texts = [(np.array([1, *ids, 2]), np.array([0, 1 + len(ids), 2 + len(ids)])) for ids in (one, other)]
        return as_likely(*texts)

    assert own.encode(["慢慢慢"])[0].tolist() in ([1, 2, 3], [1, 3, 2])
    assert same([2, 3], [2, 3]) and same([2, 3], [3, 2])
    assert not same([2, 2, 2], [2, 3])  # less likely
    assert not same([2, 4], [4, 2])  # as likely, of another text


def test_texts_that_are_not_there_have_no_tokens(tokenizer: Tokenizer) -> None:
    own = opened(tokenizer)
    for given in ([], [""], ["", "a", ""], [" "]):
        ids, offsets = own.encode(given)
        assert same(tokenizer, (ids, offsets), given) and len(offsets) == len(given) + 1


def test_a_sign_of_the_table_stands_for_every_way_to_compose() -> None:
    """NFKC is character by character between those that have no part in composing (UAX #15)."""
    signs = parts.composers()
    codes = [c for c in range(0x11FFF) if not 0xD800 <= c < 0xE000 and not signs[c]]
    rng = np.random.default_rng(0)
    for _ in range(200):
        text = "".join(chr(codes[i]) for i in rng.integers(len(codes), size=200))
        assert normalize("NFKC", text) == "".join(normalize("NFKC", c) for c in text)
    for whole, (a, b) in {"é": "e\u0301", "각": "가\u11a8", "가": "\u1100\u1161", "が": "か\u3099"}.items():
        assert normalize("NFKC", a + b) == whole and signs[ord(b)] and not signs[ord(a)]
    assert all(not signs[ord(a)] for a, _ in pairwise("，。：“”中文 abc…½Ａ㎡"))
