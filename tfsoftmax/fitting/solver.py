"""The solver: the lowest loss of L2-penalized softmax regression, for many penalties at once, each with a certificate.

Penalties come one after the other, from the largest, each from where the one before ended and with what that learned
of the curvature: the optimum moves little between neighbours. A pass over all rows gives loss and gradient, and L-BFGS
in a whitening metric the next point. Passes are float32 until the gap is small enough or float32 shows no lower loss,
then float64. What is certified is the model as it is kept, in float32, by a pass of its own in float64.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from tfsoftmax._checks import INT32, number, shown
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.arrays import into_rows
from tfsoftmax.fitting.certificate import bounds
from tfsoftmax.fitting.compilable import prepare, unsupported
from tfsoftmax.fitting.descent import Descent
from tfsoftmax.fitting.losses import SmoothedCrossentropy
from tfsoftmax.fitting.passes import Passes, Totals
from tfsoftmax.fitting.whitening import Whitening
from tfsoftmax.rows import Rows
from tfsoftmax.spec import RunConfig

TOL, PASSES = RunConfig.tol, RunConfig.passes
_POWER = 1e37  # mean squares of the features above which float32 sums of them overflow
_NEVER = 60.0  # how far the bias of a class without rows is below the others: its probability is below 1e-25


@dataclasses.dataclass(frozen=True)
class Solution:
    """The model of one penalty, and its certificate.

    Args:
        l2: the penalty, ``l2 * sum(kernel ** 2)``.
        loss: weighted mean cross-entropy of the rows in nats, without penalty.
        objective: with it.
        gradient: norm of the gradient of the objective, by kernel and bias.
        gap: the objective is above the lowest one by at most this, in nats; ``None`` without penalty, where no such
            bound is known. Computed in float64 from the float32 weights.
        passes: over all rows, each for loss and gradient; those of other penalties do not count.
        converged: the gap is at most ``tol``; without penalty, no entry of the gradient by standardized features is
            above a hundredth of ``tol``.
        precision: of the passes that came last: ``"float32"`` or ``"float64"``.
        why: one line if it has not converged; else empty.
        kernel: float32 ``(features, classes)``.
        bias: float32 ``(classes,)``.
    """

    l2: float
    loss: float
    objective: float
    gradient: float
    gap: float | None
    passes: int
    converged: bool
    precision: str
    why: str
    kernel: np.ndarray = dataclasses.field(repr=False)
    bias: np.ndarray = dataclasses.field(repr=False)

    @property
    def weights(self) -> list[np.ndarray]:
        """Kernel and bias, as ``model.layers[1].set_weights`` takes them."""
        return [self.kernel, self.bias]

    def certificate(self) -> dict[str, Any]:
        """All but the weights, for JSON."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("kernel", "bias")
        }


class Progress(NamedTuple):
    """Where one penalty is after a pass: the objective, and how far it can be from the lowest, about."""

    l2: float
    passes: int
    objective: float
    gap: float


def solve(
    model: keras.Sequential,
    x: Any,
    y: Any = None,
    *,
    sample_weight: Any = None,
    l2: float | Sequence[float] | None = None,
    tol: float = TOL,
    passes: int = PASSES,
) -> Any:
    """Bring ``model`` to the lowest loss on its training rows, and prove it.

    The loss is ``fit``'s: the mean of weight times cross-entropy over the rows, and ``l2 * sum(kernel ** 2)``.

    Args:
        model: from :func:`tfsoftmax.SoftmaxRegression`, or alike: Flatten and Dense with a bias, compiled.
        x: ``data.train``, whose class and row weights count; or arrays ``(rows, *shape)``.
        y: labels of arrays, whole numbers ``(rows,)``.
        sample_weight: of arrays ``(rows,)``.
        l2: of the kernel, at least 0; ``None``: what the model has. Several help each other.
        tol: the gap wanted, in nats, above 0.
        passes: most passes over the rows for each penalty, at least 2.

    Returns:
        A :class:`Solution`, whose weights the model then has. For several penalties a list of them, in order; the model
        keeps its weights.

    Raises:
        InputError: a model or data that this cannot solve, or an argument out of range.
    """
    arguments = {"x": x, "y": y, "sample_weight": sample_weight, "batch_size": 256, "shuffle": False}
    if why := _unsolvable(model):
        raise InputError(f"solve takes a model of SoftmaxRegression, and of this one {why}")
    into_rows(arguments, model)
    rows = getattr(arguments["x"], "rows", None)
    if not isinstance(rows, Rows):
        raise InputError(
            "solve takes rows in memory: data.train of tfsoftmax.load or tfsoftmax.Data, or arrays x and labels y; "
            f"got {shown(x)}"
        )
    if why := prepare(model, rows.spec.features):
        raise InputError(f"solve: {why}")
    dense = model.layers[1]
    several = l2 is not None and not np.isscalar(l2)
    wanted: Any = l2 if several else [_own(dense) if l2 is None else l2]
    found = optimum(rows, dense.units, wanted, tol=tol, passes=passes)
    if several:
        return found
    dense.set_weights(found[0].weights)
    return found[0]


