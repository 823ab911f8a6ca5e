"""What `inspect` shows is what training reads."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoderkit.config import dump
from encoderkit.learner import Mark
from encoderkit.recipe import PretrainRecipe
from encoderkit.stages.inspect import masking, rendered, statistics
from encoderkit.stages.pretrain import prepare
from encoderkit.training.loop import micro_batches
from tests.test_cli import encoderkit, fails
from tests.training.runs import plan, pretraining


def recipe_of(tokenizer: Path, store: Path, objective: dict[str, Any]) -> PretrainRecipe:
    return pretraining(tokenizer, store, objective=objective)  # pyright: ignore[reportReturnType]


@pytest.mark.parametrize(
    "objective",
    [{"kind": "masked", "unit": "word", "rate": 0.3}, {"kind": "contrastive", "masked": 0.1, "rate": 0.3}],
)
def test_rows_are_those_of_the_first_epoch(tokenizer_dir: Path, store_dir: Path, objective: dict[str, Any]) -> None:
    """Every row as the loop gives it to the encoder, token for token, and what is asked of it."""
    recipe = recipe_of(tokenizer_dir, store_dir, objective)
    material = prepare(recipe)
    total = len(material.train)
    shown = masking(recipe, total, 1)["rows"]
    assert [row["row"] for row in shown] == list(range(total))
    settings = plan(-(-total // 12), 12, 12, examples=total, seed=recipe.seed)
    found: dict[tuple[int, ...], set[tuple[int, int]]] = {}
    for update in range(settings.updates):
        for batch in micro_batches(material.learner, material.train, settings, update):
            width = batch.inputs.ids.shape[1]
            asked = {int(w): int(t) for w, t in zip(batch.targets["where"], batch.targets["labels"], strict=True) if t >= 0}
            for i, (ids, mask) in enumerate(zip(batch.inputs.ids, batch.inputs.mask, strict=True)):
                wanted = {(place % width, label) for place, label in asked.items() if place // width == i}
                found[tuple(ids[mask].tolist())] = wanted
    for row in shown:
        tokens = row["tokens"]
        targets = {(i, token["target"]) for i, token in enumerate(tokens) if token["target"] is not None}
        read = tuple(token["id"] for token in tokens)
        assert targets == {(place, material.tokenizer.token(label)) for place, label in found[read]} != set()


def test_statistics_are_counted_by_hand() -> None:
    """Two words of two tokens and one of one, the first of a document that begins inside a word."""
    special, plain = Mark(2, "special", None, False), Mark(9, "", None, True)
    first = [special, Mark(4, "mask", 7, False), Mark(8, "keep", 8, False), plain, Mark(10, "random", 1, False), special]
    found = statistics([[*first, special, plain, special], [special, Mark(1, "", None, True)]], unk=1)
    assert (found["rows"], found["tokens"], found["rate"]) == (2, 6, 0.5)
    assert found["shares"] == {"keep": 1 / 3, "mask": 1 / 3, "random": 1 / 3}
    assert found["tokens_per_word"] == 6 / 4 and (found["words_touched"], found["words_broken"]) == (2, 1)
    assert found["run_length"] == {"mean": 1.5, "longest": 2, "shares": {"1": 0.5, "2": 0.5}}
    assert found["rows_without_targets"] == 1 and found["unknown"] == 2 / 6


def test_the_command(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    recipe = recipe_of(tokenizer_dir, store_dir, {"kind": "masked", "unit": "word", "rate": 0.2})
    path = tmp_path / "recipe.yaml"
    path.write_text(dump(recipe), encoding="utf-8")
    value = json.loads(encoderkit("inspect", "masking", path, "-n", "3", "--json").stdout)
    assert len(value["rows"]) == 3 and value["statistics"]["rows"] == len(prepare(recipe).train)
    assert value["statistics"]["words_broken"] == 0 and value["statistics"]["rate"] == pytest.approx(0.2, abs=0.03)
    assert value == json.loads(encoderkit("inspect", "masking", path, "-n", "3", "--json").stdout)
    done = encoderkit("inspect", "masking", path, "-n", "3")
    assert done.stdout == rendered(value).plain and "\x1b" not in done.stdout
    spans = {done.stdout[span.start : span.end]: str(span.style) for span in rendered(value).spans}
    assert any(shown.startswith("[") and style == "bold white on red" for shown, style in spans.items())
    assert done.stdout.count("[CLS]") >= 3 and "broken words  0 of" in done.stdout
    other = encoderkit("inspect", "masking", path, "--set", "seed=18", "--json")
    assert json.loads(other.stdout)["rows"] != value["rows"]
    fails(2, "there is nothing here", "inspect", "masking", path, "--set", "data.train=nothing")


def test_a_causal_model_is_asked_for_every_next_token(tokenizer_dir: Path, store_dir: Path) -> None:
    model = {"kind": "gpt", "dim": 32, "layers": 1, "heads": 2, "max_length": 64}
    value = masking(pretraining(tokenizer_dir, store_dir, objective={"kind": "causal"}, model=model), 4, 50)
    for row in value["rows"]:
        tokens = row["tokens"]
        asked = [(now["target"], after["piece"]) for now, after in pairwise(tokens) if now["target"] is not None]
        assert len(asked) >= len(tokens) - 4 and all(target == piece for target, piece in asked)
    assert value["statistics"]["shares"] == {"next": 1.0} and value["statistics"]["rate"] > 0.9


def test_tokens_of_a_text(tokenizer_dir: Path) -> None:
    text = "The film was lovely, warm 中国人民"
    value = json.loads(encoderkit("inspect", "tokens", tokenizer_dir, "--text", text, "--text", "", "--json").stdout)
    tokens = value["texts"][0]["tokens"]
    assert all(token["text"] == text[token["start"] : token["end"]] for token in tokens)
    assert "".join(token["text"] for token in tokens) == text.replace(" ", "") and value["texts"][1]["tokens"] == []
    assert value["texts"][0]["unknown"] == sum(token["piece"] == "[UNK]" for token in tokens)
    pytest.importorskip("rjieba")
    words = json.loads(encoderkit("inspect", "tokens", tokenizer_dir, "--text", text, "--segment", "zh", "--json").stdout)
    starts = [[token["word_start"] for token in found["texts"][0]["tokens"][-4:]] for found in (value, words)]
    assert starts == [[True] * 4, [True, False, True, False]]
    assert "characters" in encoderkit("inspect", "tokens", tokenizer_dir, "--text", text).stdout
    assert np.array_equal([t["id"] for t in tokens], [t["id"] for t in words["texts"][0]["tokens"]])
