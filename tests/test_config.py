"""YAML without its surprises, overrides typed by the schema, and errors that say where and what instead."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoderkit.config import MAX_BYTES, Config, describe, dump, json_schema, load, override, parse_yaml, validate
from encoderkit.errors import UsageError
from encoderkit.models.config import ModernBertConfig
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages.show import recipe_kind

GOOD = """\
seed: 1
tokenizer: runs/tok
data: {train: runs/tokens, dev: 1%}
model: {kind: bert, dim: 64, layers: 2, heads: 2}
training: {updates: 10}
optimizer: {kind: adamw, lr: 1e-3}
"""


def recipe(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def error(tmp_path: Path, text: str, settings: list[str] | None = None) -> str:
    """The message that the recipe `text` ends in, with the path cut."""
    with pytest.raises(UsageError) as caught:
        load(PretrainRecipe, recipe(tmp_path, text), settings)
    return str(caught.value).replace(str(tmp_path) + "/", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1E3", 1e3),
        (".5", 0.5),
        ("5.", 5.0),
        ("-2.5e+3", -2500.0),
        ("017", "017"),
        ("0", 0),
        ("12:30", "12:30"),
        ("1_000", 1000),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("0x10", "0x10"),
        ("2024-01-02", "2024-01-02"),
        ("5%", "5%"),
        ("'1'", "1"),
        ("[yes, no]", ["yes", "no"]),
        ("{a: 1e3}", {"a": 1e3}),
        ("1.2.3", "1.2.3"),
        ("=", "="),
        ("<<", "<<"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    found, _ = parse_yaml(f"a: {text}", "t")
    assert found == {"a": value} and type(found["a"]) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", 't:3: not valid YAML: key "a" stands twice'),
        ("a: &x 1\nb: *x\n", "t:2: not valid YAML: aliases (*name) are not allowed"),
        ("a: 1\nb: !!bool maybe\n", "t:2: not valid YAML: tags (tag:yaml.org,2002:bool) are not allowed"),
        ("a: [1\nb: 2\n", "t:2: not valid YAML:"),
        ("a: !!python/object:os.system x\n", "t:1: not valid YAML:"),
        ("a: 1\n---\nb: 2\n", "t:"),
        ("[" * 500 + "]" * 500, "t"),
        ("a: \x00", "t: not valid YAML"),
        ('a: !!int ""', "t:1: not valid YAML"),
        ("\t- a", "t:1: not valid YAML: a tab"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "t")
    assert str(caught.value).startswith(message) and "\n" not in caught.value.message
    told = {"stands twice": "leave one of them out", "a tab": "indent by two spaces"}
    assert caught.value.fix == next((fix for words, fix in told.items() if words in caught.value.message), None)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb：c\nd: {e: f}\n", 2),
        ("a：1\nb: 2\n", 1),
        ("a: 1\nlength:3\n\n# c\n", 2),
        ("a:\u00a01\nb: 2\n", 1),
        ("a:\n  b：1\n  c: 2\n", 2),
    ],
)
def test_a_colon_that_is_none_is_told_where_it_stands(text: str, line: int) -> None:
    with pytest.raises(UsageError) as caught:
        parse_yaml(text, "t")
    assert str(caught.value).startswith(f"t:{line}: not valid YAML: a colon") and "`key: value`" in str(caught.value)


def test_what_looks_like_a_key_in_a_value_is_none() -> None:
    assert parse_yaml("a: http://b:8\nc: 12:30\nd: 中：文\n", "t")[0] == {"a": "http://b:8", "c": "12:30", "d": "中：文"}


def test_a_part_without_a_kind_has_the_usual_one(tmp_path: Path) -> None:
    short = load(PretrainRecipe, recipe(tmp_path, GOOD.replace("{kind: adamw, lr: 1e-3}", "{lr: 1e-3}")))
    assert short == load(PretrainRecipe, recipe(tmp_path, GOOD))
    base = FinetuneRecipe.model_validate({"checkpoint": "a", "data": {"train": "b"}})
    changed = FinetuneRecipe.model_validate(
        {"checkpoint": "a", "data": {"train": "b"}, "training": {"epochs": 3}, "schedule": {}}
    )
    assert changed == base  # what is not said is the same whether the part is there or not
    assert (base.training.batch, base.schedule.warmup) == (32, "6%")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"checkpoint": "a", "data": {"train": "b.jsonl"}, "training": {"epochs": 1}}, "finetune"),
        ({"checkpoint": "a", "data": {"train": "b", "test": "c"}}, "finetune"),
        ({"checkpoint": "a", "data": {"train": "b"}, "tasks": {}}, "finetune"),
        ({"checkpoint": "a", "data": {"train": "runs/tokens"}, "training": {"epochs": 1}}, "pretrain"),
        ({"checkpoint": "a", "data": {"train": "runs/wiki.v2"}, "training": {"epochs": 1}}, "pretrain"),
        ({"checkpoint": "a", "data": {"train": "b.csv.gz"}, "training": {"epochs": 1}}, "finetune"),
    ],
)
def test_which_recipe_it_is_where_both_know_its_keys(data: dict[str, Any], kind: str) -> None:
    assert recipe_kind(data, Path("r.yaml")) == kind


@given(st.text(max_size=200))
def test_any_text_parses_or_is_refused_by_name(text: str) -> None:
    try:
        parse_yaml(text, "t")
    except UsageError as caught:
        assert str(caught).startswith("t")


GOLDEN = [
    (
        GOOD.replace("data: {train", "data: {trian"),
        'recipe.yaml:3: unknown key "trian" in data (and 1 more)\n  fix: did you mean train? legal here: train, dev, length',
    ),
    (
        GOOD.replace("layers: 2", "layer: 2"),
        'recipe.yaml:4: unknown key "layer" in model\n  fix: did you mean layers? legal here: dim, layers, heads,',
    ),
    (
        GOOD.replace("kind: bert", "kind: bart"),
        'recipe.yaml:4: model.kind is "bart"\n  fix: did you mean bert? legal here: albert, bert, cnn, ',
    ),
    (
        GOOD.replace("layers: 2", "embeddings: x.vec"),
        'recipe.yaml:4: unknown key "embeddings" in model\n  fix: embeddings stands beside model, not in it: embeddings: ...',
    ),
    (
        GOOD.replace("{updates: 10}", "{updates: 10, lr: 1}"),
        'recipe.yaml:5: unknown key "lr" in training\n  fix: it belongs to optimizer: optimizer.lr',
    ),
    ("rate: 0.15\n" + GOOD, 'recipe.yaml:1: unknown key "rate"\n  fix: it belongs to objective: objective.rate'),
    (GOOD.replace("kind: bert, ", ""), "recipe.yaml:4: model has no kind\n  fix: legal here: albert, bert, cnn, "),
    (
        GOOD.replace("{kind: adamw, lr: 1e-3}", "{kind: adam, lr: 1}"),
        'recipe.yaml:6: optimizer.kind is "adam"\n  fix: did you mean adamw? legal here: adagrad, adamw, muon, sgd',
    ),
    (GOOD.replace("tokenizer: runs/tok\n", ""), "recipe.yaml: model and tokenizer go together"),
    (
        GOOD.replace("dim: 64", "dim: wide"),
        'recipe.yaml:4: model.dim: input should be a valid integer, unable to parse string as an integer, found "wide"',
    ),
    (GOOD.replace("heads: 2", "heads: 3"), "recipe.yaml:4: model: heads (3) must divide dim (64)"),
    (
        GOOD.replace("{updates: 10}", "{updates: 10, epochs: 2}"),
        "recipe.yaml:5: training: give one of budget, updates, epochs, tokens; found updates and epochs",
    ),
    (GOOD.replace("{updates: 10}", "{epochs: .inf}"), "recipe.yaml:5: training.epochs: input should be a finite number"),
    (
        GOOD.replace("{updates: 10}", "{updates: 10, micro_batch: half}"),
        "recipe.yaml:5: training.micro_batch: input should be a valid integer, unable to parse string as an integer, or "
        "input should be 'auto', found \"half\"",
    ),
    (GOOD.replace("lr: 1e-3}", "lr: 1e-3, betas: [0.9, 2]}"), "recipe.yaml:6: optimizer.betas.1: input should be less than 1"),
    (GOOD.replace("dev: 1%", "length: 2"), "recipe.yaml:3: data.length: input should be greater than or equal to 3"),
    (GOOD.replace("{updates: 10}", "{}"), "recipe.yaml:5: training: give one of budget, updates, epochs, tokens; found none"),
    (
        GOOD.replace("{updates: 10}", "{budget: 5 parsecs}"),
        "recipe.yaml:5: training.budget: should be a duration such as 90s, 30m or 6h",
    ),
    (
        GOOD.replace("dev: 1%", "length: 600"),
        "recipe.yaml: data.length (600) is more than the model's positions (model.max_length: 512)",
    ),
    (
        GOOD + "schedule: {kind: cosine, decay: 10%}\n",
        "recipe.yaml:7: schedule: decay is the last part of kind: wsd; a cosine schedule has none",
    ),
    (GOOD + "objective: {kind: masked, span_mean: 5}\n", "recipe.yaml:7: objective: span_mean is for unit: span"),
    (
        GOOD.replace("heads: 2", "heads: 2, window: 16"),
        "recipe.yaml: model.window is of local layers, and with global_every: 1 all are global",
    ),
    (
        GOOD.replace("heads: 2", "heads: 2, global_every: 3"),
        "recipe.yaml: model.global_every is of layers with a window, and model.window is null",
    ),
    (
        GOOD.replace("heads: 2", "heads: 2, init: fan_in") + "objective: {kind: spans}\n",
        "recipe.yaml: model.init: fan_in draws embeddings from N(0, 1), too large for an output that is a product with them; "
        "say model.init: normal, or objective.decoder.head: own",
    ),
    (
        GOOD.replace("kind: bert", "kind: gpt").replace("heads: 2", "heads: 2, init: fan_in") + "objective: {kind: causal}\n",
        "recipe.yaml: model.init: fan_in draws embeddings from N(0, 1), too large for an output that is a product with them; "
        "say model.init: normal, or objective.head: own",
    ),
    (
        GOOD.replace("heads: 2", "heads: 2, rotary_base: 500"),
        "recipe.yaml: model.rotary_base (500) is of position: rotary, and with position: learned it says nothing",
    ),
    (
        GOOD.replace("kind: bert, dim: 64, layers: 2, heads: 2", "kind: static")
        .replace("dev: 1%", "dev: null")
        .replace("updates: 10", "updates: 10, freeze: embeddings")
        .replace("kind: adamw", "kind: adagrad")
        + "embeddings: a.vec\nobjective: {kind: glove}\n",
        "recipe.yaml: objective glove moves all of its tables, and training.freeze says otherwise",
    ),
    ("- a\n", "recipe.yaml: a recipe is a mapping of keys to values, found list"),
    ("", "recipe.yaml: a recipe is a mapping of keys to values, found nothing"),
    ("#" * (MAX_BYTES + 1), "recipe.yaml: a recipe has at most"),
]


@pytest.mark.parametrize(("text", "message"), GOLDEN, ids=range(len(GOLDEN)))
def test_golden_errors(tmp_path: Path, text: str, message: str) -> None:
    found = error(tmp_path, text)
    assert found.startswith(message) and found.count("\n") <= 1, found


def test_errors_of_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        load(PretrainRecipe, tmp_path / "none.yaml")
    (tmp_path / "binary").write_bytes(b"\xff\xff\xff\xff\x80")
    with pytest.raises(UsageError, match="this is not text"):
        load(PretrainRecipe, tmp_path / "binary")
    for name, text in (("corpus.txt", "a text"), ("rows.csv", "text,label\n a: [b\n"), ("语料.txt", "a" * (MAX_BYTES + 1))):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match=f"\n  fix: name a recipe, .*; for train-tokenizer and tokenize, --data .*{name}"):
            load(PretrainRecipe, tmp_path / name)
    (tmp_path / "gb.yaml").write_bytes((GOOD + "# 中文注释\n").encode("gb18030"))
    assert load(PretrainRecipe, tmp_path / "gb.yaml").seed == 1
    (tmp_path / "wide.yaml").write_bytes((GOOD + "# 中文注释\n").encode("utf-16"))
    assert load(PretrainRecipe, tmp_path / "wide.yaml").seed == 1


def test_overrides_are_typed(tmp_path: Path) -> None:
    settings = ["optimizer.lr=3e-4", "data.dev=5%", "model.groups=1", "training.updates=2k", "every.save=1 epoch"]
    changed = load(PretrainRecipe, recipe(tmp_path, GOOD), settings)
    assert (changed.optimizer.lr, changed.data.dev, changed.training.updates) == (3e-4, 0.05, 2000)
    assert (changed.model.model_dump()["groups"], changed.every.save, changed.data.train) == (1, "1 epoch", "runs/tokens")
    assert load(PretrainRecipe, recipe(tmp_path, GOOD), ["data.dev=null"]).data.dev is None


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.udpates=3", '--set training.udpates: unknown key "udpates" in training'),
        ("training.batch=abc", "--set training.batch: training.batch: input should be a valid integer"),
        ("data={train: a, dve: 1%}", '--set data: unknown key "dve" in data'),
        ("updates", '--set: expected key=value, found "updates"'),
        ("a..b=1", "--set: expected key=value"),
        ("seed=[1", "--set seed:1: not valid YAML"),
        ("model.dim=-1", "model.dim: input should be greater than 0"),
        ("training.batch=99999999999", "training.batch: input should be less than or equal to 1048576"),
        ("data.dev=-1%", "data.dev: should be a share such as 5% or 0.05, or a path, found"),
        ("data.dev=150%", "data.dev: should be a share between 0 and 1, or a percentage, or a path, found"),
        ("model.window=16", "recipe.yaml --set model.window: model.window is of local layers"),
        ("training.budget=5m", "recipe.yaml:5 --set training.budget: training: give one of budget, updates"),
    ],
)
def test_overrides_that_are_refused(tmp_path: Path, setting: str, message: str) -> None:
    assert message in error(tmp_path, GOOD, [setting])


def test_what_the_file_itself_has_wrong_is_no_fault_of_the_overrides(tmp_path: Path) -> None:
    for old, new in (("heads: 2", "heads: 2, max_length: 64"), ("updates: 10", "updates: 10, tokens: 1M")):
        wrong = GOOD.replace(old, new)
        told = error(tmp_path, wrong, ["seed=5"])
        assert wrong != GOOD and told == error(tmp_path, wrong, []) and "--set seed" not in told


def test_another_kind_and_what_the_file_has_for_the_first(tmp_path: Path) -> None:
    text = "checkpoint: a\ndata: {train: b}\noptimizer: {kind: muon, lr: 1e-3, adamw_lr: 1e-4, momentum: 0.9}\n"
    path, gone = recipe(tmp_path, text), ["optimizer.adamw_lr=null", "optimizer.momentum=null"]
    with pytest.raises(UsageError, match=r"--set optimizer\.adamw_lr=null --set optimizer\.momentum=null takes out"):
        load(FinetuneRecipe, path, ["optimizer.kind=adamw", gone[0]])
    changed = load(FinetuneRecipe, path, ["optimizer.kind=adamw", *gone])
    assert changed.optimizer.model_dump() | {"kind": "adamw", "lr": 1e-3} == changed.optimizer.model_dump()
    with pytest.raises(UsageError, match='unknown key "eta" in optimizer'):
        load(FinetuneRecipe, path, ["optimizer.kind=adamw", *gone, "optimizer.eta=null"])
    with pytest.raises(UsageError, match=r"optimizer\.adamw_lr is missing\n  fix: --set optimizer\.adamw_lr=VALUE"):
        load(FinetuneRecipe, path, ["optimizer={kind: muon, lr: 1}"])


@pytest.mark.parametrize(
    ("model", "task", "message"),
    [
        ({"kind": "static", "dim": 8}, {"kind": "classify"}, "task.pooling cls is a vector that is the same for all texts"),
        ({"kind": "static", "dim": 8}, {"kind": "regress", "pooling": "last"}, "the same for all texts"),
        ({"kind": "lstm", "dim": 8, "directions": 1}, {"kind": "classify"}, "as this lstm reads from left to right"),
        ({"kind": "bert", "dim": 64, "heads": 2}, {"kind": "generate", "decoder": {"heads": 3}}, "task.decoder: heads (3) must"),
        ({"kind": "bert", "dim": 64, "heads": 2}, {"kind": "generate", "length_penalty": 0.6}, "length_penalty compares beams"),
    ],
)
def test_encoders_and_tasks_that_do_not_fit(model: dict[str, Any], task: dict[str, Any], message: str) -> None:
    recipe = {"tokenizer": "t", "model": model, "data": {"train": "b"}, "task": task}
    with pytest.raises(UsageError, match=re.escape(message)):
        validate(FinetuneRecipe, recipe, "t")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.metric=f1", "training.metric here is loss or accuracy or macro_f1 or mcc, found f1"),
        ("task.label=[]", "task: label names at least one column"),
        ("task.label=text", "task: text and label name columns that differ, found text twice"),
        ("task.class_weights={a: -1}", 'task.class_weights.a: input should be greater than 0, found "-1"'),
        ("data.length=4", "data.length (4) has no room for a token of each of 2 texts"),
        ("data.dev=null", "training.patience counts evaluations, and without data.dev there are none"),
    ],
)
def test_tasks_that_are_refused(setting: str, message: str) -> None:
    data = {
        "checkpoint": "a",
        "data": {"train": "b"},
        "task": {"kind": "classify", "text": ["text", "other"]},
        "training": {"epochs": 1, "patience": 1},
    }
    with pytest.raises(UsageError) as caught:
        validate(FinetuneRecipe, override(data, [setting]), "t")
    assert message in str(caught.value)


def test_override_leaves_the_original_alone() -> None:
    data = {"a": {"b": 1}}
    assert override(data, ["a.c=2", "d.e=3"]) == {"a": {"b": 1, "c": 2}, "d": {"e": 3}} and data == {"a": {"b": 1}}


names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=12)


@given(
    tokenizer=names,
    train=names,
    clip=st.none() | st.floats(1e-6, 1e6),
    lr=st.floats(1e-8, 1.0),
    window=st.none() | st.integers(1, 999),
)
def test_a_dumped_recipe_loads_as_itself(tokenizer: str, train: str, clip: float | None, lr: float, window: int | None) -> None:
    data = {
        "tokenizer": tokenizer,
        "data": {"train": train, "dev": None},
        "model": {"kind": "modernbert", "window": window},
        "optimizer": {"kind": "adamw", "lr": lr, "clip": clip},
        "training": {"tokens": "5M"},
    }
    made = validate(PretrainRecipe, data, "t")
    assert validate(PretrainRecipe, parse_yaml(dump(made), "t")[0], "t") == made


def test_configs_are_frozen_and_documented() -> None:
    made = validate(FinetuneRecipe, {"checkpoint": "a", "data": {"train": "b"}}, "t")
    with pytest.raises(ValueError, match="frozen"):
        made.seed = 3  # pyright: ignore[reportAttributeAccessIssue]
    assert describe(ModernBertConfig, "position") == describe(ModernBertConfig.__mro__[1], "position") != ""


def undocumented(model: type[Config]) -> list[str]:
    definitions = json_schema(model).get("$defs", {})
    return [
        f"{name}.{key}"
        for name, part in definitions.items()
        for key, value in part["properties"].items()
        if key != "kind" and not value["description"]
    ]


def test_every_key_is_documented_in_the_schema() -> None:
    assert undocumented(PretrainRecipe) == [] == undocumented(FinetuneRecipe)


def test_a_run_in_place_of_its_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a recipe, but this is a directory") as plain:
        load(PretrainRecipe, tmp_path)
    (tmp_path / "recipe.yaml").write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(UsageError) as found:
        load(PretrainRecipe, tmp_path)
    assert plain.value.fix is None and found.value.fix == f"{tmp_path / 'recipe.yaml'}, the recipe of this run"
