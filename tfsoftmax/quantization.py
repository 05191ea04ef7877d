"""Eight bits and fewer: affine codes, the integer product that works on them, and logarithmic codes beside them.

An affine code ``q`` stands for ``scale * (q - zero_point)``. With one scale for a whole tensor the codes share one
window of the number line; with one a channel (a class, for the weights of softmax regression) each has its own.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tfsoftmax._checks import number
from tfsoftmax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Affine:
    """An affine code: which real number each of the whole numbers 0 … ``2**bits - 1`` stands for.

    Args:
        scale: the distance of two neighbours, float32: one number, or an array that broadcasts against the values.
        zero_point: the code of 0, int32 of the same shape.
        bits: 2 to 8.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int32]
    bits: int = 8

    @property
    def last(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def quantize(self, values: ArrayLike) -> NDArray[np.uint8]:
        """The nearest codes, ties to even; what is outside the window gets the code at its end."""
        codes = np.rint(np.asarray(values, np.float32) / self.scale) + self.zero_point
        return np.clip(codes, 0, self.last).astype(np.uint8)

    def dequantize(self, codes: ArrayLike) -> NDArray[np.float32]:
        """The numbers that codes stand for, float32."""
        return (np.asarray(codes, np.int32) - self.zero_point).astype(np.float32) * self.scale

    def dynamic_range(self) -> NDArray[np.float64]:
        """The largest magnitude over the smallest above zero: at most ``last``, whatever the scale."""
        return np.maximum(self.zero_point, self.last - self.zero_point).astype(np.float64)


def affine(values: ArrayLike, bits: int = 8, *, symmetric: bool = False, axis: int | None = None) -> Affine:
    """The affine code whose window holds all ``values``, 0 among them.

    Args:
        values: finite numbers.
        bits: of a code, 2 to 8.
        symmetric: 0 in the middle, at ``2**(bits - 1)``, as for weights; else the window is as narrow as it can be.
        axis: the axis of the channels, each of which gets a scale and a zero point; ``None``: one for all.

    Raises:
        InputError: no values, a number that is not finite, or other bits.
    """
    number("bits", bits, 2, whole=True)
    array = np.asarray(values, np.float32)
    if bits > 8:
        raise InputError(f"bits must be 2 to 8, got {bits}")
    if not array.size or not np.isfinite(array).all():
        raise InputError("values to quantize must be finite numbers, at least one")
    others = None if axis is None else tuple(i for i in range(array.ndim) if i != axis % array.ndim)
    low, high = (np.asarray(end(array, axis=others, keepdims=axis is not None)) for end in (np.min, np.max))
    low, high, tiny = np.minimum(low, 0), np.maximum(high, 0), np.finfo(np.float32).tiny
    if symmetric:
        half = 2 ** (bits - 1)
        scale = np.maximum(np.maximum(-low, high) / np.float32(half - 1), tiny)
        zero_point = np.full(scale.shape, half)
    else:
        scale = np.maximum((high - low) / np.float32(2**bits - 1), tiny)
        zero_point = np.rint(-low / scale)
    return Affine(scale.astype(np.float32), zero_point.astype(np.int32), bits)


def integer_product(
    a: NDArray[Any], b: NDArray[Any], a_zero: ArrayLike = 0, b_zero: ArrayLike = 0
) -> NDArray[np.int32]:
    """``(a - a_zero) @ (b - b_zero)`` of eight-bit codes in whole numbers, exactly; what ``MatMulInteger`` computes.

    The product of the codes is corrected by the sums of rows and columns, so that it needs no wider factors:
    ``sum (a - s)(b - t) = sum a b - t sum a - s sum b + n s t``.

    Args:
        a: ``(rows, n)``, int8 or uint8.
        b: ``(n, columns)``, int8 or uint8.
        a_zero: zero point of all rows, or ``(rows, 1)``.
        b_zero: zero point of all columns, or ``(columns,)``.

    Returns:
        int32 ``(rows, columns)``; times both scales it is the product of the real numbers.

    Raises:
        InputError: other dtypes, or ``n`` so large that 32 bits could overflow.
    """
    for name, codes in (("a", a), ("b", b)):
        if codes.dtype not in (np.int8, np.uint8):
            raise InputError(f"{name} must be int8 or uint8 codes, got {codes.dtype}")
    n = a.shape[1]
    if 255 * 255 * n >= 2**31:
        raise InputError(f"32 bits hold sums of at most {(2**31 - 1) // 255**2:,} products of bytes, got {n:,}")
    a, b, s, t = (np.asarray(part, np.int32) for part in (a, b, a_zero, b_zero))
    # each part wraps around modulo 2**32 at worst, and what they add up to fits
    return a @ b - t * a.sum(axis=1, keepdims=True, dtype=np.int32) - s * b.sum(axis=0, dtype=np.int32) + n * s * t


def add(a: NDArray[np.uint8], b: NDArray[np.uint8], code: Affine) -> NDArray[np.uint8]:
    """Sum of two arrays of one and the same code: ``a + b - zero_point``, at the window's ends held there.

    Codes of different scales have no such sum: one of them has to be rounded to the other's scale first.
    """
    return np.clip(a.astype(np.int32) + b - code.zero_point, 0, code.last).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Logarithmic:
    """Codes of sign and logarithm: ``±2**((|q| - one) / steps)``, and 0 for the code 0.

    Args:
        bits: of a code, sign included, 2 to 8: codes are whole numbers from ``-last`` to ``last``.
        steps: codes for each doubling; their numbers are a factor ``2**(1 / steps)`` apart.
        one: the code that stands for 1.
    """

    bits: int = 8
    steps: int = 8
    one: int = 0

    @property
    def last(self) -> int:
        """The largest code."""
        return 2 ** (self.bits - 1) - 1

    def quantize(self, values: ArrayLike) -> NDArray[np.int8]:
        """The codes nearest in the logarithm; 0 below the smallest, the largest code above the largest."""
        x = np.asarray(values, np.float64)
        with np.errstate(divide="ignore"):
            code = np.rint(np.log2(np.abs(x)) * self.steps) + self.one
        code = np.where(code < 1, 0, np.minimum(code, self.last))
        return (np.sign(x) * code).astype(np.int8)

    def dequantize(self, codes: ArrayLike) -> NDArray[np.float32]:
        """The numbers that codes stand for, float32."""
        q = np.asarray(codes, np.int32)
        return (np.sign(q) * np.exp2((np.abs(q) - self.one) / self.steps)).astype(np.float32)

    def dynamic_range(self) -> float:
        """The largest magnitude over the smallest above zero."""
        return float(2.0 ** ((self.last - 1) / self.steps))

    def multiply(self, a: ArrayLike, b: ArrayLike) -> NDArray[np.int8]:
        """Products on the codes: they are sums, ``|a| + |b| - one``. Sums have no rule on the codes."""
        p, q = np.asarray(a, np.int32), np.asarray(b, np.int32)
        code = np.abs(p) + np.abs(q) - self.one
        code = np.where((p == 0) | (q == 0) | (code < 1), 0, np.minimum(code, self.last))
        return (np.sign(p) * np.sign(q) * code).astype(np.int8)


def logarithmic(values: ArrayLike, bits: int = 8, steps: int | None = None) -> Logarithmic:
    """The logarithmic code whose largest number is at least the largest of ``values``.

    Args:
        values: finite numbers, one of them not 0.
        bits: of a code, 2 to 8.
        steps: codes for each doubling; ``None``: ``2**(bits - 5)``, at least 1, so that 8 bits span 15 doublings.
    """
    steps = max(1, 2 ** (bits - 5)) if steps is None else steps
    code = Logarithmic(bits, steps)
    largest = int(np.ceil(np.log2(np.abs(values).max()) * steps))
    return dataclasses.replace(code, one=code.last - largest)
