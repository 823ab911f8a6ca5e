"""Text that every machine with Python has: the docstrings of its standard library, and which package each is from.

The sources are parsed, never imported. What is held out is whole files, so that no neighbour of a held-out docstring,
often written in the same words, is trained on.
"""

import ast
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

SKIPPED = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data", "_bundled"}
"""Folders that are no part of the library, or hold copies of it."""

MIN_FILES = 3
"""A package with fewer files cannot be split by file into training, development and test data."""


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_HOLDERS = (*_DOCUMENTED, ast.If, ast.Try, ast.With)


class Docstring(NamedTuple):
    """What one module, class or function says of itself."""

    text: str
    package: str
    """The top-level package or module."""
    file: str
    """Relative to the standard library."""


class Parts(NamedTuple):
    """Docstrings split by file."""

    train: list[Docstring]
    dev: list[Docstring]
    test: list[Docstring]
    unlabelled: list[Docstring]
    """Of packages that are no label: more text to pretrain on."""


def standard_library() -> Iterator[Docstring]:
    """The docstrings of the installed standard library, file after file in the order of their names; equal ones once."""
    root = Path(sysconfig.get_path("stdlib"))
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root)
        if SKIPPED.isdisjoint(place.parts):
            for text in docstrings(path.read_bytes()):
                if text not in seen:
                    seen.add(text)
                    yield Docstring(text, place.parts[0].removesuffix(".py"), place.as_posix())


def docstrings(source: bytes) -> Iterator[str]:
    """The docstrings of two words or more in a Python source; nothing of a source that cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    nodes: list[ast.AST] = [tree]
    while nodes:
        node = nodes.pop()
        nodes += [child for child in reversed(getattr(node, "body", [])) if isinstance(child, _HOLDERS)]
        if isinstance(node, _DOCUMENTED):
            text = ast.get_docstring(node) or ""
            if len(text.split()) > 1:
                yield text


def largest(found: Iterable[Docstring], count: int) -> list[str]:
    """The `count` packages with the most docstrings, of those with at least `MIN_FILES` files."""
    sizes: Counter[str] = Counter()
    files: dict[str, set[str]] = defaultdict(set)
    for item in found:
        sizes[item.package] += 1
        files[item.package].add(item.file)
    return [package for package, _ in sizes.most_common() if len(files[package]) >= MIN_FILES][:count]


def split_by_file(found: list[Docstring], packages: list[str], seed: int, dev: float = 0.1, test: float = 0.2) -> Parts:
    """Of each package some whole files for `dev` and `test`: about these shares of its docstrings, and at least one file each.

    A package's largest file is trained on, so that no class is without examples.
    """
    parts: dict[str, str] = {}
    for number, package in enumerate(packages):
        sizes = Counter(item.file for item in found if item.package == package)
        order = [sorted(sizes)[i] for i in np.random.default_rng((seed, number)).permutation(len(sizes))]
        order.remove(max(order, key=sizes.__getitem__))
        tested = _fill(order[1:], sizes, test * sizes.total())
        tuned = _fill([file for file in order if file not in tested], sizes, dev * sizes.total())
        parts |= dict.fromkeys(tested, "test") | dict.fromkeys(tuned, "dev")
    labels = set(packages)
    sides: dict[str, list[Docstring]] = {"train": [], "dev": [], "test": [], "unlabelled": []}
    for item in found:
        sides[parts.get(item.file, "train") if item.package in labels else "unlabelled"].append(item)
    return Parts(**sides)


def _fill(files: list[str], sizes: Counter[str], room: float) -> list[str]:
    """The first files that fit into `room`; the smallest if none does."""
    chosen = []
    for file in files:
        if sizes[file] <= room:
            chosen.append(file)
            room -= sizes[file]
    return chosen or [min(files, key=sizes.__getitem__)]
