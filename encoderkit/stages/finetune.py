"""`encoderkit finetune`: a task on labelled rows, from a pretrained checkpoint or from random weights."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import nn

from encoderkit import files
from encoderkit.console import many, say, warn
from encoderkit.data.duplicates import same
from encoderkit.data.labelled import Row
from encoderkit.data.order import Balanced
from encoderkit.data.parallel import hash_of
from encoderkit.data.records import named_by
from encoderkit.errors import UsageError
from encoderkit.inference import (
    Account,
    by_row,
    check_vocabulary,
    open_model,
    read_config,
    spell,
    target_tokenizer,
    vocabulary_of,
)
from encoderkit.interop.families import obstacle
from encoderkit.interop.layout import Head
from encoderkit.learner import Vocabulary
from encoderkit.models.config import AlbertConfig, BertConfig, EncoderConfig, ModernBertConfig, TransformerConfig
from encoderkit.models.decoder import Decoder
from encoderkit.models.heads import DenseClassificationHead
from encoderkit.models.pooling import Pooling
from encoderkit.preflight import encoder_of, find_step, task_of
from encoderkit.recipe import FinetuneRecipe
from encoderkit.stages.embeddings import begin_with, embeddings_hash
from encoderkit.stages.repeats import repeated
from encoderkit.stages.session import Material, find_goal, outcome, ready, run, session
from encoderkit.stages.split import numbers_hash, of_training, read_parts
from encoderkit.tasks.build import TASKS
from encoderkit.tasks.columns import ways
from encoderkit.tasks.config import ClassifyConfig, GenerateConfig
from encoderkit.tasks.generate import Generate
from encoderkit.tasks.task import Lossy, Task, Tunable
from encoderkit.text.tokenizers import Tokenizer, open_tokenizer
from encoderkit.training.checkpoint import load_weights, read_tensors
from encoderkit.training.evaluate import evaluate
from encoderkit.training.optim import renewed
from encoderkit.training.sharding import place

_MUCH = 0.02
"""A share of unknown tokens beyond which something is wrong, most likely the tokenizer."""


def finetune(recipe: FinetuneRecipe, out: Path, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Run the recipe into `out`; the JSON of the command."""
    if recipe.seeds or (recipe.folds and not recipe.fold):
        return repeated(recipe, out, finetune, lambda own: ready(own, prepare(own)), resume, overwrite)
    with session(recipe, out, resume, overwrite):
        material = prepare(recipe, out)
        state, plan = run(recipe, material, out, overwrite)
        goal = find_goal(material.learner, recipe.training)
        result: dict[str, Any] = outcome(out, state, plan)
        result["chosen_by"] = {"metric": goal.metric, "direction": goal.direction} if material.dev else None
        tuned = isinstance(material.learner, Tunable) and material.learner.tuned() if material.dev else {}
        if not (material.test or tuned):
            return result
        best = open_model(Path(result["best"])).learner
        if tuned and isinstance(best, Tunable):
            result["tuned"] = best.tuned()
            shown = ", ".join(f"{name} {value:.3f}" for name, value in list(result["tuned"].items())[:20])
            say(f"chosen on the dev set, whose figures are too good by that: thresholds {shown}")
        if material.test:
            assert isinstance(best, nn.Module)
            place(best, plan.device, recipe.training.shard)
            result["test"] = evaluate(best, material.test, plan.micro_batch, plan.device, plan.precision)
        return result


