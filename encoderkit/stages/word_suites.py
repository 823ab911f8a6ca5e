"""Word similarity and analogies, with the word embeddings of any model: static ones, or the mean of those of sub-words.

Similarity: Spearman's rank correlation of people's scores and cosines (Finkelstein et al. 2002, WordSim-353). Analogy:
"a is to b as c is to ...?", answered by the word whose vector is nearest to b - a + c of unit vectors (Mikolov et al. 2013,
"Linguistic Regularities", 3CosAdd), the three of the question left out.
"""

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
from scipy.stats import spearmanr

from encoderkit.console import say, table
from encoderkit.data.streams import Compression, Source, blocks, texts
from encoderkit.errors import DataError, UsageError, shown
from encoderkit.inference import Engine, Model
from encoderkit.metrics import Answered, numbers
from encoderkit.stages.embeddings import look_up, table_rows

_AT_ONCE = 512  # questions, whose scores against all words are one product


class Pair(NamedTuple):
    """Two words and how alike people find them."""

    first: str
    second: str
    score: float


def read_pairs(path: Path) -> list[Pair]:
    """Pairs in any form that such sets come in: tab, comma or spaces between, a header or none, more columns or none.

    The score is the first number after the two words. Raises `DataError` with the line for one that has none, but the first.
    """
    pairs = []
    for number, line in _lines(path):
        fields = [field.strip() for field in _fields(line, f"{path}:{number}")]
        scores = [value for field in fields[2:] if (value := _number(field)) is not None]
        if not scores:
            if pairs or number > 1:
                message = f"expected two words and a score, found {shown(line, 60)}"
                raise DataError(message, where=f"{path}:{number}", fix="correct the line, or take it out")
            say(f"{path}: the first line has no score, and is taken for names of columns: {shown(line, 60)}")
            continue
        pairs.append(Pair(fields[0], fields[1], scores[0]))
    if len(pairs) < 2:
        fix = "a line for each pair: two words and a score, between tabs or commas"
        raise DataError("holds no two pairs of words with a score", where=path, fix=fix)
    return pairs


def _fields(line: str, place: str) -> list[str]:
    """The parts of a line: between tabs, commas (also in quotes, as in .csv) or spaces."""
    if "\t" in line:
        return line.split("\t")
    try:
        return next(csv.reader([line], strict=False)) if "," in line else line.split()
    except csv.Error as error:
        fix = "lines end with a line feed (not with a carriage return alone), and hold two words and a score"
        raise DataError(f"no line of words: {error}", where=place, fix=fix) from None


def scored_pairs(data: Sequence[Path]) -> dict[Path, list[Pair]]:
    """The pairs of each file."""
    return {path: read_pairs(path) for path in _files(data)}


def wordsim(engine: Engine, data: Sequence[Path]) -> Answered:
    """Spearman's correlation over the pairs of a file of which both words have vectors; of several files their mean too."""
    read = scored_pairs(data)
    alike = len({path.stem for path in read}) < len(read)
    parts = {str(path) if alike else path.stem: _similarity(engine.model, path, pairs) for path, pairs in read.items()}
    found = {name: figures for name, (figures, _, _) in parts.items()}
    mean = float(np.mean([part["spearman"] for part in found.values()]))
    pairs, covered = (sum(part[name] for part in found.values()) for name in ("pairs", "covered"))
    figures = {"rows": pairs, "covered": covered, "metrics": {"spearman": mean}, "sections": found}
    gold = np.concatenate([np.stack([np.full(len(a), i), a], 1) for i, (_, a, _) in enumerate(parts.values())])
    return Answered(figures, gold, np.concatenate([given for _, _, given in parts.values()]))


def wordsim_score(gold: np.ndarray, cosines: np.ndarray) -> dict[str, float]:
    """(N, 2) the file of each pair and how alike people find it, and (N,) cosines, to the metric of `wordsim`."""
    files = [gold[:, 0] == number for number in np.unique(gold[:, 0])]
    return {"spearman": float(np.mean([numbers(gold[own, 1:], cosines[own, None])["spearman"] for own in files]))}


def _similarity(model: Model, path: Path, pairs: Sequence[Pair]) -> Answered:
    first, second = (look_up(model, words) for words in ([p.first for p in pairs], [p.second for p in pairs]))
    covered = np.array([bool(a) and bool(b) for a, b in zip(first.ids, second.ids, strict=True)])
    if covered.sum() < 2:
        fix = "words as the vocabulary writes them; is it in the language of the model?"
        raise DataError("the model has vectors for both words of fewer than two pairs", where=path, fix=fix)
    cosines = np.where(covered, (_unit(first.vectors) * _unit(second.vectors)).sum(1), np.nan)
    scores = np.array([pair.score for pair in pairs])
    for values, what in ((scores, "scores of these pairs"), (cosines, "cosines of the model's vectors")):
        if np.ptp(values[covered]) == 0:
            message = f"the {what} are all the same, so that no order can be compared with another"
            raise DataError(message, where=path, fix="pairs that differ; or another model")
    found = float(np.asarray(spearmanr(scores[covered], cosines[covered]))[0])
    return Answered({"pairs": len(pairs), "covered": int(covered.sum()), "spearman": found}, scores, cosines)


