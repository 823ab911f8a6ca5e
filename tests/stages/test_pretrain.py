"""What pretraining says of its data before it begins."""

from pathlib import Path
from typing import NamedTuple

import pytest

from encoderkit import files
from encoderkit.config import validate
from encoderkit.errors import ResourceError
from encoderkit.recipe import CorpusRecipe, PretrainRecipe, TokenizerRecipe
from encoderkit.stages import tokenize_corpus, train_tokenizer
from encoderkit.stages.disk import KEPT, checkpoint_bytes
from encoderkit.stages.pretrain import prepare
from tests.training.runs import go, pretraining


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
