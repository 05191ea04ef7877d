"""PREPROCESSORS: how the constants of the preprocessing come from the training rows. NumPy only."""

from __future__ import annotations

import math

import numpy as np

Constants = tuple[float | np.ndarray, float | np.ndarray]


def _unit(x: np.ndarray, full: float, rows: np.ndarray | None) -> Constants:
    """Divide by the largest value of the type: pictures come to [0, 1], as in the chapter; floats stay as they are."""
    return 0.0, 1.0 / full


def _center(x: np.ndarray, full: float, rows: np.ndarray | None) -> Constants:
    """``unit``, with each input's mean over the training rows subtracted."""
    return _moments(x, rows)[0], 1.0 / full


def _standardize(x: np.ndarray, full: float, rows: np.ndarray | None) -> Constants:
    """Subtract each input's mean, divide by its deviation.

    Of pictures by the deviation and a twentieth of the largest value, so that nearly constant pixels do not explode.
    Columns of a table that are constant, or too small for the reciprocal to be a float32, are not divided.
    """
    mean, deviation = _moments(x, rows)
    if x.dtype == np.uint8:
        return mean, 1.0 / (deviation + 0.05 * full)
    return mean, 1.0 / np.where(deviation > np.finfo(np.float32).tiny, deviation, 1.0)


def _moments(x: np.ndarray, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each input over some rows, float64, a few thousand rows at a time."""
    rows = np.arange(len(x)) if rows is None else rows
    parts = np.array_split(rows, math.ceil(len(rows) / 4096))
    mean = sum(x[part].sum(axis=0, dtype=np.float64) for part in parts) / len(rows)
    first = x[rows[0]]
    square, varies = np.zeros(x.shape[1:]), np.zeros(x.shape[1:], bool)
    for part in parts:
        values = x[part]
        square += ((values - mean) ** 2).sum(axis=0)
        varies |= (values != first).any(axis=0)
    return mean, np.sqrt(square / len(rows)) * varies  # the mean of a constant is rounded


# name -> function of raw rows (n, *shape), the largest value of their type (255 for uint8, 1 for floats) and the
# indices of the training rows among them (None: all) that gives the (offset, scale) of ModelSpec.
PREPROCESSORS = {"unit": _unit, "center": _center, "standardize": _standardize}
