"""Tables: CSV, TSV and Parquet files, JSON lines, and data frames, as raw rows with their columns."""

from __future__ import annotations

import dataclasses
import glob
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax.errors import InputError
from tfsoftmax.sources.arrays import Source, empty_aligned
from tfsoftmax.spec import Column

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

_LABELS = ("label", "class", "target", "y")  # what a label column is called where no name is given
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_MOST_COLUMNS = 100_000


@dataclasses.dataclass(frozen=True)
class Choices:
    """What the user says of columns.

    Args:
        label: the column of the labels; ``None``: the only one that is called label, class, target or y.
        drop: columns to leave out.
        category: columns whose values are names, whatever they look like.
        number: columns whose values are numbers: dates too, as seconds since 1970.
        group: a column whose value says which rows belong together; no input of the model.
    """

    label: str | None = None
    drop: tuple[str, ...] = ()
    category: tuple[str, ...] = ()
    number: tuple[str, ...] = ()
    group: str | None = None


def read_files(kind: str, path: str, choices: Choices) -> Source:
    """Read a file, a folder of files or a glob pattern of ``kind`` ``csv``, ``tsv`` or ``parquet``.

    Files whose names begin with ``train`` and ``test`` are the two splits; others are read one after the other.

    Raises:
        InputError: a file that cannot be read, or that is no table; ``choices`` that do not fit.
    """
    files = _files(kind, path)
    name = Path(path).stem if not glob.has_magic(path) else path
    splits = {split: [file for file in files if file.name.startswith(split)] for split in ("train", "test")}
    if all(splits.values()) and sum(map(len, splits.values())) == len(files):
        train, test = (_joined([read_table(file, kind) for file in splits[split]], path) for split in splits)
        return source(name, train, choices, test)
    return source(name, _joined([read_table(file, kind) for file in files], path), choices)


def _files(kind: str, path: str) -> list[Path]:
    where = Path(path)
    if where.is_file():
        return [where]
    found = sorted(where.glob(f"*.{kind}")) if where.is_dir() else sorted(map(Path, glob.glob(path, recursive=True)))
    if not found:
        what = f"no file *.{kind} in the folder" if where.is_dir() else "no file"
        raise InputError(f"there is {what} {path!r}; {kind}: takes a file, a folder of *.{kind} files or a pattern")
    return [file for file in found if file.is_file()]


def _joined(tables: list[pa.Table], path: str) -> pa.Table:
    import pyarrow as pa

    if len({tuple(table.column_names) for table in tables}) > 1:
        raise InputError(f"the files of {path!r} do not have the same columns")
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(f"the files of {path!r} do not fit together: {_first_line(error)}") from error


def read_table(path: Path, kind: str, columns: Sequence[Column] = ()) -> pa.Table:
    """Read one file of ``kind`` ``csv``, ``tsv``, ``parquet`` or ``jsonl``; types are those that ``columns`` ask for.

    Raises:
        InputError: it cannot be read; the text names the file and, where it is known, row and column.
    """
    import pyarrow as pa

    try:
        if kind == "parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.ParquetFile(path).read()
        else:
            table = _parsed(path.read_bytes(), kind, columns)
    except OSError as error:
        why = error.strerror or _first_line(error)
        raise InputError(f"cannot read {str(path)!r}: {why}") from error
    except pa.ArrowException as error:
        raise InputError(f"cannot read {str(path)!r} as {kind.upper()}: {_first_line(error)}") from error
    except InputError as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from error
    return checked(table, repr(str(path)))


def checked(table: pa.Table, where: str) -> pa.Table:
    """``table``, if it has rows, and columns with names of their own."""
    names = table.column_names
    if len(names) > _MOST_COLUMNS:
        raise InputError(
            f"{where} has {len(names):,} columns; a table may have {_MOST_COLUMNS:,}: give so many numbers as an "
            "embedding (.npy, or one list column of a Parquet file)"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where} has two columns called {shown(twice)}; rename one")
    if not len(table):
        raise InputError(f"{where} has no rows, only the columns {shown(', '.join(names))}")
    return table


