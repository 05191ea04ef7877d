"""Tables: CSV, TSV and Parquet files, JSON lines, and data frames, as raw rows with their columns."""

from __future__ import annotations

import contextlib
import glob
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tfsoftmax import columns
from tfsoftmax._checks import shown
from tfsoftmax._files import unchanged
from tfsoftmax.errors import InputError
from tfsoftmax.sources import labels
from tfsoftmax.sources.arrays import Source
from tfsoftmax.sources.columns import Choices, codes_of, read_column, rows_of
from tfsoftmax.spec import Column, ModelSpec
from tfsoftmax.stored import Stored

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

_LABELS = ("label", "class", "target", "y")  # what a label column is called where no name is given
_DELIMITERS = {"csv": ",", "tsv": "\t"}
_MOST_COLUMNS = 100_000


def read_files(kind: str, path: str, choices: Choices) -> Source:
    """Read a file, a folder of files or a glob pattern of ``kind`` ``csv``, ``tsv`` or ``parquet``.

    Files whose names begin with ``train`` and ``test`` are the two splits; others are read one after the other.

    Raises:
        InputError: a file that cannot be read, or that is no table; ``choices`` that do not fit.
    """
    found = [joined([read_table(file, kind) for file in some], path) for some in splits_of(files(kind, path))]
    return source(name_of(path), found[0], choices, *found[1:])


def name_of(path: str) -> str:
    """What a data set of the files ``path`` is called."""
    return path if glob.has_magic(path) else Path(path).stem


def splits_of(found: list[Path]) -> list[list[Path]]:
    """All files, or where each is of one of the two splits by its name, those of training and those of the test."""
    splits = [[file for file in found if file.name.startswith(split)] for split in ("train", "test")]
    return splits if all(splits) and sum(map(len, splits)) == len(found) else [found]


def files(kind: str, path: str, after: str = "") -> list[Path]:
    """The files of ``path``: itself, those of a folder that end on ``.kind`` and ``after``, or of a pattern.

    Raises:
        InputError: there are none.
    """
    where = Path(path)
    if where.is_file():
        return [where]
    found = (
        sorted(where.glob(f"*.{kind}{after}")) if where.is_dir() else sorted(map(Path, glob.glob(path, recursive=True)))
    )
    if not found:
        what = f"no file *.{kind} in the folder" if where.is_dir() else "no file"
        raise InputError(f"there is {what} {path!r}; {kind}: takes a file, a folder of *.{kind} files or a pattern")
    return [file for file in found if file.is_file()]


def joined(tables: list[pa.Table], path: str) -> pa.Table:
    """The rows of files with the same columns, one after the other."""
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
    with reading(path, kind):
        if kind == "parquet":
            import pyarrow.parquet

            table = pyarrow.parquet.ParquetFile(path).read()
        else:
            table = _parsed(path.read_bytes(), kind, columns)
    return checked(table, repr(str(path)))


@contextlib.contextmanager
def reading(path: Path, kind: str) -> Iterator[None]:
    """A file of ``kind`` is read in here. Raises InputError if it cannot be, or has changed by the end."""
    import pyarrow as pa

    try:
        with unchanged(path):
            yield
    except OSError as error:
        why = error.strerror or _first_line(error)
        raise InputError(f"cannot read {str(path)!r}: {why}") from error
    except pa.ArrowException as error:
        raise InputError(f"cannot read {str(path)!r} as {kind.upper()}: {_first_line(error)}") from error
    except InputError as error:
        raise InputError(f"cannot read {str(path)!r}: {error}") from error


def checked(table: pa.Table, where: str) -> pa.Table:
    """``table``, if it has rows, and columns with names of their own."""
    names = table.column_names
    _few_columns(len(names), where)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{where} has two columns called {shown(twice)}; rename one")
    if not len(table):
        raise InputError(f"{where} has no rows, only the columns {shown(', '.join(names))}")
    return table


def _few_columns(count: int, where: str) -> None:
    if count > _MOST_COLUMNS:
        raise InputError(
            f"{where} has {count:,} columns; a table may have {_MOST_COLUMNS:,}: pass so many numbers as an embedding "
            "(.npy, or one list column of a Parquet file)"
        )


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
    _few_columns(content[: content.find(b"\n")].count(_DELIMITERS[kind].encode()) + 1, "it")
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


def is_frame(value: Any) -> bool:
    """Whether ``value`` is something that :func:`of_frame` may read."""
    return type(value).__module__.partition(".")[0] == "pandas" or hasattr(value, "__arrow_c_stream__")


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


def labelled(name: str, frame: Any, y: Any, label: str) -> pa.Table:
    """The rows of a data frame with ``y`` as their column ``label``."""
    import pyarrow as pa

    table = of_frame(frame)
    return table.append_column(label, pa.array(labels.plain(repr(name), labels.array_of("y", y), len(table))))


