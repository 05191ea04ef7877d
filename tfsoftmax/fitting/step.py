"""One batch in TensorFlow: logits by a product whose gradient is fast, the check of labels, and batches of a stream."""

from __future__ import annotations

from collections.abc import Callable
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
        logits = sparse_product(tf.cast(x.numbers, dense.compute_dtype), x.ones, kernel)
    else:
        logits = product(tf.reshape(tf.cast(x, dense.compute_dtype), (-1, kernel.shape[0])), kernel)
    return logits if bias is None else logits + bias


@tf.custom_gradient
def product(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[None, tf.Tensor]]]:
    """``x @ kernel`` for x ``(batch, F)``, whose gradient is computed as ``(C, F)`` and then transposed."""

    def gradient(upstream: tf.Tensor) -> tuple[None, tf.Tensor]:
        return None, _kernel_gradient(x, upstream)

    return _matmul(x, tf.cast(kernel, x.dtype)), gradient


@tf.custom_gradient
def sparse_product(
    numbers: tf.Tensor, ones: tf.Tensor, kernel: tf.Tensor
) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[None, None, tf.Tensor]]]:
    """``x @ kernel`` for the x ``(batch, F)`` that has ``numbers`` first and then 1 at the places ``ones``."""
    count, rounded = numbers.shape[1], tf.cast(kernel, numbers.dtype)

    def gradient(upstream: tf.Tensor) -> tuple[None, None, tf.Tensor]:
        rows = tf.repeat(tf.cast(tf.cast(upstream, numbers.dtype), tf.float32), ones.shape[1], axis=0)
        chosen = tf.math.unsorted_segment_sum(rows, tf.reshape(ones, (-1,)), kernel.shape[0])  # leaves -1 out
        if not count:
            return None, None, chosen
        return None, None, tf.concat([_kernel_gradient(numbers, upstream), chosen[count:]], axis=0)

    selected = tf.cast(tf.gather(rounded, tf.maximum(ones, 0)), tf.float32)
    logits = tf.reduce_sum(tf.where(ones[..., None] >= 0, selected, 0.0), axis=1)
    return logits + _matmul(numbers, rounded[:count]) if count else logits, gradient


def _kernel_gradient(x: tf.Tensor, upstream: tf.Tensor) -> tf.Tensor:
    transposed = _matmul(tf.cast(upstream, x.dtype), x, adjoint=True)
    if _barrier is not None:  # without it XLA would fold the transpose into the product and be slow again
        (transposed,) = _barrier(input=[transposed])
    return tf.transpose(transposed)


def _matmul(a: tf.Tensor, b: tf.Tensor, adjoint: bool = False) -> tf.Tensor:
    if a.dtype == tf.float32:
        return tf.matmul(a, b, transpose_a=adjoint)
    return tf.raw_ops.BatchMatMulV3(x=a, y=b, Tout=tf.float32, adj_x=adjoint)  # tf.matmul would round the sums


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