def _parsed(content: bytes, kind: str, columns: Sequence[Column]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv, json

    types = {column.name: _arrow_type(column) for column in columns}
    types = {name: asked for name, asked in types.items() if asked is not None}
    # types are inferred from the first block, so there is one
    block = min(len(content) + 1, 2**31 - 1)
    if kind == "jsonl":
        schema = pa.schema(types.items()) if types else None
        options = json.ParseOptions(explicit_schema=schema, newlines_in_values=False)
        return json.read_json(pa.BufferReader(content), json.ReadOptions(block_size=block), options)
    if not content.strip():
        raise InputError("it is empty")
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError("it is UTF-16; save it as UTF-8")

    def parsed(threads: bool) -> pa.Table:
        return csv.read_csv(
            pa.BufferReader(content),
            csv.ReadOptions(block_size=block, use_threads=threads),
            csv.ParseOptions(delimiter=_DELIMITERS[kind], newlines_in_values=True),
            csv.ConvertOptions(strings_can_be_null=True, column_types=types),
        )

    try:
        table = parsed(threads=True)
    except pa.ArrowInvalid:
        table = parsed(threads=False)  # whose errors name the row
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_binary(column.type):
            raise InputError(f"column {shown(name)} is not text in UTF-8; save the file as UTF-8")
    last = table.columns[-1][-1].as_py() if len(table) else None
    if isinstance(last, str) and "\n" in last and content.count(b'"') % 2:
        raise InputError(f"a quote is not closed: the last value begins with {shown(last)}")
    return table


def _arrow_type(column: Column) -> Any:
    import pyarrow as pa

    # booleans may be words or 0 and 1: left to the reader
    return {"float32": pa.float64(), "string": pa.string(), "int64": pa.int64()}.get(column.dtype)


def of_frame(frame: Any) -> pa.Table:
    """A data frame (pandas, Polars, or anything with the Arrow PyCapsule interface) as a table.

    Raises:
        InputError: it is no such frame.
    """
    import pyarrow as pa

    try:
        if isinstance(frame, pa.Table):
            return checked(frame, "the table")
        if type(frame).__module__.partition(".")[0] == "pandas":
            if not frame.columns.map(lambda name: isinstance(name, str)).all():
                frame = frame.rename(columns=str)
            return checked(pa.Table.from_pandas(frame, preserve_index=False), "the data frame")
        if hasattr(frame, "__arrow_c_stream__"):
            return checked(pa.table(frame), "the data frame")
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"the data frame cannot be read: {_first_line(error)}") from error
    raise InputError(f"a data frame is one of pandas, Polars or Arrow, got {shown(frame)}")


def source(name: str, table: pa.Table, choices: Choices, test: pa.Table | None = None) -> Source:
    """The rows of ``table`` with their labels, and of ``test`` where there is a split for it.

    Raises:
        InputError: a column that ``choices`` name is not there, labels are missing, or values that are neither numbers
            nor categories.
    """
    import pyarrow as pa

    label = _label(name, table, choices)
    for option in ("drop", "category", "number"):
        for column in getattr(choices, option):
            if column not in table.column_names:
                raise InputError(f"--{option}: {name!r} has no column {shown(column)}; it has {_listed(table)}")
    if test is not None:
        if absent := sorted(set(table.column_names) - set(test.column_names)):
            raise InputError(
                f"the test rows of {name!r} have no column {shown(absent[0])}, which the training rows have"
            )
        table, count = (
            pa.concat_tables([table, test.select(table.column_names)], promote_options="permissive"),
            len(table),
        )
    else:
        count = len(table)
    without = {label, *choices.drop} | ({choices.group} if choices.group else set())
    x, columns = rows_of(repr(name), table, without, choices)
    y, classes = _codes(f"the label column {shown(label)} of {name!r}", table[label])
    if test is None:
        return Source(name=name, x_train=x, y_train=y, classes=classes, columns=columns)
    return Source(name, x[:count], y[:count], x[count:], y[count:], classes, columns)


