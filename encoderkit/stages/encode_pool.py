"""Texts to ids by several processes, in order, with a bounded number of texts under way."""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import accumulate, chain
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from encoderkit.data.streams import cut
from encoderkit.errors import ResourceError
from encoderkit.text.segment import Segmentation, Segmenter
from encoderkit.text.tokenizers import Encoded, Tokenizer, open_tokenizer

_UNIT = 32 * 1024
"""Characters that the tokenizer sees at once: its own memory and time grow with the length of a text."""
_WORTH, _WORTH_QUICK = 4 * 1024 * 1024, 32 * 1024 * 1024
"""Bytes of input that make another process worth starting; also of a faster tokenizer."""

_COMPARED = 8
"""One job in this many has its first unit encoded a second time, to compare."""

T = TypeVar("T")

_tokenizer: Tokenizer | None = None  # of a worker process, set once when it starts
_segmenter: Segmenter | None = None  # likewise
_refusal: Exception | None = None  # why it could not start, told with the first job


class Disagreement(Exception):
    """A faster library gave other ids than `tokenizers`."""


def encode_all(
    jobs: Iterable[tuple[list[str], T]],
    tokenizer: Tokenizer,
    path: Path,
    workers: int,
    size: int | None,
    segmenter: Segmenter | None = None,
) -> Iterator[tuple[T, Encoded]]:
    """The texts of each job encoded, in the order of the jobs, by at most `workers` processes.

    `path` is where the processes find the tokenizer, `size` about the bytes of the input if that is known; `segmenter`
    says where words begin. A job has the same result whoever does it. Raises what a worker raised, or `ResourceError` if
    one was killed. A tokenizer that was quickened is compared with the slow one all along, and `Disagreement` raised where
    they differ.
    """
    if size is not None:
        workers = min(workers, -(-size // (_WORTH_QUICK if tokenizer.quick else _WORTH)))
    if tokenizer.threaded or workers <= 1:
        yield from _here(jobs, tokenizer, segmenter, beside=workers > 1)
        return
    context = multiprocessing.get_context("spawn")  # threads of a library do not survive a fork
    pool = ProcessPoolExecutor(workers, context, _start, (path, tokenizer.quick, segmenter and segmenter.given))
    under_way: deque[tuple[T, Future[Encoded]]] = deque()
    try:
        for number, (texts, extra) in enumerate(jobs):
            _compare(number, texts, tokenizer)
            with _apart():  # the processes start when the first job is submitted
                under_way.append((extra, pool.submit(_encode, texts)))
            if len(under_way) >= 3 * workers:
                done, future = under_way.popleft()
                yield done, future.result()
        while under_way:
            done, future = under_way.popleft()
            yield done, future.result()
    except BrokenProcessPool:
        message = "a worker process was killed, probably because memory ran out"
        raise ResourceError(message, fix=f"--workers {max(workers // 2, 1)}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _here(
    jobs: Iterable[tuple[list[str], T]], tokenizer: Tokenizer, segmenter: Segmenter | None, beside: bool
) -> Iterator[tuple[T, Encoded]]:
    """In this process; `beside`: a job is encoded while the next ones are read and the last one is used."""

    def encoded(number: int, texts: list[str]) -> Encoded:
        _compare(number, texts, tokenizer)
        return encode(tokenizer, texts, segmenter)

    encoder = ThreadPoolExecutor(1, "encoder")
    under_way: deque[tuple[T, Future[Encoded]]] = deque()
    try:
        for number, (texts, extra) in enumerate(jobs):
            under_way.append((extra, encoder.submit(encoded, number, texts)))
            if len(under_way) > 2 * beside:
                done, future = under_way.popleft()
                yield done, future.result()
        yield from ((done, future.result()) for done, future in under_way)
    finally:
        encoder.shutdown(cancel_futures=True)


def _compare(number: int, texts: list[str], tokenizer: Tokenizer) -> None:
    if tokenizer.quick and number % _COMPARED == 0 and not tokenizer.agrees(units(texts[0])[:1]):
        raise Disagreement


def units(text: str) -> list[str]:
    """`text` in pieces of a size that the tokenizer is given at once."""
    return [unit for unit, _ in cut(text, _UNIT)] if len(text) > _UNIT else [text]


def encode(tokenizer: Tokenizer, texts: list[str], segmenter: Segmenter | None = None) -> Encoded:
    """`texts` encoded, long ones in units whose ends depend on the text alone."""
    groups = [units(text) for text in texts]
    encoded = tokenizer.encode(list(chain.from_iterable(groups)), segmenter)
    ends = [0, *accumulate(len(group) for group in groups)]
    return encoded._replace(offsets=encoded.offsets[ends])


@contextmanager
def _apart() -> Iterator[None]:
    """Processes that start in this block do not hear Ctrl-C, and do not import the program that started them.

    The parent deals with Ctrl-C. The program may be a script without the `__name__` guard, or come from a pipe.
    """
    program, main_thread = sys.modules["__main__"], threading.current_thread() is threading.main_thread()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}) if main_thread else set()
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program
        if main_thread:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _start(path: Path, quick: bool, segmentation: Segmentation | None) -> None:
    """Make this process a worker: one thread, deaf to Ctrl-C, gone when its parent is gone."""
    global _tokenizer, _segmenter, _refusal
    os.environ["TOKENIZERS_PARALLELISM"], os.environ["RAYON_NUM_THREADS"] = "false", "1"
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    try:
        _tokenizer = open_tokenizer(path)
        if quick:
            _tokenizer.quicken([], parallel=False)
        _segmenter = None if segmentation is None else Segmenter(segmentation)
    except Exception as error:
        _refusal = error


def _encode(texts: list[str]) -> Encoded:
    if _refusal is not None:
        raise _refusal
    assert _tokenizer is not None
    return encode(_tokenizer, texts, _segmenter)
