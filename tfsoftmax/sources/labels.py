"""Labels of any kind become class numbers: text, booleans, whole numbers with gaps, one column, one-hot rows."""

from __future__ import annotations

import logging
import numbers
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError

_PART = 2**20  # labels that are looked at together

_log = logging.getLogger(__name__)


def array_of(name: str, values: Any) -> np.ndarray:
    """``values`` as an array of plain values. Raises InputError: it is sparse, ragged, or has masked values."""
    if hasattr(values, "toarray"):  # SciPy's sparse matrices, of which NumPy would make one object
        raise InputError(f"{name} is a sparse matrix of shape {values.shape}: pass {name}.toarray()")
    if isinstance(values, np.ma.MaskedArray):
        if masked := int(np.ma.getmaskarray(values).sum()):
            raise InputError(f"{name} has {masked:,} masked values: fill them, {name}.filled(…), or leave the rows out")
        values = values.data
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise InputError(f"{name} is not an array, all rows of one shape: {error}") from error


def plain(where: str, values: np.ndarray, rows: int) -> np.ndarray:
    """The labels as they are meant, ``(rows,)``: text, booleans or int64; of one-hot rows the place of the 1.

    Raises:
        InputError: another shape or count, missing labels, numbers that are not whole, labels of several types.
    """
    y = values
    if y.ndim == 2 and y.shape[1] == 1:  # a column, as Keras's CIFAR-10 has them
        y = y[:, 0]
    if y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "biuf":
        y = _one_hot(where, y)
    if y.ndim != 1:
        raise InputError(f"{where}: labels must have shape (rows,), (rows, 1), or be one-hot rows, got {y.shape}")
    if len(y) != rows:
        raise InputError(f"{where} has {rows} inputs and {len(y)} labels; the counts must be equal")
    if y.dtype.kind in "OT":
        y = _of_objects(where, y)
    if y.dtype.kind == "S":
        try:
            y = np.char.decode(y, "utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: labels must be text in UTF-8: {error}") from error
    if y.dtype.kind in "Ub":
        return y
    if y.dtype.kind not in "iuf" and y.dtype.name != "bfloat16":
        raise InputError(f"{where}: labels must be text, true or false, or whole numbers, got {y.dtype}")
    return _whole(where, y)


