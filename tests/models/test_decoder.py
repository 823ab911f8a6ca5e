"""Decoders behind every kind of encoder: teacher forcing, pairs kept apart, the cache, and what is written."""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from encoderkit.models.build import build_encoder
from encoderkit.models.config import BertConfig, CnnConfig, DecoderConfig, EncoderConfig, LstmConfig, T5Config
from encoderkit.models.decoder import Decoder, Writing
from encoderkit.models.decoding import Sampling, beam_search, greedy, restrict, sample
from encoderkit.models.inputs import Inputs

VOCABULARY = 40
PAIRS: dict[str, tuple[EncoderConfig, DecoderConfig]] = {
    "t5": (T5Config(dim=24, layers=2, heads=3, head_dim=6), DecoderConfig()),
    "bert": (BertConfig(dim=24, layers=2, heads=2), DecoderConfig(layers=1, head="own")),
    "lstm": (LstmConfig(dim=20, layers=2, embedding_dim=12), DecoderConfig(position="alibi")),
    "cnn": (CnnConfig(dim=16, layers=2), DecoderConfig(kind="t5", dim=24, heads=3)),
}
every = pytest.mark.parametrize("name", PAIRS)


def model(name: str) -> tuple[Any, Decoder]:
    torch.manual_seed(0)
    encoder_config, config = PAIRS[name]
    encoder = build_encoder(encoder_config, VOCABULARY, 0).eval()
    decoder = Decoder(config, encoder_config, VOCABULARY, 0, encoder.tokens.embedding_dim).eval()
    for part in (encoder, decoder):
        for parameter in part.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.3)
    return encoder, decoder


def tokens(*lengths: int, seed: int = 0) -> Inputs:
    ids = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for i, length in enumerate(lengths):
        ids[i, :length] = torch.randint(5, VOCABULARY, (length,), generator=torch.Generator().manual_seed(seed + i))
    return Inputs.of(ids, ids > 0)


@every
def test_the_cache_changes_nothing(name: str) -> None:
    """Read at once, token by token and in pieces, with texts taken twice, left out and put in another order."""
    encoder, decoder = model(name)
    source, target = tokens(9, 4, 6), tokens(7, 7, 7, seed=5)
    memory = encoder(source)
    expected = decoder(target.ids, target.documents, source.documents, memory, encoder.tokens)
    for pieces in ([1] * 7, [3, 1, 3], [7]):
        writing, start = Writing(decoder, memory, source.mask, encoder.tokens), 0
        for piece in pieces:
            start += piece
            logits = writing.read(target.ids[:, start - piece : start])
            torch.testing.assert_close(logits, expected[:, start - 1], atol=1e-5, rtol=1e-5)
    writing = Writing(decoder, memory, source.mask, encoder.tokens)
    writing.read(target.ids[:, :4])
    chosen = torch.tensor([2, 0, 2])
    writing.select(chosen)
    torch.testing.assert_close(writing.read(target.ids[chosen, 4:6]), expected[chosen, 5], atol=1e-5, rtol=1e-5)


@every
def test_a_token_sees_what_is_before_it_and_padding_is_never_read(name: str) -> None:
    encoder, decoder = model(name)
    source, target = tokens(9, 4), tokens(7, 3, seed=5)
    found = decoder(target.ids, target.documents, source.documents, encoder(source), encoder.tokens)
    assert found.isfinite().all()
    changed = target.ids.clone()
    changed[:, 4:] = 7
    again = decoder(changed, target.documents, source.documents, encoder(source), encoder.tokens)
    assert torch.equal(found[:, :4], again[:, :4]) and not torch.equal(found[0, 4:], again[0, 4:])
    alone = decoder(tokens(3, seed=6).ids, torch.ones(1, 3), torch.ones(1, 4), encoder(tokens(4, seed=1)), encoder.tokens)
    torch.testing.assert_close(found[1:, :3], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["t5", "bert"])
def test_pairs_in_a_row_are_what_they_are_alone(name: str) -> None:
    encoder, decoder = model(name)
    sources, targets = [tokens(6, seed=1), tokens(4, seed=2)], [tokens(3, seed=3), tokens(5, seed=4)]

    def together(parts: Sequence[Inputs]) -> Inputs:
        numbers = [torch.full_like(part.ids, i + 1) for i, part in enumerate(parts)]
        fill = torch.zeros(1, 2, dtype=torch.int64)
        rows = ([p.ids for p in parts], numbers, [p.positions for p in parts])
        return Inputs(*(torch.cat((*row, fill), 1) for row in rows))

    source = together(sources)
    both = together(targets)
    found = decoder(both.ids, both.documents, source.documents, encoder(source), encoder.tokens)
    for own, target, place in zip(sources, targets, (slice(0, 3), slice(3, 8)), strict=True):
        alone = decoder(target.ids, target.documents, own.documents, encoder(own), encoder.tokens)
        torch.testing.assert_close(found[:, place], alone, atol=1e-5, rtol=1e-5)


