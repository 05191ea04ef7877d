"""Windows: rows in files come to memory a part at a time, in an order that depends on the seed and the epoch alone.

An epoch takes the blocks of the file, some 256 KiB of neighbouring rows each, in random order. The rows of the blocks,
one after the other, are cut into windows of whole batches; in each window they are shuffled. A thread fills a window
while the one before is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import numpy as np

from tfsoftmax.sources import empty_aligned
from tfsoftmax.stored import Stored

_BLOCK = 2**18  # bytes
_SHARE = 16  # of the rows a window has no more than one such part, so that little time passes before the first is full
_FEWEST = 2**15  # rows that a window may have for all that

T = TypeVar("T")


class Plan(NamedTuple):
    """How the rows of a split are cut; the same for each epoch.

    Attributes:
        window: rows of a window, a multiple of the batch; the last window has the rest.
        blocks: which of the rows each block has, int64 ``(blocks + 1,)``: block ``b`` has ``blocks[b]`` up to
            ``blocks[b + 1]``.
    """

    window: int
    blocks: np.ndarray

    @classmethod
    def of(cls, x: Stored, index: np.ndarray | None, batch_size: int) -> Plan:
        """The plan for the rows ``index`` of ``x``, ascending; ``None``: all."""
        rows = len(x) if index is None else len(index)
        block = 1 << max(0, (_BLOCK // x.row_bytes).bit_length() - 1)
        edges = np.minimum(np.arange(0, len(x) + block, block), len(x))
        fit = x.memory // 2 // x.row_bytes  # one window is filled, one computed
        window = min(fit, max(_FEWEST, -(-rows // _SHARE))) // batch_size * batch_size
        return cls(max(window, batch_size), edges if index is None else np.searchsorted(index, edges))

    def order(self, seed: int | None, epoch: int) -> Order:
        """Of one epoch; with seed ``None`` rows keep their order."""
        return Order(self, seed, epoch)


class Order:
    """Which rows each window of an epoch has, and in which order. Rows are counted within the split."""

    def __init__(self, plan: Plan, seed: int | None, epoch: int):
        self.window, self.rows, self._seed = plan.window, int(plan.blocks[-1]), (seed, epoch)
        count = len(plan.blocks) - 1
        chosen = np.arange(count) if seed is None else np.random.default_rng([seed, epoch]).permutation(count)
        lengths = np.diff(plan.blocks)[chosen]
        self._ends = np.cumsum(lengths)
        self._shifts = plan.blocks[chosen] + lengths - self._ends  # from a place in the epoch to a row

    def __len__(self) -> int:
        """The number of windows."""
        return -(-self.rows // self.window)

    def taken(self, number: int) -> np.ndarray:
        """The rows of a window as they come from the file, block after block, int64."""
        at, stop = number * self.window, min((number + 1) * self.window, self.rows)
        first, last = np.searchsorted(self._ends, [at, stop - 1], side="right")
        ends = self._ends[first : last + 1]
        starts = np.append(at, ends[:-1])  # places in the epoch
        lengths = np.minimum(ends, stop) - starts
        return np.arange(at, stop) + np.repeat(self._shifts[first : last + 1], lengths)

    def places(self, number: int) -> np.ndarray:
        """The order of the rows in a window: places in what :meth:`taken` gives, int32."""
        rows = np.arange(min(self.window, self.rows - number * self.window), dtype=np.int32)
        seed, epoch = self._seed
        return rows if seed is None else np.random.default_rng([seed, epoch, number]).permutation(rows)


class Buffers:
    """The memory of windows, kept from one epoch to the next: what is new must first be made and cleared by the system,
    which took a fifth of an epoch."""

    def __init__(self) -> None:
        self._kept: list[np.ndarray] = []

    @contextlib.contextmanager
    def lent(self, count: int, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[list[np.ndarray]]:
        """``count`` arrays of this shape and type, with any content; theirs is kept afterwards."""
        size = int(np.prod(shape)) * dtype.itemsize
        fit = [self._kept.pop() for _ in range(min(count, len(self._kept)))]
        fit = [one if len(one) >= size else empty_aligned((size,), np.uint8) for one in fit]
        fit += [empty_aligned((size,), np.uint8) for _ in range(count - len(fit))]
        try:
            yield [one[:size].view(dtype).reshape(shape) for one in fit]
        finally:
            self._kept += fit


def ahead(make: Callable[[int], T], count: int) -> Iterator[T]:
    """``make(0)`` to ``make(count - 1)``, each made in a thread while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(make, 0)
        for following in range(1, count):
            made = coming.result()
            coming = thread.submit(make, following)
            yield made
        yield coming.result()
