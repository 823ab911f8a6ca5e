"""Imports go downward only, in the order of the floors; what must be quick never imports torch."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import encoderkit

PACKAGE = Path(encoderkit.__file__).parent
FLOORS = (
    ("errors", "ours", "world", "units", "config", "files", "console", "compiled"),
    ("text", "data", "models"),
    ("learner", "metrics", "objectives", "tasks"),
    ("training", "inference", "interop"),
    ("recipe",),
    ("preflight",),
    ("stages",),
    ("cli", "__main__"),
)
SIBLINGS = ({"text", "data", "models"}, {"objectives", "tasks"})
"""Parts that never import one another."""
WITHOUT_TORCH = [
    "errors", "ours", "world", "units", "config", "files", "console", "compiled", "models.config", "text.config", "data.config",
    "objectives.config", "tasks.config", "training.config", "recipe", "preflight",
    "stages.show", "stages.init", "data.docstrings", "cli.main",
]  # fmt: skip


def modules() -> dict[str, Path]:
    """Every module of the package, by its name without `encoderkit.`."""
    paths = {path.relative_to(PACKAGE).with_suffix(""): path for path in PACKAGE.rglob("*.py") if path.parent.name != "recipes"}
    return {".".join(name.parts).removesuffix(".__init__"): path for name, path in paths.items()}


def imported(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The names of our own modules that `tree` imports, without `encoderkit.`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("encoderkit."):
                yield name.removeprefix("encoderkit."), node


def floor(module: str) -> int:
    part = module.split(".")[0]
    return next((i for i, parts in enumerate(FLOORS) if part in parts), -1)


def graph() -> dict[str, set[str]]:
    """Which of our modules each of our modules imports."""
    known = modules()
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        targets = (target for target, _ in imported(ast.parse(path.read_bytes())))
        edges[name] = {next((t for t in (target, target.rpartition(".")[0]) if t in known), "") for target in targets} - {
            "",
            name,
        }
    return edges


def test_every_module_has_a_floor() -> None:
    assert [name for name in modules() if floor(name) < 0 and name != "__init__"] == []


def test_imports_go_downward() -> None:
    wrong = []
    for name, targets in graph().items():
        for target in targets:
            part, other = name.split(".")[0], target.split(".")[0]
            apart = part != other and any({part, other} <= group for group in SIBLINGS)
            if floor(target) > floor(name) or apart or (other == "interop" and part not in ("interop", "stages")):
                wrong.append(f"{name} imports {target}")
    assert wrong == []


def test_no_circles() -> None:
    edges, done, path = graph(), set(), []

    def visit(name: str) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            path.append(name)
            for target in sorted(edges[name]):
                visit(target)
            done.add(path.pop())

    for name in edges:
        visit(name)


def test_imports_inside_functions_only_in_the_command_line() -> None:
    wrong = []
    for name, path in modules().items():
        for function in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(function, ast.FunctionDef) and not name.startswith("cli."):
                wrong += [f"{name}:{n.lineno}" for n in ast.walk(function) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert wrong == []


def test_recipe_and_below_import_configs_only() -> None:
    targets = {target for target in graph()["recipe"] if floor(target) > 0}
    assert all(target.endswith(".config") for target in targets), targets


def test_no_drawer_for_odds_and_ends() -> None:
    forbidden = {"utils", "util", "common", "helpers", "base", "misc"}
    assert [name for name in modules() if forbidden & set(name.split("."))] == []


def test_files_and_functions_stay_readable() -> None:
    long = []
    for name, path in modules().items():
        source = path.read_text(encoding="utf-8")
        if source.count("\n") > 400:
            long.append(name)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                long.append(f"{name}.{node.name}")
    assert long == []


def test_what_must_be_quick_does_not_import_torch() -> None:
    code = f"import sys\nfor m in {WITHOUT_TORCH}: __import__('encoderkit.' + m)\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
