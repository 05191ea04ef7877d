"""Number formats: what exp, softmax and cross-entropy do in each. NumPy and ml_dtypes alone.

Arithmetic is done in the format itself: every intermediate result is a number of the format, sums run from the first
class to the last. TensorFloat-32 has no type of its own; it is float32 rounded to 10 bits of fraction.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from decimal import Context, Decimal, localcontext
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from tfsoftmax._checks import one_of
from tfsoftmax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Format:
    """A number format.

    Its numbers from zero up have the indices 0, 1, …, ``last``; one step of the index is one unit in the last place.

    Args:
        dtype: the NumPy type that holds its numbers.
        dropped: how many of the lowest bits of that type it lacks.
    """

    dtype: DTypeLike
    dropped: int = 0

    @property
    def is_float(self) -> bool:
        """Whether it has an exponent, hence infinity or NaN; integers have neither."""
        return not np.issubdtype(self.dtype, np.integer)

    @functools.cached_property
    def last(self) -> int:
        """Index of the largest number."""
        if not self.is_float:
            return int(np.iinfo(self.dtype).max)
        largest = np.asarray(ml_dtypes.finfo(self.dtype).max, self.dtype)
        return int(largest.view(f"u{largest.itemsize}")) >> self.dropped

    def number(self, index: int) -> float:
        """The number of this index, exactly: every format here is a part of float64."""
        if not self.is_float:
            return float(index)
        size = np.dtype(self.dtype).itemsize
        return float(np.array(index << self.dropped, f"u{size}").view(self.dtype))

    @property
    def largest(self) -> float:
        """The largest number."""
        return self.number(self.last)

    @property
    def smallest(self) -> float:
        """The smallest number above zero; subnormal where the format is a float."""
        return self.number(1)

    @property
    def normal(self) -> float:
        """The smallest number above zero that has the full precision."""
        return float(ml_dtypes.finfo(self.dtype).smallest_normal) if self.is_float else 1.0

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next number."""
        return float(ml_dtypes.finfo(self.dtype).eps) * 2**self.dropped if self.is_float else 1.0

    def rounded(self, values: ArrayLike) -> NDArray[Any]:
        """``values`` as numbers of the format: to the nearest, ties to even; too large ones are infinite or NaN."""
        with np.errstate(all="ignore"):
            array = np.asarray(values).astype(self.dtype)
        if not self.dropped:
            return array
        bits = array.view(np.uint32)
        half = np.uint32((1 << (self.dropped - 1)) - 1) + ((bits >> np.uint32(self.dropped)) & np.uint32(1))
        kept = ((bits + half) >> np.uint32(self.dropped)) << np.uint32(self.dropped)
        return np.where(np.isfinite(array), kept.view(array.dtype), array)

    def exp(self, value: float) -> float:
        """exp of a number of the format, rounded to the format; an integer format is infinite beyond its largest."""
        with np.errstate(all="ignore"):
            if self.is_float:
                return float(self.rounded(np.exp(self.rounded(value))))
            whole = float(np.rint(np.exp(value)))
            return whole if whole <= self.largest else math.inf


FORMATS = {
    "float64": Format(np.float64),
    "float32": Format(np.float32),
    "tfloat32": Format(np.float32, dropped=13),
    "bfloat16": Format(ml_dtypes.bfloat16),
    "float16": Format(np.float16),
    "float8_e5m2": Format(ml_dtypes.float8_e5m2),
    "float8_e4m3fn": Format(ml_dtypes.float8_e4m3fn),
    "int8": Format(np.int8),
}
FLOATS = tuple(name for name, entry in FORMATS.items() if entry.is_float)


@dataclasses.dataclass(frozen=True)
class Limits:
    """Arguments of exp, numbers of the format: the smallest whose exp is not 0, and is normal; the largest finite."""

    nonzero: float
    normal: float
    largest: float


def exp_limits(name: str) -> Limits:
    """The limits of exp in a format of ``FORMATS``, found by bisection over its numbers with its own exp."""
    form = _format(name)
    return Limits(
        0.0 - form.number(_last(form, lambda x: form.exp(-x) > 0)),
        0.0 - form.number(_last(form, lambda x: form.exp(-x) >= form.normal)),
        form.number(_last(form, lambda x: math.isfinite(form.exp(x)))),
    )


def closed_form(name: str) -> Limits:
    """The same from logarithms, to 60 digits: where exp reaches the middle between two numbers, rounding turns.

    These are half the smallest number, the middle below the smallest normal one, and the middle above the largest
    one. exp of a rational number other than 0 is never a rational number, so no tie has to be broken.
    """
    form = _format(name)
    with localcontext(Context(prec=60)):
        half = Decimal(form.smallest) / 2
        nonzero, normal = half.ln(), (Decimal(form.normal) - half).ln()
        top = Decimal(form.largest) + (Decimal(form.largest) - Decimal(form.number(form.last - 1))) / 2
        return Limits(
            0.0 - form.number(_last(form, lambda x: Decimal(-x) > nonzero)),
            0.0 - form.number(_last(form, lambda x: Decimal(-x) > normal)),
            form.number(_last(form, lambda x: Decimal(x) < top.ln())),
        )


