"""A damaged checkpoint is seen and passed over; a run is never begun again in silence, or continued as another run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from encoderkit import files
from encoderkit.errors import DataError
from tests.reliability.conftest import Reference
from tests.reliability.small import Server, assert_same, fresh, result, steps, tokenizer

FILES = ("model.safetensors", "config.json", "tokenizer/tokenizer.json", "resume/optimizer.safetensors", "resume/state.json")


def flip(path: Path) -> None:
    """One bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    """The second half lost."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: Path) -> None:
    """As a file is after a power failure: its size, and nothing in it."""
    path.write_bytes(bytes(path.stat().st_size))


def copy(server: Server, reference: Reference, name: str) -> Path:
    run = fresh(server.folder / f"{name}-{reference.stage}")
    shutil.copytree(reference.out, run)
    return run


def tree(folder: Path) -> dict[str, str]:
    """Every file but the lock, and what is in it."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(folder)): files.sha256(path) for path in found}


@pytest.mark.parametrize("damage", [flip, cut, zero, Path.unlink])
@pytest.mark.parametrize("name", [*FILES, "MANIFEST.json"])
def test_every_damage_to_a_checkpoint_is_seen(
    references: dict[str, Reference], tmp_path: Path, damage: Callable[[Path], None], name: str
) -> None:
    step = shutil.copytree(references["pretrain"].out / "step-0000003", tmp_path / "step")
    files.verify(step)
    damage(step / name)
    with pytest.raises(DataError):
        files.verify(step)


def test_every_bit_of_a_manifest(references: dict[str, Reference], tmp_path: Path) -> None:
    """Each is noticed, unless what the manifest says of the files is what it was."""
    step = shutil.copytree(references["finetune"].out / "step-0000003", tmp_path / "step")
    path = step / files.MANIFEST
    whole = path.read_bytes()
    said = json.loads(whole)["files"]
    for i in range(0, len(whole), 3):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        try:
            assert files.verify(step)["files"] == said
        except DataError:
            continue


@pytest.mark.parametrize("damage", [flip, Path.unlink])
def test_the_newest_whole_checkpoint_is_continued(server: Server, reference: Reference, damage: Callable[[Path], None]) -> None:
    run = copy(server, reference, "damaged")
    damage(run / "step-0000003" / "model.safetensors")
    ended = server.train(reference.stage, run.name)
    assert ended.code == 0, ended
    assert "checkpoint passed over" in ended.err and "continuing" in ended.err
    assert_same(run, reference.result)
    assert (run / "damaged-step-0000003").is_dir()


@pytest.mark.parametrize("damage", [flip, None])
def test_a_run_without_a_whole_checkpoint_is_not_begun_again(server: Server, reference: Reference, damage: object) -> None:
    run = copy(server, reference, "lost")
    for step in steps(run):
        flip(step / "resume" / "state.json") if damage else shutil.rmtree(step)
    before = tree(run)
    ended = server.train(reference.stage, run.name)
    assert ended.code == 3, ended
    assert "another --out" in ended.err
    assert tree(run) == before


@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "recipe.yaml"])
@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_damaged_run_is_told_and_left(server: Server, reference: Reference, name: str, damage: Callable[[Path], None]) -> None:
    run = copy(server, reference, "broken")
    damage(run / name)
    before = tree(run)
    ended = server.train(reference.stage, run.name)
    assert ended.code in (2, 3) and "Traceback" not in ended.err, ended
    assert tree(run) == before


def test_another_recipe_is_refused_with_what_differs(server: Server, reference: Reference) -> None:
    run = copy(server, reference, "changed")
    before = tree(run)
    changes = ("--set", "optimizer.weight_decay=0.5", "--set", "training.batch=4", "--set", "seed=18")
    ended = server.train(reference.stage, run.name, *changes)
    assert ended.code == 2, ended
    assert "different: optimizer.weight_decay, seed, training.batch\n" in ended.err
    assert tree(run) == before


def test_how_often_it_looks_and_saves_may_change(server: Server, reference: Reference) -> None:
    run = fresh(server.folder / f"cadence-{reference.stage}")
    assert server.train(reference.stage, run.name, kill=reference.number("rename", "step-0000002")).code == -9
    often = ("--set", "every.log=1 updates", "--set", "every.evaluate=1 updates", "--set", "every.save=2 updates")
    assert server.train(reference.stage, run.name, *often).code == 0
    found = result(run)
    for name in ("model.safetensors", "resume/optimizer.safetensors"):
        assert found[name] == reference.result[name]


@pytest.mark.parametrize(("stage", "changed"), [("finetune", "train.jsonl"), ("finetune", "dev.jsonl"), ("pretrain", "tokens")])
def test_other_data_or_another_tokenizer_are_refused(
    server: Server, references: dict[str, Reference], stage: str, changed: str
) -> None:
    run = copy(server, references[stage], "elsewhere")
    before, path = tree(run), server.folder / changed
    kept = path.rename(path.with_name("kept"))
    try:
        if changed == "tokens":  # as if made of other text, from the same recipe
            shutil.copytree(kept, path)
            meta = json.loads((path / "meta.json").read_text(encoding="utf-8"))
            (path / "meta.json").write_text(json.dumps(meta | {"fingerprint": "0" * 64}), encoding="utf-8")
            remake(path)
        else:
            path.write_text("".join(reversed(kept.read_text(encoding="utf-8").splitlines(True))), encoding="utf-8")
        ended = server.train(stage, run.name)
    finally:
        fresh(path) if path.is_dir() else path.unlink()
        kept.rename(path)
    assert ended.code == 3, ended
    assert f"data.{changed.removesuffix('.jsonl').replace('tokens', 'train')} changed since the run began" in ended.err
    assert tree(run) == before


def remake(folder: Path) -> None:
    """A manifest for what `folder` holds now."""
    manifest = json.loads((folder / files.MANIFEST).read_text(encoding="utf-8"))
    for name, entry in manifest["files"].items():
        entry |= {"bytes": (folder / name).stat().st_size, "sha256": files.sha256(folder / name)}
    (folder / files.MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def test_another_tokenizer_is_refused(server: Server, references: dict[str, Reference]) -> None:
    run = copy(server, references["finetune"], "retokenized")
    before, path = tree(run), server.folder / "tokenizer"
    kept = path.rename(path.with_name("kept"))
    try:
        tokenizer(path, "char")
        ended = server.train("finetune", run.name)
    finally:
        fresh(path)
        kept.rename(path)
    assert ended.code == 3 and "tokenizer changed since the run began" in ended.err, ended
    assert tree(run) == before


def test_only_a_run_can_be_continued(server: Server, reference: Reference) -> None:
    out = fresh(server.folder / "mine")
    out.mkdir()
    (out / "thesis.txt").write_text("three years of work", encoding="utf-8")
    ended = server.train(reference.stage, out.name)
    assert ended.code == 2 and "not a run" in ended.err, ended
    assert tree(out).keys() == {"thesis.txt"}
