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
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        if (np.diff(rows) > 0).all():
            self.take(rows, out)
            return out
        known, places = np.unique(rows, return_inverse=True)
        return self[known][places]

    def parts(self) -> Iterator[np.ndarray]:
        """All rows, some at a time."""
        size = max(1, PART // self.row_bytes)
        for begin in range(0, len(self), size):
            yield self[begin : begin + size]

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read ``rows``, ascending and different, into ``out`` ``(len(rows), *row)``."""
        near, most = max(1, _SEEK // self.row_bytes), max(1, PART // self.row_bytes)
        cuts = np.flatnonzero((np.diff(rows) > near) | (np.diff(rows // most) > 0)) + 1
        begin = 0
        for end in (*cuts.tolist(), len(rows)):
            wanted = rows[begin:end]
            if not len(wanted):
                return
            first, span = int(wanted[0]), int(wanted[-1] - wanted[0]) + 1
            if span == len(wanted):
                self.read(first, first + span, out[begin:end])
            else:
                between = np.empty((span, *self.shape[1:]), self.dtype)
                self.read(first, first + span, between)
                np.take(between, wanted - first, axis=0, out=out[begin:end], mode="clip")  # "raise" copies once more
            begin = end

    def read(self, begin: int, end: int, out: np.ndarray) -> None:
        """Read rows ``begin`` to ``end`` into ``out``, contiguous ``(end - begin, *row)``."""
        place = 0
        while begin < end:
            number = bisect.bisect_right(self._ends, begin)
            shard = self.shards[number]
            first = self._ends[number] - shard.rows
            count = min(end, self._ends[number]) - begin
            self._read(shard, begin - first, out[place : place + count])
            begin, place = begin + count, place + count

    def _read(self, shard: Shard, row: int, out: np.ndarray) -> None:
        if shard.fortran:
            raise InputError(
                f"{str(shard.path)!r} is in Fortran order and larger than the memory for it: save it again by "
                "numpy.save(FILE, numpy.ascontiguousarray(x)), or allow more memory"
            )
        direct = shard.dtype == self.dtype
        raw = out if direct else np.empty(out.shape, shard.dtype)
        view, at = raw.reshape(-1).view(np.uint8).data, shard.begin + row * (raw.nbytes // len(raw))
        try:
            file = os.open(shard.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            try:
                if state(os.fstat(file)) != shard.state:
                    raise InputError(
                        f"{str(shard.path)!r} has changed since it was opened: put it back, or start again on what it "
                        "is now"
                    )
                while view:
                    count = os.preadv(file, [view], at)
                    if not count:
                        raise OSError(errno.EIO, "it ends too early")
                    view, at = view[count:], at + count
            finally:
                os.close(file)
        except OSError as error:
            raise InputError(f"cannot read {str(shard.path)!r}: {error.strerror or error}") from error
        if not direct:
            with np.errstate(over="ignore"):  # refused by Source
                out[...] = raw
