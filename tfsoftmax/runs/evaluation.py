"""What logits are worth against labels: loss, accuracy with its interval, per class figures. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_Z95 = 1.959963984540054  # 97.5 % point of the standard normal distribution


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Cross-entropy of each row in nats, float64 ``(rows,)``: ``log(sum(exp(o - max o))) - (o_y - max o)``.

    Args:
        logits: ``(rows, classes)``, any float; computed in float64, so ±3e38 is no trouble.
        labels: whole numbers ``(rows,)`` in ``[0, classes)``.
    """
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of each row, float64 ``(rows, classes)``, from logits of any float type."""
    exps = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def wilson(right: int, count: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion ``right / count`` (Wilson, 1927)."""
    share, z2 = right / count, _Z95**2
    middle = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z95 / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def evaluate(logits: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> dict[str, Any]:
    """Compare logits with labels.

    Args:
        logits: floats ``(rows, len(classes))``, at least one row.
        labels: whole numbers ``(rows,)``.
        classes: class names in the order of the labels.

    Returns:
        A JSON-ready dict: ``rows``, ``loss`` (mean, nats), ``accuracy``, ``accuracy_95`` (low, high), ``classes`` (a
        list of ``name``, ``count``, ``precision``, ``recall``; a figure over nothing is ``None``), ``confusion``
        (row: true class, column: predicted class).
    """
    count = len(classes)
    predicted = logits.argmax(axis=1)
    confusion = np.bincount(labels.astype(np.int64) * count + predicted, minlength=count * count).reshape(count, count)
    right, true, said = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    return {
        "rows": len(labels),
        "loss": float(cross_entropy(logits, labels).mean()),
        "accuracy": int(right.sum()) / len(labels),
        "accuracy_95": list(wilson(int(right.sum()), len(labels))),
        "classes": [
            {
                "name": name,
                "count": int(true[i]),
                "precision": int(right[i]) / int(said[i]) if said[i] else None,
                "recall": int(right[i]) / int(true[i]) if true[i] else None,
            }
            for i, name in enumerate(classes)
        ],
        "confusion": confusion.tolist(),
    }
