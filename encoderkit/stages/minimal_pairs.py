"""Minimal pairs: whether a model finds the right sentence likelier than the wrong one (BLiMP, Warstadt et al. 2020; SLING).

Models of next tokens, and of permuted ones, say exactly how likely a sentence is. For masked ones it is the sum of the
log-probabilities of its tokens, each hidden in turn (Salazar et al. 2020, "Masked Language Model Scoring", section 2.1), and
with `within_word` the rest of its word behind it too, which would give a rare word away (Kauf and Ivanova 2023, "A Better Way
to Do Masked Language Model Scoring"). Models of spans are asked likewise: a sentinel stands for what is hidden, and the
decoder says what comes after it. A discriminator is shown the sentence as it is, once, and says of each token how likely it
is the original one. None divides by the length, and none counts [CLS] and [SEP].
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from encoderkit.console import progress, table, warn
from encoderkit.data.blocks import Row
from encoderkit.data.records import MissingColumn, check_text, named_by, read_records
from encoderkit.data.streams import blocks, find_sources
from encoderkit.errors import DataError, UsageError
from encoderkit.inference import TOKENS, Engine
from encoderkit.learner import Likelihood, Masking, Scorer
from encoderkit.metrics import Answered, bootstrap_shares
from encoderkit.objectives.causal import Causal
from encoderkit.objectives.spans import Spans

COLUMNS = {
    "good": ("sentence_good", "good"),
    "bad": ("sentence_bad", "bad"),
    "paradigm": ("UID", "paradigm"),
    "phenomenon": ("linguistics_term", "phenomenon"),
}
"""What the columns are called in BLiMP's own files, and elsewhere."""
BY: dict[Likelihood, str] = {
    "exact": "log-likelihood",
    "pseudo": "pseudo-log-likelihood",
    "discriminator": "a discriminator's log-probability that each token is the original one",
}
"""What is compared, for a person."""
_ROWS = 'rows such as {"good": "...", "bad": "..."}, or with the names of BLiMP: sentence_good, sentence_bad'
_WINDOW = 256  # pairs in memory at once, with all that is asked of each