def _last(form: Format, holds: Callable[[float], bool]) -> int:
    """Index of the last number for which ``holds`` is true; it is for 0, and never again once it is not."""
    low, high = 0, form.last + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(form.number(middle)) else (low, middle)
    return low


def _format(name: str) -> Format:
    one_of("format", name, FORMATS)
    return FORMATS[name]


def naive_softmax(logits: ArrayLike, name: str = "float32") -> NDArray[Any]:
    """``exp(z) / sum(exp(z))`` as the formula has it, for logits ``(…, C)``; NaN where exp is beyond the format."""
    form = _float(name)
    with np.errstate(all="ignore"):
        exp = form.rounded(np.exp(form.rounded(logits)))
        return form.rounded(exp / _sum(form, exp))


def softmax(logits: ArrayLike, name: str = "float32") -> NDArray[Any]:
    """Softmax of logits ``(…, C)``, their largest subtracted first: every exp is in [0, 1], the sum in [1, C].

    Args:
        logits: finite numbers.
        name: the format of ``FLOATS`` to compute in.

    Returns:
        An array of the same shape in the format's dtype, without NaN.
    """
    form = _float(name)
    with np.errstate(all="ignore"):
        exp = form.rounded(np.exp(_shifted(form, logits)))
        return form.rounded(exp / _sum(form, exp))


def naive_cross_entropy(logits: ArrayLike, labels: ArrayLike, name: str = "float32") -> NDArray[Any]:
    """``-log`` of :func:`naive_softmax` at the labels ``(…)``."""
    return _minus_log(_at(naive_softmax(logits, name), labels), name)


def split_cross_entropy(logits: ArrayLike, labels: ArrayLike, name: str = "float32") -> NDArray[Any]:
    """``-log`` of :func:`softmax` at the labels ``(…)``: never NaN, but infinite where the probability rounds to 0."""
    return _minus_log(_at(softmax(logits, name), labels), name)


def cross_entropy(logits: ArrayLike, labels: ArrayLike, name: str = "float32") -> NDArray[Any]:
    """``log(sum(exp(z - max))) - (z[label] - max)``, softmax and logarithm in one.

    Args:
        logits: finite numbers ``(…, C)``.
        labels: class numbers ``(…)``.
        name: the format of ``FLOATS`` to compute in.

    Returns:
        The losses ``(…)`` in the format's dtype, without NaN; infinite where the loss is beyond the format, or its
        largest number where the format has no infinity.
    """
    form = _float(name)
    with np.errstate(all="ignore"):
        shifted = _shifted(form, logits)
        log_sum = form.rounded(np.log(_sum(form, form.rounded(np.exp(shifted)))[..., 0]))
        return _saturated(form, form.rounded(log_sum - _at(shifted, labels)))


# what people write -> function of logits, labels and the format
LOSSES = {"naive": naive_cross_entropy, "softmax, then log": split_cross_entropy, "log-sum-exp": cross_entropy}


def _float(name: str) -> Format:
    one_of("format", name, FLOATS)
    return FORMATS[name]


def _shifted(form: Format, logits: ArrayLike) -> NDArray[Any]:
    """Logits minus their largest."""
    z = form.rounded(logits)
    if not np.isfinite(z).all():
        raise InputError("logits must be finite numbers of the format: scale them, or take a wider format")
    return -_saturated(form, form.rounded(z.max(axis=-1, keepdims=True) - z))


def _saturated(form: Format, values: NDArray[Any]) -> NDArray[Any]:
    """Differences of finite numbers, none of them NaN: float8_e4m3fn has no infinity, so NaN is beyond the largest."""
    return np.where(np.isnan(values), np.asarray(form.largest, form.dtype), values)


def _sum(form: Format, values: NDArray[Any]) -> NDArray[Any]:
    """Sum over the last axis, which is kept, one class after the other."""
    return functools.reduce(lambda total, part: form.rounded(total + part), np.moveaxis(values, -1, 0))[..., None]


def _at(values: NDArray[Any], labels: ArrayLike) -> NDArray[Any]:
    return np.take_along_axis(values, np.asarray(labels)[..., None], axis=-1)[..., 0]


def _minus_log(probabilities: NDArray[Any], name: str) -> NDArray[Any]:
    form = _float(name)
    with np.errstate(all="ignore"):
        return form.rounded(0) - form.rounded(np.log(probabilities))


