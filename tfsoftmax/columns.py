"""Named columns: how a raw row of a table becomes the features that the model sees.

A raw row has one float32 per column (see :class:`~tfsoftmax.spec.Column`), so a table in memory is one array. Its
features are the numbers, in the order of their columns, then a block per column with values: 1 for the value that the
row has, 0 elsewhere, last the feature of a missing value where training had some. A value that training did not see
has no 1 in its block: it speaks for no class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError
from tfsoftmax.preprocessing import PREPROCESSORS
from tfsoftmax.spec import Column, ModelSpec

if TYPE_CHECKING:
    import tensorflow as tf

    from tfsoftmax.sources import Source


MISSING_INT = -(2**63)  # in graphs a category of whole numbers is missing so; a word is missing as ""
_UNSEEN_INT, _UNSEEN_WORD = MISSING_INT + 1, "a value that training did not see"


class Block(NamedTuple):
    """The features of one column that are 0 or 1: ``size`` of them from ``begin`` on."""

    column: int
    begin: int
    size: int


def blocks(columns: Sequence[Column]) -> list[Block]:
    """The blocks of a table, in the order of their columns; the numbers stand before them."""
    begin = sum(column.kind == "number" for column in columns)
    found = []
    for place, column in enumerate(columns):
        if size := column.features - (column.kind == "number"):
            found.append(Block(place, begin, size))
            begin += size
    return found


def feature_names(columns: Sequence[Column]) -> list[str]:
    """A name for each feature: ``age``, ``job=clerk``, ``age is missing``."""
    names = [column.name for column in columns if column.kind == "number"]
    for block in blocks(columns):
        column = columns[block.column]
        names += [f"{column.name}={value}" for value in column.values]
        names += [f"{column.name} is missing"] * column.gaps
    return names


def column_of_feature(columns: Sequence[Column]) -> np.ndarray:
    """The place of the column that each feature comes from, int64 ``(features,)``."""
    numbers = [place for place, column in enumerate(columns) if column.kind == "number"]
    return np.array(numbers + [block.column for block in blocks(columns) for _ in range(block.size)], np.int64)


def constants(spec: ModelSpec) -> tuple[float | np.ndarray, float | np.ndarray]:
    """Offset and scale of the features: of a table float64 ``(features,)``, else as ``spec`` has them."""
    if not spec.columns:
        offset, scale = (np.asarray(v) if isinstance(v, tuple) else v for v in (spec.offset, spec.scale))
        return offset, scale
    numbers = [column for column in spec.columns if column.kind == "number"]
    rest = spec.features[0] - len(numbers)
    return (
        np.array([column.offset for column in numbers] + [0.0] * rest),
        np.array([column.scale for column in numbers] + [1.0] * rest),
    )


def split(spec: ModelSpec, raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The numbers of raw rows ``(batch, columns)``, and where their blocks have a 1.

    Returns:
        Numbers as they are, without gaps, float32 ``(batch, numbers)``; for each of :func:`blocks` the feature that is
        1, -1 for none, int32 ``(batch, blocks)``.
    """
    import tensorflow as tf

    columns = spec.columns
    places = [place for place, column in enumerate(columns) if column.kind == "number"]
    numbers = _columns_of(raw, places)
    if places and spec.missing == "impute":
        fill = tf.constant([columns[place].fill for place in places], tf.float32)
        numbers = tf.where(tf.math.is_nan(numbers), fill, numbers)
    found = blocks(columns)
    picked = _columns_of(raw, [block.column for block in found])
    begin = tf.constant([block.begin for block in found], tf.float32)
    last = tf.constant([b.begin + b.size - 1 if columns[b.column].gaps else -1 for b in found], tf.float32)
    coded = tf.constant([columns[block.column].kind == "category" for block in found], tf.bool)
    known = tf.where(coded & (picked >= 0), picked + begin, -1.0)
    return numbers, tf.cast(tf.where(tf.math.is_nan(picked), last, known), tf.int32)


def _columns_of(raw: tf.Tensor, places: list[int]) -> tf.Tensor:
    import tensorflow as tf

    if places and places == list(range(places[0], places[-1] + 1)):
        return raw[:, places[0] : places[-1] + 1]
    return tf.gather(raw, tf.constant(places, tf.int32), axis=1)


def features(spec: ModelSpec, raw: tf.Tensor) -> tf.Tensor:
    """The features of raw inputs ``(batch, *shape)``, not yet preprocessed: float32 ``(batch, *spec.features)``."""
    import tensorflow as tf

    x = tf.cast(raw, tf.float32)
    if not spec.columns:
        return x
    numbers, ones = split(spec, x)
    parts = [numbers] if any(column.kind == "number" for column in spec.columns) else []
    for i, (_, begin, size) in enumerate(blocks(spec.columns)):
        parts.append(tf.cast(tf.equal(ones[:, i : i + 1], tf.range(begin, begin + size)), tf.float32))
    return tf.concat(parts, axis=1)


