"""One server and one undisturbed run of each stage, shared by all tests here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.reliability.small import STAGES, Server, build, result, serving


class Reference(NamedTuple):
    """An undisturbed run."""

    stage: str
    out: Path
    operations: list[tuple[str, str]]
    """On the disk, in order."""
    result: dict[str, Any]

    def number(self, operation: str, name: str, nth: int = 1) -> int:
        """Which operation is the nth of its kind on a path that ends so; the first is 1, the last 0."""
        found = [i for i, (kind, path) in enumerate(self.operations, 1) if kind == operation and path.endswith(name)]
        return found[nth - 1]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Runs commands, each in a process of its own."""
    with serving(build(tmp_path_factory.mktemp("reliability"))) as server:
        yield server


@pytest.fixture(scope="session")
def references(server: Server) -> dict[str, Reference]:
    """Each stage, undisturbed."""
    found = {}
    for stage in STAGES:
        trace = server.folder / f"{stage}.trace"
        ended = server.train(stage, f"undisturbed-{stage}", trace=str(trace))
        assert ended.code == 0, ended.err
        operations = [tuple(entry) for entry in json.loads(trace.read_text(encoding="utf-8"))]
        out = server.folder / f"undisturbed-{stage}"
        found[stage] = Reference(stage, out, operations, result(out))
    return found


@pytest.fixture(params=STAGES)
def reference(request: pytest.FixtureRequest, references: dict[str, Reference]) -> Reference:
    """One of them after the other."""
    return references[request.param]
