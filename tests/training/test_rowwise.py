"""The optimizers of tables, beside torch's own on dense gradients, by hand on rows, and the norm of sparse gradients."""

import pytest
import torch
from torch import Tensor, nn

from encoderkit.models.static import sparse_rows
from encoderkit.training import rowwise
from encoderkit.training.rowwise import Adagrad, Sgd, clip_gradients

TARGETS = 7.0


def step(optimizer: torch.optim.Optimizer, table: nn.Parameter, rows: list[int], values: Tensor, sparse: bool) -> None:
    """One step with the mean over `TARGETS` of a loss whose gradient is `values` in `rows` and zero elsewhere."""
    for group in optimizer.param_groups:
        group["targets"] = TARGETS
    table.grad = None
    held = sparse_rows(table, torch.tensor(rows)) if sparse else table[rows]
    ((held * values).sum() / TARGETS).backward()
    assert table.grad is not None and table.grad.is_sparse == sparse
    optimizer.step()


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("initial", [0.0, 1.0])
def test_adagrad_is_torchs(sparse: bool, initial: float) -> None:
    torch.manual_seed(0)
    table = nn.Parameter(torch.randn(6, 3))
    other = nn.Parameter(table.detach().clone())
    ours = Adagrad([{"params": [table], "lr": 0.3}], 1e-10, initial)
    theirs = torch.optim.Adagrad([other], lr=0.3, initial_accumulator_value=initial)
    for rows in ([0, 2], [2, 5], [0, 1, 2, 3, 4, 5]):
        values = torch.randn(len(rows), 3)
        step(ours, table, rows, values, sparse)
        other.grad = torch.zeros(6, 3).index_add_(0, torch.tensor(rows), values)
        theirs.step()
        torch.testing.assert_close(table, other)


@pytest.mark.parametrize(("sparse", "by"), [(False, "torch"), (True, "torch"), (True, "numba")])
def test_sgd_clips_each_row(sparse: bool, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "torch":
        monkeypatch.setattr(rowwise, "compiled", lambda *_, **__: None)
    else:
        pytest.importorskip("numba")
    table = nn.Parameter(torch.zeros(4, 2))
    step(Sgd([{"params": [table], "lr": 0.5}], 2.0), table, [1, 3], torch.tensor([[3.0, 4.0], [0.6, -0.8]]), sparse)
    torch.testing.assert_close(table.detach(), torch.tensor([[0, 0], [-0.6, -0.8], [0, 0], [-0.3, 0.4]]))
    step(Sgd([{"params": [table], "lr": 0.5}], None), table, [1], torch.tensor([[3.0, 4.0]]), sparse)
    torch.testing.assert_close(table[1].detach(), torch.tensor([-2.1, -2.8]))


@pytest.mark.parametrize("most", [None, 1.0, 100.0])
def test_sparse_gradients_are_clipped_as_dense_ones(most: float | None) -> None:
    torch.manual_seed(0)
    tables = [nn.Parameter(torch.randn(5, 3)) for _ in range(2)]
    other = nn.Parameter(torch.randn(4))
    grads = []
    for sparse in (True, False):
        for p in (*tables, other):
            p.grad = None
        rows = torch.tensor([0, 3])
        for _ in range(2):  # two portions
            held = [sparse_rows(t, rows) if sparse else t[rows] for t in tables]
            (held[0].square().sum() + held[1].pow(3).sum() + other.exp().sum()).backward()
        norm = clip_gradients([*tables, other], most)
        found = [p.grad.to_dense() for p in (*tables, other) if p.grad is not None]
        grads.append((norm, found))
    assert grads[0][0] == pytest.approx(grads[1][0], rel=1e-6)
    for ours, theirs in zip(grads[0][1], grads[1][1], strict=True):
        torch.testing.assert_close(ours, theirs)
