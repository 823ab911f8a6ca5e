"""`encoderkit pretrain`: an encoder from a token store."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from encoderkit import files
from encoderkit.console import many, say, warn
from encoderkit.data.blocks import Rows
from encoderkit.data.store import TokenStore, open_store
from encoderkit.errors import DataError, UsageError
from encoderkit.inference import check_vocabulary, open_rows, read_config, spell, vocabulary_of
from encoderkit.learner import Coupled, Learner, Measured, Surveying, Vocabulary
from encoderkit.objectives.build import OBJECTIVES
from encoderkit.objectives.config import ObjectiveConfig, SpansConfig
from encoderkit.preflight import encoder_of, find_step
from encoderkit.recipe import PretrainRecipe
from encoderkit.stages.embeddings import begin_with, embeddings_hash
from encoderkit.stages.session import Material, outcome, run, session
from encoderkit.text.tokenizers import Tokenizer, open_tokenizer
from encoderkit.training.checkpoint import TARGET, load_weights, read_tensors

_LOOKED, _ALONE = 1_000_000, 0.97
"""Tokens that are looked at, and the share of word starts among them that tells a store without words (English has 0.8)."""
DEV_ROWS = 2048
"""Held-out rows that are evaluated at most, evenly spaced: enough for three digits of the loss."""


class Evenly:
    """At most `count` of the rows, evenly spaced."""

    def __init__(self, rows: Rows, count: int) -> None:
        self._rows, self._numbers = rows, np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Any:
        return self._rows[int(self._numbers[index])]

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """See `Rows.sizes`."""
        return self._rows.sizes(self._numbers[rows])


def pretrain(recipe: PretrainRecipe, out: Path, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Run the recipe into `out`; the JSON of the command."""
    with session(recipe, out, resume, overwrite):
        state, plan = run(recipe, prepare(recipe), out, overwrite)
        return outcome(out, state, plan)


def prepare(recipe: PretrainRecipe) -> Material:
    """The learner, with fresh or pretrained weights, and its data."""
    step = None if recipe.checkpoint is None else find_step(recipe.checkpoint)
    tokenizer = open_tokenizer(Path(recipe.tokenizer or "") if step is None else step / "tokenizer")
    vocabulary = vocabulary_of(tokenizer)
    if step is not None:
        check_vocabulary(tokenizer, read_config(step), step)
        vocabulary = Vocabulary(**read_config(step)["vocabulary"])  # it may have more rows than the tokenizer has pieces
        _check_sentinels(recipe.objective, tokenizer)
    store = _open(recipe.data.train, tokenizer)
    _check_words(recipe.objective, store)
    torch.manual_seed(recipe.seed)
    encoder = recipe.model if step is None else encoder_of(step, recipe.dropout)
    learner: Learner = OBJECTIVES[type(recipe.objective)](recipe.objective, encoder, vocabulary, recipe.data.length)
    spell(learner, tokenizer)
    if recipe.embeddings is not None:
        begin_with(learner, tokenizer, recipe.embeddings)
    held = _open(recipe.data.dev, tokenizer) if isinstance(recipe.data.dev, str) else store
    measure(learner, held)
    train, dev, inputs = _data(recipe, store, held, tokenizer, learner.encoder.packs)
    if step is not None:
        inputs["checkpoint"] = files.sha256(step / "model.safetensors")
        go_on_from(learner, step)
    say(f"{many(len(train), 'row')} of {recipe.data.length} tokens, {train.fill:.1%} filled; {len(dev) if dev else 0:,} held out")
    one_shape = learner.encoder.packs and not isinstance(learner, Coupled)  # rows hold as many texts as they happen to
    surveyed = isinstance(learner, Surveying)
    source = learner.survey(train) if surveyed else train
    parts = Material(learner, source, dev, None, tokenizer, None, recipe.data.length, inputs, one_shape and not surveyed)
    assert isinstance(learner, nn.Module)
    say(f"{sum(p.numel() for p in learner.parameters()):,} parameters")
    return parts


def _check_sentinels(objective: ObjectiveConfig, tokenizer: Tokenizer) -> None:
    """Raise `UsageError` where a checkpoint has sentinels among its pieces, as T5 has, and the objective would make new ones."""
    ids = tokenizer.sentinels
    if isinstance(objective, SpansConfig) and objective.first_sentinel is None and ids:
        step = -1 if len(ids) > 1 and ids[1] < ids[0] else 1
        values = {"first_sentinel": ids[0], "sentinel_step": step, "sentinels": len(ids)}
        fix = " ".join(f"--set objective.{name}={value}" for name, value in values.items())
        raise UsageError("this checkpoint has sentinels of its own, and would be trained with others", where="objective", fix=fix)


