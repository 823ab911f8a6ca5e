"""On a GPU, where there is one: the same learning as on the CPU, and every command that computes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoderkit.preflight import find_step
from encoderkit.stages import suites
from encoderkit.stages.embed import embed
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.predict import predict
from tests.training.runs import finetuning, go, go_until, masked, pretraining, rows, weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
MODELS: list[dict[str, Any]] = [
    {"kind": "bert", "dim": 32, "layers": 2, "heads": 2, "max_length": 64, "dropout": 0, "attention_dropout": 0},
    {"kind": "modernbert", "dim": 32, "layers": 2, "heads": 2, "max_length": 64, "window": 4},
    {"kind": "deberta", "dim": 32, "layers": 2, "heads": 2, "buckets": 8, "max_length": 64, "dropout": 0, "attention_dropout": 0},
    {"kind": "lstm", "dim": 32},
    {"kind": "cnn", "dim": 32},
]


def close(one: Path, other: Path, most: float) -> None:
    import safetensors.torch

    a, b = (safetensors.torch.load(weights(run)) for run in (one, other))
    assert all(torch.allclose(tensor, b[name], atol=most, rtol=0.05) for name, tensor in a.items())


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["kind"])
def test_an_update_is_that_of_the_cpu(model: dict[str, Any], tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    for device in ("cpu", "cuda"):
        recipe = pretraining(tokenizer_dir, store_dir, model=model, training={"updates": 3, "device": device})
        go(recipe, tmp_path / device)
    close(tmp_path / "cpu", tmp_path / "cuda", 2e-3)


def test_cells_are_not_computed_in_fp16() -> None:
    """Gradients as small as those of a large batch are not lost where the rest is in bf16."""
    learner = masked("lstm").cuda()
    batch = learner.collate(rows(4), [np.random.default_rng(i) for i in range(4)], None).to("cuda")
    found = []
    for scale in (1.0, 1e-7):
        with torch.autocast("cuda", torch.bfloat16):
            loss = learner(batch.inputs, batch.targets)["masked"]
        learner.zero_grad()
        (scale * loss).backward()
        found.append([p.grad / scale for p in learner.encoder.layers.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, rtol=0.05, atol=1e-2 * float(a.abs().max())) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_that_was_stopped_goes_on(precision: str, tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    training = {"updates": 6, "device": "cuda", "precision": precision, "compile": "off"}
    recipe = pretraining(tokenizer_dir, store_dir, model=MODELS[1], training=training)
    done = go(recipe, tmp_path / "whole")
    go_until(recipe, tmp_path / "pieces", 3)
    go(recipe, tmp_path / "pieces", resume=True)
    assert np.isfinite(done["dev"]["loss"])
    close(tmp_path / "whole", tmp_path / "pieces", 2e-3)  # sums of embeddings' gradients are added in any order there


def test_every_command_that_computes(tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    go(pretraining(tokenizer_dir, store_dir, model=MODELS[1], training={"device": "cuda"}), tmp_path / "pretrained")
    recipe = finetuning(
        tokenizer_dir, labelled, checkpoint=str(tmp_path / "pretrained"), training={"updates": 3, "device": "cuda"}
    )
    go(recipe, tmp_path / "run")
    step = find_step(tmp_path / "run")
    assert 0 <= evaluate(step, labelled["dev"])["metrics"]["accuracy"] <= 1
    predict(step, labelled["dev"], out=tmp_path / "out.jsonl")
    embed(find_step(tmp_path / "pretrained"), labelled["dev"], tmp_path / "x.npy")
    assert np.isfinite(np.load(tmp_path / "x.npy")).all()
    evaluate(find_step(tmp_path / "pretrained"), store_dir)
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("film\tday\t2\ngood\tbad\t5\nfilm\tgood\t4\n", encoding="utf-8")
    vectors = {"model": {"kind": "static", "dim": 8}, "objective": {"kind": "skipgram"}, "optimizer": {"kind": "sgd", "lr": 0.05}}
    go(pretraining(tokenizer_dir, store_dir, **vectors, training={"device": "cuda"}), tmp_path / "vectors")
    for run in ("pretrained", "vectors"):
        assert suites.evaluate("wordsim", find_step(tmp_path / run), [pairs])["rows"] == 3
