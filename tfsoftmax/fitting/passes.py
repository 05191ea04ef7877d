"""Whole passes over rows: the loss of several models at once and its gradient, and what the solver asks of the rows."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfsoftmax.rows import Rows, preprocess
from tfsoftmax.spec import ModelSpec
from tfsoftmax.windows import ahead

_CHUNK = 2**22  # numbers of a dense chunk: rows times features
_LOGITS = 2**25  # and of its logits: rows times lanes times classes
_SAMPLE = 8192  # rows that the Gram matrix is taken from, at least


class Totals(NamedTuple):
    """Sums over all rows, divided by the number of rows, of K lanes of C classes and F features; float64.

    Args:
        loss: weighted cross-entropy in nats ``(K,)``.
        kernel: its gradient by the kernel, for features less their centre ``(K, F, C)``.
        bias: its gradient by the bias ``(K, C)``.
        margin: the smallest difference between the label's logit and the best other one ``(K,)``.
        largest: the largest logit by its amount ``(K,)``.
    """

    loss: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    margin: np.ndarray
    largest: np.ndarray


class Moments(NamedTuple):
    """What the rows are like, for features less their centre ``x``, weights ``w`` and ``n`` rows; float64.

    Args:
        mass: ``sum(w) / n`` of each class ``(C,)``.
        means: ``sum(w x) / n`` of each class ``(F, C)``.
        power: ``sum(w |x|²) / n``.
        gram: ``xᵀ diag(w) x / sum(w)`` of a sample of the rows ``(F, F)``; of many features its diagonal ``(F,)``.
    """

    mass: np.ndarray
    means: np.ndarray
    power: float
    gram: np.ndarray


def chunks(rows: Rows, size: int) -> Iterator[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
    """Raw inputs, labels and float32 weights of ``size`` rows after the other, the last filled with weight 0.

    Rows in files are read while the chunk before is computed with; they come in the same order as in memory.
    """
    places = np.arange(len(rows)) if rows.index is None else np.argsort(rows.index)
    y, weight = rows.y, rows.weight

    def chunk(number: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        part = places[number * size : (number + 1) * size]
        there = len(part)
        part = np.concatenate([part, np.full(size - there, part[0])])
        weights = np.ones(size, np.float32) if weight is None else weight[part].astype(np.float32)
        weights[there:] = 0
        if rows.stored:
            raw = rows.take(slice(number * size, number * size + there))
            raw = np.concatenate([raw, np.repeat(raw[:1], size - there, axis=0)])
            return tf.constant(raw), tf.constant(y[part]), tf.constant(weights)
        x = rows.tensors()[0]
        held = part if rows.index is None else rows.index[part]
        run = held[-1] - held[0] == size - 1 and bool((np.diff(held) == 1).all())
        raw = x[int(held[0]) : int(held[0]) + size] if run else tf.gather(x, held)
        return raw, tf.constant(y[part]), tf.constant(weights)

    count = math.ceil(len(rows) / size)
    return ahead(chunk, count) if rows.stored else map(chunk, range(count))


class Passes:
    """Passes over ``rows``, whose features are taken less their weighted mean, so that the bias stands for itself.

    Args:
        rows: at least one, with a weight above 0.
        classes: C.
        whitened: the Gram matrix is wanted whole.
    """

    def __init__(self, rows: Rows, classes: int, whitened: bool):
        self.rows, self.classes, self.features = rows, classes, math.prod(rows.spec.features)
        # partial: TensorFlow counts the tracings of one function over all rows, and would warn about them
        self._loss = tf.function(functools.partial(_loss, rows.spec), jit_compile=True, autograph=False)
        self._sums = tf.function(functools.partial(_sums, rows.spec, classes), jit_compile=True, autograph=False)
        self._gram = tf.function(functools.partial(_gram, rows.spec, whitened), autograph=False)
        self.centre = np.zeros(self.features, np.float32)
        total, sums = 0.0, np.zeros(self.features)
        for raw, labels, weight in chunks(rows, self._size(1)):
            mass, means, _ = self._sums(raw, labels, weight, tf.constant(self.centre))
            total, sums = total + float(tf.reduce_sum(mass)), sums + tf.reduce_sum(means, axis=1).numpy()
        self.centre = (sums / total).astype(np.float32)
        self.moments = self._moments(whitened)

    def _size(self, lanes: int) -> int:
        """Rows of a chunk, such that the last one has little to be filled with."""
        most = max(256, min(_CHUNK // self.features, _LOGITS // (lanes * self.classes)))
        return math.ceil(len(self.rows) / math.ceil(len(self.rows) / most))

    def _moments(self, whitened: bool) -> Moments:
        rows, count = self.rows, len(self.rows)
        every = max(1, count // max(_SAMPLE, 4 * self.features))
        mass, means = np.zeros(self.classes), np.zeros((self.features, self.classes))
        power = sampled = 0.0
        gram = np.zeros((self.features,) * (2 if whitened else 1))
        for raw, labels, weight in chunks(rows, self._size(1)):
            of_class, of_feature, of_rows = self._sums(raw, labels, weight, tf.constant(self.centre))
            mass, means, power = mass + of_class.numpy(), means + of_feature.numpy(), power + float(of_rows)
            part = self._gram(raw[::every], weight[::every], tf.constant(self.centre))
            gram += part.numpy()
            sampled += float(tf.reduce_sum(weight[::every]))
        return Moments(mass / count, means / count, power / count, gram / sampled if sampled else gram)

    def run(self, kernel: np.ndarray, bias: np.ndarray, precision: str) -> Totals:
        """One pass.

        Args:
            kernel: of each lane ``(K, F, C)``.
            bias: of features less their centre ``(K, C)``; -inf for a class that never is.
            precision: ``"float32"`` products and sums within a chunk, float64 sums of losses and of chunks; or all in
                ``"float64"``.
        """
        lanes, count, size = len(kernel), len(self.rows), self._size(len(kernel))
        flat = tf.constant(kernel.transpose(1, 0, 2).reshape(self.features, -1), precision)
        parts: list[np.ndarray] = [np.zeros(()), np.zeros(()), np.zeros(())]
        margin, largest = np.full(lanes, np.inf), np.zeros(lanes)
        given = flat, tf.constant(bias, precision), tf.constant(self.centre)
        for raw, labels, weight in chunks(self.rows, size):
            *sums, low, high = self._loss(raw, labels, weight, *given)
            parts = [total + part.numpy() for total, part in zip(parts, sums, strict=True)]
            margin, largest = np.minimum(margin, low.numpy()), np.maximum(largest, high.numpy())
        loss, kernels, biases = (part / count for part in parts)
        shaped = kernels.reshape(lanes, self.classes, self.features).transpose(0, 2, 1)
        return Totals(loss, shaped, biases, margin, largest)


def _dense(spec: ModelSpec, raw: tf.Tensor, centre: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """The features of raw rows as the model sees them, less ``centre``: ``(rows, F)``."""
    x = tf.reshape(preprocess(spec, raw), (raw.shape[0], -1))
    return tf.cast(x, dtype) - tf.cast(centre, dtype)


def _loss(
    spec: ModelSpec,
    raw: tf.Tensor,
    labels: tf.Tensor,
    weight: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    centre: tf.Tensor,
) -> tuple[tf.Tensor, ...]:
    dtype, (lanes, classes) = kernel.dtype, bias.shape
    x = _dense(spec, raw, centre, dtype)
    logits = tf.reshape(tf.matmul(x, kernel), (-1, lanes, classes)) + bias
    hot = tf.one_hot(labels, classes, dtype=tf.bool, on_value=True, off_value=False)[:, None, :]
    right = tf.reduce_sum(tf.where(hot, logits, tf.zeros((), dtype)), axis=-1)
    other = tf.reduce_max(tf.where(hot, tf.constant(-np.inf, dtype), logits), axis=-1)
    top = tf.maximum(right, other)[..., None]
    exps = tf.exp(logits - top)
    sums = tf.reduce_sum(exps, axis=-1, keepdims=True)
    weights = tf.cast(weight, dtype)[:, None]
    losses = (tf.math.log(sums[..., 0]) + (top[..., 0] - right)) * weights
    residuals = (exps / sums - tf.cast(hot, dtype)) * weights[..., None]
    gradient = tf.matmul(tf.reshape(residuals, (-1, lanes * classes)), x, transpose_a=True)
    counted = weight[:, None] > 0
    margins = tf.where(counted, right - other, tf.constant(np.inf, dtype))
    finite = tf.where(tf.math.is_finite(logits), tf.abs(logits), tf.zeros((), dtype))
    return (
        tf.reduce_sum(tf.cast(losses, tf.float64), axis=0),
        gradient,
        tf.reduce_sum(tf.cast(residuals, tf.float64), axis=0),
        tf.reduce_min(margins, axis=0),
        tf.reduce_max(finite, axis=(0, 2)),
    )


def _sums(
    spec: ModelSpec, classes: int, raw: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor, centre: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    x = _dense(spec, raw, centre, tf.float64)
    of_class = tf.one_hot(labels, classes, dtype=tf.float64) * tf.cast(weight, tf.float64)[:, None]
    squares = tf.reduce_sum(x * x, axis=1) * tf.cast(weight, tf.float64)
    return tf.reduce_sum(of_class, axis=0), tf.matmul(x, of_class, transpose_a=True), tf.reduce_sum(squares)


def _gram(spec: ModelSpec, whole: bool, raw: tf.Tensor, weight: tf.Tensor, centre: tf.Tensor) -> tf.Tensor:
    x = _dense(spec, raw, centre, tf.float32) * tf.sqrt(weight)[:, None]
    gram = tf.matmul(x, x, transpose_a=True) if whole else tf.reduce_sum(x * x, axis=0)
    return tf.cast(gram, tf.float64)
