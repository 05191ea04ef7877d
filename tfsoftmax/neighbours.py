"""Near-duplicates: pairs of rows that are almost the same, all of them, without comparing all with all. NumPy only."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PAIRS = 100_000  # that are listed, at most
_DIRECTIONS = 32  # of the projection that bounds distances from below
_SAMPLE = 512  # rows that the directions are of
_BLOCK = 512  # rows that are compared at once
_EXACT = 2**22  # numbers of pairs whose distance is computed at once


class Pairs(NamedTuple):
    """What :func:`near` returns.

    Attributes:
        rows: int64 ``(pairs, 2)``, in each the smaller place first, the nearest pair first.
        distance: root mean square of the differences of their elements, float64 ``(pairs,)``.
        whole: whether these are all; else the search ended after ``PAIRS``.
    """

    rows: np.ndarray
    distance: np.ndarray
    whole: bool


def near(x: np.ndarray, limit: float) -> Pairs:
    """All pairs of rows whose elements differ by at most ``limit``, root mean square.

    Rows are projected on principal directions, where no pair is farther apart than it is; along the first one they are
    sorted, so that each is compared with those in reach alone. What is left is compared exactly.

    Args:
        x: ``(rows, elements)``, uint8 or float32.
        limit: in units of ``x``, at least 0.
    """
    elements = x.shape[1]
    some = x[:: -(-len(x) // _SAMPLE)].astype(np.float32)
    mean = some.mean(axis=0)
    some -= mean
    principal = np.linalg.eigh(some @ some.T)[1][:, -_DIRECTIONS:][:, ::-1]  # of rows; there may be more elements
    directions = np.linalg.qr(some.T @ principal)[0]
    low = np.concatenate(
        [(x[begin : begin + 8192].astype(np.float32) - mean) @ directions for begin in range(0, len(x), 8192)]
    )
    order = np.argsort(low[:, 0], kind="stable")
    low = low[order]
    reach = limit * elements**0.5
    slack = 1e-3 * reach + 1e-5 * float(np.abs(low).max())  # what float32 takes away
    size = (low**2).sum(axis=1, keepdims=True)
    most = (reach + slack) ** 2 + 1e-5 * float(size.max())
    one = np.ones_like(size)
    left, right = np.hstack([low, size, one]), np.hstack([-2 * low, one, size]).T.copy()  # squared distances, at once
    rows, distances, count = [], [], 0
    for begin in range(0, len(x), _BLOCK):
        block = left[begin : begin + _BLOCK]
        end = int(np.searchsorted(low[:, 0], block[-1, 0] + reach + slack, side="right"))
        first, second = np.divmod(np.flatnonzero(block @ right[:, begin:end] <= most), end - begin)
        first, second = first[second > first], second[second > first]
        for at in range(0, len(first), max(1, _EXACT // elements)):
            part = slice(at, at + max(1, _EXACT // elements))
            pairs = np.sort(order[np.stack([first[part], second[part]], axis=1) + begin], axis=1)
            exact = _distance(x, pairs)
            keep = exact <= limit
            rows.append(pairs[keep])
            distances.append(exact[keep])
            count += int(keep.sum())
            if count > PAIRS:
                break
        if count > PAIRS:
            break
    found = np.concatenate(rows) if rows else np.zeros((0, 2), np.int64)
    distance = np.concatenate(distances) if distances else np.zeros(0)
    nearest = np.lexsort((found[:, 1], found[:, 0], distance))[:PAIRS]
    return Pairs(found[nearest], distance[nearest], count <= PAIRS)


def _distance(x: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    wide = np.int32 if x.dtype == np.uint8 else np.float64
    apart = x[pairs[:, 0]].astype(wide) - x[pairs[:, 1]].astype(wide)
    found: np.ndarray = np.sqrt((apart.astype(np.float64) ** 2).mean(axis=1))
    return found
