"""Writes are whole or not at all, whatever fails: every operation on the disk is made to fail in turn."""

import errno
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encoderkit import files
from encoderkit.data.records import MissingColumn
from encoderkit.errors import DataError, ResourceError, UsageError


def write(target: Path, text: str, overwrite: bool = False) -> None:
    """A directory of two files, one of them in a folder."""
    with files.staged(target, {"stage": text}, overwrite) as folder:
        files.write_new(folder / "a.txt", text)
        files.make_folder(folder / "inner")
        with files.Writer(folder / "inner" / "b.bin") as file:
            file.write(text.encode())
            file.write(b"more")


def content(target: Path) -> str:
    """What `write` was given, after checking the directory."""
    assert files.verify(target)["stage"] == (target / "a.txt").read_text(encoding="utf-8")
    return (target / "a.txt").read_text(encoding="utf-8")


def fail_at(monkeypatch: pytest.MonkeyPatch, number: int, error: BaseException) -> list[str]:
    """Make the `number`-th operation raise `error`; the operations that were begun."""
    done: list[str] = []

    def operate(operation: str, path: Path) -> None:
        done.append(operation)
        if len(done) == number:
            raise error

    monkeypatch.setattr(files, "_operate", operate)
    return done


def operations(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> int:
    """How many operations `work` takes."""
    with monkeypatch.context() as patch:
        done = fail_at(patch, -1, OSError())
        work()
    return len(done)


def test_a_directory_is_whole_and_hashed(tmp_path: Path) -> None:
    write(tmp_path / "run", "one")
    manifest = files.verify(tmp_path / "run")
    assert set(manifest["files"]) == {"a.txt", "inner/b.bin"} and manifest["files"]["inner/b.bin"]["bytes"] == 7
    assert manifest["files"]["a.txt"]["sha256"] == files.sha256(tmp_path / "run" / "a.txt")
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "a.txt").write_bytes(b"two"), "content has changed"),
        (lambda folder: (folder / "a.txt").write_bytes(b"on"), "has 2 bytes where 3 were written"),
        (lambda folder: (folder / "a.txt").unlink(), "a file of this directory is missing"),
        (lambda folder: (folder / files.MANIFEST).unlink(), "there is no such file"),
        (lambda folder: (folder / files.MANIFEST).write_bytes(b"{"), "not valid JSON"),
        (lambda folder: (folder / files.MANIFEST).write_bytes(b"[]"), "not a manifest"),
        (lambda folder: (folder / files.MANIFEST).write_bytes(b'{"files": {"../x": {}}}'), "not a manifest"),
    ],
)
def test_damage_is_noticed(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    write(tmp_path / "run", "one")
    damage(tmp_path / "run")
    with pytest.raises(DataError, match=message):
        files.verify(tmp_path / "run")


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    write(tmp_path / "run", "one")
    with pytest.raises(UsageError, match="exists already"):
        write(tmp_path / "run", "two")
    assert content(tmp_path / "run") == "one"
    write(tmp_path / "run", "two", overwrite=True)
    assert content(tmp_path / "run") == "two" and [p.name for p in tmp_path.iterdir()] == ["run"]


def test_of_two_that_write_the_same_the_first_stays(tmp_path: Path) -> None:
    write(tmp_path / "other", "first")
    with pytest.raises(UsageError, match="exists already"), files.staged(tmp_path / "run") as folder:
        files.write_new(folder / "data", "late")
        (tmp_path / "other").rename(tmp_path / "run")
    assert content(tmp_path / "run") == "first"
    with pytest.raises(UsageError, match="exists already"), files.staged_file(tmp_path / "file") as file:
        file.write(b"late")
        (tmp_path / "file").write_text("first", encoding="utf-8")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "first"
    assert {p.name for p in tmp_path.iterdir()} == {"run", "file"}


def test_what_is_not_ours_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("mine", "holds thesis.txt, and only what encoderkit wrote"), ("pipe", "a device or a pipe")):
        with pytest.raises(UsageError, match=message):
            files.refuse_existing(tmp_path / name, overwrite=True)
    files.refuse_existing(tmp_path / "mine", overwrite=True, known=("thesis.txt",))
    with pytest.raises(UsageError, match="a device or a pipe"):  # and not that --overwrite would do it
        files.refuse_existing(tmp_path / "pipe", overwrite=False, file=True)
    (tmp_path / "volume").mkdir()
    with monkeypatch.context() as mounted:
        mounted.setattr(os.path, "ismount", lambda path: Path(path) == tmp_path / "volume")
        files.refuse_existing(tmp_path / "volume", overwrite=False, resume=True)  # a run is written into it
        with pytest.raises(UsageError, match="is a mount point") as error:
            write(tmp_path / "volume", "late")
    assert error.value.fix == f"--out {tmp_path / 'volume' / 'NAME'}"
    write(tmp_path / "run", "one")
    monkeypatch.chdir(tmp_path / "run" / "inner")
    for path in (Path("."), Path(".."), tmp_path / "run"):
        with pytest.raises(UsageError, match="holds the working directory"):
            write(path, "two", overwrite=True)