def _one_hot(where: str, y: np.ndarray) -> np.ndarray:
    wrong = ((y != 0) & (y != 1)).any(axis=1) | ((y == 1).sum(axis=1) != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise InputError(
            f"{where}: labels of shape {y.shape} must be one-hot rows, one 1 and else 0; row {row} is {shown(y[row])}"
        )
    places: np.ndarray = y.argmax(axis=1)
    return places


def _of_objects(where: str, y: np.ndarray) -> np.ndarray:
    values = y.tolist()
    # pandas's NA is neither equal to itself nor not
    gaps = [type(one).__name__ in ("NoneType", "NAType", "NaTType") or bool(one != one) for one in values]
    _refuse_gaps(where, np.array(gaps, bool))
    for kinds, dtype in ((str, str), ((bool, np.bool_), bool), (numbers.Integral, None), (numbers.Real, float)):
        if all(isinstance(one, kinds) for one in values):
            return np.array(values, dtype)
    kinds_of = {type(one).__name__: one for one in values}
    listed = " and ".join(f"{shown(one)} ({name})" for name, one in sorted(kinds_of.items())[:2])
    raise InputError(f"{where}: labels must be of one type, all text or all numbers, got {listed}")


def _whole(where: str, y: np.ndarray) -> np.ndarray:
    if y.dtype.kind in "iu":
        if y.dtype == np.uint64 and len(y) and y.max() > np.iinfo(np.int64).max:
            raise InputError(f"{where}: labels must be below 2^63, got {y.max()}")
        return y.astype(np.int64)
    y = y.astype(np.float64)
    _refuse_gaps(where, np.isnan(y))
    broken = (y != np.floor(y)) | (np.abs(y) > 2**53)
    if broken.any():
        row = int(broken.argmax())
        raise InputError(f"{where}: labels must be whole numbers, got {y[row]} in row {row}")
    return y.astype(np.int64)


def _refuse_gaps(where: str, gaps: np.ndarray) -> None:
    if gaps.any():
        raise InputError(
            f"{where}: {int(gaps.sum()):,} labels are missing, the first in row {int(gaps.argmax())}: "
            "leave these rows out"
        )


def positions(where: str, y: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """The class numbers int32 of :func:`plain` labels, which are names among ``classes`` or numbers already."""
    if y.dtype.kind == "U":
        place = {name: label for label, name in enumerate(classes)}
        names, inverse = _coded([y])
        if unknown := [name for name in names.tolist() if name not in place]:
            row = int((y == unknown[0]).argmax())
            raise InputError(f"{where}: label {shown(unknown[0])} in row {row} is none of the {len(classes)} classes")
        return np.array([place[name] for name in names.tolist()], np.int32)[inverse]
    y = y.astype(np.int64)
    outside = (y < 0) | (y >= len(classes))
    if outside.any():
        row = int(outside.argmax())
        raise InputError(f"{where}: label {y[row]} in row {row} is outside [0, {len(classes)})")
    return y.astype(np.int32)


def encode(name: str, y: np.ndarray, y_test: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Class numbers int32 of both splits, and class names: sorted, numbers (and text that is numbers) as numbers.

    Raises:
        InputError: as :func:`check`, and splits whose labels are of different types.
    """
    if y_test is not None and (y.dtype.kind == "U") != (y_test.dtype.kind == "U"):
        raise InputError(
            f"data set {name!r}: training labels are such as {shown(y[0].item())}, test labels such as "
            f"{shown(y_test[0].item())}; they must be alike"
        )
    values, codes = _coded([y] if y_test is None else [y, y_test])
    names, found = in_order([text(value) for value in values.tolist()], codes)
    train, test = found[: len(y)], None if y_test is None else found[len(y) :]
    check(name, train, test, names)
    return train, test, names


def _coded(arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """``np.unique(np.concatenate(arrays), return_inverse=True)`` by parts, in less memory; codes are int32."""
    parts = [one[begin : begin + _PART] for one in arrays for begin in range(0, max(1, len(one)), _PART)]
    values = np.unique(np.concatenate([np.unique(part) for part in parts]))
    codes, at = np.empty(sum(map(len, arrays)), np.int32), 0
    for part in parts:
        codes[at : at + len(part)] = np.searchsorted(values, part)
        at += len(part)
    return values, codes


def in_order(names: Sequence[str], codes: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names that are sorted, and int32 codes into them, in numerical order if all are whole numbers."""
    order = [*range(len(names))]
    if all(re.fullmatch(r"-?\d{1,18}", one, re.ASCII) for one in names):
        order.sort(key=lambda k: (int(names[k]), names[k]))
    if order == [*range(len(names))]:
        return list(names), codes.astype(np.int32, copy=False)
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order))
    return [names[k] for k in order], place[codes]


def text(value: Any) -> str:
    """The name of the class that a label stands for."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def check(name: str, y: np.ndarray, y_test: np.ndarray | None, classes: Sequence[str]) -> None:
    """Raise InputError if there is one class alone, or one that only test rows have; warn of classes of one row."""
    if len(classes) == 1:
        raise InputError(f"data set {name!r} needs at least 2 classes, got 1: all labels are {shown(classes[0])}")
    counts = np.bincount(y, minlength=len(classes))
    if not counts.all() and y_test is not None:
        label = int((counts == 0).argmax())
        rows = int((y_test == label).sum())
        raise InputError(
            f"data set {name!r}: {rows:,} test rows have the label {shown(classes[label])}, and "
            "no training row has it, so no model can learn it: leave these rows out"
        )
    if (counts == 1).any():
        listed = ", ".join(shown(classes[label]) for label in np.flatnonzero(counts == 1)[:5])
        _log.warning("%r: classes with a single training row: %d (%s)", name, int((counts == 1).sum()), listed)