def read_questions(path: Path) -> dict[str, list[list[str]]]:
    """The questions of each section: four words a line, a line with `: name` before each section."""
    sections: dict[str, list[list[str]]] = {}
    name = ""
    for number, line in _lines(path):
        fields = line.split()
        if fields[0].startswith(":"):
            name = line.removeprefix(":").strip()
        elif len(fields) == 4:
            sections.setdefault(name, []).append(fields)
        else:
            fix = "correct the line, or take it out; a line with `: name` begins a section"
            raise DataError(f"expected four words, found {shown(line, 60)}", where=f"{path}:{number}", fix=fix)
    if not sections:
        raise DataError("holds no questions", where=path, fix="four words a line; a line with `: name` begins a section")
    return sections


def questions(data: Sequence[Path]) -> dict[str, list[list[str]]]:
    """The questions of each section, of all files together."""
    sections: dict[str, list[list[str]]] = {}
    for path in _files(data):
        for name, own in read_questions(path).items():
            sections.setdefault(name, []).extend(own)
    return sections


def analogy(engine: Engine, data: Sequence[Path]) -> Answered:
    """The share of questions that are answered right, of those whose four words have vectors; by section as well.

    Answers are looked for among the whole words of the vocabulary and all words of the file. What is spelled by the same
    tokens is the same word, so that Athens is right where the model knows athens.
    """
    model, sections = engine.model, questions(data)
    names = sorted({word for asked in sections.values() for question in asked for word in question})
    asked = look_up(model, names)
    whole = [i for i, word in enumerate(model.tokenizer.pieces_as_words()) if word is not None]
    rows = table_rows(model.learner, np.array(whole, np.int64))
    number: dict[tuple[int, ...], int] = {(id,): i for i, id in enumerate(whole)}
    more = []
    for ids, vector in zip(asked.ids, asked.vectors, strict=True):
        if ids and ids not in number:
            number[ids] = len(number)
            more.append(vector)
    unit = _unit(np.concatenate([rows, np.stack(more)]) if more else rows)
    known = {name: number[ids] for name, ids in zip(names, asked.ids, strict=True) if ids}
    there = {name: np.array([all(word in known for word in q) for q in questions]) for name, questions in sections.items()}
    found = {name: _answered([[known[word] for word in questions[i]] for i in np.flatnonzero(there[name])], unit)
             for name, questions in sections.items()}  # fmt: skip
    given = np.full(sum(map(len, there.values())), np.nan)
    given[np.concatenate([*there.values()])] = np.concatenate([*found.values()])
    total, right = sum(len(answers) for answers in found.values()), sum(int(answers.sum()) for answers in found.values())
    if not total:
        fix = "words as the vocabulary writes them; is it in the language of the model?"
        raise DataError("the model has vectors for all four words of no question", where=data[0], fix=fix)
    figures = {
        "rows": len(given),
        "covered": total,
        "metrics": {"accuracy": right / total},
        "sections": {
            name: {
                "questions": len(sections[name]),
                "covered": len(answers),
                "accuracy": float(answers.mean()) if len(answers) else None,
            }
            for name, answers in found.items()
        },
    }
    return Answered(figures, np.zeros(len(given)), given)


def analogy_score(gold: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """(N,) whether questions were answered right, to the metric of `analogy`."""
    return {"accuracy": float(right.mean())}


def _answered(questions: list[list[int]], unit: np.ndarray) -> np.ndarray:
    """(n,) bool: whether the nearest row of `unit` is the fourth of each question."""
    right = np.zeros(len(questions), bool)
    for start in range(0, len(questions), _AT_ONCE):
        a, b, c, d = np.array(questions[start : start + _AT_ONCE]).T
        scores = _unit(unit[b] - unit[a] + unit[c]) @ unit.T
        for given in (a, b, c):
            scores[np.arange(len(scores)), given] = -np.inf
        right[start : start + len(d)] = scores.argmax(1) == d
    return right


def describe(result: dict[str, Any]) -> str:
    """A line for the whole, and one for each file or section."""
    [(metric, value)] = result["metrics"].items()
    asked = "pairs" if result["suite"] == "wordsim" else "questions"
    rows = [["", metric, asked, "of them covered"], ["all", f"{value:.4f}", f"{result['rows']:,}", f"{result['covered']:,}"]]
    for name, part in result["sections"].items():
        shown_value = "" if part[metric] is None else f"{part[metric]:.4f}"
        rows.append([name, shown_value, f"{part[asked]:,}", f"{part['covered']:,}"])
    return table(rows)


def _files(data: Sequence[Path]) -> Sequence[Path]:
    for path in data:
        if path.is_dir():
            raise UsageError("is a directory; a file of words is expected", where=path, fix="name the file in it")
    return data


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    last = path.suffix.lower().removeprefix(".")
    source = Source(path, "txt", last if last in get_args(Compression) else "")  # pyright: ignore[reportArgumentType]
    content = "".join(texts(source, "auto", blocks(source)))
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip() and not line.startswith("#"):
            yield number, line.strip()


def _number(field: str) -> float | None:
    try:
        value = float(field)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
