"""Stored: rows that stay in their .npy files and are read some at a time, as an array is indexed. NumPy only."""

from __future__ import annotations

import bisect
import dataclasses
import errno
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax._files import state
from tfsoftmax.errors import InputError

PART = 2**22  # bytes of rows that are looked at together where all are read
_PIECE = 2**18  # bytes of rows that are read together where they go to different places; they stay in a core's cache
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
        self.take(rows, out)
        return out

    def parts(self) -> Iterator[np.ndarray]:
        """All rows, some at a time."""
        size = max(1, PART // self.row_bytes)
        for begin in range(0, len(self), size):
            yield self[begin : begin + size]

    def take(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Read ``rows``, in any order, into ``out``, contiguous ``(len(rows), *row)``."""
        places = None
        if (np.diff(rows) < 0).any():
            places = np.argsort(rows)
            rows = rows[places]
        near, most = max(1, _SEEK // self.row_bytes), 1 << max(0, (_PIECE // self.row_bytes).bit_length() - 1)
        steps = np.diff(rows)
        apart = (steps == 0) | (steps > near) | (np.diff(rows // most) != 0)
        cuts = np.concatenate([[0], np.flatnonzero(apart) + 1, [len(rows)]])
        aside = np.empty((min(most, len(self)), *self.shape[1:]), self.dtype)
        wanted, found = (array.reshape(-1).view(f"V{self.row_bytes}") for array in (out, aside))
        for begin, end in itertools.pairwise(cuts.tolist()):
            if begin == end:
                return
            first, count = int(rows[begin]), int(rows[end - 1] - rows[begin]) + 1
            together = count == end - begin
            if together and places is None:
                self.read(first, first + count, out[begin:end])
                continue
            self.read(first, first + count, aside[:count])
            here = slice(begin, end) if places is None else places[begin:end]
            wanted[here] = found[:count] if together else found[rows[begin:end] - first]

    def read(self, begin: int, end: int, out: np.ndarray) -> None:
        """Read rows ``begin`` to ``end`` into ``out``, contiguous ``(end - begin, *row)``."""
        place = 0
        while begin < end:
            shard, row = self._place(begin)
            count = min(end - begin, shard.rows - row)
            here = out[place : place + count]
            direct = shard.dtype == self.dtype
            raw = here if direct else np.empty(here.shape, shard.dtype)
            _fill(shard, row, raw)
            if not direct:
                with np.errstate(over="ignore"):  # refused by Source
                    here[...] = raw
            begin, place = begin + count, place + count

    def _place(self, row: int) -> tuple[Shard, int]:
        """The shard of a row, and which of its rows it is."""
        number = bisect.bisect_right(self._ends, row)
        shard = self.shards[number]
        return shard, row - self._ends[number] + shard.rows


def _fill(shard: Shard, row: int, out: np.ndarray) -> None:
    """Read rows from row ``row`` of a shard on into ``out``, contiguous."""
    if shard.fortran:
        raise InputError(
            f"{str(shard.path)!r} is in Fortran order and larger than the memory for it: save it again by "
            "numpy.save(FILE, numpy.ascontiguousarray(x)), or allow more memory"
        )
    view, at = out.reshape(-1).view(np.uint8).data, shard.begin + row * (out.nbytes // len(out))
    try:
        file = os.open(shard.path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        try:
            if state(os.fstat(file)) != shard.state:
                raise InputError(
                    f"{str(shard.path)!r} has changed since it was opened: put it back, or start again on what it "
                    "is now"
                )
            while len(view):
                count = os.preadv(file, [view], at)
                if not count:
                    raise OSError(errno.EIO, "it ends too early")
                at, view = at + count, view[count:]
        finally:
            os.close(file)
    except OSError as error:
        raise InputError(f"cannot read {str(shard.path)!r}: {error.strerror or error}") from error
