"""Whitening: the metric in which the solver descends, an inverse of the Hessian's blocks, one for each class.

Two weights of one class bend the loss together by ``sum(w p (1 - p) x xᵀ) / n`` and the penalty. The blocks come from a
sample of the rows at one point: at zero weights they are the Gram matrix of the rows, the same for all classes; further
on each class has its own, of the rows that it has not decided about. Eigenvectors serve every penalty.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

_WIDE = 4096  # features above which a block is too large, and its diagonal is taken
_NUMBERS = 2**27  # of the blocks of all classes, above which they have that of zero weights
_TOP = 3  # rows of a block for each feature: those that weigh most; the rest counts as rows at zero weights do
_LEAST = 1e-9  # of the largest curvature, where there is no penalty


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
        self._x, self._weight, self._classes = x, shares * np.float32(mass.sum()), len(mass)
        weighted = x * shares
        self._vectors: tf.Tensor | None = None
        if x.shape[1] > _WIDE:
            squares = values = (weighted * x).sum(axis=0)
        else:
            self._gram = weighted.T @ x
            values, self._vectors = tf.linalg.eigh(self._gram[None])
            squares = self._gram.diagonal()
        self.deviation = np.sqrt(np.append(squares, 1.0).astype(np.float64))[:, None]
        # of a block whose rows have the weight 1 together: its eigenvalues, and where its rows have their mean
        self._values, self._means = np.maximum(values, 0).reshape(1, -1), np.zeros((1, x.shape[1]), np.float32)

    def shares(self, point: np.ndarray) -> np.ndarray:
        """``sum(w p (1 - p)) / n`` for a model ``(F + 1, C)``: how heavy its blocks are, ``(C,)``."""
        heavy: np.ndarray = self._heavy(point).sum(axis=0)
        return heavy

    def _heavy(self, point: np.ndarray) -> np.ndarray:
        logits = self._x @ point[:-1].astype(np.float32) + point[-1].astype(np.float32)
        exps = np.exp(logits - logits.max(axis=1, keepdims=True))
        p = exps / exps.sum(axis=1, keepdims=True)
        return np.maximum(p * (1 - p), np.float32(1e-7)) * self._weight

    def move(self, point: np.ndarray) -> None:
        """Take the blocks at one model ``(F + 1, C)``."""
        features = self._x.shape[1]
        if self._vectors is None or self._classes * features**2 > _NUMBERS:
            return
        blocks, means = [], []
        top = min(_TOP * features, len(self._x))
        for of_rows in self._heavy(point).T:
            mass = float(of_rows.sum()) or 1.0
            chosen = np.argpartition(of_rows, len(of_rows) - top)[-top:]
            x, share = self._x[chosen], of_rows[chosen] / mass
            mean = share @ x
            x *= np.sqrt(share)[:, None]
            means.append(mean)
            blocks.append(x.T @ x + (1 - share.sum()) * self._gram - np.outer(mean, mean))
        values, self._vectors = tf.linalg.eigh(np.stack(blocks))
        self._values, self._means = np.maximum(values.numpy(), 0), np.stack(means)

    def __call__(self, gradients: np.ndarray, penalties: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Gradients ``(K, F + 1, C)`` times the inverse blocks of penalties ``(K,)`` and shares ``(K, C)``."""
        by_class = np.ascontiguousarray(gradients.transpose(2, 1, 0), np.float32)  # (C, F + 1, K)
        shares = shares.T[:, None, :]
        kernel, bias = by_class[:, :-1], by_class[:, -1:]
        kernel = kernel - self._means[:, :, None] * bias  # around the block's own mean the bias stands for itself
        scale = self._values[:, :, None] * shares
        scale = scale + np.maximum(penalties, _LEAST * scale.max(axis=(0, 1))).astype(np.float32)
        if self._vectors is None:
            white = kernel / scale
        else:
            along = tf.matmul(self._vectors, kernel, transpose_a=True)  # NumPy takes ten times as long for few columns
            white = tf.matmul(self._vectors, along / scale).numpy()
        white_bias = bias / shares - (self._means[:, :, None] * white).sum(axis=1, keepdims=True)
        made: np.ndarray = np.concatenate([white, white_bias], axis=1)
        made[self._there] -= made[self._there].mean(axis=0)  # what all classes share has no effect but its penalty
        return np.ascontiguousarray(made.transpose(2, 1, 0), np.float64)
