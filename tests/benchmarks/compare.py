"""The table of ratios: encoderkit beside its peers, in one run, on the same machine, data, model and arithmetic.

  python -m tests.benchmarks.compare --corpus corpus.txt --chinese chinese.txt --data train.jsonl --out bench
  python -m tests.benchmarks.compare ... --only tokenizers,finetune
  python -m tests.benchmarks.compare ... --updates 10 --texts 200          # to try it

corpus.txt is raw text (paragraphs, blank lines between documents), train.jsonl has rows {"sentence", "label"}. Ours and
the peers run in processes of their own, in turn, so that what else the machine does falls on both; peak memory is that
of each process. `share` has the machine itself as peer: one large matrix product in the same arithmetic. `growth` has a
table of its own, of ever more text. Needs the extra `test`; sentence-transformers, ONNX Runtime (with onnx and onnxscript)
and OpenVINO have rows where they are installed. Takes about an hour on two cores.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from encoderkit.console import table
from encoderkit.training.machine import choose_device, choose_precision
from tests.benchmarks import texts

PRETRAIN = """seed: 17
tokenizer: {out}/tok
data: {{train: {store}, dev: null, length: 128}}
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

SMALL = {"layers": 4, "dim": 256, "heads": 4}
MIDDLE = {"layers": 6, "dim": 384, "heads": 6}
LARGE = {"layers": 8, "dim": 512, "heads": 8}
ENGINES = {
    "sentence-transformers": ("sentence_transformers", "sentence-transformers"),
    "pipeline": ("transformers", "transformers pipeline"),
    "onnx": ("onnxruntime", "ONNX Runtime fp32"),
    "onnx-int8": ("onnxruntime", "ONNX Runtime int8"),
    "openvino": ("openvino", "OpenVINO"),
}
"""What else computes vectors or predicts, where it is installed: the package, and what it is called."""


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

    def cells(self) -> list[str]:
        """As they are printed."""
        ratio = self.ours.rate / self.theirs.rate
        rates = [figure(result.rate) for result in (self.ours, self.theirs)]
        memory = [figure(result.memory, 0) for result in (self.ours, self.theirs)]
        return [self.work, self.peer, *rates, self.unit, figure(ratio, 1 if ratio >= 1 else 2), *memory]


class Growth(NamedTuple):
    """One line of the table of ever more text."""

    megabytes: float
    tokens: int
    pretrain: Result
    first: float
    """Seconds from the command to the end of the first update, of a run that neither compiles nor measures before."""

    def cells(self) -> list[str]:
        """As they are printed."""
        return [
            f"pretrain, BERT 4 x 256, over {figure(self.megabytes, 0)} MB",
            f"{self.tokens:,}",
            *(figure(value, 0) for value in self.pretrain),
            figure(self.first, 1),
        ]


HEADERS: dict[type, list[str]] = {
    Row: ["work", "peer", "ours", "theirs", "", "ratio", "MiB", "theirs"],
    Growth: ["text", "tokens", "tokens/s", "MiB", "s to the first update"],
}


def figure(value: float, places: int | None = None) -> str:
    """Rates have a decimal place if they are small."""
    return f"{value:,.{int(value < 100) if places is None else places}f}"


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


