"""`--help` in a quarter of a second and an error in a recipe in half a second, in processor time, so that load does not count."""

import subprocess
import sys
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "encoderkit"]
MEASURE = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:], capture_output=True).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(code, used.ru_utime + used.ru_stime)
"""


def seconds(*arguments: str) -> tuple[int, float]:
    """The exit code and the processor time of a command; the best of four, so that a cold disk does not count either."""
    found = []
    for _ in range(4):
        done = subprocess.run([sys.executable, "-c", MEASURE, *COMMAND, *arguments], check=True, capture_output=True, text=True)
        code, used = done.stdout.split()
        found.append((int(code), float(used)))
    return min(found, key=lambda pair: pair[1])


def loaded(*arguments: str) -> set[str]:
    """The packages that a command imports."""
    code = (
        "import sys; from encoderkit.cli.main import run; sys.argv = ['encoderkit', *sys.argv[1:]]\n"
        "run()\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True)
    return {name.split(".")[0] for name in done.stderr.split()}


HEAVY = {"torch", "numpy", "sklearn", "transformers", "tokenizers"}


def test_help_imports_nothing_heavy() -> None:
    assert not loaded("--help") & (HEAVY | {"pydantic", "yaml", "rich"})


@pytest.mark.parametrize("arguments", [["pretrain", "--help"], ["show", "--fields", "pretrain"], ["init"]])
def test_looking_imports_no_torch(arguments: list[str]) -> None:
    assert not loaded(*arguments) & HEAVY


def test_help_is_quick() -> None:
    code, used = seconds("--help")
    assert code == 0 and used < 0.25


def test_a_recipe_error_is_quick(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("tokenizer: t\ndata: {trian: x}\nmodel: {kind: bert}\ntraining: {updates: 1}\n", encoding="utf-8")
    code, used = seconds("pretrain", str(recipe), "--out", str(tmp_path / "run"))
    assert code == 2 and used < 0.5
    assert not (tmp_path / "run").exists()
    assert "torch" not in loaded("pretrain", str(recipe), "--out", str(tmp_path / "run"))
