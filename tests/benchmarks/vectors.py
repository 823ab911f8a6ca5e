"""Word vectors beside gensim's, in one run: words a second, word similarity and analogies.

  python -m tests.benchmarks.vectors --corpus corpus.txt --pairs EN-WS-353-ALL.txt --analogies questions-words.txt --out bench

Both read the same words, those of the store that is made of the corpus, with the same window, negatives, subsampling and
number of passes; the learning rates are each one's own. On one thread each, rates are by processor time, so that what else
the machine does matters little; with `--threads` on so many each, by the clock. The vectors of both are judged by gensim,
which has no GloVe. With `--seeds 17,18,19` means over them, and how far a seed is from the mean (standard deviation).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gensim.models import FastText, KeyedVectors, Word2Vec

from encoderkit.config import load
from encoderkit.console import table
from encoderkit.data.store import open_store
from encoderkit.recipe import PretrainRecipe
from encoderkit.stages import export
from encoderkit.stages.pretrain import pretrain
from encoderkit.text.tokenizers import open_tokenizer

RECIPES = Path(__file__).parents[2] / "recipes"
KINDS = {
    "skip-gram": ("word2vec-skipgram", {"sg": 1}),
    "CBOW": ("word2vec-cbow", {"sg": 0, "alpha": 0.05}),
    "fastText": ("fasttext", {"sg": 1, "sample": 1e-4, "bucket": 200_000, "min_n": 3, "max_n": 6, "alpha": 0.05}),
    "GloVe": ("glove", {}),
}


Clock = Callable[[], float]


def ours(name: str, out: Path, epochs: int, seed: int, more: list[str], clock: Clock) -> tuple[KeyedVectors, float]:
    """The recipe of this name, as it is but for its paths and passes; the vectors, and words a second."""
    settings = [f"tokenizer={out / 'tok'}", f"data.train={out / 'tokens'}", "data.dev=null", f"seed={seed}"]
    settings += [] if name == "glove" else [f"training.epochs={epochs}"]
    recipe = load(PretrainRecipe, RECIPES / "pretrain" / f"{name}.yaml", settings + more)
    short = recipe.model_copy(update={"training": recipe.training.model_copy(update={"epochs": None, "updates": 1})})
    pretrain(short, out / name, overwrite=True)  # what is imported when it is first needed is not counted, nor is theirs
    start = clock()
    pretrain(recipe, out / name, overwrite=True)
    seconds = clock() - start
    export.run(out / name, ["word2vec"], out / f"{name}-out", overwrite=True)
    vectors = KeyedVectors.load_word2vec_format(str(out / f"{name}-out" / "vectors.bin"), binary=True)
    return vectors, len(open_store(out / "tokens").ids) * (recipe.training.epochs or 1) / seconds


def theirs(out: Path, epochs: int, seed: int, settings: dict[str, Any], threads: int, clock: Clock) -> tuple[KeyedVectors, float]:
    """gensim on the words of the store, in rows as long as ours."""
    tokenizer, store = open_tokenizer(out / "tok"), open_store(out / "tokens")
    names = np.array([tokenizer.token(i) for i in range(tokenizer.vocab_size)], dtype=object)
    special = np.isin(np.arange(len(names)), list(tokenizer.special))
    rows = []
    for number in range(len(store)):
        ids = np.asarray(store[number]).astype(np.int64)
        kept = names[ids[~special[ids]]].tolist()
        rows += [kept[i : i + 2046] for i in range(0, len(kept), 2046)]
    start, made = clock(), FastText if "bucket" in settings else Word2Vec
    same = dict[str, Any](vector_size=100, window=5, negative=5, sample=1e-3, min_count=1) | settings
    model = made(rows, **same, workers=threads, epochs=epochs, seed=seed)
    return model.wv, len(store.ids) * epochs / (clock() - start)


def judged(vectors: KeyedVectors, pairs: Path, analogies: Path) -> tuple[float, float]:
    """Spearman and the share of analogies that are right, over the words that are there."""
    similar = vectors.evaluate_word_pairs(str(pairs), delimiter="\t")[1][0]
    return 100 * float(similar), 100 * vectors.evaluate_word_analogies(str(analogies), restrict_vocab=16384)[0]


def figures(values: list[tuple[float, ...]]) -> list[str]:
    """Words a second and both scores: means over seeds; of several also their standard deviation."""
    rate, *scores = np.mean(values, axis=0)
    around = np.std(values, axis=0, ddof=1)[1:] if len(values) > 1 else (None, None)
    told = [f"{s:.1f}" + ("" if d is None else f" ± {d:.1f}") for s, d in zip(scores, around, strict=True)]
    return [f"{rate:,.0f}", *told]


def run(*command: object) -> None:
    """A command of encoderkit."""
    subprocess.run([sys.executable, "-m", "encoderkit", *map(str, command)], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("corpus", "pairs", "analogies", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--set", action="append", default=[], help="for ours, as in encoderkit pretrain")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seeds", default="17")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    if not (given.out / "tokens").exists():
        run("train-tokenizer", RECIPES / "tokenizer" / "word-16k.yaml", "--data", given.corpus, "--out", given.out / "tok")
        run("tokenize", "--tokenizer", given.out / "tok", "--data", given.corpus, "--out", given.out / "tokens")
    rows = [["vectors", "by", "words/s", "WordSim-353", "analogies"]]
    for kind in given.only.split(","):
        name, settings = KINDS[kind]
        found: dict[str, list[tuple[float, ...]]] = {}
        for seed in map(int, given.seeds.split(",")):
            made = {"ours": ours(name, given.out, given.epochs, seed, given.set, clock)}
            if settings:
                made["gensim"] = theirs(given.out, given.epochs, seed, settings, given.threads, clock)
            for who, (vectors, rate) in made.items():
                found.setdefault(who, []).append((rate, *judged(vectors, given.pairs, given.analogies)))
                print(json.dumps([kind, who, seed, *found[who][-1]]), flush=True)
        rows += [[kind, who, *figures(values)] for who, values in found.items()]
    print(table(rows))


if __name__ == "__main__":
    main()
