"""Disentangled attention: distances as transformers buckets them, and scores as they are written in the paper."""

import pytest
import torch

from encoderkit.models.config import DebertaConfig
from encoderkit.models.deberta import Deberta, DisentangledAttention, buckets
from encoderkit.models.inputs import Inputs

deberta_v2 = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")


@pytest.mark.parametrize(("size", "length"), [(256, 512), (32, 512), (8, 50), (7, 40), (64, 64), (256, 128)])
def test_buckets_are_those_of_transformers(size: int, length: int) -> None:
    expected = deberta_v2.make_log_bucket_position(torch.arange(1 - length, length), size, length).long()
    assert torch.equal(buckets(length, size, length, logarithmic=True), (expected + size).clamp(0, 2 * size - 1))


@pytest.mark.parametrize("length", [1, 2, 9])
@torch.no_grad()
def test_scores_are_those_of_the_paper_pair_by_pair(length: int) -> None:
    torch.manual_seed(0)
    config = DebertaConfig(dim=6, heads=1, buckets=4, max_length=9, dropout=0, attention_dropout=0, share_projections=False)
    attention, table = DisentangledAttention(config), torch.randn(8, 6)
    x, rows = torch.randn(1, length, 6), buckets(length, 4, 9, logarithmic=True)
    query, key, value = attention.qkv(x[0]).chunk(3, -1)
    position_key, position_query = (part(table) for part in attention.relative)
    scores = torch.empty(length, length)
    for i in range(length):
        for j in range(length):
            row = rows[i - j + length - 1]
            scores[i, j] = query[i] @ key[j] + query[i] @ position_key[row] + position_query[row] @ key[j]
    expected = attention.out((scores / (3 * 6) ** 0.5).softmax(-1) @ value)
    torch.testing.assert_close(attention(x, torch.zeros(1, 1, length, length), table, rows, None)[0], expected)


@torch.no_grad()
def test_a_row_longer_than_any_document() -> None:
    torch.manual_seed(0)
    encoder = Deberta(DebertaConfig(dim=12, layers=2, heads=2, buckets=None, max_length=5), 30, 0).eval()
    ids = torch.randint(5, 30, (1, 12))
    packed = Inputs(ids, torch.tensor([[1] * 5 + [2] * 5 + [3] * 2]), torch.tensor([[*range(5), *range(5), 0, 1]]))
    for first, last in ((0, 5), (5, 10), (10, 12)):
        torch.testing.assert_close(encoder(packed)[:, first:last], encoder(Inputs.of(ids[:, first:last])))
