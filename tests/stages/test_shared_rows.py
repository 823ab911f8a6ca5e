"""Rows of dev and test whose texts are trained on are told at the start of a run, of every task."""

import json
from pathlib import Path
from typing import Any

import pytest

from encoderkit.config import validate
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages.finetune import prepare
from tests.conftest import ENCODERS

A, B, C, D = "a good film", "a bad day", "the warm song", "a sad story"
ROWS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "classify": ({}, [{"text": text, "label": "x" if i % 2 else "y"} for i, text in enumerate((A, B, C, D))]),
    "regress": ({"text": ["a", "b"]}, [{"a": A, "b": text, "score": i} for i, text in enumerate((A, B, C, D))]),
    "tag": ({}, [{"tokens": text.split(), "tags": ["O", "B-x", "O"]} for text in (A, B, C, D)]),
    "span": (
        {"question_length": 4, "overlap": 2},
        [{"question": "what?", "context": t, "answers": {"text": [t[-3:]]}} for t in (A, B, C, D)],
    ),
    "similarity": ({}, [{"text": A, "text_pair": text} for text in (A, B, C, D)]),
    "rerank": ({}, [{"query": A, "candidate": text, "relevance": i % 2} for i, text in enumerate((A, B, C, D))]),
    "choice": ({}, [{"question": "what?", "options": [A, text], "label": 0} for text in (A, B, C, D)]),
    "generate": ({}, [{"source": text, "target": text} for text in (A, B, C, D)]),
}
"""Of each task its settings, and four rows that differ."""


def upper(value: Any) -> Any:
    if isinstance(value, list):
        return [upper(part) for part in value]
    return f" {value.upper()}" if isinstance(value, str) else value


@pytest.mark.parametrize("kind", ROWS)
def test_texts_of_train_in_dev(kind: str, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, (first, second, third, last) = ROWS[kind]
    texts = {"tag": ["tokens"], "span": ["question"]}.get(kind, list(first))
    again = {name: upper(value) if name in texts and name != "label" else value for name, value in second.items()}
    for name, rows in (("train", [first, second, last]), ("dev", [third, again]), ("test", [third])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe: dict[str, Any] = {
        "tokenizer": str(tokenizer_dir),
        "model": ENCODERS["lstm"],
        "data": {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "dev", "test")} | {"length": 24},
        "task": {"kind": kind, **settings},
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "training": {"updates": 1},
    }
    made = validate(FinetuneRecipe, recipe, "recipe")
    prepare(made)
    assert "in train" not in capsys.readouterr().err
    prepare(made, tmp_path / "run")
    [line] = [line for line in capsys.readouterr().err.splitlines() if "in train" in line]
    assert "dev: 1 of its 2 rows (50.0%)" in line and "(line 2 is line 2 there)" in line
    assert f"encoderkit doctor data {tmp_path / 'run'}" in line


def test_rows_without_text_are_told(tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [*ROWS["classify"][1], {"text": "", "label": "x"}, {"text": " ", "label": "y"}]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "tokenizer": str(tokenizer_dir),
        "model": {"kind": "lstm", "dim": 8},
        "data": {"train": str(tmp_path / "train.jsonl"), "dev": None, "length": 16},
        "task": {"kind": "classify"},
        "training": {"epochs": 1},
    }
    prepare(validate(FinetuneRecipe, recipe, "recipe"))
    assert "train: 2 of the 6 rows have no text that the tokenizer knows of" in capsys.readouterr().err
