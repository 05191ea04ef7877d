"""PREPROCESSORS: how the constants of the preprocessing come from the training rows. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from tfsoftmax.stored import Stored

Constants = tuple[float | np.ndarray, float | np.ndarray]
Rows = np.ndarray | Stored

_PART = 2**20  # numbers that are looked at together


def _unit(x: Rows, full: float, rows: np.ndarray | None) -> Constants:
    """Divide by the largest value of the type: pictures come to [0, 1], as in the chapter; floats stay as they are."""
    return 0.0, 1.0 / full


def _center(x: Rows, full: float, rows: np.ndarray | None) -> Constants:
    """``unit``, with each input's mean over the training rows subtracted."""
    return _moments(x, rows)[0], 1.0 / full


def _standardize(x: Rows, full: float, rows: np.ndarray | None) -> Constants:
    """Subtract each input's mean, divide by its deviation.

    Of pictures by the deviation and a twentieth of the largest value, so that nearly constant pixels do not explode.
    Columns of a table that are constant, or too small for the reciprocal to be a float32, are not divided.
    """
    mean, deviation = _moments(x, rows)
    if x.dtype == np.uint8:
        return mean, 1.0 / (deviation + 0.05 * full)
    return mean, 1.0 / np.where(deviation > np.finfo(np.float32).tiny, deviation, 1.0)


def _moments(x: Rows, rows: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each input over some rows, float64, in one pass over parts of them.

    Of uint8 by sums of whole numbers, which are exact; of floats by the moments of each part, put together as Chan,
    Golub and LeVeque (1983) do.
    """
    count = len(x) if rows is None else len(rows)
    size = max(1, _PART // math.prod(x.shape[1:]))
    cuts = (slice(begin, begin + size) for begin in range(0, count, size))
    parts = (x[cut] if rows is None else x[rows[cut]] for cut in cuts)
    return _of_bytes(parts, count) if x.dtype == np.uint8 else _of_floats(parts, count)


def _of_bytes(parts: Iterator[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    total: Any = 0
    squares: Any = 0
    for part in parts:
        total = total + part.sum(axis=0, dtype=np.uint64)
        squares = squares + np.square(part, dtype=np.uint16).sum(axis=0, dtype=np.uint64)
    total, squares = total.astype(object), squares.astype(object)  # Python's whole numbers, which have no end
    deviation = np.frompyfunc(math.sqrt, 1, 1)(count * squares - total * total) / count
    return (total / count).astype(np.float64), deviation.astype(np.float64)


def _of_floats(parts: Iterator[np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray]:
    first: Any = None
    mean: Any = 0.0
    square: Any = 0.0
    varies: Any = False
    seen = 0
    for part in parts:
        first = part[0] if first is None else first
        own = part.mean(axis=0, dtype=np.float64)
        away, share = own - mean, len(part) / (seen + len(part))
        square = square + ((part - own) ** 2).sum(axis=0) + away**2 * (seen * share)
        mean = mean + away * share
        varies = varies | (part != first).any(axis=0)
        seen += len(part)
    return np.asarray(mean), np.sqrt(square / count) * varies  # the mean of a constant is rounded


# name -> function of raw rows (n, *shape), the largest value of their type (255 for uint8, 1 for floats) and the
# indices of the training rows among them (None: all) that gives the (offset, scale) of ModelSpec.
PREPROCESSORS = {"unit": _unit, "center": _center, "standardize": _standardize}
