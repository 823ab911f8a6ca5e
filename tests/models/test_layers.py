"""Dropout against what its paper says: the share, the scale, the gradient, and no two masks alike."""

import pytest
import torch
from torch import Tensor

from encoderkit.models.layers import Dropout, drop


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_share_is_dropped_and_the_rest_scaled_up(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(1001, 999, dtype=dtype, requires_grad=True)  # no multiple of what a random word holds
    out = drop(x, rate)
    kept = out != 0
    error = (rate * (1 - rate) / x.numel()) ** 0.5
    assert 1 - kept.float().mean().item() == pytest.approx(rate, abs=5 * error)
    torch.testing.assert_close(
        out[kept], torch.full_like(out[kept], 1 / (1 - rate)), rtol=1e-2 if dtype != torch.float32 else 1e-4, atol=0
    )
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, out.detach())


def test_masks_follow_the_seed_and_are_independent() -> None:
    x = torch.ones(200_000)
    torch.manual_seed(1)
    first, second = drop(x, 0.5), drop(x, 0.5)
    torch.manual_seed(1)
    assert torch.equal(first, drop(x, 0.5))
    for a, b in ((first, second), (first[1:], first[:-1]), (first[4:], first[:-4])):
        assert ((a > 0) == (b > 0)).float().mean().item() == pytest.approx(0.5, abs=0.006)


def test_nothing_is_dropped_in_evaluation() -> None:
    x = torch.randn(5, 5)
    assert Dropout(0.5).eval()(x) is x


@pytest.mark.filterwarnings("ignore")
def test_a_compiler_keeps_two_masks_of_one_input_apart() -> None:
    """Two calls that look the same must not be made into one; nor may the backward pass draw anew."""
    pytest.importorskip("torch._inductor")
    x = torch.ones(4096, requires_grad=True)

    def both(x: Tensor) -> Tensor:
        return torch.stack((drop(x + 0.0, 0.5), drop(x * 1.0, 0.5)))

    torch.manual_seed(2)
    out = torch.compile(both, backend="aot_eager")(x)
    assert ((out[0] > 0) == (out[1] > 0)).float().mean().item() == pytest.approx(0.5, abs=0.05)
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, out.detach().sum(0))