def prepare(recipe: FinetuneRecipe, out: Path | None = None) -> Material:
    """The learner, with pretrained or fresh weights, and its data; for a run in `out` with a look at what these share."""
    step = None if recipe.checkpoint is None else find_step(recipe.checkpoint)
    with named_by(ways(recipe.task)):
        split = read_parts(recipe)
        labels = TASKS[type(recipe.task)].find_labels(of_training(recipe, split), recipe.task)
    tokenizer = open_tokenizer(Path(recipe.tokenizer or "") if step is None else step / "tokenizer")
    vocabulary = vocabulary_of(tokenizer)
    if step is not None:
        check_vocabulary(tokenizer, read_config(step), step)
        vocabulary = Vocabulary(**read_config(step)["vocabulary"])
    torch.manual_seed(recipe.seed)
    encoder = recipe.model if step is None else encoder_of(step, None)
    assert encoder is not None
    if recipe.dropout is not None:
        encoder = encoder.model_copy(update={"dropout": recipe.dropout})
    _check_segments(encoder, tokenizer)
    target = _target(recipe, step)
    more = {"target": vocabulary_of(target)} if target else {}
    learner: Task = TASKS[type(recipe.task)](task_of(recipe, step), encoder, vocabulary, recipe.data.length, labels, **more)
    spell(learner, tokenizer, target)
    if recipe.embeddings is not None:
        begin_with(learner, tokenizer, recipe.embeddings)
    parts = {name: learner.encode(rows, tokenizer) for name, rows in split.items()}
    if out is not None:
        _tell_shared(learner, split, out)
        _tell_unexported(learner)
    for name, examples in parts.items():
        limit, of = learner.config.read(recipe.data.length)
        _report(name, examples, limit if of == "row" else None, learner.vocabulary.unknown)
        for what, count in (learner.lost(examples) if isinstance(learner, Lossy) else {}).items():
            warn(f"{name}: {count:,} {what}, which the model cannot give")
    learner.prepare(parts["train"])
    inputs = {"tokenizer": tokenizer.fingerprint, "data.train": hash_of(recipe.data.train)}
    if "dev" in recipe.data.files:
        inputs["data.dev"] = hash_of(recipe.data.files["dev"])
    for part in split.keys() - recipe.data.files.keys():  # which rows were held out is a matter of this program's version too
        inputs[f"data.{part}"] = numbers_hash(split[part])
    if target is not None:
        inputs["task.tokenizer"] = target.fingerprint
    if recipe.embeddings is not None:
        inputs["embeddings"] = embeddings_hash(recipe.embeddings)
    if step is not None:
        inputs["checkpoint"] = files.sha256(step / "model.safetensors")
        assert isinstance(learner, nn.Module)
        fresh = renewed(learner, recipe.training.reinit)
        load_pretrained(learner, step)
        learner.load_state_dict(fresh, strict=False)
    dev, test = parts.get("dev"), parts.get("test")
    train = parts["train"]
    if isinstance(recipe.task, ClassifyConfig) and recipe.task.sampling == "balanced":
        train = Balanced(train, [example.target for example in train])
    return Material(learner, train, dev, test, tokenizer, labels or None, recipe.data.length, inputs, False, target)


def _target(recipe: FinetuneRecipe, step: Path | None) -> Tokenizer | None:
    """What a decoder writes with, if that is not what the encoder reads with: the recipe's, or the checkpoint's."""
    if not isinstance(recipe.task, GenerateConfig):
        return None
    if recipe.task.tokenizer is not None:
        return open_tokenizer(recipe.task.tokenizer)
    return None if step is None else target_tokenizer(step)


def _check_segments(encoder: EncoderConfig, tokenizer: Tokenizer) -> None:
    """Raise `UsageError` if the tokenizer tells more segments apart than the encoder, as XLNet's does."""
    needed = 1 + max(part.segment for part in (*tokenizer.template.single, *tokenizer.template.pair))
    if isinstance(encoder, TransformerConfig) and 1 < encoder.segments < needed:
        raise UsageError(
            f"the tokenizer lays texts out in {needed} segments, and the encoder has {encoder.segments}",
            where="model.segments",
            fix=f"--set model.segments={needed}, or 0 for none",
        )


def load_pretrained(learner: Task, step: Path) -> None:
    """The pretrained weights of the encoder, and those of the classification head that transformers' class begins with too.

    These are ModernBERT's transform in its vocabulary head, and BERT's and ALBERT's pooler, if pairs of texts trained one.
    """
    files.verify(step)
    path = step / "model.safetensors"
    tensors = read_tensors(path)
    assert isinstance(learner.encoder, nn.Module)
    own = _below("encoder.", tensors)
    # A checkpoint may have rows after the tokenizer's own: the sentinels of the objective `spans`, which no text holds.
    own["tokens.weight"] = own["tokens.weight"][: learner.vocabulary.size]
    load_weights(learner.encoder, own, path)
    if isinstance(learner.head, Decoder):
        _load_decoder(learner, learner.head, _below("head.", tensors), path)
    if not isinstance(learner.head, DenseClassificationHead):
        return
    if isinstance(learner.encoder_config, ModernBertConfig):
        _start(learner.head, _below("head.", tensors), path)
    elif isinstance(learner.encoder_config, BertConfig | AlbertConfig):
        _start(learner.head, _below("pairs.head.", tensors), path)


