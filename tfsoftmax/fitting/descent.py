"""Descent: L-BFGS whose first metric is a whitening, along a path of penalties. NumPy only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_MEMORY, _NUMBERS = 20, 2**25  # most pairs of steps and changes of the gradient, and most numbers of their steps
_NOISE = {"float32": 2e-7, "float64": 4e-16}  # of a loss, as a share of it
_REST = 5  # steps after an attempt at the end that failed
_PATIENCE = 12  # steps that together lower the loss by less than that, until the precision is found to be the limit


class _Pair(NamedTuple):
    """A step, how the gradient changed by it, and one over the product of both."""

    step: np.ndarray
    change: np.ndarray
    inverse: float


class Descent:
    """Where a model is, and where it wants the loss next.

    Args:
        start: kernel and, in the last row, bias: float64 ``(F + 1, C)``.
        tol: the gap wanted.

    Attributes:
        point: the best point so far.
        trial: where loss and gradient are wanted.
        stuck: this precision shows no lower loss.
    """

    def __init__(self, start: np.ndarray, tol: float):
        self.tol, self.penalty = tol, 0.0
        self.point = start
        self._memory = max(3, min(_MEMORY, _NUMBERS // start.size))
        self.restart()

    def restart(self) -> None:
        """Forget the loss: what follows is of another precision."""
        self.value, self.gradient, self.trial = np.inf, np.zeros_like(self.point), self.point
        self.pairs: deque[_Pair] = deque(maxlen=self._memory)
        self._begun = False
        self._rested()

    def _rested(self) -> None:
        self.stuck, self._fails, self._rest = False, 0, 0
        self._values: deque[float] = deque(maxlen=_PATIENCE)

    def to(self, penalty: float, whitened: Callable[[np.ndarray], np.ndarray]) -> None:
        """Go on to another penalty from ``point``, with the pairs as they are there.

        Args:
            penalty: of half the squared kernel; at least 0.
            whitened: returns a gradient in the metric of the descent.
        """
        added = np.full((len(self.point), 1), penalty - self.penalty)
        added[-1] = 0.0
        self.penalty, self._whitened = penalty, whitened
        self._rested()
        if not self._begun:
            return
        self.value += float((added * self.point**2).sum()) / 2
        self.gradient = self.gradient + added * self.point
        pairs = (_pair(pair.step, pair.change + added * pair.step) for pair in self.pairs)
        self.pairs = deque(filter(None, pairs), maxlen=self._memory)
        self._next()

    def take(self, loss: float, gradient: np.ndarray, precision: str, end: bool) -> None:
        """Take the loss at ``trial``, without penalty, and the gradient, with it. Choose the next.

        At the ``end`` ``trial`` is the point, whatever its loss.
        """
        value = loss + self.penalty / 2 * float((self.trial[:-1] ** 2).sum())
        if not self._begun:
            self._begun = True
            self._accept(value, gradient, 0.0)
            if not end:
                self._next()
            return
        along = _dot(gradient, self._way) if np.isfinite(value) else np.inf
        noise = _NOISE[precision] * max(abs(self.value), abs(value))
        lower = value <= self.value + min(0.0, 1e-4 * self._step * self._down)
        # a convex function that still falls along the way, or hardly rises, is lower there, whatever rounding says
        flat = abs(value - self.value) <= noise and along <= 0.5 * -self._down
        if lower or flat or end:
            if pair := _pair(self.trial - self.point, gradient - self.gradient):
                self.pairs.append(pair)
            self._accept(value, gradient, noise)
            if not end:
                self._next()
            return
        if self._ending:
            self._aim()
            return
        shorter = self._down / (self._down - along) if np.isfinite(along) else 0.1
        self._fails += 1
        if self._fails > 12:
            if not self.pairs:
                self.stuck = True
                return
            self.pairs.clear()
            self._aim()
            return
        self._step *= min(0.5, max(0.1, shorter))
        self.trial = self.point + self._step * self._way

    def _accept(self, value: float, gradient: np.ndarray, noise: float) -> None:
        self.point, self.value, self.gradient = self.trial, value, gradient
        full = len(self._values) == _PATIENCE
        self.stuck = (full and self._values[0] - value <= noise) or not gradient.any()
        self._values.append(value)

    def _next(self) -> None:
        if not self.stuck and not self._attempt():
            self._aim()

    def _attempt(self) -> bool:
        """Whether ``trial`` is now a point whose gap is small enough, as far as the last changes of the gradient tell.

        The steps of L-BFGS overshoot here and there, and the gradient with them; the mean of the last points that has
        the smallest gradient, were the loss quadratic, is closer to the end than any of them (as residual smoothing of
        conjugate gradients; Zhou and Walker, 1994).
        """
        self._rest -= 1
        if self.penalty == 0 or len(self.pairs) < 3 or self._rest > 0:
            return False
        weight = np.full((len(self.gradient), 1), np.sqrt(1 / (2 * self.penalty)))
        # the bias adds sqrt(C) log(C) / 4 of its gradient's size to the gap, about; a square meets that at tol / 4
        classes = self.gradient.shape[1]
        weight[-1] = np.log(classes) * np.sqrt(classes / self.tol) / 2
        gradient = (self.gradient * weight).ravel()
        changes = np.stack([(pair.change * weight).ravel() for pair in self.pairs])
        shares = np.linalg.lstsq(changes @ changes.T, changes @ gradient, rcond=1e-12)[0]
        if ((gradient - shares @ changes) ** 2).sum() > 0.5 * self.tol:
            return False
        self._rest, self._ending, self._step, self._fails = _REST, True, 1.0, 0
        self._way = -sum(share * pair.step for share, pair in zip(shares, self.pairs, strict=True))
        self._down = _dot(self.gradient, self._way)
        self.trial = self.point + self._way
        return True

    def _aim(self) -> None:
        """The next way, and a whole step of it."""
        way, shares = self.gradient.copy(), []
        for pair in reversed(self.pairs):
            shares.append(pair.inverse * _dot(pair.step, way))
            way -= shares[-1] * pair.change
        white = self._whitened(way)
        if not self.pairs:
            white /= 2  # the loss bends more on the way; a first step too far takes ten to mend
        else:
            last = self.pairs[-1]
            if (scale := last.inverse * _dot(last.change, self._whitened(last.change))) > 0:
                white /= scale
        for pair, share in zip(self.pairs, reversed(shares), strict=True):
            white += pair.step * (share - pair.inverse * _dot(pair.change, white))
        self._way, self._ending, self._step, self._fails = -white, False, 1.0, 0
        self._down = _dot(self.gradient, self._way)
        self.trial = self.point + self._way


def _pair(step: np.ndarray, change: np.ndarray) -> _Pair | None:
    """None where rounding hides the curvature."""
    curved, length = _dot(step, change), np.sqrt(_dot(step, step) * _dot(change, change))
    return _Pair(step, change, 1 / curved) if curved > 1e-14 * length else None


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """Without BLAS, whose threads go on waiting for the next one, and take a core from the passes."""
    return float(np.einsum("fc,fc->", a, b))
