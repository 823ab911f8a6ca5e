"""The README's promises: its commands run, its links and its tree are true, its help is that of the program."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import encoderkit
from encoderkit.cli import main as cli
from encoderkit.stages import init

ROOT = Path(__file__).parent.parent
TEXT, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh.md"))
SMALLER = {
    "train-tokenizer": ["--vocab-size", "200"],
    "pretrain": ["data.dev=10%", "data.length=32", "model.dim=32", "model.layers=1", "model.heads=2", "training.batch=8"],
    "finetune": ["training.batch=8"],
}
"""What makes a command of the tour a matter of seconds; `pretrain` also gets four updates in place of its budget."""
SHORT = [*(f"training.{key}=null" for key in ("budget", "epochs", "least")), "training.updates=4", "training.compile=off"]
SHORT.append("training.precision=fp32")


def block(marker: str) -> list[str]:
    """The lines of the shell block that follows a marker comment."""
    after = TEXT.split(f"<!-- {marker}", 1)[1]
    return after.split("```sh\n", 1)[1].split("```", 1)[0].strip().split("\n")


def arguments(line: str) -> list[str]:
    """A line of the tour as the arguments of the command, made smaller."""
    program, command, *rest = shlex.split(line, comments=True)
    assert program == "encoderkit"
    extra = SMALLER.get(command, [])
    if command in ("pretrain", "finetune"):
        extra = [part for setting in extra + SHORT for part in ("--set", setting)]
    return [command, *rest, *extra]


def test_the_tour_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus: Path, labelled: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("corpus.txt").write_bytes(corpus.read_bytes())
    for name, source in (("train", "train"), ("dev", "dev"), ("test", "dev")):
        Path(f"{name}.jsonl").write_bytes(labelled[source].read_bytes())
    for line in block("the tour"):
        monkeypatch.setattr(sys, "argv", ["encoderkit", *arguments(line)])
        code = cli.run()
        output = capsys.readouterr()
        assert code == 0, f"{line}\n{output.err}"
        if " predict " in line:
            assert [json.loads(row)["label"] in ("positive", "negative") for row in output.out.strip().split("\n")] == [
                True,
                True,
            ]
    assert Path("vectors.npy").is_file() and Path("dist/model.safetensors").is_file()


@pytest.mark.parametrize(("text", "least"), [(TEXT, 40), (CHINESE, 15)])
def test_every_command_that_is_shown_is_one_that_the_program_takes(text: str, least: int) -> None:
    """Flags and all; those of the tour are also run."""
    group = typer.main.get_command(cli.app)
    lines = [line for part in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in part.replace("\\\n", " ").split("\n")]
    shown = [shlex.split(line, comments=True) for line in lines if line.strip().startswith("encoderkit ")]
    assert len(shown) > least
    for kind in re.findall(r"encoderkit init (\w+ --kind [\w-]+)", text):
        assert init.find(*kind.split(" --kind ")).is_file(), kind
    for _, name, *rest in shown:
        rest = [word for word in rest if not word.startswith("{")]
        command: Any = group.commands[name]  # pyright: ignore[reportAttributeAccessIssue]
        while hasattr(command, "commands"):  # inspect masking
            command = command.commands[rest.pop(0)]
        assert command.make_context(name, rest).params


def test_one_test_command() -> None:
    (line,) = block("the test command")
    assert line.startswith("python3 -m venv .venv ") and line.endswith("&& pytest -n auto")


def test_every_command_is_in_the_readme() -> None:
    names = [
        str(command.name or command.callback.__name__.replace("_", "-"))
        for command in cli.app.registered_commands
        if command.callback
    ]
    assert names and [name for name in names if f"encoderkit {name}" not in TEXT] == []


def test_the_tree_names_every_file() -> None:
    tree = TEXT.split("## The files", 1)[1].split("```text", 1)[1].split("```", 1)[0]
    package = Path(encoderkit.__file__).parent
    files = {path.name for path in package.rglob("*.py") if path.name != "__init__.py"}
    folders = {path.parent.name for path in package.rglob("*.py")} - {"encoderkit"}
    assert sorted(name for name in files if name not in tree) == []
    assert sorted(name for name in folders if f"  {name}/" not in tree) == []
    assert sorted(name for name in re.findall(r"\b\w+\.py\b", tree) if name not in files) == []


def test_links_and_paths_are_there() -> None:
    both = TEXT + CHINESE
    for target in re.findall(r"\]\(([^)#]+)\)", both) + re.findall(r"`(recipes/[\w/-]+\.yaml)`", both):
        assert (ROOT / target).exists(), target
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    }
    assert set(re.findall(r"\]\(#([\w-]+)\)", TEXT)) <= headings
