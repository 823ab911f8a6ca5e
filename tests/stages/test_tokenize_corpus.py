"""The stage `tokenize`: the same store whatever the workers, whole or not at all, nothing lost."""

import io
import lzma
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from encoderkit import files
from encoderkit.data import corpus
from encoderkit.data.config import CorpusConfig
from encoderkit.data.store import open_store
from encoderkit.errors import DataError, ResourceError, UsageError
from encoderkit.stages import encode_pool, tokenize_corpus
from encoderkit.stages.tokenize_corpus import run
from encoderkit.text import lattice
from encoderkit.text.config import SegmentConfig, TokenizerConfig
from encoderkit.text.quick import Quick
from encoderkit.text.tokenizers import open_tokenizer
from encoderkit.text.training import train
from tests.data.test_store_blocks import text_hash

CONFIG = CorpusConfig(documents="line")
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    stems = ("the", "quick", "brown", "fox", "jumps", "over")
    words = np.array([stem + end for stem in stems for end in ("", "er", "ing", "s", "好")])
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(words, rng.integers(1, 40))) for _ in range(400)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    engine = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    engine.normalizer, engine.pre_tokenizer = normalizers.NFC(), pre_tokenizers.Whitespace()
    engine.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=120, special_tokens=SPECIAL, show_progress=False))
    folder = tmp_path_factory.mktemp("tok")
    engine.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def data(tmp_path: Path, texts: list[str]) -> list[Path]:
    (tmp_path / "a.txt").write_text("\n".join([*texts[:200], "", "\u200d"]), encoding="utf-8")
    (tmp_path / "b.txt.xz").write_bytes(lzma.compress("\n".join([*texts[200:], "x " * 50_000]).encode()))
    return [tmp_path / "a.txt", tmp_path / "b.txt.xz"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_store_holds_each_document_once(tmp_path: Path, data: list[Path], texts: list[str], tokenizer: Path) -> None:
    result = run(data, tokenizer, CONFIG, tmp_path / "out", workers=1)
    store, reference = open_store(tmp_path / "out"), open_tokenizer(tokenizer)
    long = "x " * 50_000
    assert (result["documents"], result["tokens"]) == (len(store), len(store.ids))
    expected = [*texts[:200], "\u200d", *texts[200:], long]
    kept = [text for text in expected if len(reference.encode([text]).ids)]
    assert result["dropped"] == {"empty": 1} | ({"no_tokens": 1} if len(kept) < len(expected) else {})
    assert store.hashes.tolist() == [text_hash(text) for text in kept]
    for i, text in enumerate(kept):
        alone = reference.encode([text])
        assert np.array_equal(store[i], alone.ids)
        assert np.array_equal(store.starts(store.offsets[i], store.offsets[i + 1]), alone.starts)
    assert open_tokenizer(store.tokenizer).fingerprint == reference.fingerprint == store.meta.tokenizer["fingerprint"]
    assert store.meta.tokenizer["special"] == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert result["bytes_per_token"] == sum(len(text.encode()) for text in expected) / result["tokens"]


def test_workers_and_sizes_of_jobs_change_nothing(
    tmp_path: Path, data: list[Path], tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tokenizer, CONFIG, tmp_path / "one", workers=1)
    monkeypatch.setattr(encode_pool, "_WORTH", 1000)
    monkeypatch.setattr(tokenize_corpus, "_JOB", 3000)
    monkeypatch.setattr(corpus, "PIECE", 4000)
    run(data, tokenizer, CONFIG, tmp_path / "three", workers=3)
    assert content(tmp_path / "one") == content(tmp_path / "three")


def test_a_store_of_the_same_things_is_used(
    tmp_path: Path, data: list[Path], tokenizer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first = run(data, tokenizer, CONFIG, out, workers=1)
    again = run(data, tokenizer, CONFIG, out, workers=1)
    assert again["reused"] and {**again, "seconds": 0, "reused": False} == {**first, "seconds": 0}
    assert "used as it is" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"what differs: options \(min_chars\)"):
        run(data, tokenizer, CorpusConfig(documents="line", min_chars=5), out)
    with pytest.raises(UsageError, match="what differs: corpus"):
        run(data[:1], tokenizer, CONFIG, out)
    assert run(data[:1], tokenizer, CONFIG, out, overwrite=True, workers=1)["documents"] < first["documents"]
    (out / "ids.bin").write_bytes(b"\0")
    with pytest.raises(DataError, match="damaged"):
        run(data[:1], tokenizer, CONFIG, out)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine").touch()
    with pytest.raises(UsageError, match="nothing is overwritten unasked"):
        run(data, tokenizer, CONFIG, tmp_path / "other")


def test_standard_input_has_a_fingerprint_too(
    tmp_path: Path, data: list[Path], tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for name in ("a", "b"):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data[0].read_bytes()), encoding="utf-8"))
        results.append(run(["-"], tokenizer, CONFIG, tmp_path / name, workers=2))
    file = run(data[:1], tokenizer, CONFIG, tmp_path / "c", workers=1)
    assert results[0]["fingerprint"] == results[1]["fingerprint"] == file["fingerprint"]


