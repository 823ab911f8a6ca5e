"""A small corpus in several scripts and one tokenizer of each kind, trained once."""

import inspect
import json
import pathlib
import textwrap

import pytest

from encoderkit.text.tokenizers import Tokenizer
from encoderkit.text.training import Trained, train
from tests.text.text_samples import CHINESE, CONFIGS, MIXED


@pytest.fixture(scope="session")
def documents() -> list[str]:
    docs = [inspect.getdoc(o) or "" for m in (pathlib, json, textwrap, inspect) for o in vars(m).values() if callable(o)]
    return [d for d in docs if d] + CHINESE.split("\n") * 4 + MIXED * 2


@pytest.fixture(scope="session")
def trained(documents: list[str]) -> dict[str, Trained]:
    return {name: train(iter(documents), config) for name, config in CONFIGS.items()}


@pytest.fixture(scope="session")
def tokenizers(trained: dict[str, Trained]) -> dict[str, Tokenizer]:
    return {name: Tokenizer(one.files) for name, one in trained.items()}
