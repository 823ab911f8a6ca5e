"""What is drawn, what counts as replaced, what the two encoders share, and what each loss moves."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from encoderkit.config import validate
from encoderkit.data.order import rng
from encoderkit.errors import UserError
from encoderkit.learner import IGNORE, Batch
from encoderkit.objectives.config import ReplacedConfig
from encoderkit.objectives.replaced import Replaced, Shifted, draw
from encoderkit.recipe import PretrainRecipe
from encoderkit.training.checkpoint import load_weights
from encoderkit.training.config import AdamWConfig
from encoderkit.training.evaluate import evaluate
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.training.runs import BOTH_WAYS, KINDS, VOCABULARY, encoder, plan, replaced, rows

SHARING = ("embeddings", "gradient_disentangled", "none")


def batch(made: Replaced, count: int = 8) -> Batch:
    """Rows with what hangs on their numbers."""
    return made.collate(rows(count), [rng(1, 0, i) for i in range(count)], 0.0)


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([0.0, 2.0, -torch.inf, 1.0, -3.0])
    drawn = draw(logits.expand(40_000, 5), torch.rand(40_000, generator=torch.Generator().manual_seed(0)))
    shares = torch.bincount(drawn, minlength=5) / 40_000
    assert (shares - logits.softmax(0)).abs().max() < 0.01 and shares[2] == 0
    ends = torch.tensor([0.0, 1 - 2**-24])
    assert draw(torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]] * 2), ends).tolist() == [1, 2]


@torch.no_grad()
def test_the_loss_is_the_papers_written_out() -> None:
    """Place by place: the generator's at what is hidden, and the decision at every real token, [CLS] and [SEP] too."""
    made = replaced()
    given = batch(made)
    found = made(given.inputs, given.targets)
    logits = made.guesses(given.inputs, given.targets)
    drawn = draw(logits, given.targets["draws"])
    shown, original = given.inputs.ids.clone(), torch.zeros_like(given.inputs.ids)
    for i, row in enumerate(rows(8)):
        original[i, : len(row.ids)] = torch.from_numpy(row.ids)
    masked = torch.zeros(())
    for n, (place, label) in enumerate(zip(given.targets["where"].tolist(), given.targets["labels"].tolist(), strict=True)):
        if label != IGNORE:
            assert given.inputs.ids.flatten()[place] == VOCABULARY.mask and original.flatten()[place] == label
            shown.view(-1)[place] = drawn[n]
            masked = masked - logits[n].log_softmax(0)[label]
    scores = made.head(made.encoder(given.inputs._replace(ids=shown)))
    truth = (shown != original).float()
    assert 0 < truth.sum() < given.counts["masked"], "some drawn tokens are the original ones, and count as such"
    expected = F.binary_cross_entropy_with_logits(scores, truth, reduction="none")[given.inputs.mask].sum()
    torch.testing.assert_close(found["masked"], masked)
    torch.testing.assert_close(found["replaced"], expected)
    assert given.counts["replaced"] == given.tokens == sum(len(row.ids) for row in rows(8))
    seen = {name: value.detach().numpy() for name, value in made.observe(given.inputs, given.targets).items()}
    metrics = made.metrics(seen)
    guess = scores > 0
    assert metrics["loss"] == pytest.approx(float(masked / given.counts["masked"] + 50 * expected / given.tokens), rel=1e-5)
    assert metrics["recall"] == pytest.approx(float((guess & (truth > 0)).sum() / truth.sum()))
    assert metrics["replaced"] == pytest.approx(float(truth.sum() / given.tokens))
    assert set(metrics) == {*made.directions, "replaced"}


def test_what_is_drawn_depends_on_the_row_alone() -> None:
    made = replaced().eval()

    def shown(numbers: list[int]) -> Tensor:
        source = rows(8)
        given = made.collate([source[i] for i in numbers], [rng(1, 0, i) for i in numbers], 0.0)
        return made.replace(given.inputs, given.targets, made.guesses(given.inputs, given.targets))[0].ids

    assert torch.equal(shown([*range(8)]), torch.cat([shown([0, 1, 2]), shown([3]), shown([4, 5, 6, 7])]))


@pytest.mark.parametrize("sharing", SHARING)
def test_what_each_loss_moves(sharing: str) -> None:
    """The generator learns from its own loss alone; the shared table from both, unless its gradient is disentangled."""
    made = replaced(sharing=sharing)
    given = batch(made)
    made(given.inputs, given.targets)["replaced"].backward()
    moved = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    table = {"embeddings": "encoder.tokens.weight", "none": "encoder.tokens.weight"}
    assert table.get(sharing, "encoder.tokens.difference") in moved
    assert not {name for name in moved if name.startswith(("generator.", "encoder.tokens.base"))}
    made.zero_grad()
    made(given.inputs, given.targets)["masked"].backward()
    moved = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    shared = {"encoder.tokens.weight", "encoder.positions.weight", "encoder.segments.weight"}
    assert {name for name in moved if not name.startswith("generator.")} == {
        "embeddings": shared,
        "gradient_disentangled": {"encoder.tokens.base.weight"},
        "none": set(),
    }[sharing]


