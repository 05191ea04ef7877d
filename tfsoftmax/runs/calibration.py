"""Calibration: how far probabilities are from what happens, and the temperature that brings them there. NumPy only."""

from __future__ import annotations

from typing import Any

import numpy as np

BINS = 15  # of confidence; what Guo et al. (2017) and most after them take
_COLDEST, _HOTTEST = 1e-3, 1e3  # temperatures that are looked at
_BLOCK = 2**22  # logits that are computed with at once


def temperature(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> float:
    """The temperature ``T`` with the least cross-entropy of ``softmax(logits / T)`` (Guo et al., 2017).

    In ``1 / T`` the loss is convex, so its slope, the mean of ``E_p[logits] - logits[label]``, is bisected.

    Args:
        logits: floats ``(rows, classes)``, at least one row.
        labels: whole numbers ``(rows,)``.
        weights: of the rows, not all 0, ``(rows,)``; ``None``: 1.

    Returns:
        Above 1 where the model is too sure, below 1 where it is not sure enough; from 0.001 to 1,000, the ends where no
        finite one is best: rows that are all right, or no better than chance.
    """
    low, high = np.log(1 / _HOTTEST), np.log(1 / _COLDEST)
    for _ in range(60):
        middle = (low + high) / 2
        if _slope(logits, labels, weights, float(np.exp(middle))) > 0:
            high = middle
        else:
            low = middle
    return float(np.exp(-(low + high) / 2))


def _slope(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None, factor: float) -> float:
    """The derivative of the mean cross-entropy of ``factor * logits`` by the factor, times the sum of the weights."""
    total, size = 0.0, max(1, _BLOCK // logits.shape[1])
    for i in range(0, len(labels), size):
        shifted = logits[i : i + size].astype(np.float64)
        shifted -= shifted.max(axis=1, keepdims=True)
        odds = np.exp(factor * shifted)
        each = (odds * shifted).sum(axis=1) / odds.sum(axis=1) - shifted[np.arange(len(shifted)), labels[i : i + size]]
        total += float(each.sum() if weights is None else each @ weights[i : i + size].astype(np.float64))
    return total


class Calibration:
    """How the probabilities of logits, given in parts, agree with what happens."""

    def __init__(self) -> None:
        self._rows, self._brier = np.zeros(BINS, np.int64), 0.0
        self._sure, self._right = np.zeros(BINS), np.zeros(BINS)

    def add(self, logits: np.ndarray, labels: np.ndarray) -> None:
        """Count rows: logits, floats ``(rows, classes)``; labels, whole numbers ``(rows,)``."""
        size = max(1, _BLOCK // logits.shape[1])
        for i in range(0, len(labels), size):
            part, label = logits[i : i + size].astype(np.float64), labels[i : i + size]
            odds = np.exp(part - part.max(axis=1, keepdims=True))
            odds /= odds.sum(axis=1, keepdims=True)
            confidence, right = odds.max(axis=1), odds.argmax(axis=1) == label
            odds[np.arange(len(odds)), label] -= 1
            self._brier += float((odds**2).sum())
            place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
            self._rows += np.bincount(place, minlength=BINS)
            self._sure += np.bincount(place, weights=confidence, minlength=BINS)
            self._right += np.bincount(place, weights=right, minlength=BINS)

    def figures(self) -> dict[str, Any]:
        """A JSON-ready dict.

        ``brier``: the mean over the rows of ``sum_k (p_k - [k = label])²`` (Brier, 1950), from 0 to 2.
        ``calibration_error``: the expected one, that is the mean distance between the largest probability and the share
        of right answers in ``BINS`` equal bins of that probability, weighted by their rows (Naeini et al., 2015).
        ``reliability``: for each bin with rows its ``rows``, mean ``confidence`` and ``accuracy``.
        """
        total = int(self._rows.sum())
        return {
            "brier": self._brier / total,
            "calibration_error": float(np.abs(self._sure - self._right).sum()) / total,
            "reliability": [
                {
                    "rows": int(self._rows[k]),
                    "confidence": float(self._sure[k] / self._rows[k]),
                    "accuracy": float(self._right[k] / self._rows[k]),
                }
                for k in np.flatnonzero(self._rows)
            ],
        }
