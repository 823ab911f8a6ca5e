"""How SQuAD 1.1, SQuAD 2.0 and CMRC 2018 are measured, step by step as their scripts describe it: a reference for tests."""

import re
import string
from collections import Counter

from nltk.tokenize import NLTKWordTokenizer

MARKS = [*"-:_*^/\\~`+=，。：？！“”；’《》", "……", *"·、「」（）－～『』"]
WORDS = NLTKWordTokenizer().tokenize


def normal(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def overlap(right: str, given: str) -> float:
    """SQuAD 1.1: F1 of the bags of words."""
    one, other = normal(given).split(), normal(right).split()
    common = sum((Counter(one) & Counter(other)).values())
    if common == 0:
        return 0.0
    precision, recall = common / len(one), common / len(other)
    return 2 * precision * recall / (precision + recall)


def squad1(right: list[str], given: str) -> tuple[float, float]:
    """Exact match and F1."""
    return float(max(normal(given) == normal(text) for text in right)), max(overlap(text, given) for text in right)


def squad2(right: list[str], given: str) -> tuple[float, float]:
    """Exact match and F1: answers that are nothing when normalised do not count, and no answer equals no answer."""
    kept = [text for text in right if normal(text)] or [""]

    def f1(text: str) -> float:
        if not normal(text).split() or not normal(given).split():
            return float(normal(text).split() == normal(given).split())
        return overlap(text, given)

    return float(max(normal(given) == normal(text) for text in kept)), max(f1(text) for text in kept)


def segments(text: str) -> list[str]:
    """Chinese characters apart, and the words between them, marks left out."""
    found, held = [], ""
    for character in text.lower().strip():
        if character in MARKS:
            continue
        if re.search("[\u4e00-\u9fa5]", character):
            found += WORDS(held) if held else []
            found, held = [*found, character], ""
        else:
            held += character
    return found + (WORDS(held) if held else [])


def common_string(one: list[str], other: list[str]) -> int:
    """The length of the longest string of neighbours in both."""
    runs = {tuple(one[i:j]) for i in range(len(one)) for j in range(i + 1, len(one) + 1)}
    parts = {tuple(other[i:j]) for i in range(len(other)) for j in range(i + 1, len(other) + 1)}
    return max(map(len, runs & parts), default=0)


def cmrc(right: list[str], given: str) -> tuple[float, float]:
    """Exact match and F1."""

    def plain(text: str) -> str:
        return "".join(character for character in text.lower().strip() if character not in MARKS)

    def f1(text: str) -> float:
        one, other = segments(text), segments(given)
        length = common_string(one, other)
        if length == 0:
            return 0.0
        precision, recall = length / len(other), length / len(one)
        return 2 * precision * recall / (precision + recall)

    return float(any(plain(text) == plain(given) for text in right)), max(f1(text) for text in right)
