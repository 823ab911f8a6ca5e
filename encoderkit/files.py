"""Every write of every command: whole or not at all, hashed, on the disk before it counts.

A directory that a stage writes is staged beside its place, given a `MANIFEST.json` with the size and SHA-256 of each
file, synced, and renamed into place; the rename is the moment it exists. A reader checks the manifest, so a torn,
edited or mixed-up directory is never taken for a whole one. (SHA-256 without a key detects accidents, not an attacker.)

Each operation on the disk goes through `_operate`, so that a test can make the n-th one fail or kill the process there.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from encoderkit.console import warn
from encoderkit.errors import DataError, ResourceError, UsageError, refuse_pointer
from encoderkit.ours import LEFT, MANIFEST, OURS, STAGING, TRASH, refuse_foreign

_AGAIN = "copy the directory again from where it was made; a run has older steps beside it"
_CHUNK = 4 * 1024 * 1024
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk has no room left for this user (a quota)",
    errno.EFBIG: "the file is larger than this disk, or ulimit -f, allows",
}


def _operate(operation: str, path: Path) -> None:
    """Called before each operation on the disk: nothing in production, a fault in tests."""


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            free = _free(path) if error.errno == errno.ENOSPC else None
            left = "" if free is None else f" ({free // 2**20} MiB left)"
            message = f"{_FULL[error.errno]}{left}; what was saved before is intact"
            fix = "make room there, then run the same command again, a run with --resume"
            raise ResourceError(message, where=path, fix=fix) from error
        fix = "another place, or the right to write there"
        raise ResourceError(f"cannot write: {error.strerror or error}", where=path, fix=fix) from error


def _free(path: Path) -> int | None:
    for folder in (path, *path.parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


class Writer:
    """A new file that is hashed while it is written and synced when it is closed.

    Use as a context manager; `sha256` and `size` are known after it. Raises `ResourceError` when the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.size, self._hash = path, 0, hashlib.sha256()
        with _explained(path):
            _operate("create", path)
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)

    def write(self, data: bytes | memoryview | str) -> None:
        r"""Append `data`, a text in UTF-8; of a file name that is none the bytes as \udcXX, which JSON reads as what it was."""
        view = memoryview(data.encode(errors="backslashreplace") if isinstance(data, str) else data).cast("B")
        with _explained(self.path):
            for start in range(0, len(view), _CHUNK):
                chunk = view[start : start + _CHUNK]
                self._hash.update(chunk)
                while chunk:
                    _operate("write", self.path)
                    chunk = chunk[os.write(self._fd, chunk) :]
        self.size += len(view)

    @property
    def sha256(self) -> str:
        """The hash of what was written so far."""
        return self._hash.hexdigest()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with _explained(self.path):
                    _operate("fsync", self.path)
                    os.fsync(self._fd)
        finally:
            with _explained(self.path):
                os.close(self._fd)


def write_new(path: Path, data: bytes | str) -> None:
    """A new file with `data`; it must not exist."""
    with Writer(path) as file:
        file.write(data)


