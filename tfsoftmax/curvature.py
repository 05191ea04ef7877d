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
_BATCHES = 8  # whose curvature says how large a step of one batch may be
_MANY = 100  # batches in an epoch, from which on their noise costs more than a rate that falls
_WHOLE = 2**26  # bytes; each step goes over all of the rows


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
    """The :class:`Curvature` of weighted rows, by power iteration to four digits, some thousand rows at a time.

    Of rows that come to more than 64 MiB, evenly spaced ones that come to about so much stand for all.
    """
    row = math.prod(rows.spec.shape) * np.dtype(rows.spec.dtype).itemsize
    every = slice(None, None, math.ceil(len(rows) * row / _WHOLE))
    return Curvature(_largest(rows, every), len(rows.spec.classes))


def _largest(rows: Rows, some: slice | np.ndarray) -> float:
    """``λmax`` of some of the rows."""
    x, weight, spec = rows.take(some), rows.weight, rows.spec
    weight = None if weight is None else weight[some]
    vector, largest = np.ones(math.prod(spec.features) + 1, np.float32), 0.0
    for _ in range(100):
        vector /= np.linalg.norm(vector)
        product = np.zeros_like(vector)
        for begin in range(0, len(x), 8192):
            part = columns.prepared(spec, x[begin : begin + 8192])
            along = part @ vector[:-1] + vector[-1]
            if weight is not None:
                along *= weight[begin : begin + 8192]
            product[:-1] += along @ part
            product[-1] += along.sum()
        vector, before, largest = product, largest, float(np.linalg.norm(product)) / len(x)
        if abs(largest - before) < 1e-4 * largest:
            break
    return largest


def settled(config: RunConfig, data: Data) -> RunConfig:
    """``config`` with the learning rate and the schedule that it leaves to the data.

    A constant rate as large as the curvature allows leaves the noise of the batches in the weights; few batches need it
    to the end.
    """
    constant = config.lr is not None or data.name == _CHAPTER or data.rows.train.steps < _MANY
    schedule = config.schedule or ("constant" if constant else "cosine")
    return dataclasses.replace(config, lr=learning_rate(config, data), schedule=schedule)


def learning_rate(config: RunConfig, data: Data) -> float:
    """The learning rate of ``config``; where it has none :func:`default_rate`, of the chapter's data set 0.1."""
    if config.lr is not None:
        return config.lr
    return LR if data.name == _CHAPTER else default_rate(data.rows.train, config.optimizer, config.l2)


def default_rate(rows: Rows, optimizer: str, l2: float) -> float:
    """The curvature bound of ``rows`` and of their batches, to three digits; 0.1 for an optimizer other than ``sgd``.

    The loss of a batch bends more than that of all rows, several times so if it has fewer rows than features: steps as
    large as all rows allow overshoot for each batch, and the weights end far from the optimum. So the bound is that of
    the mean ``λmax`` of eight batches where that is larger.
    """
    if optimizer != "sgd":
        return LR
    largest = curvature(rows).largest
    if rows.batch_size < len(rows):
        order = np.random.default_rng(0).permutation(len(rows))
        begins = range(0, len(rows), rows.batch_size)[:_BATCHES]
        of_batches = [_largest(rows, order[begin : begin + rows.batch_size]) for begin in begins]
        largest = max(largest, float(np.mean(of_batches)))
    bound = Curvature(largest, len(rows.spec.classes)).bound
    return float(f"{1 / (1 / bound + 2 * l2):.3g}")  # the penalty bends the loss, too
