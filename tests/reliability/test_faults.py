"""A run that is killed, or whose disk fails, at any operation goes on to the same end; nothing half done looks whole."""

import errno
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from encoderkit import files
from tests.reliability.conftest import Reference
from tests.reliability.small import Server, assert_same, assert_whole, fresh, steps


def sample(reference: Reference, stride: int, telling: tuple[str, ...] = ()) -> list[int]:
    """Every `stride`-th operation and, in the last save, each of the kinds that are `telling`."""
    last = reference.number("mkdir", reference.out.name, 0)
    chosen = [i for i, (kind, _) in enumerate(reference.operations, 1) if i >= last and kind in telling]
    return sorted({*range(1, len(reference.operations) + 1, stride), *chosen})


def each(numbers: list[int], check: Callable[[int], None]) -> None:
    """Two at a time; the first failure is raised."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(check, numbers))


def retained(run: Path, reference: Reference, number: int) -> None:
    """What was committed before the operation `number` is still there: two checkpoints, and the best one."""
    renames = sum(kind == "rename" and "step-" in path for kind, path in reference.operations[: number - 1])
    assert_whole(run)
    assert len(steps(run)) >= min(2, renames)
    if (run / "best").exists():
        files.verify(run / (run / "best").read_text(encoding="utf-8").strip())


def killed(server: Server, reference: Reference, number: int) -> None:
    """Killed before the operation `number`, continued, and the same."""
    run = fresh(server.folder / f"killed-{reference.stage}-{number}")
    ended = server.train(reference.stage, run.name, kill=number)
    assert ended.code == -9, (number, ended)
    if run.exists():
        retained(run, reference, number)
    ended = server.train(reference.stage, run.name)
    assert ended.code == 0, (number, ended)
    assert_same(run, reference.result)
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    fresh(run)


def test_killed_at_an_operation_it_goes_on_to_the_same_end(server: Server, reference: Reference) -> None:
    each(sample(reference, 19, telling=("rename", "remove", "append", "mkdir")), lambda n: killed(server, reference, n))


@pytest.mark.slow
def test_killed_at_every_operation_it_goes_on_to_the_same_end(server: Server, reference: Reference) -> None:
    each(list(range(1, len(reference.operations) + 1)), lambda n: killed(server, reference, n))


def failed(server: Server, reference: Reference, number: int, code: int, last: int | None) -> None:
    """Operations fail, with exit code 5 and a message; what was saved before is whole, and it goes on to the same end."""
    run = fresh(server.folder / f"failed-{reference.stage}-{number}-{code}-{last}")
    ended = server.train(reference.stage, run.name, error=[number, code, last])
    assert ended.code == 5, (number, ended)
    assert ended.err.split("\n")[-3 if "fix:" in ended.err else -2].startswith("error: "), (number, ended)
    assert "Traceback" not in ended.err
    if run.exists():
        retained(run, reference, number)
    ended = server.train(reference.stage, run.name)
    assert ended.code == 0, (number, ended)
    assert_same(run, reference.result)
    fresh(run)


@pytest.mark.parametrize("persistent", [False, True])
def test_when_the_disk_fails_the_last_checkpoint_is_whole(server: Server, reference: Reference, persistent: bool) -> None:
    code = errno.ENOSPC if persistent else errno.EIO
    each(sample(reference, 41), lambda n: failed(server, reference, n, code, None if persistent else n))


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("persistent", [False, True])
def test_when_any_operation_fails(server: Server, reference: Reference, code: int, persistent: bool) -> None:
    numbers = list(range(1, len(reference.operations) + 1))
    each(numbers, lambda n: failed(server, reference, n, code, None if persistent else n))


def test_a_file_that_may_not_grow_ends_the_run_with_a_message(server: Server, reference: Reference) -> None:
    """By the kernel's own limit: the file is really cut off in the middle."""
    run = fresh(server.folder / f"limited-{reference.stage}")
    ended = server.train(reference.stage, run.name, file_size=6000)
    assert ended.code == 5 and "the file is larger than this disk, or ulimit -f, allows" in ended.err, ended
    assert steps(run) == []
    assert server.train(reference.stage, run.name).code == 0
    assert_same(run, reference.result)


@pytest.mark.parametrize("again", [1, 3, 12, 30])
def test_killed_again_while_it_is_continued(server: Server, reference: Reference, again: int) -> None:
    run = fresh(server.folder / f"twice-{reference.stage}-{again}")
    number = reference.number("rename", "step-0000002") + 1
    assert server.train(reference.stage, run.name, kill=number).code == -9
    for _ in range(2):
        assert server.train(reference.stage, run.name, kill=again).code == -9
        assert_whole(run)
    assert server.train(reference.stage, run.name).code == 0
    assert_same(run, reference.result)
