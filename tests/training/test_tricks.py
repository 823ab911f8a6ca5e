"""Tricks of fine-tuning, each beside what its paper says, and all of them resumed bit by bit."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from encoderkit.config import validate
from encoderkit.errors import UsageError
from encoderkit.inference import open_model
from encoderkit.models.inputs import Inputs
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages.finetune import prepare
from encoderkit.training.average import Ema, Last, averaged, build_average, too_few
from encoderkit.training.config import AdamWConfig, EmaConfig, LastConfig, LoraConfig
from encoderkit.training.loop import updates
from encoderkit.training.lora import adapt, merged
from encoderkit.training.optim import build_optimizers, renewed
from tests.reliability.small import assert_same, result
from tests.training.runs import TRAINING, classify, examples, finetuning, go, go_until, masked, plan, pretraining
from tests.training.test_exact import Recorder

LORA = {"rank": 2, "alpha": 4, "matrices": ["query", "value", "out", "mlp"]}
TOGETHER: dict[str, dict[str, Any]] = {
    "unfrozen": {
        "training": {"unfreeze": "2 updates", "adversarial": 1.0, "reinit": 1, "average": {"kind": "ema", "decay": 0.7}},
        "task": {"kind": "classify", "rdrop": 1.0, "sampling": "balanced", "word_dropout": 0.2},
    },
    "lora": {
        "training": {"lora": LORA, "average": {"kind": "last", "count": 2, "every": "2 updates"}},
        "task": {"kind": "classify", "focal": 2.0},
    },
}


@pytest.mark.parametrize("name", TOGETHER)
def test_stopped_and_resumed_they_end_the_same(
    name: str, pretrained_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:  # fmt: skip
    tricks = TOGETHER[name]
    training = {"epochs": 1.5, **tricks["training"]}
    recipe = finetuning(tmp_path, labelled, checkpoint=str(pretrained_dir), task=tricks["task"], training=training)
    go(recipe, tmp_path / "whole")
    reference = result(tmp_path / "whole")
    for update in (1, 4):
        go_until(recipe, tmp_path / "pieces", update)
    go(recipe, tmp_path / "pieces", resume=True)
    assert "resume/weights.safetensors" in reference
    assert_same(tmp_path / "pieces", reference)


def test_pretraining_keeps_an_average_too(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    """Resumed bitwise; what is saved as the model is not what is trained, and it is what was evaluated."""
    recipe = pretraining(tokenizer_dir, store_dir, training={"average": {"kind": "ema", "decay": 0.7}})
    go(recipe, tmp_path / "whole")
    go_until(recipe, tmp_path / "pieces", 3)
    go(recipe, tmp_path / "pieces", resume=True)
    assert_same(tmp_path / "pieces", result(tmp_path / "whole"))
    plain = pretraining(tokenizer_dir, store_dir)
    go(plain, tmp_path / "plain")
    raw = safetensors.torch.load_file(tmp_path / "whole/step-0000006/resume/weights.safetensors")
    trained = safetensors.torch.load_file(tmp_path / "plain/step-0000006/model.safetensors")
    assert raw.keys() == trained.keys() and all(torch.equal(raw[name], trained[name]) for name in raw)


def test_a_table_that_is_a_sum_of_two_is_the_sum_of_their_averages(tokenizer_dir: Path, store_dir: Path, tmp_path: Path) -> None:
    """DeBERTa V3's embeddings are made of the generator's and a difference; the averaged model is one of its own kind."""
    model = {"kind": "deberta", "dim": 32, "layers": 1, "heads": 2, "buckets": 8, "max_length": 64}
    objective = {"kind": "replaced", "sharing": "gradient_disentangled"}
    average = {"average": {"kind": "ema", "decay": 0.7}}
    recipe = pretraining(tokenizer_dir, store_dir, model=model, objective=objective, training=average)
    go(recipe, tmp_path / "whole")
    saved = safetensors.torch.load_file(tmp_path / "whole/step-0000006/model.safetensors")
    base, difference = saved["generator.encoder.tokens.weight"], saved["difference"]
    assert torch.equal(saved["encoder.tokens.weight"], base + difference)
    assert difference.abs().max() > 0
    go_until(recipe, tmp_path / "pieces", 3)
    go(recipe, tmp_path / "pieces", resume=True)
    assert_same(tmp_path / "pieces", result(tmp_path / "whole"))


def history(learner: Any, optimizers: list[torch.optim.Optimizer], count: int) -> list[dict[str, torch.Tensor]]:
    """The weights after each of some updates."""
    return [
        {name: p.detach().clone() for name, p in learner.named_parameters()}
        for _ in updates(learner, optimizers, examples(12), plan(count, 4))
    ]


@pytest.mark.parametrize("kind", ["ema", "last"])
def test_averages_are_those_of_the_weights_after_each_update(kind: str) -> None:
    """And evaluation leaves the weights as they were, bit by bit."""
    learner = classify("bert")
    average = Ema(learner, 0.8) if kind == "ema" else Last(learner, 3, 2.0)
    optimizers = [*build_optimizers(learner, AdamWConfig(lr=1e-2), torch.float32), average]
    past = history(learner, optimizers, 7)
    factors = torch.tensor([0.8 ** (6 - i) for i in range(7)] if kind == "ema" else [0, 0, 1, 0, 1, 0, 1.0])
    with averaged(optimizers):
        for name, p in learner.named_parameters():
            every = torch.stack([weights[name] for weights in past])
            expected = torch.einsum("n...,n->...", every.double(), (factors / factors.sum()).double())
            torch.testing.assert_close(p, expected.float(), atol=1e-6, rtol=0)
    assert all(torch.equal(p, past[-1][name]) for name, p in learner.named_parameters())


def test_lora_trains_factors_and_head_alone(pretrained_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    """The saved model is the pretrained one with changes of low rank in the matrices that were named, and nowhere else."""
    training = {"updates": 4, "lora": {"rank": 3, "matrices": ["query", "value"]}}
    recipe = finetuning(tmp_path, labelled, checkpoint=str(pretrained_dir), training=training)
    best = go(recipe, tmp_path / "run")["best"]
    before, after = (open_model(find_step(path)).learner.encoder.state_dict() for path in (str(pretrained_dir), best))  # pyright: ignore
    assert before.keys() == after.keys()
    for name, weight in after.items():
        change = weight - before[name]
        if name.endswith("qkv.weight"):
            query, key, value = change.chunk(3)
            assert [int(torch.linalg.matrix_rank(part, atol=1e-5)) for part in (query, value)] == [3, 3]
            assert not key.any()
        else:
            assert not change.any(), name


@pytest.mark.parametrize("kind", ["bert", "albert", "modernbert", "deberta", "t5", "xlnet"])
def test_merged_is_unmerged(kind: str) -> None:
    """Nothing changes when factors are added, and they are in the weights of the same model without them."""
    learner, plain = classify(kind), classify(kind)
    batch = learner.collate(examples(6))
    expected = learner.eval().logits(batch.inputs)
    adapt(learner, LoraConfig.model_validate(LORA), 5)
    torch.testing.assert_close(learner.logits(batch.inputs), expected)
    trained = {name for name, p in learner.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("head.") or name.endswith((".up", ".down")) for name in trained)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    list(updates(learner, build_optimizers(learner, AdamWConfig(lr=1e-2), torch.float32), examples(6), plan(3, 6)))
    assert {name for name, p in learner.named_parameters() if not torch.equal(p, before[name])} == trained
    found = learner.eval().logits(batch.inputs)
    assert (found - expected).abs().max() > 1e-3
    plain.load_state_dict(merged(learner, learner.state_dict()))
    torch.testing.assert_close(plain.eval().logits(batch.inputs), found, atol=1e-5, rtol=0)


def test_an_average_of_fewer_states_than_it_asks_for_is_told() -> None:
    """By the copies that are taken: at the end, and before it as often as fits."""
    for every, count, end, told in (
        ("1 epoch", 3, 30, None),
        ("1 epoch", 3, 20, 2),
        ("2 updates", 4, 6, 3),
        ("2 updates", 4, 7, None),
    ):
        found = too_few(LastConfig(count=count, every=every), 10.0, end)
        assert (found is None) == (told is None) and (told is None or str(found).endswith(f"{end} updates has {told}"))
        learner = classify("lstm")
        [average] = build_average(learner, LastConfig(count=99, every=every), 10.0)
        assert isinstance(average, Last)
        state: dict[str, Any] = {}
        for update in range(1, end + 1):
            average.note(torch.zeros(1), state, update, end)
        assert len(state) == (told or count)
    assert too_few(EmaConfig(), 10.0, 1) is None


def test_lora_of_an_encoder_without_such_matrices() -> None:
    with pytest.raises(UsageError, match="changes query and value, and the layers of this encoder have no such matrices"):
        adapt(classify("lstm"), LoraConfig(), 0)
    with pytest.raises(UsageError, match=r"rank is 33, and a matrix of \w+ has a rank of 32 at most"):
        adapt(classify("bert"), LoraConfig(rank=33), 0)


@pytest.mark.parametrize("kind", ["bert", "lstm", "cnn"])
def test_adversarial_gradients_are_those_of_each_text_alone(kind: str) -> None:
    """Miyato et al., equation 5: one text at a time, its embeddings moved along their normalised gradient; any micro-batch."""
    learner, source = classify(kind, 3), examples(8, 3)
    table: Any = learner.encoder.tokens
    deviation = float(table.weight.detach().std())
    recorder = Recorder(learner)
    list(updates(learner, [recorder], source, plan(1, 8, 3, adversarial=2.0)))
    [found] = recorder.gradients
    learner.zero_grad()
    for example in source:
        batch = learner.collate([example])
        words = table(torch.from_numpy(example.texts[0].ids)[None]).detach()
        move = torch.zeros_like(words, requires_grad=True)
        for _ in range(2):
            hook = table.register_forward_hook(lambda module, given, out, move=move: out + move)
            ids = Inputs.of(torch.from_numpy(example.texts[0].ids)[None])
            loss = learner(ids, batch.targets)["classify"]
            (loss / 8).backward()
            hook.remove()
            assert move.grad is not None
            move = (2 * deviation * move.grad / move.grad.norm()).detach().requires_grad_()
    for p, gradient in zip(learner.parameters(), found, strict=True):
        if gradient is not None and p.grad is not None:
            torch.testing.assert_close(gradient, p.grad, atol=1e-5, rtol=1e-3)


def test_wide_embeddings_are_moved_where_there_is_padding() -> None:
    """T5 draws its embeddings from N(0, 1); at padding there is no gradient, and its direction is that of nothing."""
    learner, source = classify("bert", 3), examples(8, 3)
    table: Any = learner.encoder.tokens
    with torch.no_grad():
        table.weight.mul_(5 / table.weight.std())
    recorder = Recorder(learner)
    list(updates(learner, [recorder], source, plan(1, 8, 8, adversarial=5.0)))
    [found] = recorder.gradients
    assert all(gradient.isfinite().all() for gradient in found if gradient is not None)


def test_adversarial_training_needs_no_trained_embeddings() -> None:
    """They may be frozen: the gradient of what they give is not that of the table."""
    learner = classify("bert")
    learner.encoder.tokens.requires_grad_(False)
    plain, disturbed = (Recorder(learner) for _ in range(2))
    list(updates(learner, [plain], examples(4), plan(1, 4)))
    list(updates(learner, [disturbed], examples(4), plan(1, 4, adversarial=1.0)))
    pairs = [(a, b) for a, b in zip(plain.gradients[0], disturbed.gradients[0], strict=True) if a is not None and b is not None]
    assert pairs and all(not torch.allclose(a, b) for a, b in pairs if a.any())


@pytest.mark.parametrize(
    ("training", "message"), [({"unfreeze": "2 updates"}, "here is nothing"), ({"freeze": 2}, "leaves nothing to train")]
)
def test_a_task_without_layers_of_its_own_has_to_train_the_encoder(
    training: dict[str, Any], message: str, pretrained_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs.csv").write_text("text,text_pair,score\na film,a day,1\nthe film,the day,0\n" * 4, encoding="utf-8")
    recipe = {
        "checkpoint": str(pretrained_dir),
        "data": {"train": str(tmp_path / "pairs.csv"), "dev": None, "length": 24},
        "task": {"kind": "similarity"},
        "training": {"updates": 3, "batch": 4, **TRAINING, **training},
    }
    with pytest.raises(UsageError, match=message):
        go(validate(FinetuneRecipe, recipe, "recipe"), tmp_path / "run")


def test_what_adversarial_training_cannot_move_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of static vectors with n-grams: nothing asks the module of the word embeddings."""
    learner: Any = classify("bert")
    monkeypatch.setattr(learner.encoder, "forward", lambda inputs: learner.encoder.tokens.weight[inputs.ids])
    with pytest.raises(UsageError, match="not those of its word embeddings alone"):
        list(updates(learner, [Recorder(learner)], examples(4), plan(1, 4, adversarial=1.0)))


