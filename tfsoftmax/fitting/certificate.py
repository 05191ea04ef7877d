"""The duality gap: how far the loss of a softmax regression is from the lowest there is, at most. NumPy only."""

from __future__ import annotations

import numpy as np

from tfsoftmax.fitting.passes import Moments, Totals

_EPSILON = 2.0**-52


def bounds(
    penalty: float, kernel: np.ndarray, bias: np.ndarray, totals: Totals, moments: Moments, rows: int
) -> tuple[float, float]:
    """Bounds of ``min f`` and of ``f(W, b)``, for ``f = sum(w loss) / n + penalty / 2 |W|²`` with a free bias, in nats.

    The dual function of this problem takes a distribution ``q`` over the classes for each row, such that ``q`` has as
    much weight in each class as the labels have, and is a lower bound of ``min f`` for every such ``q``. The model's
    own probabilities ``p`` are one if the gradient by the bias is 0, and then ``f`` is above the bound by
    ``|df/dW|² / (2 penalty)``. Where it is not quite 0, a class that has too much gives the same share of it in every
    row, and the others get what they lack of that, ``u``. A row that gives ``m`` then costs ``m`` times the divergence
    of ``u`` from its ``p``, about: of the entropy of what it has become that of its parts is counted. What float64
    arithmetic can have lost is taken from one bound and added to the other.

    Args:
        penalty: above 0; twice Keras's ``l2``.
        kernel: ``W``, float64 ``(F, C)``.
        bias: of features less their centre, float64 ``(C,)``.
        totals: at ``kernel`` and ``bias``, computed in float64.
        moments: of the rows.
        rows: how many.

    Returns:
        A lower bound of ``min f`` and an upper bound of ``f(W, b)``.
    """
    there = moments.mass > 0
    bias, residual = np.where(there, bias, 0.0), totals.bias
    predicted, mass = residual + moments.mass, moments.mass.sum()
    lacking = np.where(there, np.maximum(-residual, 0.0), 0.0)
    share = np.divide(residual, predicted, out=np.zeros_like(residual), where=there & (residual > 0))
    share = np.minimum(share, 1 - _EPSILON)
    # without BLAS, as in descent.py: the features of what is given
    given = np.einsum("fc,c->f", totals.kernel + moments.means, share)
    moved = (share * predicted).sum()
    got = lacking / (lacking.sum() or 1.0)  # u
    shift = np.outer(given, got) - (totals.kernel + moments.means) * share
    slope = np.linalg.norm(totals.kernel + penalty * kernel + shift)
    operations = rows + len(kernel) + kernel.shape[1]
    size, length = np.sqrt(moments.power * mass), np.linalg.norm(kernel)
    lost = 2 * operations * _EPSILON * (1 + totals.largest) * size
    divergence = (
        share @ totals.normalizer - got @ (np.einsum("f,fc->c", given, kernel) + bias * moved) - moved * _entropy(got)
    )
    # of both parts of a row: what is left has less than one, and a row that gave all has nothing
    parts = ((1 - share) * predicted * np.log1p(-share)).sum() - (mass - moved) * np.log1p(-moved / mass)
    gap = (slope + lost) ** 2 / (2 * penalty) + max(0.0, divergence + parts)
    value = totals.loss + penalty / 2 * length**2
    error = operations * _EPSILON * (totals.loss + length * (size + penalty * length) + moved * (1 + totals.largest))
    return float(value - gap - error), float(value + error)


def _entropy(of: np.ndarray) -> float:
    some = of[of > 0]
    return float(-(some * np.log(some)).sum())
