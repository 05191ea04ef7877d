"""Predictions as text, JSON, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tfsoftmax._files import writing
from tfsoftmax.errors import InputError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for one
_ROWS = 2**14  # that are written together


class Prediction(NamedTuple):
    """What was predicted for one row: its name, and its best classes with their probabilities, best first.

    ``refused`` says that the best one is not sure enough to be called the row's label.
    """

    input: str
    top: list[tuple[str, float]]
    refused: bool = False

    @property
    def label(self) -> str | None:
        """The best class, if it is sure enough."""
        return None if self.refused else self.top[0][0]


def as_text(found: Sequence[Prediction]) -> str:
    """One line per row; what is refused is followed by what it might be."""
    width = max((len(row.input) for row in found), default=0)
    lines = (
        f"{row.input:<{width}}  {'refused: ' * row.refused}" + "   ".join(f"{name} {p:.1%}" for name, p in row.top)
        for row in found
    )
    return "".join(f"{line}\n" for line in lines)


def as_json(found: Iterable[Prediction]) -> Iterator[str]:
    """One JSON object, in pieces."""
    yield '{"predictions": ['
    for place, row in enumerate(found):
        top = [{"label": label, "probability": p} for label, p in row.top]
        yield (", " if place else "") + json.dumps({"input": row.input, "label": row.label, "top": top})
    yield "]}\n"


def as_csv(found: Iterable[Prediction], escape: bool = False) -> Iterator[str]:
    """``input``, ``label`` (empty where refused), ``probability``, then the rest of the best ones, in pieces.

    With ``escape`` an apostrophe stands before what a spreadsheet would take for a formula.
    """

    def cell(value: str | float | None) -> str | float | None:
        return f"'{value}" if escape and isinstance(value, str) and value.startswith(_FORMULA) else value

    for place, rows in enumerate(_some(found)):
        content = io.StringIO()
        table = csv.writer(content, lineterminator="\n")
        if place == 0:
            table.writerow(_names(rows))
        table.writerows([cell(value) for value in _cells(row)] for row in rows)
        yield content.getvalue()


def _some(found: Iterable[Prediction]) -> Iterator[list[Prediction]]:
    """Some rows at a time, at least once."""
    left = iter(found)
    rows = list(itertools.islice(left, _ROWS))
    yield rows
    while rows := list(itertools.islice(left, _ROWS)):
        yield rows


def _cells(row: Prediction) -> tuple[str | float | None, ...]:
    return row.input, row.label, row.top[0][1], *(value for pair in row.top[1:] for value in pair)


def _names(found: Sequence[Prediction]) -> list[str]:
    count = len(found[0].top) if found else 1
    ranks = [name for k in range(2, count + 1) for name in (f"label_{k}", f"probability_{k}")]
    return ["input", "label", "probability", *ranks]


def _text(pieces: Iterable[str], file: BinaryIO) -> None:
    for piece in pieces:
        file.write(piece.encode())


def _parquet(found: Iterable[Prediction], file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    writer = None
    for rows in _some(found):
        names = _names(rows)
        schema = pa.schema([(name, pa.float64() if name.startswith("prob") else pa.string()) for name in names])
        columns = [list(column) for column in zip(*map(_cells, rows), strict=True)] or [[] for _ in names]
        writer = writer or pyarrow.parquet.ParquetWriter(file, schema)
        writer.write_table(pa.table(dict(zip(names, columns, strict=True)), schema))
    if writer is not None:
        writer.close()


# file name ending -> function that writes predictions into an open file, csv with escape or without
WRITERS: dict[str, Callable[[Iterable[Prediction], BinaryIO, bool], None]] = {
    ".csv": lambda found, file, escape: _text(as_csv(found, escape), file),
    ".json": lambda found, file, escape: _text(as_json(found), file),
    ".parquet": lambda found, file, escape: _parquet(found, file),
}


def write(found: Iterable[Prediction], path: Path, escape: bool = False) -> int:
    """Write the file ``path``, whole or not at all, as rows come; returns how many there were.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    if path.suffix not in WRITERS:
        raise InputError(f"--to {str(path)!r} must end in one of {', '.join(WRITERS)}")
    count = 0

    def counted() -> Iterator[Prediction]:
        nonlocal count
        for row in found:
            count += 1
            yield row

    try:
        with writing(path) as file:
            WRITERS[path.suffix](counted(), file, escape)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from error
    return count
