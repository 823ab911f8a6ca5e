"""encoderkit's side of the table, each a process of its own that prints one JSON object.

Times are of a stage without that of starting Python, which the peers do not count either.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from encoderkit.config import load
from encoderkit.data.order import rng
from encoderkit.inference import open_model, start
from encoderkit.preflight import find_step
from encoderkit.recipe import PretrainRecipe
from encoderkit.stages.embed import embed as embed_stage
from encoderkit.stages.predict import predict as predict_stage
from encoderkit.stages.pretrain import prepare
from encoderkit.training.machine import choose_device, product_rate

ROWS = 8


def embed(model: str, texts: str, out: str) -> dict[str, float]:
    """Seconds, after a warm-up on a few texts; what it writes goes into the folder `out`."""
    step = find_step(Path(model))
    engine = start(open_model(step))
    engine.vectors(engine.tokens([["a text to warm up with"]] * 64), "mean")
    started = time.perf_counter()
    embed_stage(step, Path(texts), Path(out) / "vectors.npy", columns=["sentence"], overwrite=True)
    return {"seconds": time.perf_counter() - started}


def predict(model: str, texts: str, out: str) -> dict[str, float]:
    """Likewise."""
    step, written = find_step(Path(model)), Path(out) / "predictions.jsonl"
    predict_stage(step, None, [["a text to warm up with"]] * 64, written, overwrite=True)
    started = time.perf_counter()
    predict_stage(step, Path(texts), out=written, overwrite=True)
    return {"seconds": time.perf_counter() - started}


def operations(recipe: str) -> dict[str, float]:
    """Multiplications and additions a token, in the matrix products of a pass forward and one back."""
    made: Any = prepare(load(PretrainRecipe, Path(recipe)))
    learner = made.learner
    assert isinstance(learner, nn.Module)
    batch: Any = made.learner.collate([made.train[i] for i in range(ROWS)], [rng(17, 0, i) for i in range(ROWS)], 0.0)
    with FlopCounterMode(display=False) as counter:
        torch.stack(list(learner(batch.inputs, batch.targets).values())).sum().backward()
    return {"operations": counter.get_total_flops() / batch.tokens}


def product(precision: Any) -> dict[str, float]:
    """Operations a second of one large matrix product."""
    return {"rate": product_rate(choose_device("auto"), precision)}


WORK = {f.__name__: f for f in (embed, predict, operations, product)}


def main() -> None:
    """Do one piece of work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("words", nargs="*", help="what it takes")
    a = parser.parse_args()
    print(json.dumps(WORK[a.work](*a.words)))


if __name__ == "__main__":
    main()
