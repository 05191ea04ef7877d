"""Rows: the rows of one split, in memory or in files, their order, their windows, and the tf.data of their batches."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import weakref
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from tfsoftmax import columns, sources
from tfsoftmax.mixing import mixing
from tfsoftmax.sources.fingerprint import digest_of
from tfsoftmax.spec import ModelSpec
from tfsoftmax.stored import PART, Stored
from tfsoftmax.windows import Buffers, Plan, ahead

if TYPE_CHECKING:
    import tensorflow as tf


def preprocess(spec: ModelSpec, x: tf.Tensor) -> tf.Tensor:
    """Apply the preprocessing of ``spec`` to raw inputs ``(batch, *shape)``; returns float32 ``(batch, *features)``."""
    import tensorflow as tf

    offset, scale = (
        tf.constant(value, tf.float32, shape=spec.features if isinstance(value, np.ndarray) else ())
        for value in columns.constants(spec)
    )
    return (columns.features(spec, x) - offset) * scale


class OnDevices:
    """Raw ``x``, ``y`` and weights as tensors on devices, each made once; on the host ``x`` is the array's memory."""

    def __init__(self, x: np.ndarray, y: np.ndarray, weight: np.ndarray | None):
        self._arrays = x, y, weight
        self._made: dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]] = {}

    def __call__(self, device: str = "CPU") -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """The tensors on ``device``."""
        import tensorflow as tf

        if device not in self._made:
            array, labels, weights = self._arrays
            with tf.device("CPU"):
                x, y = tf.experimental.dlpack.from_dlpack(array.__dlpack__()), tf.constant(labels)
                weight = None if weights is None else tf.constant(weights, tf.float32)
            with tf.device(device):
                placed = None if weight is None else tf.identity(weight)
                self._made[device] = tf.identity(x), tf.identity(y), placed
        return self._made[device]


class Window(NamedTuple):
    """A part of an epoch that is in memory: what the compiled epoch runs over in one call.

    Attributes:
        tensors: raw ``x``, ``y`` and weights on a device.
        order: where the rows of this part are in them, one after the other, int32 ``(rows,)``; 0 for rows that another
            process computes.
        begin: the number of its first batch in the epoch.
        end: the number of the batch after its last one.
        batch_size: rows per batch; the last batch of the epoch has the remaining rows.
        spec: of the preprocessing.
    """

    tensors: Callable[[str], tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]]
    order: tf.Tensor
    begin: int
    end: int
    batch_size: int
    spec: ModelSpec


