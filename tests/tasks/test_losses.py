"""Losses beside torch's own and the equations of their papers, and a classifier trained by them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from encoderkit.errors import DataError
from encoderkit.preflight import find_step
from encoderkit.stages import split
from encoderkit.stages.finetune import prepare
from encoderkit.stages.predict import predict
from encoderkit.tasks.classify import Classify
from encoderkit.tasks.config import ClassifyConfig
from encoderkit.tasks.losses import against, disagreement, each_of, focal, one_of, soften
from tests.tasks.test_classify import example, learner, rows
from tests.training.runs import finetuning, go


def logits(count: int = 6) -> torch.Tensor:
    torch.manual_seed(count)
    return 3 * torch.randn(count, 4, dtype=torch.float64)


def test_disagreement_is_half_of_both_divergences() -> None:
    a, b = logits(6), logits(7)[:6]
    one = kl_divergence(Categorical(logits=a), Categorical(logits=b)) + kl_divergence(
        Categorical(logits=b), Categorical(logits=a)
    )
    each = kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b)) + kl_divergence(Bernoulli(logits=b), Bernoulli(logits=a))
    torch.testing.assert_close(disagreement(a, b, one_of), one / 2)
    torch.testing.assert_close(disagreement(a, b, each_of), each.sum(-1) / 2)


def test_focal_is_its_equation_and_plain_without_a_power() -> None:
    p = torch.tensor([0.01, 0.3, 0.9, 0.999], dtype=torch.float64)
    torch.testing.assert_close(focal(-p.log(), 2.0), -((1 - p) ** 2) * p.log())
    nats = torch.tensor([0.0, 1e-9, 30.0], requires_grad=True)
    focal(nats, 0.5).sum().backward()
    assert nats.grad is not None and nats.grad.isfinite().all()


@pytest.mark.parametrize("power", [0.0, 2.0])
def test_having_a_rare_label_weighs_as_much_as_not_having_it(power: float) -> None:
    """Of several labels a row, as torch's pos_weight."""
    given = {"multiple": True, "class_weights": "balanced", "focal": power}
    task = learner(["neg", "pos"], **given)
    truth = np.array([[1, 0], [0, 0], [0, 1], [0, 1]])
    task.prepare([example(row) for row in truth])
    assert task.class_weights.tolist() == [3.0, 1.0]
    scores, labels = logits(4)[:, :2].float(), torch.tensor(truth)
    plain = binary_cross_entropy_with_logits(scores, labels.float(), reduction="none")
    weighted = binary_cross_entropy_with_logits(scores, labels.float(), pos_weight=torch.tensor([3.0, 1.0]), reduction="none")
    expected = focal(plain, power) * weighted / plain if power else weighted
    torch.testing.assert_close(task._nats(scores, labels), expected)


def test_a_teacher_of_several_labels_says_something_of_each() -> None:
    task = learner(["neg", "pos"], multiple=True, soft="scores")
    [row] = rows({"text": "a", "label": ["pos"], "scores": {"pos": 0.9}})
    with pytest.raises(DataError, match="no score for neg"):
        task._soft(row)
    with pytest.raises(DataError, match=r"adds up to 0\.9: it is not of all labels"):
        learner(["neg", "pos"], soft="scores")._soft(row)


