"""Minimal pairs: likelihoods against a naive computation one token at a time, the forms of the files, the figures."""

import json
import lzma
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import stats

from encoderkit.cli.use import Suite
from encoderkit.data.blocks import Row
from encoderkit.errors import DataError, UsageError
from encoderkit.learner import Masking, Scorer
from encoderkit.metrics import Answered, bootstrap_shares
from encoderkit.models.inputs import Inputs
from encoderkit.objectives.config import SpansConfig
from encoderkit.objectives.spans import Spans
from encoderkit.preflight import find_step, suite, without_suite
from encoderkit.stages import suites
from encoderkit.stages.minimal_pairs import read_pairs
from tests.training.runs import BOTH_WAYS, KINDS, LENGTH, VOCABULARY, causal, encoder, masked, replaced

SHARED = Path(__file__).parents[3] / "shared" / "data"
PAIRS = [
    ("the film was good", "was film the good"),
    ("the day was sad and the song was warm", "the day was sad and was the song warm"),
]


def texts() -> list[Row]:
    """Five texts of several lengths, the longest a row full, with words of several tokens; one has no token at all."""
    rng, found = np.random.default_rng(0), []
    for size in (5, LENGTH - 2, 1, 0, 9):
        ids = np.array([2, *rng.integers(5, 40, size), 3])
        special = (ids == 2) | (ids == 3)
        starts = (rng.random(len(ids)) < 0.5) & ~special
        starts[1:2] = size > 0
        found.append(Row(ids, np.ones(len(ids), np.int64), np.arange(len(ids)), starts, special))
    return found


def shaken(learner: Any) -> Any:
    for parameter in learner.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return learner.eval()


def logits(learner: Any, ids: list[int], part: slice = slice(None)) -> torch.Tensor:
    """(T, V) of one text alone."""
    return learner.head(learner.encoder(Inputs.of(torch.tensor([ids])))[0][:, part], learner.encoder.tokens.weight)


def word_end(row: Row, place: int) -> int:
    end = place + 1
    while not row.special[end] and not row.starts[end]:
        end += 1
    return end


@pytest.mark.parametrize("masking", ["token", "within_word"])
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_pseudo_likelihoods_are_those_of_one_token_at_a_time(kind: str, masking: Masking) -> None:
    learner, rows = shaken(masked(kind, **BOTH_WAYS.get(kind, {}))), texts()
    assert isinstance(learner, Scorer)
    expected = []
    for row in rows:
        nats = 0.0
        for place in range(1, len(row.ids) - 1):
            shown = row.ids.tolist()
            for hidden in range(place, word_end(row, place) if masking == "within_word" else place + 1):
                shown[hidden] = 4
            nats += float(logits(learner, shown).log_softmax(-1)[place, row.ids[place]])
        expected.append(nats)
    for tokens in (1, 40, 10_000):
        np.testing.assert_allclose(learner.log_likelihoods(rows, masking, tokens), expected, rtol=1e-4, atol=1e-4)
    default = learner.log_likelihoods(rows, None, 100)
    assert np.allclose(default, expected, rtol=1e-4, atol=1e-4) == (masking == "token")


@pytest.mark.parametrize(
    ("kind", "more"),
    [("gpt", {}), ("lstm", {"directions": 1}), ("cnn", {"direction": "left_to_right"}), ("gru", {"stacks": "apart"})],
)
@torch.inference_mode()
def test_likelihoods_are_the_product_of_the_next_tokens(kind: str, more: dict[str, Any]) -> None:
    learner, rows = shaken(causal(kind, **more)), texts()
    half = learner.encoder.dim // len(learner.weights)
    expected = []
    for row in rows:
        ids, ways = row.ids.tolist(), []
        for step, part in ((1, slice(None, half)), (-1, slice(half, None)))[: len(learner.weights)]:
            # What stands on the other side of the token is not even there.
            seen = [ids[:place] if step > 0 else ids[place + 1 :] for place in range(1, len(ids) - 1)]
            found = [logits(learner, own, part)[-1 if step > 0 else 0].log_softmax(-1) for own in seen]
            ways.append(sum(float(scores[label]) for scores, label in zip(found, ids[1:-1], strict=True)))
        expected.append(np.mean(ways))
    for tokens in (1, 10_000):
        np.testing.assert_allclose(learner.log_likelihoods(rows, None, tokens), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="exact"):
        learner.log_likelihoods(rows, "token", 100)


def spans(kind: str, **settings: Any) -> Spans:
    torch.manual_seed(1)
    return Spans(SpansConfig.model_validate(settings), encoder(kind, **BOTH_WAYS.get(kind, {})), VOCABULARY, LENGTH)


OWN_SENTINELS = {"first_sentinel": 39, "sentinel_step": -1, "sentinels": 5}


