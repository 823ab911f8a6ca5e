"""The table of ratios: encoderkit beside its peers, in one run, on the same machine, data, model and arithmetic.

  python -m tests.benchmarks.compare --corpus corpus.txt --chinese chinese.txt --data train.jsonl --out bench
  python -m tests.benchmarks.compare ... --only tokenizers,finetune

corpus.txt is raw text (paragraphs, blank lines between documents), train.jsonl has rows {"sentence", "label"}. Ours and
the peers run in processes of their own, in turn, so that what else the machine does falls on both; peak memory is that
of each process. Needs the extra `test`; sentence-transformers, ONNX Runtime (with onnx and onnxscript)
and OpenVINO have rows where they are installed. Takes about twenty minutes on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from encoderkit.console import table
from encoderkit.training.machine import choose_precision

PRETRAIN = """seed: 17
tokenizer: {out}/tok
data: {{train: {out}/tokens, dev: null, length: 128}}
model: {{kind: bert, dim: {dim}, layers: {layers}, heads: {heads}}}
objective: {{kind: masked, rate: 0.15}}
optimizer: {{kind: adamw, lr: 1e-3}}
training: {{updates: {updates}, batch: 64, compile: "{compile}", precision: {precision}}}
every: {{log: 5 updates}}
"""
FINETUNE = """seed: 17
{start}
data: {{train: {data}, dev: null, length: 128}}
task: {{kind: classify, text: sentence, label: label, pooling: {pooling}}}
optimizer: {{kind: adamw, lr: 1e-3}}
training: {{updates: {updates}, batch: {batch}, precision: {precision}}}
every: {{log: 5 updates}}
"""


ENGINES = {
    "sentence-transformers": "sentence_transformers",
    "onnx": "onnxruntime",
    "onnx-int8": "onnxruntime",
    "openvino": "openvino",
}
"""What else computes vectors, where it is installed."""


class Result(NamedTuple):
    """What a process did: units a second, and the most memory it took in MiB."""

    rate: float
    memory: float


class Row(NamedTuple):
    """One line of the table."""

    work: str
    unit: str
    peer: str
    ours: Result
    theirs: Result


def process(*command: str) -> tuple[str, float]:
    """What a command prints on stdout, and its peak memory in MiB."""
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=errors, env=environment)
        assert child.stdout
        said = child.stdout.read().decode()
        _, status, usage = os.wait4(child.pid, 0)  # which tells the memory of this child alone
        if os.waitstatus_to_exitcode(status):
            errors.seek(0)
            sys.exit(f"{' '.join(command)}\n{errors.read().decode()[-3000:]}")
    return said, usage.ru_maxrss / 1024


def peer(work: str, *options: object) -> Result:
    """A peer's rate."""
    said, memory = process("tests.benchmarks.peers", work, *map(str, options))
    return Result(json.loads(said.splitlines()[-1])["rate"], memory)


def arithmetics(name: str) -> list[tuple[str, tuple[str, ...]]]:
    """A peer in fp32, and in bf16 where this machine is faster with it: elsewhere that takes a hundred times as long."""
    fast = choose_precision("auto", "cpu") == "bf16"
    return [(f"{name} fp32", ()), (f"{name} bf16", ("--precision", "bf16"))][: 1 + fast]


