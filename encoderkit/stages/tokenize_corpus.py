"""`encoderkit tokenize`: text files to a token store, in parallel, the same store whatever the number of workers."""

import hashlib
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import chain
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np

from encoderkit import files
from encoderkit.console import duration, many, progress, say, warn
from encoderkit.data.config import CorpusConfig
from encoderkit.data.corpus import Account, Document, read_documents
from encoderkit.data.records import named_by
from encoderkit.data.store import FORMAT, SourceFile, StoreMeta, StoreWriter, fingerprint, open_store, write_meta
from encoderkit.data.streams import Source, find_sources
from encoderkit.errors import DataError, UsageError
from encoderkit.stages.encode_pool import Disagreement, encode_all, units
from encoderkit.text.config import SegmentConfig
from encoderkit.text.segment import Segmenter, read_segmentation
from encoderkit.text.tokenizers import Tokenizer, open_tokenizer

_JOB = 1024 * 1024
"""Characters of text that a worker is given at a time."""
_PROVED = 4
"""One piece in this many of the first job is encoded twice before a faster library is used, as the slow one takes long."""
_MUCH = 0.02
"""Unknown tokens above this share are a sign that the tokenizer and the text do not belong together."""


class _Given(NamedTuple):
    """What the store is made from: the files as they were before they were read."""

    sources: list[Source]
    hashed: Future[list[SourceFile]]
    """As soon as it is known: reading begins meanwhile."""
    times: list[int]
    config: CorpusConfig
    tokenizer_path: Path
    segmenter: Segmenter | None

    @property
    def files(self) -> list[SourceFile]:
        """What the sources held."""
        return self.hashed.result()

    @property
    def options(self) -> dict[str, Any]:
        """Of the reading and of the segmenter, as they enter the fingerprint."""
        own = {name: getattr(self.config, name) for name in CorpusConfig.model_fields}
        return own if self.segmenter is None else {**own, "segment": self.segmenter.facts}


class _Ends(NamedTuple):
    """Of the pieces of text in a job: which of them end a document, and the hashes of those documents."""

    last: np.ndarray
    hashes: np.ndarray


Job = tuple[list[str], _Ends]


def run(
    paths: Sequence[str | Path],
    tokenizer_path: Path,
    config: CorpusConfig,
    out: Path,
    workers: int | None = None,
    overwrite: bool = False,
    segment: SegmentConfig | None = None,
) -> dict[str, Any]:
    """Write a token store of `paths` to `out`, or use the one there if it is made of the same things.

    `segment`: what tells where words begin; without it the writing itself does (spaces, punctuation).
    Raises `UsageError` if `out` holds anything else (unless `overwrite`), `DataError` for text that cannot be read.
    """
    started = time.monotonic()
    if workers is not None and workers < 1:
        raise UsageError(f"should be at least 1, found {workers}", where="--workers", fix="--workers 1")
    segmenter = None if segment is None else Segmenter(read_segmentation(segment))
    sources, tokenizer = find_sources(paths), open_tokenizer(tokenizer_path)
    times = [_time(source) for source in sources]  # before the hashes, which take a while
    for source in sources:
        _check_readable(source)
    piped = any(source.path is None for source in sources)
    workers = workers or os.cpu_count() or 1
    given = _Given(sources, _hashed(sources), times, config, tokenizer_path, segmenter)
    if not piped and (reused := _same(out, given, tokenizer, overwrite)):
        say(f"{out}: made of the same text, tokenizer and options: used as it is (fingerprint {reused.fingerprint[:12]})")
        return _result(reused, out, time.monotonic() - started, reused=True)
    try:
        quick = not piped and segmenter is None  # a pipe is read only once; a segmenter needs places, which it has not
        meta = _write(out, paths, given, tokenizer, workers, overwrite, quick)
    except Disagreement:
        warn("the faster library gave other ids than tokenizers for a part of this text; beginning again without it")
        tokenizer.slow()
        meta = _write(out, paths, given, tokenizer, workers, overwrite, quick=False)
    result = _result(meta, out, time.monotonic() - started, reused=False)
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in meta.dropped.items()) or "none"
    say(
        f"{many(meta.documents, 'document')}, {many(meta.tokens, 'token')}, {result['bytes_per_token']:.2f} bytes a token, "
        f"{result['unknown_rate']:.3%} unknown; dropped: {dropped}; {duration(result['seconds'])}"
    )
    if segmenter is not None:
        say(f"words by {' '.join(segmenter.facts[name] for name in ('library', 'version'))}; {_straddling(meta)}")
    if result["unknown_rate"] > _MUCH:
        warn(f"{result['unknown_rate']:.0%} of the tokens are unknown; was the tokenizer trained on text like this?")
    return result


