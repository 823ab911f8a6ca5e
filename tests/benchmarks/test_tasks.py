"""The table of tasks: sets are read as they lie, each is learnt once, and what is done is not done again; and its peer."""

import argparse
import json
import lzma
import sys
from pathlib import Path
from typing import Any

import pytest

from encoderkit.config import load, validate
from encoderkit.errors import UsageError
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import export, init
from tests.benchmarks import tasks
from tests.benchmarks.data_sets import SETS, csl, cut, jsonl, parallel
from tests.conftest import GOOD, THINGS


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
    [header, _, line], notes = (part.splitlines() for part in table.split("\n\n"))
    cells = dict(zip(*([cell.strip() for cell in one.split("|")] for one in (header, line)), strict=True))
    assert cells["data set"] == "trec" and cells["train, test"] == "60, 30" and cells["from the checkpoint"] == "-" and notes
    assert "majority" in cells["baselines"] and "88.2" in cells["published"] and cells["transformers"] == "-"
    for one, name in zip(cells["from random weights"].split("), "), ("BERT", "CNN", "LSTM"), strict=True):
        summary = json.loads((tmp_path / f"out/trec/{name}/summary.json").read_bytes())
        value, (low, high) = summary["test"]["accuracy"], summary["intervals"]["test"]["accuracy"]
        told = "; ".join([f"{100 * low:.1f} to {100 * high:.1f}", "2 seeds", *small])
        assert one.removesuffix(")") == f"{name} {100 * value:.1f} ({told}"
        assert name in cells["seconds"]
    monkeypatch.setattr(tasks, "finetune", None)
    tasks.main()
    assert capsys.readouterr().out == table == (tmp_path / "out/table.md").read_text(encoding="utf-8")
    assert cells["measured"].startswith("20") and " on " in cells["measured"]

    was = [{"set": "sst2", "start": "BERT", "rows": [9, 9], "metric": "accuracy", "value": 0.5, "interval": None, "seeds": 1}]
    was[0] |= {"seconds": 7, "baselines": {}, "writes": False, "scale": 100, "machine": "an abacus", "day": "2026"}
    was += [{**was[0], "set": "trec", "value": 0.1}]
    (tmp_path / "tasks.json").write_text("".join(json.dumps(entry) + "\n" for entry in was), encoding="utf-8")
    monkeypatch.setattr(tasks, "RECORD", tmp_path / "tasks.json")
    monkeypatch.setattr(sys, "argv", ["tasks", "--out", str(tmp_path / "out"), "--record"])
    tasks.main()
    found = [json.loads(entry) for entry in (tmp_path / "tasks.json").read_text(encoding="utf-8").splitlines()]
    assert [entry["set"] for entry in found] == ["sst2", "trec", "trec", "trec"]
    assert [entry["start"] for entry in found] == ["BERT", "BERT", "CNN", "LSTM"]
    both = (tmp_path / "TASKS.md").read_text(encoding="utf-8")
    assert line in both and "an abacus" in both and "BERT 10.0" not in both


def test_what_a_peer_learns_of_a_large_set_is_learnt_beside_it(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text("".join(f"{i}\n" for i in range(10)), encoding="utf-8")
    some = tasks.fewer(tmp_path / "train.jsonl", 4)
    assert some.read_text(encoding="utf-8").split() == ["0", "2", "5", "7"] and some.parent == tmp_path
    circumstances = {"machine": "an abacus", "day": "2026"}
    whole = {"set": "sst2", "start": "checkpoint", "rows": [9000, 9], "metric": "accuracy", "value": 0.9, "interval": None}
    whole |= {"seeds": 1, "seconds": 7, "baselines": {}, "writes": False, "scale": 100, **circumstances}
    peer = {"set": "sst2", "start": "peer", "rows": 4000, "value": 0.7, "lr": 1e-4, "seconds": 9, **circumstances}
    [header, line] = tasks.lines([whole, peer, {**whole, "start": tasks.BESIDE, "rows": [4000, 9], "value": 0.8}])
    cells = dict(zip(header, line, strict=True))
    assert cells["transformers"] == "70.0 (lr 0.0001) of 4,000 rows; encoderkit 80.0 of them"
    assert cells["from the checkpoint"] == "90.0" and cells["from random weights"] == ""
    assert cells["seconds"] == "checkpoint 7, transformers 9"
    assert tasks.lines([whole, peer])[1][5] == "70.0 (lr 0.0001)"


def test_the_record_and_its_table_agree() -> None:
    entries = [json.loads(line) for line in tasks.RECORD.read_text(encoding="utf-8").splitlines()]
    assert tasks.RECORD.with_name("TASKS.md").read_text(encoding="utf-8") == tasks.page(entries)


WORDS = [["what was good?", f"the {thing} was {word} and the {other} was sad.", word] for thing, word, other in
         zip(THINGS * 2, GOOD * 3, THINGS[3:] * 3, strict=False)]  # fmt: skip
LEARNT: dict[str, tuple[dict[str, Any], str, str]] = {
    "sequence": ({"kind": "classify", "text": ["q", "p"]}, "q,p,label", "accuracy"),
    "span": ({"kind": "span", "question": "q", "context": "p", "question_length": 8, "overlap": 8}, "q,p,answers", "f1"),
}


@pytest.mark.parametrize("work", LEARNT)
def test_the_peer_measures_as_we_do(work: str, pretrained_dir: Path, tmp_path: Path) -> None:
    """A fine-tuned model, exported and trained on at a rate of 0, is as good there as here."""
    from tests.benchmarks import peer_tasks

    rows = [
        {"q": q, "p": p, "label": word[0], "answers": [{"text": word, "answer_start": p.index(word)}]} for q, p, word in WORDS
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task, columns, metric = LEARNT[work]
    recipe = {
        "checkpoint": str(pretrained_dir),
        "data": {"train": str(data), "length": 40},
        "task": task,
        "optimizer": {"kind": "adamw", "lr": 3e-3},
        "training": {"updates": 1, "batch": 8, "precision": "fp32", "compile": "off", "device": "cpu"},
    }
    tasks.finetune(validate(FinetuneRecipe, recipe, "recipe"), tmp_path / "run")
    step = find_step(tmp_path / "run")
    export.run(step, ["hf"], tmp_path / "hf")
    given = argparse.Namespace(model=tmp_path / "hf", train=data, test=data, columns=columns, metric=metric, regress=False)
    given = argparse.Namespace(**vars(given), lr=0.0, epochs=1, batch=8, length=40)
    value, _ = peer_tasks.WORKS[work][0](given)
    ours = tasks.evaluate(step, data, "fp32", with_baselines=False)["metrics"][metric]
    assert value == pytest.approx(ours) and 0 < ours < (100 if work == "span" else 1), ours
