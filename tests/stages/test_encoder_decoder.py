"""An encoder and a decoder from the recipe to what comes after it: evaluate, embed, finetune, export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoderkit import files
from encoderkit.config import validate
from encoderkit.inference import open_model
from encoderkit.objectives.spans import Spans
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages import embed, export, import_model, suites
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.finetune import finetune
from encoderkit.stages.pretrain import prepare, pretrain
from encoderkit.training.checkpoint import read_tensors
from tests.training.runs import TRAINING

MODELS = {
    "t5": {"kind": "t5", "dim": 32, "layers": 2, "heads": 2, "max_length": 64},
    "lstm": {"kind": "lstm", "dim": 32},
}


def recipe(tokenizer: Path, store: Path, model: str, **training: Any) -> PretrainRecipe:
    described = {
        "tokenizer": str(tokenizer),
        "data": {"train": str(store), "dev": 0.2, "length": 32},
        "model": MODELS[model],
        "objective": {"kind": "spans", "sentinels": 20, "decoder": {"layers": 1}},
        "optimizer": {"kind": "muon", "lr": 2e-2, "adamw_lr": 1e-2},
        "training": {"updates": 6, "batch": 16, **TRAINING, **training},
    }
    return validate(PretrainRecipe, described, "recipe")


@pytest.fixture(scope="module", params=sorted(MODELS))
def run_dir(
    request: pytest.FixtureRequest, tokenizer_dir: Path, store_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("spans") / request.param
    pretrain(recipe(tokenizer_dir, store_dir, request.param), out)
    return out


def test_it_is_evaluated_and_gives_vectors(run_dir: Path, store_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    found = evaluate(run_dir / "step-0000006", store_dir)["metrics"]
    assert 0 < found["loss"] < 8 and 0 <= found["accuracy"] <= 1
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"good": "the film was good", "bad": "the the was good"}\n', encoding="utf-8")
    scored = suites.evaluate("minimal_pairs", run_dir / "step-0000006", [pairs], "fp32", masking="within_word")
    assert (scored["likelihood"], scored["masking"], scored["ties"]) == ("pseudo", "within_word", 0)
    embed.embed(run_dir / "step-0000006", labelled["dev"], tmp_path / "x.npy", "mean")
    assert np.load(tmp_path / "x.npy").shape == (30, 32)


def test_a_task_begins_with_its_encoder(run_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    """The rows of the sentinels, which no text holds, stay behind; nothing else does."""
    described = {
        "checkpoint": str(run_dir),
        "data": {"train": str(labelled["train"]), "dev": str(labelled["dev"]), "length": 24},
        "optimizer": {"kind": "adamw", "lr": 1e-9, "weight_decay": 0},
        "training": {"updates": 1, "batch": 4, **TRAINING},
    }
    found = finetune(validate(FinetuneRecipe, described, "recipe"), tmp_path / "run")
    before = read_tensors(run_dir / "step-0000006" / "model.safetensors")
    after = read_tensors(Path(found["best"]) / "model.safetensors")
    size = open_model(Path(found["best"])).tokenizer.vocab_size
    assert len(before["encoder.tokens.weight"]) == size + 20 and len(after["encoder.tokens.weight"]) == size
    for name, tensor in after.items():
        if name.startswith("encoder."):
            torch.testing.assert_close(tensor, before[name][: len(tensor)], atol=1e-6, rtol=0)


def test_it_goes_on_with_any_objective_and_from_any(run_dir: Path, tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    """The rows of the sentinels stay behind where no objective has them, and begin afresh where one has."""
    base = recipe(tokenizer_dir, store_dir, "t5").model_dump(exclude={"tokenizer", "model"})
    before = read_tensors(run_dir / "step-0000006" / "model.safetensors")
    masked = base | {"checkpoint": str(run_dir), "objective": {"kind": "masked"}}
    learner: Any = prepare(validate(PretrainRecipe, masked, "recipe")).learner
    size = learner.vocabulary.size
    assert torch.equal(learner.encoder.tokens.weight, before["encoder.tokens.weight"][:size])
    pretrain(validate(PretrainRecipe, masked, "recipe"), tmp_path / "masked")
    spans = base | {"checkpoint": str(tmp_path / "masked")}
    again: Any = prepare(validate(PretrainRecipe, spans, "recipe")).learner
    known = read_tensors(tmp_path / "masked" / "step-0000006" / "model.safetensors")["encoder.tokens.weight"]
    assert len(known) == size and torch.equal(again.encoder.tokens.weight[:size], known)
    assert len(again.encoder.tokens.weight) == size + 20 and again.encoder.tokens.weight[size:].abs().min() > 0


def test_micro_batches_change_nothing(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    weights = []
    for size in (16, 5):
        out = tmp_path / str(size)
        pretrain(recipe(tokenizer_dir, store_dir, "t5", updates=2, micro_batch=size), out)
        weights.append(read_tensors(out / "step-0000002" / "model.safetensors"))
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-4, rtol=1e-3)


def test_transformers_loads_it_with_the_sentinels(run_dir: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    result = export.run(run_dir, ["hf"], tmp_path / "out")
    described = json.loads((tmp_path / "out" / "config.json").read_bytes())
    if run_dir.name == "lstm":
        assert result["loads_with"] is None and "an encoder of kind: lstm" in described["note"]
        return
    assert result["loads_with"] == "AutoModelForSeq2SeqLM" and result["parity"]["max_abs_diff"] < 1e-5
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    size = open_model(run_dir / "step-0000006").tokenizer.vocab_size
    assert tokenizer.convert_tokens_to_ids(["<extra_id_0>", "<extra_id_19>"]) == [size, size + 19]
    assert len(tokenizer) == described["vocab_size"] == size + 20
    assert described["decoder_start_token_id"] == 2
    files.verify(tmp_path / "out")
    found = import_model.run(str(tmp_path / "out"), tmp_path / "back")
    assert found["unused"] == [] and found["head"] == "seq2seq"
    before, after = (open_model(path).learner for path in (run_dir / "step-0000006", tmp_path / "back"))
    assert isinstance(before, Spans) and isinstance(after, Spans)
    assert all(torch.equal(tensor, after.state_dict()[name]) for name, tensor in before.state_dict().items())
    assert after.sentinels.tolist() == before.sentinels.tolist() and after.start == before.start