def _straddling(meta: StoreMeta) -> str:
    if not meta.straddling:
        return "no token straddles two of them"
    return f"{meta.straddling:,} tokens ({meta.straddling / meta.tokens:.1%}) straddle several, which then count as one word"


def _result(meta: StoreMeta, out: Path, seconds: float, reused: bool) -> dict[str, Any]:
    return {
        "documents": meta.documents,
        "tokens": meta.tokens,
        "dropped": meta.dropped,
        "unknown_rate": meta.unknown / max(meta.tokens, 1),
        **({"straddling": meta.straddling} if "segment" in meta.options else {}),
        "bytes_per_token": meta.bytes / max(meta.tokens, 1),
        "fingerprint": meta.fingerprint,
        "seconds": round(seconds, 3),
        "out": str(out),
        "reused": reused,
    }


def _hashed(sources: Sequence[Source]) -> Future[list[SourceFile]]:
    """Found out by another thread, which does not hold the program up when it ends early."""
    found: Future[list[SourceFile]] = Future()

    def work() -> None:
        try:
            found.set_result([_hash(source) for source in sources])
        except BaseException as error:
            found.set_exception(error)

    Thread(target=work, daemon=True).start()
    return found


def _hash(source: Source) -> SourceFile:
    if source.path is None:
        return SourceFile("-", source.format, 0, "")  # known when it has been read
    try:
        return SourceFile(str(source.path), source.format, source.path.stat().st_size, files.sha256(source.path))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=source.path, fix="name a file that can be read") from None


def _check_readable(source: Source) -> None:
    try:
        if source.path is not None:
            with open(source.path, "rb") as file:
                file.read(1)
    except OSError as error:
        raise UsageError(f"cannot be read: {error.strerror}", where=source.path, fix="name a file that can be read") from None


def _time(source: Source) -> int:
    return 0 if source.path is None else source.path.stat().st_mtime_ns


def _same(out: Path, given: _Given, tokenizer: Tokenizer, overwrite: bool) -> StoreMeta | None:
    """The store at `out` if it is made of the same things; None if there is none, or it may be replaced."""
    if not (out / "meta.json").is_file():
        return None
    try:
        meta = open_store(out).meta
    except DataError:
        if overwrite:
            return None
        raise
    if meta.fingerprint == fingerprint(given.files, tokenizer.fingerprint, given.options):
        return meta
    if overwrite:
        return None
    content = [[(s.format, s.bytes, s.sha256) for s in group] for group in (meta.sources, given.files)]
    names = [*given.options, *(name for name in meta.options if name not in given.options)]
    differs = [f"options ({name})" for name in names if meta.options.get(name) != given.options.get(name)]
    differs += ["tokenizer"] if meta.tokenizer.get("fingerprint") != tokenizer.fingerprint else []
    differs += ["corpus"] if content[0] != content[1] else []
    message = f"holds a store made of something else; what differs: {', '.join(differs) or 'the format'}"
    raise UsageError(message, where=out, fix="another --out, or --overwrite to replace it")


