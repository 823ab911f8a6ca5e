"""Tiny learners and runs for the tests of training."""

import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter

from encoderkit import files, world
from encoderkit.config import validate
from encoderkit.console import counted
from encoderkit.data.blocks import Row
from encoderkit.errors import Interrupted
from encoderkit.learner import Vocabulary
from encoderkit.models.config import EncoderConfig
from encoderkit.objectives.causal import Causal
from encoderkit.objectives.config import CausalConfig, MaskedConfig, PermutedConfig, ReplacedConfig
from encoderkit.objectives.masked import Masked
from encoderkit.objectives.permuted import Permuted
from encoderkit.objectives.replaced import Replaced
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages.finetune import finetune
from encoderkit.stages.pretrain import pretrain
from encoderkit.tasks.classify import Classify, Example
from encoderkit.tasks.config import ClassifyConfig
from encoderkit.tasks.texts import Tokens
from encoderkit.training.config import ScheduleConfig
from encoderkit.training.loop import Plan

KINDS = (
    "bert",
    "roberta",
    "albert",
    "electra",
    "modernbert",
    "esmc",
    "gpt",
    "t5",
    "deberta",
    "xlnet",
    "rnn",
    "lstm",
    "gru",
    "cnn",
)
TRANSFORMERS = KINDS[:9]
LEFT_TO_RIGHT: list[tuple[str, dict[str, Any]]] = [
    *((kind, {"direction": "left_to_right"}) for kind in (*KINDS[:8], "cnn")),
    *((kind, {"directions": 1}) for kind in ("rnn", "lstm", "gru")),
]
"""What reads in one direction."""
BOTH_WAYS: dict[str, dict[str, Any]] = {"gpt": {"direction": "both"}}
"""How those that do not read both ways by themselves are made to."""
APART: list[tuple[str, dict[str, Any]]] = [(kind, {"stacks": "apart"}) for kind in ("rnn", "lstm", "gru")]
"""What reads in two that do not meet."""
VOCABULARY = Vocabulary(40, 0, 1, 2, 3, 4)
LENGTH = 16


def encoder(kind: str, **more: Any) -> Any:
    """A config of two layers, without dropout."""
    of_transformers = {"max_length": 64, "attention_dropout": 0.0} if kind in TRANSFORMERS else {}
    size = {"dim": 32, "layers": 2, **of_transformers, **({"heads": 2} if kind in (*TRANSFORMERS, "xlnet") else {})}
    if kind == "t5":
        size |= {"init": "normal"}  # T5's own, with embeddings from N(0, 1), learns slowly at the rates of these tests
    return TypeAdapter(EncoderConfig).validate_python({"kind": kind, **size, "dropout": 0.0, **more})


def masked(kind: str, **more: Any) -> Masked:
    """A masked learner with fresh weights, the same each time."""
    torch.manual_seed(1)
    return Masked(MaskedConfig(), encoder(kind, **more), VOCABULARY, LENGTH)


def causal(kind: str, length: int = LENGTH, **more: Any) -> Causal:
    """A causal learner with fresh weights, the same each time."""
    torch.manual_seed(1)
    return Causal(CausalConfig(), encoder(kind, **more), VOCABULARY, length)


def permuted(**settings: Any) -> Permuted:
    """A permuted learner with fresh weights, the same each time."""
    torch.manual_seed(1)
    return Permuted(PermutedConfig(**settings), encoder("xlnet"), VOCABULARY, LENGTH)


def replaced(kind: str = "bert", more: dict[str, Any] | None = None, **settings: Any) -> Replaced:
    """A learner of replaced tokens with fresh weights, the same each time; its generator is half as wide."""
    torch.manual_seed(1)
    config = ReplacedConfig.model_validate({"rate": 0.3, "generator": {"share": 0.5}} | settings)
    return Replaced(config, encoder(kind, **(more or {})), VOCABULARY, LENGTH)


def classify(kind: str, labels: int = 2, dropout: float = 0.0, model: dict[str, Any] | None = None, **settings: Any) -> Classify:
    """A classifier with fresh weights, the same each time; `model`: settings of its encoder."""
    torch.manual_seed(1)
    config = ClassifyConfig(dropout=dropout, pooling="mean", **settings)
    return Classify(config, encoder(kind, **(model or {})), VOCABULARY, LENGTH, [str(i) for i in range(labels)])


def sequences(count: int, seed: int = 0) -> list[np.ndarray]:
    """Random texts of several lengths between [CLS] and [SEP]."""
    rng = np.random.default_rng(seed)
    return [np.array([2, *rng.integers(5, 40, rng.integers(6, LENGTH - 2)), 3]) for _ in range(count)]