@pytest.mark.parametrize("kind", ["bert", "lstm", "albert"])
def test_layers_are_unfrozen_from_the_top(kind: str) -> None:
    """The head alone, after two updates the last layer too, after four the first, after six the embeddings; nothing else."""
    learner = classify(kind)
    optimizers = build_optimizers(learner, AdamWConfig(lr=1e-2), torch.float32)
    before = {name: p.detach().clone() for name, p in learner.named_parameters()}
    for update in updates(learner, optimizers, examples(16), plan(8, 8, unfreeze=2.0)):
        opened = min(2, (update.number - 1) // 2)  # layers
        for name, p in learner.named_parameters():
            if kind == "albert" and ".layers." in name:  # one block for both
                still = opened < 1
            elif ".layers." in name:
                still = int(name.split(".layers.")[1][0]) < 2 - opened
            else:
                still = name.startswith("encoder.") and update.number < 7
            assert torch.equal(p, before[name]) == still, (update.number, name)


@pytest.mark.parametrize("count", [1, 2])
def test_top_layers_begin_anew(count: int, pretrained_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    """As they are without a checkpoint; the others are the checkpoint's."""
    recipe = finetuning(tmp_path, labelled, checkpoint=str(pretrained_dir), training={"updates": 1, "reinit": count})
    found: Any = prepare(recipe).learner.encoder
    pretrained: Any = open_model(find_step(str(pretrained_dir))).learner.encoder
    for name, p in found.named_parameters():
        fresh = name.startswith(tuple(f"layers.{1 - i}." for i in range(count)))
        same = torch.equal(p, pretrained.get_parameter(name))
        assert same != fresh or (fresh and p.ndim == 1), name  # biases and norms begin alike
        if fresh and p.ndim == 2:
            assert float(p.detach().std()) == pytest.approx(0.02, rel=0.1)
        if fresh and p.ndim == 1:
            assert torch.equal(p, torch.ones_like(p) if name.endswith("norm.weight") else torch.zeros_like(p)), name


def test_shared_layers_are_not_begun_anew_in_part() -> None:
    with pytest.raises(UsageError, match="share their weights"):
        renewed(masked("albert"), 1)
    with pytest.raises(UsageError, match="has 2 layers"):
        renewed(masked("bert"), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"training": {"lora": {}, "freeze": 1}}, "keeps the whole encoder as it is, and freeze says otherwise"),
        ({"training": {"unfreeze": "5m"}}, "unfreeze is in updates or epochs"),
        ({"training": {"average": {"kind": "last", "every": "5m"}}}, "average.every is in updates or epochs"),
        ({"training": {"adversarial": 1, "compile": "on"}}, "changes what is computed"),
        ({"training": {"lora": {}}, "optimizer": {"kind": "muon", "lr": 0.1, "adamw_lr": 0.1}}, "leaves muon no matrices"),
        ({"training": {"reinit": 1}, "checkpoint": None, "model": {"kind": "bert"}, "tokenizer": "t"}, "needs a checkpoint"),
        (
            {"training": {"adversarial": 1}, "task": {"kind": "similarity"}},
            "moves a text by its own loss, and loss contrastive is of all together",
        ),
        ({"task": {"kind": "classify", "focal": 2, "label_smoothing": 0.1}}, "focal is of the probability of one label"),
        ({"task": {"kind": "classify", "temperature": 2}}, "temperature are about a teacher's scores"),
        ({"task": {"kind": "classify", "soft": "scores", "class_weights": "balanced"}}, "class_weights are for labels"),
        ({"task": {"kind": "classify", "sampling": "balanced", "multiple": True}}, "rows have several labels"),
        (
            {
                "task": {"kind": "classify", "rdrop": 1, "dropout": 0, "pooling": "mean"},
                "checkpoint": None,
                "model": {"kind": "lstm", "dropout": 0},
                "tokenizer": "t",
            },
            "compares passes with other dropout",
        ),
    ],
)
def test_what_cannot_work_is_refused(change: dict[str, Any], message: str) -> None:
    training = {"epochs": 1} | change.pop("training", {})
    recipe = {"checkpoint": "c", "data": {"train": "d"}, "training": training} | change
    with pytest.raises(UsageError, match=message):
        validate(FinetuneRecipe, {key: value for key, value in recipe.items() if value is not None}, "recipe")


@pytest.mark.parametrize("name", ["unfreeze", "reinit", "adversarial"])
def test_what_pretraining_has_not(name: str) -> None:
    values = {"unfreeze": "1 epoch", "reinit": 1, "adversarial": 1.0}
    recipe = {"checkpoint": "c", "data": {"train": "d"}, "training": {"updates": 1, name: values[name]}}
    with pytest.raises(UsageError, match=f"{name} is for finetune"):
        validate(PretrainRecipe, recipe, "recipe")
