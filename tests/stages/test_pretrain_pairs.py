"""A run on pairs of texts, through the commands: repeated, resumed, evaluated, asked, and fine-tuned from."""

import json
from pathlib import Path

import pytest
import torch

from encoderkit.errors import DataError
from encoderkit.inference import open_model
from encoderkit.preflight import find_step
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.predict import predict
from tests.reliability.small import assert_same, result
from tests.training.runs import finetuning, go, go_until, pretraining, weights

MODELS = {
    "bert": {"kind": "bert", "dim": 32, "layers": 2, "heads": 2, "max_length": 64},
    "albert": {"kind": "albert", "dim": 32, "layers": 3, "heads": 2, "embedding_dim": 16, "dropout": 0.1, "max_length": 64},
    "lstm": {"kind": "lstm", "dim": 32},
}
OBJECTIVES = {"bert": {"pairs": "next"}, "albert": {"pairs": "order", "unit": "ngram"}, "lstm": {"pairs": "next"}}


@pytest.mark.parametrize("kind", MODELS)
def test_six_updates_are_some_and_the_rest_whatever_the_micro_batch(
    tokenizer_dir: Path, store_dir: Path, tmp_path: Path, kind: str
) -> None:
    objective = {"kind": "masked", **OBJECTIVES[kind]}
    recipe = pretraining(tokenizer_dir, store_dir, model=MODELS[kind], objective=objective)
    found = go(recipe, tmp_path / "whole")
    term = objective["pairs"]
    assert found["dev"].keys() == {"loss", "accuracy", f"{term}_loss", f"{term}_accuracy"}
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    assert any(json.loads(line).get("losses", {}).keys() == {"masked", term} for line in lines if line)
    go_until(recipe, tmp_path / "pieces", 3)
    go(recipe, tmp_path / "pieces", resume=True)
    assert_same(tmp_path / "pieces", result(tmp_path / "whole"))
    model = MODELS[kind] | {"dropout": 0.0} | ({} if kind == "lstm" else {"attention_dropout": 0.0})
    learned = []
    for size in (12, 4):  # without dropout, whose masks are drawn for a micro-batch at a time
        training = {"updates": 3, "micro_batch": size}
        go(pretraining(tokenizer_dir, store_dir, model=model, objective=objective, training=training), tmp_path / str(size))
        learned.append(open_model(find_step(tmp_path / str(size))).learner.state_dict())  # pyright: ignore[reportAttributeAccessIssue]
    for name, tensor in learned[0].items():
        torch.testing.assert_close(tensor, learned[1][name], atol=2e-4, rtol=0)
    assert weights(tmp_path / "whole") != weights(tmp_path / "12")


@pytest.mark.parametrize("kind", ["bert", "albert"])
def test_what_such_a_checkpoint_is_good_for(
    tokenizer_dir: Path, store_dir: Path, labelled: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    term = OBJECTIVES[kind]["pairs"]
    training = {"updates": 4, "metric": f"{term}_accuracy"}
    go(
        pretraining(
            tokenizer_dir, store_dir, model=MODELS[kind], objective={"kind": "masked"} | OBJECTIVES[kind], training=training
        ),
        tmp_path / "run",
    )
    step = find_step(tmp_path / "run")
    found = [evaluate(step, store_dir, "fp32", batch)["metrics"] for batch in (3, 16)]
    assert found[0].keys() == {"loss", "accuracy", "perplexity", f"{term}_loss", f"{term}_accuracy"}
    assert found[0] == pytest.approx(found[1], abs=1e-5)
    predict(step, None, [["the [MASK] was good"]], out=tmp_path / "out.jsonl", precision="fp32")
    [line] = (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["text"] == "the [MASK] was good"
    recipe = finetuning(
        tmp_path, labelled, checkpoint=str(tmp_path / "run"), training={"updates": 1}, optimizer={"kind": "adamw", "lr": 1e-9}
    )
    best = go(recipe, tmp_path / "tuned")["best"]
    before, after = (open_model(path).learner for path in (step, Path(best)))
    pooler = before.pairs.head.dense.weight  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(after.head.dense.weight, pooler, atol=1e-6, rtol=0)


def test_a_store_of_one_document_has_no_pairs(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    recipe = pretraining(
        tokenizer_dir,
        store_dir,
        objective={"kind": "masked", "pairs": "next"},
        data={"train": str(store_dir), "dev": 1e-9, "length": 32},
    )
    with pytest.raises(DataError, match="at least two documents"):
        go(recipe, tmp_path / "run")
