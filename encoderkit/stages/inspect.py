"""`encoderkit inspect`: what training reads, row by row: what is hidden where, and how a text becomes tokens."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.text import Text

from encoderkit.console import number, table
from encoderkit.data.order import rng
from encoderkit.errors import UsageError
from encoderkit.learner import Mark, Picture, Pictured
from encoderkit.recipe import PretrainRecipe
from encoderkit.stages.pretrain import prepare
from encoderkit.stages.session import Material
from encoderkit.text.config import SegmentConfig
from encoderkit.text.segment import Segmenter, read_segmentation
from encoderkit.text.tokenizers import Tokenizer, open_tokenizer

STYLES = {"mask": "bold white on red", "random": "bold black on yellow", "keep": "bold black on green", "special": "dim"}
"""How the roles of tokens look on a terminal; those of other objectives are underlined."""
UNKNOWN = "bold magenta"
AT_ONCE = 64


def masking(recipe: PretrainRecipe, count: int, looked: int) -> dict[str, Any]:
    """`count` rows as the first epoch of training reads them, and statistics over `looked` of them, evenly spaced.

    The rows are made by the objective's own `collate`, from the random numbers that training has. Raises `UsageError` for
    an objective that does not show itself.
    """
    material = prepare(recipe)
    learner, tokenizer = material.learner, material.tokenizer
    if not isinstance(learner, Pictured):
        raise UsageError(f"the objective {recipe.objective.kind} does not show its rows", fix="inspect tokens shows the tokens")
    total = len(material.train)
    numbers = np.linspace(0, total - 1, min(max(count, looked), total)).astype(np.int64).tolist()
    pictures = list(_pictures(material, recipe.seed, numbers))
    step = max(1, len(numbers) // max(count, 1))
    shown = range(0, len(numbers), step)[:count]
    return {
        "objective": recipe.objective.kind,
        "rows": [{"row": numbers[i], "tokens": _described(pictures[i], tokenizer)} for i in shown],
        "statistics": statistics(pictures, tokenizer.unk),
    }


def _pictures(material: Material, seed: int, numbers: Sequence[int]) -> Iterator[Picture]:
    learner: Any = material.learner
    for start in range(0, len(numbers), AT_ONCE):
        part = numbers[start : start + AT_ONCE]
        examples = [material.train[i] for i in part]
        batch = learner.collate(examples, [rng(seed, 0, i) for i in part], 0.0)
        yield from learner.picture(examples, [rng(seed, 0, i) for i in part], batch)


def _described(picture: Picture, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    def piece(id: int | None) -> str | None:
        return None if id is None else _piece(tokenizer, id)

    return [
        {"piece": piece(mark.id), "id": mark.id, "role": mark.role, "target": piece(mark.target), "word_start": mark.start}
        | {"shown": _spelled(tokenizer, mark), "unknown": tokenizer.unk in (mark.id, mark.target)}
        for mark in picture
    ]


def _piece(tokenizer: Tokenizer, id: int) -> str:
    """A piece; an id after the vocabulary (a sentinel) as its number."""
    return tokenizer.token(id) if id < tokenizer.vocab_size else f"<{id}>"


def _readable(tokenizer: Tokenizer, id: int) -> str:
    """A piece as a person reads it: without the marks of its tokenizer, bytes as characters where they are whole ones."""
    piece = _piece(tokenizer, id)
    if id < tokenizer.vocab_size and id not in tokenizer.special and tokenizer.kind == "bpe":
        text = tokenizer.decode([id]).strip()
        piece = text if text and "\ufffd" not in text else piece
    text = piece.removeprefix("##").replace("▁", "") or piece
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _spelled(tokenizer: Tokenizer, mark: Mark) -> str:
    """A token in its row: [hidden], {read→hidden}, (left as it is)."""
    if mark.target is None or mark.role not in ("mask", "random", "keep"):
        return _readable(tokenizer, mark.id)
    target = _readable(tokenizer, mark.target)
    if mark.role == "mask":
        return f"[{target}]"
    return f"({target})" if mark.role == "keep" else f"{{{_readable(tokenizer, mark.id)}→{target}}}"


def statistics(pictures: Sequence[Picture], unk: int) -> dict[str, Any]:
    """How much is to be predicted, and how it lies: over tokens that are not special."""
    roles: Counter[str] = Counter()
    runs: Counter[int] = Counter()
    tokens = targets = words = touched = broken = without = unknown = 0
    for picture in pictures:
        wanted = [mark.target is not None and mark.role != "special" for mark in picture]
        without += not any(wanted)
        for word in _words(picture):
            hits = sum(mark.target is not None for mark in word)
            words, touched, broken = words + 1, touched + (hits > 0), broken + (0 < hits < len(word))
        ordinary = [mark for mark in picture if mark.role != "special"]
        tokens, targets = tokens + len(ordinary), targets + sum(wanted)
        unknown += sum((mark.id if mark.target is None else mark.target) == unk for mark in ordinary)
        roles.update(mark.role for mark, asked in zip(picture, wanted, strict=True) if asked)
        runs.update(_runs(wanted))
    return {
        "rows": len(pictures),
        "tokens": tokens,
        "rate": targets / max(tokens, 1),
        "shares": {role: count / targets for role, count in sorted(roles.items())},
        "tokens_per_word": tokens / max(words, 1),
        "words_touched": touched,
        "words_broken": broken,
        "run_length": {
            "mean": targets / max(runs.total(), 1),
            "longest": max(runs, default=0),
            "shares": {str(size): runs[size] / runs.total() for size in sorted(runs)[:10]},
        },
        "rows_without_targets": without,
        "unknown": unknown / max(tokens, 1),
    }


def _words(marks: Sequence[Mark]) -> Iterator[list[Mark]]:
    """The words of a row, by their marks; a document that begins in the middle of a word begins one."""
    word: list[Mark] = []
    for mark in marks:
        if (mark.start or mark.role == "special") and word:
            yield word
            word = []
        if mark.role != "special":
            word.append(mark)
    if word:
        yield word


def _runs(wanted: Sequence[bool]) -> Iterator[int]:
    """The lengths of the runs of True."""
    edges = np.flatnonzero(np.diff(np.array([False, *wanted, False]).astype(np.int8)))
    yield from (edges[1::2] - edges[::2]).tolist()


def rendered(value: dict[str, Any]) -> Text:
    """Rows and statistics as a person reads them: styled for a terminal, and complete without the styles."""
    text = Text()
    roles = [("[hidden]", "mask"), ("{read→exchanged}", "random"), ("(left)", "keep"), ("[UNK]", "unknown")]
    for name, role in roles:
        text.append(name, STYLES.get(role, UNKNOWN)).append("  ")
    text.append("to be predicted: the first three; a space parts words, a dot the tokens of a word\n")
    for row in value["rows"]:
        text.append(f"\nrow {row['row']}\n", "bold")
        for i, token in enumerate(row["tokens"]):
            between = " " if token["word_start"] or "special" in (token["role"], row["tokens"][i - 1]["role"]) else "·"
            text.append(between if i else "", "dim")
            text.append(token["shown"], _style(token))
        text.append("\n")
    found = value["statistics"]
    touched, runs = max(found["words_touched"], 1), found["run_length"]
    rows = [
        ("tokens", f"{found['tokens']:,} in {found['rows']:,} rows, {number(found['tokens_per_word'])} a word"),
        ("to predict", f"{found['rate']:.2%}: " + ", ".join(f"{role} {share:.1%}" for role, share in found["shares"].items())),
        ("runs", f"{number(runs['mean'])} tokens on average, {runs['longest']} the longest"),
        ("broken words", f"{found['words_broken']:,} of {found['words_touched']:,} ({found['words_broken'] / touched:.2%})"),
        ("rows without", f"{found['rows_without_targets']:,}"),
        ("unknown", f"{found['unknown']:.3%}"),
    ]
    return text.append("\n" + "".join(f"{name:14}{what}\n" for name, what in rows))


def _style(token: dict[str, Any]) -> str:
    own = STYLES.get(token["role"], "underline") if token["role"] else ""
    return f"{own} {UNKNOWN}".strip() if token["unknown"] and token["role"] in ("", "keep") else own


def tokens(tokenizer: Path, texts: Sequence[str], segment: SegmentConfig | None) -> dict[str, Any]:
    """Each text as its tokens: piece, id, the characters of the text that it stands for, whether a word begins there."""
    opened = open_tokenizer(tokenizer)
    segmenter = None if segment is None else Segmenter(read_segmentation(segment))
    found = []
    for text in texts:
        spans, encoded = opened.spans([text]), opened.encode([text], segmenter)
        parts = zip(spans.ids.tolist(), spans.characters.tolist(), encoded.starts.tolist(), strict=True)
        entries = [
            {"piece": opened.token(id), "id": id, "start": start, "end": end, "text": text[start:end], "word_start": begins}
            for id, (start, end), begins in parts
        ]
        found.append({"text": text, "tokens": entries, "unknown": encoded.unknown, "straddling": encoded.straddling})
    return {"texts": found}


def described(value: dict[str, Any]) -> str:
    """`tokens` as a person reads it."""
    parts = []
    for entry in value["texts"]:
        rows = [
            [token["piece"], "word" if token["word_start"] else "", str(token["id"]), f"{token['start']}-{token['end']}"]
            for token in entry["tokens"]
        ]
        count = len(entry["tokens"])
        rows = [["piece", "begins", "id", "characters"], *rows]
        parts.append(f"{table(rows)}\n{count} tokens, {entry['unknown']} unknown, {entry['straddling']} straddling words\n")
    return "\n".join(parts)
