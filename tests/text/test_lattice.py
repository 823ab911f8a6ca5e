"""The best pieces by compiled code are those of the other library."""

import json
from collections.abc import Iterator

import numpy as np
import pytest

from encoderkit.text import lattice
from encoderkit.text.lattice import Lattice
from encoderkit.text.parts import same_pieces
from encoderkit.text.tokenizers import Tokenizer
from tests.text.test_parts import texts

pytest.importorskip("numba")
KOREAN = "\u1112\u1161\u11ab"
"""A syllable in letters, which the normaliser puts together."""


@pytest.fixture(params=["unigram", "unigram-bytes", "unigram-split"])
def tokenizer(request: pytest.FixtureRequest, tokenizers: dict[str, Tokenizer]) -> Iterator[Tokenizer]:
    yield tokenizers[request.param]


def opened(tokenizer: Tokenizer, parallel: bool = False) -> Lattice:
    return Lattice(json.loads(tokenizer.save_files()["tokenizer.json"]), parallel)


def check(tokenizer: Tokenizer, own: Lattice, given: list[str]) -> None:
    ids, offsets = own.encode(given)
    wanted = tokenizer.encode(given)
    assert not tokenizer.quick
    assert np.array_equal(offsets, wanted.offsets) and np.array_equal(ids, wanted.ids)


def test_long_texts_have_the_pieces_of_the_other_library(tokenizer: Tokenizer) -> None:
    own = opened(tokenizer)
    given = texts(20, 2000)
    check(tokenizer, own, given)
    check(tokenizer, own, given[::-1])


def test_unknown_characters_are_one_token_in_a_text_and_not_across_two(tokenizer: Tokenizer) -> None:
    own = opened(tokenizer)
    check(tokenizer, own, ["龘龘a龘", "龘", "", "龘龘", " 龘 龘", "\U0001f468龘\U0010fffe", "龘"])


def test_characters_met_later_and_those_that_join_the_one_before_them(tokenizer: Tokenizer) -> None:
    own = opened(tokenizer)
    for given in (["plain"], ["e\u0301te\u0301", "plain"], [KOREAN, f"{KOREAN}{KOREAN}", "각"], ["か\u3099"], ["𠀀𠀁", "\u0301"]):
        check(tokenizer, own, given)
        check(tokenizer, own, [*given, "中文 plain"])


def test_the_last_of_all_characters_is_one_like_others(tokenizer: Tokenizer) -> None:
    own = opened(tokenizer)
    check(tokenizer, own, ["a\U0010ffffb", "\U0010ffff", "\U0010fffe \U0010ffff\U0010ffff", "龘\U0010ffff𠀀"])


def test_texts_of_spaces_have_no_tokens(tokenizer: Tokenizer) -> None:
    check(tokenizer, opened(tokenizer), ["", " ", "\u3000\n\t", "▁", " a  b ", "a▁▁b", "\x00\u200b"])
    check(tokenizer, opened(tokenizer), [])


def test_the_number_of_threads_changes_nothing(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lattice, "_SHARE", 10)
    monkeypatch.setattr(lattice.os, "cpu_count", lambda: 7)
    own = opened(tokenizer, parallel=True)
    for given in (texts(40, 20), texts(1, 300), ["", "", "龘" * 30, ""], ["a" * 100, *[""] * 30], []):
        check(tokenizer, own, given)


def test_of_ways_that_are_as_likely_one_comes_out(tokenizers: dict[str, Tokenizer]) -> None:
    description = json.loads(tokenizers["unigram"].save_files()["tokenizer.json"])
    description["model"] |= {"vocab": [["[UNK]", 0.0], ["▁", -1.0], ["慢", -2.0], ["慢慢", -3.0], ["快", -2.0]], "unk_id": 0}
    found = Lattice(description, parallel=False).encode(["慢慢慢"])
    assert same_pieces(description)(found, (np.array([1, 2, 3]), np.array([0, 3])))
    assert not same_pieces(description)(found, (np.array([1, 2, 2, 2]), np.array([0, 4])))


@pytest.mark.parametrize(
    "change", [{"pre_tokenizer": None}, {"pre_tokenizer": {"type": "Metaspace", "prepend_scheme": "never", "replacement": "▁"}}]
)
def test_what_it_does_not_do_as_the_library_does_is_refused(tokenizers: dict[str, Tokenizer], change: dict[str, object]) -> None:
    description = json.loads(tokenizers["unigram"].save_files()["tokenizer.json"])
    with pytest.raises(ValueError):
        Lattice(description | change, parallel=False)


def test_bytes_that_are_not_all_there_are_refused(tokenizers: dict[str, Tokenizer]) -> None:
    description = json.loads(tokenizers["unigram-bytes"].save_files()["tokenizer.json"])
    description["model"]["vocab"] = [row for row in description["model"]["vocab"] if row[0] != "<0x41>"]
    with pytest.raises(ValueError):
        Lattice(description, parallel=False)
