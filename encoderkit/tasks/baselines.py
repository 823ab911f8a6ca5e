"""What simple models reach on the same data: a number means little without them.

The majority class, and TF-IDF with logistic regression, which is hard to beat on short texts and takes seconds (Wang and
Manning 2012 make the case for it). Both are deterministic.
"""

import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from encoderkit.tasks.task import Baseline

MOST_CHARACTERS = 20_000_000
"""Of text that TF-IDF is fitted on; of more, evenly spaced rows are taken."""
FEATURES = 200_000

_SEPARATOR = " \u241e "  # a token of its own between the texts of a pair
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")

Texts = Sequence[Sequence[str]]
"""Rows of one text, or of the two texts of a pair."""


def majority(labels: np.ndarray, rows: int) -> np.ndarray:
    """(N,) label numbers to (rows,) the commonest; (N, L) of 0 and 1 to (rows, L) those that more than half have."""
    if labels.ndim == 2:
        return np.tile(labels.mean(0) > 0.5, (rows, 1))
    return np.full(rows, np.bincount(labels).argmax())


def spaced(texts: Texts) -> bool:
    """Whether words are separated by spaces: true unless a third of the letters are of a script that does without."""
    sample = "".join(text[:200] for row in texts[:: max(1, len(texts) // 1000)] for text in row)
    letters = [character for character in sample if character.isalpha()]
    unspaced = sum(unicodedata.name(character, "").startswith(_UNSPACED) for character in letters)
    return 3 * unspaced <= len(letters)


def fitted_rows(texts: Texts) -> np.ndarray:
    """The numbers of the rows that TF-IDF is fitted on: all, or evenly spaced ones of a large file."""
    size = sum(len(text) for row in texts for text in row)
    count = max(1, min(len(texts), int(len(texts) * MOST_CHARACTERS / max(size, 1))))
    return np.linspace(0, len(texts) - 1, count).astype(np.int64)


def tfidf(train: Texts, labels: np.ndarray, texts: Texts) -> np.ndarray:
    """The predictions of TF-IDF and logistic regression for `texts`, fitted on `train`: (M,) or (M, L) as `labels` (N,), (N, L).

    Features are words and pairs of neighbouring words where words are separated by spaces, and runs of one to three
    characters where they are not; punctuation counts as words. The majority class where `train` has no characters.
    """
    chosen = fitted_rows(train)
    joined, labels = [_SEPARATOR.join(train[int(i)]) for i in chosen], labels[chosen]
    words = {"token_pattern": r"\w+|[^\w\s]", "ngram_range": (1, 2)}
    kind = words if spaced(train) else {"analyzer": "char", "ngram_range": (1, 3)}
    if all(text.isspace() or not text for text in joined):
        return majority(labels, len(texts))
    vectorizer = TfidfVectorizer(sublinear_tf=True, max_features=FEATURES, **kind)
    known = vectorizer.fit_transform(joined)
    asked = vectorizer.transform(_SEPARATOR.join(row) for row in texts)
    if labels.ndim == 1:
        return _decide(known, labels, asked)
    return np.stack([_decide(known, column, asked) for column in labels.T], axis=1)


BASELINES: dict[Baseline, Callable[[Texts, np.ndarray, Texts], np.ndarray]] = {
    "majority": lambda train, labels, texts: majority(labels, len(texts)),
    "tfidf": tfidf,
}
"""Each takes the training texts, what is right for them and the texts to predict."""


def _decide(known: object, labels: np.ndarray, asked: object) -> np.ndarray:
    if len(np.unique(labels)) == 1:
        return majority(labels, asked.shape[0])  # pyright: ignore[reportAttributeAccessIssue] (a sparse matrix)
    return LogisticRegression(max_iter=1000).fit(known, labels).predict(asked)