def penalty(c: float, rows: int, classes: int) -> float:
    """The ``l2`` of scikit-learn's ``C``, which counts losses in all, half the squares, one column for two classes."""
    return 1 / (number("C", c, 0, open_low=True) * rows * (2 if classes > 2 else 1))


def _unsolvable(model: Any) -> str:
    if why := unsupported(model):
        return why
    if not model.layers[1].use_bias:
        return "its Dense has no bias"
    if isinstance(model.loss, SmoothedCrossentropy):
        return "its loss has label smoothing"
    return ""


def _own(dense: keras.layers.Dense) -> float:
    regularizer = dense.kernel_regularizer
    if regularizer is None:
        return 0.0
    if type(regularizer) is not keras.regularizers.L2:
        raise InputError(f"solve knows the penalty L2 alone; the model has {type(regularizer).__name__}: pass l2=…")
    return float(regularizer.l2)


def optimum(
    rows: Rows,
    classes: int,
    l2: Sequence[float],
    *,
    tol: float = TOL,
    passes: int = PASSES,
    on_pass: Callable[[Progress], None] | None = None,
) -> list[Solution]:
    """Solve all penalties ``l2`` on ``rows``; arguments and errors are those of :func:`solve`.

    Args:
        rows: at least one.
        classes: of the model, at least 2.
        l2: at least one.
        tol: see :func:`solve`.
        passes: see :func:`solve`.
        on_pass: called after each pass; of several penalties the largest comes first.
    """
    wanted = [number("l2", one, 0) for one in l2]
    tol, passes = number("tol", tol, 0, open_low=True), number("passes", passes, 2, INT32, whole=True)
    if not wanted:
        raise InputError("l2 must be at least one number of at least 0, got none")
    if (largest := int(rows.y.max())) >= classes or rows.y.min() < 0:
        raise InputError(f"label {largest} is outside the model's {classes} outputs")
    if rows.weight is not None and not rows.weight.any():
        raise InputError("the weights of all rows are 0: nothing is left to learn from")
    over = Passes(rows, classes)
    if not all(np.isfinite(part).all() for part in over.moments):
        raise InputError("the features of a row are not finite numbers; leave that row out, or preprocess it")
    if over.moments.power > _POWER:
        raise InputError("the features of a row are beyond 1e18, and their squares beyond float32: standardize them")
    whitening = Whitening(*over.sample, over.moments.mass)
    descent, found = Descent(_start(over), tol), {}
    with np.errstate(over="ignore", invalid="ignore"):  # a step that is too long is taken back
        for k in sorted(range(len(wanted)), key=lambda k: -wanted[k]):
            found[k] = _Penalty(2 * wanted[k], descent, whitening, over, passes).solve(on_pass)
    return [found[k] for k in range(len(wanted))]


def _start(over: Passes) -> np.ndarray:
    """Zero weights, and the bias that is best for them: the logarithm of how often each class is."""
    mass = over.moments.mass
    point = np.zeros((over.features + 1, over.classes))
    point[-1] = np.log(np.where(mass > 0, mass, 1.0) / mass.sum())
    point[-1] -= point[-1][mass > 0].mean()
    point[-1][mass <= 0] = 0.0
    return point


