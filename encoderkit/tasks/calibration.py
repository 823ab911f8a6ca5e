"""How far probabilities can be believed, and from which one on a label is given.

Reliability is that of Naeini et al. 2015 and Guo et al. 2017: of the answers that a model gives with 70 to 80 %, 70 to 80 %
should be right. The threshold of a label is the one with the best F1 on the dev set, label by label, which is also best for
macro F1 (Lipton et al. 2014).
"""

from typing import Any

import numpy as np

BINS = 10
FEWEST = 5
"""Rows with a label, and without, below which the best threshold is chance: it stays at one half."""


def reliability(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    """(N,) probabilities and (N,) whether what they are of came true: the expected calibration error, and a table by bins.

    A probability on the edge of two bins belongs to the lower one, as in scikit-learn's `calibration_curve`.
    """
    edges = np.linspace(0, 1, BINS + 1)
    number = np.searchsorted(edges[1:-1], confidence)
    count = np.bincount(number, minlength=BINS)
    there = count > 0
    mean, share = (np.bincount(number, v, BINS)[there] / count[there] for v in (confidence, right))
    bins = [
        {"low": float(low), "high": float(high), "answers": int(n), "confidence": float(p), "right": float(r)}
        for low, high, n, p, r in zip(edges[:-1][there], edges[1:][there], count[there], mean, share, strict=True)
    ]
    return {"expected_error": float(count[there] @ np.abs(mean - share) / max(len(confidence), 1)), "bins": bins}


def best_cut(scores: np.ndarray, truth: np.ndarray) -> float:
    """(N,) logits and (N,) bool: the cut above which saying yes gives the best F1; 0 where it is as good as any, or chance.

    Between two scores the cut is in the middle.
    """
    if min(truth.sum(), (~truth).sum()) < FEWEST:
        return 0.0
    order = np.argsort(-scores, kind="stable")
    high = scores[order].astype(np.float64)
    low = np.append(high[1:], high[-1] - 2)
    f1 = np.where(high > low, 2 * truth[order].cumsum() / (np.arange(1, len(scores) + 1) + truth.sum()), -1)
    cuts = np.where((low <= 0) & (high > 0), 0.0, (low + high) / 2)[f1 == f1.max()]
    return float(cuts[np.abs(cuts).argmin()])
