"""Which tokens are hidden, and behind what (Devlin et al. 2019, section 3.1): numpy alone, for every objective that hides.

Words are those that the store marks: what the writing shows, or what a segmenter found.
"""

from collections.abc import Sequence

import numpy as np

from encoderkit.data.blocks import Row
from encoderkit.learner import IGNORE, Batch, Mark, Picture, Vocabulary
from encoderkit.objectives.config import MaskedConfig

LONGEST_SPAN = 10
LONGEST_NGRAM = 3
LONG_WORD = 8
"""Tokens of a word that is hidden whole in however short a row."""


class Masker:
    """Hides tokens as the recipe says."""

    def __init__(self, config: MaskedConfig, vocabulary: Vocabulary) -> None:
        self.config, self.vocabulary = config, vocabulary
        special = {vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask}
        self._ordinary = np.setdiff1d(np.arange(vocabulary.size), list(special))

    def slots(self, rate: float, width: int) -> int:
        """How many places of a row of `width` tokens are predicted at the most: there is room for a long word in a short row."""
        return max(1 if self.config.unit == "token" else LONG_WORD, round(rate * width))

    def places(self, row: Row, rate: float, rng: np.random.Generator, most: int) -> np.ndarray:
        """The places of a row to predict, in order: `rate` of its ordinary tokens, at least one, and no more than `most`.

        Words are hidden whole; only where all have more tokens than `most`, so many of one.
        """
        ordinary = np.flatnonzero(~row.special)
        wanted = max(1, round(rate * len(ordinary)))
        if self.config.unit == "token":
            return np.sort(rng.choice(ordinary, min(wanted, most, len(ordinary)), replace=False))
        # A word runs from its mark to the next; a document piece begins a word even in the middle of one.
        begins = row.starts[ordinary] | (np.diff(ordinary, prepend=-2) > 1)
        begins[:1] = True
        words = np.split(ordinary, np.flatnonzero(begins)[1:])
        order = rng.permutation(len(words))
        if self.config.unit == "word":
            return _whole(words, order, min(wanted, most), most)
        # Special tokens stand between texts, so the number of those before a word says which text it is in.
        text = np.cumsum(row.special)[ordinary[begins]]
        return _whole(words, _runs(order, self._sizes(len(words), rng), text), min(wanted, most), most)

    def _sizes(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """How many words each of `count` spans or n-grams has."""
        if self.config.unit == "span":
            chances = (1 - 1 / self.config.span_mean) ** np.arange(LONGEST_SPAN)  # Joshi et al. 2020, section 3.1
            return rng.choice(LONGEST_SPAN, count, p=chances / chances.sum()) + 1
        shares = 1 / np.arange(1, LONGEST_NGRAM + 1)  # Lan et al. 2020, section 4.1
        return rng.choice(LONGEST_NGRAM, count, p=shares / shares.sum()) + 1

    def corrupt(self, ids: np.ndarray, places: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """`ids` with [MASK], a random token or the token itself at each of `places`, in the shares of the recipe.

        One of the three for each token, or of spans for all that stand together.
        """
        out = np.array(ids, dtype=np.int64)
        draw = rng.random(len(places))
        if self.config.unit == "span":
            draw = draw[np.cumsum(np.diff(places, prepend=places[:1]) > 1)]
        out[places[draw < self.config.mask]] = self.vocabulary.mask
        random = places[(draw >= self.config.mask) & (draw < self.config.mask + self.config.random)]
        out[random] = rng.choice(self._ordinary, len(random))
        return out


def pictures(examples: Sequence[Row], batch: Batch, mask: int, first: int = 0) -> list[Picture]:
    """Rows of a batch whose targets are `where` and `labels`; `first`: the row of the batch that the first example is."""
    ids, width = batch.inputs.ids.numpy(), batch.inputs.ids.shape[1]
    wanted: dict[int, int] = {}
    if "labels" in batch.targets:
        where, labels = batch.targets["where"].tolist(), batch.targets["labels"].tolist()
        wanted = {place: label for place, label in zip(where, labels, strict=True) if label != IGNORE}
    found = []
    for i, row in enumerate(examples, first):
        marks = []
        for j, (special, start) in enumerate(zip(row.special.tolist(), row.starts.tolist(), strict=True)):
            id, target = int(ids[i, j]), wanted.get(i * width + j)
            role = "mask" if id == mask else "keep" if id == target else "random"
            marks.append(Mark(id, "special" if special else "" if target is None else role, target, start))
        found.append(marks)
    return found


def _runs(order: np.ndarray, sizes: np.ndarray, text: np.ndarray) -> dict[int, None]:
    """Words in runs of `sizes`, each from the word in `order` on and within one text; the numbers of the words, each once."""
    taken: dict[int, None] = {}
    texts = text.tolist()
    for first, size in zip(order.tolist(), sizes.tolist(), strict=True):
        taken.update(dict.fromkeys(i for i in range(first, min(first + size, len(texts))) if texts[i] == texts[first]))
    return taken


def _whole(words: list[np.ndarray], order: Sequence[int] | np.ndarray | dict[int, None], wanted: int, most: int) -> np.ndarray:
    """The tokens of words taken in `order`, skipping those that would exceed `wanted`, but the first one `most`; at least one."""
    taken: list[np.ndarray] = []
    left = wanted
    for i in order:
        if len(words[i]) <= (left if taken else most):
            taken.append(words[i])
            left -= len(words[i])
        if left <= 0:
            break
    return np.sort(np.concatenate(taken)) if taken else words[next(iter(order))][:most]