def _label(name: str, table: pa.Table, choices: Choices) -> str:
    names: list[str] = table.column_names
    if choices.label is not None:
        if choices.label not in names:
            raise InputError(f"{name!r} has no column {shown(choices.label)} for the labels; it has {_listed(table)}")
        return choices.label
    found = [column for column in names if column.lower() in _LABELS]
    if len(found) != 1:
        raise InputError(f"which column of {name!r} has the labels? give --label COLUMN; it has {_listed(table)}")
    return found[0]


def _listed(table: pa.Table) -> str:
    return shown(", ".join(table.column_names))


def rows_of(
    where: str, table: pa.Table, without: Iterable[str], choices: Choices
) -> tuple[np.ndarray, tuple[Column, ...]]:
    """Raw rows float32 ``(rows, columns)``, NaN where a value is missing, and their columns with all values.

    Columns that say nothing to a linear model are left out, with a line for each: dates, words of which most differ,
    one value alone. Columns that ``choices`` name are kept.

    Args:
        where: the table, for errors.
        table: its rows.
        without: columns that are no inputs.
        choices: of the user.

    Returns:
        A lone column of lists of numbers, an embedding, comes as float32 ``(rows, numbers)`` without columns.
    """
    import pyarrow as pa

    left = set(without)
    names = [name for name in table.column_names if name not in left]
    lists = [name for name in names if _is_list(table[name].type)]
    if lists:
        if len(names) > 1:
            others = [name for name in names if name != lists[0]]
            raise InputError(
                f"{where} has the list column {shown(lists[0])} and others ({shown(', '.join(others))}): an embedding "
                f"stands alone; --drop one or the other"
            )
        return _embedding(where, lists[0], table[lists[0]]), ()
    made, columns = [], []
    for name in names:
        asked = "category" if name in choices.category else "number" if name in choices.number else ""
        array = table[name].combine_chunks() if isinstance(table[name], pa.ChunkedArray) else table[name]
        if not asked and (why := _useless(array)):
            _log.warning("%s: column %s is left out: %s", where, shown(name), why)
            continue
        values, column = _column(where, name, array, asked)
        made.append(values)
        columns.append(column)
    if not columns:
        raise InputError(f"{where} has no column to learn from")
    x = empty_aligned((len(table), len(columns)), np.float32)
    for place, values in enumerate(made):
        x[:, place] = values
    return x, tuple(columns)


def _is_list(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _embedding(where: str, name: str, column: pa.ChunkedArray) -> np.ndarray:
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

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _column(where: str, name: str, array: pa.Array, asked: str) -> tuple[np.ndarray, Column]:
    """One column as raw values float32 ``(rows,)``."""
    import pyarrow as pa

    kind = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
    what = f"{where}: column {shown(name)}"
    numeric = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    if asked == "category" or (not asked and _is_text(kind)):
        if not asked:
            _few_words(what, name, array)
        codes, values = _codes(what, array)
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
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
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

    decoded = array if not hasattr(array, "dictionary") else array.dictionary_decode()
    there = len(decoded) - decoded.null_count
    digits = pc.sum(pc.match_substring_regex(decoded, r"^\s*[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*$")).as_py() or 0
    if there > digits >= 0.9 * there:
        row, word = _not_a_number(decoded)
        raise InputError(
            f"{what} holds numbers, and {there - digits:,} of {there:,} values are none, the first {shown(word)} in "
            f"row {row}: mend them, or give --category {name} for a column of words"
        )


def _codes(what: str, array: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """Codes int32 ``(rows,)``, -1 where a value is missing, into the values as text; numbers in numerical order."""
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # of none or of several chunks
        array = pa.concat_arrays(array.chunks)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
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


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