def until(log: Path, *command: str) -> float:
    """Seconds from the start of a command to its first line in `log`; it is left to end by itself."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen([sys.executable, "-m", *command], stdout=subprocess.DEVNULL, stderr=errors)
        while child.poll() is None and not log.exists():
            time.sleep(0.01)
        seconds = time.perf_counter() - started
        if child.wait():
            errors.seek(0)
            sys.exit(f"{' '.join(command)}\n{errors.read().decode()[-3000:]}")
    return seconds


class Bench:
    """The measurements; each gives rows, and uses what earlier ones left in `out`."""

    def __init__(self, corpus: Path, chinese: Path, data: Path, out: Path, updates: int, count: int) -> None:
        """`updates`: the most of a training. `count`: texts to predict and to embed."""
        self.corpus, self.chinese, self.data, self.out, self.updates, self.count = corpus, chinese, data, out, updates, count

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
        ours = self._run("pretrain", PRETRAIN, "tokens", {"updates": 30})
        rows, few = [], min(10, self.updates)
        for name, options in arithmetics("Trainer"):
            theirs = peer("pretrain", "--tokenizer", self.out / "tok", "--corpus", self.corpus, *options, "--updates", few)
            rows.append(Row("pretrain, BERT 4 x 256", "tokens/s", name, ours, theirs))
        name, options = arithmetics("Trainer")[-1]
        compiled = (*options, "--compile", "--updates", few)
        theirs = peer("pretrain", "--tokenizer", self.out / "tok", "--corpus", self.corpus, *compiled)
        return [*rows, Row("pretrain, BERT 4 x 256", "tokens/s", f"{name} compiled", ours, theirs)]

    def share(self) -> list[Row]:
        """Of the machine's own rate in the same arithmetic: the better of two, as it may be busy with something else."""
        chosen = choose_precision("auto", choose_device("auto"))
        before = self._product(chosen)
        ours = self._run("pretrain", PRETRAIN, "tokens", {"updates": 30, "precision": chosen, **LARGE}, "large")
        limit = max(before, self._product(chosen))
        said, _ = process("tests.benchmarks.ours", "operations", str(self.out / "large.yaml"))
        ours = ours._replace(rate=ours.rate * json.loads(said)["operations"] / 1e9)
        return [Row(f"pretrain, BERT 8 x 512, {chosen}", "GFLOP/s", f"a matrix product, {chosen}", ours, limit)]

    def finetune(self) -> list[Row]:
        """From the model of `pretrain`, which transformers gets by `export`."""
        model = self._exported("pretrain")
        values = {"start": f"checkpoint: {self.out}/pretrain", "pooling": "cls", "updates": 60, "batch": 32}
        ours, rows = self._run("finetune", FINETUNE, "examples", values), []
        few = min(40, self.updates)
        for name, options in arithmetics("Trainer"):
            theirs = peer("finetune", "--model", model, "--data", self.data, *options, "--batch", 32, "--updates", few)
            rows.append(Row("finetune, BERT 4 x 256", "examples/s", name, ours, theirs))
        return rows

    def embed(self) -> list[Row]:
        """With a model that has hardly been trained: what it says takes as long."""
        self._middle()
        return self._used("embed", "middle", ("sentence-transformers", "onnx", "onnx-int8", "openvino"))

    def predict(self) -> list[Row]:
        """Likewise, two labels."""
        self._middle()
        values = {"start": f"checkpoint: {self.out}/middle", "pooling": "cls", "updates": 10, "batch": 32}
        if not (self.out / "middle-labels").exists():
            self._run("finetune", FINETUNE, "examples", values, "middle-labels")
        return self._used("predict", "middle-labels", ("pipeline", "onnx", "onnx-int8", "openvino"))

    def _middle(self) -> None:
        if not (self.out / "middle").exists():
            self._run("pretrain", PRETRAIN, "tokens", {"updates": 10, "compile": "off", **MIDDLE}, "middle")

    def _used(self, work: str, run: str, engines: tuple[str, ...]) -> list[Row]:
        """A model over texts of mixed length, beside others that compute the same."""
        model, file = self._exported(run), self.out / "texts.jsonl"
        texts.write(file, texts.mixed(self.corpus, self.out / "tok", self.count))
        said, memory = process("tests.benchmarks.ours", work, str(self.out / run), str(file), str(self.out))
        ours = Result(self.count / json.loads(said)["seconds"], memory)
        peers: list[tuple[str, tuple[str, ...]]] = arithmetics("transformers")
        peers += [(name, ("--engine", own)) for own in engines for package, name in (ENGINES[own],) if find_spec(package)]
        name = f"{work}, BERT 6 x 384, {texts.MEAN} tokens"
        return [Row(name, "texts/s", who, ours, peer(work, "--model", model, "--data", file, *how)) for who, how in peers]

    def growth(self) -> list[Growth]:
        """The same updates over more text: 1 MB, 10 MB, all of it."""
        found, whole = [], self.corpus.stat().st_size / 1e6
        for megabytes in (*(size for size in (1, 10) if size < whole), None):
            store = self.out / "tokens"
            if megabytes is not None:
                part, store = self.out / f"corpus-{megabytes}.txt", self.out / f"tokens-{megabytes}"
                texts.shortened(self.corpus, megabytes, part)
                words = ("--tokenizer", str(self.out / "tok"), "--data", str(part), "--out", str(store), "--overwrite")
                process("encoderkit", "tokenize", *words)
            result = self._run("pretrain", PRETRAIN, "tokens", {"updates": 30, "store": store}, "growth")
            tokens, first = json.loads((store / "meta.json").read_bytes())["tokens"], self.out / "first"
            shutil.rmtree(first, ignore_errors=True)
            settings = ("--set", "training.updates=1", "--set", "training.compile=off", "--set", "every.log=1 updates")
            words = (str(self.out / "growth.yaml"), "--out", str(first), *settings)
            seconds = until(first / "metrics.jsonl", "encoderkit", "pretrain", *words)
            found.append(Growth(whole if megabytes is None else megabytes, tokens, result, seconds))
        return found

    def classifiers(self) -> list[Row]:
        """From random weights, with the maximum over time."""
        rows = []
        for kind, model in (
            ("lstm", "dim: 512, layers: 1, embedding_dim: 256"),
            ("gru", "dim: 512, layers: 1, embedding_dim: 256"),
            ("cnn", "dim: 256, layers: 4"),
        ):
            start = f"tokenizer: {self.out}/tok\nmodel: {{kind: {kind}, {model}, dropout: 0.0}}"
            values = {"start": start, "pooling": "max", "updates": 60, "batch": 64}
            ours, few = self._run("finetune", FINETUNE, "examples", values), min(40, self.updates)
            theirs = peer("classifier", "--kind", kind, "--tokenizer", self.out / "tok", "--data", self.data, "--updates", few)
            rows.append(Row(f"{kind} classifier, {model.split(',')[0][5:]}", "examples/s", "plain torch loop", ours, theirs))
        return rows

    def _exported(self, run: str) -> Path:
        model = self.out / f"{run}-hf"
        if not model.exists():
            process("encoderkit", "export", str(self.out / run), "--to", "hf", "--out", str(model))
        return model

    def _product(self, precision: str) -> Result:
        """Billions of operations a second."""
        said, memory = process("tests.benchmarks.ours", "product", precision)
        return Result(json.loads(said)["rate"] / 1e9, memory)

    def _run(self, stage: str, recipe: str, unit: str, values: dict[str, Any], name: str | None = None) -> Result:
        """Run a recipe; the rate between its first log line and its last, so that start-up and compiling are left out."""
        out = self.out / (name or stage)
        path = out.with_suffix(".yaml")
        known = {"out": self.out, "data": self.data, "store": self.out / "tokens", "compile": "on", "precision": "auto", **SMALL}
        known |= {**values, "updates": min(values["updates"], self.updates)}
        path.write_text(recipe.format(**known), encoding="utf-8")
        _, memory = process("encoderkit", stage, str(path), "--out", str(out), "--overwrite")
        log = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        first, last = log[0], log[-1]
        seconds = last["seconds"] - first["seconds"]
        done = last["tokens"] - first["tokens"] if unit == "tokens" else (last["update"] - first["update"]) * values["batch"]
        return Result(done / seconds, memory)


