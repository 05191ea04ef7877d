"""Predictions as text, JSON, CSV or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tfsoftmax._files import write_bytes
from tfsoftmax.errors import InputError

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for one


class Prediction(NamedTuple):
    """What was predicted for one row: its name, and its best classes with their probabilities, best first."""

    input: str
    top: list[tuple[str, float]]


def as_text(found: Sequence[Prediction]) -> str:
    """One line per row."""
    width = max((len(row.input) for row in found), default=0)
    lines = (f"{row.input:<{width}}  " + "   ".join(f"{name} {p:.1%}" for name, p in row.top) for row in found)
    return "".join(f"{line}\n" for line in lines)


def as_json(found: Sequence[Prediction]) -> str:
    """One JSON object."""
    rows = [
        {
            "input": row.input,
            "label": row.top[0][0],
            "top": [{"label": label, "probability": p} for label, p in row.top],
        }
        for row in found
    ]
    return json.dumps({"predictions": rows}) + "\n"


def as_csv(found: Sequence[Prediction], escape: bool = False) -> str:
    """``input``, ``label``, ``probability``, then the rest of the best ones.

    With ``escape`` an apostrophe stands before what a spreadsheet would take for a formula.
    """

    def cell(value: str | float) -> str | float:
        return f"'{value}" if escape and isinstance(value, str) and value.startswith(_FORMULA) else value

    content = io.StringIO()
    table = csv.writer(content, lineterminator="\n")
    table.writerow(_names(found))
    table.writerows([cell(row.input), *(cell(value) for pair in row.top for value in pair)] for row in found)
    return content.getvalue()


def _names(found: Sequence[Prediction]) -> list[str]:
    count = len(found[0].top) if found else 1
    ranks = [name for k in range(2, count + 1) for name in (f"label_{k}", f"probability_{k}")]
    return ["input", "label", "probability", *ranks]


def _parquet(found: Sequence[Prediction]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet

    rows = [(row.input, *(value for pair in row.top for value in pair)) for row in found]
    columns = [list(column) for column in zip(*rows, strict=True)]
    content = io.BytesIO()
    pyarrow.parquet.write_table(pa.table(dict(zip(_names(found), columns, strict=True))), content)
    return content.getvalue()


# file name ending -> function that returns the content of such a file
WRITERS: dict[str, Callable[[Sequence[Prediction]], bytes]] = {
    ".csv": lambda found: as_csv(found).encode(),
    ".json": lambda found: as_json(found).encode(),
    ".parquet": _parquet,
}


def write(found: Sequence[Prediction], path: Path, escape: bool = False) -> None:
    """Write the file ``path``, whole or not at all.

    Raises:
        InputError: another ending, or the file cannot be written.
    """
    if path.suffix not in WRITERS:
        raise InputError(f"--to {str(path)!r} must end in one of {', '.join(WRITERS)}")
    content = as_csv(found, escape=True).encode() if escape and path.suffix == ".csv" else WRITERS[path.suffix](found)
    try:
        write_bytes(path, content)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}") from error