def dense(spec: ModelSpec, raw: np.ndarray) -> np.ndarray:
    """What :func:`features` returns, flattened, in NumPy: float32 ``(batch, features)``."""
    x = raw.reshape(len(raw), -1).astype(np.float32)
    if not spec.columns:
        return x
    places = [place for place, column in enumerate(spec.columns) if column.kind == "number"]
    made = np.zeros((len(x), *spec.features), np.float32)
    numbers = x[:, places]
    if spec.missing == "impute":
        numbers = np.where(
            np.isnan(numbers), np.array([spec.columns[place].fill for place in places], np.float32), numbers
        )
    made[:, : len(places)] = numbers
    for place, begin, size in blocks(spec.columns):
        values = x[:, place]
        absent = np.isnan(values)
        if spec.columns[place].kind == "category":
            rows = np.flatnonzero(~absent & (values >= 0))
            made[rows, begin + values[rows].astype(np.int64)] = 1
        if spec.columns[place].gaps:
            made[absent, begin + size - 1] = 1
    return made


def prepared(spec: ModelSpec, raw: np.ndarray) -> np.ndarray:
    """What ``rows.preprocess`` returns, flattened, in NumPy: float32 ``(batch, features)``, infinite beyond float32."""
    offset, scale = (np.asarray(value, np.float32).reshape(-1) for value in constants(spec))
    x = dense(spec, raw)
    with np.errstate(over="ignore", invalid="ignore"):
        x -= offset
        x *= scale
    return x


def fit(
    columns: Sequence[Column], x: np.ndarray, rows: np.ndarray | None, preprocess: str, missing: str
) -> tuple[Column, ...]:
    """The columns with what the training rows say of them.

    Args:
        columns: as a source has them, with all values of categories.
        x: raw rows, float32 ``(n, columns)``.
        rows: which of them are training rows, int32; ``None``: all.
        preprocess: a name in ``PREPROCESSORS``.
        missing: as in :class:`~tfsoftmax.spec.ModelSpec`.
    """
    fitted = []
    for place, column in enumerate(columns):
        values = x[:, place] if rows is None else x[rows, place]
        absent = np.isnan(values)
        gaps = missing == "impute" and bool(absent.any())
        if column.kind == "category":
            seen = np.unique(values[~absent & (values >= 0)]).astype(np.int64)
            fitted.append(dataclasses.replace(column, values=tuple(column.values[k] for k in seen), gaps=gaps))
            continue
        fill = float(values[~absent].mean(dtype=np.float64)) if not absent.all() else 0.0
        filled = np.where(absent, np.float32(fill), values)[:, None]
        offset, scale = (float(np.ravel(v)[0]) for v in PREPROCESSORS[preprocess](filled, 1.0, None))
        fitted.append(dataclasses.replace(column, offset=offset, scale=scale, fill=fill, gaps=gaps))
    return tuple(fitted)


def spec_of(source: Source, train: np.ndarray | None, preprocess: str, on_missing: str) -> ModelSpec:
    """What a model of ``source`` takes and returns.

    Args:
        source: the rows.
        train: which of ``source.x_train`` the constants come from, int32; ``None``: all.
        preprocess: a name in ``PREPROCESSORS``.
        on_missing: ``missing`` of :class:`~tfsoftmax.spec.ModelSpec`.

    Raises:
        InputError: training rows have missing values and ``on_missing`` refuses them.
    """
    x: Any = source.x_train
    fitted: tuple[Column, ...] = ()
    offset: float | np.ndarray = 0.0
    scale: float | np.ndarray = 1.0
    if source.columns:
        if on_missing == "refuse":
            refuse_missing(missing(x, source.columns), len(x), f"{source.name!r} (training rows)", trained=False)
        fitted = fit(source.columns, x, train, preprocess, on_missing)
    else:
        offset, scale = PREPROCESSORS[preprocess](x, 255.0 if x.dtype == np.uint8 else 1.0, train)
    return ModelSpec(
        name=source.name,
        shape=(len(fitted),) if fitted else x.shape[1:],
        dtype=str(x.dtype),
        classes=tuple(source.classes),
        preprocess=preprocess,
        offset=_plain(offset),
        scale=_plain(scale),
        columns=fitted,
        missing=on_missing,
        conversion=source.conversion,
    )


def _plain(value: float | np.ndarray) -> float | tuple[float, ...]:
    return tuple(value.ravel().tolist()) if isinstance(value, np.ndarray) else float(value)


def refuse_absent(columns: Sequence[Column], names: Collection[str], what: str) -> None:
    """Raise InputError unless all ``columns`` are among ``names``, those of the table ``what``."""
    if absent := [column.name for column in columns if column.name not in names]:
        more = f" (and {len(absent) - 1} more)" if len(absent) > 1 else ""
        raise InputError(f"{what} has no column {shown(absent[0])}{more}; it has {shown(', '.join(names))}")


