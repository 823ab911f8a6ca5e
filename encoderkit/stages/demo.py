"""`encoderkit demo`: the whole way in two minutes, on text that every machine with Python has.

The stages are called in order, with recipes that stay in the demo's directory, so each can be changed and run again with
the command that is shown. The task is to tell from a docstring which package of the standard library it is from.
"""

import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from encoderkit import files
from encoderkit.config import load
from encoderkit.console import say, table
from encoderkit.data.config import CorpusConfig
from encoderkit.data.docstrings import Docstring, Parts, largest, split_by_file, standard_library
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe, PretrainRecipe
from encoderkit.stages import export, tokenize_corpus, train_tokenizer
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.finetune import finetune
from encoderkit.stages.pretrain import pretrain
from encoderkit.text.config import TokenizerConfig

SECONDS = 105.0
"""What the demo may take, the export's check included: the training gets what the rest leaves."""
PRETRAINING, FINETUNING = 0.45, 0.15
"""Of the time that is left when the text is tokenized. As much as the second goes into the model that is not pretrained,
and what remains into evaluating, saving and exporting."""
WRITES = ("data", "tokenizer", "tokens", "dist", *(n + e for n in ("pretrain", "finetune", "scratch") for e in ("", ".yaml")))
"""What stands in the demo's directory, whenever it was stopped: the only things that --overwrite removes."""
CLASSES, VOCABULARY, SEED = 20, 6000, 17

PRETRAIN = """\
# The demo's encoder: small enough to learn something from two megabytes of docstrings in less than a minute
seed: {seed}
tokenizer: {tokenizer}
data: {{train: {tokens}, dev: 3%, length: 64}}
model: {model}
objective: {{kind: masked, rate: 20%}}
optimizer: {{kind: muon, lr: 2e-2, adamw_lr: 4e-3, weight_decay: 0.01, clip: 1.0}}   # learns in a third of AdamW's updates here
schedule: {{kind: linear, warmup: 5%}}
training: {{budget: {seconds}s, batch: 32, compile: "off"}}   # by the clock: the schedule is planned to end with it
every: {{log: 20 updates, evaluate: 1000 updates, save: 5m}}
"""
TASK = """\
seed: {seed}
{start}
data: {{train: {train}, dev: {dev}, length: 64}}
task: {{kind: classify, text: text, label: package, pooling: mean}}
optimizer: {{kind: muon, lr: 2e-2, adamw_lr: 1e-2, weight_decay: 0.01, clip: 1.0}}
schedule: {{kind: linear, warmup: 6%}}
training: {{{length}, batch: 64, compile: "off"}}
every: {{log: 20 updates, evaluate: 1 epoch, save: 5m}}
"""
FINETUNE = "# Which package is a docstring from? From the pretrained encoder\n" + TASK
SCRATCH = "# Which package is a docstring from? The same encoder, data and updates, from random weights\n" + TASK
MODEL = "{kind: modernbert, dim: 128, layers: 3, heads: 4, init: zero_output}"


class Demo(NamedTuple):
    """Where the demo writes, and the commands that it stands for."""

    out: Path
    commands: list[str]

    def path(self, name: str) -> str:
        """A path in the demo's directory, as a shell reads it."""
        return (self.out / name).as_posix()

    def announce(self, command: str, *arguments: str) -> None:
        """Show the command that the next step is."""
        self.commands.append(shlex.join(["encoderkit", command, *arguments]))
        say(f"\n$ {self.commands[-1]}")


def run(
    out: Path,
    overwrite: bool = False,
    seconds: float = SECONDS,
    library: Callable[[], Iterable[Docstring]] = standard_library,
) -> dict[str, Any]:
    """Everything into the new directory `out`, in about `seconds`; the JSON of the command."""
    started = time.monotonic()
    files.refuse_existing(out, overwrite, known=WRITES)
    out = out.resolve() if out.is_symlink() else out
    files.remove(out)
    demo = Demo(out, [])
    about = _data(demo, library)
    _tokens(demo)
    trained = _train(demo, seconds - (time.monotonic() - started))
    results, rows = _evaluate(demo)
    demo.announce("export", demo.path("finetune"), "--to", "hf", "--out", demo.path("dist"))
    exported = export.run(out / "finetune", ["hf"], out / "dist")
    return {
        **about,
        "test_rows": rows,
        "results": results,
        "updates": {name: result["updates"] for name, result in trained.items()},
        "tokens": {name: result["tokens"] for name, result in trained.items()},
        "parity": exported["parity"],
        "commands": demo.commands,
        "seconds": round(time.monotonic() - started, 1),
        "out": str(out),
    }


def _data(demo: Demo, library: Callable[[], Iterable[Docstring]]) -> dict[str, Any]:
    say("reading the docstrings of Python's standard library (parsed, not imported)")
    found = list(library())
    packages = largest(found, CLASSES)
    parts = split_by_file(found, packages, SEED)
    _write(demo.out / "data" / "corpus.jsonl", [*parts.unlabelled, *parts.train])
    for name in ("train", "dev", "test"):
        _write(demo.out / "data" / f"{name}.jsonl", getattr(parts, name))
    _describe(parts, packages)
    return {"docstrings": len(found), "packages": packages, "rows": {name: len(getattr(parts, name)) for name in parts._fields}}


def _quoted(path: str) -> str:
    """A path as YAML reads it inside of a mapping."""
    return path if re.fullmatch(r"[\w./-]+", path) else json.dumps(path, ensure_ascii=False)


def _write(path: Path, items: Sequence[Docstring]) -> None:
    files.make_folder(path.parent)
    rows = [json.dumps({"text": item.text, "package": item.package, "file": item.file}, ensure_ascii=False) for item in items]
    files.write_new(path, "\n".join(rows) + "\n")


