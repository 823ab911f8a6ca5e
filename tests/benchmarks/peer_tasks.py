"""A checkpoint fine-tuned as transformers' own examples do (run_glue, run_ner): three epochs, batches of 32, no tuning.

  python -m tests.benchmarks.peer_tasks sequence --model DIR --train F --test F --columns sentence,label --metric accuracy

Prints {"value", "seconds"}; needs transformers, accelerate, and seqeval for entities. Labels are in the last column.
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
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

METRICS: dict[str, Any] = {
    "accuracy": accuracy_score,
    "macro_f1": lambda gold, found: f1_score(gold, found, average="macro"),
    "mcc": matthews_corrcoef,
    "spearman": lambda gold, found: spearmanr(gold, found)[0],
}


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file."""
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def trained(model: Any, train: Any, collator: Any, a: argparse.Namespace) -> tuple[Trainer, float]:
    """The trainer after three epochs, and how long they took."""
    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), num_train_epochs=a.epochs, per_device_train_batch_size=32, per_device_eval_batch_size=64,
        learning_rate=a.lr, use_cpu=not torch.cuda.is_available(), save_strategy="no", report_to=[], disable_tqdm=True, seed=1,
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


def main() -> None:
    """Do one piece of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=("sequence", "token"))
    for name in ("model", "train", "test"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--columns", required=True)
    parser.add_argument("--metric", required=True)
    parser.add_argument("--regress", action="store_true")
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--length", type=int, default=128)
    a = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.manual_seed(1)
    value, seconds = {"sequence": sequence, "token": token}[a.work](a)
    print(json.dumps({"value": value, "seconds": seconds}))


if __name__ == "__main__":
    main()