def rows(count: int) -> list[Row]:
    """Rows of one document each, of several lengths."""
    found = []
    for ids in sequences(count):
        special = (ids == 2) | (ids == 3)
        found.append(Row(ids, np.ones(len(ids), np.int64), np.arange(len(ids)), ~special, special))
    return found


def examples(count: int, labels: int = 2) -> list[Example]:
    """Texts with labels that nothing but memory can know."""
    drawn = np.random.default_rng(7).integers(0, labels, count)
    return [Example((Tokens(ids, None, 0),), int(label)) for ids, label in zip(sequences(count), drawn, strict=True)]


def plan(updates: int, batch: int, micro_batch: int | None = None, **more: Any) -> Plan:
    """A plan in fp32 on the CPU with a constant learning rate and no clipping."""
    settings = {
        "updates": updates,
        "examples": updates * batch,
        "batch": batch,
        "micro_batch": micro_batch or batch,
        "seed": 3,
        "precision": "fp32",
        "compile": False,
        "device": "cpu",
        "threads": 1,
        "schedule": ScheduleConfig(kind="constant", warmup=0),
        "clip": None,
    }
    return Plan(**(settings | more))


TRAINING = {"precision": "fp32", "compile": "off", "device": "cpu"}


def pretraining(tokenizer: Path, store: Path, **more: Any) -> PretrainRecipe:
    """Six updates of twelve rows over fewer than seventy-two, so that batches straddle epochs."""
    recipe = {
        "tokenizer": str(tokenizer),
        "data": {"train": str(store), "dev": 0.2, "length": 32},
        "model": {"kind": "bert", "dim": 32, "layers": 2, "heads": 2, "max_length": 64},
        "optimizer": {"kind": "adamw", "lr": 3e-3},
        "every": {"log": "4 updates", "evaluate": "2 updates", "save": "1 updates"},
    }
    training = {"updates": 6, "batch": 12, "micro_batch": 5, **TRAINING} | more.pop("training", {})
    return validate(PretrainRecipe, recipe | more | {"training": training}, "recipe")


def finetuning(tokenizer: Path, labelled: dict[str, Path], **more: Any) -> FinetuneRecipe:
    """Ninety of sixty rows, sixteen at a time: six updates, one of them over two epochs, the last of ten rows."""
    recipe = {
        **({} if "checkpoint" in more else {"tokenizer": str(tokenizer), "model": {"kind": "lstm", "dim": 32}}),
        "data": {"train": str(labelled["train"]), "dev": str(labelled["dev"]), "length": 24},
        "optimizer": {"kind": "adamw", "lr": 3e-3},
        "every": {"log": "4 updates", "evaluate": "2 updates", "save": "1 updates"},
    }
    training = {"batch": 16, "micro_batch": 6, **TRAINING} | more.pop("training", {"epochs": 1.5})
    return validate(FinetuneRecipe, recipe | more | {"training": training}, "recipe")


def go(recipe: PretrainRecipe | FinetuneRecipe, out: Path, resume: bool = False) -> dict[str, Any]:
    """Run a recipe."""
    if isinstance(recipe, PretrainRecipe):
        return pretrain(recipe, out, resume)
    return finetune(recipe, out, resume)


def go_until(recipe: PretrainRecipe | FinetuneRecipe, out: Path, update: int) -> None:
    """Run or continue a recipe until a SIGTERM comes, while update number `update` is saved."""

    def operate(operation: str, path: Path) -> None:
        if operation == "mkdir" and f"step-{update:07d}" in path.name:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_operate", operate)
        with pytest.raises(Interrupted, match=f"SIGTERM after update {update} of "):
            go(recipe, out, resume=True)


def go_until_evaluated(recipe: PretrainRecipe | FinetuneRecipe, out: Path, update: int, rank: int = 0) -> None:
    """Run or continue a recipe until a SIGTERM comes to process `rank`, in the middle of the evaluation after `update`."""

    def watched(title: str, batches: Iterable[list[int]], total: int) -> Iterator[list[int]]:
        last = (out / "last").read_text(encoding="utf-8") if (out / "last").exists() else "step-0"
        for number, batch in enumerate(counted(title, batches, total)):
            if number == 1 and world.rank() == rank and int(last[5:]) in (update - 1, update):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("encoderkit.training.evaluate.counted", watched)
        with pytest.raises(Interrupted, match=f"SIGTERM after update {update} of "):
            go(recipe, out, resume=True)


def weights(out: Path) -> bytes:
    """The last weights of a run."""
    return (out / (out / "last").read_text(encoding="utf-8").strip() / "model.safetensors").read_bytes()