def test_what_was_put_beside_ours_is_not_overwritten_either(tmp_path: Path) -> None:
    """A card or a repository in what was exported, notes in a run; nor is a run replaced by what is none."""
    write(tmp_path / "dist", "one")
    for name in ("README.md", "inner/notes.txt"):
        (tmp_path / "dist" / name).touch()
        with pytest.raises(UsageError, match=f"holds {name}, and only what encoderkit wrote") as error:
            write(tmp_path / "dist", "two", overwrite=True)
        assert error.value.fix == "another --out, or move them away"
        (tmp_path / "dist" / name).unlink()
    with pytest.raises(UsageError, match="a run would take its place"):
        files.refuse_existing(tmp_path / "dist", overwrite=True, resume=True)
    run = tmp_path / "run"
    steps = ("step-0000002/config.json", "damaged-step-0000001/model.safetensors", "seed-1/lock", ".staging-step-0000009.77")
    for name in ("plan.json", "manifest.json", "recipe.yaml", "metrics.jsonl", *steps, "lock", "best"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    write(run / "step-0000003", "one")
    files.refuse_existing(run, overwrite=True, resume=True)
    with pytest.raises(UsageError, match="holds a run, and what is none would take its place"):
        write(run, "two", overwrite=True)
    with pytest.raises(UsageError, match="is a checkpoint of a run"):
        write(run / "step-0000003", "two", overwrite=True)
    for name in (
        "notes.txt",
        "step-0000003/notes.txt",
        "step-0000002/x",
        "seed-words.txt",
        "seed-1/x",
        "step-notes/x",
        "trial-1/x",
    ):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).touch()
        found = name if (run / name).parent.name not in ("step-notes", "trial-1") else name.partition("/")[0]
        with pytest.raises(UsageError, match=f"holds {found}, and only"):
            files.refuse_existing(run, overwrite=True, resume=True)
        (run / name).unlink()
        if found != name:
            (run / found).rmdir()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MANIFEST.json", '{"name": "my app"}'),
        ("MANIFEST.json", '{"files": ["a.js"]}'),
        ("MANIFEST.json", "{"),
        ("MANIFEST.json", '{"files": {}}'),
        ("plan.json", '{"monday": "write"}'),
        ("plan.json", "[]"),
        ("manifest.json", '{"name": "my app"}'),
        ("manifest.json", '{"runs": 5}'),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_a_name_alone_makes_nothing_ours(name: str, text: str, resume: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    for other in ("recipe.yaml", "summary.json", "best", ".trash-can"):
        (tmp_path / other).touch()
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "rows.csv").touch()
    with pytest.raises(UsageError, match="and only what encoderkit wrote is replaced"):
        files.refuse_existing(tmp_path, overwrite=True, resume=resume)