def _load_decoder(learner: Task, decoder: Decoder, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """The pretrained weights of the decoder, if the checkpoint has one that is built in the same way and writes the same ids."""
    assert isinstance(learner, Generate)
    for name in {"out.weight", "tokens.weight"} & tensors.keys():
        tensors[name] = tensors[name][: learner.target.size]
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if learner.config.tokenizer is None and shapes == {name: tensor.shape for name, tensor in decoder.state_dict().items()}:
        load_weights(decoder, tensors, path)
    else:
        say("the decoder begins with random weights: the checkpoint has none like it")


def _start(head: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """All of a classifier but its last layer, from the layers of another head, if that is built in the same way."""
    given, own = ({n: t for n, t in of.items() if n.startswith(("dense.", "norm."))} for of in (tensors, head.state_dict()))
    if {n: t.shape for n, t in given.items()} == {n: t.shape for n, t in own.items()}:
        load_weights(head, head.state_dict() | given, path)
    elif given:
        say("the classifier begins with random weights: the head of the checkpoint is not built like it")


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _tell_shared(learner: Task, split: dict[str, list[Row]], out: Path) -> None:
    """Warn of rows of dev and test whose texts are trained on; near copies take longer to find, and are left to `evaluate`."""
    train = split["train"]
    known = [learner.texts(row) for row in train]
    for name, rows in ((name, rows) for name, rows in split.items() if name != "train"):
        found = same(known, [learner.texts(row) for row in rows])
        shared = np.flatnonzero(found >= 0)
        if len(shared):
            first = f"line {rows[shared[0]].line} is line {train[found[shared[0]]].line} there"
            share = f"{len(shared):,} of its {len(rows):,} rows ({len(shared) / len(rows):.1%})"
            run = shlex.quote(str(out))
            more = f"encoderkit doctor data {run} shows all, encoderkit evaluate {run} --data FILE the figures without them"
            warn(f"{name}: {share} have their texts in train too, but for case and spaces ({first}); {more}")


def _tell_unexported(learner: Task) -> None:
    """Say before training where transformers cannot hold the model, and if it is by its pooling what to set."""
    found, config = learner.exported(), learner.encoder_config
    reason, way = found, ""
    if not isinstance(found, str):
        kinds = {kind: Head("classify", pooling=learner.vocabulary.pooling(kind)) for kind in get_args(Pooling)}
        legal = [kind for kind, head in kinds.items() if obstacle(config, head) is None]
        reason = obstacle(config, kinds[found.pooling]) if found.head == "classify" else None
        way = f"; with --set task.pooling={' or '.join(legal)} it will" if legal else ""
    if reason:
        say(f"{reason}, so `export --to hf` will not give one that it loads{way}")


def _report(name: str, examples: Sequence[Any], limit: int | None, unknown: int) -> None:
    rows = by_row(examples)
    account = Account().add_each(rows, unknown)
    if (share := account.unknown / max(account.tokens, 1)) > _MUCH:
        warn(f"{name}: {share:.0%} of the tokens are unknown to the tokenizer; was it trained on text like this?")
    mean = sum(example.size for example in examples) / len(rows)
    if account.empty:
        warn(f"{name}: {account.empty:,} of the {len(rows):,} rows have no text that the tokenizer knows of")
    windows = f" in {len(examples):,} windows" if len(examples) > len(rows) else ""
    say(f"{name}: {many(len(rows), 'row')}{windows}, {mean:.1f} tokens each on average")
    if limit and (cut := account.truncated):
        warn(
            f"{name}: {cut:,} rows ({cut / len(rows):.1%}) have more tokens than are read (data.length = {limit}); "
            f"{account.lost:,} tokens were cut off and are lost"
        )
