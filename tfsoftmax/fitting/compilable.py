"""What the compiled epoch supports: which models, metrics and batches; and which callbacks need every batch."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfsoftmax._private import lost
from tfsoftmax.fitting.losses import SmoothedCrossentropy

# metrics that are known to compile
_METRICS = (
    keras.metrics.SparseCategoricalAccuracy,
    keras.metrics.SparseCategoricalCrossentropy,
    keras.metrics.SparseTopKCategoricalAccuracy,
)
_BATCH_HOOKS = [f"on_{kind}batch_{when}" for kind in ("", "train_", "test_") for when in ("begin", "end")]


def unsupported(model: keras.Model) -> str:
    """Why the compiled epoch does not support this model; empty if it does."""
    kinds = [type(layer) for layer in model.layers]
    if kinds != [keras.layers.Flatten, keras.layers.Dense]:
        return f"its layers are {[kind.__name__ for kind in kinds]}, not Flatten and Dense"
    dense = model.layers[1]
    if dense.activation is not keras.activations.linear or dense.activity_regularizer or dense.lora_rank:
        return "its Dense has an activation, an activity regularizer or LoRA"
    if not dense.trainable or not model.trainable:
        return "its Dense is frozen"
    if isinstance(dense.dtype_policy, keras.dtype_policies.QuantizedDTypePolicy):
        return f"it is quantized ({dense.dtype_policy.name})"
    if model.layers[0].data_format != "channels_last":
        return "its Flatten turns the axes of its inputs (data_format='channels_first')"
    if dense.compute_dtype not in ("float32", "bfloat16") or dense.variable_dtype != "float32":
        return f"it computes in {dense.compute_dtype} and has variables of {dense.variable_dtype}"
    for name in ("train_step", "test_step", "compute_loss", "compute_metrics"):
        if getattr(getattr(model, name), "__func__", None) is not getattr(keras.Model, name):
            return f"{name} is not Keras's own"
    if not model.compiled:
        return "it is not compiled"
    if model.run_eagerly or tf.config.functions_run_eagerly():
        return "run_eagerly is on" if model.run_eagerly else "tf.config.run_functions_eagerly is on"
    if instrumented():
        return "tf.debugging instruments each operation"
    loss = model.loss
    if (
        type(loss) not in (keras.losses.SparseCategoricalCrossentropy, SmoothedCrossentropy)
        or not loss.from_logits
        or loss.ignore_class is not None
    ):
        return "its loss is not SparseCategoricalCrossentropy(from_logits=True)"
    if isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer):
        return "its optimizer scales the loss"
    if others := [metric.name for metric in model.metrics if metric.name not in ("loss", "compile_metrics")]:
        return f"its metric {others[0]} is not one that it is compiled with"
    if distributed(model):
        if gone := lost("strategy"):
            return gone
        optimizer = model.optimizer
        if optimizer.clipnorm or optimizer.clipvalue or optimizer.global_clipnorm:
            return "its optimizer clips gradients, which Keras does on each replica alone"
        if optimizer.gradient_accumulation_steps:
            return "its optimizer accumulates gradients under a tf.distribute strategy"
        compiled = model.get_compile_config()
        if compiled["weighted_metrics"] or compiled["loss_weights"] is not None:
            return "it has weighted metrics or losses under a tf.distribute strategy"
        if loss.reduction not in ("sum_over_batch_size", "mean"):
            return f"its loss is reduced by {loss.reduction!r} under a tf.distribute strategy"
    return ""


def distributed(model: keras.Model) -> bool:
    """Whether the model was made in the scope of a tf.distribute strategy."""
    with model.distribute_strategy.scope():
        return bool(tf.distribute.has_strategy())


def instrumented() -> bool:
    """Whether TensorFlow adds operations of its own to each function: ``tf.debugging.enable_check_numerics``, dumps."""
    probe = tf.function(lambda x: x + x, autograph=False).get_concrete_function(tf.TensorSpec((), tf.float32))
    return any(operation.type.startswith(("Debug", "CheckNumerics")) for operation in probe.graph.get_operations())


def prepare(model: keras.Sequential, shape: tuple[int, ...]) -> str:
    """Build all variables for inputs of ``shape``, since a compiled loop cannot; return why the model rejects them."""
    compiled = [metric for metric in model.metrics if metric.name == "compile_metrics"]
    with model.distribute_strategy.scope():
        if not model.built:
            model.build((None, *shape))
        if model.input_shape[1:] != tuple(shape):
            return f"the model takes {model.input_shape[1:]} and the data has {tuple(shape)}"
        if not model.optimizer.built or not all(metric.built for metric in compiled):
            if not model.optimizer.built:
                model.optimizer.build(model.trainable_variables)
            label, logits = (
                tf.zeros((1,), tf.int32),
                model(tf.zeros((1, *shape))),
            )  # exports need a model that was called
            model.compute_loss(None, label, logits)
            model.compute_metrics(None, label, logits)
            model.reset_metrics()
    for metric in (part for container in compiled for part in container.metrics):
        if type(metric) not in _METRICS:
            return f"its metric {type(metric).__name__} is not known to compile"
    return ""


def unsupported_stream(model: keras.Sequential, spec: Any) -> str:
    """Why batches of this element spec cannot be compiled; empty if they can, and then the model is prepared."""
    if isinstance(spec, tuple) and distributed(model):
        spec = tuple(_of_first_replica(part) for part in spec)
    if not (isinstance(spec, tuple) and 2 <= len(spec) <= 3 and all(isinstance(s, tf.TensorSpec) for s in spec)):
        return f"batches are not (x, y) or (x, y, sample_weight) of dense tensors: {spec}"
    x, y = spec[:2]
    if x.shape.rank is None or x.shape.rank < 2 or None in x.shape[1:] or y.shape.rank not in (1, 2):
        return f"batches have no static shape: x {x.shape}, y {y.shape}"
    if not (x.dtype.is_floating or x.dtype.is_integer):
        return f"inputs are {x.dtype.name}"
    return prepare(model, tuple(x.shape[1:]))


def _of_first_replica(spec: Any) -> Any:
    """The TensorSpec that all replicas share for a part of a batch; ``spec`` if they share none."""
    specs = tf.nest.flatten(spec, expand_composites=True)
    dense = all(isinstance(part, tf.TensorSpec) for part in specs)
    return specs[0] if dense and len({(part.shape.rank, part.dtype) for part in specs}) == 1 else spec


def needs_batches(callbacks: Any) -> bool:
    """Whether a callback needs to be called for each batch."""
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = callbacks.callbacks
    for callback in keras.tree.flatten(callbacks or []):
        if isinstance(callback, (keras.callbacks.ModelCheckpoint, keras.callbacks.BackupAndRestore)):
            if callback.save_freq != "epoch":
                return True
        elif isinstance(callback, keras.callbacks.TensorBoard):
            if callback.update_freq != "epoch" or getattr(callback, "_stop_batch", True):  # profiles
                return True
        elif not isinstance(callback, (keras.callbacks.History, keras.callbacks.ProgbarLogger)):
            for hook in _BATCH_HOOKS:
                if hook in vars(callback) or getattr(type(callback), hook) is not getattr(
                    keras.callbacks.Callback, hook
                ):
                    return True
    return False