def first_nan(name: str) -> tuple[float, float]:
    """Where the naive loss is NaN first: the ``x`` closest to 0 below it for logits (x, x), above it for (x, 0).

    Found by bisection over the numbers of the format. Theory: one number beyond the :func:`exp_limits`, where exp
    is 0 for all classes (0 / 0), or infinite for the label's (infinity / infinity).
    """
    form = _float(name)

    def finite(x: float, other: float) -> bool:
        return not np.isnan(naive_cross_entropy([x, other], 0, name))

    below = _last(form, lambda x: finite(-x, -x)) + 1
    return -form.number(below), form.number(_last(form, lambda x: finite(x, 0.0)) + 1)


def counts_to(name: str) -> int:
    """How many classes of equal logits softmax can add up, one after the other: then 1 more changes nothing.

    Found by adding 1 to ever larger powers of two, which are reached in steps of 1. Theory: 2 / epsilon.
    """
    form, total = _float(name), 1.0
    while float(form.rounded(form.rounded(total) + form.rounded(1.0))) != total:
        total *= 2
    return int(total)


def sums_within(name: str, error: float = 0.01) -> int:
    """Up to how many classes the sum of any exps is off by at most ``error`` of itself.

    Each of the C - 1 additions is off by at most half an epsilon, relatively (Higham, 2002, section 4.2).
    """
    return 1 + int(error / (_float(name).epsilon / 2))


def edges(name: str) -> list[dict[str, Any]]:
    """What the losses of ``LOSSES`` are at the edges of a format, two classes each.

    Returns:
        A row each with ``case``, ``logits``, ``label``, the ``true`` loss in float64, and one entry a loss. What is
        not finite is the word ``"inf"`` or ``"nan"``, because JSON has no such numbers.
    """
    form, limits = _float(name), exp_limits(name)
    over, under = (form.number(_index(form, x) + 1) for x in (limits.largest, -limits.nonzero))
    cases = [
        ("largest exp", (limits.largest, 0.0), 0),
        ("one number more", (over, 0.0), 0),
        ("the other label", (over, 0.0), 1),
        ("smallest exp", (limits.nonzero, limits.nonzero), 0),
        ("one number less", (-under, -under), 0),
        ("largest numbers", (form.largest, -form.largest), 1),
    ]
    return [
        {
            "case": case,
            "logits": logits,
            "label": label,
            "true": _plain(np.logaddexp(0, logits[1 - label] - logits[label])),
            **{loss: _plain(function(logits, label, name)) for loss, function in LOSSES.items()},
        }
        for case, logits, label in cases
    ]


def _index(form: Format, value: float) -> int:
    return _last(form, lambda x: x <= value)


def _plain(value: ArrayLike) -> float | str:
    number = float(np.asarray(value, np.float64))
    return number if math.isfinite(number) else str(number)


def report() -> dict[str, Any]:
    """All of the above for every format, as ``tfsoftmax numbers --json`` prints it."""
    found = {}
    for name, form in FORMATS.items():
        entry: dict[str, Any] = {
            "largest": form.largest,
            "normal": form.normal,
            "smallest": form.smallest,
            "epsilon": form.epsilon,
            "exp": dataclasses.asdict(exp_limits(name)),
            "closed_form": dataclasses.asdict(closed_form(name)),
        }
        if form.is_float:
            entry |= {"first_nan": first_nan(name), "counts_to": counts_to(name), "sums_within": sums_within(name)}
            entry["edges"] = edges(name)
        found[name] = entry
    return found


def table(found: dict[str, Any]) -> str:
    """A :func:`report` as text."""
    lines = [
        f"{'format':<14}{'exp not 0':>14}{'exp normal':>14}{'exp finite':>13}{'epsilon':>11}"
        f"{'naive NaN at':>26}{'classes':>12}{'1 %':>10}"
    ]
    for name, entry in found.items():
        low, normal, high = entry["exp"].values()
        tail = ""
        if "first_nan" in entry:
            below, above = entry["first_nan"]
            tail = f"{f'{below:.7g}, {above:.7g}':>26}{_count(entry['counts_to'])}{_count(entry['sums_within'], 10)}"
        lines.append(f"{name:<14}{low:>14.8g}{normal:>14.8g}{high:>13.8g}{entry['epsilon']:>11.3g}{tail}")
    lines += ["", f"{'format':<14}{'case':<17}{'logits':<27}{'label':>6}" + _cells(("true loss", *LOSSES))]
    for name, entry in found.items():
        for row in entry.get("edges", ()):
            logits = ", ".join(f"{x:.6g}" for x in row["logits"])
            losses = _cells(row[column] for column in ("true", *LOSSES))
            lines.append(f"{name:<14}{row['case']:<17}{logits:<27}{row['label']:>6}{losses}")
    return "\n".join(lines)


def _cells(values: Iterable[float | str]) -> str:
    return "".join(f"{f'{value:.5g}' if isinstance(value, float) else value:>18}" for value in values)


def _count(number: int, width: int = 12) -> str:
    return f"{number:>{width},}" if number < 10**9 else f"{number:>{width}.2g}"
