"""`--help` in a quarter of a second and an error in a recipe in half a second, in processor time, so that load does not count.

Where others slow down the processor itself, anything takes longer: then the bounds are as much wider as importing typer and
pydantic takes longer than usual.
"""

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


IMPORTS = [sys.executable, "-c", "import typer, yaml; from pydantic import BaseModel, TypeAdapter"]
"""What no command that reads a recipe can do without, which takes USUAL seconds where that takes half a second."""
USUAL = 0.18


def timed(command: list[str]) -> tuple[int, float]:
    """The exit code and the processor time of a command."""
    done = subprocess.run([sys.executable, "-c", MEASURE, *command], check=True, capture_output=True, text=True)
    code, used = done.stdout.split()
    return int(code), float(used)


def quick(bound: float, code: int, *arguments: str) -> bool:
    """Whether a command ends with `code` within `bound` seconds, at least once: what else a computer does only slows it."""
    best = imports = float("inf")
    for _ in range(30):
        ended, used = timed([*COMMAND, *arguments])
        assert ended == code
        best, imports = min(best, used), min(imports, timed(IMPORTS)[1])
        if best < bound * max(1, imports / USUAL):
            return True
    print(f"{best:.3f} s; what it imports takes {imports:.3f} s")
    return False


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
    assert quick(0.25, 0, "--help")


def test_a_recipe_error_is_quick(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("tokenizer: t\ndata: {trian: x}\nmodel: {kind: bert}\ntraining: {updates: 1}\n", encoding="utf-8")
    assert quick(0.5, 2, "pretrain", str(recipe), "--out", str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert "torch" not in loaded("pretrain", str(recipe), "--out", str(tmp_path / "run"))
