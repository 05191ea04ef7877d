"""Files that are written whole or not at all, and read with errors that name them."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tfsoftmax.errors import InputError


def write_text(path: Path, text: str) -> None:
    """Write ``text`` beside ``path``, force it to disk, rename it into place: readers see the old or the new file."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes, before: Path | None = None) -> None:
    """As :func:`write_text`; with ``before``, the file that was in ``path`` is kept there."""
    with writing(path, before) as file:
        file.write(content)


@contextlib.contextmanager
def writing(path: Path, before: Path | None = None) -> Iterator[BinaryIO]:
    """A file beside ``path`` to write into; at the end of the block it is forced to disk and renamed into place."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if before is not None and path.exists():
            os.replace(path, before)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_csv(path: Path, rows: list[dict[str, Any]], header: Sequence[str] = ()) -> None:
    """Write ``rows`` below the names of the first one's columns, or below ``header`` if there are no rows."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]) if rows else header, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(path, text.getvalue())


@contextlib.contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """A file is read in here. Raises InputError if it has changed by the end."""
    before = state(path.stat())
    yield
    if state(path.stat()) != before:
        raise InputError(f"{str(path)!r} changed while it was read; read it again once it is written")


def state(found: os.stat_result) -> tuple[int, int, int]:
    """What is another after a file has been written or replaced."""
    return found.st_mtime_ns, found.st_size, found.st_ino


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read one JSON object; ``what`` names the file's role in the error if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {what} {str(path)!r}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{what} {str(path)!r} is not JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{what} {str(path)!r} is nested too deeply") from error
    if not isinstance(value, dict):
        raise InputError(f"{what} {str(path)!r} must hold one JSON object, got {type(value).__name__}")
    return value
