"""The demo: its text and its split, and the whole of it, hurried, through the stages it is made of."""

import shlex
from collections import Counter
from pathlib import Path

import pytest
import typer

from encoderkit.cli import main as cli
from encoderkit.data.docstrings import MIN_FILES, Docstring, docstrings, largest, split_by_file
from encoderkit.stages import demo

SOURCE = b'''"""A module of three words."""
import nothing_that_exists
if True:
    def f(x):
        """Do it
        in two lines."""
        def g():
            "An inner function."
class C:
    """One."""
    async def h(self): r"""Raw \\d text."""
'''


def test_docstrings_are_parsed_not_imported() -> None:
    assert list(docstrings(SOURCE)) == ["A module of three words.", "Do it\nin two lines.", "An inner function.", "Raw \\d text."]
    assert list(docstrings(b"def f(:\n")) == [] == list(docstrings(b"\x00"))


def items(package: str, sizes: list[int]) -> list[Docstring]:
    """Docstrings of a package whose files have these many each."""
    return [Docstring(f"{package} {i} {j}", package, f"{package}/{i}.py") for i, size in enumerate(sizes) for j in range(size)]


def test_the_split_is_by_file_and_leaves_no_class_out() -> None:
    found = (
        items("many", [9, 3, 4, 2, 7, 1, 5, 6]) + items("three", [50, 30, 20]) + items("two", [80, 90]) + items("even", [1] * 40)
    )
    packages = largest(found, 20)
    assert packages == ["three", "even", "many"] and MIN_FILES == 3
    parts = split_by_file(found, packages, seed=3)
    sides = {name: {item.file for item in getattr(parts, name)} for name in parts._fields}
    assert sum(map(len, sides.values())) == len({item.file for item in found}), "no file is on two sides"
    assert {item.package for item in parts.unlabelled} == {"two"}
    for name in ("train", "dev", "test"):
        assert {item.package for item in getattr(parts, name)} == set(packages)
    assert Counter(item.package for item in parts.test)["even"] == 8 and Counter(item.package for item in parts.dev)["even"] == 4
    assert parts == split_by_file(found, packages, seed=3)


def little_library() -> list[Docstring]:
    """A library of four packages that are told apart by a word."""
    words = {"audio": "sound", "video": "picture", "mail": "letter", "graph": "edge"}
    return [
        Docstring(f"Return the {word} {i} of file {file}, which the {word} of {package} needs.", package, f"{package}/{file}.py")
        for package, word in words.items()
        for file in range(6)
        for i in range(12)
    ]


def test_the_whole_way(tmp_path: Path) -> None:
    result = demo.run(tmp_path / "demo", seconds=12, library=little_library)
    results = result["results"]
    assert set(results) == set(demo.NAMES) and results["majority"]["accuracy"] == pytest.approx(0.25, abs=0.01)
    assert results["tfidf"]["accuracy"] > 0.9 and all(0 <= values["macro_f1"] <= 1 for values in results.values())
    text = demo.describe(result)
    assert all(title in text for title in demo.NAMES.values()) and "\nThe same by hand" in text
    assert (tmp_path / "demo" / "dist" / "model.safetensors").is_file()
    for command in result["commands"]:
        assert command in text
    check_commands(result["commands"])


def check_commands(commands: list[str]) -> None:
    """Each command is one that the program takes, flags and all."""
    group = typer.main.get_command(cli.app)
    for line in commands:
        program, name, *rest = shlex.split(line)
        assert program == "encoderkit"
        assert group.commands[name].make_context(name, rest).params  # pyright: ignore[reportAttributeAccessIssue]
