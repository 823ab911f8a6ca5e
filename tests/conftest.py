"""Small models that tests share: made once a session, through the stages themselves."""

import json
import os
import random
import signal
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch

from encoderkit import files
from encoderkit.config import validate
from encoderkit.data.config import CorpusConfig
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages import tokenize_corpus
from encoderkit.stages.finetune import finetune
from encoderkit.stages.pretrain import pretrain
from encoderkit.text.config import TokenizerConfig
from encoderkit.text.training import train

hypothesis.settings.register_profile("any machine", deadline=None)  # a loaded one must not fail
hypothesis.settings.load_profile("any machine")

GOOD = ("good", "fine", "lovely", "warm", "bright", "happy")
BAD = ("bad", "awful", "dull", "cold", "dark", "sad")
THINGS = ("film", "day", "house", "song", "story", "garden", "morning", "meal")
ENCODERS = {
    "bert": {"kind": "bert", "dim": 32, "layers": 2, "heads": 2, "max_length": 64},
    "lstm": {"kind": "lstm", "dim": 32},
}


def _sentence(rng: random.Random, words: tuple[str, ...]) -> str:
    parts = [f"the {rng.choice(THINGS)} was {rng.choice(words)}" for _ in range(rng.randint(1, 3))]
    return " and ".join(parts) + "."


def _rows(count: int, seed: int) -> list[dict[str, str]]:
    rng = random.Random(seed)
    kinds = [rng.choice(((GOOD, "positive"), (BAD, "negative"))) for _ in range(count)]
    return [{"text": _sentence(rng, words), "label": label} for words, label in kinds]


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A shell lets what it starts in the background ignore Ctrl-C, nohup the end of a terminal; children would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tiny products are slower on several threads, here and in the processes that tests start; `-n` uses the cores better."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 English lines, one document each."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("".join(row["text"] + "\n" for row in _rows(200, 0)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer_dir(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wordpiece tokenizer of at most 200 pieces."""
    out = tmp_path_factory.mktemp("tokenizer") / "tokenizer"
    trained = train(iter(corpus.read_text(encoding="utf-8").split("\n")), TokenizerConfig(vocab_size=200))
    with files.staged(out) as folder:
        for name, data in trained.files.items():
            files.write_new(folder / name, data)
    return out


@pytest.fixture(scope="session")
def store_dir(corpus: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`corpus` as a token store."""
    out = tmp_path_factory.mktemp("store") / "tokens"
    tokenize_corpus.run([corpus], tokenizer_dir, CorpusConfig(documents="line"), out, workers=1)
    return out


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`train` (60 rows) and `dev` (30) as .jsonl, with the columns text and label: positive or negative."""
    folder = tmp_path_factory.mktemp("labelled")
    paths = {"train": folder / "train.jsonl", "dev": folder / "dev.jsonl"}
    for name, rows in (("train", _rows(60, 1)), ("dev", _rows(30, 2))):
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


@pytest.fixture(scope="session")
def pretrained_dir(tokenizer_dir: Path, store_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a tiny bert, pretrained for a few updates."""
    recipe = {
        "tokenizer": str(tokenizer_dir),
        "data": {"train": str(store_dir), "dev": 0.1, "length": 32},
        "model": ENCODERS["bert"],
        "training": {"updates": 8, "batch": 16, "precision": "fp32", "compile": "off", "device": "cpu"},
    }
    out = tmp_path_factory.mktemp("pretrained") / "run"
    pretrain(validate(PretrainRecipe, recipe, "recipe"), out)
    return out


@pytest.fixture(scope="session", params=sorted(ENCODERS))
def classifier_dir(
    request: pytest.FixtureRequest, tokenizer_dir: Path, labelled: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run of a tiny classifier, from random weights: once with a bert, once with an lstm."""
    out = tmp_path_factory.mktemp("classifier") / request.param
    return _classifier(out, ENCODERS[request.param], {"pooling": "mean"}, tokenizer_dir, labelled)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`train` (40 rows) and `dev` (20) as .jsonl: texts `first` and `second`, and `labels`, which of them are good."""
    folder = tmp_path_factory.mktemp("pairs")
    paths = {"train": folder / "train.jsonl", "dev": folder / "dev.jsonl"}
    for name, count, seed in (("train", 40, 3), ("dev", 20, 4)):
        both = list(zip(_rows(count, seed), _rows(count, seed + 10), strict=True))
        lines = []
        for first, second in both:
            labels = [side for side, row in (("first", first), ("second", second)) if row["label"] == "positive"]
            lines.append(json.dumps({"first": first["text"], "second": second["text"], "labels": labels}) + "\n")
        paths[name].write_text("".join(lines), encoding="utf-8")
    return paths


@pytest.fixture(scope="session")
def pairs_dir(tokenizer_dir: Path, pairs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a tiny bert that reads pairs and gives each any number of labels."""
    task = {"text": ["first", "second"], "label": "labels", "multiple": True}
    return _classifier(tmp_path_factory.mktemp("pairs") / "run", ENCODERS["bert"], task, tokenizer_dir, pairs)


def _classifier(out: Path, model: dict[str, Any], task: dict[str, Any], tokenizer: Path, data: dict[str, Path]) -> Path:
    recipe = {
        "tokenizer": str(tokenizer),
        "model": model,
        "data": {"train": str(data["train"]), "dev": str(data["dev"]), "length": 24},
        "task": {"kind": "classify", **task},
        "optimizer": {"kind": "adamw", "lr": 5e-3},
        "training": {"updates": 16, "batch": 16, "precision": "fp32", "compile": "off", "device": "cpu"},
        "every": {"evaluate": "8 updates"},
    }
    finetune(validate(FinetuneRecipe, recipe, "recipe"), out)
    return out
