"""Raw inputs from files: one reader a file type, in one table."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from tfsoftmax._quiet import quiet
from tfsoftmax.errors import InputError
from tfsoftmax.pictures import PICTURES, picture
from tfsoftmax.predict import conform
from tfsoftmax.sources.idx import read_idx
from tfsoftmax.sources.npy import shard
from tfsoftmax.spec import ModelSpec
from tfsoftmax.stored import PART, Stored


def _picture(path: Path, spec: ModelSpec, fit: bool) -> np.ndarray:
    # by its content: Pillow maps an uncompressed TIFF that it opens by name, and then turns it wrongly
    with quiet():  # libtiff's own words on broken files
        return picture(io.BytesIO(path.read_bytes()), spec, fit, repr(str(path)))


def _npy(path: Path, spec: ModelSpec, fit: bool) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InputError(f"{str(path)!r} is not an NPY file of plain numbers: {error}") from error


def _npz(path: Path, spec: ModelSpec, fit: bool) -> np.ndarray:
    import zipfile

    try:
        with np.load(path, allow_pickle=False) as archive:
            name = archive.files[0] if len(archive.files) == 1 else spec.input_name
            if name not in archive.files:
                raise InputError(f"{str(path)!r} holds {archive.files}; expected one array, or one named {name!r}")
            return archive[name]
    except (ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{str(path)!r} is not an NPZ file of plain numbers: {error}") from error


def _idx(path: Path, spec: ModelSpec, fit: bool) -> np.ndarray:
    return read_idx(path)


# file name ending -> function of (path, spec, fit) that returns one raw input or a batch of them
READERS: dict[str, Callable[[Path, ModelSpec, bool], np.ndarray]] = {
    **{ending: _picture for endings in PICTURES.values() for ending in endings},
    ".npy": _npy,
    ".npz": _npz,
    ".idx": _idx,
    ".gz": _idx,
    "-ubyte": _idx,
}


# file name ending of a table -> kind of file, as ``sources.tables`` calls it
TABLES = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}


def read_named(
    name: str, spec: ModelSpec, *, fit: bool = False, invert: bool = False, id_column: str | None = None
) -> tuple[list[str], np.ndarray]:
    """Read one file as :func:`read`; returns a name for each row, too: the file's with its place, or its id."""
    if not spec.columns or name == "-":
        raw, ids = read(name, spec, fit=fit, invert=invert), None
    else:
        raw, ids = _table(name, spec, id_column)
    if ids is not None:
        return ids, raw
    return [name] if len(raw) == 1 else [f"{name}[{i}]" for i in range(len(raw))], raw


def parts(
    name: str, spec: ModelSpec, *, fit: bool = False, invert: bool = False, id_column: str | None = None
) -> Iterable[tuple[list[str], np.ndarray]]:
    """What :func:`read_named` returns; of an .npy file of many rows some at a time, read as they are asked for."""
    if not spec.columns and name.lower().endswith(".npy"):
        with contextlib.suppress(InputError):  # which reading it as a whole raises again
            there, row = shard(Path(name))
            stored = Stored([there], row, 0)
            if row in spec.row_shapes and there.dtype == spec.dtype and not there.fortran and stored.nbytes > PART:
                return _rows(name, stored, spec, invert)
    return [read_named(name, spec, fit=fit, invert=invert, id_column=id_column)]


def _rows(name: str, stored: Stored, spec: ModelSpec, invert: bool) -> Iterator[tuple[list[str], np.ndarray]]:
    begin = 0
    for part in stored.parts():
        raw = _inverted(conform(part, spec, f"{name!r} (from row {begin:,} on)"), spec, invert)
        yield [f"{name}[{i}]" for i in range(begin, begin + len(raw))], raw
        begin += len(raw)


def _table(name: str, spec: ModelSpec, id_column: str | None = None) -> tuple[np.ndarray, list[str] | None]:
    from tfsoftmax.sources import tables

    kind = TABLES.get(Path(name).suffix.lower())
    if kind is None:
        raise InputError(f"the model takes a table, and {name!r} does not end in one of {', '.join(TABLES)}")
    table = tables.read_table(Path(name), kind, spec.columns)
    return tables.raw_rows(table, spec, repr(name), id_column)


def read(name: str, spec: ModelSpec, *, fit: bool = False, invert: bool = False) -> np.ndarray:
    """Read the raw inputs of one file.

    Args:
        name: a file that ends as ``READERS`` says, or ``"-"``: one JSON array on standard input.
        spec: what the model takes.
        fit: convert a picture of another colour mode or size: 16 bits to 8, transparency to white, grey (or RGB) as the
            model wants, cropped in the middle to the model's proportions, resized.
        invert: turn light to dark and dark to light, for uint8 inputs.

    Returns:
        ``(n, *spec.shape)`` of dtype ``spec.dtype``.

    Raises:
        InputError: the file, or what is in it, cannot be used; the text names it.
    """
    if name == "-":
        try:
            raw = json.load(sys.stdin)
        except (ValueError, RecursionError) as error:
            raise InputError(f"standard input is not one JSON array: {error}") from error
        if not isinstance(raw, list):
            raise InputError(f"standard input must hold one JSON array, got {type(raw).__name__}")
        what = "standard input"
    elif spec.columns:
        return _table(name, spec)[0]
    else:
        readers = [reader for ending, reader in READERS.items() if name.lower().endswith(ending)]
        if not readers:
            raise InputError(f"unknown file type of {name!r}; known endings are {', '.join(READERS)}, and - for JSON")
        try:
            raw = readers[0](Path(name), spec, fit)
        except OSError as error:
            raise InputError(f"cannot read {name!r}: {error.strerror or error}") from error
        what = repr(name)
    return _inverted(conform(raw, spec, what), spec, invert)


def _inverted(array: np.ndarray, spec: ModelSpec, invert: bool) -> np.ndarray:
    if invert and spec.dtype != "uint8":
        raise InputError("--invert is for pictures; this model takes float32 features")
    return 255 - array if invert else array
