"""Dropout against what its paper says, the share, the scale, the gradient; and masks that belong to texts, no two alike."""

import numpy as np
import pytest
import torch
from torch import Tensor

from encoderkit.models.dropout import Dropout, along, drawn, drop, drop_between, fold, kept, kept_between, shared
from encoderkit.models.inputs import Inputs


def seeds(*shape: int, number: int = 0) -> Tensor:
    return torch.randint(1 << 32, shape, generator=torch.Generator().manual_seed(number))


def correlation(a: Tensor, b: Tensor) -> float:
    """In standard errors of what two masks that have nothing to do with one another show."""
    a, b = a.double().flatten(), b.double().flatten()
    return float(((a - a.mean()) * (b - b.mean())).mean() / (a.std() * b.std())) * len(a) ** 0.5


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seeded", [True, False])
@pytest.mark.parametrize("attention", [True, False])
def test_a_share_is_dropped_and_the_rest_scaled_up(rate: float, dtype: torch.dtype, seeded: bool, attention: bool) -> None:
    torch.manual_seed(0)
    shape = (3, 5, 251, 253) if attention else (1001, 999)  # no multiple of what a random number holds
    x = torch.ones(shape, dtype=dtype, requires_grad=True)
    if attention:
        out = drop_between(x, rate, (seeds(3, 251), seeds(3, 253, number=1)) if seeded else None)
    else:
        out = drop(x, rate, seeds(1001) if seeded else None)
    there = out != 0
    error = (rate * (1 - rate) / x.numel()) ** 0.5
    assert 1 - there.float().mean().item() == pytest.approx(rate, abs=5 * error)
    torch.testing.assert_close(
        out[there], torch.full_like(out[there], 1 / (1 - rate)), rtol=1e-2 if dtype != torch.float32 else 1e-4, atol=0
    )
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, out.detach())


def test_masks_have_nothing_to_do_with_one_another() -> None:
    """Of neighbours, of columns, of texts, and of uses, where all these are counted one after the other."""
    texts = along(torch.arange(64), 128)  # even for texts whose seeds are 0, 1, 2, ...
    mask = kept(texts, 256, 1 << 15)
    others = [
        (mask[:, 1:], mask[:, :-1]),
        (mask[1:], mask[:-1]),
        (mask[..., 1:], mask[..., :-1]),
        (mask[..., 2:], mask[..., :-2]),
        *((mask, kept(fold(texts, use), 256, 1 << 15)) for use in (0, 1, 2)),
        (mask[..., : 1 << 7], kept_between(texts, texts, 2, 1 << 15)[:, 0]),
    ]
    assert max(abs(correlation(a, b)) for a, b in others) < 4.5
    shares = mask.double().mean((0, 1)), mask.double().mean((0, 2)), mask.double().mean((1, 2))
    for share, size in zip(shares, (64 * 128, 64 * 256, 128 * 256), strict=True):
        assert float((share - 0.5).abs().max()) * 2 * size**0.5 < 4.5
        assert 0.75 < float(share.std()) * 2 * size**0.5 < 1.25  # as far apart as chance has them, no more and no less


def test_weights_of_attention_go_by_query_key_and_head() -> None:
    own = along(torch.arange(8), 64)
    mask = kept_between(fold(own, 0), own, 6, 1 << 15)
    heads = [(mask[:, a], mask[:, b]) for a in range(6) for b in range(a)]
    others = [(mask[..., 1:], mask[..., :-1]), (mask[:, :, 1:], mask[:, :, :-1]), (mask[1:], mask[:-1])]
    others.append((mask[:, :, 32:, :32], mask.mT[:, :, 32:, :32]))
    assert max(abs(correlation(a, b)) for a, b in (*heads, *others)) < 4.5
    rows, order = torch.randperm(8), torch.randperm(64)
    moved = kept_between(fold(own, 0)[rows][:, order], own[rows][:, order[:40]], 6, 1 << 15)
    assert torch.equal(moved, mask[rows][:, :, order][..., order[:40]])


def test_a_token_is_dropped_alike_wherever_it_stands() -> None:
    """In a row of its own, padded, or packed with other texts."""
    alone, texts = seeds(3), torch.tensor([[7, 8, 9, -1], [0, 1, 2, 3], [4, 5, -1, -1]])
    zeros = torch.zeros(2, 6, dtype=torch.long)
    packed = Inputs(zeros, zeros, zeros, texts=texts).seeded(alone).seeds
    assert packed is not None
    wide = Inputs.of(torch.zeros(3, 9, dtype=torch.long)).seeded(alone).seeds
    assert wide is not None
    for text, places in enumerate(texts):
        size = int((places >= 0).sum())
        assert torch.equal(packed.flatten()[places[:size]], wide[text, :size])
    assert torch.equal(wide[:, :5], Inputs.of(torch.zeros(3, 5, dtype=torch.long)).seeded(alone).seeds)
    assert torch.equal(wide, along(alone, 9)) and len(wide.unique()) == 27


def test_passes_and_uses_differ() -> None:
    inputs = Inputs.of(torch.zeros(2, 5, dtype=torch.long)).seeded(seeds(2))
    assert inputs.again(0) is inputs and Inputs.of(inputs.ids).again(1).seeds is None
    found = [inputs.again(i).seeds for i in range(3)]
    used = [fold(one, i) for one in found if one is not None for i in range(3)]
    assert len(torch.stack(used).unique()) == 90
    assert all(int(one.min()) >= 0 and int(one.max()) < 1 << 32 for one in used)


def test_seeds_are_drawn_by_the_generators_of_the_texts() -> None:
    def generators() -> list[np.random.Generator]:
        return [np.random.default_rng(i) for i in range(3)]

    assert drawn([]) is None
    one, several = drawn(generators()), drawn(generators(), [2, 1, 3])
    assert one is not None and several is not None
    assert one.shape == (3,) and several.shape == (6,) and torch.equal(several[[0, 2, 3]], one)


def test_what_all_texts_share_goes_by_the_update() -> None:
    torch.manual_seed(5)
    first, _ = shared(torch.arange(-3, 8)), torch.rand(3)
    assert torch.equal(shared(torch.arange(2, 8)), first[5:]) and len(first.unique()) == 11
    torch.manual_seed(6)
    assert not (shared(torch.arange(-3, 8)) == first).any()


def test_nothing_is_dropped_in_evaluation() -> None:
    x = torch.randn(5, 5)
    assert Dropout(0.5).eval()(x, seeds(5)) is x and Dropout(0.0)(x, None) is x
    assert not torch.equal(Dropout(0.5)(x, seeds(5)), Dropout(0.5)(x, seeds(5), 1))
    assert torch.equal(Dropout(0.5)(x, seeds(5), 1), Dropout(0.5)(x, seeds(5), 1))


@pytest.mark.filterwarnings("ignore")
def test_a_compiler_draws_the_same() -> None:
    pytest.importorskip("torch._inductor")
    x, own = torch.ones(4, 64, 64, requires_grad=True), seeds(4, 64)

    def both(x: Tensor, seeds: Tensor) -> Tensor:
        weights = drop_between(x[:, None] * 1.0, 0.5, (fold(seeds, 2), seeds))
        return torch.stack((drop(x + 0.0, 0.5, fold(seeds, 1)), drop(x * 1.0, 0.5, seeds), weights[:, 0]))

    out = torch.compile(both, backend="aot_eager")(x, own)
    assert torch.equal(out, both(x, own))
    out.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, out.detach().sum(0))
