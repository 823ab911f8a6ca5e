"""What simple models reach on the same data: a number means little without them.

The majority class or the mean, and TF-IDF with logistic or ridge regression, which is hard to beat on short texts and
takes seconds (Wang and Manning 2012 make the case for it). All are deterministic.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from encoderkit.metrics import candidates, objects, searched
from encoderkit.tasks import slots
from encoderkit.tasks.schemes import entities, tags
from encoderkit.tasks.task import Baseline
from encoderkit.text.alphabet import marks

MOST_CHARACTERS = 20_000_000
"""Of text that TF-IDF is fitted on; of more, evenly spaced rows are taken."""
FEATURES = 200_000
_AT_ONCE = 64  # texts that are compared with all of train

_SEPARATOR = " \u241e "  # a token of its own between the texts of a pair
_SENTENCE = re.compile(r".+?(?:[.!?]+(?=\s|$)|[。！？]+|\n|$)", re.DOTALL)
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
    labels, found = labels[fitted_rows(train)], features(train, texts)
    if found is None:
        return majority(labels, len(texts))
    known, asked = found
    if labels.ndim == 1:
        return _decide(known, labels, asked)
    return np.stack([_decide(known, column, asked) for column in labels.T], axis=1)


def ridge(train: Texts, labels: np.ndarray, texts: Texts) -> np.ndarray:
    """(M, L) numbers for `texts`, by a ridge regression on the features of `tfidf`, fitted on `train` and (N, L) `labels`."""
    labels, found = labels[fitted_rows(train)], features(train, texts)
    if found is None:
        return mean(labels, len(texts))
    known, asked = found
    return Ridge(solver="sparse_cg").fit(known, labels).predict(asked).reshape(len(texts), -1)


def mean(labels: np.ndarray, rows: int) -> np.ndarray:
    """(N, L) numbers to (rows, L), the mean of each."""
    return np.tile(labels.mean(0), (rows, 1))


def cosine(train: Texts, labels: np.ndarray, texts: Texts) -> np.ndarray:
    """(M,) the cosine of the words (see `tfidf`) of the two texts of each pair, weighed as in `train`; 0 where it has none."""
    sides = _sides(train, [[row[side] for row in texts] for side in (0, 1)])
    return np.zeros(len(texts)) if sides is None else np.asarray(sides[0].multiply(sides[1]).sum(1)).ravel()


def search(train: Texts, labels: np.ndarray, texts: Texts) -> np.ndarray:
    """The places of the right texts of each row (anchor, positive) by the cosine of words (see `cosine`)."""
    numbers = {text: i for i, text in enumerate(dict.fromkeys(text for row in texts for text in row))}
    found = candidates(np.array([[numbers[text] for text in row] for row in texts]))
    flat = [text for row in texts for text in row[1:]]
    sides = _sides(train, [[row[0] for row in texts], [flat[i] for i in found.where]])
    if sides is None:
        return searched(lambda rows: np.zeros((len(range(*rows.indices(len(texts)))), len(found.where))), found)
    return searched(lambda rows: (sides[0][rows] @ sides[1].T).toarray(), found)


def nearest(train: Texts, labels: np.ndarray, texts: Texts) -> np.ndarray:
    """(M,) for each row (question, options ...) the number, from 0, of the option nearest to it by the cosine of words."""
    ends = np.cumsum([len(row) - 1 for row in texts])
    found = cosine(train, labels, [[row[0], option] for row in texts for option in row[1:]])
    return np.array([part.argmax() for part in np.split(found, ends[:-1])])


def commonest(train: Texts, labels: np.ndarray, texts: Texts) -> np.ndarray:
    """The commonest tag of each token in training, of unknown ones that of all; `labels` and what is given are as
    `tasks.tag` has them: sets of entities by tokens, or the numbers of plain tags."""
    plain = bool(len(labels)) and isinstance(labels[0], np.ndarray)
    counts: defaultdict[str, Counter[Any]] = defaultdict(Counter)
    for row, right in zip(train, labels, strict=True):
        for token, tag in zip(row, right.tolist() if plain else tags(right, len(row), "bio"), strict=True):
            counts[token][tag] += 1
    best = {token: own.most_common(1)[0][0] for token, own in counts.items()}
    other = sum(counts.values(), Counter()).most_common(1)[0][0]
    guesses = [[best.get(token, other) for token in row] for row in texts]
    return objects([np.array(guess, np.int64) if plain else frozenset(entities(guess)) for guess in guesses])


def commonest_in_text(train: Texts, labels: np.ndarray, texts: Texts) -> np.ndarray:
    """`commonest` of the words of single texts, with entities by their characters; those that end inside a word are left out."""

    def tokens(row: Sequence[str]) -> tuple[list[str], slots.Slots]:
        places = slots.words(row[0])
        return [row[0][a:b] for a, b in places.tolist()], slots.Slots(np.arange(len(places)), places[:, 0], places[:, 1] - 1)

    known, asked = [tokens(row) for row in train], [tokens(row) for row in texts]
    right = objects([frozenset(slots.fit(one, words)[0]) for one, (_, words) in zip(labels, known, strict=True)])
    found = commonest([row for row, _ in known], right, [row for row, _ in asked])
    for i, (_, words) in enumerate(asked):
        found[i] = slots.unfit(found[i], words)
    return found


def sentence(train: Texts, labels: np.ndarray, texts: Texts) -> np.ndarray:
    """(M,) for each row (question, passage) the sentence of the passage that is nearest to the question (see `nearest`)."""
    parts = [[part.strip() for part in _SENTENCE.findall(row[1]) if part.strip()] or [row[1]] for row in texts]
    chosen = nearest(train, labels, [[row[0], *own] for row, own in zip(texts, parts, strict=True)])
    return np.array([own[i] for own, i in zip(parts, chosen, strict=True)], dtype=object)


def most_alike(train: Texts, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """(M,) the number of the training row whose words are most like those of each of `texts`, and the cosine; -1 for none.

    Of a large file, among the evenly spaced rows that words are fitted on; of equally like rows the first.
    """
    number, cosine, found = np.full(len(texts), -1), np.zeros(len(texts)), features(train, texts)
    if found is not None:
        rows, (known, asked) = fitted_rows(train), found
        for start in range(0, len(texts), _AT_ONCE):
            near = (asked[start : start + _AT_ONCE] @ known.T).toarray()
            best = near.max(1)
            number[start : start + _AT_ONCE] = np.where(best > 0, rows[near.argmax(1)], -1)
            cosine[start : start + _AT_ONCE] = best
    return number, cosine


def _sides(train: Texts, sides: Sequence[Sequence[str]]) -> list[Any] | None:
    single = [text for i in fitted_rows(train) for text in train[int(i)]]
    if all(text.isspace() or not text for text in single):
        return None
    vectorizer = words(train).fit(single)
    return [vectorizer.transform(side) for side in sides]


def features(train: Texts, texts: Texts) -> tuple[Any, Any] | None:
    """TF-IDF of the words of the fitted rows of `train` and of `texts`, sparse; None where `train` has no characters."""
    return _features(tuple(map(tuple, train)), tuple(map(tuple, texts)))


@lru_cache(maxsize=1)  # a baseline and the rows that are most alike ask for the same
def _features(train: Texts, texts: Texts) -> tuple[Any, Any] | None:
    joined = [_SEPARATOR.join(train[int(i)]) for i in fitted_rows(train)]
    if all(text.isspace() or not text for text in joined):
        return None
    vectorizer = words(train)
    return vectorizer.fit_transform(joined), vectorizer.transform(_SEPARATOR.join(row) for row in texts)


def words(train: Texts) -> TfidfVectorizer:
    """TF-IDF of words and pairs of words, or of characters, as the texts are written; not yet fitted."""
    pairs = {"token_pattern": rf"[\w{marks()}]+|[^\w\s]", "ngram_range": (1, 2)}
    kind = pairs if spaced(train) else {"analyzer": "char", "ngram_range": (1, 3)}
    return TfidfVectorizer(sublinear_tf=True, max_features=FEATURES, **kind)


def _decide(known: Any, labels: np.ndarray, asked: Any) -> np.ndarray:
    if len(np.unique(labels)) == 1:
        return majority(labels, asked.shape[0])
    return LogisticRegression(max_iter=1000).fit(known, labels).predict(asked)


BASELINES: dict[Baseline, Callable[[Texts, np.ndarray, Texts], np.ndarray]] = {
    "majority": lambda train, labels, texts: majority(labels, len(texts)),
    "tfidf": tfidf,
    "mean": lambda train, labels, texts: mean(labels, len(texts)),
    "ridge": ridge,
    "cosine": cosine,
    "search": search,
    "nearest": nearest,
    "commonest": commonest,
    "commonest_in_text": commonest_in_text,
    "sentence": sentence,
    "silence": lambda train, labels, texts: np.full(len(texts), "", dtype=object),
}
"""Each takes the training texts, what is right for them and the texts to predict."""
