"""Stored: rows that stay in their .npy files and are read some at a time, as an array is indexed. NumPy only."""

from __future__ import annotations

import bisect
import dataclasses
import errno
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax._files import state
from tfsoftmax.errors import InputError

PART = 2**22  # bytes of rows that are looked at together where all are read
_SEEK = 2**14  # bytes: rows that are nearer to each other are read with what is between them
_RUN = 2**11  # bytes: neighbouring rows of so many on average are read to where they belong, fewer are copied there
_VIEWS = 1024  # that the kernel fills in one call


@dataclasses.dataclass(frozen=True)
class Shard:
    """The rows of one .npy file.

    Args:
        path: the file.
        begin: of its first row, in bytes.
        rows: how many it has.
        dtype: of its numbers; what is neither uint8 nor float32 is read as float32.
        fortran: whether its numbers are in Fortran order: then it cannot be read by rows.
        state: of the file when it was opened, see ``_files.state``.
    """

    path: Path
    begin: int
    rows: int
    dtype: np.dtype
    fortran: bool
    state: tuple[int, int, int]


class Stored:
    """Rows in files, one after the other. Only what is asked for is in memory.

    ``x[7]``, ``x[10:20]``, ``x[::5]`` and ``x[indices]`` are arrays in memory, as of a NumPy array.

    Args:
        shards: at least one, with rows of the same shape.
        row: shape of a row.
        memory: bytes that windows of these rows may take, see ``tfsoftmax.windows``.
        finite: no value is NaN or infinite; ``False``: not known.

    Raises:
        InputError: from whatever reads: a file cannot be read by rows, or not at all, or has changed since it was
            opened.
    """

    def __init__(self, shards: Sequence[Shard], row: tuple[int, ...], memory: int, *, finite: bool = False):
        self.shards, self.memory, self.finite = tuple(shards), memory, finite
        self._ends = np.cumsum([shard.rows for shard in shards]).tolist()
        self.shape = (self._ends[-1], *row)
        self.dtype = np.dtype(np.uint8 if all(shard.dtype == np.uint8 for shard in shards) else np.float32)
        self.ndim = len(self.shape)

    def __len__(self) -> int:
        return int(self.shape[0])

    def followed_by(self, others: Stored) -> Stored:
        """These rows and then others of the same shape."""
        return Stored(self.shards + others.shards, self.shape[1:], self.memory)

    @functools.cached_property
    def row_bytes(self) -> int:
        """Bytes of a row in memory."""
        return int(np.prod(self.shape[1:])) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes that all rows would take in memory."""
        return len(self) * self.row_bytes

    def __getitem__(self, rows: Any) -> np.ndarray:
        if isinstance(rows, slice):
            begin, end, step = rows.indices(len(self))
            if step == 1:
                out = np.empty((max(0, end - begin), *self.shape[1:]), self.dtype)
                self.read(begin, begin + len(out), out)
                return out
            rows = np.arange(begin, end, step)
        if np.ndim(rows) == 0:
            return self[np.array([rows])][0]
        rows = np.asarray(rows)
        known, places = np.unique(rows, return_inverse=True)
        out = np.empty((len(known), *self.shape[1:]), self.dtype)
        self.take(known, out)
        return out if np.array_equal(known, rows) else out[places]

    def parts(self) -> Iterator[np.ndarray]:
        """All rows, some at a time."""
        size = max(1, PART // self.row_bytes)
        for begin in range(0, len(self), size):
            yield self[begin : begin + size]

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read ``rows`` into ``out`` ``(len(rows), *row)``; what ascends in them is read together."""
        near, most, size = max(1, _SEEK // self.row_bytes), max(1, PART // self.row_bytes), self.row_bytes
        steps = np.diff(rows)
        jumps = np.flatnonzero(steps != 1) + 1  # where another run of neighbours begins
        gaps = rows[jumps] - rows[jumps - 1] - 1
        apart = (steps <= 0) | (steps > near) | (np.diff(rows // most) != 0)
        cuts = np.append(np.flatnonzero(apart) + 1, len(rows))
        inside = np.searchsorted(jumps, cuts).tolist()
        begin = jump = 0
        for end, following in zip(cuts.tolist(), inside, strict=True):
            if begin == end:
                return
            here, first, last = out[begin:end], int(rows[begin]), int(rows[end - 1])
            holes = slice(jump, following)
            runs = following - jump + 1
            shard, row = self._place(first)
            if last - first == end - begin - 1:
                self.read(first, last + 1, here)
            elif here.nbytes < _RUN * runs or shard.dtype != self.dtype or row + last - first >= shard.rows:
                between = np.empty((last + 1 - first, *self.shape[1:]), self.dtype)
                self.read(first, last + 1, between)
                np.take(between, rows[begin:end] - first, axis=0, out=here, mode="clip")  # "raise" copies once more
            else:
                flat, at, views = _bytes(here), 0, []
                nowhere = memoryview(bytearray(near * size))
                for stop, gap in zip((jumps[holes] - begin).tolist(), gaps[holes].tolist(), strict=True):
                    views += [flat[at * size : stop * size], nowhere[: gap * size]]
                    at = stop
                _fill(shard, row, size, [*views, flat[at * size :]])
            begin, jump = end, following + (following < len(jumps) and int(jumps[following]) == end)

    def read(self, begin: int, end: int, out: np.ndarray) -> None:
        """Read rows ``begin`` to ``end`` into ``out``, contiguous ``(end - begin, *row)``."""
        place = 0
        while begin < end:
            shard, row = self._place(begin)
            count = min(end - begin, shard.rows - row)
            here = out[place : place + count]
            direct = shard.dtype == self.dtype
            raw = here if direct else np.empty(here.shape, shard.dtype)
            _fill(shard, row, raw.nbytes // count, [_bytes(raw)])
            if not direct:
                with np.errstate(over="ignore"):  # refused by Source
                    here[...] = raw
            begin, place = begin + count, place + count

    def _place(self, row: int) -> tuple[Shard, int]:
        """The shard of a row, and which of its rows it is."""
        number = bisect.bisect_right(self._ends, row)
        shard = self.shards[number]
        return shard, row - self._ends[number] + shard.rows


def _bytes(array: np.ndarray) -> memoryview:
    """The memory of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def _fill(shard: Shard, row: int, row_bytes: int, views: list[memoryview]) -> None:
    """Read from row ``row`` of a shard on, into one view after the other."""
    if shard.fortran:
        raise InputError(
            f"{str(shard.path)!r} is in Fortran order and larger than the memory for it: save it again by "
            "numpy.save(FILE, numpy.ascontiguousarray(x)), or allow more memory"
        )
    at, done = shard.begin + row * row_bytes, 0
    try:
        file = os.open(shard.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            if state(os.fstat(file)) != shard.state:
                raise InputError(
                    f"{str(shard.path)!r} has changed since it was opened: put it back, or start again on what it "
                    "is now"
                )
            while done < len(views):
                count = os.preadv(file, views[done : done + _VIEWS], at)
                if not count:
                    raise OSError(errno.EIO, "it ends too early")
                at += count
                while done < len(views) and count >= len(views[done]):
                    count, done = count - len(views[done]), done + 1
                if count:
                    views[done] = views[done][count:]
        finally:
            os.close(file)
    except OSError as error:
        raise InputError(f"cannot read {str(shard.path)!r}: {error.strerror or error}") from error
