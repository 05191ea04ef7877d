"""What the compiled epoch can serve: which models, which metrics, and which callbacks want every batch."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfsoftmax.losses import SmoothedCrossentropy

# metrics that are known to compile
_METRICS = (
    keras.metrics.SparseCategoricalAccuracy,
    keras.metrics.SparseCategoricalCrossentropy,
    keras.metrics.SparseTopKCategoricalAccuracy,
)
_NO_STRATEGY = tf.distribute.get_strategy()  # TensorFlow's default one, a single object
_BATCH_HOOKS = [f"on_{kind}batch_{when}" for kind in ("", "train_", "test_") for when in ("begin", "end")]


def misfit(model: keras.Model) -> str:
    """Why this model cannot take the compiled way; empty if it can."""
    kinds = [type(layer) for layer in model.layers]
    if kinds != [keras.layers.Flatten, keras.layers.Dense]:
        return f"its layers are {[kind.__name__ for kind in kinds]}, not Flatten and Dense"
    dense = model.layers[1]
    if dense.activation is not keras.activations.linear or dense.activity_regularizer or dense.lora_rank:
        return "its Dense has an activation, an activity regularizer or LoRA"
    if not dense.trainable or not model.trainable:
        return "its Dense is frozen"
    if model.dtype_policy.compute_dtype != "float32" or dense.dtype_policy.compute_dtype != "float32":
        return f"it computes in {dense.dtype_policy.compute_dtype}"
    for name in ("train_step", "test_step", "compute_loss", "compute_metrics"):
        if getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name):
            return f"{name} is not Keras's own"
    if not model.compiled:
        return "it is not compiled"
    if model.run_eagerly:
        return "run_eagerly is on"
    loss = model.loss
    if (
        type(loss) not in (keras.losses.SparseCategoricalCrossentropy, SmoothedCrossentropy)
        or not loss.from_logits
        or loss.ignore_class is not None
    ):
        return "its loss is not SparseCategoricalCrossentropy(from_logits=True)"
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        return "its optimizer scales the loss"
    if model.distribute_strategy is not _NO_STRATEGY:
        return "it is trained under a tf.distribute strategy"
    return ""


def prepare(model: keras.Sequential, shape: Any) -> str:
    """Make all variables for inputs of ``shape``, since a compiled loop cannot make any; gives why that is no use."""
    if not model.built:
        model.build((None, *shape))
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    if model.input_shape[1:] != tuple(shape):
        return f"the model takes {model.input_shape[1:]} and the data has {tuple(shape)}"
    for compiled in model.metrics:
        if compiled.name == "compile_metrics":
            if not compiled.built:
                label, logits = tf.zeros((1,), tf.int32), tf.zeros((1, model.layers[1].units))
                model.compute_loss(None, label, logits)
                model.compute_metrics(None, label, logits)
                model.reset_metrics()
            for metric in compiled.metrics:
                if type(metric) not in _METRICS:
                    return f"its metric {type(metric).__name__} is not known to compile"
    return ""


def needs_batches(callbacks: Any) -> bool:
    """Whether a callback wants to be called for each batch."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    for callback in keras.tree.flatten(callbacks or []):
        if isinstance(callback, (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore)):
            if callback.save_freq != "epoch":
                return True
        elif isinstance(callback, keras.callbacks.TensorBoard):
            if callback.update_freq != "epoch" or callback._stop_batch:  # a batch to profile; no public name tells
                return True
        elif not isinstance(callback, (keras.callbacks.History, keras.callbacks.ProgbarLogger)):
            for hook in _BATCH_HOOKS:
                if hook in vars(callback) or getattr(type(callback), hook) is not getattr(
                    keras.callbacks.Callback, hook
                ):
                    return True
    return False
