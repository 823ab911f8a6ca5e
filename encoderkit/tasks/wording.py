"""How near texts are to the texts that they should be: BLEU and chrF by sacrebleu, ROUGE here, since it must know Chinese."""

import importlib
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

import numpy as np

from encoderkit.errors import MissingDependency, need
from encoderkit.metrics import RESAMPLES
from encoderkit.tasks.answers import is_chinese
from encoderkit.tasks.config import Wording
from encoderkit.text.alphabet import composed, marks

_CJK = r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
_UNSPACED = re.compile(r"[\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Letters of languages without spaces between words, but for Chinese: Japanese, Thai, Lao, Burmese, Khmer."""


@cache
def _sacrebleu() -> Any:
    need("sacrebleu", "BLEU and chrF need", "text")
    return importlib.import_module("sacrebleu")


Asked = Literal["auto"] | Wording
"""As a recipe has it."""


def settled(tokens: Asked, right: Sequence[str]) -> Wording:
    """By the letters of what is right, a third of which decides: zh for Chinese, char for Japanese, Thai and the like."""
    if tokens != "auto":
        return tokens
    joined = "".join(right)
    unspaced = len(_UNSPACED.findall(joined))
    return "char" if 3 * unspaced > sum(map(str.isalnum, joined)) else "zh" if is_chinese(right) else "13a"


def require(tokens: Asked) -> None:
    """Raise `MissingDependency` where `scores` could not be computed: better before the training than after it."""
    try:
        _metrics(settled(tokens, []))
    except RuntimeError as error:  # MeCab and its dictionary come with extras of sacrebleu
        extra = tokens.partition("-")[0]
        message = f"task.wording {tokens} needs more of sacrebleu: {str(error).strip().splitlines()[0]}"
        raise MissingDependency(message, fix=f"pip install 'sacrebleu[{extra}]'") from None


def scores(right: Sequence[str], written: Sequence[str], tokens: Asked) -> dict[str, float]:
    """BLEU (Papineni et al. 2002), chrF (Popovic 2015) and ROUGE-1, -2 and -L (Lin 2004, F1), each from 0 to 100."""
    found = {
        name: metric.corpus_score(list(written), [list(right)]).score for name, metric in _metrics(settled(tokens, right)).items()
    }
    return found | {name: 100 * float(np.mean(values)) for name, values in rouge(right, written).items()}


def resampled(right: Sequence[str], written: Sequence[str], tokens: Asked) -> dict[str, np.ndarray]:
    """`scores` of texts drawn anew with replacement, (RESAMPLES,) of each; the same texts for whatever is `written`."""
    shares, metrics = rouge(right, written), _metrics(settled(tokens, right))
    counts: dict[str, np.ndarray] = {}
    for name, metric in metrics.items():
        counts[name] = np.array(metric._extract_corpus_statistics(list(written), [list(right)]))  # (N, S), to be added up
    values, rng = {name: np.zeros(RESAMPLES) for name in (*shares, *counts)}, np.random.default_rng(0)
    for number in range(RESAMPLES):
        rows = rng.integers(0, len(right), len(right))
        for name, share in shares.items():
            values[name][number] = 100 * share[rows].mean()
        for name, metric in metrics.items():
            values[name][number] = metric._compute_score_from_stats(counts[name][rows].sum(0).tolist()).score
    return values


def intervals(right: Sequence[str], written: Sequence[str], tokens: Asked) -> dict[str, tuple[float, float]]:
    """95 % intervals of `scores` by bootstrap over the texts."""
    found = resampled(right, written, tokens)
    return {name: tuple(np.percentile(values, [2.5, 97.5]).tolist()) for name, values in found.items()}


@cache
def _metrics(tokens: Wording) -> dict[str, Any]:
    library = _sacrebleu()
    return {"bleu": library.BLEU(tokenize=tokens), "chrf": library.CHRF()}


def rouge(right: Sequence[str], written: Sequence[str]) -> dict[str, np.ndarray]:
    """(N,) F1 of the words, of the pairs of words and of the longest common subsequence, of each text.

    Small letters and capitals are alike; Chinese counts by characters.
    """
    pairs = [(_words(a), _words(b)) for a, b in zip(right, written, strict=True)]
    found = {f"rouge_{n}": [_shared(a, b, n) for a, b in pairs] for n in (1, 2)} | {"rouge_l": [_rouge(a, b) for a, b in pairs]}
    return {name: np.array(values) for name, values in found.items()}


@cache
def _word() -> re.Pattern[str]:
    """A character of Chinese, Japanese or Korean, or else letters with their marks and digits as they stand together."""
    return re.compile(rf"{_CJK}|(?:(?!{_CJK})[^\W_][{marks()}]*)+")


def _words(text: str) -> list[str]:
    return _word().findall(composed(text.lower()))


def _shared(right: list[str], written: list[str], n: int) -> float:
    """F1 of the runs of `n` words, each counted as often as it is in both."""
    runs = [Counter(zip(*(words[i:] for i in range(n)), strict=False)) for words in (right, written)]
    size = runs[0].total() + runs[1].total()
    return 2 * (runs[0] & runs[1]).total() / size if size else 0.0


def _rouge(right: list[str], written: list[str]) -> float:
    if not right or not written:
        return 0.0
    before = [0] * (len(written) + 1)
    for word in right:
        now = [0]
        for i, other in enumerate(written):
            now.append(before[i] + 1 if word == other else max(before[i + 1], now[i]))
        before = now
    return 2 * before[-1] / (len(right) + len(written))