def _write(
    out: Path, paths: Sequence[str | Path], given: _Given, tokenizer: Tokenizer, workers: int, overwrite: bool, quick: bool
) -> StoreMeta:
    """The whole store, or nothing; `quick`: by a faster library if there is one for this tokenizer."""
    with files.staged(out, {"stage": "tokenize"}, overwrite) as folder, named_by({given.config.column: "--set column=NAME"}):
        account = Account()
        jobs = _jobs(read_documents(paths, given.config, account))
        if quick and (first := next(jobs, None)):
            sample = [unit for text in first[0] for unit in units(text)][::_PROVED]
            if name := tokenizer.quicken(sample, parallel=workers > 1):
                say(f"encoding with {name}: the same ids as tokenizers for a sample of {sum(map(len, sample)):,} characters")
            jobs = chain([first], jobs)
        meta = _fill(folder, jobs, account, given, tokenizer, workers)
        write_meta(folder, meta)
    return meta


def _fill(folder: Path, jobs: Iterator[Job], account: Account, given: _Given, tokenizer: Tokenizer, workers: int) -> StoreMeta:
    """Write everything but `meta.json`, and what that has to say."""
    unknown, straddling, without_tokens = 0, 0, 0
    with StoreWriter(folder, tokenizer.vocab_size) as writer, progress("tokenize", None, "documents") as bar:
        for ends, encoded in encode_all(jobs, tokenizer, given.tokenizer_path, workers, _size(given), given.segmenter):
            places = encoded.offsets[1:][ends.last]
            without_tokens += writer.write(encoded.ids, encoded.starts, places, ends.hashes)
            unknown += encoded.unknown
            straddling += encoded.straddling
            bar.advance(len(places), f"{writer.tokens:,} tokens")
    if not writer.tokens:
        raise DataError(
            "the tokenizer makes no token of this text", where=given.sources[0].name, fix="another file, or another tokenizer"
        )
    _check_unchanged(given)
    files.make_folder(folder / "tokenizer")
    for name, data in tokenizer.save_files().items():
        files.write_new(folder / "tokenizer" / name, data)
    dropped = account.dropped + Counter(no_tokens=without_tokens)
    assert account.documents == writer.documents + dropped.total()
    sources = [f if f.sha256 else f._replace(bytes=account.bytes, sha256=account.stdin_sha256) for f in given.files]
    return StoreMeta(
        format=FORMAT,
        vocab_size=tokenizer.vocab_size,
        dtype=writer.dtype.name,
        documents=writer.documents,
        tokens=writer.tokens,
        unknown=unknown,
        dropped=dict(sorted(dropped.items())),
        bytes=account.kept_bytes,
        fingerprint=fingerprint(sources, tokenizer.fingerprint, given.options),
        tokenizer=_facts(tokenizer),
        options=given.options,
        sources=sources,
        straddling=straddling,
    )


def _size(given: _Given) -> int | None:
    """About how many bytes of text there are."""
    known = [(source.path.stat().st_size, source) for source in given.sources if source.path is not None]
    if len(known) < len(given.sources):
        return None
    return sum(size * (4 if source.compression or source.format == "parquet" else 1) for size, source in known)


def _check_unchanged(given: _Given) -> None:
    for source, file, before in zip(given.sources, given.files, given.times, strict=True):
        if source.path is not None and (source.path.stat().st_size, _time(source)) != (file.bytes, before):
            raise DataError("changed while it was read", where=source.path, fix="run the same command again")


def _facts(tokenizer: Tokenizer) -> dict[str, Any]:
    special = {name: getattr(tokenizer, name) for name in ("pad", "unk", "cls", "sep", "mask")}
    return {"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint, "special": special}


def _jobs(documents: Iterator[Document]) -> Iterator[Job]:
    """Documents (and pieces of long ones) gathered into jobs of about `_JOB` characters."""
    texts: list[str] = []
    last: list[bool] = []
    hashes: list[int] = []
    size, content = 0, hashlib.blake2b(digest_size=8)
    for document in documents:
        texts.append(document.text)
        last.append(document.last)
        content.update(document.text.encode())
        if document.last:
            hashes.append(int.from_bytes(content.digest(), "little"))
            content = hashlib.blake2b(digest_size=8)
        size += len(document.text)
        if size >= _JOB:
            yield texts, _Ends(np.array(last, bool), np.array(hashes, np.uint64))
            texts, last, hashes, size = [], [], [], 0
    if texts:
        yield texts, _Ends(np.array(last, bool), np.array(hashes, np.uint64))
