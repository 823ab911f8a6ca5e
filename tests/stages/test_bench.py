"""`bench`: rates, percentiles and the share of the machine's limit, of every kind of model."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from encoderkit.errors import UsageError
from encoderkit.inference import TOKENS, open_model, start
from encoderkit.models.inputs import Inputs
from encoderkit.preflight import find_step
from encoderkit.stages.bench import _operations, _texts, bench, describe
from encoderkit.training.machine import choose_device


@pytest.mark.parametrize("batch", [None, 3])
def test_what_is_measured_adds_up(classifier_dir: Path, batch: int | None) -> None:
    value = bench(find_step(classifier_dir), [16, 8], 0.05, "fp32", batch)
    assert json.loads(json.dumps(value)) == value
    assert (value["does"], value["precision"], list(value["lengths"])) == ("predict", "fp32", ["8", "16"])
    for length, found in value["lengths"].items():
        alone, batched = found["one_at_a_time"], found["batched"]
        assert batched["batch"] == (batch or TOKENS[choose_device("auto")] // int(length))
        assert batched["tokens_per_second"] == pytest.approx(batched["texts_per_second"] * int(length))
        for part in (alone, batched):
            assert 0 < part["milliseconds"]["p50"] <= part["milliseconds"]["p90"] <= part["milliseconds"]["p99"]
        assert 0 < batched["share_of_limit"] < 1
        assert batched["gflops"] / batched["limit_gflops"] == pytest.approx(batched["share_of_limit"])
    assert [line.split()[0] for line in describe(value).splitlines()] == ["predict", "tokens", "8", "16"]


def test_operations_are_those_of_the_layers(pretrained_dir: Path, classifier_dir: Path) -> None:
    """Of a Transformer as torch counts them; of an LSTM, which it does not count, twice the weights for each token."""
    for folder in (pretrained_dir, classifier_dir):
        engine = start(open_model(find_step(folder)), "fp32")
        [row] = _texts(engine, 10, 1)
        inputs, learner = Inputs.of(torch.from_numpy(row.ids)[None]), engine.model.learner
        found = _operations(engine, [row])
        if engine.model.config["encoder"]["kind"] == "lstm":
            weights = sum(p.numel() for n, p in learner.encoder.named_parameters() if n.startswith("layers.") and p.ndim == 2)
            head = sum(p.numel() for p in learner.head.parameters() if p.ndim == 2)
            assert found == 2 * (10 * weights + head)
        else:
            with torch.inference_mode(), FlopCounterMode(display=False) as counter:
                learner.encoder(inputs)
            encoder = counter.get_total_flops()
            head = 2 * sum(p.numel() for p in learner.head.parameters() if p.ndim == 2) if folder == classifier_dir else 0
            assert found == encoder + head


def test_a_length_that_the_model_does_not_have(classifier_dir: Path) -> None:
    with pytest.raises(UsageError, match="a text has 3 to 24 tokens here, found 25"):
        bench(find_step(classifier_dir), [25], 0.05, "fp32", None)
    assert list(bench(find_step(classifier_dir), None, 0.05, "fp32", 1)["lengths"]) == ["16"]
