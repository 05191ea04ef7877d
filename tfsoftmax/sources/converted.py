"""Row files: a data set written once as .npy shards, labels and rows.json, shuffled on the way. NumPy only."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from tfsoftmax._checks import INT64, number, typed
from tfsoftmax._files import read_json, write_text
from tfsoftmax._folders import locked
from tfsoftmax.errors import InputError
from tfsoftmax.sources.arrays import Source, aligned
from tfsoftmax.sources.large import Large
from tfsoftmax.sources.npy import array_file, budget, shard
from tfsoftmax.stored import Stored

MARK = "rows.json"
_FORMAT = "tfsoftmax rows 1"
_SHARD = 2**27  # bytes of a shard, which is in memory while it is shuffled
_PART = 2**26  # bytes of the source that are read together
_PIECE = 2**22  # bytes that are written together
_EXTRAS = {"groups": "groups", "val_rows": "val_rows", "weights": "weights", "weights_test": "weights_test"}


class _File(TypedDict):
    """A file of the folder."""

    file: str
    rows: int
    sha256: str


class _Mark(TypedDict):
    """``rows.json``."""

    format: str
    name: str
    classes: list[str]
    shuffled: int | None
    x_train: list[_File]
    x_test: list[_File]
    arrays: dict[str, _File]


def folder(argument: str, memory: int | None = None) -> Source:
    """Read a folder that :func:`convert` wrote; ``memory`` as of ``npy``."""
    where = Path(argument)
    text = f"{str(where / MARK)!r}"
    mark: _Mark = typed(text, read_json(where / MARK, "the row files"), _Mark)
    if mark["format"] != _FORMAT:
        raise InputError(f"{text} has the format {mark['format']!r}; this version reads {_FORMAT!r}")
    stored: dict[str, Stored] = {}
    memory = budget(memory)
    for split in ("x_train", "x_test"):
        files = mark[split]
        found = [shard(where / one["file"]) for one in files]
        for one, (there, row) in zip(files, found, strict=True):
            if there.rows != one["rows"] or row != found[0][1]:
                raise InputError(
                    f"{str(there.path)!r} has {there.rows:,} rows of shape {row}; {MARK} says {one['rows']:,}"
                )
        if found:
            stored[split] = Stored([there for there, _ in found], found[0][1], memory, finite=True)
    fits = sum(x.nbytes for x in stored.values()) <= memory
    inputs: dict[str, Any] = {split: aligned(x[:]) if fits else x for split, x in stored.items()}
    arrays: dict[str, Any] = {}
    for name, file in mark["arrays"].items():
        path = where / file["file"]
        arrays[name] = array_file(path)
        if hashlib.sha256(path.read_bytes()).hexdigest() != file["sha256"]:
            raise InputError(f"{str(path)!r} is not as it was written: its SHA-256 is another")
    return Source(mark["name"], **inputs, **arrays, classes=tuple(mark["classes"]))


def convert(
    source: Source | Large,
    to: str | os.PathLike[str],
    seed: int | None = 0,
    progress: Callable[[int, int], None] | None = None,
    *,
    shared: bool = False,
) -> Path:
    """Write ``source`` as row files, which :func:`tfsoftmax.load` reads as ``"rows:FOLDER"``.

    The training rows are shuffled as a whole, each order being as likely as any other, in two passes: rows go to the
    file of their shard, then each shard is shuffled. In memory are a shard of 128 MiB, a part of 64 MiB, and some bytes
    per row. A :class:`Large` source is first written beside them as it comes, which takes its size on disk once more.

    Args:
        source: any but a table of named columns.
        to: the folder, which must not exist. It appears when all is written; after a kill the same call begins again.
        seed: of the order; ``None`` keeps the order of the source.
        progress: called now and then with how many rows are done, of how many; each row is done twice if shuffled,
            and before that once if the source is large.
        shared: a folder that is there is what is wanted; another process that writes it is waited for.

    Raises:
        InputError: the folder exists or cannot be written, or the source is a table or cannot be read.
    """
    to = Path(os.path.abspath(to))
    if isinstance(source, Source) and source.columns:
        raise InputError(
            f"{source.name!r} is a table of named columns, which has no row files: it must fit into memory"
        )
    if seed is not None:
        seed = number("seed", seed, 0, INT64, whole=True)
    if to.exists() and not shared:
        raise InputError(f"{str(to)!r} exists; choose another folder")
    aside = to.with_name(f".{to.name}.converting")
    try:
        with locked(to, wait=shared), _emptied(aside):
            if to.exists():
                if shared:
                    return to
                raise InputError(f"{str(to)!r} exists; choose another folder")
            progress = progress or (lambda done, of: None)
            _write(source.write(aside, progress) if isinstance(source, Large) else source, aside, seed, progress)
            for path in aside.glob("*.part"):
                path.unlink()
            os.replace(aside, to)
    except OSError as error:
        raise InputError(f"cannot write the row files {str(to)!r}: {error.strerror or error}") from error
    return to


@contextlib.contextmanager
def _emptied(aside: Path) -> Iterator[None]:
    """The folder ``aside``, empty, without what a killed process left in it; removed unless it has been renamed."""

    def clear() -> None:
        for pattern in ("*.npy", "*.part", MARK, f".{MARK}.*.tmp"):
            for path in aside.glob(pattern):
                path.unlink()
        if aside.exists():
            aside.rmdir()

    clear()
    aside.mkdir(parents=True)
    try:
        yield
    finally:
        clear()


def _write(source: Source, aside: Path, seed: int | None, progress: Callable[[int, int], None]) -> None:
    count, test = len(source.x_train), 0 if source.x_test is None else len(source.x_test)
    order = None if seed is None else np.random.default_rng(seed).permutation(count)
    total, done = count * (1 if order is None else 2) + test, 0

    def step(rows: int) -> None:
        nonlocal done
        done += rows
        progress(done, total)

    arrays: dict[str, np.ndarray] = {"y_train": source.y_train}
    arrays |= {name: found for name in _EXTRAS if (found := getattr(source, name)) is not None}
    if order is not None:
        places = np.empty_like(order)
        places[order] = np.arange(count)
        arrays |= {name: arrays[name][order] for name in ("y_train", "groups", "weights") if name in arrays}
        if "val_rows" in arrays:
            arrays["val_rows"] = np.sort(places[arrays["val_rows"]])
    mark: dict[str, Any] = {"format": _FORMAT, "name": source.name, "classes": list(source.classes), "shuffled": seed}
    mark["x_train"] = list(_shards(source.x_train, order, aside, "train", step))
    mark["x_test"] = []
    if source.x_test is not None and source.y_test is not None:
        arrays["y_test"] = source.y_test
        mark["x_test"] = list(_shards(source.x_test, None, aside, "test", step))
    mark["arrays"] = {name: _npy(aside, f"{name}.npy", array) for name, array in arrays.items()}
    write_text(aside / MARK, json.dumps(mark, indent=1) + "\n")


def _shards(
    x: np.ndarray | Stored, order: np.ndarray | None, aside: Path, name: str, step: Callable[[int], None]
) -> Iterator[_File]:
    """Write rows in ``order``; return the entry of each shard."""
    row = int(np.prod(x.shape[1:])) * x.dtype.itemsize
    size, part = max(1, _SHARD // row), max(1, _PART // row)
    begins = range(0, len(x), size)
    if order is not None:
        shard_of = np.empty(len(x), np.int32)
        for number_, begin in enumerate(begins):
            shard_of[order[begin : begin + size]] = number_
        for begin in range(0, len(x), part):
            rows, to = x[begin : begin + part], shard_of[begin : begin + part]
            together = np.argsort(to, kind="stable")
            cuts = np.searchsorted(to[together], np.arange(len(begins) + 1))
            for number_ in np.unique(to).tolist():
                with open(aside / f"{name}-{number_:05}.part", "ab") as file:
                    file.write(rows[together[cuts[number_] : cuts[number_ + 1]]].data)
            step(len(rows))
    for number_, begin in enumerate(begins):
        if order is None:
            rows, places = x[begin : begin + size], None
        else:
            path = aside / f"{name}-{number_:05}.part"
            rows = np.fromfile(path, x.dtype).reshape(-1, *x.shape[1:])  # in the order of the source
            path.unlink()
            places = np.argsort(np.argsort(order[begin : begin + size]))
        yield _npy(aside, f"{name}-{number_:05}.npy", rows, places)
        step(len(rows))
        del rows  # before the next ones are read


def _npy(aside: Path, name: str, array: np.ndarray, places: np.ndarray | None = None) -> _File:
    """Write one .npy file, the rows ``places`` of ``array`` or all; return its entry."""
    size = max(1, _PIECE // max(1, array[:1].nbytes))
    begins = range(0, len(array), size)
    pieces = (
        array[begin : begin + size] if places is None else array[places[begin : begin + size]] for begin in begins
    )
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    digest = hashlib.sha256()
    with open(aside / name, "wb") as file:
        for piece in itertools.chain([head.getvalue()], (piece.tobytes() for piece in pieces)):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return {"file": name, "rows": len(array), "sha256": digest.hexdigest()}