def _describe(parts: Parts, packages: list[str]) -> None:
    sources = {name: len({item.file for item in getattr(parts, name)}) for name in ("train", "dev", "test")}
    say(f"{sum(map(len, parts)):,} docstrings; the {len(packages)} largest packages of three files or more are the classes:")
    say(f"  {', '.join(packages)}")
    say(f"  split by source file: {', '.join(f'{len(getattr(parts, n)):,} of {k} files to {n}' for n, k in sources.items())}")
    say("  held-out files are neither labelled nor pretrained on; of a package, its largest file is for training")


def _tokens(demo: Demo) -> None:
    corpus, tokenizer, tokens = demo.path("data/corpus.jsonl"), demo.path("tokenizer"), demo.path("tokens")
    demo.announce("train-tokenizer", "--data", corpus, "--vocab-size", str(VOCABULARY), "--out", tokenizer)
    train_tokenizer.run([corpus], TokenizerConfig(vocab_size=VOCABULARY), CorpusConfig(), Path(tokenizer))
    demo.announce("tokenize", "--tokenizer", tokenizer, "--data", corpus, "--out", tokens)
    tokenize_corpus.run([corpus], Path(tokenizer), CorpusConfig(), Path(tokens))


def _train(demo: Demo, left: float) -> dict[str, dict[str, Any]]:
    """Pretraining, fine-tuning and the same without pretraining, so long that enough of the `left` seconds stays for the rest."""
    times = [max(1, int(share * left)) for share in (PRETRAINING, FINETUNING)]
    places = {"train": "data/train.jsonl", "dev": "data/dev.jsonl"} | {name: name for name in ("tokenizer", "tokens", "pretrain")}
    known: dict[str, Any] = {name: _quoted(demo.path(place)) for name, place in places.items()} | {"seed": SEED, "model": MODEL}
    trained = {}
    _recipe(demo, "pretrain", PRETRAIN, known | {"seconds": times[0]})
    trained["pretrain"] = pretrain(load(PretrainRecipe, demo.out / "pretrain.yaml"), demo.out / "pretrain")
    starts = {"finetune": "checkpoint: {pretrain}", "scratch": "tokenizer: {tokenizer}\nmodel: {model}"}
    length = f"budget: {times[1]}s"
    for name, text in (("finetune", FINETUNE), ("scratch", SCRATCH)):
        _recipe(demo, name, text, known | {"start": starts[name].format(**known), "length": length})
        trained[name] = finetune(load(FinetuneRecipe, demo.out / f"{name}.yaml"), demo.out / name)
        length = f"updates: {trained[name]['updates']}"
    return trained


def _recipe(demo: Demo, name: str, text: str, values: dict[str, Any]) -> None:
    """Write a recipe, and say the command that runs it."""
    files.write_new(demo.out / f"{name}.yaml", text.format(**values))
    demo.announce("pretrain" if name == "pretrain" else "finetune", demo.path(f"{name}.yaml"), "--out", demo.path(name))


def _evaluate(demo: Demo) -> tuple[dict[str, dict[str, Any]], int]:
    """The metrics on the held-out files, by model."""
    test, results, rows = demo.path("data/test.jsonl"), {}, 0
    for name in ("finetune", "scratch"):
        again = name == "scratch"  # the baselines are known by then
        demo.announce("evaluate", demo.path(name), "--data", test, *(["--no-baselines"] if again else []))
        found = evaluate(find_step(demo.out / name), Path(test), with_baselines=not again)
        rows = found["rows"]
        results |= {**found["baselines"], name: {**found["metrics"], "intervals": found["intervals"]}}
    wanted = ("accuracy", "macro_f1", "intervals")
    return {name: {key: values[key] for key in wanted if key in values} for name, values in results.items()}, rows


NAMES = {
    "majority": "always the largest class",
    "tfidf": "TF-IDF + logistic regression",
    "scratch": "the encoder without pretraining",
    "finetune": "the encoder, pretrained",
}


def describe(result: dict[str, Any]) -> str:
    """The result for a person: the table, what it says, and the commands."""
    rows = [["on files never seen", "accuracy", "95 % interval", "macro F1"]]
    for name, title in NAMES.items():
        values = result["results"][name]
        interval = values.get("intervals", {}).get("accuracy")
        shown = f"{interval[0]:.1%} - {interval[1]:.1%}" if interval else ""
        rows.append([title, f"{values['accuracy']:.1%}", shown, f"{values['macro_f1']:.3f}"])
    head = f"Which of {len(result['packages'])} packages is a docstring from? ({result['test_rows']:,} docstrings)"
    steps = "\n".join(f"  {command}" for command in result["commands"])
    by_hand = f"The same by hand ({result['seconds']:.0f} s in all):"
    return f"{head}\n\n{table(rows)}\n\n{_verdict(result['results'])}\n\n{by_hand}\n{steps}\n"


def _verdict(results: dict[str, dict[str, Any]]) -> str:
    accuracy = {name: values["accuracy"] for name, values in results.items()}
    gain = accuracy["finetune"] - accuracy["scratch"]
    pretraining = f"Pretraining {'added' if gain >= 0 else 'cost'} {abs(gain):.1%} of accuracy."
    if accuracy["tfidf"] >= accuracy["finetune"]:
        return (
            f"{pretraining} TF-IDF is {accuracy['tfidf'] - accuracy['finetune']:.1%} ahead of the encoder: a minute of training\n"
            "on two megabytes is little, and names of things tell packages apart. So measure it beside your own task too."
        )
    return f"{pretraining} The encoder is {accuracy['finetune'] - accuracy['tfidf']:.1%} ahead of TF-IDF."