@pytest.mark.parametrize("chances", [one_of, each_of])
def test_a_teacher_is_followed_at_its_temperature(chances: Any) -> None:
    """From probabilities as from logits; at a high temperature the gradient is that of matching logits (Hinton, eq. 4)."""
    teacher, student = logits(6), logits(7)[:6].requires_grad_()
    torch.testing.assert_close(soften(chances(teacher), 3.0, chances), chances(teacher / 3))
    goal = soften(chances(teacher), 3.0, chances)
    expected = (
        cross_entropy(student / 3, goal, reduction="none")
        if chances is one_of
        else binary_cross_entropy_with_logits(student / 3, goal, reduction="none")
    )
    torch.testing.assert_close(against(student, goal, 3.0, chances), 9 * expected)
    if chances is one_of:
        against(student, soften(chances(teacher), 1e4, chances), 1e4, chances).sum().backward()
        gap = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
        assert student.grad is not None
        torch.testing.assert_close(student.grad, gap.detach() / 4, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("several", [False, True])
def test_rdrop_is_equation_4_halved(several: bool) -> None:
    """The mean of the losses of two passes, and alpha / 4 of both divergences: of the passes that dropout makes."""
    made = learner(["a", "b", "c"], rdrop=3.0, dropout=0.3, multiple=several).train()
    goal = [np.array([i % 2, 1, 0]) if several else i % 3 for i in range(5)]
    batch = made.collate([example(one, 3 + i) for i, one in enumerate(goal)])
    torch.manual_seed(4)
    passes = [made.logits(batch.inputs) for _ in range(2)]
    assert not torch.allclose(passes[0], passes[1])
    torch.manual_seed(4)
    terms = made(batch.inputs, batch.targets)
    found = sum(made.weights[name] * terms[name] / batch.counts[name] for name in terms)
    labels, kind = batch.targets["labels"], Bernoulli if several else Categorical
    nats = [binary_cross_entropy_with_logits(x, labels.float()) if several else cross_entropy(x, labels) for x in passes]
    p, q = (kind(logits=x) for x in passes)
    apart = (kl_divergence(p, q) + kl_divergence(q, p)).mean() / 2
    torch.testing.assert_close(found, (sum(nats) + 3.0 * apart) / 2)


def test_focal_weights_and_teacher_in_the_classifier() -> None:
    made = learner(["a", "b", "c"], focal=2.0, class_weights={"b": 3.0})
    made.prepare([])
    batch = made.collate([example(i % 3, 3 + i) for i in range(6)])
    labels = batch.targets["labels"]
    p = made.logits(batch.inputs).softmax(-1)[torch.arange(6), labels]
    weights = torch.tensor([1.0, 3.0, 1.0])[labels]
    torch.testing.assert_close(made(batch.inputs, batch.targets)["classify"], (-weights * (1 - p) ** 2 * p.log()).sum())
    taught = learner(["a", "b"], soft="scores", soft_share=0.7, temperature=2.0)
    scores = [{"a": 0.9, "b": 0.1}, {"b": 1.0}, None]
    found = [taught._soft(row) for row in rows(*({"scores": s} if s else {} for s in scores))]
    batch = taught.collate([example(i % 2)._replace(soft=soft) for i, soft in enumerate(found)], [], 0.5)
    out = taught.logits(batch.inputs)
    hard = cross_entropy(out, torch.tensor([0, 1, 0]), reduction="none")
    soft = -(torch.tensor([[0.75, 0.25], [0.0, 1.0]]) * (out[:2] / 2).log_softmax(-1)).sum(-1) * 4  # sqrt(9) to 1
    expected = hard[2] + (0.3 * hard[:2] + 0.7 * soft).sum()
    torch.testing.assert_close(taught(batch.inputs, batch.targets)["classify"], expected)


def test_what_a_model_predicts_is_trained_on(classifier_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    """The file that `predict` writes, as it is; rows of which the teacher is not sure can be left out, those with labels stay."""
    model, path, gold = find_step(str(classifier_dir)), tmp_path / "taught.jsonl", labelled["train"].read_text(encoding="utf-8")
    predict(model, labelled["train"], (), path)
    surest = sorted(max(json.loads(line)["scores"].values()) for line in path.read_text(encoding="utf-8").splitlines())
    with path.open("a", encoding="utf-8") as file:
        file.writelines(gold.splitlines(keepends=True)[:7])
    data = {"train": path, "dev": labelled["dev"]}
    task = {"kind": "classify", "soft": "scores", "soft_share": 0, "confidence": surest[40]}
    train = prepare(finetuning(model / "tokenizer", data, task=task)).train
    assert len(train) == sum(p >= surest[40] for p in surest) + 7 and all(train[i].soft is None for i in range(len(train)))
    result = go(finetuning(model / "tokenizer", data, task={"kind": "classify", "soft": "scores"}), tmp_path / "student")
    assert result["updates"] == 7 and np.isfinite(result["dev"]["loss"])
    with pytest.raises(DataError, match="as sure as 1"):
        path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:60]), encoding="utf-8")
        prepare(finetuning(model / "tokenizer", data, task={**task, "confidence": 1.0}))


def test_it_is_the_label_of_a_row_that_its_teacher_is_to_be_sure_of() -> None:
    """Not the one that it would have given."""
    scores = {"neg": 0.05, "pos": 0.95}
    one, several = (ClassifyConfig(soft="scores", confidence=0.9, multiple=multiple) for multiple in (False, True))
    given = rows(*({"text": "a", "label": label, "scores": scores} for label in scores))
    assert [row.label("label") for row in split._sure(given, one, "a")] == ["pos"]
    given = rows(
        *({"text": "a", "label": label, "scores": scores} for label in (["pos"], ["neg"], ["neg", "pos"], ["pos", "new"]))
    )
    assert [row.labels("label") for row in split._sure(given, several, "a")] == [["pos"]]


def test_a_student_follows_its_teacher_and_not_the_labels(
    tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path
) -> None:  # fmt: skip
    """The labels are all wrong, and the teacher is right."""
    other = {"positive": "negative", "negative": "positive"}
    lines = [json.loads(line) for line in labelled["train"].read_text(encoding="utf-8").splitlines()]
    wrong = [row | {"label": other[row["label"]], "scores": {row["label"]: 0.9, other[row["label"]]: 0.1}} for row in lines]
    path = tmp_path / "taught.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in wrong), encoding="utf-8")
    for share, lowest, highest in ((1.0, 0.9, 1.0), (0.0, 0.0, 0.1)):
        task = {"kind": "classify", "soft": "scores", "soft_share": share, "temperature": 2.0, "pooling": "max"}
        more: dict[str, Any] = {"optimizer": {"kind": "adamw", "lr": 0.02}, "training": {"updates": 30, "batch": 20}}
        recipe = finetuning(tokenizer_dir, {"train": path, "dev": labelled["dev"]}, task=task, **more)
        result = go(recipe, tmp_path / f"{share}")
        last = json.loads((tmp_path / f"{share}" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
        assert lowest <= last["dev"]["accuracy"] <= highest, result


@pytest.mark.parametrize(
    ("scores", "message"),
    [([1], "should be the scores of labels"), ({"a": 2}, "between 0 and 1"), ({"c": 1}, "not seen"), ({"a": 0}, "of 0")],
)
def test_scores_that_are_none(scores: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"(?s)train.jsonl:2.*{message}"):
        learner(["a", "b"], soft="scores")._soft(rows({"scores": scores})[0])


def test_a_label_that_only_the_teacher_knows_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    taught = rows({"label": "no"}, {"label": "yes", "scores": {"yes": 0.7, "no": 0.2, "yess": 0.1}})
    assert Classify.find_labels(taught, ClassifyConfig(kind="classify", text="text", soft="scores")) == ["no", "yes", "yess"]
    assert '"scores" gives scores to labels that no row has; the model will know them too: yess' in capsys.readouterr().err