@every
def test_every_parameter_gets_a_gradient(name: str) -> None:
    encoder, decoder = model(name)
    source, target = tokens(9, 4), tokens(12, 3, seed=5)
    decoder(target.ids, target.documents, source.documents, encoder(source), encoder.tokens)[target.mask].logsumexp(
        -1
    ).sum().backward()
    for part in (encoder, decoder):
        for label, parameter in part.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, label


def test_sizes_that_are_not_given_are_the_encoders() -> None:
    blocks = DecoderConfig().blocks(T5Config(dim=24, layers=3, heads=5, head_dim=6, hidden=50, buckets=8))
    assert (blocks.dim, blocks.layers, blocks.heads, blocks.head_width, blocks.inner, blocks.buckets) == (24, 3, 5, 6, 50, 8)
    blocks = DecoderConfig().blocks(LstmConfig(dim=300, dropout=0.3))
    assert (blocks.heads, blocks.norm, blocks.attention_scale, blocks.dropout) == (5, "layer", "width", 0.3)
    with pytest.raises(ValueError, match="must divide"):
        DecoderConfig(heads=7).blocks(T5Config(dim=24, heads=3))


class Table:
    """A reader whose next token depends on the last one alone, by a table of logits; it has no cache to be wrong."""

    def __init__(self, logits: Tensor, count: int) -> None:
        self.logits, self.rows = logits, torch.arange(count)

    def read(self, tokens: Tensor) -> Tensor:
        assert len(tokens) == len(self.rows)
        return self.logits[tokens[:, -1]]

    def select(self, rows: Tensor) -> None:
        self.rows = self.rows[rows]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_as_many_beams_as_there_are_texts_find_the_best_of_all(penalty: float) -> None:
    for seed in range(5):
        logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))
        table, end, limit = logits.log_softmax(-1), 3, 3

        def score(ids: tuple[int, ...], table: Tensor = table) -> float:
            return sum(float(table[a, b]) for a, b in zip((0, *ids), ids, strict=False)) / len(ids) ** penalty

        texts = {ids[: ids.index(end) + 1] if end in ids else ids for ids in product(range(4), repeat=limit)}
        best = max(texts, key=score)
        [found] = beam_search(Table(logits, 1), torch.tensor([[0]]), end, limit, 40, penalty)
        assert found.ids == [i for i in best if i != end]
        assert found.score == pytest.approx(score(best), abs=1e-5)


def test_draws_follow_the_probabilities_and_their_own_generator() -> None:
    logits = torch.tensor([[0.0, 1, 2, -1, 0.5]]).expand(5, -1)
    rngs = [np.random.default_rng((1, i)) for i in range(4000)]
    start = torch.zeros(4000, 1, dtype=torch.int64)
    drawn = sample(Table(logits, 4000), start, -1, 1, rngs, Sampling(temperature=0.7, top_k=3))
    counts = np.bincount([ids[0] for ids in drawn], minlength=5) / 4000
    expected = torch.tensor([-math.inf, 1, 2, -math.inf, 0.5]).div(0.7).softmax(0).numpy()
    assert np.abs(counts - expected).max() < 0.03 and counts[0] == counts[3] == 0
    alone = sample(Table(logits, 1), start[:1], 2, 9, [np.random.default_rng(5)], Sampling())
    several = sample(Table(logits, 3), start[:3], 2, 9, [np.random.default_rng(i) for i in (4, 5, 6)], Sampling())
    assert several[1] == alone[0]
    assert greedy(Table(logits, 2), start[:2], 2, 9) == [[], []]


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, None, 0.6), (0.5, 5, None), (1.7, 8, 0.9), (1.0, 1, 0.01)])
def test_restrictions_are_those_of_transformers(temperature: float, top_k: int | None, top_p: float | None) -> None:
    theirs = pytest.importorskip("transformers").generation.logits_process
    logits = torch.randn(20, 30, generator=torch.Generator().manual_seed(1)) * 2
    expected = theirs.TemperatureLogitsWarper(temperature)(None, logits)
    if top_k:
        expected = theirs.TopKLogitsWarper(top_k)(None, expected)
    if top_p:
        expected = theirs.TopPLogitsWarper(top_p)(None, expected)
    torch.testing.assert_close(restrict(logits, temperature, top_k, top_p), expected)
