"""Curvature: how fast the loss can bend on a data set, and the learning rate that follows where nobody gives one."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from tfsoftmax import columns
from tfsoftmax.spec import RunConfig

if TYPE_CHECKING:
    from tfsoftmax.data import Data
    from tfsoftmax.rows import Rows

LR = 0.1  # the chapter's, for its data set; and of the optimizers that the curvature says nothing of
_CHAPTER = "fashion_mnist"


@dataclasses.dataclass(frozen=True)
class Curvature:
    """How fast the mean cross-entropy can bend, and the learning rates that follow.

    With a column of ones for the bias, ``X̃`` the preprocessed training rows, the Hessian of softmax regression is
    at most ``½ X̃ᵀX̃ / n`` (Böhning, 1992), so gradient descent with ``bound = 2 / λmax(X̃ᵀX̃ / n)`` lowers the loss in
    every step. At zero weights the Hessian is ``1/K`` of ``X̃ᵀX̃ / n`` at most, for ``K`` classes, which gives
    ``start``.

    Args:
        largest: ``λmax(X̃ᵀX̃ / n)``.
        classes: ``K``.
    """

    largest: float
    classes: int

    @property
    def bound(self) -> float:
        """The learning rate ``1 / L`` with ``L = ½ λmax``."""
        return 2 / self.largest

    @property
    def start(self) -> float:
        """The learning rate ``1 / L`` with the curvature at zero weights, ``λmax / K``."""
        return self.classes / self.largest


def curvature(rows: Rows) -> Curvature:
    """The :class:`Curvature` of weighted rows, by power iteration to four digits, some thousand rows at a time."""
    x, weight, spec = rows.x, rows.weight, rows.spec
    offset, scale = (np.asarray(value, np.float32) for value in columns.constants(spec))
    vector, largest = np.ones(math.prod(spec.features) + 1, np.float32), 0.0
    for _ in range(100):
        vector /= np.linalg.norm(vector)
        product = np.zeros_like(vector)
        for begin in range(0, len(x), 8192):
            part = (columns.dense(spec, x[begin : begin + 8192]) - offset) * scale
            along = part @ vector[:-1] + vector[-1]
            if weight is not None:
                along *= weight[begin : begin + 8192]
            product[:-1] += along @ part
            product[-1] += along.sum()
        vector, before, largest = product, largest, float(np.linalg.norm(product)) / len(x)
        if abs(largest - before) < 1e-4 * largest:
            break
    return Curvature(largest, len(spec.classes))


def learning_rate(config: RunConfig, data: Data) -> float:
    """The learning rate of ``config``; where it has none :func:`default_rate`, of the chapter's data set 0.1."""
    if config.lr is not None:
        return config.lr
    return LR if data.name == _CHAPTER else default_rate(data.train.rows, config.optimizer, config.l2)


def default_rate(rows: Rows, optimizer: str, l2: float) -> float:
    """The curvature bound of ``rows``, to three digits; 0.1 for an optimizer other than ``sgd``."""
    if optimizer != "sgd":
        return LR
    # the penalty bends the loss, too
    return float(f"{1 / (1 / curvature(rows).bound + 2 * l2):.3g}")
