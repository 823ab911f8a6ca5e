"""Opening and using tokenizers: words, the library's own answers, transformers, and everything that can be wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import models, pre_tokenizers

from encoderkit import files
from encoderkit.errors import DataError
from encoderkit.text.alphabet import OWN, WORD, word_class
from encoderkit.text.tokenizers import Tokenizer, open_tokenizer
from encoderkit.text.training import Trained
from tests.text.text_samples import CHINESE, CONFIGS, MIXED

TEXTS = [
    *CHINESE.split("\n"),
    *MIXED,
    "don't stop-me now (2nd try)…",
    "x\ny\t z",
    "日本語とEnglish混ぜる",
    "龘龘 rare 𠮷",
    "a  b",
]


def starts_by_offsets(engine: Engine, text: str, spaced: bool) -> list[bool]:
    """The definition, token by token, from the library's offsets into the normalised text and its own words.

    `spaced` tokenizers keep the space, with the word behind it.
    """
    encoding, result, end = engine.encode(text, add_special_tokens=False), [], -1
    for i, (begin, stop) in enumerate(encoding.offsets):
        kind = word_class(text[begin])
        before = word_class(text[begin - 1]) if begin else WORD  # behind the space put before the text
        parted = text[begin] == " " if spaced else encoding.word_ids[i] != encoding.word_ids[i - 1]
        whole = begin >= end  # or else in the middle of a character
        result.append(i == 0 or (whole and (parted or kind >= OWN or (kind == WORD and before >= OWN))))
        if encoding.tokens[i] != "▁" or text[begin] == " ":  # or else the space put before the text, which takes no place
            end = max(end, stop)
    return result


@pytest.mark.parametrize("name", CONFIGS)
def test_word_starts_follow_the_definition(tokenizers: dict[str, Tokenizer], name: str) -> None:
    tokenizer = tokenizers[name]
    engine = Engine.from_str(tokenizer.save_files()["tokenizer.json"].decode())
    spaces = tokenizer.kind in ("bpe", "unigram", "char")
    for raw in TEXTS:
        text = engine.normalizer.normalize_str(raw)
        text = " ".join(text.split()) if not spaces else text
        encoded = tokenizer.encode([text])
        if encoded.unknown and tokenizer.kind in ("unigram", "char"):
            continue  # an unknown token is a word of its own, whatever it stands for
        tokens = [tokenizer.token(i) for i in encoded.ids]
        if any(t.startswith("<0x") for t in tokens):
            continue  # the library gives all bytes of a run of characters the place of the run
        assert list(zip(tokens, encoded.starts.tolist(), strict=True)) == list(
            zip(tokens, starts_by_offsets(engine, text, spaces), strict=True)
        ), raw


def test_characters_in_bytes_are_put_together(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["unigram-bytes"]
    encoded = tokenizer.encode(["ab\U00020bb7龘\u0192\u0193c\U0001f9ffd", "\u0193"])
    tokens = [tokenizer.token(i) for i in encoded.ids]
    started = [t for t, s in zip(tokens, encoded.starts, strict=True) if s]
    assert started.count("<0xF0>") == 2 and "<0xE9>" in started  # Chinese characters and emoji are words, letters are not
    assert started[-1] == "▁" and started.count("<0xC9>") == 0


@given(st.lists(st.text(max_size=30), min_size=1, max_size=6), st.sampled_from(sorted(CONFIGS)))
@settings(max_examples=150)
def test_any_text_encodes_as_the_library_does(tokenizers: dict[str, Tokenizer], texts: list[str], name: str) -> None:
    tokenizer = tokenizers[name]
    texts = [t.encode("utf-8", "ignore").decode() for t in texts]
    engine = Engine.from_str(tokenizer.save_files()["tokenizer.json"].decode())
    encoded = tokenizer.encode(texts)
    rows = [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]
    assert rows == [engine.encode(t, add_special_tokens=False).ids for t in texts]
    assert encoded.unknown == sum(row.count(tokenizer.unk) for row in rows)
    for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False):
        assert a == b or encoded.starts[a]
    assert len(encoded.starts) == len(encoded.ids)


def test_text_never_becomes_a_special_token(tokenizers: dict[str, Tokenizer]) -> None:
    for name, tokenizer in tokenizers.items():
        ids = tokenizer.encode(["[CLS] a [MASK][PAD] [SEP]"]).ids
        assert not set(ids.tolist()) & {0, 2, 3, 4}, name


def test_nor_does_it_where_they_are_pieces_like_others(tmp_path: Path) -> None:
    """Published models of unigram have them in their vocabularies, with scores better than those of any word."""
    names = ["<pad>", "</s>", "<unk>", "<s>", "<mask>"]
    pieces = [*((name, 0.0) for name in names), *((piece, -2.0) for piece in "▁</>spadmknub")]
    engine = Engine(models.Unigram(pieces, unk_id=2))
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.add_special_tokens(names)
    engine.save(str(tmp_path / "tokenizer.json"))
    ids = open_tokenizer(tmp_path).encode(["a </s> b<mask><pad>"]).ids
    assert ids.min() >= len(names)
    assert "".join(pieces[i][0] for i in ids) == "▁a▁</s>▁b<mask><pad>"


def test_a_piece_of_a_byte_is_not_written_in_letters(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["unigram-bytes"]
    for text in ("a <0x41> <0x42><0x43>", "\U0001f9ff <0x09>"):
        assert tokenizer.decode(tokenizer.encode([text]).ids) == text


@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_reads_the_directory_with_the_same_ids(
    trained: dict[str, Trained], tokenizers: dict[str, Tokenizer], tmp_path: Path, name: str
) -> None:
    from transformers import AutoTokenizer

    with files.staged(tmp_path / "tok") as folder:
        for file, data in trained[name].files.items():
            files.write_new(folder / file, data)
    tokenizer, reference = open_tokenizer(tmp_path / "tok"), AutoTokenizer.from_pretrained(tmp_path / "tok")
    encoded = tokenizer.encode(TEXTS)
    rows = [encoded.ids[a:b].tolist() for a, b in zip(encoded.offsets, encoded.offsets[1:], strict=False)]
    for text, row in zip(TEXTS, rows, strict=True):
        assert reference(text)["input_ids"] == [2, *row, 3]
    pair = reference(TEXTS[0], TEXTS[1])
    assert pair["input_ids"] == [2, *rows[0], 3, *rows[1], 3]
    assert pair["token_type_ids"] == [0] * (len(rows[0]) + 2) + [1] * (len(rows[1]) + 1)
    special = (reference.pad_token_id, reference.unk_token_id, reference.cls_token_id, reference.sep_token_id)
    assert (*special, reference.mask_token_id) == tuple(tokenizer.special)
    assert tokenizer.fingerprint == tokenizers[name].fingerprint


def test_a_tokenizer_of_transformers_with_other_names_and_ids(trained: dict[str, Trained], tmp_path: Path) -> None:
    engine = json.loads(trained["bpe"].files["tokenizer.json"])
    names = {"[PAD]": "<pad>", "[UNK]": "<unk>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
    last = len(engine["model"]["vocab"]) - 1
    vocab = {names.get(p, p): last - i for p, i in engine["model"]["vocab"].items()}
    engine["model"]["vocab"], engine["post_processor"] = vocab, None
    for token in engine["added_tokens"]:
        token["content"] = names[token["content"]]
        token["id"] = vocab[token["content"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(engine), encoding="utf-8")
    said = {"cls_token": {"content": "<s>"}, "mask_token": "<mask>", "bos_token": "<s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said), encoding="utf-8")
    tokenizer = open_tokenizer(tmp_path)
    assert tuple(tokenizer.special) == (last, last - 1, last - 2, last - 3, last - 4)
    assert tokenizer.kind == "bpe" and tokenizer.vocab_size == last + 1
    ours = Tokenizer(trained["bpe"].files).encode(TEXTS)
    theirs = tokenizer.encode(TEXTS)
    assert np.array_equal(last - theirs.ids.astype(int), ours.ids) and np.array_equal(theirs.starts, ours.starts)


def test_the_arrays_are_as_small_as_the_vocabulary_allows(tokenizers: dict[str, Tokenizer]) -> None:
    encoded = tokenizers["wordpiece"].encode(["", "one two", ""])
    assert encoded.ids.dtype == np.uint16 and encoded.offsets.dtype == np.int64 and encoded.starts.dtype == bool
    assert encoded.offsets.tolist()[0] == encoded.offsets.tolist()[1] == 0
    none = tokenizers["wordpiece"].encode([])
    assert len(none.ids) == len(none.starts) == 0 and none.offsets.tolist() == [0]


def test_what_cannot_be_opened_is_told(trained: dict[str, Trained], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such directory"):
        open_tokenizer(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"holds no tokenizer\.json"):
        open_tokenizer(tmp_path)
    for content, message in (
        (b"{", "not valid JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "has no model"),
        (b'{"model": {"type": "BPE"}}', "reading tokenizer.json failed"),
        (b"\xff\xfe", "not valid JSON"),
    ):
        (tmp_path / "tokenizer.json").write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_tokenizer(tmp_path)
    without = json.loads(trained["word"].files["tokenizer.json"])
    del without["model"]["vocab"]["[MASK]"], without["added_tokens"][4]
    (tmp_path / "tokenizer.json").write_text(json.dumps(without), encoding="utf-8")
    with pytest.raises(DataError, match="has no mask token"):
        open_tokenizer(tmp_path)


def test_a_changed_file_is_noticed(trained: dict[str, Trained], tmp_path: Path) -> None:
    with files.staged(tmp_path / "tok") as folder:
        for file, data in trained["word"].files.items():
            files.write_new(folder / file, data)
    path = tmp_path / "tok" / "tokenizer.json"
    path.write_bytes(path.read_bytes().replace(b"the", b"thy"))
    with pytest.raises(DataError, match="changed since"):
        open_tokenizer(tmp_path / "tok")


def test_half_a_character_is_an_error(tokenizers: dict[str, Tokenizer]) -> None:
    with pytest.raises(DataError, match="text 1 holds half a surrogate pair"):
        tokenizers["wordpiece"].encode(["fine", "\ud800"])
    with pytest.raises(DataError, match="outside the vocabulary"):
        tokenizers["wordpiece"].token(10**6)
