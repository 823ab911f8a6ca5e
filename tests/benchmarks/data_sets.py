"""The data sets of the table of `tests.benchmarks.tasks`: where their rows lie, which recipe is theirs, what is known.

A folder for each, with .jsonl files (.xz or not), the tables of CSL or the parallel lines of Multi30k: `read` of a set in
`SETS` has the names of its folder and of its files.
"""

import json
import lzma
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Rows = list[dict[str, Any]]
Parts = dict[str, Rows]
"""train and test, and dev where there is one beside a test set: elsewhere a share of train is held out."""

BERT = "model={kind: bert, dim: 256, layers: 4, heads: 4}"
"""The model of the checkpoint that the table is about, from random weights."""


class Set(NamedTuple):
    """One data set, and how it is learnt."""

    name: str
    language: str
    read: Callable[[Path], Parts]
    metric: str
    recipe: str
    """From a checkpoint; a name among recipes/finetune, or a part of one."""
    settings: Sequence[str]
    scratch: dict[str, tuple[str, Sequence[str]]]
    """From random weights, by what it is: a recipe and its settings."""
    known: str
    """Published figures, and what they are of."""
    checkpoint: bool = True
    """Whether a model of one language can begin it."""
    also: tuple[str, ...] = ()
    """Other recipes that learn it from the checkpoint, as they are."""


def lines(path: Path) -> Iterator[str]:
    """The lines of a file, or of the same with .xz."""
    packed = path.with_name(path.name + ".xz")
    with open(path, encoding="utf-8") if path.exists() else lzma.open(packed, "rt", encoding="utf-8") as file:
        yield from (line.rstrip("\n") for line in file)


def jsonl(folder: str, **files: str) -> Callable[[Path], Parts]:
    """train, dev, test as .jsonl; several files of a part are joined by +."""

    def read(data: Path) -> Parts:
        return {
            part: [json.loads(line) for name in names.split("+") for line in lines(data / folder / f"{name}.jsonl")]
            for part, names in files.items()
        }

    return read


