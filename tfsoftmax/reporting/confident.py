"""Confident learning: which labels are probably wrong, by what models say that have not seen the rows. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Suspects(NamedTuple):
    """What :func:`suspects` returns, the surest first, arrays ``(found,)``.

    Attributes:
        rows: their places.
        suggested: the class that is more probable than the label.
        of_label: probability of the label.
        of_suggested: probability of the suggested class.
        estimated: how many of all labels are estimated to be wrong; some of them cannot be told from hard rows.
    """

    rows: np.ndarray
    suggested: np.ndarray
    of_label: np.ndarray
    of_suggested: np.ndarray
    estimated: int


def joint(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The estimated number of rows by label (first axis) and true class: float64 ``(classes, classes)``.

    Equations 1 to 3 of Northcutt, Jiang and Chuang, Confident Learning, JAIR 70 (2021): a row counts for the most
    probable of those classes whose probability is at least the mean one of the rows with that label; the counts are
    brought to the number of rows with each label.
    """
    classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=classes)
    own = np.bincount(labels, probabilities[np.arange(len(labels)), labels].astype(np.float64), classes)
    thresholds = np.where(counts > 0, own / np.maximum(counts, 1), np.inf)
    sure = probabilities >= thresholds - 1e-6  # the last digits of a mean are no reason
    some = np.flatnonzero(sure.any(axis=1))
    true = np.where(sure[some], probabilities[some], -1).argmax(axis=1)
    found = np.bincount(labels[some] * classes + true, minlength=classes**2).reshape(classes, classes)
    np.fill_diagonal(found, np.maximum(found.diagonal(), 1))
    scaled: np.ndarray = found * (counts / found.sum(axis=1))[:, None]
    return scaled


def suspects(probabilities: np.ndarray, labels: np.ndarray) -> Suspects:
    """The rows whose labels are probably wrong: pruned by noise rate (section 3.2 of the same paper), ranked by margin.

    Args:
        probabilities: of models that have not seen the rows, ``(rows, classes)``.
        labels: int ``(rows,)``.
    """
    every = np.arange(len(labels))
    of_label, predicted = probabilities[every, labels], probabilities.argmax(axis=1)
    wrong = np.round(joint(probabilities, labels)).astype(np.int64)
    np.fill_diagonal(wrong, 0)
    found = np.zeros(len(labels), bool)
    for label in np.flatnonzero(wrong.any(axis=1)):
        rows = np.flatnonzero(labels == label)
        for true in np.flatnonzero(wrong[label]):
            margin = probabilities[rows, true] - of_label[rows]
            found[rows[np.argsort(-margin, kind="stable")[: wrong[label, true]]]] = True
    rows = np.flatnonzero(found & (predicted != labels))
    of_suggested = probabilities[rows, predicted[rows]]
    order = np.argsort(of_label[rows] - of_suggested, kind="stable")
    rows = rows[order]
    return Suspects(rows, predicted[rows], of_label[rows], of_suggested[order], int(wrong.sum()))