def recode(x: np.ndarray, of: Sequence[Column], to: Sequence[Column], what: str = "the table") -> np.ndarray:
    """Raw rows of one table as raw rows of another, columns found by name and categories by value.

    Args:
        x: float32 ``(rows, len(of))``.
        of: the columns of ``x``; those that ``to`` does not have are left out.
        to: the columns wanted.
        what: the table is called so in errors.

    Returns:
        float32 ``(rows, len(to))``; -1 where ``to`` does not have the value.

    Raises:
        InputError: a column is missing or of another kind.
    """
    places = {column.name: place for place, column in enumerate(of)}
    refuse_absent(to, places, what)
    made = np.empty((len(x), len(to)), np.float32)
    for place, column in enumerate(to):
        given = of[places[column.name]]
        codes = x[:, places[column.name]]
        if given.kind != column.kind:
            raise InputError(
                f"{what}: column {shown(column.name)} must be a {column.kind}, as in training, and is a {given.kind}"
            )
        if column.kind == "category" and given.values != column.values:
            index = {value: k for k, value in enumerate(column.values)}
            # the last place is that of -1
            table = np.array([*(index.get(value, -1) for value in given.values), -1], np.float32)
            absent_rows = np.isnan(codes)
            codes = np.where(absent_rows, np.float32(np.nan), table[np.where(absent_rows, -1, codes).astype(np.int64)])
        made[:, place] = codes
    return made


def named(spec: ModelSpec, raw: np.ndarray) -> dict[str, np.ndarray]:
    """Raw rows ``(n, columns)`` as graphs take them: an array ``(n,)`` per column, by its name, words as strings."""
    made = {}
    for place, column in enumerate(spec.columns):
        values = raw[:, place]
        if column.kind == "category":
            text = column.dtype == "string"
            known: list[object] = list(column.values) if text else [int(value) for value in column.values]
            other = _UNSEEN_WORD if text else _UNSEEN_INT
            while other in known:
                other += type(other)(1)  # type: ignore[operator]
            table = np.array([*known, "" if text else MISSING_INT, other], object)  # the last place is that of -1
            codes = np.where(np.isnan(values), len(known), values).astype(np.int64)
            values = table[codes] if text else table[codes].astype(np.int64)
        made[column.name] = values
    return made


def conform(raw: np.ndarray, spec: ModelSpec, what: str) -> np.ndarray:
    """Raw rows of the table that ``spec`` describes, float32 ``(n, columns)``.

    Raises:
        InputError: another shape, a code that no value has, or a missing value where they are refused.
    """
    if raw.ndim != 2 or raw.shape[1] != len(spec.columns) or raw.dtype.kind not in "iuf":
        raise InputError(
            f"{what} has {raw.dtype} {raw.shape}, expected numbers (n, {len(spec.columns)}), one per column"
        )
    x = np.ascontiguousarray(raw, np.float32)
    for place, column in enumerate(spec.columns):
        values = x[:, place]
        there = values[~np.isnan(values)]
        if column.kind == "category" and not np.isin(there, np.arange(-1, len(column.values))).all():
            raise InputError(f"{what}: column {shown(column.name)} has codes other than -1 to {len(column.values) - 1}")
        if np.isinf(there).any():
            raise InputError(f"{what}: column {shown(column.name)} has a number beyond float32's range")
    if spec.missing == "refuse":
        refuse_missing(missing(x, spec.columns), len(x), what, trained=True)
    return x


def unseen(x: np.ndarray, columns: Sequence[Column]) -> dict[str, int]:
    """How many of the raw rows have a value that training did not see, for each column with some."""
    found = {
        column.name: int((x[:, place] == -1).sum()) for place, column in enumerate(columns) if column.kind == "category"
    }
    return {name: count for name, count in found.items() if count}


def missing(x: np.ndarray, columns: Sequence[Column]) -> dict[str, int]:
    """How many of the raw rows have no value, for each column with some."""
    counts = np.isnan(x).sum(axis=0)
    return {column.name: int(count) for column, count in zip(columns, counts, strict=True) if count}


def refuse_missing(found: dict[str, int], rows: int, what: str, *, trained: bool) -> None:
    """Raise InputError if any value is missing; ``found`` is what :func:`missing` returns.

    ``trained``: the rows are for a model that was trained without missing values, not for training one.
    """
    if found:
        listed = ", ".join(f"{shown(name)} ({count:,} of {rows:,})" for name, count in list(found.items())[:5])
        more = f" and {len(found) - 5} more columns" if len(found) > 5 else ""
        impute = "--missing impute (missing='impute')"
        raise InputError(
            f"{what} has missing values in {listed}{more}: "
            + (
                f"the model was trained without missing values; give values, or train one with {impute}"
                if trained
                else f"{impute} puts the training mean or a category of its own in their place, --drop COLUMN leaves a "
                "column out"
            )
        )