class Pair(NamedTuple):
    """Two sentences that differ in what is right about one of them."""

    good: str
    bad: str
    paradigm: str
    """The name of the file, where it has no column for it."""
    phenomenon: str | None


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files, and all .jsonl files in folders."""
    return [file for path in paths for file in (sorted(path.glob("*.jsonl*")) if path.is_dir() else [path])]


def read_pairs(paths: Sequence[Path]) -> list[Pair]:
    """The pairs of `files_of`; raises `DataError` for a row that is none."""
    found = files_of(paths)
    if not found:
        raise DataError("this folder holds no .jsonl file", where=paths[0], fix="name the files, or a folder of .jsonl")
    pairs = [pair for path in found for pair in _pairs(path)]
    if not pairs:
        raise DataError("holds no pair", where=paths[0], fix=_ROWS)
    return pairs


def _pairs(path: Path) -> Iterator[Pair]:
    [source] = find_sources([path])
    if source.format == "txt":
        raise UsageError("a line of text holds no pair; .jsonl, .csv, .tsv and .parquet do", where=path, fix=_ROWS)
    names = [name for known in COLUMNS.values() for name in known]
    for line, values in read_records(source, [], "auto", blocks(source), names):
        place = f"{source.name}:{line}"
        there = {role: next((name for name in known if name in values), None) for role, known in COLUMNS.items()}
        texts = {role: values[name] for role, name in there.items() if name is not None}
        for role in ("good", "bad"):
            if role not in texts:
                with named_by({COLUMNS[role][0]: _ROWS}):
                    raise MissingColumn(COLUMNS[role][0], list(values), place)
        for role, value in texts.items():
            check_text(value, there[role] or role, place)
        stem = path.name.split(".")[0]
        yield Pair(texts["good"], texts["bad"], texts.get("paradigm", stem), texts.get("phenomenon"))


def evaluate(engine: Engine, data: Sequence[Path], masking: Masking | None = None) -> Answered:
    """The share of pairs whose good sentence is strictly likelier, in all and by paradigm and phenomenon, with intervals.

    `macro_accuracy` is the mean over the paradigms, as BLiMP reports it. `masking`: see `learner.Scorer`.
    """
    learner = engine.model.learner
    if not isinstance(learner, Scorer):
        message = "gives sentences no likelihood, as models that learnt to fill in or to go on with text do"
        raise UsageError(
            message, where=engine.model.path, fix="a model that was pretrained by masked, replaced, causal, permuted or spans"
        )
    pairs = read_pairs(data)
    rows, cut = _rows(engine, [text for pair in pairs for text in (pair.good, pair.bad)])
    scores, most = [], engine.batch
    with progress("scoring", len(pairs), "pairs") as bar, engine.arithmetic():
        for start in range(0, len(rows), 2 * _WINDOW):
            window = rows[start : start + 2 * _WINDOW]
            tokens = TOKENS[engine.device] if most is None else most * max(len(row.ids) for row in window)
            scores.append(learner.log_likelihoods(window, masking, tokens))
            bar.advance(len(window) // 2)
    likely = np.concatenate(scores).reshape(-1, 2)
    same = np.array([np.array_equal(good.ids, bad.ids) for good, bad in zip(rows[::2], rows[1::2], strict=True)])
    if cut:
        warn(f"{cut:,} sentences are longer than the {engine.model.config['length']} tokens that the model reads and were cut")
    if same.any():
        warn(f"{same.sum():,} pairs are the same tokens, so that no model could tell them apart; they count as wrong")
    special = sum(int(row.special.sum()) for row in rows)
    size, unknown = (
        sum(len(row.ids) for row in rows) - special,
        sum(int((row.ids == learner.vocabulary.unknown).sum()) for row in rows),
    )
    right = likely[:, 0] > likely[:, 1]
    figures = {
        "rows": len(pairs),
        "likelihood": learner.likelihood,
        "masking": masking or "token" if learner.maskings else None,
        **_figures(pairs, right),
        "ties": int((likely[:, 0] == likely[:, 1]).sum()),
        "same_tokens": int(same.sum()),
        "truncated": {"rows": cut, "length": engine.model.config["length"]},
        "unknown": {"tokens": unknown, "share": unknown / max(size, 1)},
    }
    return Answered(figures, np.unique([pair.paradigm for pair in pairs], return_inverse=True)[1], right.astype(np.float64))


def score(paradigms: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """(N,) numbers of paradigms and (N,) whether their pairs were told apart, to the metrics of `evaluate`."""
    count = np.bincount(paradigms)
    shares = np.bincount(paradigms, right)[count > 0] / count[count > 0]
    return {"accuracy": float(right.mean()), "macro_accuracy": float(shares.mean())}


def _rows(engine: Engine, texts: Sequence[str]) -> tuple[list[Row], int]:
    """Each text as the tokenizer lays it out, and how many were cut."""
    tokenizer, (before, after) = engine.model.tokenizer, engine.model.tokenizer.template.around
    learner = engine.model.learner
    # However the tokenizer lays texts out, these have learnt them from [CLS] to [SEP]; but T5's, which has no [CLS].
    if isinstance(learner, Causal) or (isinstance(learner, Spans) and tokenizer.cls != tokenizer.sep):
        before, after = [tokenizer.cls], [tokenizer.sep]
    room = engine.model.config["length"] - len(before) - len(after)
    encoded, rows, cut = tokenizer.encode(texts), [], 0
    for first, end in zip(encoded.offsets[:-1], encoded.offsets[1:], strict=True):
        cut += end - first > room
        own = slice(first, min(end, first + room))
        ids = np.array([*before, *encoded.ids[own].tolist(), *after])
        special = np.ones(len(ids), bool)
        special[len(before) : len(ids) - len(after)] = False
        starts = np.zeros(len(ids), bool)
        starts[~special] = encoded.starts[own]
        rows.append(Row(ids, np.ones(len(ids), np.int64), np.arange(len(ids)), starts, special))
    return rows, int(cut)


def _figures(pairs: Sequence[Pair], right: np.ndarray) -> dict[str, Any]:
    found: dict[str, Any] = {"metrics": {"accuracy": float(right.mean())}, "intervals": {}}
    for name, groups in (("paradigms", [pair.paradigm for pair in pairs]), ("phenomena", [pair.phenomenon for pair in pairs])):
        kinds = sorted({group for group in groups if group is not None})
        masks = {kind: np.array([group == kind for group in groups]) for kind in kinds}
        shares = bootstrap_shares(np.array([[right[mask].sum(), mask.sum()] for mask in masks.values()]).reshape(-1, 2))
        found[name] = {
            kind: {"pairs": int(mask.sum()), "accuracy": float(right[mask].mean()), "interval": interval}
            for (kind, mask), interval in zip(masks.items(), shares.each, strict=True)
        }
        if name == "paradigms":
            found["metrics"]["macro_accuracy"] = float(np.mean([entry["accuracy"] for entry in found[name].values()]))
            found["intervals"] = {"accuracy": shares.all, "macro_accuracy": shares.mean}
    return found


def describe(result: dict[str, Any]) -> str:
    """A table for each kind of group."""
    parts = [[["", "accuracy", "95 % interval"]]]
    for name, value in result["metrics"].items():
        low, high = result["intervals"][name]
        parts[0].append([name, f"{value:.4f}", f"{low:.4f} - {high:.4f}"])
    for name in ("phenomena", "paradigms"):
        rows = [[name, "accuracy", "95 % interval", "pairs"]]
        for kind, entry in result[name].items():
            low, high = entry["interval"]
            rows.append([kind, f"{entry['accuracy']:.4f}", f"{low:.4f} - {high:.4f}", f"{entry['pairs']:,}"])
        parts.extend([rows] if len(rows) > 1 else [])
    head = f"{result['rows']:,} pairs by {BY[result['likelihood']]}, {result['unknown']['share']:.2%} of the tokens unknown"
    return "\n\n".join([head, *map(table, parts)])
