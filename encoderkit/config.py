"""Recipes: a frozen pydantic model for each, one YAML loader without YAML's surprises, one override grammar.

PyYAML reads `3e-4` as text, `[yes, no]` as booleans, `010` as eight and `12:30` as 750, lets a later key silently
replace an earlier one and lets anchors blow up. The loader below fixes these, and remembers on which line each key
stands, so that a mistake is shown where it was made.
"""

import ast
import codecs
import difflib
import inspect
import re
import sys
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from encoderkit.errors import UsageError, shown

MAX_BYTES, MAX_DEPTH = 256 * 1024, 32

KeyPath = tuple[str | int, ...]
Lines = dict[KeyPath, int]


class Config(BaseModel):
    """Base of every recipe part: immutable, unknown keys refused, attribute docstrings shown as help."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def describe(model: type[BaseModel], name: str) -> str:
    """What a field is for, in its own words or, where a family only changes a default, in those of the class above it."""
    bases = [base for base in model.__mro__ if issubclass(base, Config)]
    return next((text for base in bases if (text := _docstrings(base.__module__).get((base.__name__, name)))), "")


@cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """The attribute docstrings of a module by class and field, read when they are asked for.

    pydantic would read them whenever it is imported, a third of the time in which an error in a recipe is to be told.
    """
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    found = {}
    for part in (part for part in tree.body if isinstance(part, ast.ClassDef)):
        for line, below in pairwise(part.body):
            match line, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[part.name, name] = inspect.cleandoc(text)
    return found


def json_schema(model: type[Config]) -> dict[str, Any]:
    """The JSON Schema of a recipe, with what each field is for."""
    schema, known = model.model_json_schema(), _configs(Config)
    for name, part in {model.__name__: schema, **schema.get("$defs", {})}.items():
        for field, entry in part.get("properties", {}).items() if name in known else ():
            entry.setdefault("description", describe(known[name], field))
    return schema


def _configs(above: type[Config]) -> dict[str, type[Config]]:
    """Every config by its name."""
    found = {above.__name__: above}
    for below in above.__subclasses__():
        found |= _configs(below)
    return found


C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own form)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not allowed", problem_mark=self.peek_event().start_mark)
        tag = getattr(self.peek_event(), "tag", None)
        if tag not in (None, "!"):
            raise yaml.MarkedYAMLError(problem=f"tags ({tag}) are not allowed", problem_mark=self.peek_event().start_mark)
        return super().compose_node(parent, index)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that either PyYAML or the loader above would read as something else."""


_Dumper.add_representer(list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True))


for _tag, _pattern, _first in (
    ("bool", r"true|false|True|False|TRUE|FALSE", "tfTF"),
    ("null", r"null|Null|NULL|~|", "nN~\0"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|\.nan|[-+]?\.inf", "-+0123456789."),
):
    for _end in (_Loader, _Dumper):
        _end.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^$"), [""])


def _construct(loader: _Loader, node: yaml.Node, path: KeyPath, lines: Lines) -> Any:
    lines[path] = node.start_mark.line + 1
    if len(path) > MAX_DEPTH:
        raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=node.start_mark)
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key in result:
                raise yaml.MarkedYAMLError(problem=f'key "{key}" stands twice', problem_mark=key_node.start_mark)
            result[key] = _construct(loader, value_node, (*path, key), lines)
            lines[(*path, key)] = key_node.start_mark.line + 1
        return result
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*path, i), lines) for i, item in enumerate(node.value)]
    return loader.construct_object(node)


_COLON = re.compile(r"\s*(?:- )?[\w-]+\s*(?:：|:(?=[^ \t\r\n:/]))")
"""How a line begins that was meant to be a key; a space of another kind, as of web pages, is none."""


