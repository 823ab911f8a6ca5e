"""The same rows in the forms that people have them in: what is learnt, measured, predicted and found is the same."""

import json
from pathlib import Path
from typing import Any

import pytest

from encoderkit import preflight
from encoderkit.config import validate
from encoderkit.errors import UsageError
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages.checks import Layout
from encoderkit.stages.doctor import Patient, doctor, of_files, of_recipe
from encoderkit.stages.embed import embed
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.finetune import finetune
from encoderkit.stages.predict import predict
from tests.training import runs

TRAINING = {"updates": 6, "batch": 12, **runs.TRAINING}
TIMES = ("seconds", "tokens_per_second", "best", "out")


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def trained(recipe: dict[str, Any], out: Path) -> dict[str, Any]:
    found = finetune(validate(FinetuneRecipe, recipe, "recipe"), out)
    return {name: value for name, value in found.items() if name not in TIMES}


def measured(run: Path, data: Any) -> dict[str, Any]:
    found = evaluate(preflight.find_step(run), data)
    return {name: found[name] for name in ("metrics", "intervals", "baselines", "in_training", "slices")}


def test_parallel_files(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    files: dict[str, dict[str, str]] = {}
    for part, path in labelled.items():
        files[part] = {"text": str(tmp_path / f"{part}.en"), "label": str(tmp_path / f"{part}.mood")}
        for column, file in files[part].items():
            Path(file).write_text("".join(f"{row[column]}\n" for row in rows_of(path)), encoding="utf-8")
    recipe = {
        "tokenizer": str(tokenizer_dir),
        "model": {"kind": "lstm", "dim": 16},
        "task": {"kind": "generate", "source": "text", "target": "label", "target_length": 8},
        "training": TRAINING,
    }
    data = {part: str(path) for part, path in labelled.items()}
    expected = trained({**recipe, "data": {**data, "length": 24}}, tmp_path / "rows")
    assert trained({**recipe, "data": {**files, "length": 24}}, tmp_path / "parallel") == expected
    assert measured(tmp_path / "parallel", files["dev"]) == measured(tmp_path / "rows", data["dev"])
    assert measured(tmp_path / "parallel", files["train"])["in_training"] == len(rows_of(labelled["train"]))
    # The run keeps what it was given: it is resumed, and looked at, as it is.
    finetune(validate(FinetuneRecipe, {**recipe, "data": {**files, "length": 24}}, "recipe"), tmp_path / "parallel", resume=True)
    looked = doctor(of_recipe(tmp_path / "parallel"))["findings"]
    at_rows = doctor(of_recipe(tmp_path / "rows"))["findings"]
    assert [one["lines"] for one in looked] == [one["lines"] for one in at_rows] and looked


def test_a_file_for_each_column_on_the_command_line() -> None:
    assert preflight.without_suite([Path("a=b.jsonl")]) == Path("a=b.jsonl")
    assert preflight.without_suite([Path("source=x/a=b.en"), Path("target=a.de")]) == {
        "source": "x/a=b.en",
        "target": "a.de",
    }
    for paths in (["a.en", "a.de"], ["source=a", "source=b"], ["source=a", "=b"]):
        with pytest.raises(UsageError, match="a file for each column, found 2"):
            preflight.without_suite([Path(path) for path in paths])


@pytest.mark.parametrize("form", ["{label}\t{text}\n", "__label__{label} {text}\n"])
def test_columns_by_number(tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path, form: str) -> None:
    numbered: dict[str, str] = {}
    for part, path in labelled.items():
        numbered[part] = str(tmp_path / (f"{part}.tsv" if "\t" in form else f"{part}.txt"))
        Path(numbered[part]).write_text("".join(form.format(**row) for row in rows_of(path)), encoding="utf-8")
    recipe = {"tokenizer": str(tokenizer_dir), "model": {"kind": "lstm", "dim": 16}, "training": TRAINING}
    data = {part: str(path) for part, path in labelled.items()}
    expected = trained({**recipe, "data": {**data, "length": 24}}, tmp_path / "names")
    by_number = {**recipe, "data": {**numbered, "length": 24}, "task": {"text": 2, "label": 1}}
    assert trained(by_number, tmp_path / "numbers") == expected
    assert measured(tmp_path / "numbers", Path(numbered["dev"])) == measured(tmp_path / "names", Path(data["dev"]))
    step, plain = preflight.find_step(tmp_path / "numbers"), tmp_path / "plain.txt"
    plain.write_text("".join(f"{row['text']}\n" for row in rows_of(labelled["dev"])), encoding="utf-8")
    for source, columns, out in ((plain, None, "a"), (Path(numbered["dev"]), ["2"], "b")):
        predict(step, source, out=tmp_path / f"{out}.jsonl", columns=columns)
        embed(step, source, tmp_path / f"{out}.npy", columns=columns)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    looked, at_rows = doctor(of_recipe(tmp_path / "numbers")), doctor(of_recipe(tmp_path / "names"))
    assert [one["lines"] for one in looked["findings"]] == [one["lines"] for one in at_rows["findings"]]


def test_doctor_repairs_them(tmp_path: Path) -> None:
    pairs = [("Ａ one 1", "1"), ("two", " "), ("", "3"), ("four", "四"), ("four", "四")]
    given = {"source": str(tmp_path / "a.en"), "target": str(tmp_path / "a.zh")}
    for path, lines, encoding in zip(given.values(), zip(*pairs, strict=True), ("utf-8", "gb18030"), strict=True):
        Path(path).write_text("".join(f"{line}\n" for line in lines), encoding=encoding)
    patient = Patient([given], Layout(["source"], ["target"], "generate", 1, None), None)
    found = doctor(patient, tmp_path / "fixed", widths=True)
    lines = {one["check"]: one["lines"] for one in found["findings"]}
    assert lines == {"encoding": [], "empty": [3], "empty_target": [2], "duplicate": [5], "width": [1]}
    assert found["fixed"][0]["dropped"] == {"empty": 2, "duplicate": 1} and found["fixed"][0]["narrowed"] == 1
    assert (tmp_path / "fixed/a.en").read_bytes() == b"A one 1\nfour\n"
    assert (tmp_path / "fixed/a.zh").read_bytes() == "1\n四\n".encode()


def test_doctor_repairs_files_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('1,"Ａ b, 1"\n1,"Ａ b, 1"\n0,\n0,c 2\n', encoding="utf-8")
    found = doctor(of_files([path], ["2"], ["1"], None, None), tmp_path / "fixed", widths=True)
    assert found["fixed"][0]["dropped"] == {"empty": 1, "duplicate": 1}
    assert (tmp_path / "fixed/a.csv").read_text(encoding="utf-8") == '1,"A b, 1"\n0,c 2\n'
    with pytest.raises(UsageError, match=r'there is no column "text"; .*where it is a row already, name all of them by number'):
        doctor(of_files([path], [], [], None, None))
