"""`train-tokenizer` as a command: its result, its account of the bytes, its refusals."""

import json
from pathlib import Path

import pytest

from encoderkit import files
from encoderkit.config import load
from encoderkit.data.config import CorpusConfig
from encoderkit.errors import DataError, UsageError
from encoderkit.stages.train_tokenizer import run
from encoderkit.text.config import TokenizerConfig
from encoderkit.text.tokenizers import open_tokenizer

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "tokenizer").glob("*.yaml"))


def corpus(folder: Path) -> Path:
    path = folder / "corpus.txt"
    lines = [f"document {i} says: the weather in spring is warm. 春天来了{i}" for i in range(400)]
    path.write_text("\n".join([*lines, "", "   ", "a\0b"]) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "unigram", "word", "char"])
def test_the_result_and_the_directory(tmp_path: Path, kind: str) -> None:
    config = TokenizerConfig(kind=kind, vocab_size=400)
    result = run([corpus(tmp_path)], config, CorpusConfig(documents="line"), tmp_path / "tok")
    keys = {"kind", "vocab_size", "documents", "bytes", "unknown_rate", "tokens_per_word", "seconds", "out"}
    assert keys <= result.keys()
    report = json.loads((tmp_path / "tok" / "report.json").read_bytes())
    assert report.items() <= result.items()
    assert result["documents"] == 403 and result["measured_on"] == "held-out documents"
    parts = (result["sampled"]["bytes"], result["held_out"]["bytes"], result["not_sampled"]["bytes"])
    assert result["bytes"] == sum(parts) + sum(result["dropped"].values())
    assert result["dropped"]["nul"] == 1 and result["dropped"]["empty"] == 3
    tokenizer = open_tokenizer(tmp_path / "tok")
    assert tokenizer.vocab_size == result["vocab_size"] <= 400
    assert tokenizer.fingerprint == result["fingerprint"]
    assert (tmp_path / "tok" / "tokenizer.model").exists() == (kind == "unigram")
    assert tokenizer.save_files().keys() == set(files.verify(tmp_path / "tok")["files"])


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    config, path = TokenizerConfig(kind="char", vocab_size=100), corpus(tmp_path)
    run([path], config, CorpusConfig(), tmp_path / "tok")
    with pytest.raises(UsageError, match="exists already"):
        run([path], config, CorpusConfig(), tmp_path / "tok")
    run([path], config, CorpusConfig(), tmp_path / "tok", overwrite=True)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n", encoding="utf-8")
    with pytest.raises(DataError, match="no document"):
        run([tmp_path / "empty.txt"], TokenizerConfig(), CorpusConfig(), tmp_path / "tok")
    with pytest.raises(UsageError, match="too small"):
        run([corpus(tmp_path)], TokenizerConfig(kind="bpe", vocab_size=50), CorpusConfig(), tmp_path / "tok")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus.txt", "empty.txt"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_is_complete(recipe: Path) -> None:
    config = load(TokenizerConfig, recipe)
    assert config.kind in recipe.stem and config.sample == config.sample_bytes()


def test_there_is_a_recipe_of_every_kind() -> None:
    assert {load(TokenizerConfig, recipe).kind for recipe in RECIPES} == {"wordpiece", "bpe", "unigram", "word", "char"}
