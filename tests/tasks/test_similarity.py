"""Texts encoded apart: the losses by hand, updates of any size in portions of any size, retrieval against scikit-learn."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

from encoderkit.config import validate
from encoderkit.data.labelled import Row
from encoderkit.errors import DataError, UsageError
from encoderkit.metrics import candidates, retrieved, searched
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import export
from encoderkit.stages.embed import embed
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.finetune import finetune
from encoderkit.stages.predict import predict
from encoderkit.tasks import baselines
from encoderkit.tasks.config import SimilarityConfig
from encoderkit.tasks.similarity import Example, Similarity
from encoderkit.tasks.task import tell_constant
from encoderkit.tasks.texts import Tokens
from encoderkit.training import loop
from encoderkit.training.config import AdamWConfig
from encoderkit.training.evaluate import evaluate as evaluate_source
from encoderkit.training.loop import updates
from encoderkit.training.optim import build_optimizers
from tests.conftest import BAD, GOOD, THINGS
from tests.training.runs import KINDS, LENGTH, VOCABULARY, encoder, plan, sequences


def learner(kind: str = "bert", dropout: float = 0.0, **settings: object) -> Similarity:
    torch.manual_seed(1)
    return Similarity(SimilarityConfig.model_validate(settings), encoder(kind, dropout=dropout), VOCABULARY, LENGTH)


def examples(count: int, texts: int = 2, scored: bool = False) -> list[Example]:
    made = sequences(count * texts)
    scores = np.random.default_rng(1).integers(0, 4, count).astype(float)
    return [
        Example(
            tuple(Tokens(ids, None, 0) for ids in made[i * texts : (i + 1) * texts]),
            tuple(range(i * texts, (i + 1) * texts)),
            float(scores[i]) if scored else None,
            i,
        )
        for i in range(count)
    ]


def both(task: Similarity, source: list[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of all, and their vectors, of length 1."""
    batch = task.collate(source)
    loss = task(batch.inputs, batch.targets)["similarity"] / batch.counts["similarity"]
    return loss, normalize(task.vectors(batch.inputs, batch.targets), dim=-1)


def test_scores_are_learned_as_numbers_or_in_their_order() -> None:
    source = examples(9, scored=True)
    scores = torch.tensor([e.target for e in source])
    task = learner(label="score", loss="cosine")
    task.prepare(source)
    loss, units = both(task, source)
    cosine = cosine_similarity(units[:, 0], units[:, 1])
    torch.testing.assert_close(loss, (cosine - (scores - scores.min()) / (scores.max() - scores.min())).square().mean())
    loss, units = both(learner(label="score", loss="cosent", temperature=0.1), source)
    cosine = cosine_similarity(units[:, 0], units[:, 1]).tolist()
    pairs = [(i, j) for i, j in itertools.permutations(range(9), 2) if scores[i] > scores[j]]
    assert loss.item() == pytest.approx(math.log(1 + sum(math.exp((cosine[j] - cosine[i]) / 0.1) for i, j in pairs)), rel=1e-5)


@pytest.mark.parametrize("texts", [2, 3])
def test_other_rows_are_negatives(texts: int) -> None:
    """Each anchor among all positives and negatives; the other way round among the anchors; equal texts are no negatives."""
    settings = {"negative": "wrong"} if texts == 3 else {}
    source = examples(6, texts)
    loss, units = both(learner(temperature=0.2, **settings), source)
    others = torch.cat([units[:, i] for i in range(1, texts)])
    expected = cross_entropy(units[:, 0] @ others.T / 0.2, torch.arange(6))
    torch.testing.assert_close(loss, expected)
    two, _ = both(learner(temperature=0.2, symmetric=True, **settings), source)
    backwards = cross_entropy(units[:, 1] @ units[:, 0].T / 0.2, torch.arange(6))
    torch.testing.assert_close(two, (expected + backwards) / 2)
    again = source[0]._replace(keys=(100, *source[3].keys[1:]), texts=(source[0].texts[0], *source[3].texts[1:]))
    masked, units = both(learner(temperature=0.2, **settings), [again, *source[1:]])
    scores = units[:, 0] @ torch.cat([units[:, i] for i in range(1, texts)]).T / 0.2
    scores[0, 3] = scores[3, 0] = -torch.inf
    torch.testing.assert_close(masked, cross_entropy(scores, torch.arange(6)))


