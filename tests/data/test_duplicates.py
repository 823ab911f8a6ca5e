"""Copies against comparing every text with every other, by Python's own sets."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoderkit.data import duplicates
from encoderkit.data.duplicates import copies, plain, same

TEXTS = st.lists(st.lists(st.text("abあ1 .\x1f_", max_size=12), min_size=1, max_size=2), max_size=8)


def likeness(row: list[str], other: list[str], least: float) -> float:
    """Of rows as wholes; of several texts, where that is enough, the least of any."""
    a, b = runs(row), runs(other)
    whole = len(a & b) / max(len(a | b), 1)
    if max(len(row), len(other)) == 1 or whole < least - 1e-9:
        return whole
    sides = [(runs([one]), runs([two])) for one, two in zip(row, other, strict=False)]
    return min(len(a & b) / len(a | b) if a | b else 1.0 for a, b in sides) if len(row) == len(other) else 0.0


def runs(row: list[str]) -> set[str]:
    letters = re.sub(r"[^\w\x1f]|_", "", plain(row))
    marked = f"\x02{letters}\x03" if letters else ""
    return {marked[i : i + 3] for i in range(len(marked) - 2)}


def by_hand(known: list[list[str]], asked: list[list[str]], least: float) -> list[tuple[int, float]]:
    found = []
    for row in asked:
        best = (-1, 0.0)
        same = next((i for i, other in enumerate(known) if plain(other) == plain(row)), -1)
        for i, other in enumerate(known):
            value = likeness(row, other, least)
            if value >= least - 1e-9 and value > best[1] + 1e-12:
                best = (i, value)
        found.append((same, 1.0) if same >= 0 else best)
    return found


@settings(max_examples=200)
@given(TEXTS, TEXTS, st.sampled_from([0.3, 0.5, 0.75, 1.0]))
def test_all_pairs(known: list[list[str]], asked: list[list[str]], least: float) -> None:
    found, expected = copies(known, asked, least), by_hand(known, asked, least)
    assert found.of.tolist() == [i for i, _ in expected]
    assert found.likeness.tolist() == pytest.approx([value for _, value in expected])


@pytest.mark.parametrize("least", [0.5, 0.75])
def test_longer_texts_in_portions(monkeypatch: pytest.MonkeyPatch, least: float) -> None:
    monkeypatch.setattr(duplicates, "_PORTION", 900)
    monkeypatch.setattr(duplicates, "_PAIRS", 700)
    monkeypatch.setattr(duplicates, "_ENTRIES", 300)
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(2, 7))) for _ in range(40)]
    known = [[" ".join(rng.choice(words, rng.integers(3, 40)))] for _ in range(150)]
    asked = []
    for row in known[:60]:  # with some of the words exchanged
        own = [word if rng.random() < 0.9 else str(rng.choice(words)) for word in row[0].split()]
        asked.append([" ".join(own).upper() + "!"])
    found, expected = copies(known, asked, least), by_hand(known, asked, least)
    assert found.of.tolist() == [i for i, _ in expected] and (found.of >= 0).sum() > 20
    assert found.likeness.tolist() == pytest.approx([value for _, value in expected])


def test_a_passage_that_is_shared_makes_no_copies_of_its_questions() -> None:
    passage = "the tower was built by a company of engineers in two years two months and five days, and is made of wrought iron"
    known = [["who built the tower in paris", passage], ["how high is the tower", passage]]
    asked = [["when was it taken down", passage], ["How high is this tower?", passage], ["how high is the tower", "it is high"]]
    found = copies(known, asked, 0.6)
    assert found.of.tolist() == [-1, 1, -1] and 0.6 < found.likeness[1] < 1
    assert copies([["111"]], [["", "111"]], 0.3).of.tolist() == [-1]


def test_what_is_the_same_text() -> None:
    known, asked = [["Ａ  Good film"], ["x", "yz"]], [["a good\tFILM "], ["a good film."], ["xyz"], ["x", "YZ"], ["!"], ["?"]]
    assert same(known, asked).tolist() == [0, -1, -1, 1, -1, -1]
    found = copies(known, asked)
    assert found.exact.tolist() == [True, False, False, True, False, False]
    assert found.of.tolist() == [0, 0, -1, 1, -1, -1]
