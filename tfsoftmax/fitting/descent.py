"""Descent: one lane of the solver, L-BFGS whose first metric is a whitening. NumPy only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_MEMORY = 10  # pairs of steps and changes of the gradient
_NOISE = {"float32": 2e-7, "float64": 4e-16}  # of a loss, as a share of it
_REST = 5  # steps after an attempt at the end that failed
_PATIENCE = 12  # steps that together lower the loss by less than that, until the precision is found to be the limit


class _Pair(NamedTuple):
    """A step, how the gradient changed by it, that change whitened, and one over the product of the first two."""

    step: np.ndarray
    change: np.ndarray
    white: np.ndarray
    inverse: float


class Descent:
    """One lane: where it is, and where it wants the loss next.

    Args:
        penalty: of half the squared kernel; at least 0.
        start: kernel and, in the last row, bias: float64 ``(F + 1, C)``.
        tol: the gap wanted.
        tilt: what the squared gradient by the bias adds to the gap, about.

    Attributes:
        point: the best point so far.
        trial: where loss and gradient are wanted.
        slope: norm of the gradient at ``point``, by kernel and by bias.
        stuck: this precision shows no lower loss.
    """

    def __init__(self, penalty: float, start: np.ndarray, tol: float, tilt: float):
        self.penalty, self.tol, self.tilt = penalty, tol, tilt
        self.point = self.trial = start
        self.slope = np.inf, np.inf
        self.restart()

    def restart(self) -> None:
        """Forget the loss: what follows is of another precision."""
        self.value, self.gradient, self.trial = np.inf, np.zeros_like(self.point), self.point
        self.white = np.zeros_like(self.point)  # the whitened gradient
        self.pairs: deque[_Pair] = deque(maxlen=_MEMORY)
        self.stuck, self._begun, self._fails, self._rest = False, False, 0, 0
        self._values: deque[float] = deque(maxlen=_PATIENCE)

    def whiten(self, whitened: Callable[[np.ndarray], np.ndarray]) -> None:
        """Go on in another metric: ``whitened`` takes gradients ``(K, F + 1, C)``."""
        self.white, *changes = whitened(np.stack([self.gradient, *(pair.change for pair in self.pairs)]))
        pairs = zip(self.pairs, changes, strict=True)
        self.pairs = deque((pair._replace(white=white) for pair, white in pairs), maxlen=_MEMORY)

    def take(self, loss: float, gradient: np.ndarray, white: np.ndarray, precision: str) -> None:
        """Take the loss at ``trial``, without penalty; the gradient, with it; and that whitened. Choose the next."""
        value = loss + self.penalty / 2 * float((self.trial[:-1] ** 2).sum())
        if not self._begun:
            self._begun = True
            self._accept(value, gradient, white, 0.0)
            self._next()
            return
        along = float((gradient * self._way).sum()) if np.isfinite(value) else np.inf
        noise = _NOISE[precision] * max(abs(self.value), abs(value))
        lower = value <= self.value + min(0.0, 1e-4 * self._step * self._down)
        # a convex function that still falls along the way, or hardly rises, is lower there, whatever rounding says
        flat = abs(value - self.value) <= noise and along <= 0.5 * -self._down
        if lower or flat:
            step, change, before = self.trial - self.point, gradient - self.gradient, self.white
            self._accept(value, gradient, white, noise)
            curved = float((step * change).sum())
            if curved > 1e-14 * float(np.sqrt((step**2).sum() * (change**2).sum())):
                self.pairs.append(_Pair(step, change, self.white - before, 1 / curved))
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

    def _accept(self, value: float, gradient: np.ndarray, white: np.ndarray, noise: float) -> None:
        self.point, self.value, self.gradient, self.white = self.trial, value, gradient, white
        self.slope = float(np.linalg.norm(gradient[:-1])), float(np.linalg.norm(gradient[-1]))
        full = len(self._values) == _PATIENCE
        self.stuck = (full and self._values[0] - value <= noise) or not any(self.slope)
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
        weight[-1] = np.sqrt(self.tilt)
        gradient = (self.gradient * weight).ravel()
        changes = np.stack([(pair.change * weight).ravel() for pair in self.pairs])
        shares = np.linalg.lstsq(changes @ changes.T, changes @ gradient, rcond=1e-12)[0]
        if ((gradient - shares @ changes) ** 2).sum() > 0.5 * self.tol:
            return False
        self._rest, self._ending, self._step, self._fails = _REST, True, 1.0, 0
        self._way = -sum(share * pair.step for share, pair in zip(shares, self.pairs, strict=True))
        self._down = float((self.gradient * self._way).sum())
        self.trial = self.point + self._way
        return True

    def _aim(self) -> None:
        """The next way, and a whole step of it."""
        way, white, shares = self.gradient.copy(), self.white.copy(), []
        for pair in reversed(self.pairs):
            shares.append(pair.inverse * float((pair.step * way).sum()))
            way -= shares[-1] * pair.change
            white -= shares[-1] * pair.white  # whitening is linear: once for each gradient is enough
        if self.pairs:
            last = self.pairs[-1]
            if (scale := last.inverse * float((last.change * last.white).sum())) > 0:
                white /= scale
        for pair, share in zip(self.pairs, reversed(shares), strict=True):
            white += pair.step * (share - pair.inverse * float((pair.change * white).sum()))
        self._way, self._ending, self._step, self._fails = -white, False, 1.0, 0
        self._down = float((self.gradient * self._way).sum())
        self.trial = self.point + self._way