class Bench:
    """The measurements; each gives rows, and uses what earlier ones left in `out`."""

    def __init__(self, corpus: Path, chinese: Path, data: Path, out: Path) -> None:
        self.corpus, self.chinese, self.data, self.out = corpus, chinese, data, out

    def tokenizers(self) -> list[Row]:
        """Each kind is trained, on all of the text as its peer is, and used; `tok` and `tokens` are what the others need."""
        rows = []
        for kind, corpus, trainer, encoder in (
            ("bpe", self.corpus, "tokenizers", "encode_batch"),
            ("unigram", self.chinese, "sentencepiece", "sentencepiece"),
            ("wordpiece", self.corpus, "tokenizers", "encode_batch"),
        ):
            megabytes, text = corpus.stat().st_size / 1e6, ("--data", str(corpus), "--overwrite", "--json")
            name = "" if kind == "wordpiece" else f"-{kind}"
            folder, store = str(self.out / f"tok{name}"), str(self.out / f"tokens{name}")
            settings = ("--set", f"sample={corpus.stat().st_size}")
            if kind == "wordpiece":
                settings += ("--set", "lowercase=true", "--set", "strip_accents=true")
            made, memory = process("encoderkit", "train-tokenizer", "--kind", kind, *text, "--out", folder, *settings)
            ours = Result(megabytes / json.loads(made)["seconds"], memory)
            theirs = peer("train_tokenizer", "--kind", kind, "--corpus", corpus)
            rows.append(Row(f"train-tokenizer, {kind} 16,384", "MB/s", trainer, ours, theirs))
            made, memory = process("encoderkit", "tokenize", *text, "--tokenizer", folder, "--out", store)
            ours = Result(megabytes / json.loads(made)["seconds"], memory)
            theirs = peer("tokenize", "--kind", kind, "--tokenizer", folder, "--corpus", corpus)
            rows.append(Row(f"tokenize, {kind}, into the store", "MB/s", encoder, ours, theirs))
        return rows

    def pretrain(self) -> list[Row]:
        ours = self._run("pretrain", PRETRAIN, "tokens", {"updates": 30, "compile": "on", "precision": "auto"})
        rows = []
        for name, options in arithmetics("Trainer"):
            theirs = peer("pretrain", "--tokenizer", self.out / "tok", "--corpus", self.corpus, *options, "--updates", 10)
            rows.append(Row("pretrain, BERT 4 x 256", "tokens/s", name, ours, theirs))
        name, options = arithmetics("Trainer")[-1]
        compiled = (*options, "--compile", "--updates", 10)
        theirs = peer("pretrain", "--tokenizer", self.out / "tok", "--corpus", self.corpus, *compiled)
        return [*rows, Row("pretrain, BERT 4 x 256", "tokens/s", f"{name} compiled", ours, theirs)]

    def finetune(self) -> list[Row]:
        """From the model of `pretrain`, which transformers gets by `export`."""
        model = self._exported()
        values = {"start": f"checkpoint: {self.out}/pretrain", "pooling": "cls", "updates": 60, "batch": 32, "precision": "auto"}
        ours, rows = self._run("finetune", FINETUNE, "examples", values), []
        for name, options in arithmetics("Trainer"):
            theirs = peer("finetune", "--model", model, "--data", self.data, *options, "--batch", 32, "--updates", 40)
            rows.append(Row("finetune, BERT 4 x 256", "examples/s", name, ours, theirs))
        return rows

    def embed(self) -> list[Row]:
        model, texts = self._exported(), self.out / "texts.jsonl"
        with open(self.data, encoding="utf-8") as file:
            chosen = list(islice(file, 10_000))
        texts.write_text("".join(chosen), encoding="utf-8")
        names = (str(self.out / "pretrain"), str(texts), str(self.out / "vectors.npy"))
        said, memory = process("tests.benchmarks.ours", "embed", *names)
        ours, rows = Result(len(chosen) / json.loads(said)["seconds"], memory), []
        for name, options in arithmetics("transformers"):
            theirs = peer("embed", "--model", model, "--data", texts, *options)
            rows.append(Row("embed, BERT 4 x 256", "texts/s", name, ours, theirs))
        for engine, package in ENGINES.items():
            if find_spec(package):
                theirs = peer("embed", "--model", model, "--data", texts, "--engine", engine)
                rows.append(Row("embed, BERT 4 x 256", "texts/s", engine, ours, theirs))
        return rows

    def classifiers(self) -> list[Row]:
        """From random weights, with the maximum over time."""
        rows = []
        for kind, model in (
            ("lstm", "dim: 512, layers: 1, embedding_dim: 256"),
            ("gru", "dim: 512, layers: 1, embedding_dim: 256"),
            ("cnn", "dim: 256, layers: 4"),
        ):
            start = f"tokenizer: {self.out}/tok\nmodel: {{kind: {kind}, {model}, dropout: 0.0}}"
            values = {"start": start, "pooling": "max", "updates": 60, "batch": 64, "precision": "auto"}
            ours = self._run("finetune", FINETUNE, "examples", values)
            theirs = peer("classifier", "--kind", kind, "--tokenizer", self.out / "tok", "--data", self.data, "--updates", 40)
            rows.append(Row(f"{kind} classifier, {model.split(',')[0][5:]}", "examples/s", "plain torch loop", ours, theirs))
        return rows

    def _exported(self) -> Path:
        model = self.out / "hf"
        if not model.exists():
            process("encoderkit", "export", str(self.out / "pretrain"), "--to", "hf", "--out", str(model))
        return model

    def _run(self, stage: str, recipe: str, unit: str, values: dict[str, Any]) -> Result:
        """Run a recipe; the rate between its first log line and its last, so that start-up and compiling are left out."""
        path = self.out / f"{stage}.yaml"
        sizes = {"layers": 4, "dim": 256, "heads": 4, "out": self.out, "data": self.data}
        path.write_text(recipe.format(**{**sizes, **values}), encoding="utf-8")
        out = self.out / stage
        _, memory = process("encoderkit", stage, str(path), "--out", str(out), "--overwrite")
        log = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        first, last = log[0], log[-1]
        seconds = last["seconds"] - first["seconds"]
        done = last["tokens"] - first["tokens"] if unit == "tokens" else (last["update"] - first["update"]) * values["batch"]
        return Result(done / seconds, memory)


WORK = ("tokenizers", "pretrain", "finetune", "embed", "classifiers")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--chinese", type=Path, help="raw text for unigram; corpus.txt if not given")
    parser.add_argument("--only", help=f"some of {', '.join(WORK)}, in this order; later ones need what earlier ones made")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(a.corpus, a.chinese or a.corpus, a.data, a.out)
    lines = [["work", "peer", "ours", "theirs", "", "ratio", "MiB", "theirs"]]
    for name in a.only.split(",") if a.only else WORK:
        for row in getattr(bench, name)():
            rates = [f"{result.rate:,.1f}" if result.rate < 100 else f"{result.rate:,.0f}" for result in (row.ours, row.theirs)]
            memory = [f"{result.memory:,.0f}" for result in (row.ours, row.theirs)]
            lines.append([row.work, row.peer, *rates, row.unit, f"{row.ours.rate / row.theirs.rate:.1f}", *memory])
            print(lines[-1], file=sys.stderr, flush=True)
    print(table(lines))


if __name__ == "__main__":
    main()
