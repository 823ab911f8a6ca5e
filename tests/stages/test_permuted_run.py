"""XLNet from raw text to what is handed over: pretrained with memory, resumed exactly, asked, evaluated, tuned, exported."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from encoderkit.data.store import open_store
from encoderkit.errors import DataError
from encoderkit.inference import open_model, open_rows, start
from encoderkit.learner import Vocabulary
from encoderkit.objectives.config import CausalConfig, MaskedConfig, PermutedConfig, SpansConfig
from encoderkit.objectives.permuted import Permuted
from encoderkit.preflight import find_step
from encoderkit.recipe import PretrainRecipe
from encoderkit.stages import minimal_pairs
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.export import run as export
from encoderkit.stages.predict import predict
from encoderkit.stages.pretrain import prepare
from tests.reliability.small import assert_same, result
from tests.training.runs import finetuning, go, go_until, pretraining

MODEL = {"kind": "xlnet", "dim": 32, "layers": 2, "heads": 2}
OBJECTIVE = {"kind": "permuted", "memory": 6}


@pytest.fixture(scope="module")
def recipe(tokenizer_dir: Path, store_dir: Path) -> PretrainRecipe:
    """Rows of eight tokens, so that many have a predecessor."""
    data = {"train": str(store_dir), "dev": 0.2, "length": 8}
    return pretraining(tokenizer_dir, store_dir, model=MODEL, objective=OBJECTIVE, data=data)


@pytest.fixture(scope="module")
def trained(recipe: PretrainRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("xlnet") / "run"
    go(recipe, out)
    return out


def test_rows_bring_what_stands_before_them(recipe: PretrainRecipe) -> None:
    material = prepare(recipe)
    befores = [material.train[i].before for i in range(len(material.train))]
    assert all(len(before) <= 6 for before in befores)
    assert np.mean([len(before) == 6 for before in befores]) > 0.4


def test_a_run_with_memory_is_resumed_exactly_and_micro_batches_change_rounding_alone(
    recipe: PretrainRecipe, trained: Path, tmp_path: Path
) -> None:
    for update in (2, 5):
        go_until(recipe, tmp_path / "pieces", update)
    go(recipe, tmp_path / "pieces", resume=True)
    assert_same(tmp_path / "pieces", result(trained))
    still = recipe.model_copy(update={"model": recipe.model.model_copy(update={"dropout": 0.0})})
    found = []
    for size in (12, 4):
        training = still.training.model_copy(update={"micro_batch": size})
        go(still.model_copy(update={"training": training}), tmp_path / str(size))
        found.append(safetensors.torch.load_file(find_step(tmp_path / str(size)) / "model.safetensors"))
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], atol=1e-4, rtol=1e-3)


def test_it_is_evaluated_on_rows_with_memory_and_fills_blanks(trained: Path, store_dir: Path, tmp_path: Path) -> None:
    step = find_step(trained)
    found = evaluate(step, store_dir, "fp32")
    assert 3 < found["metrics"]["loss"] < 6 and found["metrics"]["perplexity"] == pytest.approx(np.exp(found["metrics"]["loss"]))
    predict(step, None, [["the [MASK] was [MASK]"]], tmp_path / "out.jsonl", top=2, precision="fp32")
    [row] = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").split("\n") if line]
    assert [guess["mask"] for guess in row["predictions"]] == [1, 1, 2, 2]
    engine = start(open_model(step), "fp32")
    assert isinstance(engine.model.learner, Permuted)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"sentence_good": "the film", "sentence_bad": "film the the"}\n', encoding="utf-8")
    scored = minimal_pairs.evaluate(engine, [pairs]).figures
    assert (scored["likelihood"], scored["masking"]) == ("exact", None)
    assert scored["ties"] == 0 and scored["metrics"]["accuracy"] in (0.0, 1.0)
    with pytest.raises(DataError, match="has none"):
        source = tmp_path / "rows.txt"
        source.write_text("the film\n", encoding="utf-8")
        predict(step, source, out=tmp_path / "other.jsonl")


def test_it_is_tuned_and_handed_over(trained: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    recipe = finetuning(Path(), labelled, checkpoint=str(trained), training={"updates": 2})
    go(recipe, tmp_path / "tuned")
    for run, loads_with in ((trained, "AutoModelForCausalLM"), (tmp_path / "tuned", "AutoModelForSequenceClassification")):
        result = export(run, ["hf"], tmp_path / f"{run.name}-hf")
        assert result["loads_with"] == loads_with and result["parity"]["max_abs_diff"] < 1e-5


def test_rows_are_laid_out_as_texts_are_but_for_pairs_and_what_is_written(store_dir: Path) -> None:
    store = open_store(store_dir)
    vocabulary = Vocabulary(store.meta.vocab_size, 0, 1, 2, 3, 4, "last")
    for objective, first in ((PermutedConfig(), False), (MaskedConfig(), False), (CausalConfig(), True), (SpansConfig(), True)):
        assert (open_rows(objective, store, 12, vocabulary)[0].ids[0] == 2) == first
    assert open_rows(MaskedConfig(pairs="next"), store, 12, vocabulary)[0].ids[0] == 2