def test_what_can_be_replaced(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "plan.json").write_text("{}", encoding="utf-8")  # of which the rest was being removed
    files.refuse_existing(run, overwrite=True, resume=True)
    (run / "plan.json").write_text('{"updates": 1, "batch": 2, "micro_batch": 2, "seed": 1}', encoding="utf-8")
    files.refuse_existing(run, overwrite=True, resume=True)
    write(tmp_path / "dist", "one")
    write(tmp_path / "dist", "two", overwrite=True)
    assert content(tmp_path / "dist") == "two"


def test_a_run_of_several_is_not_torn(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"runs": ["seed-1", "seed-2"]}', encoding="utf-8")
    for name in ("seed-1", "seed-3"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").write_text('{"updates": 1, "batch": 2, "micro_batch": 2}', encoding="utf-8")
    files.refuse_existing(tmp_path / "seed-3", overwrite=True, resume=True)
    with pytest.raises(UsageError, match="is one of several runs, which would be torn"):
        files.refuse_existing(tmp_path / "seed-1", overwrite=True, resume=True)
    (tmp_path / "recipe.yaml").touch()
    files.refuse_existing(tmp_path, overwrite=True, resume=True)
    (tmp_path / "manifest.json").write_text("", encoding="utf-8")  # damaged, and still several runs
    files.refuse_existing(tmp_path, overwrite=True, resume=True)


def test_names_that_are_no_text_are_kept_in_json(tmp_path: Path) -> None:
    """As Linux has them of an archive from a Chinese Windows."""
    name = os.fsdecode("中文.txt".encode("gbk"))
    files.write_new(tmp_path / "meta.json", json.dumps({"source": name}, ensure_ascii=False))
    assert files.read_json(tmp_path / "meta.json") == {"source": name}


def test_errors_pass_from_process_to_process() -> None:
    """What is raised in a worker is told as it is, and not as a worker that was killed."""
    errors = [DataError("a", where="b:1", fix="c"), MissingColumn("x", ["y"], "f"), UsageError("d", fix=None)]
    for error in errors:
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error) and again.__dict__ == error.__dict__


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("before", ["nothing", "a directory"])
def test_a_full_disk_at_any_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, code: int) -> None:
    if before == "a directory":
        write(tmp_path / "count", "old")
    total = operations(monkeypatch, lambda: write(tmp_path / "count", "new", overwrite=True))
    assert total > 10
    for number in range(1, total + 1):
        target = tmp_path / f"run-{number}"
        if before == "a directory":
            write(target, "old")
        with monkeypatch.context() as patch:
            done = fail_at(patch, number, OSError(code, os.strerror(code)))
            with pytest.raises(ResourceError) as caught:
                write(target, "new", overwrite=True)
        assert len(done) == number and str(tmp_path) in str(caught.value)
        assert ("the disk is full" in str(caught.value)) == (code == errno.ENOSPC)
        if before == "a directory":
            assert content(target) in ("old", "new")
            assert content(target) == "old" or "rename" in done[:-1], "after the rename it is the new one"
        elif target.exists():
            assert content(target) == "new", "what is there is whole"
        files.sweep(tmp_path)
        assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_process_killed_at_any_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if by SIGKILL: nothing runs after it, not even clean-up, so staging folders may stay; they are never read."""
    total = operations(monkeypatch, lambda: write(tmp_path / "count", "new"))
    code = (
        "import os, sys; from pathlib import Path; from encoderkit import files\n"
        "sys.path.insert(0, sys.argv[3]); import test_files\n"
        "left = [int(sys.argv[2])]\n"
        "def operate(operation, path):\n"
        "    left[0] -= 1\n"
        "    if left[0] == 0: os._exit(9)\n"
        "files._operate = operate\n"
        "test_files.write(Path(sys.argv[1]), 'new')\n"
    )
    for number in range(1, total + 1, 4):
        target = tmp_path / f"run-{number}"
        command = [sys.executable, "-c", code, str(target), str(number), str(Path(__file__).parent)]
        assert subprocess.run(command, check=False, capture_output=True).returncode == 9
        assert not target.exists() or content(target) == "new"
    files.sweep(tmp_path)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_replace_is_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "best"
    files.replace(path, "old")
    total = operations(monkeypatch, lambda: files.replace(path, "old"))
    for number in range(1, total + 1):
        with monkeypatch.context() as patch:
            fail_at(patch, number, OSError(errno.ENOSPC, "full"))
            with pytest.raises(ResourceError):
                files.replace(path, "new")
        assert path.read_text(encoding="utf-8") in ("old", "new") and len(list(tmp_path.iterdir())) == 1
        files.replace(path, "old")


def test_what_was_set_aside_by_a_killed_process_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two names: the old directory has none, and the new one is not yet there."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write(tmp_path / "x", "old")
    (tmp_path / "x").rename(tmp_path / f".trash-x.{ended.pid}")
    with pytest.raises(UsageError, match="exists already"):
        write(tmp_path / "x", "new")
    assert content(tmp_path / "x") == "old"
    write(tmp_path / "y", "older")
    (tmp_path / "y").rename(tmp_path / f".trash-x.{ended.pid}")
    write(tmp_path / "x", "new", overwrite=True)
    assert content(tmp_path / "x") == "new" and not list(tmp_path.glob(".*"))  # what is not needed goes


def test_what_was_set_aside_of_another_name_stays(tmp_path: Path) -> None:
    """.trash-x.v2.PID is of x.v2, and not of x."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    write(tmp_path / "x.v2", "other")
    (tmp_path / "x.v2").rename(tmp_path / f".trash-x.v2.{ended.pid}")
    write(tmp_path / "x", "one")
    write(tmp_path / "x", "two", overwrite=True)
    assert content(tmp_path / "x") == "two" and content(tmp_path / f".trash-x.v2.{ended.pid}") == "other"


