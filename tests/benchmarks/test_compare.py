"""The table of ratios: the texts that it measures with, what is counted, what is timed, and how it is printed."""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from encoderkit.config import dump
from encoderkit.text.tokenizers import open_tokenizer
from tests.benchmarks import compare, ours, texts
from tests.benchmarks.compare import Growth, Result, Row
from tests.training.runs import pretraining


def test_texts_are_of_mixed_length_and_thirty_tokens_on_average(corpus: Path, tokenizer_dir: Path, tmp_path: Path) -> None:
    """Of a corpus that has to begin again, which is where it stops being the text of the corpus."""
    found = texts.mixed(corpus, tokenizer_dir, 2000)
    tokenizer = open_tokenizer(tokenizer_dir)
    sizes = np.diff(tokenizer.encode(found).offsets) + 2
    assert sizes.mean() == pytest.approx(texts.MEAN, abs=1) and sizes.max() <= texts.LONGEST
    assert np.percentile(sizes, (5, 50, 95)) == pytest.approx([7, 25.5, 68.4], abs=3)  # of the gamma distribution
    assert " ".join(found).startswith(" ".join(corpus.read_text(encoding="utf-8").split()))
    assert found[:500] == texts.mixed(corpus, tokenizer_dir, 500)
    texts.write(tmp_path / "texts.jsonl", found)
    rows = [json.loads(line) for line in (tmp_path / "texts.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["sentence"] for row in rows] == found and {row["label"] for row in rows} == {"0", "1"}
    (tmp_path / "long.txt").write_bytes(b"nine bytes\n" * 200_000)
    texts.shortened(tmp_path / "long.txt", 1, tmp_path / "short.txt")
    assert (tmp_path / "short.txt").read_bytes() == b"nine bytes\n" * 90_909


def test_operations_are_those_of_the_matrices(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    """Of BERT, a pass back being two forward: each product has a gradient for either side."""
    (tmp_path / "recipe.yaml").write_text(dump(pretraining(tokenizer_dir, store_dir)), encoding="utf-8")
    found = ours.operations(str(tmp_path / "recipe.yaml"))["operations"]
    rows, width, dim, layers, vocabulary = ours.ROWS, 32, 32, 2, open_tokenizer(tokenizer_dir).vocab_size
    slots = round(0.15 * width)
    layer = rows * width * (2 * (3 + 1 + 4 + 4) * dim**2 + 2 * 2 * width * dim)
    head = rows * slots * (2 * dim**2 + 2 * dim * vocabulary)
    tokens = 3 * (layers * layer + head) / found
    assert tokens == pytest.approx(round(tokens)) and 0.8 * rows * width < tokens <= rows * width


def test_the_clock_stops_at_the_first_update(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    recipe = pretraining(tokenizer_dir, store_dir, every={"log": "1 updates"}, training={"updates": 2})
    (tmp_path / "recipe.yaml").write_text(dump(recipe), encoding="utf-8")
    log = tmp_path / "run/metrics.jsonl"
    words = ("encoderkit", "pretrain", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"))
    started = time.perf_counter()
    seconds = compare.until(log, *words)
    whole = time.perf_counter() - started  # in which the run was also saved and ended
    first, second = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()[:2])
    assert first["update"] == 1 and second["update"] == 2 and first["seconds"] < seconds < whole - 0.05
    with pytest.raises(SystemExit, match="exists"):
        compare.until(tmp_path / "never", *words)


def test_lines_and_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = Row("pretrain", "GFLOP/s", "a matrix product, bf16", Result(61.24, 1000.4), Result(122.48, 300))
    assert row.cells() == ["pretrain", "a matrix product, bf16", "61.2", "122", "GFLOP/s", "0.50", "1,000", "300"]
    assert row._replace(theirs=Result(6.124, 300)).cells()[5] == "10.0"
    growth = Growth(150.7, 36_000_000, Result(9876.5, 1606), 3.21)
    assert growth.cells() == ["pretrain, BERT 4 x 256, over 151 MB", "36,000,000", "9,876", "1,606", "3.2"]
    assert [len(one.cells()) for one in (row, growth)] == [len(header) for header in compare.HEADERS.values()]
    assert all(callable(getattr(compare.Bench, name)) for name in compare.WORK)
    asked = ["compare", "--corpus", "a.txt", "--data", "b.jsonl", "--out", str(tmp_path / "out")]
    for more, told in ((("--only", "embed,tokenizer"), "found tokenizer"), (("--updates", "5"), "10 at least")):
        monkeypatch.setattr(sys, "argv", [*asked, *more])
        with pytest.raises(SystemExit) as error:
            compare.main()
        assert error.value.code == 2 and told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
