"""The union types, the dispatch dicts, the recipes and the README name the same kinds."""

from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

import encoderkit.learner
import encoderkit.tasks.task
from encoderkit.models.build import ENCODERS
from encoderkit.models.config import EncoderConfig, StaticConfig
from encoderkit.objectives.build import OBJECTIVES
from encoderkit.objectives.config import ObjectiveConfig, misfit
from encoderkit.stages.init import recipes_folder
from encoderkit.stages.show import complete
from encoderkit.tasks.build import TASKS
from encoderkit.tasks.config import TaskConfig
from encoderkit.text.config import TokenizerKind
from encoderkit.training.config import OptimizerConfig
from tests.training.runs import KINDS, classify, encoder, masked

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


BOTH = {"bert", "albert", "electra", "roberta", "modernbert", "esmc", "t5", "deberta", "rnn", "lstm", "gru", "cnn"}
LEGAL: dict[str, tuple[dict[str, Any], set[str]]] = {
    "masked": ({}, BOTH | {"gpt", "xlnet"}),
    "masked next": ({"pairs": "next"}, {"bert", "albert", "electra", "rnn", "lstm", "gru", "cnn"}),
    "causal": ({}, {"gpt"}),
    "spans": ({}, BOTH | {"xlnet"}),
    "permuted": ({}, {"xlnet"}),
    "replaced": ({}, BOTH),
    "skipgram": ({}, {"static"}),
    "cbow": ({}, {"static"}),
    "glove": ({}, {"static"}),
}
"""Which encoders each objective can train as they are; from left to right, or with dropout, more of them."""


def test_each_pair_of_encoder_and_objective_is_legal_or_refused_with_a_reason() -> None:
    """A new encoder or objective has to be placed here, and so in the tests that train every pair (`runs.KINDS`)."""
    encoders = {config.model_fields["kind"].default for config in members(EncoderConfig)}
    assert encoders == {*KINDS, "static"}
    objectives = {config.model_fields["kind"].default for config in members(ObjectiveConfig)}
    assert objectives == {name.split()[0] for name in LEGAL} | {"contrastive"}
    for name, (settings, legal) in LEGAL.items():
        objective = TypeAdapter(ObjectiveConfig).validate_python({"kind": name.split()[0], **settings})
        for kind in encoders:
            model = encoder(kind) if kind != "static" else StaticConfig()
            reason = misfit(objective, model)
            assert (reason is None) == (kind in legal), (name, kind, reason)
            assert reason is None or len(reason) > 40  # what does not fit, and what would
    contrastive = TypeAdapter(ObjectiveConfig).validate_python({"kind": "contrastive"})
    for kind in KINDS:
        assert misfit(contrastive, encoder(kind, dropout=0.1)) is None or kind == "gpt", kind


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


def test_what_a_learner_can_do_is_asked_without_its_modules() -> None:
    """From Python 3.12 on `isinstance` of a protocol does not find what stands in `_modules`, parameters and buffers."""
    asked = {
        found
        for module in (encoderkit.learner, encoderkit.tasks.task)
        for found in vars(module).values()
        if isinstance(found, type) and vars(found).get("_is_runtime_protocol")
    }
    assert encoderkit.learner.Coupled in asked
    hidden = {name for learner in (masked("bert"), classify("bert")) for name, _ in learner.named_children()}
    assert {"encoder", "head"} <= hidden
    for protocol in asked:
        named = {name for base in protocol.__mro__ for name in (*vars(base), *getattr(base, "__annotations__", {}))}
        assert not named & hidden, protocol


def test_every_kind_has_a_recipe() -> None:
    assert kinds() - used() == set()


def test_every_kind_is_named_in_the_readme() -> None:
    text = README.read_text(encoding="utf-8")
    assert [kind for kind in sorted(kinds()) if f"`{kind}`" not in text] == []
