"""Rows: the rows of one split in memory, their order, and the tf.data of their batches."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import weakref
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from tfsoftmax import columns, sources
from tfsoftmax.spec import ModelSpec

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


class Rows:
    """The rows of one split, in memory and raw, with their batch size and their order.

    The order of epoch ``e`` depends on ``(seed, e)`` alone. ``fit`` sets the epochs that it trains, whatever has
    read the rows before. Otherwise each new iteration of :meth:`dataset` is the next epoch; ``epoch`` counts.

    Args:
        x: raw inputs ``(rows, *spec.shape)`` of dtype ``spec.dtype``; shared, not copied, where its memory is aligned.
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
        x: np.ndarray,
        y: np.ndarray,
        spec: ModelSpec,
        batch_size: int,
        seed: int | None = None,
        index: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ):
        import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

        # isort: split
        import tensorflow as tf

        self._x, self._y, self._weight = sources.aligned(x), y, weight
        self.spec, self.batch_size, self.seed, self.index = spec, batch_size, seed, index
        self._on_device: dict[str, tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]] = {}
        with tf.device("CPU"):
            self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
            self._counting = tf.Variable(1, dtype=tf.int64, trainable=False, name="counting")
        self._living.add(self)

    @classmethod
    def begin(cls, epoch: int, counting: bool) -> None:
        """Called by ``fit``: the next iteration of any :meth:`dataset`, and of what is made of it, is ``epoch``.

        With ``counting`` the next but one is the epoch after; else all are ``epoch`` until it is called again.
        """
        for rows in cls._living:
            rows.epoch.assign(epoch)
            rows._counting.assign(int(counting))

    @classmethod
    @contextlib.contextmanager
    def in_fit(cls) -> Iterator[None]:
        """A fit, at whose end iterations count again."""
        try:
            yield
        finally:
            for rows in cls._living:
                rows._counting.assign(1)

    def __len__(self) -> int:
        return len(self._x if self.index is None else self.index)

    @property
    def x(self) -> np.ndarray:
        """The raw inputs of these rows, in order."""
        return self._x if self.index is None else self._x[self.index]

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
        """CRC-32 of the arrays that these rows are in, and of which ones they are."""
        arrays = [array for array in (self._x, self._y, self.index, self._weight) if array is not None]
        return functools.reduce(lambda sum_, array: zlib.crc32(np.ascontiguousarray(array).data, sum_), arrays, 0)

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

    def tensors(self, device: str = "CPU") -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
        """The whole raw ``x``, ``y`` and weights on a device; on the host ``x`` shares the memory of the array."""
        import tensorflow as tf

        if device not in self._on_device:
            with tf.device("CPU"):
                x, y = tf.experimental.dlpack.from_dlpack(self._x.__dlpack__()), tf.constant(self._y)
                weight = None if self._weight is None else tf.constant(self._weight, tf.float32)
            with tf.device(device):
                placed = None if weight is None else tf.identity(weight)
                self._on_device[device] = tf.identity(x), tf.identity(y), placed
        return self._on_device[device]

    def dataset(self) -> tf.data.Dataset:
        """The batches of one epoch: ``x`` float32 ``(batch, *shape)`` preprocessed, ``y`` int32 ``(batch,)``.

        Rows with weights have them as a third element, float32 ``(batch,)``.
        The data set carries this object as its attribute ``rows``; data sets derived from it do not.
        """
        import tensorflow as tf

        (x, y, weight), size, count = self.tensors(), self.batch_size, len(self)

        def begin(_: tf.Tensor) -> tf.Tensor:
            counting = self._counting.read_value()
            return self.order(self.epoch.assign_add(counting) - counting)

        def batch(order: tf.Tensor, step: tf.Tensor) -> tuple[tf.Tensor, ...]:
            rows = order[step * size : tf.minimum((step + 1) * size, count)]
            raw = tf.gather(x, rows)
            prepared = preprocess(self.spec, tf.ensure_shape(raw, (None, *self.spec.shape)))
            return prepared, tf.gather(y, rows), *(() if weight is None else (tf.gather(weight, rows),))

        def batches(order: tf.Tensor) -> tf.data.Dataset:
            steps = tf.data.Dataset.range(self.steps, output_type=tf.int32)
            return steps.map(functools.partial(batch, order), num_parallel_calls=os.cpu_count())

        epoch = tf.data.Dataset.from_tensors(0).map(begin).flat_map(batches)
        epoch = untuned(epoch.apply(tf.data.experimental.assert_cardinality(self.steps)).prefetch(2))
        epoch.rows = self
        return epoch


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
