"""The union types, the dispatch dicts, the recipes and the README name the same kinds."""

from pathlib import Path
from typing import Any, get_args

import pytest

from encoderkit.models.build import ENCODERS
from encoderkit.models.config import EncoderConfig
from encoderkit.objectives.build import OBJECTIVES
from encoderkit.objectives.config import ObjectiveConfig
from encoderkit.stages.init import recipes_folder
from encoderkit.stages.show import complete
from encoderkit.tasks.build import TASKS
from encoderkit.tasks.config import TaskConfig
from encoderkit.text.config import TokenizerKind
from encoderkit.training.config import OptimizerConfig

README = Path(__file__).parent.parent / "README.md"


def members(union: Any) -> set[type]:
    """The classes of an annotated union, or the class itself where there is one."""
    if isinstance(union, type):
        return {union}
    return set(get_args(get_args(union)[0])) or {get_args(union)[0]}


@pytest.mark.parametrize(
    ("union", "table"),
    [(EncoderConfig, ENCODERS), (ObjectiveConfig, OBJECTIVES), (TaskConfig, TASKS)],
    ids=["encoder", "objective", "task"],
)
def test_union_and_dispatch_agree(union: Any, table: dict[type, type]) -> None:
    assert members(union) == set(table)


def kinds() -> set[str]:
    found = {
        config.model_fields["kind"].default
        for union in (EncoderConfig, ObjectiveConfig, TaskConfig, OptimizerConfig)
        for config in members(union)
    }
    return found | set(get_args(TokenizerKind))


def used() -> set[str]:
    found = set()
    for path in recipes_folder().rglob("*.yaml"):
        _, recipe = complete(path, [])
        parts = [recipe, *(getattr(recipe, name) for name in type(recipe).model_fields)]
        found |= {part.kind for part in parts if hasattr(part, "kind")}
    return found


def test_every_kind_has_a_recipe() -> None:
    assert kinds() - used() == set()


def test_every_kind_is_named_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [kind for kind in sorted(kinds()) if f"`{kind}`" not in text] == []
