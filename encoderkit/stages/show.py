"""`encoderkit show` and `schema`: a completed recipe, every key that there is, and the JSON Schema for editors. No torch."""

from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from encoderkit.config import Config, KeyPath, describe, json_schema, load, overridden, override, read_yaml
from encoderkit.data.config import Column
from encoderkit.data.streams import Format
from encoderkit.errors import UsageError, shown
from encoderkit.recipe import CorpusRecipe, FinetuneRecipe, PretrainRecipe, TokenizerRecipe
from encoderkit.units import Count, Every, Seconds, Share, Span

RECIPES: dict[str, type[Config]] = {
    "pretrain": PretrainRecipe,
    "finetune": FinetuneRecipe,
    "tokenizer": TokenizerRecipe,
    "corpus": CorpusRecipe,
}
"""Every kind of recipe, by the command (or the thing made) that it is for."""
COMMANDS = {"pretrain": "pretrain", "finetune": "finetune", "tokenizer": "train-tokenizer", "corpus": "tokenize"}
"""The commands that read them."""
C = TypeVar("C", bound=Config)

_UNITS = {
    Column: "column",
    Count: "whole number (10k, 50M)",
    Share: "share (5% or 0.05)",
    Seconds: "duration (90s, 30m, 6h)",
    Every: "interval ('20 updates', '1 epoch', 5m)",
    Span: "share of the run (5%) or updates",
}
_NAMES = {str: "text", int: "whole number", float: "number", bool: "true or false", NoneType: "null"}


def recipe_kind(data: dict[str, Any], where: Path) -> str:
    """Which recipe `data` is: the one that knows most of its keys. Raises `UsageError` if none knows any."""
    known = _known(data)
    kind = max(known, key=known.__getitem__)
    if kind == "pretrain" and known["finetune"] == known[kind] and _of_labels(data):
        return "finetune"
    if known[kind]:
        return kind
    legal = "; ".join(f"{kind}: {', '.join(list(model.model_fields)[:5])}, ..." for kind, model in RECIPES.items())
    raise UsageError(f"this is no recipe: it has none of the keys that one has ({legal})", where=where, fix="encoderkit init")


def _known(data: dict[str, Any]) -> dict[str, int]:
    """How many of the keys each kind of recipe knows."""
    return {kind: len(data.keys() & model.model_fields.keys()) for kind, model in RECIPES.items()}


def read(model: type[C], path: Path | None, settings: list[str] | None = None, command: str | None = None) -> C:
    """The recipe of a command, as `config.load` has it; where it is one of another command, raises `UsageError` that says so.

    `command`: if it is not the one that the recipe is named for.
    """
    try:
        return load(model, path, settings)
    except UsageError:
        asked = next(name for name, recipe in RECIPES.items() if recipe is model)
        if path is None or (kind := _meant(path, asked)) is None:
            raise
        own, other = COMMANDS[asked], COMMANDS[kind]
        message = f"this is a recipe for {other}, and {command or own} reads other ones"
        fix = f"encoderkit {other} {path} ..." if command is None else f"a recipe for {own}: encoderkit init"
        raise UsageError(message, where=path, fix=fix) from None


def _meant(path: Path, asked: str) -> str | None:
    """The kind of recipe that knows more of the keys in a file than the one `asked` for, if any does."""
    with suppress(UsageError):  # of a file that is no recipe at all
        known = _known(read_yaml(path)[0])
        kind = max(known, key=known.__getitem__)
        return kind if known[kind] > known[asked] else None
    return None


_OF_ROWS = {f".{name}" for name in get_args(Format)} - {".txt"}


def _of_labels(data: dict[str, Any]) -> bool:
    """Whether a recipe whose keys both recipes that train have is for labelled rows: by its data, or a key meant to be theirs."""
    given = data.get("data")
    train = given.get("train") if isinstance(given, dict) else None
    if isinstance(given, dict) and ("test" in given or isinstance(train, dict) or {*Path(str(train)).suffixes} & _OF_ROWS):
        return True
    own = list(FinetuneRecipe.model_fields.keys() - PretrainRecipe.model_fields.keys())
    return any(get_close_matches(key, own, 1, 0.7) for key in data.keys() - PretrainRecipe.model_fields.keys())


def kind_of(text: str) -> str:
    """`text`, if it is a kind of recipe; raises `UsageError` otherwise."""
    if text in RECIPES:
        return text
    raise UsageError(f"there is no recipe for {shown(text)}", fix=f"one of {', '.join(RECIPES)}")


def complete(path: Path, settings: list[str]) -> tuple[str, Config]:
    """The kind of the recipe at `path` (a file, or a run, which keeps its own) and the recipe with all that it leaves open."""
    file = path / "recipe.yaml" if path.is_dir() else path
    data, lines = read_yaml(file)
    kind = recipe_kind(override(data, settings), file)
    return kind, overridden(RECIPES[kind], data, settings, str(file), lines)


