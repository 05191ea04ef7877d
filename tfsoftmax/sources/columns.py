"""What each column of a table is: a number, a category, an embedding, or left out with a line that says why."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError
from tfsoftmax.sources.arrays import empty_aligned
from tfsoftmax.spec import Column

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the user says of columns.

    Args:
        label: the column of the labels; ``None``: the only one that is called label, class, target or y.
        drop: columns to leave out.
        category: columns whose values are names, whatever they look like.
        number: columns whose values are numbers: dates too, as seconds since 1970.
        group: a column whose value says which rows belong together; no input of the model.
        sample_weight: a column that says how much each row counts; no input of the model.
    """

    label: str | None = None
    drop: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    number: tuple[str, ...] = ()
    group: str | None = None
    sample_weight: str | None = None


def rows_of(
    where: str, table: pa.Table, train: int, without: Iterable[str], choices: Choices
) -> tuple[np.ndarray, tuple[Column, ...], dict[str, str]]:
    """Raw rows float32 ``(rows, columns)``, NaN where a value is missing, their columns with all values, and which
    columns are left out and why.

    Columns that say nothing to a linear model are left out, with a line for each: dates, words of which most differ,
    one value alone. Columns that ``choices`` name are kept.

    Args:
        where: the table, for errors.
        table: its rows.
        train: how many of them, from the beginning, are those of the training split, which alone say what is left out.
        without: columns that are no inputs.
        choices: of the user.

    Returns:
        A lone column of lists of numbers, an embedding, comes as float32 ``(rows, numbers)`` without columns.
    """

    left = set(without)
    names = [name for name in table.column_names if name not in left]
    lists = [name for name in names if is_list(table[name].type)]
    if lists:
        if len(names) > 1:
            others = [name for name in names if name != lists[0]]
            raise InputError(
                f"{where} has the list column {shown(lists[0])} and others ({shown(', '.join(others))}): an embedding "
                f"is alone; --drop one or the other"
            )
        return embedding(where, lists[0], table[lists[0]]), (), {}
    made, columns, left_out = [], [], {}
    for name in names:
        asked = "category" if name in choices.category else "number" if name in choices.number else ""
        array = _whole(table[name])
        what = f"{where}: column {shown(name)}"
        if not asked and _is_text(array.type):
            _few_words(what, name, array)
        if not asked and (why := _useless(array[:train])):
            _log.warning("%s: column %s is left out: %s", where, shown(name), why)
            left_out[name] = why
            continue
        values, column = read_column(what, name, array, asked)
        made.append(values)
        columns.append(column)
    if not columns:
        raise InputError(f"{where} has no column to learn from")
    x = empty_aligned((len(table), len(columns)), np.float32)
    for place, values in enumerate(made):
        x[:, place] = values
    return x, tuple(columns), left_out


def _whole(array: pa.Array | pa.ChunkedArray) -> pa.Array:
    """One array of plain values."""
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


