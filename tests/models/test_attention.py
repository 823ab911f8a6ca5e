"""Attention against a float64 einsum, rotary positions against their formula, and who sees whom."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from encoderkit.models import attention
from encoderkit.models.attention import AlibiBias, Kernel, Rotary, T5Bias, attend, rotate, visible
from encoderkit.models.config import BertConfig, T5Config, longest


@pytest.mark.parametrize("kernel", ["fused", "products"])
@pytest.mark.parametrize(("batch", "heads", "length", "width"), [(1, 1, 1, 1), (2, 3, 7, 5), (3, 2, 33, 16)])
def test_attention_and_its_gradient_equal_float64_einsum(
    kernel: Kernel, batch: int, heads: int, length: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By either kernel; without gradients too."""
    monkeypatch.setattr(attention, "_trained_by", kernel)
    generator = torch.Generator().manual_seed(length)
    inputs = [x.requires_grad_() for x in torch.randn(3, batch, heads, length, width, generator=generator).unbind(0)]
    exact = query, key, value = [x.detach().double().requires_grad_() for x in inputs]
    pull = torch.randn(batch, heads, length, width, generator=generator)
    documents = torch.randint(0, 3, (batch, length), generator=generator)
    scores = torch.einsum("bhik,bhjk->bhij", query, key) / math.sqrt(width)
    apart = ~(documents[:, None, :, None] == documents[:, None, None, :]).expand_as(scores)
    expected = torch.einsum("bhij,bhjk->bhik", scores.masked_fill(apart, -math.inf).softmax(-1), value)
    (expected * pull).sum().backward()
    found = attend(*inputs, visible(documents))
    (found * pull).sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(attend(*inputs, visible(documents)), found, atol=1e-6, rtol=1e-5)
    for ours, theirs in ((found, expected), *((x.grad, y.grad) for x, y in zip(inputs, exact, strict=True))):
        torch.testing.assert_close(ours.double(), theirs, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("usual", ["fused", "products"])
@pytest.mark.parametrize(("fused", "products", "best"), [(1.0, 2.0, "fused"), (2.0, 1.0, "products"), (1.0, 0.95, None)])
def test_the_kernel_is_the_one_that_is_clearly_faster(
    usual: Kernel, fused: float, products: float, best: Kernel | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the usual one; what is in use does not change by asking. Here the clock is what the kernel in use takes."""
    monkeypatch.setattr(attention, "_trained_by", "products")
    monkeypatch.setattr(attention, "_seconds", lambda *_: {"fused": fused, "products": products}[attention._trained_by])
    assert attention.fastest(usual, 8, 16, 2, 4, torch.float32, "cpu") == (best or usual)
    assert attention._trained_by == "products"
    monkeypatch.undo()
    assert attention.fastest(usual, 8, 16, 2, 4, torch.float32, "cpu") in ("fused", "products")


def test_a_kernel_that_needs_too_much_memory_is_not_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(*_: object) -> float:
        if attention._trained_by == "products":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    monkeypatch.setattr(attention, "_seconds", seconds)
    for usual in ("fused", "products"):
        assert attention.fastest(usual, 8, 16, 2, 4, torch.float32, "cpu") == "fused"


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.none() | st.integers(1, 9))
def test_a_token_sees_its_document_within_the_window(documents: list[int], window: int | None) -> None:
    bias = visible(torch.tensor([documents]), window)[0, 0]
    for i, mine in enumerate(documents):
        for j, other in enumerate(documents):
            seen = mine == other and (window is None or abs(i - j) <= window // 2)
            assert bias[i, j].item() == (0 if seen else -math.inf)


def test_rotary_is_a_rotation_of_pairs_by_position_times_frequency() -> None:
    width, base = 8, 100.0
    x = torch.randn(1, 1, 5, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[0, 1, 2, 0, 9]])
    rotated = rotate(x, *Rotary(width, 10, base)(positions))
    for t, position in enumerate(positions[0].tolist()):
        for i in range(width // 2):
            turn = complex(math.cos(a := position * base ** (-2 * i / width)), math.sin(a))
            expected = complex(x[0, 0, t, i], x[0, 0, t, i + width // 2]) * turn
            found = complex(rotated[0, 0, t, i], rotated[0, 0, t, i + width // 2])
            assert abs(found - expected) < 1e-6


def test_rotated_products_depend_on_the_distance_alone() -> None:
    query, key = torch.randn(2, 1, 1, 1, 16, generator=torch.Generator().manual_seed(1)).unbind(0)
    rotary = Rotary(16, 200, 10000.0)

    def product(i: int, j: int) -> float:
        turned = (rotate(x, *rotary(torch.tensor([[p]]))) for x, p in ((query, i), (key, j)))
        left, right = turned
        return float((left * right).sum())

    assert product(3, 10) == pytest.approx(product(150, 157), abs=1e-4)
    assert product(3, 10) != pytest.approx(product(3, 11), abs=1e-4)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20), (16, 9)])
def test_buckets_are_those_of_transformers(buckets: int, distance: int, causal: bool) -> None:
    theirs = pytest.importorskip("transformers.models.t5.modeling_t5").T5Attention._relative_position_bucket
    bias = T5Bias(T5Config(buckets=buckets, bucket_distance=distance), causal)
    places = torch.arange(-300, 301)
    expected = theirs(places, bidirectional=not causal, num_buckets=buckets, max_distance=distance)
    assert torch.equal(bias.bucket(places), expected)


@pytest.mark.parametrize("kind", [T5Bias, AlibiBias])
def test_the_bias_of_the_last_places_is_that_of_all(kind: type[T5Bias | AlibiBias]) -> None:
    """Which is what reading on from a cache needs."""
    bias = kind(T5Config(heads=4, buckets=8, bucket_distance=20), causal=True)
    torch.testing.assert_close(bias(2, 9), bias(9, 9)[:, :, -2:])


def test_alibi() -> None:
    assert longest(T5Config()) is None and longest(BertConfig()) == 512  # distances have no end
    bias = AlibiBias(T5Config(heads=8))(5, 5)[0]
    assert bias[:, 0, 1].tolist() == [-(2.0**-i) for i in range(1, 9)]  # the paper's rates for eight heads
    torch.testing.assert_close(bias, bias.transpose(1, 2))
    torch.testing.assert_close(bias[:, 4, 0], 4 * bias[:, 0, 1])


def test_scores_need_not_be_scaled() -> None:
    query, key, value = torch.randn(3, 1, 2, 5, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    bias = visible(torch.ones(1, 5))
    expected = torch.softmax(query @ key.mT, -1) @ value
    torch.testing.assert_close(attend(query, key, value, bias, scale=1.0), expected)