def test_what_belongs_to_an_equal_text_is_no_negative() -> None:
    """Two rows with one anchor have two positives; and, the other way round, two with one positive two anchors."""
    source = examples(5)
    one, two = source[0], source[3]
    source[3] = two._replace(keys=(one.keys[0], two.keys[1]), texts=(one.texts[0], two.texts[1]))
    loss, units = both(learner(temperature=0.2), source)
    scores = units[:, 0] @ units[:, 1].T / 0.2
    scores[0, 3] = scores[3, 0] = -torch.inf
    torch.testing.assert_close(loss, cross_entropy(scores, torch.arange(5)))
    source[3] = two._replace(keys=(two.keys[0], one.keys[1]), texts=(two.texts[0], one.texts[1]))
    loss, units = both(learner(temperature=0.2, symmetric=True), source)
    scores, back = units[:, 0] @ units[:, 1].T / 0.2, units[:, 1] @ units[:, 0].T / 0.2
    for side in (scores, back):
        side[0, 3] = side[3, 0] = -torch.inf
    expected = (cross_entropy(scores, torch.arange(5)) + cross_entropy(back, torch.arange(5))) / 2
    torch.testing.assert_close(loss, expected)


def test_its_cosines_are_not_rounded_to_bf16() -> None:
    """Whether they are of one portion, in the midst of the pass, or of several after it."""
    task = learner()
    batch = task.collate(examples(8))
    with torch.autocast("cpu", torch.bfloat16):
        inside, vectors = task(batch.inputs, batch.targets)["similarity"], task.vectors(batch.inputs, batch.targets)
    assert inside.dtype == torch.float32 and torch.equal(inside, task.joint(vectors, batch.targets)["similarity"])


def test_the_first_dimensions_are_vectors_too() -> None:
    source = examples(6)
    loss, _ = both(learner(dimensions=[4, 8]), source)
    task = learner()
    batch = task.collate(source)
    whole = task.vectors(batch.inputs, batch.targets)
    parts = [normalize(whole[..., :size], dim=-1) for size in (4, 8, whole.shape[-1])]
    expected = [cross_entropy(u[:, 0] @ u[:, 1].T / 0.05, torch.arange(6)) for u in parts]
    torch.testing.assert_close(loss, torch.stack(expected).mean())
    with pytest.raises(UsageError, match="dimensions has 99, and the vectors have 32"):
        learner(dimensions=[99])


@pytest.mark.parametrize("settings", [{}, {"symmetric": True, "dimensions": [8]}, {"label": "score", "loss": "cosent"}])
def test_portions_change_nothing(settings: dict[str, object]) -> None:
    """Cached gradients: the weights after three updates are those of whole updates, whatever fits at once."""
    source, found, losses = examples(20, scored="label" in settings), [], []
    for micro_batch in (8, 3, 1):
        task = learner(**settings)
        optimizers = build_optimizers(task, AdamWConfig(lr=1e-3), torch.float32)
        losses.append([update.loss for update in updates(task, optimizers, source, plan(3, 8, micro_batch))])
        found.append(task.state_dict())
    assert losses[1] == pytest.approx(losses[0], abs=1e-5) and losses[2] == pytest.approx(losses[0], abs=1e-5)
    for other in found[1:]:
        for name, tensor in found[0].items():
            torch.testing.assert_close(other[name], tensor, atol=2e-4, rtol=0)


