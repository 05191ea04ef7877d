"""Source: the labelled rows of one data set, checked once, before anything is computed from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tfsoftmax._checks import class_names, shown, typed
from tfsoftmax.errors import InputError
from tfsoftmax.sources import labels
from tfsoftmax.sources.fingerprint import fingerprint
from tfsoftmax.spec import Column
from tfsoftmax.stored import Stored
from tfsoftmax.weights import check_rows

_ALIGNMENT = 64  # bytes; what TensorFlow's vectorized kernels ask for


@dataclasses.dataclass(frozen=True)
class Source:
    """Raw rows, in memory or in files.

    Args:
        name: of the data set.
        x_train: uint8 or float32, ``(rows, *shape)``; other numbers and booleans become float32. Kept without a copy if
            it is aligned. Or :class:`~tfsoftmax.stored.Stored`: rows in files.
        y_train: labels, ``(rows,)`` or ``(rows, 1)``: text, booleans or whole numbers, also as floats, or one-hot rows;
            with ``classes``, names among them or whole numbers in ``[0, len(classes))``. Kept as int32 ``(rows,)``.
        x_test: as ``x_train``; ``None``: there is no test split.
        y_test: as ``y_train``.
        classes: class names in the order of the labels: at least two different ones, each one line of text. Empty:
            the labels as text, sorted, numbers as numbers.
        columns: of a table, whose rows are float32 ``(rows, len(columns))`` and may have NaN where a value is missing;
            categories have all values that the source has. Else empty.
        groups: whole numbers ``(rows,)`` of the training rows: a split keeps rows with the same one together.
        weights: of the training rows in the loss and in figures, numbers of at least 0, ``(rows,)``; ``None``: 1.
        weights_test: of the test rows in figures.
        val_rows: which of the training rows are a validation split of the source's own, whole numbers; else ``None``.
        conversion: of picture files, see :class:`tfsoftmax.ModelSpec`.
        left_out: of a table: columns that are no inputs and that nobody left out, with the reason.

    Attributes:
        origin: the name that :func:`tfsoftmax.load` read these rows by; ``None``: they were made in Python.
        options: the options that :func:`tfsoftmax.load` read them with.
        fingerprint: see :attr:`tfsoftmax.Data.fingerprint`.

    Raises:
        InputError: an empty split, different counts, a label outside the classes, NaN or infinite values, a dtype
            or shape that does not fit.
    """

    name: str
    x_train: np.ndarray | Stored
    y_train: np.ndarray
    x_test: np.ndarray | Stored | None = None
    y_test: np.ndarray | None = None
    classes: Sequence[str] = ()
    columns: tuple[Column, ...] = ()
    groups: np.ndarray | None = None
    val_rows: np.ndarray | None = None
    weights: np.ndarray | None = None
    weights_test: np.ndarray | None = None
    conversion: str = "none"
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
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
        if names:
            class_names(f"data set {self.name!r}", names)
        if (self.x_test is None) != (self.y_test is None):
            raise InputError(f"data set {self.name!r}: a test split has both, x_test and y_test")
        for split in ("train", "test") if self.x_test is not None else ("train",):
            where = f"the {split} split of {self.name!r}"
            x = _inputs(where, f"x_{split}", getattr(self, f"x_{split}"), bool(self.columns))
            y = labels.plain(where, labels.array_of(f"y_{split}", getattr(self, f"y_{split}")), len(x))
            object.__setattr__(self, f"x_{split}", x)
            object.__setattr__(self, f"y_{split}", labels.positions(where, y, names) if names else y)
            field = "weights" if split == "train" else "weights_test"
            if (given := getattr(self, field)) is not None:
                object.__setattr__(self, field, check_rows(labels.array_of(field, given), len(x), where))
        if not names:
            y, y_test, found = labels.encode(self.name, self.y_train, self.y_test)
            names = tuple(found)
            object.__setattr__(self, "y_train", y)
            object.__setattr__(self, "y_test", y_test)
            class_names(f"data set {self.name!r}", names)
        object.__setattr__(self, "classes", names)
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
            array = labels.array_of(name, getattr(self, name))
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
        """Digests of the rows, labels and class names, computed each time."""
        return fingerprint(self)


def _inputs(where: str, name: str, given: Any, gaps: bool) -> np.ndarray | Stored:
    """The rows as uint8 or float32, aligned; with ``gaps`` values may be NaN."""
    x = given if isinstance(given, Stored) else labels.array_of(name, given)
    if x.ndim < 2 or 0 in x.shape[1:]:
        raise InputError(f"{where}: inputs must have shape (rows, …) with at least one value a row, got {x.shape}")
    if len(x) == 0:
        raise InputError(f"{where} is empty")
    if isinstance(x, Stored):
        if x.dtype != np.uint8 and not x.finite:
            _refuse(where, np.concatenate([_not_finite(part, gaps) for part in x.parts()]))
        return x
    if x.dtype != np.uint8:
        if x.dtype.kind == "O":
            x = _of_objects(where, x)
        if x.dtype.kind not in "biuf" and x.dtype.name != "bfloat16":
            raise InputError(f"{where}: inputs must be numbers, got {x.dtype}")
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is refused below
            x = np.asarray(x, np.float32)
        _refuse(where, _not_finite(x, gaps))
    return aligned(x)


def _not_finite(x: np.ndarray, gaps: bool) -> np.ndarray:
    """Which rows have a value that cannot be computed with."""
    bad: np.ndarray = (np.isinf(x) if gaps else ~np.isfinite(x)).reshape(len(x), -1).any(axis=1)
    return bad


def _refuse(where: str, bad: np.ndarray) -> None:
    if bad.any():
        raise InputError(f"{where}: row {int(bad.argmax())} has a NaN or infinite value; {int(bad.sum())} such rows")


def _of_objects(where: str, x: np.ndarray) -> np.ndarray:
    """Objects that are numbers, as pandas has them where columns differ in type or a value may be missing."""
    gaps = np.array([one is None or type(one).__name__ == "NAType" for one in x.ravel().tolist()], bool)
    if gaps.any():
        row = int(gaps.argmax()) // (x.size // len(x))
        raise InputError(f"{where}: {int(gaps.sum()):,} values are missing, the first in row {row}")
    try:
        return x.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: inputs must be numbers: {error}; tables go to tfsoftmax.load(frame, …)") from error


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
