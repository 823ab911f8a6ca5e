"""The table of tasks: sets are read as they lie, each is learnt once, and what is done is not done again."""

import json
import lzma
import sys
from pathlib import Path

import pytest

from encoderkit.config import load
from encoderkit.errors import UsageError
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import init
from tests.benchmarks import tasks
from tests.benchmarks.data_sets import SETS, csl, cut, jsonl, parallel


def test_the_forms_of_files(tmp_path: Path) -> None:
    for name in ("a", "csl"):
        (tmp_path / name).mkdir()
    texts = [{"text": f"row {i}", "label": i % 2} for i in range(40)]
    with lzma.open(tmp_path / "a/one.jsonl.xz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in texts)
    (tmp_path / "a/two.jsonl").write_text(json.dumps(texts[0]) + "\n", encoding="utf-8")
    assert jsonl("a", test="one+two")(tmp_path) == {"test": [*texts, texts[0]]}
    parts = cut("a", "one", "text")(tmp_path)
    assert [len(parts[name]) for name in ("train", "dev", "test")] == [32, 4, 4]
    assert {row["text"] for rows in parts.values() for row in rows} == {row["text"] for row in texts}
    (tmp_path / "csl/ts_dev.tsv").write_text("to title\tan abstract\ta title\n", encoding="utf-8")
    assert csl("ts", "abstract", "title", train="dev")(tmp_path) == {"train": [{"abstract": "an abstract", "title": "a title"}]}
    for language, text in (("en", "one\n"), ("de", "eins\n")):
        (tmp_path / f"a/x.{language}").write_text(text, encoding="utf-8")
    assert parallel("a", ("en", "de"), train="x")(tmp_path) == {"train": [{"en": "one", "de": "eins"}]}


def test_every_set_has_recipes_that_take_its_settings() -> None:
    for own in SETS:
        both = {"checkpoint": (own.recipe, [*own.settings, "checkpoint=RUN"]), **own.scratch}
        for start, (name, settings) in both.items():
            try:
                path = init.find("finetune", name)
            except UsageError:
                assert name.startswith(("tag", "span")), name
                continue
            more = [] if start == "checkpoint" else ["tokenizer=DIR"]
            recipe = load(FinetuneRecipe, path, [*settings, *more])
            assert (recipe.checkpoint is None) == (start != "checkpoint"), (own.name, start)


def test_the_table(
    labelled: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sentence_cls_en").mkdir()
    for part in ("train", "test"):
        text = labelled["train" if part == "train" else "dev"].read_text(encoding="utf-8").replace('"text"', '"sentence"')
        (tmp_path / f"sentence_cls_en/trec_{part}.jsonl").write_text(text, encoding="utf-8")
    small = ["training.epochs=0.3", "training.least=null", "training.batch=8", "training.precision=fp32", "model.dim=16"]
    words = ["tasks", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--only", "trec", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", [*words, *(part for setting in small for part in ("--set", setting))])
    tasks.main()
    table = capsys.readouterr().out
    assert [line.split("|")[4].strip() for line in table.splitlines()[2:]] == ["BERT", "CNN", "LSTM"]
    assert "60, 30" in table and "majority" in table and "88.2" in table
    summary = json.loads((tmp_path / "out/trec/CNN/summary.json").read_bytes())
    assert f"{100 * summary['test']['accuracy']:.1f}" in table.splitlines()[3].split("|")[5]
    monkeypatch.setattr(tasks, "finetune", None)
    tasks.main()
    assert capsys.readouterr().out == table == (tmp_path / "out/table.md").read_text(encoding="utf-8")