def test_a_link_to_an_empty_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "large")
    write(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and content(tmp_path / "large") == "new"
    files.remove(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink() and content(tmp_path / "large") == "new"


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(fd: int, how: int) -> None:
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with files.locked(tmp_path / "run"):
        write(tmp_path / "run" / "step", "new")
    assert "has no locks" in capsys.readouterr().err


def test_two_runs_cannot_share_a_directory(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from encoderkit import files\nwith files.locked(Path(sys.argv[1])): pass"
    command = [sys.executable, "-c", code, str(tmp_path)]
    with files.locked(tmp_path):
        held = subprocess.run(command, check=False, capture_output=True, text=True)
    assert held.returncode != 0 and f"in use by process {os.getpid()}" in held.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_a_folder_that_was_made_to_be_held_goes_if_nothing_came_of_it(tmp_path: Path) -> None:
    made, there, used = tmp_path / "made", tmp_path / "there", tmp_path / "used"
    there.mkdir()
    for folder in (made, there):
        with pytest.raises(DataError), files.locked(folder):
            raise DataError("no such label", fix=None)
    with files.locked(used):
        write(used / "step", "new")
    assert not made.exists() and there.exists() and (used / "step").exists()


def test_a_lock_that_its_holder_has_just_removed_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    opened = os.open

    def late(path: Path, *rest: Any, **more: Any) -> int:
        fd = opened(path, *rest, **more)
        os.unlink(path)
        return fd

    monkeypatch.setattr(os, "open", late)
    with pytest.raises(UsageError, match="in use by"), files.locked(folder):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ResourceError, match="cannot write"):
        write(tmp_path / "file" / "run", "new")


def test_what_a_killed_process_left_goes_and_what_a_living_one_makes_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, living = tmp_path / f".staging-x.{ended.pid}", tmp_path / f".staging-x.{os.getppid()}"
    for folder in (dead, living):
        folder.mkdir()
    with files.staged(tmp_path / "x") as folder:
        files.write_new(folder / "a", "text")
    assert not dead.exists() and living.exists()