def test_both_passes_have_the_same_dropout() -> None:
    """The gradients of two passes over portions are those of one pass over the same portions."""
    task = learner(dropout=0.3, symmetric=True)
    task.train()
    batches = [task.collate(examples(8)[i : i + 3]) for i in (0, 3, 6)]
    torch.manual_seed(loop._seed(3, 5, 0))
    vectors = torch.cat([task.vectors(batch.inputs, batch.targets) for batch in batches])
    joint = {"keys": torch.cat([batch.targets["keys"] for batch in batches])}
    (task.joint(vectors, joint)["similarity"] / 8).backward()
    expected = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    task.zero_grad()
    loop.accumulate_gradients(task, batches, {"similarity": 8.0}, plan(9, 8, 3), 5)
    assert len(expected) > 10
    for name, p in task.named_parameters():
        if name in expected:
            torch.testing.assert_close(p.grad, expected[name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_eight_pairs_are_found(kind: str) -> None:
    task, source = learner(kind), examples(8)
    optimizers = build_optimizers(task, AdamWConfig(lr=5e-3, weight_decay=0.0), torch.float32)
    list(updates(task, optimizers, source, plan(40, 8, 3, clip=1.0)))
    found = evaluate_source(task, source, 3, "cpu", "fp32")
    assert found["mrr"] == found["recall_at_1"] == found["ndcg_at_10"] == 1 and found["loss"] < 0.1
    assert evaluate_source(task, source, 8, "cpu", "fp32") == pytest.approx(found, abs=1e-5)


def test_retrieval_is_scikit_learns() -> None:
    """Anchors with several right texts, and an anchor that is itself among the texts."""
    keys = np.array([[0, 10, 20], [0, 11, 21], [1, 12, 0], [2, 10, 11], [3, 13, 22], [4, 14, 10], [12, 15, 23]])
    found = candidates(keys)
    texts = keys[:, 1:].reshape(-1)[found.where]
    similar = np.random.default_rng(0).normal(size=(7, len(texts)))
    places = searched(lambda rows: similar[rows], found)
    relevant = np.array([len(r) for r in found.relevant])
    assert relevant.tolist() == [2, 2, 1, 1, 1, 1, 1] and sorted(texts) == sorted({*keys[:, 1:].reshape(-1)})
    metrics = retrieved(relevant, places)
    for i, right in enumerate(found.relevant):
        assert {*texts[right]} == {10, 11} if keys[i, 0] == 0 else [*texts[right]] == [keys[i, 1]]
        kept = texts != keys[i, 0]
        truth, scores = np.zeros(len(texts)), similar[i]
        truth[right] = 1
        assert metrics["ndcg_at_10"][i] == pytest.approx(ndcg_score([truth[kept]], [scores[kept]], k=10))
        order = np.argsort(-scores[kept])
        assert metrics["mrr"][i] == pytest.approx(1 / (1 + np.flatnonzero(truth[kept][order])[0]))
        assert metrics["recall_at_1"][i] == truth[kept][order[0]] / len(right)
        if len(right) == 1:
            assert metrics["mrr"][i] == pytest.approx(label_ranking_average_precision_score([truth[kept]], [scores[kept]]))
    equal = searched(lambda rows: np.zeros_like(similar[rows]), found)
    assert equal[3].tolist() == [len(texts)], "what is right does not win by chance"
    noise = 1e-7 * np.random.default_rng(0).standard_normal(similar.shape)  # as batches of another size make
    nearly = searched(lambda rows: noise[rows], found)
    assert [ranks.tolist() for ranks in nearly] == [ranks.tolist() for ranks in equal]


def test_simple_models_beside_it() -> None:
    train = [["the cat sat", "a cat was sitting"], ["rain fell", "it was raining"]]
    pairs = [["the cat sat", "the cat sat"], ["the cat sat", "rain fell"], ["", "rain"]]
    found = baselines.cosine(train, np.zeros(2), pairs)
    assert found == pytest.approx([1, 0, 0], abs=1e-9)
    places = baselines.search(train, np.ones(2), [["cat sat", "the cat sat"], ["fell rain", "rain fell"], ["none", "of it"]])
    assert [p.tolist() for p in places] == [[1], [1], [3]]


def test_words_keep_their_marks_in_simple_models() -> None:
    """Vowel signs of Hindi and decomposed accents are parts of words: these texts have no word in common."""
    train = [["यह किताब", "वह बोली"], ["cafe\u0301s fermés", "thés"]]
    found = baselines.cosine(
        train, np.zeros(2), [["कि", "की"], ["बाल", "बोली"], ["cafe\u0301s", "cafe s"], ["किताब", "यह किताब"]]
    )
    assert found[:3] == pytest.approx([0, 0, 0], abs=1e-9) and found[3] > 0.3


def file(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def trained(out: Path, tokenizer: Path, train: Path, dev: Path, model: dict, **task: object) -> Path:
    recipe = {
        "tokenizer": str(tokenizer),
        "model": model,
        "data": {"train": str(train), "dev": str(dev), "length": 24},
        "task": {"kind": "similarity", **task},
        "optimizer": {"kind": "adamw", "lr": 3e-3},
        "training": {
            "updates": 20, "batch": 16, "micro_batch": 5, "precision": "fp32", "compile": "off", "device": "cpu"
        },
    }  # fmt: skip
    finetune(validate(FinetuneRecipe, recipe, "recipe"), out)
    return find_step(out)


@pytest.mark.parametrize("loss", ["cosent", "cosine"])
def test_the_whole_way_of_scored_pairs(loss: str, tokenizer_dir: Path, labelled: dict[str, Path], tmp_path: Path) -> None:
    """Two sentences are alike if both are good or both are bad: trained, evaluated, predicted, embedded, exported."""
    rows = {name: read(path) for name, path in labelled.items()}
    files = {
        name: file(
            tmp_path / f"{name}.jsonl",
            [
                {"a": one["text"], "b": other["text"], "like": int(one["label"] == other["label"])}
                for one, other in zip(found, found[7:] + found[:7], strict=True)
            ],
        )
        for name, found in rows.items()
    }
    model = {"kind": "bert", "dim": 32, "layers": 1, "heads": 2, "max_length": 64}
    task = {"text": ["a", "b"], "label": "like", "loss": loss}
    step = trained(tmp_path / "run", tokenizer_dir, files["train"], files["dev"], model, **task)
    result = evaluate(step, files["dev"], "fp32")
    assert result["metrics"]["spearman"] > (0.5 if loss == "cosent" else 0.3) and result["metrics"].keys() == {
        "loss",
        "pearson",
        "spearman",
    }
    assert result["baselines"].keys() == {"cosine"}
    predict(step, files["dev"], out=tmp_path / "out.jsonl", precision="fp32")
    found, given = read(tmp_path / "out.jsonl"), read(files["dev"])
    truth = stats.pearsonr([row["like"] for row in given], [row["score"] for row in found]).statistic
    assert result["metrics"]["pearson"] == pytest.approx(truth, abs=1e-5)
    told = [embed(step, files["dev"], tmp_path / f"{c}.npy", normalize=True, columns=[c], precision="fp32") for c in ("a", "b")]
    assert {one["pooling"] for one in told} == {"mean"}
    vectors = [np.load(tmp_path / f"{c}.npy") for c in ("a", "b")]
    np.testing.assert_allclose((vectors[0] * vectors[1]).sum(1), [row["score"] for row in found], atol=1e-5)
    assert export.run(step, ["hf"], tmp_path / "dist")["parity"]["max_abs_diff"] < 1e-5


def test_the_whole_way_of_a_search(tokenizer_dir: Path, tmp_path: Path) -> None:
    words = [*GOOD, *BAD, *THINGS]
    rows = [{"q": word, "d": f"the {word} was", "n": f"the {other} was"} for word, other in itertools.pairwise(words)]
    data = file(tmp_path / "rows.jsonl", rows)
    task = {"text": ["q", "d"], "negative": "n", "pooling": "max", "dimensions": [8, 32]}
    step = trained(tmp_path / "run", tokenizer_dir, data, data, {"kind": "lstm", "dim": 32}, **task)
    result = evaluate(step, data, "fp32")
    assert result["metrics"]["recall_at_1"] > 0.8 and result["baselines"]["search"]["recall_at_1"] == 1
    assert all(low <= result["metrics"][name] <= high for name, (low, high) in result["intervals"].items())
    assert evaluate(step, data, "fp32", 2)["metrics"] == pytest.approx(result["metrics"], abs=1e-5)
    assert embed(step, data, tmp_path / "x.npy")["pooling"] == "max"
    assert embed(step, data, tmp_path / "y.npy", dimensions=8, normalize=True)["dim"] == 8
    vectors, cut = np.load(tmp_path / "x.npy"), np.load(tmp_path / "y.npy")
    np.testing.assert_allclose(cut, vectors[:, :8] / np.linalg.norm(vectors[:, :8], axis=1, keepdims=True), atol=1e-6)
    with pytest.raises(UsageError, match="is 33, and the vectors have 32"):
        embed(step, data, tmp_path / "z.npy", dimensions=33)
    assert result["metrics"]["mrr_of_32"] == pytest.approx(result["metrics"]["mrr"])
    others = sorted({row["d"] for row in rows})
    embed(step, file(tmp_path / "o.jsonl", [{"d": text} for text in others]), tmp_path / "o.npy", None, True, ["d"], dimensions=8)
    cosines = cut @ np.load(tmp_path / "o.npy").T
    right = np.array([others.index(row["d"]) for row in rows])
    places = 1 + (cosines > np.take_along_axis(cosines, right[:, None], 1)).sum(1)
    assert result["metrics"]["mrr_of_8"] == pytest.approx((1 / places).mean()) != result["metrics"]["mrr"]
    # What it was trained with is no part of what it is measured by: held-out rows need no negative, and are as hard without.
    bare = evaluate(step, file(tmp_path / "bare.jsonl", [{"q": row["q"], "d": row["d"]} for row in rows]), "fp32")
    assert {**bare["metrics"], "loss": 0} == pytest.approx({**result["metrics"], "loss": 0}, abs=1e-6)
    with pytest.raises(DataError, match="no column"):
        trained(tmp_path / "other", tokenizer_dir, tmp_path / "bare.jsonl", data, {"kind": "lstm", "dim": 32}, **task)
    predict(step, None, [["film", "the film was"], ["film", "the meal was"]], tmp_path / "out.jsonl")
    right, wrong = read(tmp_path / "out.jsonl")
    assert right["score"] > wrong["score"] and right["text_pair"] == "the film was"


def test_numbers_that_are_all_the_same_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row({"score": score, "other": i}, i, "a.jsonl") for i, score in enumerate((2, 2.0, "2"))]
    tell_constant(rows, "other")
    assert not capsys.readouterr().err
    tell_constant(rows, "score")
    tell_constant(rows[:1], "other")
    said = capsys.readouterr().err
    assert "a.jsonl: all rows have the same score" in said and "the only row has no other" in said


def test_one_text_alone_teaches_no_contrast() -> None:
    config = SimilarityConfig.model_validate({"text": ["a", "b"], "loss": "contrastive", "label": None})
    rows = [Row({"a": str(i), "b": "same"}, i, "a.jsonl") for i in range(3)]
    with pytest.raises(DataError, match="all rows have the same b"):
        Similarity.find_labels(rows, config)
    assert Similarity.find_labels([*rows, Row({"a": "x", "b": "other"}, 3, "a.jsonl")], config) == []
