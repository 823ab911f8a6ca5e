"""What `tune` searches: keys of a recipe, each with values or a range, typed and checked by the recipe's schema. No torch.

`optimizer.lr=1e-5..1e-3:log`, `task.dropout=0..0.3`, `training.epochs=2,3,5`, `model.layers=1..6`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

from encoderkit.config import override, parse_yaml, validate
from encoderkit.errors import UsageError, shown
from encoderkit.recipe import FinetuneRecipe
from encoderkit.training.config import MuonConfig

Params = dict[str, Any]
"""The value of each key that is searched."""

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})(:log)?")


_JUDGES = ("data.dev", "data.test", "training.metric", "task.normalise", "task.wording", "seeds", "folds", "fold")


class Axis(NamedTuple):
    """One key: a list of values, or a range of numbers."""

    key: str
    values: Sequence[Any] | None
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def options(self) -> Sequence[Any] | None:
        """All that it can be; None where that is without end."""
        return self.values if self.values is not None else range(int(self.low), int(self.high) + 1) if self.whole else None

    def holds(self, value: Any) -> bool:
        """Whether `value` is one of its own."""
        if self.values is not None:
            return value in self.values
        return isinstance(value, int if self.whole else int | float) and self.low <= value <= self.high


def settings(params: Mapping[str, Any]) -> list[str]:
    """`params` as what `--set` takes."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in params.items()]


def read_space(searches: Sequence[str], recipe: dict[str, Any]) -> list[Axis]:
    """The keys to search in `recipe`; raises `UsageError` for a key, a value or an end that the recipe cannot have."""
    axes = [_axis(text, recipe) for text in searches]
    names = [axis.key for axis in axes]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{twice} is searched twice", where="--search", fix="give its values once")
    return axes


def _axis(text: str, recipe: dict[str, Any]) -> Axis:
    key, equals, what = text.partition("=")
    if not equals or not what.strip():
        fix = "--search optimizer.lr=1e-5..1e-3:log, or --search training.epochs=2,3,5"
        raise UsageError(f"expected key=values, found {shown(text)}", where="--search", fix=fix)
    # Of what, and by what, the rows of dev are chosen.
    drawn = key in ("seed", "data.train") and not isinstance(recipe.get("data", {}).get("dev"), str | dict)
    if key in _JUDGES or drawn:
        raise UsageError(f"{key} is what trials are judged by, and is the same for all of them", where="--search", fix="--set")
    match = _RANGE.fullmatch(what.strip())
    if match is None:
        values = parse_yaml(f"[{what}]", f"--search {key}")[0]
        for value in values:
            _check(key, value, recipe)
        if len({json.dumps(value) for value in values}) < max(2, len(values)):
            fix = f"--search {key}=LOW..HIGH, or {key}=A,B"
            raise UsageError(f"needs two values or more that differ, found {shown(what)}", where=f"--search {key}", fix=fix)
        return Axis(key, values)
    low, high = (float(end) if re.search("[.eE]", end) else int(end) for end in match.groups()[:2])
    if not low < high or (match[3] and low <= 0):
        message = f"a range rises{', and with :log from above 0' if match[3] else ''}: {what}"
        raise UsageError(message, where=f"--search {key}", fix="the lower end first, as in 1e-4..1e-2")
    for end in (low, high):
        _check(key, end, recipe)
    return Axis(key, None, low, high, bool(match[3]), isinstance(low, int) and isinstance(high, int) and _whole(key, low, recipe))


def _whole(key: str, low: int, recipe: dict[str, Any]) -> bool:
    """Whether the schema takes whole numbers alone for `key`."""
    try:
        _check(key, low + 0.5, recipe)
    except UsageError:
        return True
    return False


def _check(key: str, value: Any, recipe: dict[str, Any]) -> None:
    validate(FinetuneRecipe, override(recipe, settings({key: value})), f"--search {key}")


def usual(recipe: FinetuneRecipe) -> list[str]:
    """The space where none is given: rates around the recipe's own, its length, and what keeps a small set from being learnt
    by heart. On small sets the rate and the number of epochs matter most (Mosbach et al. 2021)."""
    optimizer, epochs, least = recipe.optimizer, recipe.training.epochs, recipe.training.least
    rates = {"lr": optimizer.lr} | ({"adamw_lr": optimizer.adamw_lr} if isinstance(optimizer, MuonConfig) else {})
    found = [f"optimizer.{name}={rate / 5:.2g}..{rate * 5:.2g}:log" for name, rate in rates.items()]
    if epochs is not None:
        found.append(f"training.epochs={epochs:g},{2 * epochs:g},{3 * epochs:g}")
    if least is not None:  # which is what counts on a small set
        found.append(f"training.least={','.join(map(str, sorted({max(1, least // 2), least, 2 * least})))}")
    if "dropout" in type(recipe.task).model_fields:
        found.append(f"task.dropout={'0.05' if getattr(recipe.task, 'rdrop', None) else '0'}..0.3")
    if recipe.checkpoint is not None:
        found.append("optimizer.layer_decay=0.75..1")
    elif recipe.model is not None and "dropout" in type(recipe.model).model_fields:
        found.append("model.dropout=0..0.5")
    return found


def own(recipe: FinetuneRecipe, axes: Sequence[Axis]) -> Params:
    """What the recipe itself has for each key."""
    values = recipe.model_dump(mode="json")

    def at(key: str) -> Any:
        node: Any = values
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        return node

    return {axis.key: at(axis.key) for axis in axes}


def untried(axes: Sequence[Axis], tried: Sequence[Params], most: int = 10_000) -> list[Params] | None:
    """The combinations that are left; None where they are without end, or more than `most`."""
    options = [axis.options() for axis in axes]
    size = 1
    for values in options:
        size *= most + 1 if values is None else len(values)
    if size > most:
        return None
    names = [axis.key for axis in axes]
    return [
        p
        for values in product(*(o for o in options if o is not None))
        if (p := dict(zip(names, values, strict=True))) not in tried
    ]
