"""Cross-entropy with label smoothing for integer labels; Keras supports it for one-hot labels only."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class SmoothedCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """``SparseCategoricalCrossentropy(from_logits=True)`` against smoothed labels (Szegedy et al., 2016).

    The target probability of the label is ``1 - s + s / C``, that of each other class ``s / C``:
    ``log sum exp(z) - (1 - s) * z[label] - s * mean(z)`` for logits ``z`` of ``C`` classes.

    Args:
        label_smoothing: ``s``, in [0, 1).
    """

    def __init__(self, label_smoothing: float):
        super().__init__(from_logits=True, dtype="float32")
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Losses ``(batch,)`` of labels ``(batch,)`` and logits ``(batch, C)``."""
        uniform = ops.logsumexp(y_pred, axis=-1) - ops.mean(y_pred, axis=-1)
        return (1 - self.label_smoothing) * super().call(y_true, y_pred) + self.label_smoothing * uniform

    def get_config(self) -> dict[str, Any]:
        """The arguments."""
        return {"label_smoothing": self.label_smoothing}


def save_plain_loss(model: keras.Model) -> None:
    """Make ``model`` save the plain loss instead of the smoothed one, however it is compiled from now on.

    Keras has no such loss, and what is saved must open without this package.
    """

    def compile_config() -> dict[str, Any] | None:
        config: dict[str, Any] | None = type(model).get_compile_config(model)
        if config is not None and isinstance(model.loss, SmoothedCrossentropy):
            plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            config["loss"] = keras.saving.serialize_keras_object(plain)
        return config

    model.get_compile_config = compile_config
