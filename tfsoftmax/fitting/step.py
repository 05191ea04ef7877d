"""One batch in TensorFlow: logits by a product whose gradient is fast, and the check of labels."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from tfsoftmax._private import BARRIER, find
from tfsoftmax.errors import InputError

_WRONG_LABEL = "tfsoftmax: label outside the classes"
_barrier = find(BARRIER)


def linear(dense: keras.layers.Dense, x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    """``x @ kernel + bias`` float32 for x ``(batch, *shape)``, as ``dense`` computes it.

    Where ``dense`` computes in bfloat16, the factors of the product and of its gradient are rounded to that; sums
    are float32.
    """
    logits = product(tf.reshape(tf.cast(x, dense.compute_dtype), (-1, kernel.shape[0])), kernel)
    return logits if bias is None else logits + bias


@tf.custom_gradient
def product(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[None, tf.Tensor]]]:
    """``x @ kernel`` for x ``(batch, F)``, whose gradient is computed as ``(C, F)`` and turned afterwards."""

    def gradient(upstream: tf.Tensor) -> tuple[None, tf.Tensor]:
        transposed = _matmul(tf.cast(upstream, x.dtype), x, adjoint=True)
        if _barrier is not None:  # without it XLA would fold the transpose into the product and be slow again
            (transposed,) = _barrier(input=[transposed])
        return None, tf.transpose(transposed)

    return _matmul(x, tf.cast(kernel, x.dtype)), gradient


def _matmul(a: tf.Tensor, b: tf.Tensor, adjoint: bool = False) -> tf.Tensor:
    if a.dtype == tf.float32:
        return tf.matmul(a, b, transpose_a=adjoint)
    return tf.raw_ops.BatchMatMulV3(x=a, y=b, Tout=tf.float32, adj_x=adjoint)  # tf.matmul would round the sums


def labels_checked(y: tf.Tensor, classes: int) -> tf.Operation:
    """To be run before a step: fails where a label is outside ``[0, classes)``, of which XLA would make NaN."""
    y = tf.cast(y, tf.int64)
    return tf.debugging.Assert(tf.reduce_all((y >= 0) & (y < classes)), [_WRONG_LABEL])


def wrong_label(error: tf.errors.InvalidArgumentError, classes: int) -> Exception:
    """What to raise for ``error``: InputError where :func:`labels_checked` found a wrong label, else ``error``."""
    return InputError(f"the data has a label outside [0, {classes})") if _WRONG_LABEL in error.message else error
