"""`encoderkit evaluate --suite`: tests of what a model knows that need no training, each on files of a form of its own.

A suite is a file, and a line in each of the two dicts here and in `cli/use.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from encoderkit.inference import Engine, Precision, open_model, start
from encoderkit.stages import minimal_pairs, word_suites

SUITES: dict[str, Callable[..., dict[str, Any]]] = {
    "minimal_pairs": minimal_pairs.evaluate,
    "wordsim": word_suites.wordsim,
    "analogy": word_suites.analogy,
}
"""An engine, the files and the suite's own settings to the figures."""
TOLD: dict[str, Callable[[dict[str, Any]], str]] = {
    "minimal_pairs": minimal_pairs.describe,
    "wordsim": word_suites.describe,
    "analogy": word_suites.describe,
}
"""The figures for a person."""


def evaluate(
    suite: str, step: Path, data: list[Path], precision: Precision = "auto", batch: int | None = None, **settings: Any
) -> dict[str, Any]:
    """The model in `step` by `suite` on the files `data`; the JSON of the command."""
    engine: Engine = start(open_model(step), precision, batch)
    about = {"suite": suite, "model": str(step), "data": [str(path) for path in data], "precision": engine.precision}
    return about | SUITES[suite](engine, data, **settings)


def describe(result: dict[str, Any]) -> str:
    """The result for a person."""
    return TOLD[result["suite"]](result)
