"""Lanes: softmax regressions that differ only in how they are trained, all trained by one matrix product.

``K`` models of ``C`` classes that see the same rows in the same order are one model of ``K * C`` outputs: lanes share
rows and no weights, so each lane has the gradient that it would have alone. Nothing is approximated; the product is
wider, and one wide product costs far less than ``K`` narrow ones.

Kernels are kept transposed, ``(C, K, F)``: their gradient ``errorᵀ x`` comes out so, at full speed (see
``tfsoftmax.fitting.epochs``). Classes come before lanes, so that softmax runs over whole vectors of lanes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfsoftmax.fitting import compilable
from tfsoftmax.fitting.losses import SmoothedCrossentropy
from tfsoftmax.rows import Rows, preprocess
from tfsoftmax.spec import ModelSpec
from tfsoftmax.windows import Buffers


@dataclasses.dataclass(frozen=True)
class Lane:
    """How one model is trained; the arguments are those of ``SoftmaxRegression`` with SGD."""

    lr: float
    momentum: float = 0.0
    l2: float = 0.0
    label_smoothing: float = 0.0
    decay_steps: int | None = None


def lane_of(model: keras.Model) -> Lane | str:
    """The lane that trains this compiled model, or why none can."""
    if why := compilable.unsupported(model):
        return why
    if compilable.distributed(model):
        return "it is trained under a tf.distribute strategy"
    if model.layers[1].compute_dtype != "float32":
        return f"it computes in {model.layers[1].compute_dtype}"
    dense, optimizer = model.layers[1], model.optimizer
    if type(optimizer) is not keras.optimizers.SGD or optimizer.nesterov:
        return "its optimizer is not SGD, with momentum or without"
    if optimizer.weight_decay or optimizer.use_ema or optimizer.gradient_accumulation_steps:
        return "its optimizer decays weights, averages them or accumulates gradients"
    if optimizer.clipnorm or optimizer.clipvalue or optimizer.global_clipnorm:
        return "its optimizer clips gradients"
    if not dense.use_bias or dense.bias_regularizer or dense.kernel_constraint or dense.bias_constraint:
        return "its Dense has no bias, or a regularizer of the bias, or a constraint"
    regularizer = dense.kernel_regularizer
    if regularizer is not None and type(regularizer) is not keras.regularizers.L2:
        return "its kernel regularizer is not L2"
    rate = optimizer.get_config()["learning_rate"]
    decay_steps = None
    if not isinstance(rate, float):
        schedule = rate["config"]
        kind = rate["class_name"], rate.get("registered_name")
        if kind != ("CosineDecay", None) or schedule["alpha"] or schedule["warmup_steps"]:
            return "its learning rate schedule is not a cosine decay to 0"
        rate, decay_steps = schedule["initial_learning_rate"], schedule["decay_steps"]
    if why := _compiled_otherwise(model):
        return why
    if int(optimizer.iterations):
        return "its optimizer has taken steps before"
    smoothing = model.loss.label_smoothing if isinstance(model.loss, SmoothedCrossentropy) else 0.0
    return Lane(
        lr=float(rate),
        momentum=float(optimizer.momentum),
        l2=0.0 if regularizer is None else float(regularizer.l2),
        label_smoothing=smoothing,
        decay_steps=decay_steps,
    )


def _compiled_otherwise(model: keras.Model) -> str:
    """Why a lane does not compute or report what ``compile`` was asked for; empty if it does.

    ``jit_compile`` and ``steps_per_execution`` do not change results.
    """
    loss = model.loss
    if loss.reduction not in ("sum_over_batch_size", "mean", "mean_with_sample_weight") or loss.dtype != "float32":
        return f"its loss is reduced by {loss.reduction!r} in {loss.dtype}, not to the mean in float32"
    found = {metric.name: metric for metric in model.metrics}
    if list(found) != ["loss", "compile_metrics"]:
        return "it has no metric 'accuracy', or others"
    if not found["compile_metrics"].built:
        model.compute_metrics(None, tf.zeros((1,), tf.int32), tf.zeros((1, model.layers[1].units)))
        model.reset_metrics()
    metrics = [(type(metric), metric.name) for metric in found["compile_metrics"].metrics]
    if metrics != [(keras.metrics.SparseCategoricalAccuracy, "accuracy")]:
        return f"its metrics are {', '.join(name for _, name in metrics)}, not just accuracy"
    settings = keras.Model.get_compile_config(model)
    if not (settings["metrics"] or settings["weighted_metrics"]):  # Keras keeps those of an earlier compile
        return "it is compiled without metrics"
    if settings["loss_weights"] is not None:
        return f"its loss has the weights {settings['loss_weights']}"
    return ""


def lane_bytes(features: int, classes: int, batch_size: int) -> int:
    """Bytes of memory per lane: kernels, velocities, gradient and copies; logits, probabilities, errors."""
    return 4 * (8 * (features + 1) * classes + 8 * batch_size * classes)


class Lanes:
    """``K`` models in training.

    Args:
        lanes: how each is trained.
        weights: initial kernel ``(F, C)`` and bias ``(C,)`` of each.
        train: rows to train on; their order in epoch ``e`` is the same as in any other fit. Their weights are those
            in all lanes, ``(rows,)``, or in each, ``(rows, K)``.
        val: rows to validate on after each epoch; ``None``: no validation.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        weights: Sequence[tuple[np.ndarray, np.ndarray]],
        train: Rows,
        val: Rows | None,
    ):
        self.train, self.val = train, val
        self.device = "GPU:0" if tf.config.list_logical_devices("GPU") else "CPU:0"
        kernel = np.stack([kernel.T for kernel, _ in weights], axis=1)
        bias = np.stack([bias for _, bias in weights], axis=1)
        columns = {field.name: [getattr(lane, field.name) for lane in lanes] for field in dataclasses.fields(Lane)}
        columns["decay_steps"] = [0 if steps is None else steps for steps in columns["decay_steps"]]
        self.uses = frozenset(name for name, values in columns.items() if any(values)) - {"lr"}
        with tf.device(self.device):
            self.hyper = {name: tf.constant(values, tf.float32) for name, values in columns.items()}
            kernel, bias = tf.constant(kernel), tf.constant(bias)
            velocity = (tf.zeros_like(kernel), tf.zeros_like(bias)) if "momentum" in self.uses else ()
            self.state = (kernel, bias, *velocity)
        self.step, self._buffers = 0, Buffers()

    def epoch(self, epoch: int) -> dict[str, np.ndarray]:
        """Train one epoch, on rows in the order of ``epoch``, and validate.

        Returns:
            ``loss``, ``accuracy`` and with validation ``val_loss``, ``val_accuracy`` as Keras names and computes them,
            each float32 ``(K,)``.
        """
        with tf.device(self.device):
            sums = []
            for window in self.train.windows(epoch, self.device, buffers=self._buffers):
                self.state, found = _train(
                    *window.tensors(self.device), window.order, self.state, self.hyper, tf.constant(self.step),
                    window.batch_size, window.spec, self.uses,
                )  # fmt: skip
                sums.append(found)
                self.step += window.end - window.begin
            logs = _means(sums, len(self.train))
            if self.val is not None:
                sums = [
                    _evaluate(
                        *window.tensors(self.device), window.order, self.state, self.hyper,
                        window.batch_size, window.spec, self.uses,
                    )
                    for window in self.val.windows(0, self.device, buffers=self._buffers)
                ]  # fmt: skip
                logs |= {f"val_{name}": value for name, value in _means(sums, len(self.val)).items()}
        return {name: value.numpy() for name, value in logs.items()}

    def weights(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Kernel ``(F, C)`` and bias ``(C,)`` of each lane as they are now."""
        kernel, bias = self.state[0].numpy(), self.state[1].numpy()
        return [(np.ascontiguousarray(kernel[:, k].T), bias[:, k].copy()) for k in range(bias.shape[1])]


def _compiled(function: Any) -> Any:
    return tf.function(function, jit_compile=True, autograph=False)


@_compiled
def _train(
    x: tf.Tensor,
    y: tf.Tensor,
    weight: tf.Tensor | None,
    order: tf.Tensor,
    state: tuple[tf.Tensor, ...],
    hyper: dict[str, tf.Tensor],
    first_step: tf.Tensor,
    size: int,
    spec: ModelSpec,
    uses: frozenset[str],
) -> tuple[tuple[tf.Tensor, ...], tuple[tf.Tensor, tf.Tensor]]:
    """A window: the state after it, and the sums of losses and correct rows of each lane, as they are trained on."""

    def step(i: tf.Tensor, count: int, state: Any, sums: Any) -> tuple[Any, Any]:
        kernel, bias, *velocity = state
        rows, labels, weights = _batch(x, y, weight, order, i, size, count, spec)
        rate = hyper["lr"]
        if "decay_steps" in uses:
            steps = tf.maximum(hyper["decay_steps"], 1)
            part = tf.minimum(tf.cast(first_step + i, tf.float32), steps) / steps
            cosine = 0.5 * (1 + tf.cos(np.float32(np.pi) * part))
            rate = tf.where(hyper["decay_steps"] > 0, rate * cosine, rate)
        loss, hits, error = _losses(rows, labels, weights, kernel, bias, hyper, uses)
        gradient = tf.reshape(tf.matmul(error, rows, transpose_a=True), kernel.shape) / count
        if "l2" in uses:
            gradient += 2 * hyper["l2"][:, None] * kernel
        change = [-rate[:, None] * gradient, -rate * tf.reshape(tf.reduce_sum(error, axis=0), bias.shape) / count]
        if velocity:
            change[0] += hyper["momentum"][:, None] * velocity[0]
            change[1] += hyper["momentum"] * velocity[1]
            velocity = change
        return (kernel + change[0], bias + change[1], *velocity), (sums[0] + loss * count, sums[1] + hits)

    zero = tf.zeros_like(hyper["lr"])
    return _batches(step, order.shape[0], size, state, (zero, zero))


@_compiled
def _evaluate(
    x: tf.Tensor,
    y: tf.Tensor,
    weight: tf.Tensor | None,
    order: tf.Tensor,
    state: tuple[tf.Tensor, ...],
    hyper: dict[str, tf.Tensor],
    size: int,
    spec: ModelSpec,
    uses: frozenset[str],
) -> tuple[tf.Tensor, tf.Tensor]:
    """The sums of the losses and the correct rows of each lane."""

    def step(i: tf.Tensor, count: int, state: Any, sums: Any) -> tuple[Any, Any]:
        rows, labels, weights = _batch(x, y, weight, order, i, size, count, spec)
        loss, hits, _ = _losses(rows, labels, weights, state[0], state[1], hyper, uses)
        return state, (sums[0] + loss * count, sums[1] + hits)

    zero = tf.zeros_like(hyper["lr"])
    return _batches(step, order.shape[0], size, state, (zero, zero))[1]


def _batches(step: Any, rows: int, size: int, state: Any, sums: Any) -> tuple[Any, Any]:
    """Run ``step`` over all full batches and the last smaller one; both have static sizes."""
    full, rest = divmod(rows, size)
    if full:
        _, state, sums = tf.while_loop(
            lambda i, *_: i < full,
            lambda i, state, sums: (i + 1, *step(i, size, state, sums)),
            [tf.constant(0), state, sums],
        )
    return step(tf.constant(full), rest, state, sums) if rest else (state, sums)


def _batch(
    x: Any, y: Any, weight: Any, order: Any, i: Any, size: int, count: int, spec: ModelSpec
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor | None]:
    picked = tf.slice(order, [i * size], [count])
    rows = tf.reshape(preprocess(spec, tf.gather(x, picked)), (count, -1))
    return rows, tf.gather(y, picked), None if weight is None else tf.gather(weight, picked)


def _losses(
    rows: tf.Tensor,
    labels: tf.Tensor,
    weights: tf.Tensor | None,
    kernel: tf.Tensor,
    bias: tf.Tensor,
    hyper: dict[str, tf.Tensor],
    uses: Any,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Mean loss ``(K,)``, correct rows ``(K,)``, and softmax minus target ``(rows, C * K)``."""
    classes, lanes = bias.shape
    flat = tf.reshape(kernel, (classes * lanes, -1))
    logits = tf.reshape(tf.matmul(rows, flat, transpose_b=True), (-1, classes, lanes)) + bias
    index = tf.range(classes)[:, None]
    true = labels[:, None, None]
    hot = tf.equal(true, index)
    shifted = logits - tf.reduce_max(logits, axis=1, keepdims=True)
    exponentials = tf.exp(shifted)
    total = tf.reduce_sum(exponentials, axis=1, keepdims=True)
    of_label = tf.reduce_sum(tf.where(hot, shifted, 0.0), axis=1, keepdims=True)
    loss, asked = tf.math.log(total) - of_label, tf.cast(hot, tf.float32)
    if "label_smoothing" in uses:
        smoothing = hyper["label_smoothing"]
        loss += smoothing * (of_label - tf.reduce_mean(shifted, axis=1, keepdims=True))
        asked = asked * (1 - smoothing) + smoothing / classes
    if weights is not None:
        weights = tf.reshape(weights, (rows.shape[0], 1, -1))  # of each lane, or one of all
        loss *= weights
    loss = tf.reduce_mean(loss, axis=[0, 1])
    if "l2" in uses:
        loss += hyper["l2"] * tf.reduce_sum(kernel**2, axis=[0, 2])
    # as argmax: of equal logits the first class counts
    ahead = (shifted > of_label) | (tf.equal(shifted, of_label) & (index < true))
    right = tf.reduce_sum(tf.cast(~tf.reduce_any(ahead, axis=1), tf.float32), axis=0)
    error = exponentials / total - asked
    if weights is not None:
        error *= weights
    error = tf.reshape(error, (-1, classes * lanes))
    return loss, right, error


def _means(sums: Sequence[tuple[tf.Tensor, tf.Tensor]], rows: int) -> dict[str, tf.Tensor]:
    """Of the sums over windows."""
    loss, right = (functools.reduce(tf.add, parts) / rows for parts in zip(*sums, strict=True))
    return {"loss": loss, "accuracy": right}
