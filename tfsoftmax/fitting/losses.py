"""Cross-entropy with label smoothing for labels that are class numbers; Keras has it for one-hot labels only."""

from __future__ import annotations

import keras
from keras import ops


class SmoothedCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """``SparseCategoricalCrossentropy(from_logits=True)`` against smoothed labels (Szegedy et al., 2016).

    The label's class is asked for with probability ``1 - s + s / C``, each other class with ``s / C``:
    ``log sum exp(z) - (1 - s) * z[label] - s * mean(z)`` for logits ``z`` of ``C`` classes.

    Args:
        label_smoothing: ``s``, in [0, 1).
    """

    def __init__(self, label_smoothing: float):
        super().__init__(from_logits=True)
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        """Losses ``(batch,)`` of labels ``(batch,)`` and logits ``(batch, C)``."""
        uniform = ops.logsumexp(y_pred, axis=-1) - ops.mean(y_pred, axis=-1)
        return (1 - self.label_smoothing) * super().call(y_true, y_pred) + self.label_smoothing * uniform

    def get_config(self):
        """The arguments."""
        return {"label_smoothing": self.label_smoothing}
