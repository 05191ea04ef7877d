"""NumPy's files: a pair of .npy files, a folder of them, or one .npz; never their pickles."""

from __future__ import annotations

import logging
import math
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from tfsoftmax._checks import shown
from tfsoftmax._files import state, unchanged
from tfsoftmax._machine import memory_available
from tfsoftmax.errors import InputError
from tfsoftmax.sources.arrays import Source, empty_aligned
from tfsoftmax.sources.idx import read_lines
from tfsoftmax.stored import Shard, Stored

_ROLES = ("x", "y", "x_train", "y_train", "x_val", "y_val", "x_test", "y_test")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}

_log = logging.getLogger(__name__)


def files(argument: str, memory: int | None = None) -> Source:
    """Read ``X.npy,Y.npy``, or a folder with ``x.npy`` and ``y.npy``, or ``x_train.npy`` and so on.

    Labels may also be a text file, ``.txt``, with one label a line.

    Args:
        argument: the files.
        memory: bytes that the rows may take; of more rows all stay in their files. ``None``: half of what is free.
    """
    where = Path(argument)
    if where.is_dir():
        found = {role: where / f"{role}.npy" for role in _ROLES if (where / f"{role}.npy").is_file()}
        found |= {role: where / f"{role}.txt" for role in _ROLES if (where / f"{role}.txt").is_file()}
        return _source(where.resolve().name, argument, _arrays(found, memory))
    x, comma, y = argument.rpartition(",")
    if not comma:
        raise InputError(f"npy: takes X.npy,Y.npy or a folder with x.npy and y.npy, got {argument!r}")
    return _source(Path(x).stem, argument, _arrays({"x": Path(x), "y": Path(y)}, memory))


def _arrays(paths: dict[str, Path], memory: int | None) -> dict[str, Any]:
    """What the files hold; the inputs as :class:`Stored` where they are larger than ``memory``."""
    shards = {role: shard(path) for role, path in paths.items() if role.startswith("x") and path.suffix == ".npy"}
    memory = budget(memory)
    if sum(Stored([one], row, memory).nbytes for one, row in shards.values()) <= memory:
        return {role: array_file(path) for role, path in paths.items()}
    arrays: dict[str, Any] = {role: array_file(path) for role, path in paths.items() if role not in shards}
    return arrays | {role: Stored([one], row, memory) for role, (one, row) in shards.items()}