def cut(folder: str, file: str, text: str) -> Callable[[Path], Parts]:
    """A set without parts: 80, 10 and 10 % of its different texts, always the same ones."""

    def read(data: Path) -> Parts:
        rows = list({row[text]: row for row in map(json.loads, lines(data / folder / f"{file}.jsonl"))}.values())
        order = np.random.default_rng(0).permutation(len(rows))
        ends = [0, len(rows) * 8 // 10, len(rows) * 9 // 10, len(rows)]
        return {part: [rows[i] for i in order[a:b]] for part, a, b in zip(("train", "dev", "test"), ends, ends[1:], strict=False)}

    return read


def csl(stem: str, source: str, target: str, **files: str) -> Callable[[Path], Parts]:
    """CSL's tables: what is asked, the input, the answer."""

    def read(data: Path) -> Parts:
        return {
            part: [
                dict(zip((source, target), line.split("\t")[1:3], strict=True))
                for line in lines(data / "csl" / f"{stem}_{f}.tsv")
            ]
            for part, f in files.items()
        }

    return read


def parallel(folder: str, languages: tuple[str, str], **files: str) -> Callable[[Path], Parts]:
    """Two files of lines that belong together."""

    def read(data: Path) -> Parts:
        found: Parts = {}
        for part, name in files.items():
            sides = [list(lines(data / folder / f"{name}.{language}")) for language in languages]
            found[part] = [dict(zip(languages, pair, strict=True)) for pair in zip(*sides, strict=True)]
        return found

    return read


def classify(text: str, language: str = "en", length: int = 128) -> dict[str, Any]:
    """How one label is learnt, from a checkpoint and by the small models that are trained from random weights."""
    own = [f"task.text={text}", f"data.length={length}"]
    scratch = {
        "BERT": ("classify-bert-scratch", own),
        "CNN": ("classify-cnn-scratch", own),
        "LSTM": ("classify-lstm-scratch", own),
    }
    return {
        "recipe": "classify" if language == "en" else "classify-zh",
        "settings": own,
        "scratch": scratch,
        "language": language,
    }


def same(recipe: str, settings: Sequence[str], language: str) -> dict[str, Any]:
    """How other labels are learnt: random weights by the recipe of the checkpoint, at the rate of such models."""
    scratch = {"BERT": (recipe, [*settings, BERT, "checkpoint=null", "optimizer={kind: adamw, lr: 5e-4}"])}
    return {"recipe": recipe, "settings": settings, "scratch": scratch, "language": language}


def write(source: str, target: str, language: str, length: int, checkpoint: bool) -> dict[str, Any]:
    """How texts are written: from random weights, or behind the encoder of a checkpoint."""
    recipe, wording = ("generate-zh", "zh") if target != "de" else ("generate", "13a")
    own = [f"task.source={source}", f"task.target={target}", f"data.length={length}", f"task.wording={wording}"]
    begun = [*own, "model=null", "tokenizer=null", "optimizer={kind: adamw, lr: 5e-4}"]
    kept = {"recipe": recipe, "settings": begun, "language": language, "checkpoint": checkpoint}
    return {**kept, "scratch": {"encoder and decoder": (recipe, own)}}


def tag(language: str, length: int) -> dict[str, Any]:
    """How entities are learnt, from columns of tokens and tags."""
    columns = ["task.tokens=tokens", "task.tags=tags", "task.text=null", "task.spans=null", f"data.length={length}"]
    found = same("tag" if language == "en" else "tag-zh", columns, language)
    return {**found, "scratch": {"BiLSTM-CRF": ("tag-bilstm-crf-zh", columns), **found["scratch"]}}


SETS = (
    Set("sst2", read=jsonl("sst2", train="train", test="dev"), metric="accuracy", **classify("sentence"),
        known="dev: ELECTRA-small 91.2; test: BERT-mini 85.9, BiLSTM 85.9, Kim's CNN from random weights 83.5"),
    Set("cola", read=jsonl("cola", train="train", test="dev_in_domain+dev_out_of_domain"), metric="mcc", **classify("sentence"),
        known="dev: ELECTRA-small 57.0; test: BERT-mini 0.0, BiLSTM 15.7"),
    Set("stsb", read=jsonl("stsb", train="train", dev="dev", test="test"), metric="spearman", **same("regress", [], "en"),
        known="dev: ELECTRA-small 87.5; test: BERT-mini 73.3", also=("similarity",)),
    Set("trec", read=jsonl("sentence_cls_en", train="trec_train", test="trec_test"), metric="accuracy", **classify("sentence"),
        known="Kim's CNN from random weights 88.2"),
    Set("subj", read=cut("sentence_cls_en", "subj_all", "sentence"), metric="accuracy", **classify("sentence"),
        known="Kim's CNN from random weights 89.2 (ten folds)"),
    Set("thucnews_short", read=jsonl("thucnews_short", train="train_part45k", dev="dev", test="test"), metric="accuracy",
        **classify("text", "zh", 40), known="with four times the rows: TextCNN 91.2, BiLSTM 91.1, Transformer 89.9, BERT 94.8"),
    Set("waimai_10k", read=cut("waimai_10k", "all", "text"), metric="accuracy", **classify("text", "zh"), known=""),
    Set("smp2020_ewect", read=jsonl("smp2020_ewect", train="usual_train", dev="usual_dev", test="usual_test"),
        metric="macro_f1", **classify("text_a", "zh"), known="best of the contest about 79"),
    Set("afqmc", read=jsonl("afqmc", train="train", test="dev"), metric="accuracy",
        **same("classify-pair", [], "zh"), known="test: BERT-base 73.7, ALBERT-tiny 69.9"),
    Set("csl_category", read=csl("cls_ctg", "text", "label", train="train", dev="dev", test="test"), metric="accuracy",
        **classify("text", "zh", 64), known=""),
    Set("wnut17", read=jsonl("wnut17", train="train", dev="dev", test="test"), metric="f1", **tag("en", 128),
        known="BERT-base 44 to 48, BiLSTM-CRF 40 to 42"),
    Set("resume_ner", read=jsonl("resume_ner", train="train", dev="dev", test="test"), metric="f1", **tag("zh", 192),
        known="BiLSTM-CRF by characters 93.5, lattice LSTM 94.5"),
    Set("squad11", read=jsonl("squad11", train="train_part", test="dev"), metric="f1", **same("span", [], "en"),
        known="with all of train: BERT-base 88.4, BiDAF 77.3"),
    Set("multi30k", read=parallel("multi30k", ("en", "de"), train="train", dev="val", test="test_2016_flickr"), metric="bleu",
        **write("en", "de", "en", 96, checkpoint=False), known="small Transformers 38 to 41, recurrent ones 33 to 38"),
    Set("tatoeba_en_zh", read=jsonl("tatoeba_en_zh", train="train", dev="dev", test="test"), metric="bleu",
        **write("en", "zh", "zh", 64, checkpoint=False), known=""),
    Set("csl_title", read=csl("ts", "abstract", "title", train="dev", test="test"), metric="rouge_l",
        **write("abstract", "title", "zh", 256, checkpoint=True),
        known="learnt from the 1,000 rows of dev, as train (8,000) is not there"),
)  # fmt: skip