class _Penalty:
    """One penalty on the way of ``descent``: passes so far, and what they have shown."""

    def __init__(self, penalty: float, descent: Descent, whitening: Whitening, over: Passes, passes: int):
        self.penalty, self.tol, self.most = penalty, descent.tol, passes
        self.descent, self.whitening, self.over = descent, whitening, over
        self.shares = whitening.shares(descent.point)
        descent.to(penalty, self._whitened)
        self.passes, self.separable = 0, False
        self.precision = "float64" if over.small else "float32"
        self.lower, self.about = 0.0, math.inf  # bound of the lowest objective; the gap in this precision

    def solve(self, on_pass: Callable[[Progress], None] | None) -> Solution:
        """Go to the optimum, and certify what float32 makes of it; where that is not enough, once more in float64."""
        while True:
            there = self.spent or self.separable
            while not there:
                there = self._step()
                if on_pass is not None:
                    on_pass(Progress(self.penalty / 2, self.passes, self.descent.value, self.about))
            found = self._certified()
            if found.converged or found.passes >= self.most or self.separable or self.precision == "float64":
                return found
            self.precision = "float64"
            self.descent.restart()

    @property
    def spent(self) -> bool:
        return self.passes >= self.most - 1  # the last one is the certificate's

    def _step(self) -> bool:
        """Take a pass at ``descent.trial``; returns whether this precision has come to its end."""
        descent, trial = self.descent, self.descent.trial
        never = self.over.moments.mass <= 0
        totals = self.over.run(trial[:-1], np.where(never, -np.inf, trial[-1]), self.precision)
        self.passes += 1
        gradient = self._gradient(totals, trial[:-1])
        if self.penalty > 0:
            lower, upper = self._bounds(trial[:-1], trial[-1], totals)
            if self.precision == "float64" and math.isfinite(lower):
                self.lower = max(self.lower, lower)
            self.about = upper - max(self.lower, lower)
        self.separable = self.penalty == 0 and bool(totals.margin > 0)
        end = self.separable or (self.penalty > 0 and self.about <= 0.8 * self.tol)
        descent.take(float(totals.loss), gradient, self.precision, end)
        if (shares := self.whitening.follow(descent.point, self.penalty)) is not None:
            self.shares = shares
        return end or descent.stuck or self.spent or (self.penalty == 0 and self._flat(descent.gradient))

    def _whitened(self, gradient: np.ndarray) -> np.ndarray:
        return self.whitening(gradient, self.penalty, self.shares)

    def _gradient(self, totals: Totals, kernel: np.ndarray) -> np.ndarray:
        """Of the objective ``(F + 1, C)``."""
        return np.vstack([totals.kernel + self.penalty * kernel, totals.bias])

    def _bounds(self, kernel: np.ndarray, bias: np.ndarray, totals: Totals) -> tuple[float, float]:
        return bounds(self.penalty, kernel, bias, totals, self.over.moments, len(self.over.rows))

    def _flat(self, gradient: np.ndarray) -> bool:
        return bool((np.abs(gradient) <= 0.01 * self.tol * self.whitening.deviation).all())

    def _certified(self) -> Solution:
        """Round the point to the float32 model, and bound in float64 how far that is from the optimum."""
        kernel, there, centre = self.descent.point[:-1], self.over.moments.mass > 0, self.over.centre.astype(np.float64)
        kept = kernel.astype(np.float32)
        kernel = kept.astype(np.float64)
        bias = self.descent.point[-1] - centre @ kernel
        kept_bias = np.where(there, bias, bias[there].mean() - _NEVER).astype(np.float32)
        bias = np.where(there, kept_bias + centre @ kernel, -np.inf)  # of features less their centre
        totals = self.over.run(kernel, bias, "float64")
        self.passes += 1
        gradient = self._gradient(totals, kernel)
        slope, loss, gap = float(np.linalg.norm(gradient)), float(totals.loss), None
        if self.penalty > 0:
            lower, upper = self._bounds(kernel, bias, totals)
            self.lower = max(self.lower, lower)
            gap = upper - self.lower
        converged = not self.separable and (self._flat(gradient) if gap is None else gap <= self.tol)
        return Solution(
            l2=self.penalty / 2,
            loss=loss,
            objective=loss + self.penalty / 2 * float((kernel**2).sum()),
            gradient=slope,
            gap=gap,
            passes=self.passes,
            converged=converged,
            precision=self.precision,
            why="" if converged else self._why(slope, gap),
            kernel=kept,
            bias=kept_bias,
        )

    def _why(self, slope: float, gap: float | None) -> str:
        if self.separable:
            return (
                "the classes are separable and there is no penalty: larger weights always lower the loss, so there is "
                "no optimum; take l2 above 0"
            )
        if gap is None:
            where = f"there is no penalty, so no bound of the distance to an optimum; the gradient is {slope:.2g}"
        else:
            where = f"the loss is within {gap:.2g} nats of the optimum, and {self.tol:.2g} was wanted"
        if self.passes >= self.most:
            return f"{where}, after all {self.most} passes: take more passes, or a larger penalty"
        return f"{where}: float32 weights, or float64 sums, come no closer on these rows; standardize the features"
