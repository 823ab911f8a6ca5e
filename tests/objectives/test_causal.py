"""What is asked of each place, what it costs, and that no encoder is let off with having seen the answer."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch.nn.functional import cross_entropy

from encoderkit.data.blocks import Row
from encoderkit.learner import IGNORE
from encoderkit.models.chunked import PORTION, judged, summed_nats
from encoderkit.models.config import EncoderConfig
from encoderkit.models.heads import TableHead
from encoderkit.objectives.causal import Causal
from encoderkit.objectives.config import CausalConfig, MaskedConfig
from tests.objectives.test_masked import VOCABULARY, make_row, rngs

GPT = {"kind": "gpt", "dim": 32, "layers": 2, "heads": 2, "dropout": 0, "attention_dropout": 0, "max_length": 128}
ELMO = {"kind": "lstm", "dim": 24, "layers": 2, "embedding_dim": 10, "dropout": 0, "stacks": "apart"}


def config(given: dict[str, Any]) -> Any:
    return TypeAdapter(EncoderConfig).validate_python(given)


def learner(given: dict[str, Any], length: int = 128) -> Causal:
    torch.manual_seed(0)
    made = Causal(CausalConfig(), config(given), VOCABULARY, length)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made


def naive(made: Causal, row: Row, number: int, backwards: bool) -> float:
    """The nats of one document of a row on its own: logits of a dense head, a target after (or before) another."""
    ids = torch.from_numpy(row.ids[row.documents == number])[None]
    [hidden] = made.encoder(made.collate([alone(ids[0].numpy())], [], None).inputs)
    hidden, half = hidden[: ids.shape[1]], made.encoder.dim // len(made.weights)
    states, targets = (hidden[1:, half:], ids[0, :-1]) if backwards else (hidden[:-1, :half], ids[0, 1:])
    logits = made.head(states, made.encoder.tokens.weight)
    return float(sum(-torch.log_softmax(scores, -1)[target] for scores, target in zip(logits, targets, strict=True)))


def alone(ids: np.ndarray) -> Row:
    special = (ids == VOCABULARY.cls) | (ids == VOCABULARY.sep)
    return Row(ids, np.ones(len(ids), np.int64), np.arange(len(ids)), ~special, special)


@pytest.mark.parametrize("given", [GPT, ELMO], ids=["gpt", "elmo"])
@torch.no_grad()
def test_the_loss_of_packed_rows_is_that_of_each_document_alone(given: dict[str, Any]) -> None:
    made = learner(given).eval()
    sizes = [[30, 50, 20], [60]] if made.encoder.packs else [[30], [60], [1]]
    rows = [make_row(np.random.default_rng(i), own) for i, own in enumerate(sizes)]
    batch = made.collate(rows, rngs(len(rows)), None)
    found = made(batch.inputs, batch.targets)
    assert found.keys() == made.weights.keys()
    for term, backwards in (("next", False), ("previous", True)):
        if term in found:
            pairs = [(row, n + 1) for row, own in zip(rows, sizes, strict=True) for n in range(len(own))]
            assert float(found[term]) == pytest.approx(sum(naive(made, row, n, backwards) for row, n in pairs), rel=1e-5)
            assert batch.counts[term] == sum(len(row.ids) for row in rows) - len(pairs)
    seen = {name: value.numpy() for name, value in made.observe(batch.inputs, batch.targets).items()}
    made.bytes_per_token = 3.5
    metrics = made.metrics(seen)
    nats = sum(map(float, found.values()))
    assert metrics["loss"] == pytest.approx(nats / sum(batch.counts.values()), rel=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"]))
    written = sum(sum(own) for own in sizes)
    assert metrics["bits_per_byte"] == pytest.approx(nats / len(found) / math.log(2) / (written * 3.5), rel=1e-5)
    assert metrics.keys() == made.directions.keys()


def test_where_a_long_document_was_cut_no_end_is_asked_for() -> None:
    made = learner(GPT, length=32)
    row = make_row(np.random.default_rng(0), [30])
    first, last, whole = (row._replace(cut=np.array([cut])) for cut in ([False, True], [True, False], [False, False]))
    for row, end, beginning in (
        (first, IGNORE, VOCABULARY.cls),
        (last, VOCABULARY.sep, IGNORE),
        (whole, VOCABULARY.sep, VOCABULARY.cls),
    ):
        following, before = made.neighbours(row, 1), made.neighbours(row, -1)
        assert following[-2] == end and (following[:-2] != IGNORE).all()
        assert before[1] == beginning and (before[2:] != IGNORE).all()
    packed = make_row(np.random.default_rng(0), [14, 14])._replace(cut=np.array([[True, False], [False, True]]))
    found = made.neighbours(packed, 1)
    assert found[14] == VOCABULARY.sep and (found == VOCABULARY.sep).sum() == 1


@pytest.mark.parametrize("head", ["tied", "own"])
def test_a_token_that_stands_for_padding_as_well_is_trained(head: str) -> None:
    """GPT-2 has one special token, with which every text begins."""
    one = VOCABULARY._replace(pad=2, unk=2, cls=2, sep=2, mask=2)
    torch.manual_seed(0)
    made = Causal(CausalConfig(), config({**GPT, "init": "normal"}), one, 128)
    if head == "own":
        made.head = TableHead(32, one.size, bias=False, own=True)
    batch = made.collate([make_row(np.random.default_rng(0), [60, 40])], [], None)
    sum(made(batch.inputs, batch.targets).values()).backward()
    gradient = made.encoder.tokens.weight.grad
    assert gradient is not None and float(gradient[2].norm()) > 0 and float(made.encoder.tokens.weight[2].detach().norm()) > 0


@pytest.mark.parametrize("bias", [True, False])
def test_the_loss_in_portions_has_the_gradients_of_the_loss_at_once(bias: bool) -> None:
    torch.manual_seed(0)
    count = 2 * PORTION + 77
    labels = torch.randint(0, 11, (count,)).masked_fill(torch.rand(count) < 0.2, IGNORE)
    values = [torch.randn(count, 5), torch.randn(11, 5), torch.randn(11) if bias else None]
    ours, theirs = ([None if v is None else v.clone().requires_grad_() for v in values] for _ in range(2))
    hidden, table, offset = theirs
    assert hidden is not None and table is not None and ours[0] is not None and ours[1] is not None
    logits = hidden @ table.T + (0 if offset is None else offset)
    expected = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    found = summed_nats(ours[0], ours[1], ours[2], labels, IGNORE)
    torch.testing.assert_close(found, expected)
    (3 * found).backward()
    (3 * expected).backward()
    for a, b in zip(ours, theirs, strict=True):
        if a is not None and b is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-4)
    nats, right = judged(hidden, table, offset, labels.clamp(min=0))
    torch.testing.assert_close(nats, cross_entropy(logits, labels.clamp(min=0), reduction="none"))
    assert torch.equal(right, logits.argmax(-1) == labels.clamp(min=0))


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ({"kind": "bert"}, "direction: left_to_right"),
        ({"kind": "cnn"}, "direction: left_to_right"),
        ({"kind": "gpt", "direction": "both"}, "direction: left_to_right"),
        ({"kind": "lstm"}, "stacks: apart"),
        ({"kind": "bert", "direction": "left_to_right"}, None),
        ({"kind": "cnn", "direction": "left_to_right"}, None),
        ({"kind": "gpt"}, None),
        ({"kind": "gru", "directions": 1}, None),
        ({"kind": "rnn", "stacks": "apart"}, None),
    ],
)
def test_encoders_that_have_seen_the_answer_are_refused(given: dict[str, Any], fix: str | None) -> None:
    reason = CausalConfig().obstacle(config(given))
    assert (reason is None) == (fix is None) and MaskedConfig().obstacle(config(given)) is None
    if reason is not None and fix is not None:
        assert fix in reason and given["kind"] in reason
