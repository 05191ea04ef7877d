"""The compiled functions of one device: a whole epoch over a window of rows, or steps of a stream.

A whole epoch over a window, rows in memory, is one XLA function: gather, cast, preprocessing, loss, metrics, gradient
and the optimizer's update in one loop, with static shapes (the last smaller batch is a second body of its own size).
The shape decides how the weight gradient is computed, see :mod:`tfsoftmax.fitting.step`. Streams go through the same
step, compiled once per batch shape.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tfsoftmax.fitting.step import Sparse, StreamFunctions, gradients, labels_checked, linear, prepared, scored
from tfsoftmax.spec import ModelSpec

if TYPE_CHECKING:
    from tfsoftmax.rows import Window

_GROUP = 2  # batches of a stream per call of the compiled step


class CompiledFunctions(StreamFunctions):
    """The compiled functions for training or for testing one model as it is compiled now."""

    def __init__(self, model: keras.Sequential, train: bool):
        self.model, self.train = model, train
        # partial: TensorFlow counts the tracings of a bound method over all models, and would warn about them
        self._epoch = tf.function(functools.partial(self._epoch_body), jit_compile=True, autograph=False)
        self._concrete: dict[Any, Any] = {}  # by what differs: TensorFlow takes as long to find one as to start it
        self._steps = tf.function(functools.partial(self._steps_body), jit_compile=True, autograph=False)
        self._stream = tf.function(functools.partial(self._stream_body), autograph=False, reduce_retracing=True)

    mine = None  # all rows are computed here

    @property
    def device(self) -> str:
        """Where rows are wanted."""
        return str(self.model.layers[1].kernel.value.device)

    def rows(self, window: Window, begin: int, end: int, class_weight: tf.Tensor | None) -> dict[str, tf.Tensor]:
        """Run batches ``begin`` to ``end`` of a window."""
        x, y, weight = window.tensors(self.device)
        order, size, spec = window.order, window.batch_size, window.spec
        given = x, y, weight, order, tf.constant(begin), tf.constant(end), class_weight, size, spec
        kind = x.shape, x.dtype, order.shape, weight is None, class_weight is None, size, spec
        if kind not in self._concrete:
            self._concrete[kind] = self._epoch.get_concrete_function(*given)
        logs: dict[str, tf.Tensor] = self._concrete[kind](*given)
        return logs

    def _epoch_body(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        row_weight: tf.Tensor | None,
        order: tf.Tensor,
        begin: tf.Tensor,
        end: tf.Tensor,
        class_weight: tf.Tensor | None,
        size: int,
        spec: ModelSpec,
    ) -> dict[str, tf.Tensor]:
        full, rest = divmod(order.shape[0], size)

        def batch(i: tf.Tensor, count: int) -> None:
            picked = tf.slice(order, [i * size], [count])
            raw, labels = tf.gather(x, picked), tf.gather(y, picked)
            weight = None if row_weight is None else tf.gather(row_weight, picked)
            if class_weight is not None:
                of_class = tf.gather(class_weight, labels)
                weight = of_class if weight is None else weight * of_class
            self._step(prepared(spec, raw), labels, weight)

        def loop(i: tf.Tensor) -> tf.Tensor:
            batch(i, size)
            return i + 1

        def last() -> tf.Tensor:
            batch(tf.constant(full), rest)
            return end

        if full:
            tf.while_loop(lambda i: i < tf.minimum(end, full), loop, [begin])
        if rest:
            tf.cond(end > full, last, lambda: end)
        return self._metrics()

    def _metrics(self) -> dict[str, tf.Tensor]:
        return self.model.get_metrics_result()

    def _step(self, x: tf.Tensor | Sparse, y: tf.Tensor, weight: tf.Tensor | None) -> None:
        """One batch: Keras's own loss, metrics and optimizer around our product."""
        model, dense = self.model, self.model.layers[1]
        kernel, bias = dense.kernel.value, dense.bias.value if dense.use_bias else None
        logits = linear(dense, x, kernel, bias)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = model.compute_loss(None, y, logits, weight, training=self.train)
            scaled = model.optimizer.scale_loss(loss) if self.train else loss
        if self.train:
            variables = model.trainable_variables
            upstream, *penalties = tape.gradient(scaled, [logits, *(variable.value for variable in variables)])
            found = gradients(dense, x, kernel, upstream, penalties)
            model.optimizer.apply_gradients(zip(found, variables, strict=True))
        metrics = {metric.name: metric for metric in model.metrics}
        metrics["loss"].update_state(loss, sample_weight=tf.shape(y)[0])
        if "compile_metrics" in metrics:
            model.compute_metrics(None, *scored(metrics["compile_metrics"].metrics, y, logits), weight)

    def _stream_body(self, iterator: tf.data.Iterator, count: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Batches in groups of _GROUP, then the rest (with the last, perhaps smaller one) one by one."""

        def present(batches: list[tf.experimental.Optional]) -> tf.Tensor:
            self._checked_steps([batch.get_value() for batch in batches])
            return tf.constant(len(batches))

        def body(size: int, i: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batches = [iterator.get_next_as_optional() for _ in range(size)]
            done = tf.cond(
                batches[-1].has_value(),
                lambda: present(batches),
                lambda: sum(
                    (tf.cond(b.has_value(), lambda b=b: present([b]), lambda: tf.constant(0)) for b in batches[:-1]),
                    tf.constant(0),
                ),
            )
            return i + done, tf.equal(done, size)

        i, more = tf.constant(0), tf.constant(True)
        for size, stop in ((_GROUP, count - _GROUP), (1, count)):
            i, more = tf.while_loop(
                lambda i, more, stop=stop: more & (i < stop), functools.partial(body, size), [i, more]
            )
        return i, self._metrics()

    def _checked_steps(self, batches: list[tuple[tf.Tensor, ...]]) -> None:
        with tf.control_dependencies([labels_checked(batch[1], self.model.layers[1].units) for batch in batches]):
            self._steps(batches)

    def _steps_body(self, batches: list[tuple[tf.Tensor, ...]]) -> None:
        for x, y, *weight in batches:
            self._step(x, y, weight[0] if weight else None)
