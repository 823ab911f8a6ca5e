"""`encoderkit evaluate --suite`: tests of what a model knows that need no training, each on files of a form of its own.

A suite is a file, a line of `SUITES` and a name in `cli/use.py`.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from encoderkit.errors import UsageError
from encoderkit.inference import Precision, open_model, start
from encoderkit.metrics import Answered, paired_differences
from encoderkit.stages import minimal_pairs, word_suites
from encoderkit.stages.against import describe_against


class Suite(NamedTuple):
    """A kind of test."""

    ask: Callable[..., Answered]
    """An engine, the files and the suite's own settings to what was found."""
    score: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    """What is right, and what was answered, to the metrics of the figures."""
    describe: Callable[[dict[str, Any]], str]
    """The figures for a person."""
    read: Callable[[Sequence[Path]], object]
    """What the files hold; raises what `ask` would of them."""


SUITES = {
    "minimal_pairs": Suite(minimal_pairs.evaluate, minimal_pairs.score, minimal_pairs.describe, minimal_pairs.read_pairs),
    "wordsim": Suite(word_suites.wordsim, word_suites.wordsim_score, word_suites.describe, word_suites.scored_pairs),
    "analogy": Suite(word_suites.analogy, word_suites.analogy_score, word_suites.describe, word_suites.questions),
}


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
    one = SUITES[suite].ask(engine, data, **settings)
    found = about | one.figures
    if against is not None:
        other = SUITES[suite].ask(start(open_model(against), precision, batch), data, **settings)
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
    found = paired_differences(SUITES[suite].score, one.gold[both], one.given[both], other.given[both])
    return {"rows": int(both.sum()), "differences": {name: difference._asdict() for name, difference in found.items()}}


def describe(result: dict[str, Any]) -> str:
    """The result for a person."""
    told = SUITES[result["suite"]].describe(result)
    return f"{told}\n\n{describe_against(result['against'])}" if "against" in result else told
