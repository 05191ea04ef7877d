"""Source: the labelled rows of one data set as NumPy arrays, checked once, before anything is computed from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfsoftmax._checks import class_names, shown, typed
from tfsoftmax.errors import InputError
from tfsoftmax.sources.fingerprint import fingerprint
from tfsoftmax.spec import Column
from tfsoftmax.weights import check_rows

_ALIGNMENT = 64  # bytes; what TensorFlow's vectorized kernels ask for


@dataclasses.dataclass(frozen=True)
class Source:
    """Raw rows in memory.

    Args:
        name: of the data set.
        x_train: uint8 or float32, ``(rows, *shape)``; other floats are converted. Kept without a copy if it is aligned.
        y_train: labels, whole numbers in ``[0, len(classes))``, also as floats, ``(rows,)`` or ``(rows, 1)``; kept as
            int32 ``(rows,)``.
        x_test: as ``x_train``; ``None``: there is no test split.
        y_test: as ``y_train``.
        classes: class names in the order of the labels: at least two different ones, each one line of text.
        columns: of a table, whose rows are float32 ``(rows, len(columns))`` and may have NaN where a value is missing;
            categories have all values that the source has. Else empty.
        groups: whole numbers ``(rows,)`` of the training rows: a split keeps rows with the same one together.
        weights: of the training rows in the loss and in figures, numbers of at least 0, ``(rows,)``; ``None``: 1.
        weights_test: of the test rows in figures.
        val_rows: which of the training rows are a validation split of the source's own, whole numbers; else ``None``.

    Attributes:
        origin: the name that :func:`tfsoftmax.load` read these rows by; ``None``: they were made in Python.
        options: the options that :func:`tfsoftmax.load` read them with.
        fingerprint: see :attr:`tfsoftmax.Data.fingerprint`.

    Raises:
        InputError: an empty split, different counts, a label outside the classes, NaN or infinite values, a dtype
            or shape that does not fit.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    classes: Sequence[str] = ()
    columns: tuple[Column, ...] = ()
    groups: np.ndarray | None = None
    val_rows: np.ndarray | None = None
    weights: np.ndarray | None = None
    weights_test: np.ndarray | None = None
    origin: str | None = dataclasses.field(default=None, init=False)
    options: dict[str, Any] = dataclasses.field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        typed("name", self.name, str)
        if not isinstance(self.classes, Iterable):
            raise InputError(
                f"data set {self.name!r}: classes must be the names of the classes in the order of their labels, got "
                f"{shown(self.classes)}"
            )
        names = tuple(typed("a class name", str(name), str) for name in self.classes)
        class_names(f"data set {self.name!r}", names)
        object.__setattr__(self, "classes", names)
        if (self.x_test is None) != (self.y_test is None):
            raise InputError(f"data set {self.name!r}: a test split has both, x_test and y_test")
        for split in ("train", "test") if self.x_test is not None else ("train",):
            where = f"the {split} split of {self.name!r}"
            x = _inputs(where, _array(f"x_{split}", getattr(self, f"x_{split}")), bool(self.columns))
            y = _labels(where, _array(f"y_{split}", getattr(self, f"y_{split}")), len(x), len(names))
            object.__setattr__(self, f"x_{split}", x)
            object.__setattr__(self, f"y_{split}", y)
            field = "weights" if split == "train" else "weights_test"
            if (given := getattr(self, field)) is not None:
                object.__setattr__(self, field, check_rows(_array(field, given), len(x), where))
        self._check_indices()
        if self.x_test is None:
            return
        if self.x_train.shape[1:] != self.x_test.shape[1:] or self.x_train.dtype != self.x_test.dtype:
            raise InputError(
                f"data set {self.name!r}: training rows are {self.x_train.dtype} {self.x_train.shape[1:]}, "
                f"test rows {self.x_test.dtype} {self.x_test.shape[1:]}; they must be alike"
            )

    def _check_indices(self) -> None:
        for name in ("groups", "val_rows"):
            if getattr(self, name) is None:
                continue
            array = _array(name, getattr(self, name))
            if (
                array.ndim != 1
                or array.dtype.kind not in "iu"
                or (name == "groups" and len(array) != len(self.x_train))
            ):
                raise InputError(
                    f"data set {self.name!r}: {name} must be whole numbers of shape (rows,), got {array.dtype} "
                    f"{array.shape} for {len(self.x_train)} training rows"
                )
            object.__setattr__(self, name, array)
        rows = self.val_rows
        if rows is not None and (
            len(np.unique(rows)) < len(rows) or not ((rows >= 0) & (rows < len(self.x_train))).all()
        ):
            raise InputError(
                f"data set {self.name!r}: val_rows must be different ones of {len(self.x_train)} training rows"
            )

    def __repr__(self) -> str:
        test = "no" if self.x_test is None else f"{len(self.x_test):,}"
        return (
            f"Source({self.name!r}: {len(self.x_train):,} training and {test} test rows, "
            f"{self.x_train.dtype} {self.x_train.shape[1:]}, {len(self.classes)} classes)"
        )

    @property
    def fingerprint(self) -> str:
        """Digests of the rows, labels and class names, computed anew each time."""
        return fingerprint(self)


