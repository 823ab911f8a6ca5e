"""The table of tasks: what a pretrained model, and small ones from random weights, reach on every data set that is there.

  python -m tests.benchmarks.tasks --data DIR --model RUN --model-zh RUN --out bench
  python -m tests.benchmarks.tasks ... --only trec,subj --seeds 3 --peer

DIR has a folder for each set (`tests.benchmarks.data_sets`). Each is learnt by the recipe that comes with the package for
its task; nothing is chosen on the test set. Three seeds where train is small: mean and Student's interval over seeds;
elsewhere one, and a bootstrap interval over the test rows. `--peer`: the checkpoint, exported, in transformers' Trainer by
the settings of its examples, but for the rate (see RATE); where train is large, on some of its rows, and the recipe on the
same ones beside it. What is done is kept in --out, so the same command goes on. Without a model of a language, its sets are
learnt from random weights alone, with a tokenizer of their own text. `--longer`, `--longer-zh`: another model, that was
trained for longer; its figures stand beside the first one's. `--rows 60` tries it all on a few rows.

  python -m tests.benchmarks.tasks --out bench --record

adds what --out holds to `tasks.json`, beside this file, and writes the table of all that was ever recorded to `TASKS.md`: so
that machines which have an hour each can make it together.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import date
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from encoderkit import files
from encoderkit.config import load, read_yaml
from encoderkit.console import markdown, say
from encoderkit.errors import Interrupted, UserError
from encoderkit.preflight import find_step
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages import init
from encoderkit.stages.evaluate import evaluate
from encoderkit.stages.finetune import finetune
from encoderkit.tasks.config import GenerateConfig, SpanConfig
from tests.benchmarks.data_sets import SETS, Set

SMALL = 10_000
"""Training rows up to which a set is learnt with several seeds."""
RATE = 1e-4
"""Of the peer. The 2e-5 of transformers' examples is too low for models as small as these: it was worse on all five sets
where both were tried."""
PEER_ROWS = 4_000
"""Training rows that the peer learns where there are more than three halves of it: it needs minutes for each thousand."""
BESIDE = "beside"
"""The start of what the recipe reaches on the rows that the peer has learnt, where these are not all."""
PEERS = {
    **dict.fromkeys(("classify", "classify-zh", "classify-pair", "regress"), "sequence"),
    **dict.fromkeys(("tag", "tag-zh"), "token"),
    "span": "span",
}
"""Recipes of which transformers has an example that takes an encoder alone."""
RECORD = Path(__file__).with_name("tasks.json")
"""What was measured, on whatever machine: an entry a line, in the order of the sets."""
NO_PEER = "has no such decoder behind it"
"""What it says of the others, which write."""
NOTES = """\
In brackets 95 % intervals: over seeds where their number is told, elsewhere over the test rows by bootstrap. transformers: \
the checkpoint, exported, in its Trainer by the settings of its examples, one seed, at the better of two learning rates *on \
the test rows* (which was 1e-4 each time, and then alone); where train is large, on 4,000 rows of it, with what encoderkit \
reaches on the same ones; the recipe of STS-B reads its two texts apart (`pair: bi_encoder`), and that example as one. \
Baselines are fitted on the same training rows. Published figures are of other models or parts, as told. Seconds of a run, \
beside whatever else the machine did. A checkpoint is told by its model, its updates and its loss on held-out text. What is of \
"November 2026" was measured by the same command before there was this record, and is rounded as it was written down.
"""


class Bench(NamedTuple):
    """What the command was asked."""

    data: Path
    out: Path
    models: dict[str, Path | None]
    longer: dict[str, Path | None]
    seeds: int
    rows: int | None
    settings: list[str]


def prepared(own: Set, bench: Bench) -> dict[str, Path]:
    """The parts of a set as .jsonl files, written once."""
    folder = bench.out / own.name
    if not (folder / "test.jsonl").exists():
        files.make_folder(folder)
        for part, rows in own.read(bench.data).items():
            most = min(len(rows), len(rows) if bench.rows is None else bench.rows * (4 if part == "train" else 1))
            spaced = np.arange(most) * len(rows) // most
            text = "".join(json.dumps(rows[i], ensure_ascii=False) + "\n" for i in spaced)
            files.replace(folder / f"{part}.jsonl", text)
    return {path.stem: path for path in folder.glob("*.jsonl") if path.stem in ("train", "dev", "test")}


def tokenizer_of(own: Set, parts: dict[str, Path], bench: Bench) -> Path:
    """The tokenizer of the model, or (of the set's own text, both languages of it) a new one."""
    model = bench.models[own.language]
    if model is not None and own.checkpoint:
        return find_step(model) / "tokenizer"
    out = bench.out / own.name / "tokenizer"
    if not out.exists():
        task = load(FinetuneRecipe, init.find("finetune", own.recipe), [*own.settings, "checkpoint=none"]).task
        names = [*task.columns, *([task.target] if isinstance(task, GenerateConfig) else [])]
        with parts["train"].open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        texts = [row[name] if isinstance(row[name], str) else " ".join(row[name]) for row in rows for name in names]
        source = bench.out / own.name / "text.txt"
        files.replace(source, "".join(" ".join(text.split()) + "\n" for text in texts))
        kind = ["--kind", "char"] if own.language == "zh" and own.checkpoint else []
        command = ["train-tokenizer", *kind, "--vocab-size", "8192", "--data", str(source), "--out", str(out)]
        subprocess.run([sys.executable, "-m", "encoderkit", *command], check=True, stdout=subprocess.DEVNULL)
    return out


def _count(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def measured(bench: Bench, language: str, start: str) -> dict[str, Any]:
    """When, on what machine, and from which checkpoint."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    found = {"machine": f"{os.cpu_count()} x {names[0] if names else platform.machine()}", "day": f"{date.today()}"}
    model = (bench.longer if start.endswith("longer") else bench.models)[language]
    if model is None or not start.startswith("checkpoint"):
        return found
    kind = read_yaml(model / "recipe.yaml")[0]["model"]["kind"]
    said = [json.loads(line) for line in (model / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    dev = [line for line in said if "dev" in line][-1]
    return {**found, "model": f"{kind}, {dev['update']} updates, loss {dev['dev']['loss']:.2f}"}


def learnt(own: Set, start: str, name: str, settings: Sequence[str], parts: dict[str, Path], bench: Bench) -> dict[str, Any]:
    """One line of the table: the recipe `name` run with `settings`; as it was kept, if it was."""
    out = bench.out / own.name / start.replace(" ", "-").replace("'", "")
    kept = out.with_suffix(".json")
    if kept.exists():
        return files.read_json(kept)
    small = _count(parts["train"]) <= SMALL
    seeds = [f"seeds={list(range(1, bench.seeds + 1))}"] if small and bench.seeds > 1 else []
    data = [f"data.train={parts['train']}", f"data.test={parts['test']}", f"data.dev={parts.get('dev', '5%')}"]
    recipe = load(FinetuneRecipe, init.find("finetune", name), [*settings, *data, *seeds, *bench.settings])
    done = finetune(recipe, out, resume=True)
    judged = evaluate(find_step(out), parts["test"])
    interval = done["intervals"]["test"] if seeds else judged["intervals"]
    found = {
        "set": own.name,
        "start": start,
        "rows": [_count(parts["train"]), _count(parts["test"])],
        "metric": own.metric,
        "value": done["test"][own.metric],
        "interval": interval.get(own.metric),
        "seeds": bench.seeds if seeds else 1,
        "seconds": done["seconds"] / (bench.seeds if seeds else 1),
        **({"settings": bench.settings} if bench.settings else {}),
        "baselines": {kind: values.get(own.metric) for kind, values in judged["baselines"].items()},
        "writes": isinstance(recipe.task, GenerateConfig),
        "scale": 1 if isinstance(recipe.task, GenerateConfig | SpanConfig) else 100,
        "all": done["test"],
        **measured(bench, own.language, start),
    }
    files.replace(kept, json.dumps(found, indent=1, ensure_ascii=False))
    return found


def peer(own: Set, parts: dict[str, Path], bench: Bench) -> list[dict[str, Any]]:
    """The checkpoint in transformers, and by the recipe where it is of fewer rows; as they were kept, if they were."""
    model, some = bench.models[own.language], parts
    if 2 * _count(parts["train"]) > 3 * PEER_ROWS:
        some = {**parts, "train": fewer(parts["train"], PEER_ROWS)}
    kept = bench.out / own.name / "peer.json"
    if kept.exists():
        found = files.read_json(kept)
    else:
        hf = bench.out / f"hf-{own.language}"
        if not hf.exists():
            command = ["export", str(model), "--to", "hf", "--out", str(hf)]
            subprocess.run([sys.executable, "-m", "encoderkit", *command], check=True)
        recipe = load(FinetuneRecipe, init.find("finetune", own.recipe), list(own.settings))
        command = ["tests.benchmarks.peer_tasks", PEERS[own.recipe], "--model", hf, "--length", recipe.data.length, "--lr", RATE]
        command += ["--columns", ",".join(recipe.task.all_columns), *(["--regress"] if own.recipe == "regress" else [])]
        command += ["--train", some["train"], "--test", some["test"], "--metric", own.metric]
        said = subprocess.run([sys.executable, "-m", *map(str, command)], check=True, stdout=subprocess.PIPE, text=True).stdout
        done = json.loads(said.splitlines()[-1])
        circumstances = measured(bench, own.language, "checkpoint")
        found = {"set": own.name, "start": "peer", "rows": _count(some["train"]), **done, **circumstances}
        files.replace(kept, json.dumps(found, indent=1))
    if found.get("rows") != PEER_ROWS:
        return [found]
    settings = [*own.settings, f"checkpoint={model}"]
    return [found, learnt(own, BESIDE, own.recipe, settings, some, bench._replace(seeds=1))]


def fewer(path: Path, rows: int) -> Path:
    """So many lines of a file, from everywhere in it, as a file beside it."""
    out = path.with_name(f"{path.stem}-{rows}{path.suffix}")
    with path.open(encoding="utf-8") as file:  # not splitlines, which parts a line at a U+0085 within it too
        every = file.readlines()
    files.replace(out, "".join(every[i * len(every) // rows] for i in range(rows)))
    return out


def of_set(own: Set, bench: Bench, with_peer: bool) -> list[dict[str, Any]]:
    """Every line of a set; what cannot be run (a recipe that is not there) is told, and left out."""
    parts = prepared(own, bench)
    model = bench.models[own.language]
    try:
        tokenizer = tokenizer_of(own, parts, bench)
    except UserError as error:
        say(f"{own.name}: left out: {error}")
        return []
    starts = {name: (recipe, [*settings, f"tokenizer={tokenizer}"]) for name, (recipe, settings) in own.scratch.items()}
    if model is not None and own.checkpoint:
        others = {f"checkpoint by {name}": (name, [f"checkpoint={model}"]) for name in own.also}
        if bench.longer[own.language] is not None:
            others["checkpoint longer"] = (own.recipe, [*own.settings, f"checkpoint={bench.longer[own.language]}"])
        starts = {"checkpoint": (own.recipe, [*own.settings, f"checkpoint={model}"]), **others, **starts}
    found = []
    for start, (recipe, settings) in starts.items():
        say(f"{own.name}, {start}")
        try:
            found.append(learnt(own, start, recipe, settings, parts, bench))
        except Interrupted:  # by Ctrl-C or SIGTERM: what is done is kept, and nothing more is begun
            raise
        except UserError as error:
            say(f"left out: {error}")
            found.append({"set": own.name, "start": start, "why": error.message})
    if with_peer and own.recipe in PEERS and any(entry["start"] == "checkpoint" and "why" not in entry for entry in found):
        found += peer(own, parts, bench)
    return found


def lines(entries: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The table: a line for each set, with what it was learnt from, beside its baselines, its peer and what is published."""
    header = ["data set", "train, test", "metric", "from the checkpoint", "from random weights", "transformers"]
    rows = [[*header, "baselines", "published", "seconds", "measured"]]
    for name, group in groupby(entries, key=lambda entry: entry["set"]):
        found = {entry["start"]: entry for entry in group}
        peers = found.pop("peer", None), found.pop(BESIDE, None)
        cells = {start: _value(entry) for start, entry in found.items()}
        found = {start: entry for start, entry in found.items() if "why" not in entry}
        if not found:
            rows.append([name, "", "", *cells.values()][:4] + [""] * 6)
            continue
        first = next(iter(found.values()))
        own = [name, "{:,}, {:,}".format(*first["rows"]), first["metric"]]
        begun = {
            start.removeprefix("checkpoint").strip(): cells.pop(start) for start in [*cells] if start.startswith("checkpoint")
        }
        own.append(", ".join(f"{how} {cell}".strip() for how, cell in begun.items()) or "-")
        own.append(", ".join(f"{start} {cell}" for start, cell in cells.items()))
        scale = first["scale"]
        own.append(_beside(*peers, scale) if peers[0] else NO_PEER if first["writes"] else "-")
        simple = {kind: value for kind, value in first["baselines"].items() if value is not None}
        own.append(", ".join(f"{kind} {_figure(value, scale)}" for kind, value in simple.items()))
        times = {start: entry["seconds"] for start, entry in found.items()}
        times |= {"transformers": peers[0]["seconds"]} if peers[0] else {}
        told = ", ".join(f"{start} {seconds:,.0f}" for start, seconds in times.items() if seconds is not None)
        rows.append(
            [
                *own,
                next(one.known for one in SETS if one.name == first["set"]),
                told,
                _circumstances([*found.values(), *(one for one in peers if one)]),
            ]
        )
    return rows


def _beside(peer: dict[str, Any], own: dict[str, Any] | None, scale: int) -> str:
    """What transformers reached, and where it learnt some of the rows, encoderkit on the same ones."""
    said = f"{_figure(peer['value'], scale)} (lr {peer['lr']:g})"
    return said if own is None else f"{said} of {own['rows'][0]:,} rows; encoderkit {_figure(own['value'], scale)} of them"


def page(entries: Sequence[dict[str, Any]]) -> str:
    """The table, and what its figures are."""
    return f"{markdown(lines(entries))}\n{NOTES}"


def _circumstances(entries: Sequence[dict[str, Any]]) -> str:
    """Each day and machine once, and each checkpoint."""
    where = dict.fromkeys(f"{entry['day']} on {entry['machine']}" for entry in entries)
    models = dict.fromkeys(entry["model"] for entry in entries if "model" in entry)
    return "; ".join([*where, *models])


def record(out: Path) -> None:
    """Add what `out` holds to the record, in place of what it had of the same, and write the table of all of it."""
    known = {(entry["set"], entry["start"]): entry for entry in map(json.loads, RECORD.read_text(encoding="utf-8").splitlines())}
    for own in SETS:
        for path in sorted((out / own.name).glob("*.json")):
            entry = files.read_json(path)
            known[own.name, entry["start"]] = entry
    order = [own.name for own in SETS]
    starts = ["checkpoint", "checkpoint longer", *(f"checkpoint by {name}" for own in SETS for name in own.also)]
    starts += [start for own in SETS for start in own.scratch] + ["peer", BESIDE]
    entries = sorted(known.values(), key=lambda entry: (order.index(entry["set"]), starts.index(entry["start"])))
    files.replace(RECORD, "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries))
    files.replace(RECORD.with_name("TASKS.md"), page(entries))


def _value(entry: dict[str, Any]) -> str:
    if "why" in entry:
        return f"left out: {entry['why']}"
    told = [f"{entry['seeds']} seeds"] if entry["seeds"] > 1 else []
    ends = " to ".join(_figure(value, entry["scale"]) for value in entry["interval"] or ())
    said = "; ".join([*([ends, *told] if ends else []), *entry.get("settings", [])])
    return _figure(entry["value"], entry["scale"]) + (f" ({said})" if said else "")


def _figure(value: float, scale: int) -> str:
    """Shares as percentages; BLEU and its kind are out of a hundred already."""
    return f"{scale * value:.1f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--record", action="store_true", help="nothing is run: keep what was")
    parser.add_argument("--model", type=Path, help="an English run")
    parser.add_argument("--model-zh", type=Path, help="a Chinese run")
    parser.add_argument("--longer", type=Path, help="an English run that took longer")
    parser.add_argument("--longer-zh", type=Path, help="a Chinese one")
    parser.add_argument("--only", help=f"some of {', '.join(own.name for own in SETS)}")
    parser.add_argument("--seeds", type=int, default=3, help="on small sets")
    parser.add_argument("--rows", type=int, help="to try it: so many of dev and test, four times as many of train")
    parser.add_argument("--set", action="append", default=[], help="for every recipe, as encoderkit's")
    parser.add_argument("--peer", action="store_true", help="also transformers")
    a = parser.parse_args()
    if a.record:
        return record(a.out)
    if a.data is None:
        parser.error("--data says where the sets lie")
    chosen = [own for own in SETS if a.only is None or own.name in a.only.split(",")]
    bench = Bench(a.data, a.out, {"en": a.model, "zh": a.model_zh}, {"en": a.longer, "zh": a.longer_zh}, a.seeds, a.rows, a.set)
    files.make_folder(a.out)
    entries: list[dict[str, Any]] = []
    for own in chosen:
        entries += of_set(own, bench, a.peer)
        files.replace(a.out / "table.md", page(entries))
    print((a.out / "table.md").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
