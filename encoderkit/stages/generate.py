"""`encoderkit generate`: texts continued token by token, by a model that guesses the next one."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from encoderkit.console import progress, warn
from encoderkit.data.order import rng
from encoderkit.data.unlabelled import open_texts
from encoderkit.errors import DataError, UsageError, shown
from encoderkit.inference import Engine, Precision, open_model, start
from encoderkit.models.config import longest
from encoderkit.models.decoding import Sampling
from encoderkit.objectives.causal import Causal


class Written(NamedTuple):
    """A continuation."""

    ids: list[int]
    """Its tokens, without the end."""
    ended: bool
    """Whether the model ended the text, rather than reaching the limit."""


def generate(
    step: Path,
    source: Path | None,
    texts: Sequence[str],
    count: int = 1,
    most: int = 64,
    sampling: Sampling | None = None,
    seed: int = 17,
    column: str | None = None,
    precision: Precision = "auto",
) -> dict[str, Any]:
    """Continue the rows of `source` (`-`: standard input), or `texts`, `count` times each; the JSON of the command.

    `column`: that of the texts in the file, "text" if not given. Draw j of text i depends on the seed, i and j alone. Raises
    `DataError` or `UsageError` for a text that is as long as the model can read.
    """
    sampling = sampling or Sampling()
    sampling.check(count)
    if source is None and column is not None:
        raise UsageError("names a column of a file, and --text has none", where="--column", fix="leave it out")
    engine = start(open_model(step), precision)
    rows: list[tuple[str | None, str]] = [(None, text) for text in texts]
    if source is not None:
        rows = [(place, row[0]) for place, row in open_texts(source, [column or "text"]).placed()]
        if not rows:
            raise DataError(
                "holds no row", where="standard input" if str(source) == "-" else source, fix="give it at least one text"
            )
    prompts = _prompts(engine, rows)
    written = []
    with progress("writing", len(rows) * count, "texts") as bar:
        for number, prompt in enumerate(prompts):
            draws = [rng(seed, number, i) for i in range(count)]
            written.append(continued(engine, prompt, most, sampling, draws))
            bar.advance(count)
    if short := sum(not text.ended and len(text.ids) < most for group in written for text in group):
        warn(f"{short:,} texts stop at the {_limit(engine)} tokens that the model was made to read")
    entries = [
        {"prompt": text, "texts": [_entry(engine, prompt, one) for one in group]}
        for (_, text), prompt, group in zip(rows, prompts, written, strict=True)
    ]
    about = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p, "max_tokens": most}
    return {"model": str(step), "seed": seed, **about, "generated": entries}


def _prompts(engine: Engine, rows: Sequence[tuple[str | None, str]]) -> list[np.ndarray]:
    tokenizer, limit = engine.model.tokenizer, _limit(engine)
    encoded = tokenizer.encode([text for _, text in rows])
    if encoded.unknown:
        warn(f"{encoded.unknown:,} tokens of the texts are unknown to the model, and are left out where it writes them again")
    prompts = []
    for i, (place, text) in enumerate(rows):
        prompts.append(
            np.concatenate([[tokenizer.cls], encoded.ids[encoded.offsets[i] : encoded.offsets[i + 1]]]).astype(np.int64)
        )
        if limit is not None and len(prompts[-1]) >= limit:
            message = f"has {len(prompts[-1])} tokens, and the model was trained to read {limit}: there is no room to continue it"
            kind = DataError if place else UsageError
            raise kind(message, where=place or shown(text, 40), fix="shorten it")
    return prompts


def _limit(engine: Engine) -> int | None:
    """The longest text that the model was trained to read, or of one that was imported can read, if its positions end."""
    most = longest(engine.model.learner.encoder_config)
    return most if most is None or "recipe" not in engine.model.config else engine.model.config["length"]


def continued(
    engine: Engine, prompt: np.ndarray, most: int, sampling: Sampling, draws: Sequence[np.random.Generator]
) -> list[Written]:
    """A continuation of (P,) tokens for each of `draws`; at most `most` tokens, and no more than the model can read."""
    learner, vocabulary, limit = engine.model.learner, engine.model.learner.vocabulary, _limit(engine)
    assert isinstance(learner, Causal)
    most = most if limit is None else min(most, limit - len(prompt))
    never = [i for i in (vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.mask) if i != vocabulary.sep]
    never += range(engine.model.tokenizer.vocab_size, vocabulary.size)  # rows of a published model that are no pieces
    ids = torch.from_numpy(prompt).to(engine.device).expand(len(draws), -1)
    state, chosen = None, np.zeros((len(draws), 0), np.int64)
    with engine.arithmetic():
        while chosen.shape[1] < most and not (chosen == vocabulary.sep).any(1).all():
            scores, state = learner.read_on(ids, state)
            scores[:, never] = -torch.inf
            ids = sampling.choose(scores.float(), draws)[:, None]
            chosen = np.concatenate([chosen, ids.cpu().numpy()], axis=1)
    found = []
    for row in chosen:
        ends = np.flatnonzero(row == vocabulary.sep)
        found.append(Written(row[: ends[0]].tolist() if len(ends) else row.tolist(), len(ends) > 0))
    return found


def _entry(engine: Engine, prompt: np.ndarray, written: Written) -> dict[str, Any]:
    text = engine.model.tokenizer.decode([*prompt[1:].tolist(), *written.ids])
    return {"text": text, "tokens": len(written.ids), "ended": written.ended}


def describe(result: dict[str, Any]) -> str:
    """The texts for a person, an empty line between them."""
    return "\n\n".join(text["text"] for entry in result["generated"] for text in entry["texts"])
