"""The token store, and rows from it: every token exactly once."""

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
from encoderkit.data.store import StoreMeta, StoreWriter, TokenStore, open_store, text_hash, write_meta
from encoderkit.errors import DataError, UsageError

CLS, SEP = 2, 3


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
    summary=st.sampled_from(["first", "last"]),
    before=st.sampled_from([0, 2, 30]),
    chunk=st.integers(1, 30),
    seed=st.integers(0, 3),
)
def test_every_token_is_in_exactly_one_row(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    length: int,
    packed: bool,
    summary: Literal["first", "last"],
    before: int,
    chunk: int,
    seed: int,
) -> None:
    store = make_store(tmp_path_factory.getbasetemp() / "store", sizes, vocab_size=5000, chunk=chunk)
    chosen = np.flatnonzero(np.random.default_rng(seed).random(len(store)) < 0.7) if seed else None
    documents = range(len(store)) if chosen is None else chosen
    rows = Rows(store, length, CLS, SEP, chosen, packed, summary, before)
    found: list[int] = []
    for i in range(len(rows)):
        row = rows[i]
        assert 3 <= len(row.ids) <= length and {len(part) for part in row[:5]} == {len(row.ids)}
        assert row.ids.dtype == row.documents.dtype == row.positions.dtype == np.int64 and row.starts.dtype == bool
        pieces = np.split(np.arange(len(row.ids)), np.flatnonzero(np.diff(row.documents)) + 1)
        assert packed or len(pieces) == 1
        for number, piece in enumerate(pieces, 1):
            lead = int(summary == "first")
            inside = piece[lead : len(piece) - 2 + lead]
            special = [CLS, SEP] if lead else [SEP, CLS]
            assert np.delete(row.ids[piece], inside - piece[0]).tolist() == special and set(row.documents[piece]) == {number}
            assert row.positions[piece].tolist() == list(range(len(piece)))
            assert np.flatnonzero(~row.special[piece]).tolist() == (inside - piece[0]).tolist()
            tokens = row.ids[inside]
            # ids count up from 5 over the whole store, so an id tells where its token was
            assert row.starts[inside].tolist() == ((tokens - 5) % 3 == 0).tolist() and not row.starts[row.special].any()
            assert np.array_equal(tokens, np.arange(tokens[0], tokens[0] + len(tokens)))
            [own] = [store[d] for d in documents if len(store[d]) and store[d][0] <= tokens[0] and tokens[-1] <= store[d][-1]]
            there = min(before, int(tokens[0] - own[0]))
            if before and number == 1:
                assert row.before is not None and row.before.tolist() == list(range(tokens[0] - there, tokens[0]))
            assert there == 0 or number == 1 or (before and len(row.before)), "one with a predecessor comes first"
            found += tokens.tolist()
    assert sorted(found) == sorted(int(i) for d in documents for i in store[d])
    assert len(rows) == 0 or rows.fill == pytest.approx(sum(len(rows[i].ids) for i in range(len(rows))) / (len(rows) * length))


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
