"""Chains of labels against enumeration of all of them."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch
from torch import Tensor

from encoderkit.models import crf
from encoderkit.models.crf import Scores, Transitions, forbidding, marginals, nats, viterbi
from encoderkit.tasks.schemes import Scheme, legal, outputs, split

EDGES = [(True, True), (True, False), (False, True), (False, False)]


def names(scheme: Scheme) -> list[str]:
    return ["n", "v", "x"] if scheme == "plain" else outputs(["a", "b"] if scheme == "bio" else ["a"], scheme)


def made(scheme: Scheme, sizes: list[int], seed: int = 0) -> tuple[Tensor, Tensor, Scores]:
    """Random emissions of chains of these sizes, with numbers in the padding that must not matter, and random transitions."""
    torch.manual_seed(seed)
    forbidden = forbidding(*legal(names(scheme), scheme))
    layer = Transitions(forbidden)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    return 2 * torch.randn(*mask.shape, len(names(scheme))), mask, Scores(*(score.detach() for score in layer()))


def test_chains_without_a_place_have_a_gradient_too() -> None:
    """A batch may hold nothing else, and is then added up like any other."""
    emissions = torch.zeros(2, 0, 3, requires_grad=True)
    found = nats(
        emissions,
        torch.zeros(2, 0, dtype=torch.long),
        torch.zeros(2, 0, dtype=torch.bool),
        torch.ones(2, 2),
        made("plain", [2])[2],
    )
    found.sum().backward()
    assert found.tolist() == [0, 0] and emissions.grad is not None


def may_be(labels: list[str], scheme: Scheme, edges: tuple[bool, bool] = (True, True)) -> bool:
    """Whether tags follow one another as the scheme says, written down anew: an I or E goes on, and BIOES is closed."""
    parts = [("O", "") if name == "O" else split(name) for name in labels] if scheme != "plain" else []
    before = [("O", "") if edges[0] else None, *parts]
    for one, (letter, label) in zip(before, parts, strict=False):
        if one is None:
            continue
        opened = one[0] in "BI" and one[0] != "O"
        if letter in "IE" and not (opened and one[1] == label):
            return False
        if scheme == "bioes" and opened and letter not in "IE":
            return False
    return not (scheme == "bioes" and parts and edges[1] and parts[-1][0] in "BI")


def total(path: tuple[int, ...], emissions: Tensor, scores: Scores, edges: tuple[bool, bool]) -> float:
    value = sum(float(emissions[i, label]) for i, label in enumerate(path))
    value += sum(float(scores.between[a, b]) for a, b in pairwise(path))
    return value + edges[0] * float(scores.start[path[0]]) + edges[1] * float(scores.end[path[-1]])


@pytest.mark.parametrize("scheme", ["plain", "bio", "bioes"])
def test_all_chains_counted_one_by_one(scheme: Scheme) -> None:
    sizes, labels = [4, 1, 3, 2], names(scheme)
    emissions, mask, scores = made(scheme, sizes)
    rng = np.random.default_rng(0)
    for edges in EDGES:
        gold, pairs = torch.full(mask.shape, -100), torch.tensor([edges] * len(sizes))
        expected = []
        for row, size in enumerate(sizes):
            paths = [p for p in product(range(len(labels)), repeat=size) if may_be([labels[i] for i in p], scheme, edges)]
            values = torch.tensor([total(path, emissions[row], scores, edges) for path in paths], dtype=torch.float64)
            chosen = int(rng.integers(len(paths)))
            gold[row, :size] = torch.tensor(paths[chosen])
            expected.append(float(values.logsumexp(0) - values[chosen]))
            each = torch.zeros(mask.shape[1], len(labels), dtype=torch.float64)
            for path, p in zip(paths, values.softmax(0), strict=True):
                each[range(size), path] += p
            torch.testing.assert_close(marginals(emissions, mask, pairs, scores)[row].double(), each, atol=1e-5, rtol=0)
            if edges == (True, True):
                best = viterbi(emissions, mask, scores)[row]
                assert tuple(best[:size].tolist()) == paths[int(values.argmax())] and not best[size:].any()
        found = nats(emissions, gold, mask, pairs, scores)
        torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_where_nothing_is_scored_between_labels_each_place_is_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without chains, and (with scores too small to count) with them; however few are computed at once."""
    emissions, mask, _ = made("plain", [4, 1, 3, 2])
    edges, free = torch.ones(4, 2, dtype=torch.bool), forbidding(*legal(names("plain"), "plain"))
    assert free.nothing
    expected = emissions.softmax(-1) * mask[:, :, None]
    torch.testing.assert_close(marginals(emissions, mask, edges, free), expected)
    assert torch.equal(viterbi(emissions, mask, free), emissions.argmax(-1) * mask)
    chained = Scores(free.start + 1e-30, free.between, free.end)
    assert not chained.nothing and torch.equal(viterbi(emissions, mask, chained), emissions.argmax(-1) * mask)
    for held in (1, 1 << 20):
        monkeypatch.setattr(crf, "_HELD", held)
        torch.testing.assert_close(marginals(emissions, mask, edges, chained), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
def test_no_illegal_chain_whatever_is_scored(scheme: Scheme) -> None:
    """Even where the encoder is sure of what cannot be, and a chain is long."""
    labels = names(scheme)
    scores = forbidding(*legal(labels, scheme))
    emissions = 1e4 * torch.randn(50, 40, len(labels), generator=torch.Generator().manual_seed(1))
    for path in viterbi(emissions, torch.ones(50, 40, dtype=torch.bool), scores).tolist():
        assert may_be([labels[i] for i in path], scheme)


def test_gradients_are_finite_where_almost_nothing_is_legal() -> None:
    emissions, mask, scores = made("bioes", [30, 1])
    emissions = (100 * emissions).requires_grad_()
    nats(emissions, torch.zeros(mask.shape, dtype=torch.int64), mask, torch.ones(2, 2, dtype=torch.bool), scores).sum().backward()
    assert emissions.grad is not None and emissions.grad.isfinite().all()
    assert not nats(emissions[:, :0], mask[:, :0].long(), mask[:, :0], torch.ones(2, 2, dtype=torch.bool), scores).any()