def _check_words(objective: ObjectiveConfig, store: TokenStore) -> None:
    """Warn where whole words are to be hidden, and the store knows of none longer than a token."""
    if getattr(objective, "unit", None) != "word" or not store.meta.tokens:
        return
    share = float(store.starts(0, min(store.meta.tokens, _LOOKED)).mean())
    if share > _ALONE:
        warn(
            f"objective.unit is word, and {share:.1%} of the tokens of {store.path} begin a word: they will be hidden one by "
            "one; where Chinese words begin and end, `encoderkit tokenize --segment zh` finds out"
        )


def go_on_from(learner: Learner, step: Path) -> None:
    """The weights of a model directory: the encoder's, and those of each other part that is the same in both.

    So masked language modelling goes on with its head, and a contrastive objective after it begins with a fresh projection.
    Rows of the word embeddings that one of them alone has, such as those of sentinels, are left out, or begin afresh.
    """
    files.verify(step)
    assert isinstance(learner, nn.Module)
    path, kept, fresh, state = step / "model.safetensors", [], [], learner.state_dict()
    tensors = read_tensors(path)
    for name in tensors.keys() & state.keys() & {"encoder.tokens.weight"}:
        own, given = state[name], tensors[name]
        if own.shape[1:] == given.shape[1:]:
            tensors[name] = torch.cat([given[: len(own)], own[len(given) :]])
    for name in dict.fromkeys(full.split(".")[0] for full in state):
        own, given = ({n: t for n, t in of.items() if n.split(".")[0] == name} for of in (state, tensors))
        fits = {n: t.shape for n, t in own.items()} == {n: t.shape for n, t in given.items()}
        if name == "head" and (step / TARGET).exists():
            fits = False  # a decoder whose ids are not the encoder's
        if fits:
            state |= given
        elif name == "encoder":  # of an encoder that does not fit, say why
            assert isinstance(learner.encoder, nn.Module)
            load_weights(learner.encoder, {n.removeprefix("encoder."): t for n, t in given.items()}, path)
        (kept if fits else fresh).append(name)
    learner.load_state_dict(state)
    say(f"from {step}: {' and '.join(kept)}" + (f"; with fresh weights: {' and '.join(fresh)}" if fresh else ""))


def measure(learner: Learner, store: TokenStore) -> None:
    """Tell a learner that reports bits per byte how many bytes of text stand behind a token."""
    if isinstance(learner, Measured):
        learner.bytes_per_token = store.meta.bytes / max(store.meta.tokens, 1)


def _open(path: str, tokenizer: Tokenizer) -> TokenStore:
    store = open_store(Path(path))
    if store.meta.tokenizer["fingerprint"] != tokenizer.fingerprint:
        raise DataError(
            "these tokens were made with another tokenizer than the recipe names, so the ids would mean other things",
            where=path,
            fix="name the tokenizer that `tokenize` was given, or tokenize again",
        )
    return store


def _data(
    recipe: PretrainRecipe, store: TokenStore, held: TokenStore, tokenizer: Tokenizer, packed: bool
) -> tuple[Rows, Evenly | None, dict[str, str]]:
    """Training rows, held-out rows, and the fingerprints of what they come from."""
    inputs = {"tokenizer": tokenizer.fingerprint, "data.train": store.meta.fingerprint}
    if recipe.embeddings is not None:
        inputs["embeddings"] = embeddings_hash(recipe.embeddings)

    def rows(of: TokenStore, documents: np.ndarray | None = None) -> Rows:
        return open_rows(recipe.objective, of, recipe.data.length, vocabulary_of(tokenizer), documents, packed)

    if not recipe.data.dev:
        return rows(store), None, inputs
    if isinstance(recipe.data.dev, str):
        inputs["data.dev"] = held.meta.fingerprint
        return rows(store), Evenly(rows(held), DEV_ROWS), inputs
    train_documents, dev_documents = store.split(recipe.data.dev)
    return rows(store, train_documents), Evenly(rows(store, dev_documents), DEV_ROWS), inputs
