"""What pretraining says of its data before it begins."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from encoderkit import files
from encoderkit.config import validate
from encoderkit.errors import ResourceError
from encoderkit.recipe import CorpusRecipe, PretrainRecipe, TokenizerRecipe
from encoderkit.stages import tokenize_corpus, train_tokenizer
from encoderkit.stages.disk import KEPT, check_room, checkpoint_bytes
from encoderkit.stages.pretrain import prepare
from tests.training.runs import go, go_until, pretraining


class Usage(NamedTuple):
    """As `shutil.disk_usage` tells it."""

    free: int


TEXT = "我们用编码器训练模型\n这些模型可以分类文本\n今天天气很好我们去公园\n" * 20


@pytest.mark.parametrize("segmented", [False, True])
def test_whole_words_of_a_store_without_words_are_told(
    segmented: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Characters are hidden one by one where nothing says which of them make a word."""
    if segmented:
        pytest.importorskip("rjieba")
    data = tmp_path / "zh.txt"
    data.write_text(TEXT, encoding="utf-8")
    made = validate(TokenizerRecipe, {"kind": "char", "vocab_size": 60, "corpus": {"documents": "line"}}, "recipe")
    train_tokenizer.run([data], made, made.corpus, tmp_path / "tok")
    corpus = validate(CorpusRecipe, {"documents": "line", **({"segment": {"kind": "zh"}} if segmented else {})}, "recipe")
    tokenize_corpus.run([data], tmp_path / "tok", corpus, tmp_path / "tokens", workers=1, segment=corpus.segment)
    for unit in ("token", "word"):
        capsys.readouterr()
        recipe = {
            "tokenizer": str(tmp_path / "tok"),
            "data": {"train": str(tmp_path / "tokens"), "dev": None, "length": 16},
            "model": {"kind": "bert", "dim": 8, "layers": 1, "heads": 1},
            "objective": {"kind": "masked", "unit": unit},
            "training": {"updates": 1},
        }
        prepare(validate(PretrainRecipe, recipe, "recipe"))
        told = "they will be hidden one by one" in capsys.readouterr().err
        assert told == (unit == "word" and not segmented)


def test_a_disk_that_is_too_full_is_told_before_anything_is_computed(
    tokenizer_dir: Path, store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it needs is what it comes to: the checkpoints that are kept, and one more while it is written."""
    recipe, out = pretraining(tokenizer_dir, store_dir), tmp_path / "run"
    learner = prepare(recipe).learner
    need = (KEPT + 1) * checkpoint_bytes(recipe, learner)  # pyright: ignore[reportArgumentType]
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(need - 1000))  # the lock is there already
    with pytest.raises(ResourceError, match="the disk has 1 MiB left, and this run needs 1: it keeps 3 checkpoints"):
        go(recipe, out)
    assert not out.exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(need))
    go(recipe, out)
    files.verify(out / "step-0000006")
    steps = [*out.glob("step-*")]
    size = sum(path.stat().st_size for step in steps for path in step.rglob("*.safetensors"))
    assert size / len(steps) == pytest.approx(need / (KEPT + 1), rel=0.1)
    go(recipe, out, resume=True)  # it has come to its end, and needs no more


def test_of_several_runs_the_first_is_told_that_there_is_no_room_for_all(
    tokenizer_dir: Path, store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = pretraining(tokenizer_dir, store_dir)
    learner: Any = prepare(recipe).learner
    each = checkpoint_bytes(recipe, learner)
    (tmp_path / "manifest.json").write_text(json.dumps({"runs": ["seed-1", "seed-2"]}), encoding="utf-8")
    for out, later in (("seed-1", 1), ("seed-2", 0), ("seed-9", 0)):
        need = (KEPT * (1 + later) + 1) * each
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=need - 1: Usage(free))
        with pytest.raises(ResourceError) as found:
            check_room(recipe, learner, tmp_path / out)
        assert ("so does each of 1 to come" in found.value.message) == bool(later)
        monkeypatch.setattr("shutil.disk_usage", lambda path, free=need: Usage(free))
        check_room(recipe, learner, tmp_path / out)
        (tmp_path / out).mkdir()
        (tmp_path / out / "plan.json").touch()


def test_a_run_that_goes_on_needs_room_too(
    tokenizer_dir: Path, store_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, out = pretraining(tokenizer_dir, store_dir), tmp_path / "run"
    go_until(recipe, out, 2)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0))
    with pytest.raises(ResourceError, match="the disk has"):
        go(recipe, out, resume=True)


def test_a_rise_that_is_longer_than_the_run_is_told(
    tokenizer_dir: Path, store_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for warmup, told in (("50%", False), (5, False), (6, True)):
        go(pretraining(tokenizer_dir, store_dir, schedule={"kind": "linear", "warmup": warmup}), tmp_path / f"run-{warmup}")
        assert ("schedule.warmup has 6 updates, and the run 6" in capsys.readouterr().err) == told


@pytest.mark.parametrize("warmup", ["100%", 6])
def test_a_rate_that_only_rises_is_told(
    warmup: str | int, tokenizer_dir: Path, store_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = pretraining(tokenizer_dir, store_dir)
    schedule = recipe.schedule.model_copy(update={"warmup": warmup})
    go(recipe.model_copy(update={"schedule": schedule}), tmp_path / "run")
    assert "schedule.warmup has 6 updates, and the run 6: the rate only rises" in capsys.readouterr().err