def _array(name: str, values: Any) -> np.ndarray:
    if hasattr(values, "toarray"):  # SciPy's sparse matrices, of which NumPy would make one object
        raise InputError(f"{name} is a sparse matrix of shape {values.shape}: give {name}.toarray()")
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} is not an array, all rows of one shape: {error}") from error


def _inputs(where: str, x: np.ndarray, gaps: bool) -> np.ndarray:
    """The rows as uint8 or float32, aligned; with ``gaps`` values may be NaN."""
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise InputError(f"{where}: inputs must have shape (rows, …) with at least one value a row, got {x.shape}")
    if len(x) == 0:
        raise InputError(f"{where} is empty")
    if x.dtype != np.uint8:
        if x.dtype.kind != "f":
            raise InputError(f"{where}: inputs must be uint8 or floats, got {x.dtype}")
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
            x = np.asarray(x, np.float32)
        bad = (np.isinf(x) if gaps else ~np.isfinite(x)).reshape(len(x), -1).any(axis=1)
        if bad.any():
            raise InputError(
                f"{where}: row {int(bad.argmax())} has a NaN or infinite value; {int(bad.sum())} such rows"
            )
    return aligned(x)


def _labels(where: str, y: np.ndarray, rows: int, classes: int) -> np.ndarray:
    """The labels as int32 ``(rows,)``."""
    if y.ndim == 2 and y.shape[1] == 1:  # a column, as Keras's CIFAR-10 has them
        y = y[:, 0]
    if y.ndim != 1:
        what = "; of one-hot rows give y.argmax(axis=1)" if y.shape[1:] == (classes,) else ""
        raise InputError(f"{where}: labels must have shape (rows,) or (rows, 1), got {y.shape}{what}")
    if len(y) != rows:
        raise InputError(f"{where} has {rows} inputs and {len(y)} labels; the counts must be equal")
    if y.dtype.kind in "OUST":
        raise InputError(
            f"{where}: labels must be whole numbers, got {shown(y[:1].tolist()[0])}; of names give the "
            "index of each: classes, y = numpy.unique(names, return_inverse=True)"
        )
    if y.dtype.kind not in "iuf":
        raise InputError(f"{where}: labels must be whole numbers, got {y.dtype}; give y.astype(int)")
    outside = ~((y >= 0) & (y < classes))  # NaN is outside
    if outside.any():
        row = int(outside.argmax())
        raise InputError(f"{where}: label {y[row]} in row {row} is outside [0, {classes})")
    broken = y != np.floor(y)
    if broken.any():
        row = int(broken.argmax())
        raise InputError(f"{where}: labels must be whole numbers, got {y[row]} in row {row}")
    return y.astype(np.int32)


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
