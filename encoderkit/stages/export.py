"""Handing a model over: a directory that other programs load, checked against the original before it exists."""

import importlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from encoderkit import files
from encoderkit.console import say, warn
from encoderkit.errors import CheckError, UsageError, shown
from encoderkit.inference import EncoderAlone, Model, open_model
from encoderkit.interop.families import obstacle
from encoderkit.interop.hf import THRESHOLDS, Exported, export
from encoderkit.interop.layout import Head
from encoderkit.interop.sentence_transformers import modules
from encoderkit.interop.t5 import EncoderDecoderConfig, with_sentinels
from encoderkit.interop.vectors import written
from encoderkit.learner import Export
from encoderkit.models.config import AlbertConfig, BertConfig, RobertaConfig, longest
from encoderkit.objectives.replaced import Replaced
from encoderkit.preflight import find_step
from encoderkit.stages.embeddings import listed
from encoderkit.tasks.texts import assemble, inputs_of

TOLERANCE = 1e-5
"""On logits in fp32, absolute, and relative to the largest of a row: what rounds off is the sums that all of them are of."""
_REPORT = "please report it, with the config.json of the model and the version of transformers"
TARGETS = ("hf", "word2vec", "word2vec-text")
Part = Literal["model", "encoder", "generator"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model")

TEXTS = (
    "",
    "A fine film, quietly funny and never in a hurry.",
    "The committee's 3rd report (12 May 2024) costs £4.50; see https://example.org/a?b=c_d for e-mail & terms.",
    "机器翻译在过去十年里取得了很大的进步,但长句子仍然很难。",
    "日本語の文章と한국어 문장, затем русский текст, και λίγα ελληνικά.",
    "naïve café Straße İstanbul Å 𝒳 😀👩‍👩‍👧 a\tb  c\n\nd",
    "x",
    "supercalifragilisticexpialidocious" * 4,
    " ".join(f"Sentence {i} of a text that is longer than most models read." for i in range(200)),
    "很长的一段中文文本,用来检查截断。" * 120,
)
"""What the two models are compared on: short, long, empty, of several scripts; each with its successor makes a pair."""
LITERAL = "A text may say [SEP] or [MASK] and mean the characters."
"""For classifiers: a masked language model has to take [MASK] for what it is."""


SHORT, LONG = 128, 1024
"""Tokens of a row: up to the first rows are compared padded to one length, and no more than the last of any is looked at."""

CHARACTERS = 12
"""Of a token, at most: no text of so many times the limit fits into it."""


class Parity(NamedTuple):
    """How far the exported model is from the original."""

    max_abs_diff: float
    rows: int


def run(model_dir: Path, to: Sequence[str], out: Path, overwrite: bool = False, part: Part = "model") -> dict[str, Any]:
    """Write the model at `model_dir` (a run or a step of it), or a part of it, to `out` for the programs named in `to`.

    word2vec and word2vec-text are files of the word embeddings alone, of any model. hf is a directory: where transformers is
    installed it is loaded by it and compared with the original before `out` exists; raises `CheckError` if the two differ.
    """
    for target in to:
        if target not in TARGETS:
            raise UsageError(f"unknown target {shown(target)}", where="--to", fix=f"known: {', '.join(TARGETS)}")
    files.refuse_existing(out, overwrite)
    whole = open_model(find_step(model_dir))
    model = _part(whole, part)
    exported = _exported(model) if "hf" in to else None
    parts = {} if exported is None else dict(exported.files) | _thresholds(model) | _modules(whole, exported)
    vectors = None if set(to) == {"hf"} else listed(model)
    if vectors is not None:
        parts |= {f"vectors.{'bin' if form == 'word2vec' else 'txt'}": written(vectors, form) for form in to if form != "hf"}
    with files.staged(out, {"from": str(model.path)}, overwrite) as folder:
        for name, data in parts.items():
            files.make_folder((folder / name).parent)
            files.write_new(folder / name, data)
        parity = None if exported is None else _check(model, exported, folder)
    return {
        "out": str(out),
        "files": sorted(parts),
        **({} if vectors is None else {"words": len(vectors.words), "dim": vectors.table.shape[1]}),
        "loads_with": None if exported is None else exported.auto_class,
        "parity": None if parity is None else parity._asdict(),
    }


def _part(model: Model, part: Part) -> Model:
    """The model with what is to be exported as its learner."""
    learner, config = model.learner, model.learner.encoder_config
    if part == "generator":
        if not isinstance(learner, Replaced):
            raise UsageError(
                "only a model that was pretrained on replaced tokens has a generator", where="--part", fix="leave it out"
            )
        return model._replace(learner=learner.masked)
    if part == "model":
        if not isinstance(learner, Replaced) or obstacle(config, Head("none")) or not obstacle(config, Head("replaced")):
            return model
        say(f"transformers has no {config.kind} that tells replaced tokens: the encoder goes without its head")
    assert isinstance(learner, nn.Module)
    alone = EncoderAlone(config, learner.vocabulary)
    tensors = {name: tensor for name, tensor in learner.state_dict().items() if name.startswith("encoder.")}
    # After the tokenizer's own rows there may be those of sentinels, which no text holds.
    tensors["encoder.tokens.weight"] = tensors["encoder.tokens.weight"][: learner.vocabulary.size]
    alone.load_state_dict(tensors)
    return model._replace(learner=alone.eval())  # pyright: ignore[reportArgumentType]


def _exported(model: Model) -> Exported:
    learner, task, found = model.learner, model.task, model.learner.exported()
    assert isinstance(learner, nn.Module)
    head, tensors, reason = Head("none"), learner.state_dict(), found if isinstance(found, str) else None
    if isinstance(found, Export):
        several, numbers = found.problem == "multi_label_classification", found.problem == "regression"
        pooling = learner.vocabulary.pooling(found.pooling)
        head, tensors = Head(found.head, found.labels, several, pooling, found.dropout, numbers), found.tensors
    tokenizer = {name: data for name, data in model.tokenizer.save_files().items() if name in TOKENIZER_FILES}
    if model.tokenizer.exact:
        what = "several characters that make one (ｶﾞ, decomposed Korean or Vietnamese)"
        say(f"transformers reads {what} otherwise than sentencepiece, which is used here: give it texts in NFKC")
    config, rows = learner.encoder_config, len(tensors["encoder.tokens.weight"])
    if isinstance(found, Export) and found.decoder is not None:
        config = EncoderDecoderConfig(encoder=config, decoder=found.decoder)
        tokenizer = with_sentinels(tokenizer, learner.vocabulary.size, rows - learner.vocabulary.size)
    # As long as texts are read here; a model that was imported has not been trained further, and keeps what it had.
    length = task.length if task else model.config["length"] if "recipe" in model.config else None
    return export(config, head, tensors, tokenizer, rows, model.tokenizer.special, length, reason, task is not None)


def _thresholds(model: Model) -> dict[str, bytes]:
    """The file of the thresholds that the model decides by, if it has any; says that nobody else will look at them."""
    found = model.learner.exported()
    if not isinstance(found, Export) or found.thresholds is None:
        return {}
    shown_ = ", ".join(f"{name} {value:.4g}" for name, value in [*found.thresholds.items()][:20])
    say(f"{THRESHOLDS}: {found.rule}; transformers does not look at them: {shown_}{' ...' * (len(found.thresholds) > 20)}")
    told = {"rule": found.rule, "thresholds": found.thresholds}
    return {THRESHOLDS: (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode()}


def _modules(model: Model, exported: Exported) -> dict[str, bytes]:
    """The files by which sentence-transformers makes the same vectors of texts, for a model that was trained for that."""
    task = model.task
    if exported.auto_class is None or task is None or (pooling := task.config.vector) is None:
        return {}
    return modules(model.learner.vocabulary.pooling(pooling), model.learner.encoder.dim, task.length)


def _check(model: Model, exported: Exported, folder: Path) -> Parity | None:
    """Compare the model in `folder` with the original; None, and a sentence that says why, where that cannot be done."""
    if exported.auto_class is None:
        alone = obstacle(model.learner.encoder_config, Head("none")) is None
        way = "; transformers loads the encoder without its head: --part encoder" if alone else ""
        warn(f"{exported.note}: its weights are written under our own names, to be loaded with encoderkit or by hand{way}")
        return None
    if importlib.util.find_spec("transformers") is None:
        say("parity not checked: transformers is not installed; pip install 'encoderkit[hf]' brings it")
        return None
    with _quiet() as transformers:
        model_type = json.loads(exported.files["config.json"])["model_type"]
        if model_type not in transformers.CONFIG_MAPPING:
            has = f"transformers {transformers.__version__} has no {model_type} yet"
            say(f"parity not checked: {has}; pip install --upgrade transformers")
            return None
    return compare(model, exported.auto_class, folder)


@torch.inference_mode()
def compare(model: Model, auto_class: str, folder: Path) -> Parity:
    """The largest difference between the logits of the original and of the model that transformers loads from `folder`.

    Raises `CheckError` if the tokens or the logits differ.
    """
    # Without a head of ours BERT, RoBERTa and ALBERT would make a pooler of their own.
    alone = (
        {"add_pooling_layer": False}
        if isinstance(model.learner.encoder_config, BertConfig | RobertaConfig | AlbertConfig)
        else {}
    )
    with _quiet() as transformers:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        settings = alone if auto_class == "AutoModel" else {}
        theirs, report = getattr(transformers, auto_class).from_pretrained(folder, output_loading_info=True, **settings)
        if any(report.values()):
            raise CheckError(f"transformers does not read the exported weights: {report}", where=model.path, fix=_REPORT)
        theirs.eval()
        # Of a model that reads texts of any length, no more than it was trained on.
        limit = min(tokenizer.model_max_length, longest(model.learner.encoder_config) or model.config["length"], LONG)
        tokenizer.model_max_length = limit
        batches = _batches(model, limit)
        ours = model.learner.exported()
        assert isinstance(ours, Export)
        worst = max(_difference(model, ours, theirs, tokenizer, rows, limit) for rows in batches)
    return Parity(worst, sum(map(len, batches)))


def _batches(model: Model, limit: int) -> list[list[list[str]]]:
    """The rows to compare on: short ones together, padded, and each long one alone, whose logits may take a gigabyte.

    Texts are long enough to be cut and little more: `tokenizers` keeps what it cuts off, of a pair each part with each.
    """
    rows = [[text[: CHARACTERS * limit] for text in row] for row in _rows(model)]
    sizes = [len(row.ids) for row in assemble(rows, model.tokenizer, limit)]
    together = [row for row, size in zip(rows, sizes, strict=True) if size <= SHORT]
    return [together, *([row] for row, size in zip(rows, sizes, strict=True) if size > SHORT)]


def _difference(model: Model, ours: Export, theirs: Any, tokenizer: Any, rows: Sequence[Sequence[str]], limit: int) -> float:
    """The largest between the logits for one batch of rows; raises `CheckError` where it, or a token, is not what it must be."""
    inputs = inputs_of(assemble(rows, model.tokenizer, limit), model.tokenizer.pad, packed=False)
    arguments = tokenizer(*([*side] for side in zip(*rows, strict=True)), truncation=True, padding=True, return_tensors="pt")
    there = arguments["attention_mask"].bool()  # padding may come first there
    for row, (ids, own) in enumerate(zip(inputs.ids, inputs.mask, strict=True)):
        if not torch.equal(arguments["input_ids"][row][there[row]], ids[own]):
            text = shown(" ".join(rows[row]), 40)
            raise CheckError(f"transformers' tokenizer splits {text} in another way", where=model.path, fix=_REPORT)
    if ours.decoder is not None:  # what is read is also what is to be written
        arguments["decoder_input_ids"] = arguments["input_ids"]
    found = theirs(**arguments)  # the logits, or the vectors of an encoder alone; then those of pairs
    worst = 0.0
    for number, outputs in enumerate([ours.outputs, ours.second] if ours.second else [ours.outputs]):
        expected, other = outputs(inputs), found[number]
        if expected.shape == (*inputs.ids.shape, expected.shape[-1]) or ours.head in ("replaced", "span"):
            expected, other = expected[inputs.mask], other[there]
        difference = (expected - other).abs()
        worst = max(worst, float(difference.max()))
        if not (difference <= TOLERANCE * (1 + expected.abs().amax(-1, keepdim=True))).all():
            raise CheckError(f"the logits of the exported model differ by up to {worst:.2g}", where=model.path, fix=_REPORT)
    return worst


def _rows(model: Model) -> list[list[str]]:
    exported = model.learner.exported()
    texts, sides = TEXTS, 1 + (isinstance(exported, Export) and exported.second is not None)
    if model.task is not None:
        texts, sides = [*TEXTS, LITERAL], model.task.config.sides
    rows = [[texts[(i + side) % len(texts)] for side in range(sides)] for i in range(len(texts))]
    # With GPT-2's one special token a row that ends with it seems to transformers to end before: an empty second text does.
    return [row for row in rows if sides == 1 or row[-1] or model.tokenizer.pad != model.tokenizer.sep]


@contextmanager
def _quiet() -> Iterator[Any]:
    """transformers, without the bars and the advice it prints."""
    transformers = importlib.import_module("transformers")
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield transformers
    finally:
        logging.set_verbosity(level)
        logging.enable_progress_bar()