def is_list(kind: pa.DataType) -> bool:
    """Whether values of a column are lists."""
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def embedding(where: str, name: str, column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Lists of numbers, all of one length, as float32 ``(rows, numbers)``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    sizes = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(sizes) != 1 or None in sizes:
        raise InputError(
            f"{where}: the lists of column {shown(name)} have the lengths {shown(sizes)}; they must be alike"
        )
    flat = pc.list_flatten(column)
    if not (pa.types.is_floating(flat.type) or pa.types.is_integer(flat.type)) or flat.null_count:
        raise InputError(f"{where}: the lists of column {shown(name)} must hold numbers, without gaps; got {flat.type}")
    x = empty_aligned((len(column), sizes[0]), np.float32)
    x.reshape(-1)[:] = flat.to_numpy()
    return x


def _useless(array: pa.Array) -> str:
    """Why a column is left out where nobody asks for it; empty if it is not."""
    import pyarrow as pa
    import pyarrow.compute as pc

    there = len(array) - array.null_count
    if pa.types.is_nested(array.type):
        return ""  # refused below
    if not there:
        return "all its values are missing"
    if pa.types.is_temporal(array.type):
        return "it holds dates or times (--number takes them as seconds since 1970, --category as words)"
    distinct = pc.count_distinct(array).as_py()
    if distinct == 1 and not array.null_count:
        return f"all its values are {shown(array[0].as_py())} (--category keeps it)"
    if _is_text(array.type) and distinct > max(10, there // 2):
        return f"{distinct:,} of {there:,} words differ (--category keeps it)"
    return ""


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def read_column(what: str, name: str, array: pa.Array | pa.ChunkedArray, asked: str) -> tuple[np.ndarray, Column]:
    """One column as raw values float32 ``(rows,)``, and what it is.

    Args:
        what: names it in errors.
        name: of it.
        array: its values.
        asked: ``"number"``, ``"category"``, or empty: as its type says.
    """
    import pyarrow as pa

    array = _whole(array)
    if asked and pa.types.is_null(array.type):  # no value at all
        array = array.cast(pa.float64() if asked == "number" else pa.string())
    kind = array.type
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if asked == "category" or (not asked and _is_text(kind)):
        codes, values = codes_of(what, array)
        dtype = "int64" if pa.types.is_integer(kind) else "string"
        return np.where(codes < 0, np.float32(np.nan), codes.astype(np.float32)), Column(
            name, "category", dtype, values
        )
    if not (numeric or pa.types.is_boolean(kind) or (asked and (_is_text(kind) or pa.types.is_temporal(kind)))):
        raise InputError(f"{what} holds {kind}, expected numbers, words or true and false; --drop {name} leaves it out")
    dtype = "bool" if pa.types.is_boolean(kind) else "float32"
    return _numbers(what, array), Column(name, "number", dtype)


def _numbers(what: str, array: pa.Array) -> np.ndarray:
    import pyarrow as pa

    if pa.types.is_temporal(array.type) and not pa.types.is_duration(array.type):
        array = array.cast(pa.timestamp("us")).cast(pa.int64())
        values = array.to_numpy(zero_copy_only=False) / 1e6
    else:
        try:
            values = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        except pa.ArrowInvalid as error:
            row, word = _not_a_number(array)
            raise InputError(f"{what} must hold numbers, got {shown(word)} in row {row}") from error
    with np.errstate(over="ignore"):
        made = np.asarray(values, np.float32)
    if np.isinf(made).any():
        row = int(np.isinf(made).argmax())
        raise InputError(f"{what} has {values[row]} in row {row}, expected numbers that a float32 can hold")
    return made


def _not_a_number(array: pa.Array) -> tuple[int, str]:
    """The first of the words that is no number, and its row."""
    for row, word in enumerate(array.to_pylist()):
        try:
            float(word if word is not None else 0)
        except ValueError:
            return row, word
    return 0, ""


def _few_words(what: str, name: str, array: pa.Array) -> None:
    """Refuse a column of numbers with a few words in it."""
    import pyarrow.compute as pc

    there = len(array) - array.null_count
    digits = pc.sum(pc.match_substring_regex(array, r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")).as_py() or 0
    if there > digits >= 0.9 * there:
        row, word = _not_a_number(array)
        raise InputError(
            f"{what} holds numbers, and {there - digits:,} of {there:,} values are none, the first {shown(word)} in "
            f"row {row}: correct them, or pass --category {name} for a column of words"
        )


def codes_of(what: str, array: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes int32 ``(rows,)``, -1 where a value is missing, into the values as text; numbers in numerical order."""
    import pyarrow as pa

    array = _whole(array)
    if pa.types.is_floating(array.type):
        whole = array.cast(pa.float64()).to_numpy(zero_copy_only=False)
        if np.isnan(whole).sum() != array.null_count or (whole[~np.isnan(whole)] % 1).any():
            raise InputError(f"{what} holds numbers that are not whole; they are no names")
        array = array.cast(pa.int64())
    try:
        encoded = array.dictionary_encode()
        words = encoded.dictionary
        order = np.argsort(words.to_numpy(zero_copy_only=False), kind="stable") if len(words) else np.zeros(0, np.int64)
        words = words.cast(pa.string()).to_pylist()
    except (pa.ArrowException, TypeError) as error:
        raise InputError(f"{what} holds {array.type}, of which no names can be made") from error
    place = np.empty(len(order) + 1, np.int32)
    place[order], place[-1] = np.arange(len(order)), -1
    codes = encoded.indices.fill_null(len(order)).to_numpy(zero_copy_only=False)
    return place[codes], tuple(words[k] for k in order)