class Key(NamedTuple):
    """One key of a recipe, in one of the kinds that its part may be."""

    name: str
    """Dotted."""
    kind: str | None
    """The kind of the part in which it stands; None where there is only one."""
    type: str
    default: str
    text: str


def keys(model: type[Config], path: KeyPath = (), kind: str | None = None) -> Iterator[Key]:
    """Every key of a recipe, parts before the keys in them."""
    for name, field in model.model_fields.items():
        parts = _parts(field.annotation)
        text = [describe(model, name)]
        if len(parts) > 1:
            text += [f"{_kind(part)}: {part.__doc__}" for part in parts]
        elif parts and not text[0]:
            text = [str(parts[0].__doc__)]
        default = "required" if field.is_required() else _value(field.get_default(call_default_factory=True))
        yield Key(".".join(map(str, (*path, name))), kind, _type(field), default, "\n".join(text).strip())
        for part in parts:
            yield from keys(part, (*path, name), _kind(part) if len(parts) > 1 else None)


def _parts(annotation: Any) -> list[type[Config]]:
    """The configs among the members of a union, or the config itself."""
    return [member for member in _members(annotation) if isinstance(member, type) and issubclass(member, Config)]


def _kind(part: type[Config]) -> str:
    return part.model_fields["kind"].default


def _members(annotation: Any) -> list[Any]:
    """The members of a union, or the type itself; without the marks on it."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [inner for member in get_args(annotation) for inner in _members(member)]
    return [annotation]


def _type(field: FieldInfo) -> str:
    text = _spell(field.rebuild_annotation())
    limits = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}
    bounds = [
        f"{words} {getattr(mark, sign):,}" for mark in field.metadata for sign, words in limits.items() if hasattr(mark, sign)
    ]
    return ", ".join([text, *bounds])


def _spell(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        named = (words for unit, words in _UNITS.items() if get_args(unit)[1] in arguments[1:])
        return next(named, None) or _spell(arguments[0])
    if origin in (Union, UnionType):
        if len(parts := _parts(annotation)) > 1:
            return "{kind: " + " | ".join(map(_kind, parts)) + ", ...}"
        return " or ".join(dict.fromkeys(_spell(member) for member in arguments))
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (list, tuple):
        return "list of " + " and ".join(dict.fromkeys(_spell(inner) for inner in arguments if inner is not ...))
    if origin is dict:
        return f"{{{_spell(arguments[0])}: {_spell(arguments[1])}}}"
    return "{...}" if _parts(annotation) else _NAMES[annotation]


def _value(default: Any) -> str:
    """A default as YAML has it; of a part, what it sets differently from its own defaults."""
    if isinstance(default, Config):
        changed = default.model_dump(exclude_unset=True)
        return f"{{{', '.join(f'{name}: {_value(value)}' for name, value in changed.items())}}}" if changed else ""
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return f"[{', '.join(map(_value, default))}]" if isinstance(default, list | tuple) else str(default)


def document(kind: str) -> str:
    """What every key of a recipe is for: name, type, default and a sentence; the kinds of a part stand together."""
    found: dict[str, list[Key]] = {}
    for key in keys(RECIPES[kind]):
        found.setdefault(key.name, []).append(key)
    kinds = {name.removesuffix("kind"): len(entries) for name, entries in found.items() if name.endswith(".kind")}
    lines = [f"# {kind}: {RECIPES[kind].__doc__}"]
    for name, entries in found.items():
        if len(entries) > 1 and name.endswith(".kind"):
            continue  # said by the type of the part itself
        lines += ["", f"{name}: {entries[0].type}{_defaults(entries)}"]
        lines += [f"    {line.strip()}" for line in _texts(entries).split("\n") if line.strip()]
        if entries[0].kind and len(entries) < kinds[name[: name.rindex(".") + 1]]:
            lines.append(f"    Only for {', '.join(str(key.kind) for key in entries)}.")
    return "\n".join(lines) + "\n"


def _by_kind(entries: list[Key], values: list[str]) -> dict[str, list[str]]:
    """The kinds that have each value."""
    result: dict[str, list[str]] = {}
    for key, value in zip(entries, values, strict=True):
        result.setdefault(value, []).append(str(key.kind))
    return result


def _texts(entries: list[Key]) -> str:
    first, *others = _by_kind(entries, [key.text for key in entries]).items()
    return "\n".join([first[0], *(f"{', '.join(kinds)}: {text}" for text, kinds in others)])


def _defaults(entries: list[Key]) -> str:
    """` = 4`, or ` = 0.1; modernbert: 0.0` where kinds differ."""
    (first, _), *others = _by_kind(entries, [key.default for key in entries]).items()
    if first in ("", "required"):
        return f" ({first})" if first else ""
    return f" = {first}" + "".join(f"; {', '.join(kinds)}: {value}" for value, kinds in others)


def schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of a recipe, for editors that check and complete YAML."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **json_schema(RECIPES[kind])}
