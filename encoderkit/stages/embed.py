"""`encoderkit embed`: one vector a text, as a .npy that numpy maps into memory."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from encoderkit import files
from encoderkit.console import progress, say, warn
from encoderkit.data.unlabelled import open_texts
from encoderkit.errors import DataError, UsageError
from encoderkit.inference import Account, Engine, Precision, open_model, start
from encoderkit.models.pooling import Pooling
from encoderkit.recipe import blind
from encoderkit.stages.predict import windows


def embed(
    step: Path,
    source: Path,
    out: Path,
    pooling: Pooling | None = None,
    normalize: bool = False,
    columns: Sequence[str] | None = None,
    precision: Precision = "auto",
    batch: int | None = None,
    overwrite: bool = False,
    dimensions: int | None = None,
) -> dict[str, Any]:
    """Write (rows, dim) float32 to `out`, in the order of `source`, in memory for a window of rows; the JSON of the command.

    `pooling`: that of a similarity model, the mean for others, if not given. `dimensions`: so many of the first ones alone.
    """
    if out.suffix != ".npy":
        raise UsageError("vectors are written as .npy", where=out, fix=f"--out {out}.npy")
    files.refuse_existing(out, overwrite, file=True)
    engine = start(open_model(step), precision, batch)
    task = engine.model.task
    kind: Pooling = pooling or (task.config.vector if task else None) or "mean"
    if dimensions is not None and dimensions > engine.model.learner.encoder.dim:
        message = f"is {dimensions}, and the vectors have {engine.model.learner.encoder.dim}"
        raise UsageError(message, where="--dimensions", fix="as many, or fewer")
    if reason := blind(engine.model.learner.encoder_config, kind):
        raise UsageError(reason, where="--pooling", fix=None)
    if dimensions not in (None, engine.model.learner.encoder.dim, *getattr(task and task.config, "dimensions", [])):
        warn(f"--dimensions {dimensions}: the model was not trained for it (task.dimensions), and the first ones may say little")
    texts = open_texts(source, _columns(engine, columns), named=bool(columns))
    dim = dimensions or engine.model.learner.encoder.dim
    count = sum(1 for _ in texts.rows())  # the header says how many rows follow
    if not count:
        raise DataError("holds no row", where=texts.source.name, fix="name a file with rows")
    account = Account()
    with files.staged_file(out, overwrite) as target, progress("embedding", count, "rows") as bar:
        target.write(_header(count, dim))
        for window in windows(texts.rows()):
            tokens = engine.tokens(window)
            vectors = engine.vectors(tokens, kind)[:, :dim]
            if normalize:
                vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
            target.write(np.ascontiguousarray(vectors, "<f4").data)
            account = account.add_each([[row] for row in tokens], engine.model.learner.vocabulary.unknown)
            bar.advance(len(window))
        if account.rows != count:
            raise DataError("changed while it was read", where=texts.source.name, fix="run the same command again")
    say(account.told(engine.model.config["length"]))
    return {
        "rows": count,
        "dim": dim,
        "pooling": kind,
        "normalized": normalize,
        "precision": engine.precision,
        "truncated": {"rows": account.truncated, "tokens": account.lost},
        "unknown": {"tokens": account.unknown, "share": account.unknown / max(account.tokens, 1)},
        "out": str(out),
    }


def _columns(engine: Engine, given: Sequence[str] | None) -> list[str]:
    """The columns of the text in files: those of `--column`, or those that the model was trained with."""
    if given and len(given) > 2:
        fix = "--column TEXT, or --column FIRST --column SECOND"
        raise UsageError(f"a text or a pair of texts is read, found {len(given)} columns", where="--column", fix=fix)
    task = engine.model.task
    if given or task is None:
        return list(given or ["text"])
    read = task.config.embedded
    if others := [name for name in task.config.columns if name not in read]:
        say(f"the texts of {' and '.join(read)} are read; --column NAME for those of {', '.join(others)}")
    return read


def _header(rows: int, dim: int) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)})
    return header.getvalue()
