"""R-Drop, weights, smoothing and focal loss of the tasks beside `classify`: beside torch and the equations of their papers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from encoderkit import preflight
from encoderkit.config import validate
from encoderkit.data.order import rng
from encoderkit.errors import DataError, UsageError
from encoderkit.models import dropout
from encoderkit.models.decoder import Seeds
from encoderkit.models.dropout import Dropout
from encoderkit.models.pooling import token_seeds
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe
from encoderkit.tasks import choice, rerank, span
from encoderkit.tasks.config import ChoiceConfig, GenerateConfig, RegressConfig, RerankConfig, SpanConfig, TagConfig
from encoderkit.tasks.generate import Generate
from encoderkit.tasks.passages import Passage
from encoderkit.tasks.regress import Example, Regress
from encoderkit.tasks.schemes import outputs
from encoderkit.tasks.tag import Tag
from encoderkit.tasks.texts import Tokens
from encoderkit.training.evaluate import evaluate as measure
from tests.conftest import GOOD, THINGS
from tests.reliability.small import assert_same, result
from tests.tasks.test_generate_task import examples as pairs
from tests.tasks.test_rerank_choice import candidates, questions
from tests.training.runs import KINDS, LENGTH, VOCABULARY, encoder, finetuning, go, go_until, sequences
from tests.training.test_exact import gradients

TAGS = outputs(["x", "y"], "bio")
RDROP: dict[str, dict[str, Any]] = {
    "tag": {"label_smoothing": 0.2},
    "choice": {"label_smoothing": 0.2},
    "span": {},
    "rerank": {},
    "regress": {},
    "generate": {"label_smoothing": 0.1, "decoder": {"dropout": 0.3}},
}
"""The tasks that have it, and what they have besides."""


def learner(name: str, **settings: Any) -> Any:
    """A task with fresh weights, whose head drops, or whose decoder does."""
    torch.manual_seed(1)
    more = (encoder("cnn" if name == "generate" else "bert"), VOCABULARY, LENGTH)
    pooled = {"dropout": 0, "pooling": "mean", **settings}
    match name:
        case "tag":
            task: Any = Tag(TagConfig.model_validate({"dropout": 0, **settings}), *more, TAGS)
        case "choice":
            task = choice.Choice(ChoiceConfig.model_validate(pooled), *more)
        case "span":
            task = span.Span(SpanConfig.model_validate(settings), *more)
        case "rerank":
            task = rerank.Rerank(RerankConfig.model_validate(pooled), *more)
        case "regress":
            task = Regress(RegressConfig.model_validate(pooled), *more, ["a", "b"])
        case _:
            task = Generate(GenerateConfig.model_validate(settings), *more)
    if name != "generate":
        task.head.dropout = Dropout(0.5)
        nn.init.normal_(task.head.out.weight)  # fresh scores are all about the same
    return task.train()


def examples(name: str, task: Any, count: int = 11) -> list[Any]:
    """Of several lengths, with labels that say nothing."""
    draw, found = np.random.default_rng(3), []
    if name in ("choice", "rerank", "generate"):
        return {"choice": questions, "rerank": candidates, "generate": pairs}[name](count)
    for i, ids in enumerate(sequences(count)):
        tokens, held = Tokens(ids, None, 0), len(ids) - 4
        if name == "regress":
            found.append(Example((tokens,), draw.normal(50, 20, 2), i))
        elif name == "tag":
            found.append(task.probe(tokens)._replace(targets=draw.integers(0, 5, len(ids)), gold=frozenset(), row=i))
        else:
            characters = np.stack([np.arange(held), 1 + np.arange(held)], axis=1)
            place = 3 + int(draw.integers(held))
            passage = Passage("x" * held, characters, ("x",))
            found.append(span.Example(tokens, passage, 0, held, 3, 0, (place, place) if i % 3 else (0, 0), i))
    return found


def targets(name: str, task: Any, source: list[Any], batch: Any) -> list[tuple[Tensor, int]]:
    """What a pass says of each target, as logits among which it is chosen, and the number of the right one."""
    if name == "tag":
        emissions = task.emissions(batch.inputs, batch.targets)
        return [(emissions[i, j], int(tag)) for i, one in enumerate(source) for j, tag in enumerate(one.targets)]
    if name == "choice":
        scores = task.logits(batch.inputs)[:, 0].split([len(one.texts) for one in source])
        return [(own, one.target) for own, one in zip(scores, source, strict=True)]
    if name == "span":
        scores, found = task.bounds(batch.inputs)[0], []
        for own, one in zip(scores, source, strict=True):
            kept = np.flatnonzero(one.allowed)
            found += [(own[kept, side], int(np.searchsorted(kept, one.target[side]))) for side in (0, 1)]
        return found
    given, documents = batch.targets["given"], batch.targets["documents"]  # a pair a row: the encoder does not pack
    read = batch.inputs.documents, task.encoder(batch.inputs), task.encoder.tokens
    seeds = Seeds.of(token_seeds(batch.inputs), given.shape[1])
    logits = task.head.logits(task.head.vectors(given, documents, *read, seeds), task.encoder.tokens)
    return list(zip(logits[documents > 0], batch.targets["labels"].tolist(), strict=True))


def halved(name: str, task: Any, source: list[Any], batch: Any, alpha: float) -> Tensor:
    """Equation 4 of the paper over two passes; with squared differences where a number is learnt."""
    passes = [batch.inputs.again(i) for i in range(2)]
    if name == "regress":
        goal = (torch.tensor(np.array([one.target for one in source]), dtype=torch.float32) - task.mean) / task.scale
        first, second = ((task.logits(inputs) - task.mean) / task.scale for inputs in passes)
        return (mse_loss(first, goal) + mse_loss(second, goal) + alpha * mse_loss(first, second)) / 2
    if name == "rerank":
        goal = torch.tensor([one.target for one in source]) / 2
        logits = [task.logits(inputs)[:, 0] for inputs in passes]
        nats = sum(binary_cross_entropy_with_logits(one, goal) for one in logits)
        p, q = (Bernoulli(logits=one) for one in logits)
        return (nats + alpha / 2 * (kl_divergence(p, q) + kl_divergence(q, p)).mean()) / 2
    found = []
    smoothing = task.config.label_smoothing if name != "span" else 0.0
    said = (targets(name, task, source, batch._replace(inputs=inputs)) for inputs in passes)
    for (first, gold), (second, _) in zip(*said, strict=True):
        nats = sum(cross_entropy(one, torch.tensor(gold), label_smoothing=smoothing) for one in (first, second))
        p, q = Categorical(logits=first), Categorical(logits=second)
        found.append((nats + alpha / 2 * (kl_divergence(p, q) + kl_divergence(q, p))) / 2)
    return torch.stack(found).mean()


@pytest.mark.parametrize("name", RDROP)
def test_rdrop_is_equation_4_halved(name: str) -> None:
    """With smoothed targets where the task has these: over the options that a question has, the tags, the vocabulary."""
    task = learner(name, rdrop=3.0, **RDROP[name])
    source = examples(name, task)
    task.prepare(source)
    batch = task.collate(source, [rng(1, 0, i) for i in range(len(source))], 0.0)
    terms = task(batch.inputs, batch.targets)
    assert terms.keys() == task.weights.keys() == {name, "rdrop"} and terms["rdrop"] > 1e-3
    found = sum(task.weights[term] * terms[term] / batch.counts[term] for term in terms)
    torch.testing.assert_close(found, halved(name, task, source, batch, 3.0), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("micro_batch", [3, 1])
@pytest.mark.parametrize("name", [*RDROP, "focal"])
def test_the_gradient_does_not_depend_on_the_micro_batch(name: str, micro_batch: int) -> None:
    """With everything that the task has."""
    kind, more = ("tag", {"focal": 2.0}) if name == "focal" else (name, RDROP[name])
    weights = {"class_weights": "balanced"} if kind == "tag" else {}
    made = []
    for size in (8, micro_batch):
        task = learner(kind, rdrop=3.0, **more, **weights)
        source = examples(kind, task)
        task.prepare(source)
        made.append(gradients(task, source, size))
    (whole, losses), (parts, portioned) = made
    assert losses == pytest.approx(portioned, abs=1e-5)
    for expected, found in zip((g for step in whole for g in step), (g for step in parts for g in step), strict=True):
        if expected is not None:
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weights", [None, "balanced", {"O": 0.5, "I-y": 4.0}])
def test_weights_of_smoothed_losses_of_tags(weights: Any, smoothing: float) -> None:
    """What is measured is the loss without them."""
    task = learner("tag", class_weights=weights, label_smoothing=smoothing)
    source = examples("tag", task)
    task.prepare(source)
    labels = np.concatenate([one.targets for one in source])
    balanced = compute_class_weight("balanced", classes=np.arange(5), y=labels)
    values = balanced if weights == "balanced" else [(weights or {}).get(tag, 1.0) for tag in TAGS]
    task.head.dropout = Dropout(0)
    batch = task.collate(source)
    logits = torch.stack([own for own, _ in targets("tag", task, source, batch)])
    alpha = torch.tensor(values, dtype=torch.float32)[labels]
    nats = cross_entropy(logits, torch.from_numpy(labels), reduction="none", label_smoothing=smoothing)
    found = task(batch.inputs, batch.targets)["tag"] / batch.counts["tag"]
    torch.testing.assert_close(found, (alpha * nats).sum() / alpha.sum())
    plain = float(cross_entropy(logits, torch.from_numpy(labels)).detach())
    assert measure(task, source, 3, "cpu", "fp32")["loss"] == pytest.approx(plain, abs=1e-5)


def test_focal_loss_of_tags_is_its_equation() -> None:
    """How far two passes differ is a mean over tags, whatever they weigh."""
    task = learner("tag", focal=2.0, class_weights={"O": 0.25}, rdrop=1.0)
    task.head.dropout = Dropout(0)
    source = examples("tag", task)
    task.prepare(source)
    batch = task.collate(source)
    found = task(batch.inputs, batch.targets)["tag"] / batch.counts["tag"]
    p, gold = zip(*((own.softmax(-1)[tag], tag) for own, tag in targets("tag", task, source, batch)), strict=True)
    alpha = torch.tensor([0.25 if TAGS[tag] == "O" else 1.0 for tag in gold])
    right = torch.stack(p)
    torch.testing.assert_close(found, (-alpha * (1 - right) ** 2 * right.log()).sum() / alpha.sum())
    assert batch.counts["rdrop"] == len(gold)


def test_a_weight_for_a_tag_that_is_not_there() -> None:
    task = learner("tag", class_weights={"x": 2.0})
    with pytest.raises(DataError, match=r"task\.class_weights names \"x\", .*: O, B-x, I-x, B-y, I-y"):
        task.prepare(examples("tag", task))


@pytest.mark.parametrize("kind", KINDS)
def test_no_two_places_of_a_model_drop_alike(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head behind an encoder would scale up again what is left, and drop nothing of its own."""
    torch.manual_seed(1)
    task = Tag(TagConfig.model_validate({"dropout": 0.1}), encoder(kind, dropout=0.1), VOCABULARY, LENGTH, TAGS)
    source, drop, seen = examples("tag", task), dropout.drop, list[set[int]]()

    def noted(x: torch.Tensor, rate: float, seeds: torch.Tensor | None) -> torch.Tensor:
        assert seeds is not None
        seen.append(set(seeds.flatten().tolist()))
        return drop(x, rate, seeds)

    monkeypatch.setattr(dropout, "drop", noted)
    batch = task.collate(source, [np.random.default_rng(i) for i in range(len(source))])
    task.train()
    task(batch.inputs, batch.targets)
    assert len(seen) > 1 and sum(map(len, seen)) == len(set().union(*seen))


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files with the columns of every task."""
    folder, rng = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    for name, count in (("train", 40), ("dev", 10)):
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for i in range(count):
                thing, good = str(rng.choice(THINGS)), str(rng.choice(GOOD))
                text, asked = f"the {thing} was {good} and warm .", f"what was {good}"
                row = {"text": text, "score": i % 7, "question": asked, "options": ["the day", f"the {thing}"], "label": 1}
                row |= {"tokens": text.split(), "tags": ["B-x", "I-x", "O", "B-y", "O", "O", "O"], "context": text}
                row |= {"answers": thing, "query": asked, "candidate": text, "relevance": i % 3, "source": text, "target": asked}
                file.write(json.dumps(row) + "\n")
    return {name: folder / f"{name}.jsonl" for name in ("train", "dev")}


@pytest.mark.parametrize("name", RDROP)
def test_stopped_and_resumed_they_end_the_same(name: str, tokenizer_dir: Path, rows: dict[str, Path], tmp_path: Path) -> None:
    more = {"tag": {"class_weights": "balanced"}, "span": {"question_length": 8, "overlap": 4}, "generate": {"target_length": 6}}
    task = {"kind": name, "rdrop": 2.0, **RDROP[name], **more.get(name, {})}
    recipe = finetuning(tokenizer_dir, rows, task=task, training={"updates": 3, "micro_batch": 7})
    go(recipe, tmp_path / "whole")
    go_until(recipe, tmp_path / "pieces", 2)
    go(recipe, tmp_path / "pieces", resume=True)
    assert_same(tmp_path / "pieces", result(tmp_path / "whole"))


def recipe_of(task: dict[str, Any], **more: Any) -> FinetuneRecipe:
    start = {} if "checkpoint" in more else {"tokenizer": "t", "model": {"kind": "lstm", "dropout": 0}}
    return validate(FinetuneRecipe, {**start, "data": {"train": "d"}, "training": {"epochs": 1}, "task": task, **more}, "recipe")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"head": "crf", "class_weights": "balanced"}, "all tags of a row as one, and class_weights is of each on its own"),
        ({"head": "crf", "label_smoothing": 0.1}, "and label_smoothing is of each"),
        ({"head": "crf", "focal": 2}, "and focal is of each"),
        ({"head": "crf", "rdrop": 1}, "and rdrop is of each"),
        ({"focal": 2, "label_smoothing": 0.1}, "focal is of the probability of one label"),
        ({"kind": "span", "rdrop": 1}, "task.rdrop compares passes with other dropout, and here is none; set dropout"),
        ({"kind": "generate", "rdrop": 1, "decoder": {"dropout": 0}}, "task.rdrop compares passes"),
    ],
)
def test_what_cannot_work_is_refused(task: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        recipe_of({"kind": "tag", **task})


def test_dropout_is_wanted_of_whatever_has_it(pretrained_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    """Of the encoder, the last layer or the decoder; that of a checkpoint is looked up before anything is read."""
    recipe_of({"kind": "regress", "rdrop": 1})
    recipe_of({"kind": "span", "rdrop": 1}, dropout=0.1)
    recipe_of({"kind": "generate", "rdrop": 1, "decoder": {"dropout": 0.1}})
    config = json.loads((find_step(str(pretrained_dir)) / "config.json").read_bytes())
    config["encoder"] |= {"dropout": 0.0, "attention_dropout": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.safetensors").touch()
    more = {"checkpoint": str(tmp_path), "data": {"train": str(labelled["train"]), "length": 24}}
    task = {"kind": "span", "rdrop": 1, "question_length": 8, "overlap": 4}
    with pytest.raises(UsageError, match=r"task\.rdrop compares passes"):
        preflight.finetune_inputs(recipe_of(task, **more))
    preflight.finetune_inputs(recipe_of(task, **more, dropout=0.1))
