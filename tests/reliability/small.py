"""Small runs through the real command line, and what it means that two of them ended the same."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Literal, NamedTuple

import yaml

from encoderkit import files
from encoderkit.data.config import CorpusConfig
from encoderkit.stages import tokenize_corpus
from encoderkit.text.config import TokenizerConfig
from encoderkit.text.training import train

WORDS = {"hot": ("sun", "fire", "summer", "desert", "oven"), "cold": ("snow", "ice", "winter", "north", "frost")}
UPDATES = 3
STAGES = ("pretrain", "finetune")


class Ended(NamedTuple):
    """How a command ended; `code` is negative where a signal ended it."""

    code: int
    out: str
    err: str


def sentences() -> list[tuple[str, str]]:
    """Forty sentences, each with its label."""
    rng, found = random.Random(5), []
    for _ in range(40):
        label = rng.choice(sorted(WORDS))
        words = [rng.choice((*WORDS[label], "the", "a", "of", "and", "very")) for _ in range(rng.randint(3, 12))]
        found.append((" ".join(words), label))
    return found


def tokenizer(folder: Path, kind: Literal["word", "char"]) -> None:
    """A tokenizer of the sentences."""
    trained = train((words for words, _ in sentences()), TokenizerConfig(kind=kind, vocab_size=64))
    with files.staged(folder) as staging:
        for name, data in trained.files.items():
            files.write_new(staging / name, data)


def recipes() -> dict[str, dict[str, Any]]:
    """A recipe for each stage, with dropout, of three updates, saved after each; the last batch is a short one."""
    training = {"batch": 8, "micro_batch": 4, "precision": "fp32", "compile": "off", "device": "cpu"}
    every = {"log": "2 updates", "evaluate": "2 updates", "save": "1 updates"}
    model = {"kind": "bert", "dim": 16, "layers": 1, "heads": 2, "max_length": 32}
    pretraining = {
        "tokenizer": "tokenizer",
        "data": {"train": "tokens", "dev": "20%", "length": 16},
        "model": model,
        "optimizer": {"kind": "muon", "lr": 0.02, "adamw_lr": 3e-3},
        "training": {"updates": UPDATES, **training},
        "every": every,
    }
    finetuning = {
        "tokenizer": "tokenizer",
        "model": model,
        "data": {"train": "train.jsonl", "dev": "dev.jsonl", "length": 16},
        "optimizer": {"kind": "adamw", "lr": 1e-3},
        "training": {"epochs": 20 / 12, **training},
        "every": every,
    }
    return {"pretrain": pretraining, "finetune": finetuning}


def build(folder: Path) -> Path:
    """`folder` with a tokenizer, a token store, labelled files and a recipe for each stage."""
    texts = sentences()
    corpus = folder / "corpus.txt"
    corpus.write_text("".join(f"{words}\n" for words, _ in texts), encoding="utf-8")
    tokenizer(folder / "tokenizer", "word")
    tokenize_corpus.run([corpus], folder / "tokenizer", CorpusConfig(documents="line"), folder / "tokens", workers=1)
    for name, rows in (("train", texts[:12]), ("dev", texts[12:24])):
        lines = (json.dumps({"text": words, "label": label}) + "\n" for words, label in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    for stage, recipe in recipes().items():
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder


class Server:
    """Commands run in `folder` by `server.py`; any of them may be told to go wrong."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._lock, self._logs = folder, Lock(), 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.reliability.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            cwd=Path(__file__).parents[2],
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def _ask(self, order: dict[str, Any]) -> int | None:
        assert self._process.stdin is not None and self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())

    def start(self, *arguments: str, **fault: Any) -> tuple[int, Path]:
        """Begin a command; what `wait` wants."""
        with self._lock:
            self._logs += 1
            log = self.folder / f"log-{self._logs}"
        for end in ("out", "err"):  # here, for one that is killed before it can
            Path(f"{log}.{end}").touch()
        job = {"arguments": arguments, "folder": str(self.folder), "log": str(log), "fault": fault}
        pid = self._ask({"start": job})
        assert pid is not None
        return pid, log

    def wait(self, started: tuple[int, Path]) -> Ended:
        """The end of a command."""
        pid, log = started
        while (code := self._ask({"wait": pid})) is None:
            time.sleep(0.005)
        out, err = (Path(f"{log}.{end}").read_text(encoding="utf-8") for end in ("out", "err"))
        return Ended(code, out, err)

    def run(self, *arguments: str, **fault: Any) -> Ended:
        """A command from its beginning to its end."""
        return self.wait(self.start(*arguments, **fault))

    def train(self, stage: str, out: str, *more: str, **fault: Any) -> Ended:
        """A stage on its recipe, continuing what `out` holds."""
        return self.run(stage, f"{stage}.yaml", "--out", out, "--resume", *more, **fault)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """A server for the block."""
    server = Server(folder)
    try:
        yield server
    finally:
        server.close()


def steps(run: Path) -> list[Path]:
    """The checkpoints of a run, oldest first."""
    return sorted(run.glob("step-*"))


def result(run: Path) -> dict[str, Any]:
    """All that a run has come to, without what the clock decides."""
    final = run / (run / "last").read_text(encoding="utf-8").strip()
    files.verify(final)
    found: dict[str, Any] = {
        str(path.relative_to(final)): path.read_bytes()
        for path in sorted(final.rglob("*"))
        if path.is_file() and path.name not in ("MANIFEST.json", "state.json")
    }
    state = json.loads((final / "resume" / "state.json").read_bytes())
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    for entry in [state, *log]:
        entry.pop("seconds", None)
        entry.pop("tokens_per_second", None)
    pointers = {name: (run / name).read_text(encoding="utf-8") for name in ("best", "last")}
    kept = [path.name for path in steps(run)]
    return found | {"state": state, "log": log, "pointers": pointers, "kept": kept}


def assert_same(run: Path, reference: dict[str, Any]) -> None:
    """`run` ended bitwise as the reference did."""
    found = result(run)
    different = [name for name in reference.keys() | found.keys() if found.get(name) != reference.get(name)]
    assert not different, f"{run}: {different} differ"


def assert_whole(run: Path) -> None:
    """Nothing that looks like a checkpoint is less than one."""
    for step in steps(run):
        files.verify(step)


def fresh(path: Path) -> Path:
    """`path`, with nothing there."""
    shutil.rmtree(path, ignore_errors=True)
    return path
