"""`generate`: the same with and without a memory, transformers' greedy choice, and draws that are what they are said to be."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from encoderkit.config import validate
from encoderkit.data.order import rng
from encoderkit.errors import DataError, UsageError
from encoderkit.inference import open_model, start
from encoderkit.models.inputs import Inputs
from encoderkit.preflight import find_step, generated
from encoderkit.recipe import PretrainRecipe
from encoderkit.stages import export
from encoderkit.stages.generate import Sampling, continued, generate
from encoderkit.stages.pretrain import pretrain
from tests.training.runs import APART, LEFT_TO_RIGHT, TRAINING, causal

GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="session")
def writer_dir(tokenizer_dir: Path, store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a tiny GPT that has learned something of the corpus."""
    recipe = {
        "tokenizer": str(tokenizer_dir),
        "data": {"train": str(store_dir), "dev": 0.1, "length": 32},
        "model": {"kind": "gpt", "dim": 32, "layers": 2, "heads": 2, "max_length": 48},
        "objective": {"kind": "causal"},
        "optimizer": {"kind": "adamw", "lr": 1e-2},
        "training": {"updates": 60, "batch": 16, **TRAINING},
    }
    out = tmp_path_factory.mktemp("writer") / "run"
    found = pretrain(validate(PretrainRecipe, recipe, "recipe"), out)
    assert found["dev"]["bits_per_byte"] < 2 and found["dev"]["perplexity"] == pytest.approx(np.exp(found["dev"]["loss"]))
    return out


@pytest.mark.parametrize(
    ("kind", "reads"),
    [*LEFT_TO_RIGHT, *APART, ("cnn", {"direction": "left_to_right", "style": "gated", "kernel": 2}),
     ("modernbert", {"direction": "left_to_right", "window": 4, "global_every": 2, "layers": 3})],
)  # fmt: skip
@torch.inference_mode()
def test_reading_on_is_reading_at_once(kind: str, reads: dict[str, Any]) -> None:
    """Three tokens first and then one at a time: at each step the scores of the whole text so far."""
    learner = causal(kind, **reads).eval()
    for parameter in learner.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    ids = torch.randint(5, 40, (2, 24), generator=torch.Generator().manual_seed(0))
    state, read = None, 0
    for end in (3, *range(4, 25)):
        scores, state = learner.read_on(ids[:, read:end], state)
        vectors = learner.guesses(Inputs.of(ids[:, :end]))["next"][:, -1]
        expected = vectors @ learner.encoder.tokens.weight.T + (0 if learner.head.bias is None else learner.head.bias)
        torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
        read = end


def test_greedy_is_that_of_transformers(writer_dir: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export.run(writer_dir, ["hf"], tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    engine = start(open_model(find_step(writer_dir)), "fp32")
    tokenizer, prompt = engine.model.tokenizer, "the film"
    ids = np.concatenate([[tokenizer.cls], tokenizer.encode([prompt]).ids]).astype(np.int64)
    [ours] = continued(engine, ids, 20, GREEDY, [rng(1, 0, 0)])
    settings = {
        "max_new_tokens": 20,
        "do_sample": False,
        "suppress_tokens": [0, 1, 2, 4],
        "attention_mask": torch.ones(1, len(ids)),
    }
    [found] = theirs.generate(torch.from_numpy(ids)[None], **settings).tolist()
    expected = found[len(ids) :]
    assert ours.ids == (expected[: expected.index(tokenizer.sep)] if ours.ended else expected) and len(ours.ids) > 3
    [entry] = generate(find_step(writer_dir), None, [prompt], most=20, sampling=GREEDY)["generated"]
    assert entry["texts"][0]["text"].startswith("the film was")


def test_draws_follow_the_seed_and_not_their_number(writer_dir: Path, tmp_path: Path) -> None:
    step = find_step(writer_dir)
    source = tmp_path / "in.txt"
    source.write_text("the\nthe day\n", encoding="utf-8")
    five, two = (generate(step, source, [], count=n, most=12)["generated"] for n in (5, 2))
    for more, fewer in zip(five, two, strict=True):
        assert more["prompt"] == fewer["prompt"] and more["texts"][:2] == fewer["texts"]
    assert len({text["text"] for text in five[0]["texts"]}) > 1
    other = generate(step, source, [], count=5, most=12, seed=18)["generated"]
    assert other != five and json.dumps(five)
    assert all(text["tokens"] <= 12 and text["ended"] == (text["tokens"] < 12) for e in five for text in e["texts"])


@pytest.mark.parametrize(
    ("sampling", "share"),
    [
        (Sampling(), [0.5, 0.3, 0.15, 0.05]),
        (Sampling(temperature=0.5), [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
        (Sampling(top_k=2), [0.625, 0.375, 0, 0]),
        (Sampling(top_p=0.7), [0.625, 0.375, 0, 0]),
        (Sampling(top_p=0.81), [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        (Sampling(top_k=3, top_p=0.4), [1, 0, 0, 0]),
        (GREEDY, [1, 0, 0, 0]),
    ],
)
def test_what_is_drawn_has_the_probability_it_should(sampling: Sampling, share: list[float]) -> None:
    order = [2, 0, 3, 1]
    scores = np.empty(4)
    scores[order] = np.log([0.5, 0.3, 0.15, 0.05]) + 7
    draw = np.random.default_rng(0)
    drawn = sampling.choose(torch.from_numpy(scores).expand(4000, -1), [draw] * 4000)
    found = np.bincount(drawn.numpy(), minlength=4) / 4000
    assert found[order] == pytest.approx(share, abs=0.03)
    assert ((found[order] > 0) == (np.array(share) > 0)).all()


def test_what_cannot_be_is_refused(writer_dir: Path, pretrained_dir: Path, classifier_dir: Path, tmp_path: Path) -> None:
    step, long = find_step(writer_dir), "the film " * 20
    with pytest.raises(UsageError, match="trained to read 32"):
        generate(step, None, [long])
    source = tmp_path / "in.txt"
    source.write_text(f"the\n{long}\n", encoding="utf-8")
    with pytest.raises(DataError) as error:
        generate(step, source, [])
    assert str(error.value.where).endswith("in.txt:2")
    source.write_bytes(b"")
    with pytest.raises(DataError, match="holds no row"):
        generate(step, source, [])
    with pytest.raises(UsageError, match="names a column of a file"):
        generate(step, None, ["the"], column="body")
    with pytest.raises(UsageError, match="change nothing"):
        generate(step, None, ["the"], count=2, sampling=GREEDY)
    with pytest.raises(UsageError, match="at most 1"):
        generate(step, None, ["the"], sampling=Sampling(top_p=1.5))
    for other, said in ((pretrained_dir, "masked"), (classifier_dir, "fine-tuned")):
        with pytest.raises(UsageError, match=said):
            generated(find_step(other), None, ["the"])
    with pytest.raises(UsageError, match="takes a file"):
        generated(step, None, [])
