"""The solver: the lowest loss of L2-penalized softmax regression, for many penalties at once, each with a certificate.

All penalties are lanes of one matrix product over all rows; a pass gives each lane its loss and gradient, and L-BFGS in
a whitening metric its next point. Passes are float32 until a lane is there or float32 shows no lower loss, then
float64. What is certified is the model as it is kept, in float32, by a pass of its own in float64.
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
from tfsoftmax.fitting.passes import Moments, Passes, Totals
from tfsoftmax.fitting.whitening import Whitening
from tfsoftmax.rows import Rows
from tfsoftmax.spec import RunConfig

TOL, PASSES = RunConfig.tol, RunConfig.passes
_MOVES = 8, 60, 240  # passes after which the whitening moves to where a lane is
_SMALL = 2**20  # numbers of rows below which float32 saves nothing
_PARAMETERS = 2**23  # of all lanes at once; the memory of L-BFGS holds each 30 times
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
        passes: over all rows, each for loss and gradient; those of other lanes do not count.
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
        l2: of the kernel, at least 0; ``None``: what the model has. Several are solved at once.
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
    on_pass: Callable[[list[Progress]], None] | None = None,
) -> list[Solution]:
    """Solve all penalties ``l2`` on ``rows``; arguments and errors are those of :func:`solve`.

    Args:
        rows: at least one.
        classes: of the model, at least 2.
        l2: at least one.
        tol: see :func:`solve`.
        passes: see :func:`solve`.
        on_pass: called after each pass with where the lanes are that are left.
    """
    wanted = [number("l2", one, 0) for one in l2]
    tol, passes = number("tol", tol, 0, open_low=True), number("passes", passes, 2, INT32, whole=True)
    if not wanted:
        raise InputError("l2 must be at least one number of at least 0, got none")
    if (largest := int(rows.y.max())) >= classes or rows.y.min() < 0:
        raise InputError(f"label {largest} is outside the model's {classes} outputs")
    if rows.weight is not None and not rows.weight.any():
        raise InputError("the weights of all rows are 0: nothing is left to learn from")
    features = math.prod(rows.spec.features)
    over = Passes(rows, classes)
    if not all(np.isfinite(part).all() for part in over.moments):
        raise InputError("the features of a row are not finite numbers; leave that row out, or preprocess it")
    if over.moments.power > _POWER:
        raise InputError("the features of a row are beyond 1e18, and their squares beyond float32: standardize them")
    whitening = Whitening(*over.sample, over.moments.mass)
    most = max(1, _PARAMETERS // (features * classes))
    order = sorted(range(len(wanted)), key=lambda k: -wanted[k])  # each group starts where the last one ended
    point = _start(over)
    found: dict[int, Solution] = {}
    for begin in range(0, len(order), most):
        group = order[begin : begin + most]
        lanes = [_Lane(2 * wanted[k], point, whitening, over.moments, tol, passes) for k in group]
        _solve(over, lanes, whitening, on_pass)
        point = lanes[-1].descent.point
        found |= {k: lane.solution(over) for k, lane in zip(group, lanes, strict=True)}
    return [found[k] for k in range(len(wanted))]


def _start(over: Passes) -> np.ndarray:
    """Zero weights, and the bias that is best for them: the logarithm of how often each class is."""
    mass = over.moments.mass
    point = np.zeros((over.features + 1, over.classes))
    point[-1] = np.log(np.where(mass > 0, mass, 1.0) / mass.sum())
    point[-1] -= point[-1][mass > 0].mean()
    point[-1][mass <= 0] = 0.0
    return point


class _Lane:
    """One penalty on its way: the descent, passes so far, and the certificate of where it is."""

    def __init__(
        self, penalty: float, start: np.ndarray, whitening: Whitening, moments: Moments, tol: float, passes: int
    ):
        self.penalty, self.tol, self.most = penalty, tol, passes
        tilt = float((moments.means**2).sum() / moments.mass[moments.mass > 0].min() ** 2) / (2 * penalty or 1.0)
        self.descent, self.deviation = Descent(penalty, start, tol, tilt), whitening.deviation
        self.shares = whitening.shares(start)
        self.passes, self.separable = 0, False
        self.precision = "float32"
        self.kernel, self.bias = np.empty(0, np.float32), np.empty(0, np.float32)
        self.totals: Totals | None = None
        self.gap: float | None = None
        self.slope, self.objective, self.flat = math.inf, math.inf, False
        self.lower, self.about = 0.0, math.inf  # bound of the lowest objective; the gap in this precision

    @property
    def spent(self) -> bool:
        return self.passes >= self.most - 1  # the last one is the certificate's

    def take(self, totals: Totals, gradient: np.ndarray, white: np.ndarray, precision: str, over: Passes) -> bool:
        """Take a pass at ``descent.trial``; returns whether this lane has come to an end in this precision."""
        descent, trial = self.descent, self.descent.trial
        self.passes, self.precision, near = self.passes + 1, precision, False
        if self.penalty > 0:
            lower, upper = bounds(self.penalty, trial[:-1], trial[-1], totals, over.moments, len(over.rows))
            if precision == "float64" and math.isfinite(lower):
                self.lower = max(self.lower, lower)
            self.about = upper - max(self.lower, lower)
            near = self.about <= 0.8 * self.tol
        self.separable = self.penalty == 0 and bool(totals.margin[0] > 0)
        if near or self.separable:
            descent.point = trial
            return True
        descent.take(float(totals.loss[0]), gradient, white, precision)
        return descent.stuck or self.spent or (self.penalty == 0 and self._flat(descent.gradient))

    def move(self, whitening: Whitening) -> None:
        """Go on in the metric that ``whitening`` has now."""
        self.shares = whitening.shares(self.descent.point)

        def whitened(gradients: np.ndarray) -> np.ndarray:
            return _whitened(whitening, [self] * len(gradients), gradients)

        self.descent.whiten(whitened)

    def gradient(self, totals: Totals, kernel: np.ndarray) -> np.ndarray:
        """Of the objective ``(F + 1, C)``."""
        return np.vstack([totals.kernel[0] + self.penalty * kernel, totals.bias[0]])

    def _flat(self, gradient: np.ndarray) -> bool:
        return bool((np.abs(gradient) <= 0.01 * self.tol * self.deviation).all())

    def round(self, over: Passes) -> tuple[np.ndarray, np.ndarray]:
        """Make the float32 model; returns its kernel and bias for features less their centre, as float64."""
        kernel, there = self.descent.point[:-1], over.moments.mass > 0
        self.kernel = kernel.astype(np.float32)
        exact, centre = self.kernel.astype(np.float64), over.centre.astype(np.float64)
        bias = self.descent.point[-1] - centre @ exact
        self.bias = np.where(there, bias, bias[there].mean() - _NEVER).astype(np.float32)
        return exact, np.where(there, self.bias + centre @ exact, -np.inf)

    def certify(self, totals: Totals, kernel: np.ndarray, bias: np.ndarray, over: Passes) -> None:
        self.passes, self.totals = self.passes + 1, totals
        gradient = self.gradient(totals, kernel)
        self.slope, self.flat = float(np.linalg.norm(gradient)), self._flat(gradient)
        self.objective = float(totals.loss[0]) + self.penalty / 2 * float((kernel**2).sum())
        if self.penalty > 0:
            lower, upper = bounds(self.penalty, kernel, bias, totals, over.moments, len(over.rows))
            self.lower = max(self.lower, lower)
            self.gap = upper - self.lower

    @property
    def converged(self) -> bool:
        if self.separable:
            return False
        return self.flat if self.gap is None else self.gap <= self.tol

    def solution(self, over: Passes) -> Solution:
        """What this lane has come to."""
        why = ""
        if not self.converged:
            why = self._why()
        loss = math.nan if self.totals is None else float(self.totals.loss[0])
        return Solution(
            self.penalty / 2,
            loss,
            self.objective,
            self.slope,
            self.gap,
            self.passes,
            self.converged,
            self.precision,
            why,
            self.kernel,
            self.bias,
        )

    def _why(self) -> str:
        if self.separable:
            return (
                "the classes are separable and there is no penalty: larger weights always lower the loss, so there is "
                "no optimum; take l2 above 0"
            )
        if self.gap is None:
            where = f"there is no penalty, so no bound of the distance to an optimum; the gradient is {self.slope:.2g}"
        else:
            where = f"the loss is within {self.gap:.2g} nats of the optimum, and {self.tol:.2g} was wanted"
        if self.passes >= self.most:
            return f"{where}, after all {self.most} passes: take more passes, or a larger penalty"
        return f"{where}: float32 weights, or float64 sums, come no closer on these rows; standardize the features"


def _solve(
    over: Passes, lanes: list[_Lane], whitening: Whitening, on_pass: Callable[[list[Progress]], None] | None
) -> None:
    small = len(over.rows) * over.features <= _SMALL
    left, done = lanes, 0
    for precision in ("float64",) if small else ("float32", "float64"):
        active = [lane for lane in left if not (lane.spent or lane.separable)]
        for lane in active:
            lane.descent.restart()
        while active:
            points = [lane.descent.trial for lane in active]
            never = over.moments.mass <= 0
            biases = [np.where(never, -np.inf, point[-1]) for point in points]
            totals = _run(over, [point[:-1] for point in points], biases, precision, len(lanes), not small)
            taken, active, done = active, [], done + 1
            with np.errstate(over="ignore", invalid="ignore"):
                gradients = [
                    lane.gradient(one, lane.descent.trial[:-1]) for lane, one in zip(taken, totals, strict=True)
                ]
                whites = _whitened(whitening, taken, np.stack(gradients))
                for lane, one, gradient, white in zip(taken, totals, gradients, whites, strict=True):
                    if not lane.take(one, gradient, white, precision, over):
                        active.append(lane)
            if done in _MOVES and active:
                whitening.move(active[len(active) // 2].descent.point)
                for lane in active:
                    lane.move(whitening)
            if on_pass is not None:
                on_pass([Progress(lane.penalty / 2, lane.passes, lane.descent.value, lane.about) for lane in taken])
        rounded = [lane.round(over) for lane in left]
        kernels, biases = [kernel for kernel, _ in rounded], [bias for _, bias in rounded]
        totals = _run(over, kernels, biases, "float64", len(lanes), not small)
        for lane, one, (kernel, bias) in zip(left, totals, rounded, strict=True):
            lane.certify(one, kernel, bias, over)
        left = [lane for lane in left if not (lane.converged or lane.passes >= lane.most or lane.separable)]
        if not left:
            return


def _whitened(whitening: Whitening, lanes: list[_Lane], gradients: np.ndarray) -> np.ndarray:
    penalties, shares = np.array([lane.penalty for lane in lanes]), np.stack([lane.shares for lane in lanes])
    return whitening(gradients, penalties, shares)


def _run(over: Passes, kernels: Any, biases: Any, precision: str, lanes: int, shrink: bool) -> list[Totals]:
    """A pass of the active lanes, filled up to all ``lanes``, or three quarters, …, of them: few sizes compile."""
    active, size = len(kernels), lanes
    while shrink and 3 * size // 4 >= active:
        size = 3 * size // 4
    filled = [0] * (size - active)
    kernel, bias = (np.stack([*part, *(part[k] for k in filled)]) for part in (kernels, biases))
    totals = over.run(kernel, bias, precision)
    return [Totals(*(part[k : k + 1] for part in totals)) for k in range(active)]