class Rows:
    """The rows of one split, raw, with their batch size and their order.

    The order of epoch ``e`` depends on ``(seed, e)`` alone. ``fit`` sets the epochs that it trains, whatever has
    read the rows before. Otherwise each new iteration of :meth:`dataset` is the next epoch; ``epoch`` counts.

    Args:
        x: raw inputs ``(rows, *spec.shape)`` of dtype ``spec.dtype``; shared, not copied, where its memory is aligned.
            Rows in files come to memory in windows.
        y: labels int32 ``(rows,)``.
        spec: its preprocessing is applied to each batch.
        batch_size: rows per batch; the last batch of an epoch has the remaining rows.
        seed: shuffles the rows in each epoch; ``None`` keeps their order.
        index: which rows of ``x`` and ``y`` these are, int32; ``None`` for all. Splits share one ``x`` so.
        weight: of each row of ``x`` in the loss, float32 ``(rows,)``; ``None``: 1.
    """

    _living: ClassVar[weakref.WeakSet[Rows]] = weakref.WeakSet()

    def __init__(
        self,
        x: np.ndarray | Stored,
        y: np.ndarray,
        spec: ModelSpec,
        batch_size: int,
        seed: int | None = None,
        index: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ):
        self._y, self._weight = y, weight
        self.spec, self.batch_size, self.seed, self.index = spec, batch_size, seed, index
        self._x: Any = x
        self._plan: Plan | None = None
        if isinstance(x, Stored):
            self.index = None if index is None else np.sort(index)  # as the file has them
            self._plan = Plan.of(x, self.index, batch_size)
        else:
            self._x = sources.aligned(x)
            self.tensors = OnDevices(self._x, y, weight)

    @functools.cached_property
    def _counters(self) -> tuple[tf.Variable, tf.Variable]:
        """The next epoch of :meth:`dataset`, and what an iteration adds to it."""
        import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

        # isort: split
        import tensorflow as tf

        def made() -> tuple[tf.Variable, tf.Variable]:
            with tf.device("CPU"):
                epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
                return epoch, tf.Variable(1, dtype=tf.int64, trainable=False, name="counting")

        with ThreadPoolExecutor(1) as alone:  # a thread is in no strategy's scope
            found = alone.submit(made).result()
        self._living.add(self)
        return found

    @property
    def epoch(self) -> tf.Variable:
        """The epoch whose order the next iteration of :meth:`dataset` has, int64."""
        return self._counters[0]

    @classmethod
    def begin(cls, epoch: int, counting: bool) -> None:
        """Called by ``fit``: the next iteration of any :meth:`dataset`, and of what is made of it, is ``epoch``.

        With ``counting`` the next but one is the epoch after; else all are ``epoch`` until it is called again.
        """
        for rows in cls._living:
            for counter, value in zip(rows._counters, (epoch, int(counting)), strict=True):
                counter.assign(value)

    @classmethod
    @contextlib.contextmanager
    def in_fit(cls) -> Iterator[None]:
        """A fit, at whose end iterations count again."""
        try:
            yield
        finally:
            for rows in cls._living:
                rows._counters[1].assign(1)

    def __len__(self) -> int:
        return len(self._x if self.index is None else self.index)

    @property
    def stored(self) -> bool:
        """Whether these rows stay in files."""
        return self._plan is not None

    @functools.cached_property
    def mixing(self) -> dict[str, Any] | None:
        """How many classes a batch holds, see ``tfsoftmax.mixing``; ``None`` in memory, where all rows are shuffled."""
        return None if self._plan is None else mixing(self.y, self._plan, self.batch_size, self.seed)

    @property
    def x(self) -> np.ndarray:
        """The raw inputs of these rows, in order; of rows in files all are read."""
        return self._x[:] if self.index is None else self._x[self.index]

    def take(self, places: np.ndarray | slice) -> np.ndarray:
        """The raw inputs of some of these rows: their places here, as NumPy takes them."""
        return self._x[places if self.index is None else self.index[places]]

    def parts(self) -> Iterator[np.ndarray]:
        """The raw inputs of these rows in order, a few MiB at a time."""
        size = max(1, PART // math.prod(self.spec.shape) // np.dtype(self.spec.dtype).itemsize)
        for begin in range(0, len(self), size):
            yield self.take(slice(begin, begin + size))

    def like(self, spec: ModelSpec, batch_size: int) -> Rows:
        """The same rows in order, for another model."""
        return Rows(self._x, self._y, spec, batch_size, index=self.index, weight=self._weight)

    def some(self, places: np.ndarray, spec: ModelSpec, seed: int | None = None, x: Any = None) -> Rows:
        """Some of these rows for another model: their places here, ascending; ``seed`` and ``x`` as for all."""
        index = places if self.index is None else self.index[places]
        x = self._x if x is None else x
        return Rows(x, self._y, spec, self.batch_size, seed, index.astype(np.int32), self._weight)

    def weighted(self, weight: np.ndarray) -> Rows:
        """The same rows in the same orders, with these weights: float32 ``(rows,)``, or ``(rows, lanes)`` for lanes."""
        if self.index is not None:
            given, weight = weight, np.zeros((len(self._y), *weight.shape[1:]), np.float32)
            weight[self.index] = given
        return Rows(self._x, self._y, self.spec, self.batch_size, self.seed, self.index, weight)

    @property
    def y(self) -> np.ndarray:
        """The labels of these rows, in order."""
        return self._y if self.index is None else self._y[self.index]

    @property
    def weight(self) -> np.ndarray | None:
        """The weights of these rows, in order; ``None``: all 1."""
        return self._weight if self._weight is None or self.index is None else self._weight[self.index]

    @functools.cached_property
    def checksum(self) -> int:
        """CRC-32 of the arrays that these rows are in, and of which ones they are; of files by their fingerprint."""
        arrays = [array for array in (self._y, self.index, self._weight) if array is not None]
        if isinstance(self._x, Stored):
            first = zlib.crc32(f"{digest_of(self._x)} {self._plan and self._plan.window}".encode())
        else:
            first = zlib.crc32(np.ascontiguousarray(self._x).data)
        return functools.reduce(lambda sum_, array: zlib.crc32(np.ascontiguousarray(array).data, sum_), arrays, first)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return math.ceil(len(self) / self.batch_size)

    def order(self, epoch: tf.Tensor | int) -> tf.Tensor:
        """Where the rows of ``epoch`` are in :meth:`tensors`, one after the other: int32 ``(rows,)``."""
        import tensorflow as tf

        rows = tf.range(len(self), dtype=tf.int32) if self.index is None else tf.constant(self.index)
        if self.seed is None:
            return rows
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(epoch, tf.int64)])
        return tf.random.experimental.stateless_shuffle(rows, seed=seed)

    def windows(
        self,
        epoch: int,
        device: str | None = None,
        mine: Callable[[int, int], np.ndarray] | None = None,
        buffers: Buffers | None = None,
    ) -> Iterator[Window]:
        """What is in memory of the rows of ``epoch``, one after the other; of rows in memory all at once.

        Args:
            epoch: the order is that of this epoch.
            device: where the tensors will be asked for; ``None``: not known.
            mine: of a number of rows and the batch size: which rows of a window, in the order of the epoch, this
                process computes, bool ``(rows,)``. Of rows in files no others come to memory. ``None``: all.
            buffers: what rows in files come to; those of the epoch before, or of other rows, save time.
        """
        import tensorflow as tf

        if self._plan is None:
            yield Window(self.tensors, self.order(epoch), 0, self.steps, self.batch_size, self.spec)
            return
        stored: Stored = self._x
        order = self._plan.order(self.seed, epoch)
        rows = min(order.window, len(self))
        held = rows if mine is None else max(1, int(mine(rows, self.batch_size).sum()))

        def filled(two: list[np.ndarray], number: int) -> Window:
            taken = order.taken(number)[order.places(number)]
            places = np.arange(len(taken), dtype=np.int32)
            if mine is not None:
                wanted = mine(len(taken), self.batch_size)
                taken, places = taken[wanted], np.where(wanted, np.cumsum(wanted, dtype=np.int32) - 1, 0)
            taken = taken if self.index is None else self.index[taken]
            out, labels = two[number % 2], np.zeros(held, np.int32)
            stored.take(taken, out[: len(taken)])  # in the order of the epoch: the step would wait for memory
            if not len(taken):
                out[:1] = 0  # stands in for rows of other processes, with weight 0
            labels[: len(taken)] = self._y[taken]
            weights = None
            if self._weight is not None:
                weights = np.zeros((held, *self._weight.shape[1:]), np.float32)
                weights[: len(taken)] = self._weight[taken]
            tensors = OnDevices(out, labels, weights)
            if device is not None:
                tensors(device)
            begin, end = number * rows // self.batch_size, min((number + 1) * rows, len(self))
            last = math.ceil(end / self.batch_size)
            return Window(tensors, tf.constant(places), begin, last, self.batch_size, self.spec)

        with (buffers or Buffers()).lent(min(2, len(order)), (held, *stored.shape[1:]), stored.dtype) as two:
            yield from ahead(functools.partial(filled, two), len(order))

    def dataset(self) -> tf.data.Dataset:
        """The batches of one epoch: ``x`` float32 ``(batch, *shape)`` preprocessed, ``y`` int32 ``(batch,)``.

        Rows with weights have them as a third element, float32 ``(batch,)``.
        The data set carries this object as its attribute ``rows``; data sets derived from it do not.
        """
        next_epoch, counted = self._counters  # before TensorFlow, which it imports without its start-up lines
        import tensorflow as tf

        if self._plan is not None:
            epoch = self._read()
            epoch.rows = self
            return epoch
        (x, y, weight), size, count = self.tensors(), self.batch_size, len(self)

        def begin(_: tf.Tensor) -> tf.Tensor:
            counting = counted.read_value()
            return self.order(next_epoch.assign_add(counting) - counting)

        def batch(order: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, ...]:
            rows = order[step * size : tf.minimum((step + 1) * size, count)]
            raw = tf.gather(x, rows)
            prepared = preprocess(self.spec, tf.ensure_shape(raw, (None, *self.spec.shape)))
            return prepared, tf.gather(y, rows), *(() if weight is None else (tf.gather(weight, rows),))

        def batches(order: tf.Tensor) -> tf.data.Dataset:
            steps = tf.data.Dataset.range(self.steps, output_type=tf.int32)
            return steps.map(functools.partial(batch, order), num_parallel_calls=os.cpu_count())

        plain = tf.autograph.experimental.do_not_convert  # they have no Python to convert; looking for it takes 1 s
        epoch = tf.data.Dataset.from_tensors(0).map(plain(begin)).flat_map(plain(batches))
        epoch = untuned(epoch.apply(tf.data.experimental.assert_cardinality(self.steps)).prefetch(2))
        epoch.rows = self
        return epoch

    def _read(self) -> tf.data.Dataset:
        """The batches of one epoch of rows in files."""
        import tensorflow as tf

        next_epoch, counted = self._counters

        def batches() -> Iterator[tuple[tf.Tensor, ...]]:
            counting = counted.read_value()
            for window in self.windows(int(next_epoch.assign_add(counting) - counting)):
                parts = [part for part in window.tensors("CPU") if part is not None]
                for first in range(0, len(window.order), self.batch_size):
                    rows = window.order[first : first + self.batch_size]
                    yield tuple(tf.gather(part, rows) for part in parts)

        def prepared(x: tf.Tensor, *labels: tf.Tensor) -> tuple[tf.Tensor, ...]:
            return preprocess(self.spec, x), *labels

        kinds = [(self.spec.shape, self.spec.dtype), ((), "int32"), ((), "float32")]
        specs = [tf.TensorSpec((None, *shape), dtype) for shape, dtype in kinds[: 2 if self._weight is None else 3]]
        raw = tf.data.Dataset.from_generator(batches, output_signature=tuple(specs))
        raw = raw.apply(tf.data.experimental.assert_cardinality(self.steps))
        return untuned(raw.map(tf.autograph.experimental.do_not_convert(prepared)).prefetch(2))


def untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """``dataset`` without tf.data's autotuning, whose thread an iterator waits for when it ends, up to seconds.

    Where its options ask for autotuning, it stays.
    """
    import tensorflow as tf

    if dataset.options().autotune.enabled is not None:
        return dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