@pytest.mark.parametrize("masking", ["token", "within_word"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        *((kind, {}) for kind in KINDS),
        ("t5", {"decoder": {"head": "own", "start": "pad"}, **OWN_SENTINELS}),
        ("bert", {"decoder": {"dim": 16, "heads": 2}}),
    ],
)
@torch.inference_mode()
def test_a_decoder_says_what_stood_where_a_sentinel_is(kind: str, settings: dict[str, Any], masking: Masking) -> None:
    """The decoder reads its start and the sentinel as in training, all at once and without what `generate` keeps."""
    learner, rows = shaken(spans(kind, **settings)), texts()
    assert isinstance(learner, Scorer) and learner.likelihood == "pseudo"
    sentinel, start = (39, 0) if "first_sentinel" in settings else (40, 2)
    given, one, expected = torch.tensor([[start, sentinel]]), torch.ones(1, 2, dtype=torch.int64), []
    for row in rows:
        nats, ids = 0.0, row.ids.tolist()
        for place in range(1, len(ids) - 1):
            end = word_end(row, place) if masking == "within_word" else place + 1
            read = Inputs.of(torch.tensor([[*ids[:place], sentinel, *ids[end:]]]))
            scores = learner.head(given, one, read.documents, learner.encoder(read), learner.encoder.tokens)[0, 1]
            nats += float(scores.log_softmax(-1)[ids[place]])
        expected.append(nats)
    for tokens in (1, 40, 10_000):
        np.testing.assert_allclose(learner.log_likelihoods(rows, masking, tokens), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("generator", [{"share": 0.5}, None])
@pytest.mark.parametrize("kind", ["electra", "deberta", "lstm"])
@torch.inference_mode()
def test_a_discriminator_judges_every_token_as_it_stands(kind: str, generator: dict[str, Any] | None) -> None:
    learner, rows = shaken(replaced(kind, generator=generator)), texts()
    assert isinstance(learner, Scorer) and learner.likelihood == "discriminator"
    expected = []
    for row in rows:
        scores = learner.head(learner.encoder(Inputs.of(torch.from_numpy(row.ids)[None])))[0, 1:-1]
        expected.append(float((1 - scores.sigmoid()).log().sum()))
    for tokens in (1, 40, 10_000):
        np.testing.assert_allclose(learner.log_likelihoods(rows, None, tokens), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(UsageError, match="as it stands"):
        learner.log_likelihoods(rows, "token", 100)


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_figures_by_paradigm_and_phenomenon(pretrained_dir: Path, tmp_path: Path) -> None:
    good, bad = zip(*PAIRS, strict=True)
    one = [{"sentence_good": good[0], "sentence_bad": bad[0], "UID": "order", "linguistics_term": "syntax"}] * 3
    turned = [{"sentence_good": bad[0], "sentence_bad": good[0], "UID": "turned", "linguistics_term": "syntax"}]
    same = [{"sentence_good": good[1], "sentence_bad": good[1], "UID": "same", "linguistics_term": "none"}]
    file = write(tmp_path / "a.jsonl", [*one, *turned, *same])
    found = suites.evaluate("minimal_pairs", find_step(pretrained_dir), [file], "fp32")
    ours, theirs = found["paradigms"]["order"]["accuracy"], found["paradigms"]["turned"]["accuracy"]
    assert {ours, theirs} == {0.0, 1.0} and found["paradigms"]["same"]["accuracy"] == 0
    assert found["rows"] == 5 and found["same_tokens"] == found["ties"] == 1
    assert found["metrics"]["accuracy"] == pytest.approx((3 * ours + theirs) / 5)
    assert found["metrics"]["macro_accuracy"] == pytest.approx(1 / 3)
    assert found["phenomena"]["syntax"] == {
        "pairs": 4,
        "accuracy": (3 * ours + theirs) / 4,
        "interval": found["phenomena"]["syntax"]["interval"],
    }
    assert "5 pairs by pseudo-log-likelihood" in suites.describe(found) and "syntax" in suites.describe(found)
    assert (found["likelihood"], found["masking"]) == ("pseudo", "token")
    step = find_step(pretrained_dir)
    again = suites.evaluate("minimal_pairs", step, [file], "fp32", against=step, masking="within_word")
    assert again["rows"] == 5 and again["against"]["differences"]["macro_accuracy"]["value"] == 0
    assert f"less that of {step}" in suites.describe(again)
    json.dumps(found)


def test_files_of_other_forms(tmp_path: Path) -> None:
    rows = [{"good": good, "bad": bad} for good, bad in PAIRS]
    plain = write(tmp_path / "agreement.jsonl", rows)
    with lzma.open(tmp_path / "zh.jsonl.xz", "wb") as file:
        file.write(write(tmp_path / "zh.txt", [{**row, "paradigm": "cl", "phenomenon": "p"} for row in rows]).read_bytes())
    found = read_pairs([tmp_path])
    assert [pair.paradigm for pair in found] == ["agreement"] * 2 + ["cl"] * 2
    assert found == read_pairs([plain, tmp_path / "zh.jsonl.xz"])
    (tmp_path / "t.tsv").write_text("good\tbad\nx\ty\n", encoding="utf-8")
    assert read_pairs([tmp_path / "t.tsv"])[0][:2] == ("x", "y")
    with pytest.raises(DataError, match="sentence_bad") as error:
        read_pairs([write(tmp_path / "b.jsonl", [{"good": "x", "bat": "y"}])])
    assert str(error.value.where).endswith("b.jsonl:1")


def test_what_does_not_fit_is_refused(pretrained_dir: Path, classifier_dir: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [{"good": "x", "bad": "y"}])
    suite("minimal_pairs", find_step(pretrained_dir), [file, tmp_path])
    with pytest.raises(UsageError, match="fine-tuned"):
        suite("minimal_pairs", find_step(classifier_dir), [file])
    with pytest.raises(UsageError, match="not for a suite"):
        suite("minimal_pairs", find_step(pretrained_dir), [file], errors=tmp_path / "errors.jsonl")
    with pytest.raises(UsageError, match="fine-tuned"):
        suite("minimal_pairs", find_step(pretrained_dir), [file], find_step(classifier_dir))
    with pytest.raises(UsageError, match="no such file"):
        suite("minimal_pairs", find_step(pretrained_dir), [tmp_path / "nothing.jsonl"])
    assert without_suite([file]) == file
    with pytest.raises(UsageError, match="suite"):
        without_suite([file, file])
    assert set(get_args(Suite)) == set(suites.SUITES)


def test_two_models_are_told_apart() -> None:
    rng = np.random.default_rng(0)
    paradigms = np.repeat([0, 1, 2], (300, 500, 200))
    one, other = rng.random(1000) < 0.8, rng.random(1000) < 0.7
    first, second = (Answered({}, paradigms, right.astype(float)) for right in (one, other))
    found = suites.differences("minimal_pairs", first, second)
    shares = [[right[paradigms == i].mean() for i in range(3)] for right in (one, other)]
    assert found["rows"] == 1000
    difference = found["differences"]["accuracy"]
    assert difference["value"] == pytest.approx(one.mean() - other.mean())
    assert found["differences"]["macro_accuracy"]["value"] == pytest.approx(np.mean(shares[0]) - np.mean(shares[1]))
    test = stats.ttest_rel(one.astype(float), other.astype(float))  # so many rows are as good as normal
    low, high = test.confidence_interval()
    assert (difference["low"], difference["high"]) == pytest.approx((low, high), abs=0.006)
    assert difference["p"] <= 0.002 and test.pvalue < 1e-3
    same = suites.differences("minimal_pairs", first, first)["differences"]["accuracy"]
    assert same == {"value": 0, "low": 0, "high": 0, "p": 1}


def test_words_that_one_model_lacks_are_left_out() -> None:
    gold = np.array([[0, 1], [0, 2], [0, 3], [0, 4], [1, 1], [1, 2], [1, 5.0]])
    one, other = np.array([1, np.nan, 3, 4, 3, 2, 1.0]), np.array([4, 3, 2.5, 1, np.nan, 1, 2])
    found = suites.differences("wordsim", Answered({}, gold, one), Answered({}, gold, other))
    kept = [0, 2, 3]

    def spearman(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.asarray(stats.spearmanr(x, y))[0])

    expected = [sum(spearman(gold[own, 1], x[own]) for own in (kept, [5, 6])) / 2 for x in (one, other)]
    assert found["rows"] == 5 and found["differences"]["spearman"]["value"] == pytest.approx(expected[0] - expected[1])
    with pytest.raises(UsageError, match="not asked the same"):
        suites.differences("wordsim", Answered({}, gold, one), Answered({}, gold + 1, other))


def test_intervals_are_those_of_resampled_rows() -> None:
    rng = np.random.default_rng(1)
    right = [rng.random(size) < share for size, share in ((40, 0.9), (200, 0.6), (15, 0.3))]
    found = bootstrap_shares(np.array([[r.sum(), len(r)] for r in right]))
    drawn = [[rng.choice(r, len(r)).mean() for r in right] for _ in range(4000)]
    low, high = np.quantile(drawn, (0.025, 0.975), axis=0)
    assert found.each == [pytest.approx((a, b), abs=0.04) for a, b in zip(low, high, strict=True)]
    assert found.mean == pytest.approx(np.quantile(np.mean(drawn, axis=1), (0.025, 0.975)), abs=0.01)
    sizes = np.array([40, 200, 15]) / 255
    assert found.all == pytest.approx(np.quantile(np.array(drawn) @ sizes, (0.025, 0.975)), abs=0.01)


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data here")
@pytest.mark.parametrize(("name", "paradigms"), [("blimp", 34), ("sling", 1)])
def test_published_sets_are_read(name: str, paradigms: int) -> None:
    pairs = read_pairs([SHARED / name / "pairs.jsonl.xz"])
    assert len({pair.paradigm for pair in pairs}) >= paradigms
