"""`encoderkit evaluate --suite`: tests of what a model knows that need no training, each on files of a form of its own.

A suite is a file, and a line in each of the three dicts here and in `cli/use.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from encoderkit.errors import UsageError
from encoderkit.inference import Precision, open_model, start
from encoderkit.metrics import Answered, paired_differences
from encoderkit.stages import minimal_pairs, word_suites
from encoderkit.stages.against import describe_against

SUITES: dict[str, Callable[..., Answered]] = {
    "minimal_pairs": minimal_pairs.evaluate,
    "wordsim": word_suites.wordsim,
    "analogy": word_suites.analogy,
}
"""An engine, the files and the suite's own settings to what was found."""
SCORES: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, float]]] = {
    "minimal_pairs": minimal_pairs.score,
    "wordsim": word_suites.wordsim_score,
    "analogy": word_suites.analogy_score,
}
"""What is right, and what was answered, to the metrics of the figures."""
TOLD: dict[str, Callable[[dict[str, Any]], str]] = {
    "minimal_pairs": minimal_pairs.describe,
    "wordsim": word_suites.describe,
    "analogy": word_suites.describe,
}
"""The figures for a person."""


def evaluate(
    suite: str,
    step: Path,
    data: list[Path],
    precision: Precision = "auto",
    batch: int | None = None,
    against: Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The model in `step` by `suite` on the files `data`; the JSON of the command. `against`: a model, see `differences`."""
    engine = start(open_model(step), precision, batch)
    about = {"suite": suite, "model": str(step), "data": [str(path) for path in data], "precision": engine.precision}
    one = SUITES[suite](engine, data, **settings)
    found = about | one.figures
    if against is not None:
        other = SUITES[suite](start(open_model(against), precision, batch), data, **settings)
        found["against"] = {"model": str(against), **differences(suite, one, other)}
    return found


def differences(suite: str, one: Answered, other: Answered) -> dict[str, Any]:
    """Each metric of the first model less that of the second, with 95 % intervals and p, on what both have answers to."""
    if len(one.given) != len(other.given) or not np.array_equal(one.gold, other.gold):
        fix = "evaluate both on files that stay as they are"
        raise UsageError("the two models were not asked the same: the files have changed between", fix=fix)
    both = np.isfinite(one.given) & np.isfinite(other.given)
    if not both.any():
        raise UsageError("the two models have answers to none of the same questions", fix="files whose words both know")
    found = paired_differences(SCORES[suite], one.gold[both], one.given[both], other.given[both])
    return {"rows": int(both.sum()), "differences": {name: difference._asdict() for name, difference in found.items()}}


def describe(result: dict[str, Any]) -> str:
    """The result for a person."""
    told = TOLD[result["suite"]](result)
    return f"{told}\n\n{describe_against(result['against'])}" if "against" in result else told
