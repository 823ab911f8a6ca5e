"""From rows to examples, labels and the loss."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from encoderkit.data.labelled import Row
from encoderkit.errors import DataError
from encoderkit.learner import Vocabulary
from encoderkit.models.config import BertConfig
from encoderkit.tasks.classify import Classify, Example
from encoderkit.tasks.config import ClassifyConfig
from encoderkit.tasks.losses import class_weights, labelled
from encoderkit.tasks.texts import Tokens, _fit

VOCABULARY = Vocabulary(size=50, pad=0, unk=1, cls=2, sep=3, mask=4)
TINY = BertConfig(dim=16, layers=1, heads=2, dropout=0, attention_dropout=0, max_length=32)


def rows(*values: dict[str, object]) -> list[Row]:
    """Rows of a file."""
    return [Row(value, i + 2, "train.jsonl") for i, value in enumerate(values)]


def learner(labels: list[str], **settings: object) -> Classify:
    """A tiny classifier."""
    torch.manual_seed(0)
    return Classify(ClassifyConfig.model_validate({"dropout": 0.0, **settings}), TINY, VOCABULARY, 16, labels)


def example(target: int | np.ndarray, size: int = 4) -> Example:
    """An example of `size` tokens."""
    return Example((Tokens(np.arange(5, 5 + size), None, 0),), target)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_pair_is_cut_to_fit_and_no_more(first: int, second: int, room: int) -> None:
    kept = _fit([first, second], room)
    assert kept[0] <= first and kept[1] <= second
    assert sum(kept) == min(room, first + second)
    if sum(kept) < first + second:  # the longer text is cut first
        for own, whole, other in ((0, first, kept[1]), (1, second, kept[0])):
            assert kept[own] == whole or kept[own] + 1 >= other


def test_labels_are_sorted_and_numbers_by_size() -> None:
    config = ClassifyConfig()
    assert Classify.find_labels(rows(*({"label": x} for x in ("b", "a", "10", "9", "b"))), config) == ["9", "10", "a", "b"]
    assert Classify.find_labels(rows({"label": 1}, {"label": "1"}, {"label": 0}), config) == ["0", "1"]
    assert Classify.find_labels(rows(*({"label": x} for x in ("1", "01", "001"))), config) == ["001", "01", "1"]
    with pytest.raises(DataError, match="no row has a label"):
        Classify.find_labels(rows({"label": []}), ClassifyConfig(kind="classify", text="text", multiple=True))


def test_an_unseen_label_is_an_error_with_its_place() -> None:
    made = learner(["neg", "pos"])
    with pytest.raises(DataError, match=r'train\.jsonl:2: label "postive" was not seen in training; the labels are: neg, pos'):
        made.target(rows({"text": "x", "label": "postive"})[0])


def test_several_labels_from_a_list_and_from_columns(capsys: pytest.CaptureFixture[str]) -> None:
    listed = ClassifyConfig(multiple=True)
    for labels, told in ((["a|b", "b"], True), ([["a", "b"], "b"], False), ([[], "b"], False)):
        Classify.find_labels(rows(*({"label": label} for label in labels)), listed)
        assert ("every row has one label" in capsys.readouterr().err) == told
    data = rows({"label": ["b", "a"]}, {"label": []}, {"label": "c"})
    assert Classify.find_labels(data, listed) == ["a", "b", "c"]
    made = learner(["a", "b", "c"], multiple=True)
    assert [made.target(row).tolist() for row in data] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
    columns = learner(["toxic", "spam"], label=["toxic", "spam"])
    assert columns.target(rows({"toxic": 1, "spam": "0"})[0]).tolist() == [1, 0]
    with pytest.raises(DataError, match="should hold 0 or 1"):
        columns.target(rows({"toxic": "yes", "spam": "0"})[0])


def test_weights_are_torchs_and_smoothing_does_not_favour_a_rare_label() -> None:
    weights, logits, labels = torch.tensor([2.0, 1.0, 0.5]), torch.randn(7, 3), torch.arange(7) % 3
    nats = torch.nn.functional.cross_entropy(logits, labels, weights, reduction="none")
    torch.testing.assert_close(labelled(logits, labels, weights, 0.0, 0.0), nats)
    counts = np.array([990, 10, 0])
    balanced = class_weights("balanced", ["often", "rare", "never"], counts)
    assert balanced.tolist() == pytest.approx([1000 / (2 * 990), 1000 / (2 * 10), 1])
    logits = torch.zeros(3, requires_grad=True)  # of a row that is always of the frequent label
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        labelled(logits[None], torch.tensor([0]), balanced, 0.1, 0.0).sum().backward()
        optimizer.step()
    assert logits.softmax(-1).tolist() == pytest.approx([1 - 0.2 / 3, 0.1 / 3, 0.1 / 3], abs=1e-3)


def test_balanced_weights_are_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    targets = np.array([0, 0, 0, 1, 2, 2])
    made = learner(["a", "b", "c"], class_weights="balanced")
    made.prepare([example(int(t)) for t in targets])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=targets)
    np.testing.assert_allclose(made.class_weights.numpy(), expected, rtol=1e-6)


def test_a_weight_for_a_label_that_is_not_there() -> None:
    with pytest.raises(DataError, match='names "d"'):
        learner(["a", "b"], class_weights={"d": 2.0}).prepare([])


@pytest.mark.parametrize("pooling", ["cls", "mean", "max"])
def test_padding_and_batch_change_nothing(pooling: str) -> None:
    made = learner(["a", "b"], pooling=pooling).eval()
    examples = [example(i % 2, 3 + i) for i in range(6)]
    together = made.collate(examples)
    with torch.no_grad():
        whole = made.logits(together.inputs)
        alone = torch.cat([made.logits(made.collate([one]).inputs) for one in examples])
    torch.testing.assert_close(whole, alone, atol=1e-6, rtol=0)


def test_word_dropout_hides_tokens_in_training_alone() -> None:
    """A share of the ordinary tokens, others each time, and the special ones never."""
    task = learner(["a", "b"], word_dropout=0.3)
    draw = np.random.default_rng(0)
    found = [Example((Tokens(np.array([2, *draw.integers(5, 50, draw.integers(3, 13)), 3]), None, 0),), 0) for _ in range(400)]

    def ids(seed: int, progress: float | None = 0.5) -> torch.Tensor:
        return task.collate(found, [np.random.default_rng((seed, i)) for i in range(len(found))], progress).inputs.ids

    plain = task.collate(found).inputs.ids
    assert torch.equal(ids(1, None), plain)
    assert torch.equal(ids(1), ids(1)) and not torch.equal(ids(1), ids(2))
    changed = ids(1) != plain
    assert (ids(1)[changed] == VOCABULARY.mask).all() and (plain[changed] > VOCABULARY.mask).all()
    ordinary = int((plain > VOCABULARY.mask).sum())
    assert changed.sum().item() / ordinary == pytest.approx(0.3, abs=4 * (0.21 / ordinary) ** 0.5)