def parse_yaml(text: str, where: str) -> tuple[Any, Lines]:
    """The value of a YAML text and the line of each of its keys; raises `UsageError` naming the line."""
    loader = None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        lines: Lines = {}
        return (None if node is None else _construct(loader, node, (), lines)), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        last = mark.line if mark else 0
        # A key without its colon is told where the next one stands.
        for number, line in list(enumerate(text.split("\n")))[max(0, last - 2) : last + 1]:
            if _COLON.match(line):
                message, fix = "a colon of another keyboard, or one without a space behind it", "write it as `key: value`"
                raise UsageError(f"not valid YAML: {message}", where=f"{where}:{number + 1}", fix=fix) from None
        problem, fix = str(error.problem), None
        if problem.startswith("found character '\\t'"):
            problem, fix = "a tab, and what belongs together is told by spaces", "indent by two spaces"
        elif problem.endswith("stands twice"):
            fix = "leave one of them out"
        raise UsageError(f"not valid YAML: {problem}", where=f"{where}:{last + 1}" if mark else where, fix=fix) from None
    except (yaml.YAMLError, RecursionError, ValueError, IndexError) as error:
        raise UsageError(f"not valid YAML: {str(error).splitlines()[0]}", where=where, fix=None) from None
    finally:
        if loader is not None:
            loader.dispose()


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """The mapping in a recipe file, and the line of each key."""
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if path.is_dir():
            own = path / "recipe.yaml"
            fix = f"{own}, the recipe of this run" if own.is_file() else None
            raise UsageError("expected a recipe, but this is a directory", where=path, fix=fix) from None
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else str(error)
        fix = "encoderkit init lists the recipes that there are, encoderkit init STAGE --kind NAME --out FILE writes one"
        raise UsageError(f"cannot read the recipe: {reason}", where=path, fix=fix) from None
    try:
        return _mapping(data, path)
    except UsageError as error:
        raise UsageError(error.message, where=error.where, fix=error.fix or _instead(path)) from None


def _mapping(data: bytes, path: Path) -> tuple[dict[str, Any], Lines]:
    if len(data) > MAX_BYTES:
        raise UsageError(f"a recipe has at most {MAX_BYTES} bytes, this file has {len(data)}", where=path, fix=None)
    try:  # UTF-16 is what PowerShell writes
        text = data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError:
        try:  # a recipe saved by an editor on a Chinese Windows
            text = data.decode("gb18030")
        except UnicodeDecodeError:
            raise UsageError("a recipe is a YAML text in UTF-8; this is not text", where=path, fix=None) from None
    value, lines = parse_yaml(text, str(path))
    if not isinstance(value, dict):
        found = "nothing" if value is None else type(value).__name__
        raise UsageError(f"a recipe is a mapping of keys to values, found {found}", where=path, fix=None)
    return value, lines


def _instead(path: Path) -> str:
    """What to do about a file that is no recipe, or what was meant by it, if it is not called one."""
    if path.suffix.lower() in (".yaml", ".yml"):
        return "`key: value`, one a line; encoderkit init writes a recipe to begin with"
    return f"name a recipe, a .yaml file that says what is read; for train-tokenizer and tokenize, --data {path}"