def test_an_error_leaves_nothing(tmp_path: Path, data: list[Path], tokenizer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c.txt").write_bytes(b"fine\n" * 1000 + b"\xff\n")
    monkeypatch.setattr(encode_pool, "_WORTH", 1000)
    monkeypatch.setattr(tokenize_corpus, "_JOB", 3000)
    before = set(tmp_path.iterdir())
    with pytest.raises(DataError, match=r"c\.txt:1001"):
        run([*data, tmp_path / "c.txt"], tokenizer, CONFIG, tmp_path / "out", workers=2)
    assert set(tmp_path.iterdir()) == before
    with pytest.raises(DataError, match=r"no tokenizer\.json"):
        run(data, tmp_path, CONFIG, tmp_path / "out")


def test_any_operation_that_fails_leaves_nothing(
    tmp_path: Path, data: list[Path], tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, count = set(tmp_path.iterdir()), 0

    def fail_at(n: int):
        def operate(operation: str, path: Path) -> None:
            nonlocal count
            count += 1
            if count == n:
                raise OSError(28, "No space left on device")

        return operate

    for n in range(1, 200):
        count = 0
        monkeypatch.setattr(files, "_operate", fail_at(n))
        try:
            run(data[:1], tokenizer, CONFIG, tmp_path / "out", workers=1)
        except ResourceError as error:
            assert "the disk is full" in str(error)
            assert set(tmp_path.iterdir()) - before <= {tmp_path / "out"}
            if (tmp_path / "out").exists():  # the rename was done, only the last sync failed: it is whole
                open_store(tmp_path / "out")
                files.remove(tmp_path / "out")
        else:
            assert count < n > 20
            return
    raise AssertionError("never succeeded")


SCRIPT = """
import sys
from pathlib import Path
from encoderkit.data.config import CorpusConfig
from encoderkit.stages import encode_pool, tokenize_corpus
encode_pool._WORTH, tokenize_corpus._JOB = 1000, 2000
print("started", flush=True)
tokenize_corpus.run([sys.argv[1]], Path(sys.argv[2]), CorpusConfig(documents="line"), Path(sys.argv[3]), 2)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_killed_half_way_it_leaves_no_store_and_no_process(
    tmp_path: Path, texts: list[str], tokenizer: Path, number: signal.Signals
) -> None:
    (tmp_path / "big.txt").write_text("\n".join(texts * 200), encoding="utf-8")
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    command = [sys.executable, "script.py", "big.txt", str(tokenizer), "out"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    deadline = time.monotonic() + 30
    while not any(tmp_path.glob(".staging-out*/ids.bin")) and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
    _, talk = process.communicate(timeout=30)
    assert process.returncode != 0 and not (tmp_path / "out").exists()
    if number == signal.SIGINT:
        assert talk.count("Traceback") == 1 and "KeyboardInterrupt" in talk  # the parent's own, which the CLI turns into 130
        assert not list(tmp_path.glob(".staging-*"))
    with pytest.raises(ProcessLookupError):  # the workers have gone with their parent
        for _ in range(100):
            os.killpg(process.pid, 0)
            time.sleep(0.05)


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A tokenizer that the faster library supports."""
    folder = tmp_path_factory.mktemp("wordpiece")
    for name, data in train(iter(texts), TokenizerConfig(vocab_size=200)).files.items():
        (folder / name).write_bytes(data)
    return folder


def test_the_faster_library_makes_the_same_store(
    tmp_path: Path, data: list[Path], wordpiece: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nanotoken")
    monkeypatch.setattr(tokenize_corpus, "_JOB", 2000)
    run(data, wordpiece, CONFIG, tmp_path / "fast")
    assert "encoding with nanotoken: the same ids as tokenizers for a sample of " in capsys.readouterr().err
    monkeypatch.setattr("encoderkit.text.tokenizers.quick_engine", lambda *_: None)
    run(data, wordpiece, CONFIG, tmp_path / "slow", workers=1)
    assert "encoding with" not in capsys.readouterr().err
    assert content(tmp_path / "fast") == content(tmp_path / "slow")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("name", ["numba", "remembered parts"])
def test_a_faster_unigram_makes_the_same_store(
    tmp_path: Path, texts: list[str], workers: int, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    unigram, data = tmp_path / "unigram", tmp_path / "data.txt"
    unigram.mkdir()
    for file, content_of in train(iter(texts), TokenizerConfig(kind="unigram", vocab_size=60)).files.items():
        (unigram / file).write_bytes(content_of)
    data.write_text("\n".join(texts), encoding="utf-8")
    if name == "numba":
        pytest.importorskip(name)
        monkeypatch.setattr(lattice, "_SHARE", 300)
    else:
        (tmp_path / "without").mkdir()
        (tmp_path / "without" / "numba.py").write_text("raise ImportError")
        monkeypatch.syspath_prepend(tmp_path / "without")  # for the workers
        monkeypatch.setattr(lattice, "compiled", lambda _: None)
    monkeypatch.setattr(encode_pool, "_WORTH_QUICK", 1000)
    monkeypatch.setattr(tokenize_corpus, "_JOB", 2000)
    run([data], unigram, CONFIG, tmp_path / "fast", workers=workers)
    assert f"encoding with {name}: the same ids as tokenizers for a sample of " in capsys.readouterr().err
    monkeypatch.setattr("encoderkit.text.tokenizers.quick_engine", lambda *_: None)
    run([data], unigram, CONFIG, tmp_path / "slow", workers=1)
    assert content(tmp_path / "fast") == content(tmp_path / "slow")


def test_a_faster_library_that_errs_later_is_found_out(
    tmp_path: Path, data: list[Path], wordpiece: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Right for the sample and wrong afterwards: the store is made again without it."""
    honest, calls = open_tokenizer(wordpiece), [0]

    def err(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        calls[0] += 1
        encoded = honest.encode(texts)
        return (encoded.ids if calls[0] < 4 else np.zeros_like(encoded.ids)), encoded.offsets

    monkeypatch.setattr(tokenize_corpus, "_JOB", 2000)
    monkeypatch.setattr("encoderkit.text.tokenizers.quick_engine", lambda *_: Quick("careless", err))
    run(data, wordpiece, CONFIG, tmp_path / "out")
    said = capsys.readouterr().err
    assert "encoding with careless" in said and "warning: the faster library gave other ids" in said
    monkeypatch.setattr("encoderkit.text.tokenizers.quick_engine", lambda *_: None)
    run(data, wordpiece, CONFIG, tmp_path / "slow")
    assert content(tmp_path / "out") == content(tmp_path / "slow")


def test_a_segmenter_changes_the_marks_alone(
    tmp_path: Path, texts: list[str], wordpiece: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not an id; the same with the faster library there or not and with any number of workers; told apart by fingerprint."""
    pytest.importorskip("rjieba")
    data, words = tmp_path / "zh.txt", tmp_path / "words.txt"
    data.write_text("\n".join(["我们在中国 the quick fox 好人", *texts[:100]]), encoding="utf-8")
    words.write_text("好人\n", encoding="utf-8")
    zh, own = SegmentConfig(kind="zh"), SegmentConfig(kind="zh", dictionary=str(words))
    plain = run([data], wordpiece, CONFIG, tmp_path / "plain")
    one = run([data], wordpiece, CONFIG, tmp_path / "one", workers=1, segment=zh)
    monkeypatch.setattr(encode_pool, "_WORTH", 1000)
    monkeypatch.setattr(tokenize_corpus, "_JOB", 2000)
    monkeypatch.setattr("encoderkit.text.tokenizers.quick_engine", lambda *_: None)
    run([data], wordpiece, CONFIG, tmp_path / "two", workers=2, segment=zh)
    other = run([data], wordpiece, CONFIG, tmp_path / "three", workers=2, segment=own)
    assert content(tmp_path / "one") == content(tmp_path / "two")
    stores = [open_store(tmp_path / name) for name in ("plain", "one", "three")]
    assert all(np.array_equal(store.ids, stores[0].ids) for store in stores)
    assert (plain["unknown_rate"], plain["bytes_per_token"]) == (one["unknown_rate"], one["bytes_per_token"])
    assert [store.starts(0, 5).tolist() for store in stores[:2]] == [[True] * 5, [True, False, True, True, False]]
    assert len({plain["fingerprint"], one["fingerprint"], other["fingerprint"]}) == 3
    assert "straddling" not in plain and one["straddling"] == 0
    assert run([data], wordpiece, CONFIG, tmp_path / "one", segment=zh)["reused"]
    for segment in (None, own):
        with pytest.raises(UsageError, match=r"what differs: options \(segment\)"):
            run([data], wordpiece, CONFIG, tmp_path / "one", segment=segment)
