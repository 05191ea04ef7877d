"""The epoch under a tf.distribute strategy.

Each replica computes its share of each global batch. Of rows in memory or in windows, replica ``r`` takes rows
``r * share`` to ``(r + 1) * share``, where ``share`` is the batch size per replica, rounded up, so that shapes are
static; a last share that is not full is filled up with other rows of weight 0. Of a window a worker has only the rows
of its own replicas in memory: the order, and with it the result, is the same for any number of workers. Streams are
divided by TensorFlow: each worker reads its own part. A replica's loss is the sum over its rows divided by the rows of
the *global* batch, and the optimizer adds the gradients of all replicas: their sum is the gradient of one device on the
whole batch, for any number of rows and replicas. XLA compiles loss and gradient; all-reduce, update and metrics are
TensorFlow's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfsoftmax.fitting.step import StreamFunctions, gradients, labels_checked, linear, scored
from tfsoftmax.rows import preprocess
from tfsoftmax.spec import ModelSpec

if TYPE_CHECKING:
    from tfsoftmax.rows import Window


class ReplicatedFunctions(StreamFunctions):
    """The functions for training or for testing one model made in the scope of a strategy, as it is compiled now."""

    def __init__(self, model: keras.Sequential, train: bool):
        self.model, self.train, self.strategy = model, train, model.distribute_strategy
        self.replicas = self.strategy.num_replicas_in_sync
        self._epoch = tf.function(functools.partial(self._epoch_body), autograph=False)
        self._stream = tf.function(functools.partial(self._stream_body), autograph=False)
        self._share = tf.function(functools.partial(self._share_body), jit_compile=True, autograph=False)

    device = None  # rows are wanted on several

    @functools.cached_property
    def here(self) -> list[int]:
        """The replicas of this process."""
        found = []

        def note(context: tf.distribute.InputContext) -> tf.Tensor:
            found.append(int(context.replica_id_in_sync_group))
            return tf.zeros(())

        self.strategy.experimental_distribute_values_from_function(note)
        return found

    @property
    def mine(self) -> Callable[[int, int], np.ndarray] | None:
        """Which of so many rows, in batches of such a size, replicas of this process take; ``None``: all."""
        return None if len(self.here) == self.replicas else self._mine

    def _mine(self, rows: int, size: int) -> np.ndarray:
        place = np.arange(rows)
        count = np.where(place < rows // size * size, size, rows % size)  # of the batch that a row is in
        return np.isin(place % size // -(-count // self.replicas), self.here)

    def rows(self, window: Window, begin: int, end: int, class_weight: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Run global batches ``begin`` to ``end`` of a window."""
        devices = self.strategy.extended.worker_devices

        def placed(part: int) -> Any:
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: window.tensors(devices[context.replica_id_in_sync_group % len(devices)])[part]
            )

        full = len(window.order) // window.batch_size
        weighted = window.tensors(devices[0])[2] is not None
        return self._epoch(
            placed(0), placed(1), placed(2) if weighted else None, window.order,
            tf.constant(begin), tf.constant(min(end, full)), class_weight,
            end > full, window.batch_size, window.spec,
        )  # fmt: skip

    def _epoch_body(
        self,
        x: Any,
        y: Any,
        row_weight: Any,
        order: tf.Tensor,
        begin: tf.Tensor,
        end: tf.Tensor,
        class_weight: tf.Tensor | None,
        last: bool,
        size: int,
        spec: ModelSpec,
    ) -> dict[str, tf.Tensor]:
        def batch(i: tf.Tensor, count: int) -> tf.Tensor:
            picked = functools.partial(self._picked, first=i * size, count=count, spec=spec)
            self.strategy.run(picked, (x, y, row_weight, order, class_weight))
            return i + 1

        full, rest = divmod(order.shape[0], size)
        if full:
            tf.while_loop(lambda i: i < end, lambda i: batch(i, size), [begin], parallel_iterations=1)
        if last:
            batch(tf.constant(full), rest)
        return self._metrics()

    def _stream_body(
        self, iterator: tf.distribute.DistributedIterator, count: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        def step(i: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = iterator.get_next_as_optional()

            def run() -> tf.Tensor:
                self.strategy.run(self._streamed, batch.get_value())
                return i + 1

            return tf.cond(batch.has_value(), run, lambda: i), batch.has_value()

        i, more = tf.constant(0), tf.constant(True)
        i, _ = tf.while_loop(lambda i, more: more & (i < count), step, [i, more], parallel_iterations=1)
        return i, self._metrics()

    def _metrics(self) -> dict[str, tf.Tensor]:
        return type(self.model).get_metrics_result(self.model)

    def _picked(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        row_weight: tf.Tensor | None,
        order: tf.Tensor,
        class_weight: tf.Tensor | None,
        first: tf.Tensor,
        count: int,
        spec: ModelSpec,
    ) -> None:
        """This replica's share of the global batch of ``count`` rows that begins at ``first`` in the order."""
        share = -(-count // self.replicas)
        place = tf.distribute.get_replica_context().replica_id_in_sync_group * share + tf.range(share)
        picked = tf.gather(order, tf.minimum(first + place, order.shape[0] - 1))
        raw, labels = tf.gather(x, picked), tf.gather(y, picked)
        real = weight = tf.cast(place < count, tf.float32)
        if row_weight is not None:
            weight *= tf.gather(row_weight, picked)
        if class_weight is not None:
            weight *= tf.gather(class_weight, labels)
        self._step(raw, labels, real, weight, tf.constant(count, tf.float32), spec)

    def _streamed(self, x: tf.Tensor, y: tf.Tensor, weight: tf.Tensor | None = None) -> None:
        """This replica's share of a batch of a stream; it may be empty."""
        labels = tf.reshape(tf.cast(y, tf.int32), (-1,))
        real = tf.ones_like(labels, tf.float32)
        weight = real if weight is None else tf.reshape(tf.cast(weight, tf.float32), (-1,))
        count = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, tf.reduce_sum(real))
        with tf.control_dependencies([labels_checked(labels, self.model.layers[1].units)]):
            self._step(tf.identity(x), labels, real, weight, count, None)

    def _step(
        self,
        x: tf.Tensor,
        labels: tf.Tensor,
        real: tf.Tensor,
        weight: tf.Tensor,
        count: tf.Tensor,
        spec: ModelSpec | None,
    ) -> None:
        """Train or test on rows of which ``real`` are 1, in a global batch of ``count``."""
        model, variables = self.model, self.model.trainable_variables
        total, penalty, logits, found = self._share(
            [tf.identity(variable.value) for variable in variables], x, labels, weight, count, spec
        )
        if self.train:
            model.optimizer.apply_gradients(zip(found, variables, strict=True))
        mine = tf.reduce_sum(real)
        for metric in model.metrics:
            if metric.name == "loss":
                metric.update_state(tf.math.divide_no_nan(total, mine) + penalty, sample_weight=mine)
            else:
                said = scored(metric.metrics, labels, logits)
                for compiled in metric.metrics:
                    compiled.update_state(*said, sample_weight=real)

    def _share_body(
        self,
        values: list[tf.Tensor],
        x: tf.Tensor,
        labels: tf.Tensor,
        weight: tf.Tensor,
        count: tf.Tensor,
        spec: ModelSpec | None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Sum of the losses, regularization, logits, and this share of the gradient, from kernel and bias."""
        dense = self.model.layers[1]
        x = x if spec is None else preprocess(spec, x)
        logits = linear(dense, x, values[0], values[1] if dense.use_bias else None)
        with tf.GradientTape() as tape:
            tape.watch([logits, *values])
            total = tf.reduce_sum(weight * self.model.loss.call(labels, logits))
            penalty = tf.zeros(())
            for regularizer, value in zip((dense.kernel_regularizer, dense.bias_regularizer), values, strict=False):
                if regularizer is not None:
                    penalty += regularizer(value)
            loss = total / count + penalty / self.replicas
            if self.train:
                loss = self.model.optimizer.scale_loss(loss)
        upstream, *penalties = tape.gradient(loss, [logits, *values])
        return total, penalty, logits, gradients(dense, x, values[0], upstream, penalties)
