"""The token store, and rows from it: every token exactly once."""

import hashlib
import json
import time
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoderkit import files
from encoderkit.data.blocks import Rows, pack
from encoderkit.data.pairs import PairRows, Relation, paired
from encoderkit.data.store import StoreMeta, StoreWriter, TokenStore, open_store, write_meta
from encoderkit.errors import DataError, UsageError

CLS, SEP = 2, 3


def text_hash(text: str) -> int:
    """The hash of a document by its content, as `hashes.bin` holds it."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def make_store(folder: Path, sizes: list[int], vocab_size: int = 300, chunk: int = 7) -> TokenStore:
    """Documents of `sizes` tokens with ids 5, 6, 7, ..., written `chunk` tokens at a time."""
    ids, starts = np.arange(sum(sizes)) % (vocab_size - 5) + 5, np.arange(sum(sizes)) % 3 == 0
    ends = np.cumsum(sizes)
    with files.staged(folder, overwrite=True) as staging:
        with StoreWriter(staging, vocab_size) as writer:
            for low in range(0, max(len(ids), 1), chunk):
                here = (ends > low) & (ends <= low + chunk) if low else ends <= chunk
                hashes = np.array([text_hash(str(i)) for i in np.flatnonzero(here)], np.uint64)
                empty = writer.write(ids[low : low + chunk], starts[low : low + chunk], ends[here] - low, hashes)
                assert empty == np.count_nonzero(np.array(sizes)[here] == 0)
        options = {"bytes": 0, "fingerprint": "f", "tokenizer": {}, "options": {}, "sources": [], "dropped": {}}
        meta = StoreMeta(1, vocab_size, writer.dtype.name, writer.documents, writer.tokens, unknown=0, **options)
        write_meta(staging, meta)
    return open_store(folder)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any),
    length=st.integers(3, 16),
    packed=st.booleans(),
    layout=st.sampled_from(["first", "last", "alone"]),
    before=st.sampled_from([0, 2, 30]),
    chunk=st.integers(1, 30),
    seed=st.integers(0, 3),
)
def test_every_token_is_in_exactly_one_row(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    length: int,
    packed: bool,
    layout: Literal["first", "last", "alone"],
    before: int,
    chunk: int,
    seed: int,
) -> None:
    store = make_store(tmp_path_factory.getbasetemp() / "store", sizes, vocab_size=5000, chunk=chunk)
    chosen = np.flatnonzero(np.random.default_rng(seed).random(len(store)) < 0.7) if seed else None
    documents = range(len(store)) if chosen is None else chosen
    special = {"first": [CLS, SEP], "last": [SEP, CLS], "alone": [SEP]}[layout]
    cls = SEP if layout == "alone" else CLS
    rows = Rows(store, length, cls, SEP, chosen, packed, "first" if layout == "first" else "last", before)
    found: list[int] = []
    for i in range(len(rows)):
        row = rows[i]
        assert len(special) < len(row.ids) <= length and {len(part) for part in row[:5]} == {len(row.ids)}
        assert row.ids.dtype == row.documents.dtype == row.positions.dtype == np.int64 and row.starts.dtype == bool
        pieces = np.split(np.arange(len(row.ids)), np.flatnonzero(np.diff(row.documents)) + 1)
        assert packed or len(pieces) == 1
        for number, piece in enumerate(pieces, 1):
            lead = int(layout == "first")
            inside = piece[lead : len(piece) - len(special) + lead]
            assert np.delete(row.ids[piece], inside - piece[0]).tolist() == special and set(row.documents[piece]) == {number}
            assert row.positions[piece].tolist() == list(range(len(piece)))
            assert np.flatnonzero(~row.special[piece]).tolist() == (inside - piece[0]).tolist()
            tokens = row.ids[inside]
            # ids count up from 5 over the whole store, so an id tells where its token was
            assert row.starts[inside].tolist() == ((tokens - 5) % 3 == 0).tolist() and not row.starts[row.special].any()
            assert np.array_equal(tokens, np.arange(tokens[0], tokens[0] + len(tokens)))
            [own] = [store[d] for d in documents if len(store[d]) and store[d][0] <= tokens[0] and tokens[-1] <= store[d][-1]]
            assert row.cut[number - 1].tolist() == [tokens[0] != own[0], tokens[-1] != own[-1]]
            there = min(before, int(tokens[0] - own[0]))
            if before and number == 1:
                assert row.before.tolist() == list(range(tokens[0] - there, tokens[0]))
            assert there == 0 or number == 1 or (before and len(row.before)), "one with a predecessor comes first"
            found += tokens.tolist()
    assert sorted(found) == sorted(int(i) for d in documents for i in store[d])
    assert rows.sizes(np.arange(len(rows))[::-1]).tolist() == [len(rows[i].ids) for i in reversed(range(len(rows)))]
    assert len(rows) == 0 or rows.fill == pytest.approx(sum(len(rows[i].ids) for i in range(len(rows))) / (len(rows) * length))


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=2, max_size=30).filter(lambda sizes: max(sizes) > 1),
    length=st.integers(5, 16),
    packed=st.booleans(),
    relation=st.sampled_from(["next", "order"]),
    seed=st.integers(0, 3),
)
def test_pairs_hold_every_token_once_but_for_what_is_from_elsewhere(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], length: int, packed: bool, relation: Relation, seed: int
) -> None:
    store = make_store(tmp_path_factory.getbasetemp() / "pairs", sizes, vocab_size=5000)
    rows = PairRows(store, length, CLS, SEP, packed=packed)
    document = np.repeat(np.arange(len(store)), np.diff(store.offsets))  # of the token with id 5 + i
    own: list[int] = []
    for i in range(len(rows)):
        made = paired(rows[i], relation, np.random.default_rng((seed, i)))
        again = paired(rows[i], relation, np.random.default_rng((seed, i)))
        assert all(np.array_equal(a, b) for a, b in zip([*made.row, *made[1:]], [*again.row, *again[1:]], strict=True))
        row, labels = made.row, dict(zip(made.firsts.tolist(), made.labels.tolist(), strict=True))
        assert len(row.ids) <= length and {len(part) for part in (*row[:5], made.segments)} == {len(row.ids)}
        pieces = np.split(np.arange(len(row.ids)), np.flatnonzero(np.diff(row.documents)) + 1)
        assert packed or len(pieces) == 1
        for number, (piece, place) in enumerate(zip(pieces, rows.places(i), strict=True), 1):
            assert row.ids[piece[0]] == CLS and row.ids[piece[-1]] == SEP and set(row.documents[piece]) == {number}
            assert row.positions[piece].tolist() == list(range(len(piece)))
            ends = np.flatnonzero(row.special[piece])[1:]
            assert (row.ids[piece[ends]] == SEP).all() and row.special[piece].sum() == 1 + len(ends)
            parts = [row.ids[piece[a + 1 : b]].tolist() for a, b in zip([0, *ends], ends, strict=False)]
            assert made.segments[piece].tolist() == [0] * (len(parts[0]) + 2) + [1] * (len(piece) - len(parts[0]) - 2)
            assert row.starts[piece[[1, *(ends[:-1] + 1)]]].all()
            for part in parts:
                assert len(part) and part == list(range(part[0], part[0] + len(part)))
            if len(parts) == 1:
                assert len(parts[0]) == 1 and int(piece[0]) not in labels
                own += parts[0]
                continue
            first, second = parts
            mine = document[place]
            assert {int(d) for d in document[np.array(first) - 5]} == {mine}
            if labels[int(piece[0])] == 0:
                assert first[-1] + 1 == second[0]
            elif relation == "order":
                assert second[-1] + 1 == first[0]
            else:
                other = {int(d) for d in document[np.array(second) - 5]}
                assert len(other) == 1 and other != {mine}
                own += first
                continue
            own += first + second
    assert rows.sizes(np.arange(len(rows))).tolist() == [len(rows[i].ids) for i in range(len(rows))]
    missing = sorted(set(range(5, 5 + sum(sizes))) - set(own))
    assert len(own) == len(set(own)) and (relation == "next" or not missing)


def test_pairs_are_cut_where_words_begin_and_half_of_them_are_changed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", [40] * 60, vocab_size=5000)
    rows = PairRows(store, 43, CLS, SEP)
    assert len(rows) == 60 and rows.fill == 1 and rows.tokens == 2400
    for relation in ("next", "order"):
        made = [paired(rows[i], relation, np.random.default_rng((epoch, i))) for epoch in range(20) for i in range(60)]
        labels = np.concatenate([one.labels for one in made])
        assert labels.mean() == pytest.approx(0.5, abs=0.05)
        sizes = []
        for one in made:
            tokens = [one.row.ids[(one.segments == side) & ~one.row.special] for side in (0, 1)]
            sizes.append(len(tokens[0]))
            later = tokens[int(relation == "next" or one.labels[0] == 0)]
            begin = int(later[0]) - 5  # in the store, where a word begins at every third token, and with each document
            assert begin % 3 == 0 or begin % 40 == 0
            assert len(tokens[0]) + len(tokens[1]) == 40
        assert len(set(sizes)) > 10  # the cut is another one each time
    elsewhere = {int(rows.elsewhere(80, 10, np.random.default_rng(i)).ids[0] - 5) // 40 for i in range(500)}
    assert elsewhere == set(range(60)) - {2}


def test_pairs_need_two_documents_and_two_tokens(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least two documents"):
        PairRows(make_store(tmp_path / "a", [30]), 16, CLS, SEP)
    with pytest.raises(DataError, match="no document has two tokens"):
        PairRows(make_store(tmp_path / "b", [1, 1]), 16, CLS, SEP)
    with pytest.raises(UsageError, match="no room for a pair"):
        PairRows(make_store(tmp_path / "c", [9, 9]), 4, CLS, SEP)


def test_packing_wastes_next_to_nothing_in_no_time() -> None:
    sizes = np.minimum(np.random.default_rng(0).geometric(0.02, 300_000) + 2, 128)
    started = time.process_time()
    rows = pack(sizes, 128)
    assert time.process_time() - started < 2
    filled = np.bincount(rows, weights=sizes)
    assert filled.max() <= 128 and filled.min() > 0 and sizes.sum() / (len(filled) * 128) > 0.995


def test_ids_take_the_smallest_type_and_starts_one_bit(tmp_path: Path) -> None:
    for vocab_size, name in ((256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")):
        store = make_store(tmp_path / str(vocab_size), [9, 0, 4], vocab_size)
        assert store.ids.dtype == name == store.meta.dtype and store.bits.nbytes == 2
        assert store.offsets.tolist() == [0, 9, 13] and len(store) == 2
        assert store.starts(2, 11).tolist() == [i % 3 == 0 for i in range(2, 11)]


def test_documents_are_held_out_by_content(tmp_path: Path) -> None:
    store = make_store(tmp_path / "a", [1] * 2000)
    train, dev = store.split(0.05)
    assert sorted([*train, *dev]) == list(range(2000)) and 60 < len(dev) < 140
    larger = make_store(tmp_path / "b", [1] * 3000)
    assert set(dev) == {d for d in larger.split(0.05)[1] if d < 2000}
    assert [len(side) for side in store.split(0)] == [2000, 0] and len(store.split(1e-9)[1]) == 1
    with pytest.raises(DataError, match="leaves none to train on"):
        store.split(1.0)


def test_what_is_no_store_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such token store"):
        open_store(tmp_path / "none")
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    with pytest.raises(DataError, match="is a file, not a token store"):
        open_store(tmp_path / "a.txt")
    (tmp_path / "tokenizer.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="is a tokenizer, not a token store"):
        open_store(tmp_path)
    store = make_store(tmp_path / "s", [5, 5])
    meta = json.loads((store.path / "meta.json").read_text(encoding="utf-8"))
    data = (store.path / "ids.bin").read_bytes()
    for damage in (data[:-2], data[:-1] + b"\1"):
        (store.path / "ids.bin").write_bytes(damage)
        with pytest.raises(DataError, match=r"ids\.bin: .*it is damaged"):
            open_store(store.path)
    (store.path / "meta.json").write_text(json.dumps(meta | {"format": 9}), encoding="utf-8")
    with pytest.raises(DataError, match="of format 9; this version of encoderkit reads format 1"):
        open_store(store.path)


def test_a_row_has_room_for_a_token(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no room"):
        Rows(make_store(tmp_path / "a", [3]), 2, CLS, SEP)