def budget(memory: int | None) -> int:
    """``memory``; where it is ``None`` half of what is free, as a power of two."""
    return 1 << max(1, memory_available() // 2).bit_length() - 1 if memory is None else memory


def shard(path: Path) -> tuple[Shard, tuple[int, ...]]:
    """The rows of one .npy file, and the shape of each."""
    try:
        with open(path, "rb") as stream:
            there = os.fstat(stream.fileno())
            shape, fortran, dtype = _header(stream, there.st_size, repr(str(path)))
            return Shard(path, stream.tell(), shape[0] if shape else 0, dtype, fortran, state(there)), shape[1:]
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error


def archive(argument: str) -> Source:
    """Read ``FILE.npz`` with ``x`` and ``y``, or ``x_train`` and so on; or ``FILE.npz,LABELS.txt``."""
    path, _, labels = (argument, "", "") if Path(argument).is_file() else argument.partition(",")
    arrays = _members(Path(path))
    if labels:
        arrays["y_train" if "x_train" in arrays else "y"] = array_file(Path(labels))
    return _source(Path(path).stem, path, arrays)


def _source(name: str, where: str, arrays: dict[str, Any]) -> Source:
    suffix = "_train" if "x_train" in arrays else ""
    for role in (f"x{suffix}", f"y{suffix}", *(f"y_{split}" for split in ("val", "test") if f"x_{split}" in arrays)):
        if role not in arrays:
            raise InputError(f"{where!r} has no {role!r}; it has {', '.join(arrays) or 'none of ' + ', '.join(_ROLES)}")
    x, y = _numbers(where, f"x{suffix}", arrays), arrays[f"y{suffix}"]
    x_test = y_test = val_rows = None
    if "x_val" in arrays:
        x_val, y_val = _numbers(where, "x_val", arrays), arrays["y_val"]
        if x_val.shape[1:] != x.shape[1:]:
            raise InputError(f"{where!r}: rows of x_val are {x_val.shape[1:]}, and training rows {x.shape[1:]}")
        val_rows = np.arange(len(x), len(x) + len(x_val))
        x, y = x.followed_by(x_val) if isinstance(x, Stored) else np.concatenate([x, x_val]), np.concatenate([y, y_val])
    if "x_test" in arrays:
        x_test, y_test = _numbers(where, "x_test", arrays), arrays["y_test"]
    return Source(name, x, y, x_test, y_test, val_rows=val_rows)


def _numbers(where: str, role: str, arrays: dict[str, Any]) -> Any:
    """The array as uint8 or float32; says so where it is another type."""
    x = arrays[role]
    dtype = x.shards[0].dtype if isinstance(x, Stored) else x.dtype
    if (dtype.kind in "biuf" and dtype not in (np.uint8, np.float32)) or dtype.name == "bfloat16":
        _log.warning("%r: %s is %s and is taken as float32", where, role, dtype)
        if not isinstance(x, Stored):
            with np.errstate(over="ignore"):  # refused by Source
                x = x.astype(np.float32)
    return x


def array_file(path: Path) -> np.ndarray:
    """What one .npy or .txt file holds."""
    try:
        with unchanged(path):
            if path.suffix == ".txt":
                return np.array(read_lines(path))
            with open(path, "rb") as stream:
                return _array(stream, path.stat().st_size, repr(str(path)))
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error


def _members(path: Path) -> dict[str, np.ndarray]:
    arrays = {}
    try:
        with unchanged(path), zipfile.ZipFile(path) as packed:
            wanted = [entry for entry in packed.infolist() if entry.filename.removesuffix(".npy") in _ROLES]
            _fits(wanted, repr(str(path)))
            for entry in wanted:
                with packed.open(entry) as stream:
                    name = entry.filename.removesuffix(".npy")
                    arrays[name] = _array(stream, entry.file_size, f"{name!r} of {str(path)!r}")
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except Exception as error:  # of a damaged archive zipfile and zlib raise what they stumble over
        raise InputError(f"{str(path)!r} is not a whole NPZ file: {shown(str(error))}") from error
    return arrays


def _fits(entries: Iterable[zipfile.ZipInfo], what: str) -> None:
    size, free = sum(entry.file_size for entry in entries), memory_available()
    if size > free:
        raise InputError(f"{what} unpacks to {size / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB of memory are free")


def _header(stream: IO[bytes], size: int, what: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether in Fortran order, and type of an NPY stream of ``size`` bytes, which is then at its numbers."""
    try:
        shape, fortran, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError, EOFError) as error:
        raise InputError(f"{what} is not an NPY file: {shown(str(error))}") from error
    if dtype.hasobject:
        raise InputError(
            f"{what} holds Python objects (a pickle), which are never opened: save numbers or text instead"
        )
    needed, there = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if needed != there:
        raise InputError(f"{what} says it holds {needed:,} bytes (shape {shape}, {dtype}) and has {there:,}")
    if dtype.kind == "V" and dtype.itemsize == 2 and dtype.names is None:  # as NumPy writes bfloat16
        import ml_dtypes

        dtype = np.dtype(ml_dtypes.bfloat16)
    return shape, fortran and len(shape) > 1, dtype


def _array(stream: IO[bytes], size: int, what: str) -> np.ndarray:
    """The array of an NPY stream of ``size`` bytes. Raises InputError, before memory is taken for it."""
    shape, fortran, dtype = _header(stream, size, what)
    needed = math.prod(shape) * dtype.itemsize
    memory = empty_aligned((needed,), np.uint8)
    found, view = 0, memory.data
    while found < needed and (count := stream.readinto(view[found:])):  # type: ignore[attr-defined]
        found += count
    if found != needed:
        raise InputError(f"{what} ends after {found:,} of {needed:,} bytes")
    array: Any = memory.view(dtype)
    made: np.ndarray = array.reshape(shape, order="F" if fortran else "C")
    return made
