"""Windows of passages, and spans of tokens in them: the part of `tasks/span.py` that needs no model."""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from encoderkit.console import warn
from encoderkit.tasks.config import SpanConfig
from encoderkit.tasks.texts import ONE_TEXT, SIZE, Tokens


class Passage(NamedTuple):
    """What answers are taken from, and which are right."""

    context: str
    characters: np.ndarray
    """(C, 2) int64: the first character of each token and the one after its last, without white space around; the two are
    equal for a token that is nothing else."""
    right: tuple[str, ...] = ()
    """All answers; empty where there is none, or none is known."""

    def tokens(self, start: int, end: int) -> tuple[int, int, bool] | None:
        """The first and the last token of some characters, and whether they hold these and no others; None: no token does."""
        text = self.context[start:end]
        start, end = end - len(text.lstrip()), start + len(text.rstrip())
        first, last = self.characters.T
        found = np.flatnonzero((last > start) & (first < end) & (first < last))
        if not len(found):
            return None
        one, other = int(found[0]), int(found[-1])
        return one, other, bool(first[one] == start and last[other] == end)

    def cut(self, first: int, last: int) -> tuple[str, int, int]:
        """The text from one token to another, its first character and the one after its last."""
        start, end = int(self.characters[first, 0]), int(self.characters[last, 1])
        return self.context[start:end], start, end


class Example(NamedTuple):
    """A question with a window of its passage."""

    tokens: Tokens
    passage: Passage
    first: int
    """The number of the passage's token with which the window begins."""
    held: int
    """How many of them it has."""
    place: int
    """Where the first of them stands in `tokens`."""
    null: int
    """Where no answer is pointed to: at [CLS], or at the last token for what reads from left to right."""
    target: tuple[int, int] | None
    """Where the first and the last token of the answer stand; None: not known."""
    row: int = 0
    """The number of its row."""

    texts = ONE_TEXT
    size = SIZE

    @property
    def allowed(self) -> np.ndarray:
        """(T,) bool: where an answer may begin or end, that of no answer included."""
        found = np.zeros(self.size, bool)
        own = self.passage.characters[self.first : self.first + self.held]
        found[self.place : self.place + self.held] = own[:, 0] < own[:, 1]
        found[self.null] = True
        return found


class Band(NamedTuple):
    """The scores of all spans of a passage."""

    passage: Passage
    scores: np.ndarray
    """(C, M) float64: of the span that begins with each token and has 1, 2, ... M tokens; the best of all windows."""
    null: float
    """Of no answer; the least of all windows, since most do not hold the answer."""

    @property
    def best(self) -> float:
        """The highest score of a span; -inf if the passage has none."""
        return float(self.scores.max(initial=-np.inf))

    def span(self, number: int) -> tuple[str, int, int]:
        """Text and characters of the span with this number in `scores`; of none for the number after the last one."""
        if number == self.scores.size:
            return "", 0, 0
        first, more = divmod(number, self.scores.shape[1])
        return self.passage.cut(first, first + more)


def bands(examples: Sequence[Example], scores: Sequence[np.ndarray], most: int) -> Iterator[Band]:
    """Of each row all spans of up to `most` tokens, from the (T, 2) scores of beginning and end in each of its windows."""
    for _, own in groupby(zip(examples, scores, strict=True), key=lambda pair: pair[0].row):
        parts = list(own)
        band, null = np.full((len(parts[0][0].passage.characters), most), -np.inf), np.inf
        for example, found in parts:
            found = found.astype(np.float64)
            null = min(null, float(found[example.null].sum()))
            inside = slice(example.place, example.place + example.held)
            kept = np.where(example.allowed[inside, None], found[inside], -np.inf)
            if not len(kept):  # a passage without a token
                continue
            ends = sliding_window_view(np.concatenate([kept[:, 1], np.full(most - 1, -np.inf)]), most)
            part = band[example.first : example.first + example.held]
            np.maximum(part, kept[:, :1] + ends, out=part)
        yield Band(parts[0][0].passage, band, null)


def trimmed(context: str, characters: np.ndarray) -> np.ndarray:
    """(C, 2) where tokens begin and end, without white space around them; equal for those that are nothing else.

    Accents and other marks that no token holds, as some tokenizers take them away, belong to the token before.
    """
    solid = np.flatnonzero(~np.fromiter(map(str.isspace, context), bool, len(context)))
    low, high = np.searchsorted(solid, characters[:, 0]), np.searchsorted(solid, characters[:, 1])
    empty = low >= high
    first = np.where(empty, characters[:, 0], solid[np.minimum(low, len(solid) - 1)])
    last = np.where(empty, first, 1 + solid[np.maximum(high - 1, 0)])
    limits = np.append(first[1:], len(context))
    for i in np.flatnonzero((last < limits) & ~empty).tolist():
        while last[i] < limits[i] and unicodedata.category(context[last[i]])[0] == "M":
            last[i] += 1
    return np.stack([first, last], axis=1)


def threshold(ahead: Sequence[float], gain: Sequence[float]) -> float:
    """Where to stop answering: questions whose no answer is more `ahead` of the best one are left without.

    The sum of `gain`, what an answer earns beyond none, is greatest for those that are answered; as SQuAD 2.0's script finds it.
    """
    order = np.argsort(ahead, kind="stable")
    places, total = np.asarray(ahead)[order], np.concatenate([[0.0], np.cumsum(np.asarray(gain)[order])])
    ends = np.flatnonzero(np.concatenate([[True], np.diff(places) > 0, [True]]))  # equal ones are decided alike
    count = int(ends[total[ends].argmax()])
    if count == 0:
        return float(places[0]) - 1
    return float(places[-1]) + 1 if count == len(places) else float(places[count - 1] + places[count]) / 2


def tell(notes: Counter[str], where: str, config: SpanConfig) -> None:
    """Say how many answers had to be looked for, or cannot be given, and how many questions were cut."""
    told = {
        "moved": "answers that stand elsewhere than answer_start says, and were taken where they are nearest",
        "chosen": "answers that stand in several places, answer_start not saying in which, and were taken in the first",
        "absent": "answers that are not in their passage, and count as right but are not trained on",
        "inside": "answers that begin or end inside a token, so that the model can only give more than they are",
        "cut": f"answers that no window holds whole, and count as none in training (task.overlap = {config.overlap})",
        "long": f"answers of more than task.answer_length = {config.answer_length} tokens, which will not be given",
        "question": f"questions of more than task.question_length = {config.question_length} tokens, which were cut",
    }
    for name, what in told.items():
        if notes[name]:
            warn(f"{where}: {what}: {notes[name]:,}")