WORK = ("tokenizers", "pretrain", "share", "finetune", "embed", "predict", "classifiers", "growth")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("corpus", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--chinese", type=Path, help="raw text for unigram; corpus.txt if not given")
    parser.add_argument("--only", help=f"some of {', '.join(WORK)}, in this order; later ones need what earlier ones made")
    parser.add_argument("--updates", type=int, default=60, help="the most of each training, 10 at least")
    parser.add_argument("--texts", type=int, default=4000, help="to embed and to predict")
    a = parser.parse_args()
    chosen = a.only.split(",") if a.only else WORK
    if unknown := set(chosen) - set(WORK):
        parser.error(f"--only takes some of {', '.join(WORK)}, found {', '.join(sorted(unknown))}")
    if a.updates < 10 or a.texts < 1:
        parser.error("--updates is 10 at least, as the first are not counted, and --texts 1")
    a.out.mkdir(parents=True, exist_ok=True)
    bench = Bench(a.corpus, a.chinese or a.corpus, a.data, a.out, a.updates, a.texts)
    tables = {kind: [header] for kind, header in HEADERS.items()}
    for name in chosen:
        for row in getattr(bench, name)():
            tables[type(row)].append(row.cells())
            print(row.cells(), file=sys.stderr, flush=True)
    print("\n\n".join(table(lines) for lines in tables.values() if len(lines) > 1))


if __name__ == "__main__":
    main()
