"""A checkpoint fine-tuned as transformers' own examples do (run_glue, run_ner, run_qa), with no tuning.

  python -m tests.benchmarks.peer_tasks sequence --model DIR --train F --test F --columns sentence,label --metric accuracy

Prints {"value", "seconds"}; needs the extra `test`. Labels are in the last column.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from scipy.stats import spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from tests.tasks import official

METRICS: dict[str, Any] = {
    "accuracy": accuracy_score,
    "macro_f1": lambda gold, found: f1_score(gold, found, average="macro"),
    "mcc": matthews_corrcoef,
    "spearman": lambda gold, found: spearmanr(gold, found)[0],
}
STRIDE, LONGEST, BEST = 1 / 3, 30, 20
"""Of run_qa: doc_stride (128 of 384), max_answer_length and n_best_size."""


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def trained(model: Any, train: Any, collator: Any, a: argparse.Namespace) -> tuple[Trainer, float]:
    """The trainer after the epochs, and how long they took."""
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), num_train_epochs=a.epochs, per_device_train_batch_size=a.batch,
        per_device_eval_batch_size=64, learning_rate=a.lr, save_strategy="no", report_to=[], disable_tqdm=True, seed=1,
        use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=train, data_collator=collator)
    started = time.perf_counter()
    trainer.train()
    return trainer, time.perf_counter() - started


def sequence(a: argparse.Namespace) -> tuple[float, float]:
    """run_glue: a label, or a number, for a text or a pair."""
    *texts, label = a.columns.split(",")
    tokenizer: Any = AutoTokenizer.from_pretrained(a.model)
    parts = {name: read(path) for name, path in (("train", a.train), ("test", a.test))}
    names = sorted({str(row[label]) for row in parts["train"]})
    model = AutoModelForSequenceClassification.from_pretrained(a.model, num_labels=1 if a.regress else len(names))

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        ids = dict(tokenizer(*(row[text] for text in texts), truncation=True, max_length=a.length))
        return {**ids, "labels": float(row[label]) if a.regress else names.index(str(row[label]))}

    made = {name: [encode(row) for row in rows] for name, rows in parts.items()}
    trainer, seconds = trained(model, made["train"], DataCollatorWithPadding(tokenizer), a)
    predicted: Any = trainer.predict(made["test"]).predictions  # pyright: ignore[reportArgumentType]
    found = predicted[:, 0] if a.regress else predicted.argmax(-1)
    return float(METRICS[a.metric]([row["labels"] for row in made["test"]], found)), seconds


def token(a: argparse.Namespace) -> tuple[float, float]:
    """run_ner: the tag of a word at its first piece."""
    import seqeval.metrics

    words, tags = a.columns.split(",")
    tokenizer: Any = AutoTokenizer.from_pretrained(a.model)
    parts = {name: read(path) for name, path in (("train", a.train), ("test", a.test))}
    names = sorted({tag for rows in parts.values() for row in rows for tag in row[tags]})
    model = AutoModelForTokenClassification.from_pretrained(a.model, num_labels=len(names))

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        made = tokenizer(row[words], is_split_into_words=True, truncation=True, max_length=a.length)
        places: list[int | None] = made.word_ids()
        first = [place is not None and place not in places[:i] for i, place in enumerate(places)]
        labels = [names.index(row[tags][p]) if f and p is not None else -100 for p, f in zip(places, first, strict=True)]
        return {**dict(made), "labels": labels}

    made = {name: [encode(row) for row in rows] for name, rows in parts.items()}
    trainer, seconds = trained(model, made["train"], DataCollatorForTokenClassification(tokenizer), a)
    predicted: Any = trainer.predict(made["test"]).predictions.argmax(-1)  # pyright: ignore
    found = []
    for row, example, guess in zip(parts["test"], made["test"], predicted, strict=True):
        kept = [names[g] for g, gold in zip(guess, example["labels"], strict=False) if gold != -100]
        found.append(bioes(kept + ["O"] * (len(row[tags]) - len(kept))))  # what was cut off has no tags
    return float(np.asarray(seqeval.metrics.f1_score([bioes(row[tags]) for row in parts["test"]], found))), seconds


def bioes(tags: list[str]) -> list[str]:
    """BMES as seqeval knows it."""
    return [tag.replace("M-", "I-", 1) if tag.startswith("M-") else tag for tag in tags]


def span(a: argparse.Namespace) -> tuple[float, float]:
    """run_qa: the best span over windows with a stride, measured by SQuAD's script."""
    question, context, answers = a.columns.split(",")
    tokenizer: Any = AutoTokenizer.from_pretrained(a.model)
    model = AutoModelForQuestionAnswering.from_pretrained(a.model)

    def windows(rows: list[dict[str, Any]]) -> Any:
        texts = ([row[name] for row in rows] for name in (question, context))
        told = {"return_overflowing_tokens": True, "return_offsets_mapping": True}
        return tokenizer(*texts, truncation="only_second", max_length=a.length, stride=round(STRIDE * a.length), **told)

    def examples(made: Any) -> list[dict[str, Any]]:
        names = [name for name in tokenizer.model_input_names if name in made]
        return [{name: made[name][i] for name in names} for i in range(len(made["input_ids"]))]

    train, test = read(a.train), read(a.test)
    made = windows(train)
    goals = [_place(made, i, train[row][answers][0], tokenizer) for i, row in enumerate(made["overflow_to_sample_mapping"])]
    taught = [{**one, "start_positions": s, "end_positions": e} for one, (s, e) in zip(examples(made), goals, strict=True)]
    trainer, seconds = trained(model, taught, DataCollatorWithPadding(tokenizer), a)
    made = windows(test)
    scores: Any = trainer.predict(examples(made)).predictions  # pyright: ignore[reportArgumentType]
    best = [(-np.inf, "")] * len(test)
    for i, row in enumerate(made["overflow_to_sample_mapping"]):
        best[row] = max(best[row], _best(made, i, scores[0][i], scores[1][i], test[row][context]), key=lambda one: one[0])
    found = [official.squad1([right["text"] for right in row[answers]], text) for row, (_, text) in zip(test, best, strict=True)]
    return 100 * float(np.mean([one[("exact_match", "f1").index(a.metric)] for one in found])), seconds


