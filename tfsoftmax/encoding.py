"""Rows of a table as users write them, in JSON or Python lists, as raw rows and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax.columns import MISSING_INT
from tfsoftmax.errors import InputError
from tfsoftmax.spec import Column, ModelSpec

_LARGEST = float(np.finfo(np.float32).max)
Value = float | int | str | bool | None  # None: missing


class Encoder:
    """Values by the names of their columns to raw rows float32 ``(rows, columns)``.

    A number is a number, or true or false. A category is a word, a whole number, or true or false. ``None``, NaN and
    the empty word are missing values.

    Args:
        spec: of a table.
    """

    def __init__(self, spec: ModelSpec):
        self.columns, self.impute = spec.columns, spec.missing == "impute"
        self._codes = [{value: float(code) for code, value in enumerate(column.values)} for column in spec.columns]
        self._known = {column.name for column in spec.columns}

    def by_row(self, rows: Sequence[Mapping[str, Any]], place: str) -> np.ndarray:
        """Rows that are objects; ``place`` says in errors where they stand. Columns that the model lacks are ignored.

        Raises:
            InputError: a row lacks a column, or a value is of another kind.
        """
        for i, row in enumerate(rows):
            if not self._known <= row.keys():
                self._refuse(row, f"{place}[{i}]")
        made = np.empty((len(rows), len(self.columns)), np.float32)
        for k, column in enumerate(self.columns):
            made[:, k] = self._encoded(k, [row[column.name] for row in rows], lambda i: f"{place}[{i}]")
        return made

    def by_column(self, given: Mapping[str, Sequence[Any]], place: str) -> np.ndarray:
        """Columns that are lists; see :meth:`by_row`."""
        if not self._known <= given.keys():
            self._refuse(given, place)
        if len(sizes := {len(given[name]) for name in self._known}) > 1:
            raise InputError(f"{place} has columns of {' and '.join(map(str, sorted(sizes)))} rows; they must be alike")
        made = np.empty((sizes.pop(), len(self.columns)), np.float32)
        for k, column in enumerate(self.columns):
            made[:, k] = self._encoded(k, given[column.name], lambda i: f"{place}, row {i}")
        return made

    def _refuse(self, given: Mapping[str, Any], place: str) -> NoReturn:
        """Raise InputError for the columns that are missing."""
        absent = [column.name for column in self.columns if column.name not in given]
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise InputError(f"{place} has no {shown(absent[0])}{more}")

    def _encoded(self, k: int, values: Sequence[Any], where: Any) -> list[float]:
        column, codes, made = self.columns[k], self._codes[k], []
        number = column.kind == "number"
        for i, value in enumerate(values):
            if value is None or value == "" or value != value:
                if not self.impute:
                    raise InputError(
                        f"{where(i)} has no value of {shown(column.name)}: the model was trained without missing values"
                    )
                made.append(math.nan)
            elif number:
                made.append(self._number(column, value, where(i)))
            else:
                made.append(codes.get(_word(column, value, where, i), -1.0))
        return made

    def _number(self, column: Column, value: Any, where: str) -> float:
        if isinstance(value, (str, list, dict)):
            raise InputError(f"{where}: {shown(column.name)} must be a number, got {shown(value)}")
        if abs(value) > _LARGEST:
            raise InputError(
                f"{where}: {shown(column.name)} must be a number that a float32 can hold, got {shown(value)}"
            )
        return float(value)


def _word(column: Column, value: Any, where: Any, i: int) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, np.bool_)):
        return str(value).lower()
    if isinstance(value, (int, np.integer)) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    kind = "a whole number" if column.dtype == "int64" else "a word"
    raise InputError(f"{where(i)}: {shown(column.name)} must be {kind}, got {shown(value)}")


def decoded(spec: ModelSpec, raw: np.ndarray) -> list[dict[str, Value]]:
    """Raw rows as objects for JSON; a value that training did not see is the empty word's opposite: ``"?"``."""
    rows: list[dict[str, Value]] = [{} for _ in raw]
    for k, column in enumerate(spec.columns):
        for row, value in zip(rows, raw[:, k].tolist(), strict=True):
            row[column.name] = _plain(column, value)
    return rows


def _plain(column: Column, value: float) -> Value:
    if math.isnan(value):
        return None
    if column.kind == "category":
        word = column.values[int(value)] if value >= 0 else "?"
        return int(word) if column.dtype == "int64" and value >= 0 else word
    return bool(value) if column.dtype == "bool" and value in (0, 1) else value


def from_graph(column: Column, values: Sequence[Any]) -> list[Any]:
    """Values as graphs take them (see ``columns.named``), with ``None`` where one is missing."""
    if column.dtype == "int64":
        return [None if value == MISSING_INT else value for value in values]
    return list(values)


def as_text(value: Value) -> str:
    """One of these values as people read it."""
    return "(missing)" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