@pytest.mark.parametrize("sharing", SHARING)
def test_the_state_holds_everything_once_and_is_read_back_exactly(sharing: str) -> None:
    made = replaced("electra", {"embedding_dim": 24}, sharing=sharing)
    (optimizer,) = build_optimizers(made, AdamWConfig(lr=1e-2), torch.float32)
    source = rows(8)
    list(updates(made, [optimizer], source, plan(3, 8)))
    state = made.state_dict()
    kept = [value.data_ptr() for name, value in state.items()]
    assert len(set(kept)) == len(kept)
    assert all(name.startswith(("encoder.", "head.", "generator.", "difference")) for name in state)
    again = replaced("electra", {"embedding_dim": 24}, sharing=sharing)
    load_weights(again, {name: value.clone() for name, value in state.items()}, "here")  # type: ignore[arg-type]
    for (name, mine), (_, theirs) in zip(made.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    read = made.encoder.tokens.weight
    assert torch.equal(state["encoder.tokens.weight"], read)
    if isinstance(made.encoder.tokens, Shifted):
        assert made.encoder.tokens.difference.any()
        torch.testing.assert_close(read, state["generator.encoder.tokens.weight"] + state["difference"])
        ids = torch.arange(VOCABULARY.size)
        assert torch.equal(made.encoder.tokens(ids), read[ids])


@pytest.mark.parametrize("kind", KINDS)
def test_eight_sequences_are_memorised(kind: str) -> None:
    """First the encoder learns which tokens an untrained generator replaced, then the generator what was there."""
    sizes = {"share": 1.0, "layers": 1} if kind in ("gpt", "xlnet") else {"share": 0.5}  # no other width there
    more = {"init": "normal"} if kind == "t5" else BOTH_WAYS.get(kind)  # its own begins with embeddings fifty times as large
    made = replaced(kind, more, sharing="gradient_disentangled", generator=sizes)
    given = batch(made)

    def train(loss: Callable[[], Tensor], steps: int = 400) -> dict[str, float]:
        (optimizer,) = build_optimizers(made, AdamWConfig(lr=1e-3, weight_decay=0.0), torch.float32)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 2e-3 * (1 - step / steps)
            value = loss()
            if value < 0.005:  # below ln 2 over the number of decisions: none is wrong
                break
            value.backward()
            optimizer.step()
            optimizer.zero_grad()
        seen = made.observe(given.inputs, given.targets)
        return made.metrics({name: value.detach().numpy() for name, value in seen.items()})

    with torch.no_grad():
        shown, truth = made.replace(given.inputs, given.targets, made.guesses(given.inputs, given.targets))
    real = given.inputs.mask
    found = train(lambda: F.binary_cross_entropy_with_logits(made.scores(shown)[real], truth[real].float()))
    assert found["replaced"] > 0.2 and found["recall"] == found["accuracy"] == 1 and found["discriminator_loss"] < 0.1
    found = train(lambda: made.generator(given.inputs, given.targets)["masked"] / given.counts["masked"])
    assert found["generator_loss"] < 0.1 and found["generator_accuracy"] == 1


@pytest.mark.parametrize("sharing", SHARING)
def test_the_micro_batch_changes_nothing(sharing: str) -> None:
    found = []
    for micro_batch in (8, 3):
        made = replaced(sharing=sharing)
        list(updates(made, build_optimizers(made, AdamWConfig(lr=1e-3), torch.float32), rows(16), plan(3, 8, micro_batch)))
        found.append(made.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, atol=2e-5, rtol=1e-4)


def test_sizes_of_the_generator() -> None:
    model = encoder("electra", dim=64, heads=8, layers=3, hidden=100, embedding_dim=24)
    small: Any = ReplacedConfig().generator_of(model)
    assert (small.kind, small.dim, small.heads, small.layers, small.inner, small.embedding_dim) == ("electra", 16, 2, 3, 25, 24)
    given = ReplacedConfig.model_validate({"generator": {"dim": 24, "layers": 1, "heads": 3, "hidden": 7}})
    small = given.generator_of(model)
    assert (small.dim, small.heads, small.layers, small.inner, small.embedding_dim) == (24, 3, 1, 7, None)
    assert ReplacedConfig().generator_of(encoder("lstm", dim=32)).model_dump()["embedding_dim"] == 32


@pytest.mark.parametrize(
    ("model", "generator", "message"),
    [
        ({"kind": "bert", "dim": 64, "heads": 4}, {"heads": 3}, r"heads \(3\) must divide dim \(16\)"),
        ({"kind": "lstm", "dim": 64}, {"heads": 3}, "lstm, which has none"),
        ({"kind": "gpt", "dim": 64, "heads": 4}, {}, "word embeddings themselves"),
        ({"kind": "xlnet", "dim": 64, "heads": 4}, {}, "cannot read embeddings of another width"),
        ({"kind": "bert", "dim": 64, "heads": 4}, {"share": 0}, "more than 0"),
    ],
)
def test_sizes_that_cannot_be_are_told(model: dict[str, Any], generator: dict[str, Any], message: str) -> None:
    objective = {"kind": "replaced", "generator": generator}
    recipe = {"tokenizer": "t", "data": {"train": "d"}, "training": {"updates": 1}, "model": model, "objective": objective}
    with pytest.raises(UserError, match=message):
        validate(PretrainRecipe, recipe, "recipe")


def test_it_compiles_without_a_graph_break() -> None:
    made = replaced(sharing="gradient_disentangled")
    given = batch(made)
    expected = made(given.inputs, given.targets)
    made.compile(fullgraph=True, backend="eager")
    torch.testing.assert_close(made(given.inputs, given.targets), expected)


def test_held_out_metrics_do_not_depend_on_the_batch() -> None:
    made = replaced("lstm")
    one, all_at_once = (evaluate(made, rows(16), size, "cpu", "fp32") for size in (1, 16))
    assert one == pytest.approx(all_at_once, abs=1e-5)
    assert np.isfinite(list(one.values())).all()