def _place(made: Any, i: int, answer: dict[str, Any], tokenizer: Any) -> tuple[int, int]:
    """The tokens of window `i` in which the answer begins and ends; twice that of [CLS] where it is not in it."""
    offsets, inside = made["offset_mapping"][i], [t for t, side in enumerate(made.sequence_ids(i)) if side == 1]
    start, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
    if not inside or offsets[inside[0]][0] > start or offsets[inside[-1]][1] < end:
        return (made["input_ids"][i].index(tokenizer.cls_token_id),) * 2
    return max(t for t in inside if offsets[t][0] <= start), min(t for t in inside if offsets[t][1] >= end)


def _best(made: Any, i: int, starts: np.ndarray, ends: np.ndarray, context: str) -> tuple[float, str]:
    """The score and the text of the best span of window `i`."""
    sides, offsets, best = made.sequence_ids(i), made["offset_mapping"][i], (-np.inf, "")
    first, last = (np.argsort(-one[: len(sides)], kind="stable")[:BEST].tolist() for one in (starts, ends))
    for s in first:
        for e in last:
            score = float(starts[s] + ends[e])
            if sides[s] == sides[e] == 1 and s <= e < s + LONGEST and score > best[0]:
                best = score, context[offsets[s][0] : offsets[e][1]]
    return best


WORKS = {"sequence": (sequence, 3, 32, 2e-5), "token": (token, 3, 32, 2e-5), "span": (span, 2, 12, 3e-5)}
"""What is learnt, and the examples' epochs, batch and learning rate."""


def main() -> None:
    """Do one piece of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORKS)
    for name in ("model", "train", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--columns", required=True)
    parser.add_argument("--metric", required=True)
    parser.add_argument("--regress", action="store_true")
    parser.add_argument("--lr", type=float)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--length", type=int, default=128)
    a = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(1)
    work, epochs, batch, lr = WORKS[a.work]
    a.epochs, a.batch, a.lr = a.epochs or epochs, a.batch or batch, lr if a.lr is None else a.lr
    value, seconds = work(a)
    print(json.dumps({"value": value, "seconds": seconds, "lr": a.lr}))


if __name__ == "__main__":
    main()
