"""`encoderkit bench`: how fast a model directory is on this machine, and what share of the machine's limit that is."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from encoderkit.console import table
from encoderkit.errors import UsageError
from encoderkit.inference import Engine, Precision, open_model, start
from encoderkit.tasks.texts import Tokens, inputs_of
from encoderkit.training.machine import product_rate

LENGTHS = (16, 32, 128)
PERCENTILES = (50, 90, 99)


def bench(step: Path, lengths: Sequence[int] | None, seconds: float, precision: Precision, batch: int | None) -> dict[str, Any]:
    """Texts of each of `lengths` tokens (special ones included), one at a time and in batches; the JSON of the command.

    The texts are random ids, so that what is measured is the model and not the tokenizer. Each measurement takes about
    `seconds`, after a warm-up. `share_of_limit` is the rate of the model's matrix products, batched, over the rate of one
    large product measured at the same time in the same arithmetic.
    """
    engine = start(open_model(step), precision, batch)
    longest = engine.model.config["length"]
    lengths = sorted(set(lengths)) if lengths else [n for n in LENGTHS if n <= longest] or [longest]
    if wrong := [n for n in lengths if not 3 <= n <= longest]:
        raise UsageError(f"a text has 3 to {longest} tokens here, found {wrong[0]}", where="--length", fix=f"--length {longest}")
    found = {str(n): _measure(engine, n, seconds) for n in lengths}
    return {
        "device": engine.device,
        "precision": engine.precision,
        "threads": torch.get_num_threads(),
        "does": "embed" if engine.model.task is None else "predict",
        "lengths": found,
    }


def describe(value: dict[str, Any]) -> str:
    """The result as a person reads it."""
    titles = ["tokens", "texts/s alone", "p50 ms", "p99 ms", "batch", "texts/s", "tokens/s", "GFLOP/s", "of the limit"]
    rows = [titles]
    for length, found in value["lengths"].items():
        alone, batched = found["one_at_a_time"], found["batched"]
        rows.append(
            [
                length,
                f"{alone['texts_per_second']:,.0f}",
                *(f"{alone['milliseconds'][p]:.2f}" for p in ("p50", "p99")),
                f"{batched['batch']:,}",
                *(f"{batched[name]:,.0f}" for name in ("texts_per_second", "tokens_per_second", "gflops")),
                f"{batched['share_of_limit']:.0%}",
            ]
        )
    where = f"{value['does']} on {value['device']}, {value['precision']}, {value['threads']} threads"
    return f"{where}\n{table(rows)}\n"


def _measure(engine: Engine, length: int, seconds: float) -> dict[str, Any]:
    rows = _texts(engine, length, engine.rows_at_once(length))
    single = _times(lambda: _compute(engine, rows[:1]), seconds)
    limit = product_rate(engine.device, engine.precision)
    whole = _times(lambda: _compute(engine, rows), seconds)
    limit = max(limit, product_rate(engine.device, engine.precision))  # the machine may have been busy at one of the two
    rate = len(rows) / float(np.mean(whole))
    work, task = _operations(engine, rows[:1]), engine.model.task
    size = length if task is None else task.probe(rows[0]).size  # of an example, which may be several texts
    return {
        "one_at_a_time": {"texts_per_second": 1 / float(np.mean(single)), "milliseconds": _percentiles(single)},
        "batched": {
            "batch": len(rows),
            "texts_per_second": rate,
            "tokens_per_second": rate * size,
            "milliseconds": _percentiles(whole),
            "gflops": rate * work / 1e9,
            "limit_gflops": limit / 1e9,
            "share_of_limit": rate * work / limit,
        },
    }


def _texts(engine: Engine, length: int, count: int) -> list[Tokens]:
    tokenizer, rng = engine.model.tokenizer, np.random.default_rng(0)
    ordinary = np.setdiff1d(np.arange(tokenizer.vocab_size), list(tokenizer.special))
    rows = []
    for _ in range(count):
        ids = np.concatenate([[tokenizer.cls], rng.choice(ordinary, length - 2), [tokenizer.sep]])
        rows.append(Tokens(ids.astype(np.int64), None, 0))
    return rows


def _compute(engine: Engine, rows: Sequence[Tokens]) -> object:
    """What predict computes for a task, and embed for any other model."""
    task = engine.model.task
    return engine.vectors(rows, "mean") if task is None else engine.observe([task.probe(row) for row in rows])


def _times(work: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call: as many calls as fit into `seconds`, five at least, after a fifth as many to warm up."""
    for limit, least in ((seconds / 5, 2), (seconds, 5)):
        times: list[float] = []
        while sum(times) < limit or len(times) < least:
            before = time.perf_counter()
            work()
            times.append(time.perf_counter() - before)
    return times


def _percentiles(times: list[float]) -> dict[str, float]:
    return {f"p{p}": 1000 * float(np.percentile(times, p)) for p in PERCENTILES}


def _operations(engine: Engine, rows: Sequence[Tokens]) -> float:
    """Multiplications and additions in the matrix products of a text; recurrent layers by the size of their weights."""
    learner = engine.model.learner
    assert isinstance(learner, nn.Module)
    recurrent = sum(p.numel() for m in learner.modules() if isinstance(m, nn.RNNBase) for p in m.parameters() if p.ndim == 2)
    task = engine.model.task
    if task is None:
        inputs, targets = inputs_of(rows, learner.vocabulary.pad, learner.encoder.packs).to(engine.device), {}
    else:
        inputs, targets = task.collate([task.probe(row) for row in rows], [], None).to(engine.device)[:2]
    with engine.arithmetic(), FlopCounterMode(display=False) as counter:
        learner.encoder(inputs) if task is None else task.observe(inputs, targets)
    return counter.get_total_flops() + 2 * recurrent * inputs.ids.numel()
