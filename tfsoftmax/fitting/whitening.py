"""Whitening: the metric in which the solver descends, an inverse of the Hessian's blocks, one for each class.

Two weights of one class bend the loss together by ``sum(w p (1 - p) x xᵀ) / n`` and the penalty. The blocks come from a
sample of the rows at one point: at zero weights they are the Gram matrix of the rows, the same for all classes; further
on each class has its own, of the rows that it has not decided about. All are taken as diagonal in the eigenvectors of
their mean, which serve every class and penalty. Products are TensorFlow's: threads that wait for NumPy's next one would
take a core from the passes.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_WIDE = 4096  # features above which a block is too large, and its diagonal is taken
_LEAST = 1e-9  # of the largest curvature, where there is no penalty
_NEAR, _FAR = 30, 5  # passes after which the blocks are taken anew: at most; and of a penalty below a quarter


class Whitening:
    """Inverses of the blocks, for any penalty; made for zero weights.

    Args:
        x: rows of the sample, less their mean, about: float32 ``(S, F)``.
        weight: of these rows in the loss, float32 ``(S,)``.
        mass: mean weight of all rows by class ``(C,)``.

    Attributes:
        deviation: of each feature, and 1 for the bias: ``(F + 1, 1)``.
    """

    def __init__(self, x: np.ndarray, weight: np.ndarray, mass: np.ndarray):
        self._there = mass > 0
        shares = (weight if weight.any() else np.ones_like(weight))[:, None]
        shares = shares / shares.sum()
        self._x, self._weight = tf.constant(x), tf.constant(shares * np.float32(mass.sum()))
        weighted = x * shares
        self._vectors: tf.Tensor | None = None
        if x.shape[1] > _WIDE:
            squares = values = (weighted * x).sum(axis=0)
        else:
            gram = weighted.T @ x
            values, self._vectors = tf.linalg.eigh(gram)
            squares = gram.diagonal()
        self.deviation = np.sqrt(np.append(squares, 1.0).astype(np.float64))[:, None]
        # of a block whose rows have the weight 1 together: along each vector, and where its rows have their mean
        self._values, self._means = np.maximum(values, 0).reshape(-1, 1), np.zeros((x.shape[1], 1), np.float32)
        self._passes, self._penalty = 0, np.inf

    def shares(self, point: np.ndarray) -> np.ndarray:
        """``sum(w p (1 - p)) / n`` for a model ``(F + 1, C)``: how heavy its blocks are, ``(C,)``."""
        shares: np.ndarray = tf.reduce_sum(self._heavy(point), axis=0).numpy()
        return shares

    def _heavy(self, point: np.ndarray) -> tf.Tensor:
        """How undecided each row of the sample is about each class, times its weight: ``(S, C)``."""
        p = tf.nn.softmax(tf.matmul(self._x, tf.constant(point[:-1], tf.float32)) + tf.constant(point[-1], tf.float32))
        return tf.maximum(p * (1 - p), 1e-7) * self._weight

    def follow(self, point: np.ndarray, penalty: float) -> np.ndarray | None:
        """Count a pass; where it is time, take the blocks at the model ``point`` ``(F + 1, C)``; returns its shares."""
        self._passes += 1
        if self._vectors is None or self._passes < (_FAR if penalty < self._penalty / 4 else _NEAR):
            return None
        self._passes, self._penalty = 0, penalty
        heavy = self._heavy(point)
        shares = tf.reduce_sum(heavy, axis=0)
        heavy /= shares
        means = tf.matmul(self._x, heavy, transpose_a=True)
        mean = tf.matmul(self._x * tf.reduce_mean(heavy, axis=1, keepdims=True), self._x, transpose_a=True)
        vectors = tf.linalg.eigh(mean - tf.matmul(means, means, transpose_b=True) / heavy.shape[1])[1]
        along = tf.matmul(tf.matmul(self._x, vectors) ** 2, heavy, transpose_a=True)
        values = along - tf.matmul(vectors, means, transpose_a=True) ** 2
        self._vectors, self._means = vectors, means.numpy()
        self._values = np.maximum(values, 0)
        found: np.ndarray = shares.numpy()
        return found

    def __call__(self, gradient: np.ndarray, penalty: float, shares: np.ndarray) -> np.ndarray:
        """A gradient ``(F + 1, C)`` times the inverse blocks of a penalty and shares ``(C,)``."""
        made, shares, small = np.empty_like(gradient), shares.astype(np.float32), gradient.astype(np.float32)
        scale = self._values * shares
        scale = scale + np.float32(max(penalty, _LEAST * float(scale.max())))
        kernel = small[:-1] - self._means * small[-1]  # around a block's own mean the bias stands for itself
        if self._vectors is None:
            kernel /= scale
        else:
            along = tf.matmul(self._vectors, kernel, transpose_a=True)
            kernel = tf.matmul(self._vectors, along / scale).numpy()
        made[:-1], made[-1] = kernel, small[-1] / shares - (self._means * kernel).sum(axis=0)
        # what all classes share has no effect but its penalty
        made[:, self._there] -= made[:, self._there].mean(axis=1, keepdims=True)
        return made
