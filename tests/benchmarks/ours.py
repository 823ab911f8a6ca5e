"""A stage of encoderkit with its time but not that of starting Python, which the peers do not count either."""

import json
import sys
import time
from pathlib import Path

from encoderkit.inference import open_model, start
from encoderkit.preflight import find_step
from encoderkit.stages.embed import embed


def main() -> None:
    """`embed MODEL FILE OUT`: seconds, after a warm-up on a few texts."""
    _, _, model, texts, out = sys.argv
    step = find_step(Path(model))
    engine = start(open_model(step))
    engine.vectors(engine.tokens([["a text to warm up with"]] * 64), "mean")
    started = time.perf_counter()
    embed(step, Path(texts), Path(out), columns=["sentence"], overwrite=True)
    print(json.dumps({"seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    main()