def source(
    name: str,
    table: pa.Table,
    choices: Choices,
    test: pa.Table | None = None,
    stored: Sequence[Stored] = (),
) -> Source:
    """The rows of ``table`` with their labels, and of ``test`` where there is a split for it.

    The inputs are ``stored`` where they are given, those of the training rows and of the test rows.

    Raises:
        InputError: a column that ``choices`` name is not there, labels are missing, or values that are neither numbers
            nor categories.
    """
    import pyarrow as pa

    label = label_of(name, table.column_names, choices)
    check_named(name, table.column_names, choices)
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
    without = {label, *choices.drop, *filter(None, (choices.group, choices.sample_weight))}
    columns: tuple[Column, ...] = ()
    left_out: dict[str, str] = {}
    inputs: list[Any] = [*stored, None]
    if not stored:
        x, columns, left_out = rows_of(repr(name), table, count, without, choices)
        inputs = [x[:count], None if test is None else x[count:]]
    y, words = codes_of(f"the label column {shown(label)} of {name!r}", table[label])
    _complete(f"the label column {shown(label)} of {name!r}", y)
    classes, y = labels.in_order(words, y)
    labels.check(name, y[:count], None if test is None else y[count:], classes)
    groups = None
    if choices.group is not None:
        groups = codes_of(f"the group column {shown(choices.group)} of {name!r}", table[choices.group])[0][:count]
        _complete(f"the group column {shown(choices.group)} of {name!r}", groups)
    weights = None
    if choices.sample_weight is not None:
        what = f"the weight column {shown(choices.sample_weight)} of {name!r}"
        weights, _ = read_column(what, choices.sample_weight, table[choices.sample_weight], "number")
    return Source(
        name,
        *(inputs[0], y[:count], inputs[1], None if test is None else y[count:]),
        *(classes, columns, groups),
        weights=None if weights is None else weights[:count],
        weights_test=None if weights is None or test is None else weights[count:],
        left_out=left_out,
    )


def _complete(what: str, codes: np.ndarray) -> None:
    """Raise InputError where a value is missing."""
    if gaps := int((codes < 0).sum()):
        raise InputError(
            f"{what} has {gaps:,} missing values, the first in row {int((codes < 0).argmax())}: leave those rows out"
        )


def label_of(name: str, names: Sequence[str], choices: Choices) -> str:
    """The column of the labels among ``names``."""
    if choices.label is not None:
        if choices.label not in names:
            raise InputError(f"{name!r} has no column {shown(choices.label)} for the labels; it has {_listed(names)}")
        return choices.label
    found = [column for column in names if column.lower() in _LABELS]
    if len(found) != 1:
        raise InputError(f"which column of {name!r} has the labels? pass --label COLUMN; it has {_listed(names)}")
    return found[0]


def check_named(name: str, names: Sequence[str], choices: Choices) -> None:
    """Raise InputError where ``choices`` name a column that is not among ``names``."""
    for option in ("drop", "category", "number", "group", "sample_weight"):
        asked = getattr(choices, option) or ()
        for column in (asked,) if isinstance(asked, str) else asked:
            if column not in names:
                raise InputError(
                    f"--{option.replace('_', '-')}: {name!r} has no column {shown(column)}; it has {_listed(names)}"
                )


def _listed(names: Sequence[str]) -> str:
    return shown(", ".join(names))


def raw_rows(
    table: pa.Table, spec: ModelSpec, where: str, id_column: str | None = None
) -> tuple[np.ndarray, list[str] | None]:
    """The rows of a table as the model of ``spec`` takes them, columns found by name, in any order.

    Returns:
        Raw rows float32 ``(rows, columns)``; the values of ``id_column`` as text, if one is asked for.

    Raises:
        InputError: a column is missing, or its values are of another kind.
    """
    known, names = {column.name for column in spec.columns}, table.column_names
    columns.refuse_absent(spec.columns, names, where)
    if id_column is not None and id_column not in names:
        raise InputError(f"{where} has no column {shown(id_column)}; it has {_listed(names)}")
    if extra := [name for name in names if name not in known and name != id_column]:
        _log.warning("%s: not used: %s", where, shown(", ".join(extra)))
    found = [read_column(f"{where}: column {shown(c.name)}", c.name, table[c.name], c.kind) for c in spec.columns]
    x = np.stack([values for values, _ in found], axis=1)
    raw = columns.conform(columns.recode(x, [column for _, column in found], spec.columns, where), spec, where)
    return raw, None if id_column is None else [str(value) for value in table[id_column].to_pylist()]


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
