"""Answers that stand in a passage: reading them from rows, finding them in the text, comparing them with what was given.

Exact match and F1 are those of the scripts that came with SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018; words, without
articles and punctuation) and with CMRC 2018 (Cui et al. 2019; Chinese characters and other words, the longest run that the
two share), with which DRCD is measured too.
"""

import importlib
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from functools import cache, lru_cache
from typing import Literal, NamedTuple

from encoderkit.data.labelled import Row
from encoderkit.data.records import check_text
from encoderkit.errors import DataError, need, shown

Language = Literal["english", "chinese"]
"""By whose script answers are compared: SQuAD's, or that of CMRC 2018."""

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CHINESE = re.compile(r"[\u4e00-\u9fa5]")
_MARKS = str.maketrans("", "", "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What CMRC 2018's script takes out; its list has "……" too, which is no character and so is never met."""


class Answer(NamedTuple):
    """An answer as a row has it."""

    text: str
    start: int | None
    """The number of its first character in the passage; None where the row does not say."""


def answers_of(row: Row, column: str) -> list[Answer]:
    """The answers of a row; raises `DataError` with its place for what cannot be any.

    A list of {text, answer_start} or of texts, lists of texts and of starts (as `datasets` has them), or one text, which may
    be empty for none, as .csv has it. A start of -1 is not known.
    """
    value = row.values.get(column)
    if isinstance(value, str):
        value = [value] if value else []
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        texts = texts if isinstance(texts, list) else [texts]
        starts = starts if isinstance(starts, list) else [starts] * len(texts)
        if len(texts) != len(starts):
            raise DataError(
                f"{shown(column)} has {len(texts)} texts and {len(starts)} values of answer_start",
                where=row.place,
                fix="as many of one as of the other",
            )
        value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(value, list):
        found = "nothing" if value is None else shown(str(value), 40)
        message = f"{shown(column)} should be answers, each with text and answer_start, found {found}"
        fix = 'such as [{"text": "...", "answer_start": 0}], an empty list where there is none; task.answers names the column'
        raise DataError(message, where=row.place, fix=fix)
    if value and row.values.get("is_impossible") is True:
        raise DataError("is_impossible is true, and there are answers", where=row.place, fix="correct one of the two")
    return [_answer(item, column, row.place) for item in value]


def _answer(item: object, column: str, place: str) -> Answer:
    text, start = (item.get("text"), item.get("answer_start")) if isinstance(item, dict) else (item, None)
    check_text(text, column, place)
    assert isinstance(text, str)
    if not text.strip():
        raise DataError(f"an answer in {shown(column)} is empty", where=place, fix="no answer is an empty list: []")
    if start is not None and (isinstance(start, bool) or not isinstance(start, int)):
        fix = "where the answer begins, in characters from 0; leave it out to have it looked for"
        raise DataError(f"answer_start should be a whole number, found {shown(str(start), 40)}", where=place, fix=fix)
    inner = text.strip()  # a space at its end need not be in the passage, and counts for nothing
    return Answer(inner, None if start in (None, -1) else start + text.index(inner))


class Place(NamedTuple):
    """Where an answer was found."""

    start: int
    how: Literal["", "moved", "chosen"]
    """moved: it stands elsewhere than the row says. chosen: it stands in several places, and the row does not say where."""


def locate(answer: Answer, context: str) -> Place | None:
    """Where an answer stands in a passage; what stands elsewhere than its row says is looked for nearby.

    None: nowhere, or in two places that are equally near.
    """
    if answer.start is not None and answer.start >= 0 and context.startswith(answer.text, answer.start):
        return Place(answer.start, "")
    found = [match.start() for match in re.finditer(f"(?={re.escape(answer.text)})", context)]
    if answer.start is None:
        return Place(found[0], "chosen" if len(found) > 1 else "") if found else None
    said = answer.start
    found.sort(key=lambda start: abs(start - said))
    if not found or (len(found) > 1 and abs(found[0] - said) == abs(found[1] - said)):
        return None
    return Place(found[0], "moved")


def is_chinese(texts: Sequence[str]) -> bool:
    """Whether a third or more of the letters and digits of `texts` are Chinese characters."""
    joined = "".join(texts)
    return 0 < sum(map(str.isalnum, joined)) <= 3 * len(_CHINESE.findall(joined))


@lru_cache(maxsize=2**18)
def compared(right: tuple[str, ...], given: str, language: Language, unanswerable: bool) -> tuple[float, float]:
    """Exact match and F1 of an answer against the best of those that are `right`; "" stands for none, as () does.

    `unanswerable`: as SQuAD 2.0 has it, where an answer without a word counts as none. SQuAD 1.1 gives such a one no F1.
    """
    plain = _plain_chinese if language == "chinese" else _plain
    if unanswerable:
        right = tuple(text for text in right if plain(text)) or ("",)
    exact = any(plain(text) == plain(given) for text in right)
    return float(exact), max((_f1(text, given, language, unanswerable) for text in right), default=0.0)


def _f1(right: str, given: str, language: Language, unanswerable: bool) -> float:
    if language == "chinese":
        one, other = _mixed(right), _mixed(given)
        same = SequenceMatcher(None, one, other, autojunk=False).find_longest_match().size
    else:
        one, other = _plain(right).split(), _plain(given).split()
        same = sum((Counter(one) & Counter(other)).values())
    if unanswerable and not (one and other):
        return float(one == other)
    return 2 * same / (len(one) + len(other)) if same else 0.0


@lru_cache(maxsize=2**17)
def _plain(text: str) -> str:
    """English in small letters, without punctuation, articles and white space that says nothing."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _plain_chinese(text: str) -> str:
    return text.lower().strip().translate(_MARKS)


@lru_cache(maxsize=2**17)
def _mixed(text: str) -> list[str]:
    """Chinese characters one by one, and what stands between them as nltk cuts it into words.

    (The script also cuts that into sentences before, with a model that nltk would have to download.)
    """
    cut, words = word_cutter(), []
    for part in re.split(f"({_CHINESE.pattern})", _plain_chinese(text)):
        words += [part] if _CHINESE.fullmatch(part) else cut(part)
    return words


@cache
def word_cutter() -> Callable[[str], list[str]]:
    """How CMRC 2018's script cuts what is not Chinese into words; raises `MissingDependency` where nltk is not installed."""
    need("nltk", "CMRC 2018's measure of Chinese answers needs", "text")
    return importlib.import_module("nltk.tokenize.destructive").NLTKWordTokenizer().tokenize
