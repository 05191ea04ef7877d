"""Answers: what a model says of rows, read once: figures, two numbers a row, the surest mistakes. NumPy only."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tfsoftmax.runs.evaluation import evaluate, softmax, wilson
from tfsoftmax.spec import Column

MISTAKES = 12  # the most confident ones that are shown
VALUES = 12  # of a column, the most frequent ones
_POINTS = 200  # of a curve


class Mistake(NamedTuple):
    """One row that the model gets wrong: its place, the classes, their probabilities."""

    row: int
    true: int
    predicted: int
    confidence: float
    of_true: float


@dataclasses.dataclass(frozen=True)
class Answers:
    """What :func:`read` returns.

    Attributes:
        figures: as :func:`tfsoftmax.runs.evaluation.evaluate` returns them.
        confidence: largest probability of each row, float32 ``(rows,)``.
        right: whether the class with it is the label, bool ``(rows,)``.
        mistakes: the wrong rows with the largest probabilities, largest first.
    """

    figures: dict[str, Any]
    confidence: np.ndarray
    right: np.ndarray
    mistakes: list[Mistake]


def read(
    parts: Iterable[np.ndarray],
    labels: np.ndarray,
    classes: Sequence[str],
    weights: np.ndarray | None = None,
    temperature: float | None = None,
) -> Answers:
    """Read logits in parts, once; arguments as of :func:`tfsoftmax.runs.evaluation.evaluate`."""
    confidences: list[np.ndarray] = []
    rights: list[np.ndarray] = []
    mistakes: list[Mistake] = []

    def watched() -> Iterator[np.ndarray]:
        at = 0
        for logits in parts:
            odds = softmax(logits)
            predicted, label = odds.argmax(axis=1), labels[at : at + len(odds)]
            rows = np.arange(len(odds))
            confidence = odds[rows, predicted]
            wrong = np.flatnonzero(predicted != label)
            for k in wrong[np.argsort(-confidence[wrong], kind="stable")[:MISTAKES]]:
                found = (at + k, label[k], predicted[k], confidence[k], odds[k, label[k]])
                mistakes.append(Mistake(*map(int, found[:3]), *map(float, found[3:])))
            mistakes.sort(key=lambda mistake: -mistake.confidence)
            del mistakes[MISTAKES:]
            confidences.append(confidence.astype(np.float32))
            rights.append(predicted == label)
            at += len(odds)
            yield logits

    figures = evaluate(watched(), labels, classes, weights, temperature)
    return Answers(figures, np.concatenate(confidences), np.concatenate(rights), mistakes)


def _cuts(answers: Answers) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidences, falling; how many rows have at least each, and how many of them are right."""
    order = np.argsort(-answers.confidence, kind="stable")
    falling, right = answers.confidence[order], np.cumsum(answers.right[order])
    last = np.flatnonzero(np.diff(falling, append=-1.0))  # rows with the same confidence are answered together
    return falling[last], last + 1, right[last]


def coverage(answers: Answers) -> list[dict[str, float]]:
    """Accuracy on the surest rows, by their share of all: ``threshold``, ``coverage`` and ``accuracy``."""
    thresholds, count, right = _cuts(answers)
    some = np.unique(np.linspace(0, len(count) - 1, _POINTS).astype(int))
    shares, accuracies = count / len(answers.right), right / count
    return [
        {"threshold": float(thresholds[k]), "coverage": float(shares[k]), "accuracy": float(accuracies[k])}
        for k in some
    ]


def threshold(answers: Answers, wanted: float) -> float | None:
    """The lowest confidence, with four digits, above which ``answers`` have the ``wanted`` accuracy; ``None``: none."""
    thresholds, count, right = _cuts(answers)
    enough = np.flatnonzero(right >= wanted * count)
    return math.ceil(float(thresholds[enough[-1]]) * 1e4) / 1e4 if len(enough) else None


def above(answers: Answers, least: float) -> dict[str, Any]:
    """What becomes of ``answers`` whose confidence is below ``least``, refused: ``coverage``, and of the others
    ``accuracy`` and ``accuracy_95``, ``None`` where there are none."""
    answered = answers.confidence >= least
    count, right = int(answered.sum()), int(answers.right[answered].sum())
    return {
        "threshold": least,
        "coverage": count / len(answered),
        "accuracy": right / count if count else None,
        "accuracy_95": wilson(right, count) if count else None,
    }


def slices(columns: Sequence[Column], raw: np.ndarray, right: np.ndarray) -> list[dict[str, Any]]:
    """Accuracy by the values of each column.

    Args:
        columns: of the table.
        raw: raw rows, float32 ``(rows, columns)``.
        right: whether the model is right, bool ``(rows,)``.

    Returns:
        ``column``, ``value``, ``rows``, ``accuracy`` and ``accuracy_95`` (Wilson, 1927) of the ``VALUES`` most frequent
        values of each column; a column of numbers is cut at its quartiles.
    """
    found = []
    for place, column in enumerate(columns):
        values = raw[:, place]
        codes, names = _coded(column, values)
        counts, rights = (np.bincount(codes, weights, len(names)).astype(int) for weights in (None, right))
        for code in np.argsort(-counts, kind="stable")[:VALUES]:
            if counts[code]:
                found.append(
                    {
                        "column": column.name,
                        "value": names[code],
                        "rows": int(counts[code]),
                        "accuracy": int(rights[code]) / int(counts[code]),
                        "accuracy_95": wilson(int(rights[code]), int(counts[code])),
                    }
                )
    return found


def _coded(column: Column, values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Which of the names each value has, and the names."""
    absent = np.isnan(values)
    if column.kind == "category":
        names = [*column.values, "(not seen in training)", "(missing)"]
        codes = np.where(absent, len(names) - 1, np.where(values < 0, len(names) - 2, values))
        return codes.astype(np.int64), names
    there = values[~absent]
    few = np.unique(there)
    if len(few) <= 4:
        names = [f"{value:g}" for value in few]
        codes = np.searchsorted(few, values)
    else:
        edges = np.unique(np.quantile(there, (0.25, 0.5, 0.75)))
        names = [f"up to {edges[0]:.4g}", *(f"{a:.4g} to {b:.4g}" for a, b in itertools.pairwise(edges))]
        names.append(f"above {edges[-1]:.4g}")
        codes = np.searchsorted(edges, values)
    return np.where(absent, len(names), codes), [*names, "(missing)"]
