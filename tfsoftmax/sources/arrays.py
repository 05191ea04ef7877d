"""Source: the labelled rows of one data set as NumPy arrays, checked once, before anything is computed from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tfsoftmax.errors import InputError

_ALIGNMENT = 64  # bytes; what TensorFlow's vectorized kernels ask for


@dataclasses.dataclass(frozen=True)
class Source:
    """Raw rows in memory.

    Args:
        name: of the data set.
        x_train: uint8 or float32, ``(rows, *shape)``; other floats are converted. Kept without a copy if it is aligned.
        y_train: labels, whole numbers in ``[0, len(classes))``, ``(rows,)``; kept as int32.
        x_test: as ``x_train``.
        y_test: as ``y_train``.
        classes: class names in the order of the labels, at least two.

    Raises:
        InputError: an empty split, different counts, a label outside the classes, NaN or infinite values, a dtype
            or shape that does not fit.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    classes: Sequence[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(str(name) for name in self.classes))
        if len(self.classes) < 2:
            raise InputError(f"data set {self.name!r} needs at least 2 classes, got {len(self.classes)}")
        for split in ("train", "test"):
            x, y = self._checked(
                split, np.asarray(getattr(self, f"x_{split}")), np.asarray(getattr(self, f"y_{split}"))
            )
            object.__setattr__(self, f"x_{split}", x)
            object.__setattr__(self, f"y_{split}", y)
        if self.x_train.shape[1:] != self.x_test.shape[1:] or self.x_train.dtype != self.x_test.dtype:
            raise InputError(
                f"data set {self.name!r}: training rows are {self.x_train.dtype} {self.x_train.shape[1:]}, "
                f"test rows {self.x_test.dtype} {self.x_test.shape[1:]}; they must be alike"
            )

    def _checked(self, split: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        where = f"the {split} split of {self.name!r}"
        if x.ndim < 2 or 0 in x.shape[1:]:
            raise InputError(f"{where}: inputs must have shape (rows, …) with at least one value a row, got {x.shape}")
        if y.ndim != 1:
            raise InputError(f"{where}: labels must have shape (rows,), got {y.shape}")
        if len(x) != len(y):
            raise InputError(f"{where} has {len(x)} inputs and {len(y)} labels; the counts must be equal")
        if len(x) == 0:
            raise InputError(f"{where} is empty")
        if x.dtype != np.uint8:
            if x.dtype.kind != "f":
                raise InputError(f"{where}: inputs must be uint8 or floats, got {x.dtype}")
            with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
                x = np.asarray(x, np.float32)
            bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
            if bad.any():
                raise InputError(
                    f"{where}: row {int(bad.argmax())} has a NaN or infinite value; {int(bad.sum())} such rows"
                )
        if y.dtype.kind not in "iu":
            raise InputError(f"{where}: labels must be whole numbers, got {y.dtype}")
        outside = (y < 0) | (y >= len(self.classes))
        if outside.any():
            row = int(outside.argmax())
            raise InputError(f"{where}: label {int(y[row])} in row {row} is outside [0, {len(self.classes)})")
        return aligned(x), y.astype(np.int32)


def empty_aligned(shape: tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """An uninitialized array whose memory begins at a multiple of 64 bytes: TensorFlow can use it without a copy."""
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def aligned(array: np.ndarray) -> np.ndarray:
    """``array`` itself if it is contiguous, writable and aligned as :func:`empty_aligned` says, else a copy that is."""
    if array.flags.c_contiguous and array.flags.writeable and array.ctypes.data % _ALIGNMENT == 0:
        return array
    copy = empty_aligned(array.shape, array.dtype)
    copy[...] = array
    return copy
