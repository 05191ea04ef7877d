"""One batch in TensorFlow: logits, their gradient by a fast product, the check of labels, and batches of a stream."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfsoftmax import columns
from tfsoftmax._private import BARRIER, find
from tfsoftmax.errors import InputError
from tfsoftmax.rows import preprocess
from tfsoftmax.spec import ModelSpec

_WRONG_LABEL = "tfsoftmax: label outside the classes"
_USUAL = 256  # rows of a batch of a stream, which has as many as it has
_barrier = find(BARRIER)


class Sparse(NamedTuple):
    """Preprocessed rows of a table: numbers float32 ``(batch, n)``, and which features are 1, see ``columns.split``."""

    numbers: tf.Tensor
    ones: tf.Tensor


def prepared(spec: ModelSpec, raw: tf.Tensor) -> tf.Tensor | Sparse:
    """Raw inputs as :func:`linear` takes them.

    Of a table the features that are 1 select rows of the kernel: that costs less than the product with all the zeros
    beside them, 0.6 of it for ten columns of 20 values and 0.2 for ten of 500 (AMD EPYC, two cores, batch 256).
    """
    found = columns.blocks(spec.columns)
    if not found:
        return preprocess(spec, raw)
    numbers, ones = columns.split(spec, tf.cast(raw, tf.float32))
    offset, scale = (tf.constant(np.asarray(value)[: found[0].begin], tf.float32) for value in columns.constants(spec))
    return Sparse((numbers - offset) * scale, ones)


def linear(dense: keras.layers.Dense, x: tf.Tensor | Sparse, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """``x @ kernel + bias`` float32 for x ``(batch, *shape)``, as ``dense`` computes it.

    Where ``dense`` computes in bfloat16, the factors of the product and of its gradient are rounded to that; sums
    are float32.
    """
    if isinstance(x, Sparse):
        count, rounded = x.numbers.shape[1], tf.cast(kernel, dense.compute_dtype)
        selected = tf.cast(tf.gather(rounded, tf.maximum(x.ones, 0)), tf.float32)
        logits = tf.reduce_sum(tf.where(x.ones[..., None] >= 0, selected, 0.0), axis=1)
        if count:
            logits += _matmul(tf.cast(x.numbers, dense.compute_dtype), rounded[:count])
    else:
        logits = _matmul(_flat(dense, x, kernel), tf.cast(kernel, dense.compute_dtype))
    return logits if bias is None else logits + bias


def gradients(
    dense: keras.layers.Dense,
    x: tf.Tensor | Sparse,
    kernel: tf.Tensor,
    upstream: tf.Tensor,
    penalties: list[tf.Tensor | None],
) -> list[tf.Tensor]:
    """The gradient by kernel and bias of a loss with the gradient ``upstream`` by the logits of :func:`linear`.

    ``penalties``, for the kernel and for the bias if there is one, are gradients of what the loss has beside it.
    """
    if not isinstance(x, Sparse):
        of_kernel = _kernel_gradient(_flat(dense, x, kernel), upstream)
    else:
        rounded = tf.cast(tf.cast(upstream, dense.compute_dtype), tf.float32)
        rows = tf.repeat(rounded, x.ones.shape[1], axis=0)
        of_kernel = tf.math.unsorted_segment_sum(rows, tf.reshape(x.ones, (-1,)), kernel.shape[0])  # leaves -1 out
        if count := x.numbers.shape[1]:
            numbers = _kernel_gradient(tf.cast(x.numbers, dense.compute_dtype), upstream)
            of_kernel = tf.concat([numbers, of_kernel[count:]], axis=0)
    found = [of_kernel, tf.reduce_sum(upstream, axis=0)][: len(penalties)]
    return [a if b is None else a + b for a, b in zip(found, penalties, strict=True)]


def _flat(dense: keras.layers.Dense, x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    return tf.reshape(tf.cast(x, dense.compute_dtype), (-1, kernel.shape[0]))


def _kernel_gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    """``xᵀ @ upstream`` of ``(batch, F)`` and ``(batch, C)``, with that transpose which costs less.

    XLA's product on a CPU is slow of a first factor that is read by columns and of a second one with few columns. With
    few classes the product is ``(C, F)`` and is transposed; with many, which make that transpose dear, ``x`` is. For
    4,096 features and batches of 256 that is 0.77 of the time with 10 classes for the former, 0.62 with 1,000 for the
    latter, and the same for both with 100 (AMD EPYC, two cores).
    """
    upstream = tf.cast(upstream, x.dtype)
    if 3 * upstream.shape[1] > (x.shape[0] or _USUAL):
        return _matmul(_kept(tf.transpose(x)), upstream)
    return tf.transpose(_kept(_matmul(upstream, x, adjoint=True)))


def _kept(value: tf.Tensor) -> tf.Tensor:
    """``value``, which XLA computes: else it would fold a transpose into the product."""
    return value if _barrier is None else _barrier(input=[value])[0]


def _matmul(a: tf.Tensor, b: tf.Tensor, adjoint: bool = False) -> tf.Tensor:
    if a.dtype == tf.float32:
        return tf.matmul(a, b, transpose_a=adjoint)
    return tf.raw_ops.BatchMatMulV3(x=a, y=b, Tout=tf.float32, adj_x=adjoint)  # tf.matmul would round the sums


def scored(metrics: Any, y: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Labels and logits of which ``metrics`` say what they say of ``y`` and ``logits``, for less.

    XLA's argmax on a CPU takes as long over many classes as a product. Where only the accuracy is wanted, all labels
    are 0, and the logits are of two classes: right and wrong.
    """
    if any(type(metric) is not keras.metrics.SparseCategoricalAccuracy for metric in metrics):
        return y, logits
    largest = (logits == tf.reduce_max(logits, axis=1, keepdims=True)) | tf.math.is_nan(logits)
    classes = tf.range(logits.shape[1])
    first = tf.reduce_min(tf.where(largest, classes, logits.shape[1]), axis=1)  # which argmax returns
    right = tf.cast(first == tf.cast(tf.reshape(y, (-1,)), tf.int32), tf.float32)
    return tf.zeros_like(first), tf.stack([right, 1 - right], axis=1)


def labels_checked(y: tf.Tensor, classes: int) -> tf.Operation:
    """Run this before a step: it fails if a label is outside ``[0, classes)``; XLA would compute NaN."""
    y = tf.cast(y, tf.int64)
    return tf.debugging.Assert(tf.reduce_all((y >= 0) & (y < classes)), [_WRONG_LABEL])


class StreamFunctions:
    """How a stream is run, on one device or many."""

    model: keras.Sequential
    _stream: Any  # (iterator, number of batches) -> (batches that there were, Keras's logs)

    def stream(self, iterator: Any, count: int) -> dict[str, tf.Tensor]:
        """Run the next ``count`` batches of a stream, or those that are left; raises StopIteration if none is."""
        try:
            done, logs = self._stream(iterator, tf.constant(count))
        except tf.errors.InvalidArgumentError as error:
            if _WRONG_LABEL not in error.message:
                raise
            raise InputError(f"the data has a label outside [0, {self.model.layers[1].units})") from error
        if not done:
            raise StopIteration
        return logs
