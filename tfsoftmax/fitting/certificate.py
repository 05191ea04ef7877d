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
    own probabilities are one if the gradient by the bias is 0, and then ``f`` is above the bound by
    ``|df/dW|² / (2 penalty)``. Where it is not quite 0 they are mixed with as little of one distribution for all rows
    as gives each class its weight, and the entropy of what is mixed in is left out. What float64 arithmetic can have
    lost is taken from one bound and added to the other.

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
    predicted = residual + moments.mass
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(there, residual / predicted, 0.0)
    mixed = max(0.0, float(share.max()))  # t of q = (1 - t) p + t u
    mass = moments.mass.sum()
    added = np.maximum(moments.mass - (1 - mixed) * predicted, 0.0) / mass  # t u
    gradient = totals.kernel
    entropy = totals.loss - (kernel * gradient).sum() - (bias * residual).sum()
    shift = np.outer(moments.means.sum(axis=1), added) - mixed * (gradient + moments.means)
    slope = np.linalg.norm(gradient + penalty * kernel + shift)
    operations = rows + len(kernel) + kernel.shape[1]
    size, length = np.sqrt(moments.power * mass), np.linalg.norm(kernel)
    lost = 2 * operations * _EPSILON * (1 + totals.largest) * size
    gap = (slope + lost) ** 2 / (2 * penalty) - (kernel * shift).sum() + (bias * residual).sum()
    gap += max(0.0, mixed * entropy)
    value = totals.loss + penalty / 2 * length**2
    error = operations * _EPSILON * (totals.loss + length * (size + penalty * length))
    return float(value - gap - error), float(value + error)