@contextmanager
def _replacing(target: Path) -> Iterator[Writer]:
    """A file written beside `target` that takes its place when the block ends without an error, and is gone otherwise."""
    temporary = _staging(target)
    with _explained(target):
        temporary.unlink(missing_ok=True)
    try:
        with Writer(temporary) as file:
            yield file
        with _explained(target):
            _operate("rename", target)
            os.replace(temporary, target)
            _sync_folder(target.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def replace(path: Path, data: bytes | str) -> None:
    """`path` with `data` in place of what was there: readers see the old or the new, never a part."""
    with _replacing(path) as file:
        file.write(data)


@contextmanager
def staged_file(target: Path, overwrite: bool = False) -> Iterator[Writer]:
    """A file to write piece by piece that becomes `target`, whole, when the block ends without an error.

    Raises `UsageError` if `target` exists (unless `overwrite`), `ResourceError` if the disk fails.
    """
    if target.is_dir():
        raise UsageError("a file is to be written, but this is a directory", where=target, fix=f"--out {target / 'NAME'}")
    refuse_existing(target, overwrite, file=True)
    make_folder(target.parent)
    with _replacing(target) as file:
        yield file
        refuse_existing(target, overwrite, file=True)


def append(path: Path, line: str) -> None:
    """One more line at the end of a log."""
    with _explained(path):
        _operate("append", path)
        with open(path, "ab") as file:
            file.write(line.encode() + b"\n")


def make_folder(path: Path) -> None:
    """The folder `path` and its parents, if they are not there."""
    with _explained(path):
        _operate("mkdir", path)
        path.mkdir(parents=True, exist_ok=True)


def _sync_folder(path: Path) -> None:
    _operate("fsync", path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(path: Path) -> None:
    """Remove a directory: renamed first, so that what is half removed is never read."""
    if not path.exists() and not path.is_symlink():
        return
    trash = path if path.name.startswith((TRASH, STAGING)) else path.with_name(f"{TRASH}{path.name}.{os.getpid()}")
    with _explained(path):
        _operate("remove", path)
        if trash != path:
            shutil.rmtree(trash, ignore_errors=True)
            path.rename(trash)
        shutil.rmtree(trash) if trash.is_dir() and not trash.is_symlink() else trash.unlink()


def move(path: Path, target: Path) -> None:
    """Give a directory another name beside it; what had that name before goes."""
    remove(target)
    with _explained(path):
        _operate("rename", target)
        path.rename(target)
        _sync_folder(target.parent)


def _staging(target: Path) -> Path:
    """Where this process makes `target`; what killed processes left of their own making of it (not of x.v2 for x) goes.

    What such a process had set aside, without having put anything in its place, comes back.
    """
    own = re.compile(rf"({re.escape(TRASH)}|{re.escape(STAGING)}){re.escape(target.name)}\.(\d+)")
    for left in [*target.parent.iterdir()] if target.parent.is_dir() else []:
        found = own.fullmatch(left.name)
        if found is None or _alive(int(found[2])):
            continue
        with suppress(OSError):
            ours = left.is_dir() and any(names <= {p.name for p in left.iterdir()} for names in OURS)
            if found[1] == TRASH and ours and not target.exists():
                left.rename(target)
            else:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
    return target.with_name(f"{STAGING}{target.name}.{os.getpid()}")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:  # it may be somebody else's
        return not isinstance(error, ProcessLookupError)
    return True


def sweep(folder: Path) -> None:
    """Remove what a killed process left half done in `folder`."""
    if folder.is_dir():
        for path in folder.iterdir():
            if LEFT.fullmatch(path.name):
                with suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def refuse_existing(
    path: Path,
    overwrite: bool,
    resume: bool = False,
    known: Collection[str] = (),
    flag: str = "--out",
    file: bool = False,
    step: bool = False,
) -> None:
    """Raise `UsageError` if `path` holds something and nobody said that it may go, or that is not ours to remove.

    `resume`: `path` is for a run, which is written into a directory; all else is replaced as a whole. `known`: what a
    directory of ours that has no manifest may hold. `flag`: what names `path`. `file`: a file is written, not a directory;
    `step`: a checkpoint, in its run.
    """
    if not (path.exists() or path.is_symlink()):
        return
    if not (path.is_dir() or path.is_file() or path.is_symlink()):
        raise UsageError("is a device or a pipe, which is not replaced", where=path, fix=f"another {flag}, or > FILE")
    here = Path.cwd().is_relative_to(path.resolve())
    if not resume and path.is_dir() and (here or os.path.ismount(path)):
        what = "holds the working directory" if here else "is a mount point"
        raise UsageError(f"{what} and would be replaced as a whole", where=path, fix=f"{flag} {path / 'NAME'}")
    names = (p.name for p in path.iterdir()) if path.is_dir() else ()
    held = [name for name in names if name != "lock" and not LEFT.fullmatch(name)]
    if path.is_dir() and not held:
        return
    if path.is_file() and not file:
        raise UsageError("is a file, and a directory is written here", where=path, fix=f"another {flag}")
    if overwrite:
        refuse_foreign(path, held, known, resume, step)
        return
    ways = "--resume to continue it, --overwrite to replace it" if resume else "--overwrite to replace it"
    raise UsageError("exists already and nothing is overwritten unasked", where=path, fix=f"another {flag}, or {ways}")


@contextmanager
def staged(target: Path, facts: dict[str, Any] | None = None, overwrite: bool = False, step: bool = False) -> Iterator[Path]:
    """A directory to fill that becomes `target`, whole and with a manifest, when the block ends without an error.

    `facts` are kept in the manifest; `step`: it is a checkpoint. Raises `UsageError` if `target` exists (unless
    `overwrite`), `ResourceError` if the disk fails; then nothing of it is left and what was there before is untouched.
    """
    target = target.resolve() if target.is_symlink() or target.name in ("", "..") else target
    staging = _staging(target)
    refuse_existing(target, overwrite, step=step)
    make_folder(target.parent)
    remove(staging)
    make_folder(staging)
    try:
        yield staging
        with _explained(staging):
            entries = _entries(staging)
            for folder in sorted({staging / Path(name).parent for name in entries}):
                _sync_folder(folder)
            write_new(staging / MANIFEST, json.dumps({"files": entries, **(facts or {})}, indent=1, sort_keys=True))
            _sync_folder(staging)
            refuse_existing(target, overwrite, step=step)  # another command may have been there first
            with _set_aside(target):
                _operate("rename", target)
                staging.rename(target)
            _sync_folder(target.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


@contextmanager
def _set_aside(path: Path) -> Iterator[None]:
    """Free the name of `path` for the block: what had it goes when the block succeeds, and gets it back when it does not."""
    if not (path.exists() or path.is_symlink()):
        yield
        return
    trash = path.with_name(f"{TRASH}{path.name}.{os.getpid()}")
    shutil.rmtree(trash, ignore_errors=True)
    _operate("remove", path)
    path.rename(trash)
    try:
        yield
    except BaseException:
        trash.rename(path)
        raise
    with suppress(OSError):  # the new one is in place; `sweep` takes what is left of the old one
        shutil.rmtree(trash) if trash.is_dir() and not trash.is_symlink() else trash.unlink()


def _entries(folder: Path) -> dict[str, dict[str, Any]]:
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": sha256(p)} for p in files}


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises `DataError` if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        if isinstance(error, ValueError):
            refuse_pointer(path.read_bytes(), path)
        reason = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else f"not valid JSON ({error})"
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else reason
        raise DataError(reason, where=path, fix="name the directory that an earlier command wrote, or copy it again") from None


def verify(folder: Path, hashes: bool = True) -> dict[str, Any]:
    """The manifest of a directory whose files are all there and unchanged; raises `DataError` otherwise.

    `hashes=False` compares sizes only (for large stores that are opened often).
    """
    manifest = read_json(folder / MANIFEST)
    entries = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(entries, dict) or not all(isinstance(e, dict) and {"bytes", "sha256"} <= {*e} for e in entries.values()):
        raise DataError("not a manifest of encoderkit", where=folder / MANIFEST, fix=_AGAIN)
    for name, entry in entries.items():
        path = folder / name
        if ".." in Path(name).parts or not path.is_file():
            raise DataError("a file of this directory is missing; it is damaged", where=path, fix=_AGAIN)
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise DataError(f"has {size} bytes where {entry['bytes']} were written; it is damaged", where=path, fix=_AGAIN)
        if hashes and sha256(path) != entry["sha256"]:
            raise DataError("its content has changed since it was written; it is damaged", where=path, fix=_AGAIN)
    return manifest


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process alone; raises `UsageError` naming who holds it.

    The kernel frees the lock when the process ends, however it ends, so there is nothing stale to remove by hand. A folder
    that was made for it, and that nothing came into, goes again.
    """
    made = not folder.exists()
    make_folder(folder)
    path = folder / "lock"
    with _explained(path):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink == 0:  # its holder, ending, has just removed it
                raise BlockingIOError
        except BlockingIOError:
            holder = os.pread(fd, 200, 0).decode(errors="replace").strip() or "another process"
            raise UsageError(f"in use by {holder}", where=folder, fix="wait for it, or choose another --out") from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
            warn(f"{folder}: this file system has no locks, so nothing keeps a second command from writing here")
        with _explained(path):
            _operate("write", path)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        try:
            yield
        finally:
            with suppress(OSError):
                if made and [entry.name for entry in folder.iterdir()] == [path.name]:
                    path.unlink()
                    folder.rmdir()
    finally:
        os.close(fd)
