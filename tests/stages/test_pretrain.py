"""What pretraining says of its data before it begins."""

from pathlib import Path

import pytest

from encoderkit.config import validate
from encoderkit.recipe import CorpusRecipe, PretrainRecipe, TokenizerRecipe
from encoderkit.stages import tokenize_corpus, train_tokenizer
from encoderkit.stages.pretrain import prepare

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