def override(data: dict[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """`data` with each `a.b=value` of `settings` put in its place; values are read as YAML."""
    result = dict(data)
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not all(name.split(".")):
            raise UsageError(f"expected key=value, found {shown(setting)}", where="--set", fix="--set training.updates=100")
        try:
            value, _ = parse_yaml(text, f"--set {name}")
        except UsageError as error:
            fix = f"a value as it would stand in the recipe, in quotes for the shell: --set '{name}=...'"
            raise UsageError(error.message, where=error.where, fix=fix) from None
        node = result
        *parents, last = name.split(".")
        for parent in parents:
            child = node.get(parent)
            node[parent] = dict(child) if isinstance(child, dict) else {}
            node = node[parent]
        node[last] = value
    return result


def validate(model: type[C], data: dict[str, Any], where: str, lines: Lines | None = None, settings: Sequence[str] = ()) -> C:
    """`data` as a `model`; raises `UsageError` with the line, the nearest right name and the legal ones.

    `settings`: what was changed by `override`. With another kind, keys of the former one are left over in a file; those that
    are set to null are taken out.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        left = _left_over(model, error, data, lines or {}, settings)
        names = [".".join(map(str, path)) for path in left]
        if left and all(f"{name}=null" in settings for name in names):
            return validate(model, _without(data, left), where, lines, settings)
        found = _explain(model, error, data, where, lines or {}, settings)
        if left:
            found.fix = f"{' '.join(f'--set {name}=null' for name in names)} takes out what the file has for the other kind"
        raise UsageError(found.message, where=found.where, fix=found.fix) from None


def overridden(model: type[C], data: dict[str, Any], settings: Sequence[str], where: str, lines: Lines) -> C:
    """The config of a file with `settings`; what is wrong without them too is told of the file."""
    try:
        return validate(model, override(data, settings), where, lines, settings)
    except UsageError as error:
        try:
            if settings:
                validate(model, data, where, lines)
        except UsageError as alone:
            if alone.message == error.message:
                raise alone from None
        raise


def _left_over(model: type[Config], error: ValidationError, data: Any, lines: Lines, settings: Sequence[str]) -> list[KeyPath]:
    """Keys of the file that are unknown now that `settings` gave the part they are in another kind."""
    changed = {name for setting in settings if (name := setting.partition("=")[0]).endswith("kind")}
    if not changed:
        return []
    schema = model.model_json_schema()
    paths = [_locate(schema, e["loc"], data)[0] for e in error.errors() if e["type"] == "extra_forbidden"]
    return [path for path in paths if path in lines and ".".join(map(str, (*path[:-1], "kind"))) in changed]


def _without(data: dict[str, Any], paths: Sequence[KeyPath]) -> dict[str, Any]:
    inner = {path[0]: [other[1:] for other in paths if other[0] == path[0] and len(other) > 1] for path in paths}
    kept = {name: value for name, value in data.items() if (name,) not in paths}
    return {str(name): _without(value, inner[name]) if inner.get(name) else value for name, value in kept.items()}


def load(model: type[C], path: Path | None, settings: list[str] | None = None) -> C:
    """The recipe at `path` (all defaults without one), with the overrides of `settings` (`--set`)."""
    data, lines = read_yaml(path) if path is not None else ({}, {})
    return overridden(model, data, settings or [], str(path or "--set"), lines)


def dump(config: Config) -> str:
    """The completed recipe as YAML; `load` reads it back to an equal one."""
    return to_yaml(_given(config))


def to_yaml(values: dict[str, Any]) -> str:
    """A mapping as YAML that `read_yaml` reads back to an equal one."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _given(config: Config) -> dict[str, Any]:
    """The values of a config as JSON has them, without those that are nothing by default."""
    values = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        part = getattr(config, name)
        if part is None and field.default is None:
            del values[name]
        elif isinstance(part, Config):
            values[name] = _given(part)
    return {"kind": values.pop("kind"), **values} if "kind" in values else values


def _explain(
    model: type[Config], error: ValidationError, data: Any, where: str, lines: Lines, settings: Sequence[str]
) -> UsageError:
    # An unknown key explains a missing one (a typo is both), so it goes first.
    errors = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    schema = model.model_json_schema()
    located = [_locate(schema, e["loc"], data) for e in errors]
    # Each member of a union complains: what they say about one key, or inside it, is one mistake, told where it is deepest.
    alike = [i for i, (path, *_) in enumerate(located) if path[: len(located[0][0])] == located[0][0]]
    deepest = max(alike, key=lambda i: len(located[i][0]))
    first, more = errors[deepest], len(errors) - len(alike)
    path, node, owner, kinds = located[deepest]
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    place = f"{where}:{line}" if line else where
    name = ".".join(map(str, path)) or "the recipe"
    set_by = [setting.partition("=")[0] for setting in settings]
    within = [given for given in set_by if not path or given.startswith(f"{name}.")]
    if above := [given for given in set_by if f"{name}.".startswith(f"{given}.")]:
        place = f"--set {above[-1]}"
    elif within:  # one of them, or what the file says beside it
        place = " ".join([*([place] if place != "--set" else []), *(f"--set {given}" for given in within)])
    kind, fix = first["type"], None
    if kind == "extra_forbidden":
        message = f"unknown key {shown(str(path[-1]))}" + _inside(path)
        fix = _elsewhere(schema, path) or _nearest(str(path[-1]), owner)
    elif kind == "missing":
        message, fix = f"{name} is missing", f"--set {name}=VALUE" if len(path) > 1 else None
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        found = node.get("kind") if isinstance(node, dict) else node
        message = f"{name} has no kind" if kind.endswith("found") else f"{name}.kind is {shown(str(found))}"
        fix = _nearest(str(found or ""), kinds)
    else:
        texts = [errors[i]["msg"].removeprefix("Value error, ") for i in alike if located[i][0] == path]
        text = ", or ".join(dict.fromkeys(t[0].lower() + t[1:] for t in texts)) if path else texts[0]
        found = "" if isinstance(node, dict) else f", found {shown(str(node))}"  # a mapping is told by its line
        message = text if not path else f"{name}: {text}{found}"
    if more:
        message += f" (and {more} more)"
    return UsageError(message, where=place, fix=fix)


def _inside(path: KeyPath) -> str:
    return f" in {'.'.join(map(str, path[:-1]))}" if len(path) > 1 else ""


def _locate(schema: dict[str, Any], loc: KeyPath, data: Any) -> tuple[KeyPath, Any, list[str], list[str]]:
    """The path of a pydantic location in the data (without union tags), the value there, and what is legal: keys, kinds."""
    path: list[str | int] = []
    node = data
    definitions, here, legal = schema.get("$defs", {}), schema, list(schema.get("properties", {}))
    for i, part in enumerate(loc):
        last = i == len(loc) - 1
        branches = [inner for o in here.get("anyOf", []) + here.get("oneOf", []) for inner in o.get("oneOf", [o])]
        options = [definitions[o["$ref"].split("/")[-1]] for o in branches if "$ref" in o]
        tagged = [o for o in options if o.get("properties", {}).get("kind", {}).get("const") == part or o.get("title") == part]
        if tagged:
            here = tagged[0]
        elif isinstance(node, dict) and (part in node or (last and "properties" in here)):
            path.append(part)
            legal = list(here.get("properties", {})) or legal
            node, here = node.get(part), here.get("properties", {}).get(part, {})
        elif isinstance(node, list) and isinstance(part, int) and part < len(node):
            path.append(part)
            node, here = node[part], here.get("items", {})
        if "$ref" in here:
            here = definitions[here["$ref"].split("/")[-1]]
    kinds = [name for option in (here, *here.get("anyOf", [])) for name in option.get("discriminator", {}).get("mapping", {})]
    return tuple(path), node, legal, kinds


def _elsewhere(schema: dict[str, Any], path: KeyPath) -> str | None:
    """Where a key that is unknown here belongs, if another part of the recipe has one of that very name."""
    key, definitions, parts = str(path[-1]), schema.get("$defs", {}), schema.get("properties", {})
    if len(path) > 1 and key in parts:
        return f"{key} stands beside {path[0]}, not in it: {key}: ..."

    def holds(part: Any) -> bool:
        part = definitions[part["$ref"].split("/")[-1]] if "$ref" in part else part
        return key in part.get("properties", {}) or any(map(holds, [*part.get("anyOf", []), *part.get("oneOf", [])]))

    owners = [name for name, part in parts.items() if name not in path and holds(part)]
    return f"it belongs to {' or '.join(owners)}: {owners[0]}.{key}" if owners else None


def _nearest(found: str, legal: list[str]) -> str:
    close = difflib.get_close_matches(found, legal, 1, 0.5)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}legal here: {', '.join(legal)}"
