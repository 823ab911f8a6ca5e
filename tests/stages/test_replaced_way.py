"""A model of replaced tokens through the stages: resumed bit for bit, evaluated, asked, embedded with, fine-tuned."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoderkit.config import validate
from encoderkit.inference import open_model
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages import suites
from encoderkit.stages.embed import embed
from encoderkit.stages.evaluate import describe, evaluate
from encoderkit.stages.finetune import load_pretrained, prepare
from encoderkit.stages.predict import predict
from encoderkit.stages.pretrain import prepare as begin
from tests.training.runs import TRAINING, go, go_until, pretraining, weights

MODELS: dict[str, dict[str, Any]] = {
    "embeddings": {"kind": "electra", "dim": 32, "embedding_dim": 16, "layers": 2, "heads": 2, "max_length": 64},
    "gradient_disentangled": {"kind": "deberta", "dim": 32, "layers": 2, "heads": 2, "buckets": 8, "max_length": 64},
}


@pytest.mark.parametrize("sharing", MODELS)
def test_the_whole_way(sharing: str, tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    objective = {"kind": "replaced", "sharing": sharing, "generator": {"share": 0.5, "layers": 1}}
    recipe = pretraining(tokenizer_dir, store_dir, model=MODELS[sharing], objective=objective)
    out = tmp_path / "run"
    result = go(recipe, out)
    go_until(recipe, tmp_path / "stopped", 3)
    go(recipe, tmp_path / "stopped", resume=True)
    assert weights(tmp_path / "stopped") == weights(out)
    assert set(result["dev"]) > {"loss", "accuracy", "recall", "generator_loss", "discriminator_loss"}
    step = find_step(out)
    found = evaluate(step, store_dir, "fp32")
    assert "perplexity" not in found["metrics"] and 0 < found["metrics"]["replaced"] < 0.15 and "recall" in describe(found)
    predict(step, None, [["the film was good"], [""]], tmp_path / "flags.jsonl", top=2)
    rows = [json.loads(line) for line in (tmp_path / "flags.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [len(row["predictions"]) for row in rows] == [2, 0]
    first, second = rows[0]["predictions"]
    assert first["score"] >= second["score"] and first.keys() == {"place", "token", "replaced", "score"}
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"good": "the film was good", "bad": "the the was good"}\n', encoding="utf-8")
    scored = suites.evaluate("minimal_pairs", step, [pairs], "fp32")
    assert (scored["likelihood"], scored["masking"], scored["ties"]) == ("discriminator", None, 0)
    assert "each token is the original one" in suites.describe(scored)
    embed(step, labelled["dev"], tmp_path / "vectors.npy", precision="fp32")
    assert np.load(tmp_path / "vectors.npy").shape == (30, 32)
    data = {name: str(path) for name, path in labelled.items()}
    finetuning = {"checkpoint": str(out), "data": {**data, "length": 24}, "training": {"updates": 2, "batch": 8}}
    learner: Any = prepare(validate(FinetuneRecipe, finetuning, "recipe")).learner
    load_pretrained(learner, step)
    pretrained = open_model(step).learner.encoder
    assert torch.equal(learner.encoder.tokens.weight, pretrained.tokens.weight)
    assert torch.equal(learner.encoder.layers[1].mlp.up.weight, pretrained.layers[1].mlp.up.weight)  # type: ignore[attr-defined]
    data = {"train": str(store_dir), "length": 32}
    further = {"checkpoint": str(out), "data": data, "objective": objective, "training": {"updates": 2, **TRAINING}}
    state = begin(validate(PretrainRecipe, further, "recipe")).learner.state_dict()  # type: ignore[attr-defined]
    for name, tensor in open_model(step).learner.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(state[name], tensor), name


def test_training_goes_on_from_a_masked_model(pretrained_dir: Path, store_dir: Path) -> None:
    """Both begin with its embeddings, where the discriminator adds a table of its own."""
    objective = {"kind": "replaced", "sharing": "gradient_disentangled"}
    data = {"train": str(store_dir), "length": 32}
    recipe = {"checkpoint": str(pretrained_dir), "data": data, "objective": objective, "training": {"updates": 2, **TRAINING}}
    state = begin(validate(PretrainRecipe, recipe, "recipe")).learner.state_dict()  # type: ignore[attr-defined]
    before: Any = open_model(find_step(pretrained_dir)).learner.encoder
    assert torch.equal(state["encoder.tokens.weight"], before.tokens.weight) and not state["difference"].any()
    assert torch.equal(state["encoder.layers.0.mlp.up.weight"], before.layers[0].mlp.up.weight)
