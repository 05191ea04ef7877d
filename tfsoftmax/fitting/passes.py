"""Whole passes over rows: the loss of a model and its gradient, and what the solver asks of the rows.

A pass is one function: a loop over blocks of rows that stay in the processor's caches, from raw inputs to sums. Each
core has a thread that calls it for its own blocks. XLA's threads would share the work of each block, and what one core
has made costs the other dear where they share no cache, as the two of a virtual machine do at times: on an AMD EPYC a
pass over Fashion-MNIST took 12 or 28 ms, for minutes, and 19 on one core. With a thread for each it takes 12 to 14.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfsoftmax._machine import cpu_count
from tfsoftmax.rows import Rows, preprocess
from tfsoftmax.spec import ModelSpec
from tfsoftmax.windows import ahead

_BLOCK = 1024  # most rows of a block
_WINDOW = 2**24  # numbers of rows that are read from files at once
_SMALL = 2**20  # numbers of rows below which a pass takes less time than XLA's compilation, and float32 saves nothing
_SAMPLE, _LARGEST = 8192, 2**26  # rows that centre and curvature are taken from, at least; and most numbers of them
_OF_EACH = 64  # of these rows per class: of fewer, blocks of the classes are far from those of all rows


class Totals(NamedTuple):
    """Sums over all rows, divided by the number of rows, for C classes and F features; float64.

    Args:
        loss: weighted cross-entropy in nats ``()``.
        kernel: its gradient by the kernel, for features less their centre ``(F, C)``.
        bias: its gradient by the bias ``(C,)``.
        normalizer: weighted mean of each class's probability times log-sum-exp of the logits ``(C,)``.
        margin: the smallest difference between the label's logit and the best other one ``()``.
        largest: the largest logit by its amount ``()``.
    """

    loss: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    normalizer: np.ndarray
    margin: np.ndarray
    largest: np.ndarray


class Moments(NamedTuple):
    """What the rows are like, for features less their centre ``x``, weights ``w`` and ``n`` rows; float64.

    Args:
        mass: ``sum(w) / n`` of each class ``(C,)``.
        means: ``sum(w x) / n`` of each class ``(F, C)``.
        power: ``sum(w |x|²) / n``.
    """

    mass: np.ndarray
    means: np.ndarray
    power: np.ndarray


_COMBINED = {"margin": tf.minimum, "largest": tf.maximum}  # all others are sums


class _Window(NamedTuple):
    """Blocks of rows in memory: how many, raw inputs, where each row is in them, labels and weights; 0 fills up."""

    blocks: int
    x: tf.Tensor
    places: tf.Tensor
    labels: tf.Tensor
    weight: tf.Tensor


class Passes:
    """Passes over ``rows``, whose features are taken less their mean, about, so that the bias stands for itself.

    Args:
        rows: at least one, with a weight above 0.
        classes: C.

    Attributes:
        centre: of the features, float32 ``(F,)``.
        small: whether the rows are so few that float64 costs nothing.
        sample: some of the rows: features less their centre float32 ``(S, F)``, and weights float32 ``(S,)``.
        moments: of all rows.
    """

    def __init__(self, rows: Rows, classes: int):
        self.rows, self.classes, self.features = rows, classes, math.prod(rows.spec.features)
        self.small = len(rows) * self.features <= _SMALL
        blocks = math.ceil(len(rows) / _BLOCK)
        self._block = math.ceil(len(rows) / blocks)
        # the order of files, in memory too: the same sums
        self._order = np.arange(len(rows)) if rows.index is None else np.argsort(rows.index)
        self._labels = rows.y[self._order]
        self._weight = (np.ones(len(rows)) if rows.weight is None else rows.weight[self._order]).astype(np.float32)
        self._kept: list[_Window] = []
        self._run = _compiled(rows.spec, self._block, not self.small, len(rows))
        alone = self.small or bool(tf.config.list_logical_devices("GPU"))
        self._cores = 1 if alone else min(cpu_count(), blocks)
        self._map: Any = map if self._cores == 1 else ThreadPoolExecutor(self._cores).map
        self.centre = np.zeros(self.features, np.float32)
        self.sample = self._sample()
        self.moments = self._moments()

    def run(self, kernel: np.ndarray, bias: np.ndarray, precision: str) -> Totals:
        """One pass.

        Args:
            kernel: ``(F, C)``.
            bias: of features less their centre ``(C,)``; -inf for a class that never is.
            precision: ``"float32"`` products and sums within a block, float64 sums of them; or all in ``"float64"``.
        """
        zero = np.zeros(()), np.zeros((self.classes, self.features)), np.zeros(self.classes), np.zeros(self.classes)
        start = Totals(*zero, np.array(np.inf), np.zeros(()))
        given = tf.constant(kernel, precision), tf.constant(bias, precision)
        *sums, margin, largest = self._sums(_loss, start, *given)
        loss, kernels, biases, normalizer = (total / len(self.rows) for total in sums)
        return Totals(loss, kernels.T, biases, normalizer, margin, largest)

    def _moments(self) -> Moments:
        start = Moments(np.zeros(self.classes), np.zeros((self.features, self.classes)), np.zeros(()))
        given = tf.zeros((self.features, 0), tf.float64), tf.zeros(self.classes, tf.float64)
        return Moments(*(total / len(self.rows) for total in self._sums(_moments, start, *given)))

    def _sums(self, add: Callable[..., Any], start: Any, kernel: tf.Tensor, bias: tf.Tensor) -> list[np.ndarray]:
        cores, done = self._cores, 0
        step, centre = tf.constant(cores), tf.constant(self.centre)
        sums = [type(start)(*(tf.constant(part) for part in start))] * cores
        for window in self._windows():
            run = functools.partial(self._run, add, window[1:], centre, kernel, bias, step, tf.constant(window.blocks))
            begin = [tf.constant((core - done) % cores) for core in range(cores)]  # whatever the windows are
            sums = list(self._map(run, begin, sums))
            done += window.blocks
        return [part.numpy() for part in functools.reduce(_both, sums)]

    def _sample(self) -> tuple[np.ndarray, np.ndarray]:
        wanted = max(_SAMPLE, 4 * self.features, _OF_EACH * self.classes)
        wanted = min(wanted, _LARGEST // max(self.features, self.classes))
        every = max(1, len(self.rows) // max(1, wanted))
        chosen, weight = self._order[::every], self._weight[::every]
        parts = np.array_split(chosen, math.ceil(len(chosen) / _BLOCK))
        x = [preprocess(self.rows.spec, self.rows.take(part)).numpy().reshape(len(part), -1) for part in parts]
        made = np.concatenate(x)
        self.centre = np.average(made, axis=0, weights=weight if weight.any() else None).astype(np.float32)
        return made - self.centre, weight

    def _windows(self) -> Iterator[_Window]:
        """All rows in memory, or parts of the files, each read while the one before is computed with."""
        if not self.rows.stored:
            if not self._kept:
                x = self.rows.tensors()[0]
                places = self._order if self.rows.index is None else self.rows.index[self._order]
                self._kept.append(self._window(x, places, 0, len(places)))
            yield from self._kept
            return
        size = self._block * max(1, _WINDOW // (self.features * self._block))

        def read(number: int) -> _Window:
            begin = number * size
            raw = self.rows.take(slice(begin, begin + size))
            places = np.arange(len(raw))
            x = np.concatenate([raw, np.zeros((size - len(raw), *raw.shape[1:]), raw.dtype)])
            return self._window(tf.constant(x), places, begin, size)

        yield from ahead(read, math.ceil(len(self.rows) / size))

    def _window(self, x: tf.Tensor, places: np.ndarray, begin: int, size: int) -> _Window:
        there, blocks = slice(begin, begin + len(places)), math.ceil(len(places) / self._block)
        missing = (0, self._block * math.ceil(size / self._block) - len(places))
        parts = (np.pad(part, missing) for part in (places, self._labels[there], self._weight[there]))
        places, labels, weight = parts
        return _Window(blocks, x, tf.constant(places, tf.int32), tf.constant(labels), tf.constant(weight))


@functools.lru_cache(8)
def _compiled(spec: ModelSpec, size: int, xla: bool, rows: int) -> Any:
    """The function of a pass; as many rows with the same spec, as in cross-validation, need not be compiled again.

    XLA is not only for speed: without it the float64 sums of many rows differ between two passes in their last bits.
    """
    del rows  # TensorFlow counts the tracings of one function over all shapes, and would warn about them
    return tf.function(functools.partial(_pass, spec, size), autograph=False, jit_compile=xla)


def _pass(
    spec: ModelSpec,
    size: int,
    add: Callable[..., Any],
    rows: tuple[tf.Tensor, ...],
    centre: tf.Tensor,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    step: tf.Tensor,
    end: tf.Tensor,
    begin: tf.Tensor,
    sums: Any,
) -> Any:
    """``sums``, and what ``add`` makes of every ``step``'th block of ``rows``, a window's, from ``begin``."""
    raw = rows[0]

    def body(i: tf.Tensor, sums: Any) -> tuple[tf.Tensor, Any]:
        places, labels, weight = (tf.slice(whole, [i * size], [size]) for whole in rows[1:])
        x = tf.reshape(preprocess(spec, tf.gather(raw, places)), (size, -1)) - centre
        made = add(tf.cast(x, kernel.dtype), labels, tf.cast(weight, kernel.dtype), kernel, bias)
        return i + step, _both(sums, made)

    return tf.while_loop(lambda i, _: i < end, body, (begin, sums))[1]


def _both(sums: Any, more: tuple[tf.Tensor, ...]) -> Any:
    """``sums`` with those of further rows."""
    parts = zip(sums._fields, sums, more, strict=True)
    return type(sums)(*(_COMBINED.get(name, tf.add)(a, tf.cast(b, a.dtype)) for name, a, b in parts))


def _loss(
    x: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    dtype = x.dtype
    logits = tf.matmul(x, kernel) + bias
    hot = tf.one_hot(labels, bias.shape[0], dtype=tf.bool, on_value=True, off_value=False)
    right = tf.reduce_sum(tf.where(hot, logits, tf.zeros((), dtype)), axis=1)
    other = tf.reduce_max(tf.where(hot, tf.constant(-np.inf, dtype), logits), axis=1)
    top = tf.maximum(right, other)[:, None]
    exps = tf.exp(logits - top)
    sums = tf.reduce_sum(exps, axis=1, keepdims=True)
    losses = (tf.math.log(sums[:, 0]) + (top[:, 0] - right)) * weight
    p = exps / sums
    residuals = (p - tf.cast(hot, dtype)) * weight[:, None]
    normalizer = p * (tf.math.log(sums) + top) * weight[:, None]
    finite = tf.where(tf.math.is_finite(logits), tf.abs(logits), tf.zeros((), dtype))
    return (
        tf.reduce_sum(tf.cast(losses, tf.float64)),
        tf.matmul(residuals, x, transpose_a=True),
        tf.reduce_sum(tf.cast(residuals, tf.float64), axis=0),
        tf.reduce_sum(tf.cast(normalizer, tf.float64), axis=0),
        tf.reduce_min(tf.where(weight > 0, right - other, tf.constant(np.inf, dtype))),
        tf.reduce_max(finite),
    )


def _moments(
    x: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor
) -> tuple[tf.Tensor, ...]:
    of_class = tf.one_hot(labels, bias.shape[0], dtype=x.dtype) * weight[:, None]
    power = tf.reduce_sum(tf.reduce_sum(x * x, axis=1) * weight)
    return tf.reduce_sum(of_class, axis=0), tf.matmul(x, of_class, transpose_a=True), power
