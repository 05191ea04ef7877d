"""SoftmaxRegression: the Keras Sequential of Flatten and Dense, with its loss, optimizer and metric."""

from __future__ import annotations

import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

# isort: split

import keras

from tfsoftmax._checks import INT32, fraction, number, one_of
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.epochs import accelerate
from tfsoftmax.fitting.losses import SmoothedCrossentropy, save_plain_loss

# name -> Keras class; `--optimizer` takes these names.
OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "adamw": keras.optimizers.AdamW,
    "lion": keras.optimizers.Lion,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}
# name -> Keras dtype policy of the Dense
PRECISIONS = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def SoftmaxRegression(  # a class in the chapter, hence its name
    num_outputs: int,
    lr: float = 0.1,
    *,
    optimizer: str | keras.optimizers.Optimizer = "sgd",
    momentum: float = 0.0,
    l2: float = 0.0,
    label_smoothing: float = 0.0,
    decay_steps: int | None = None,
    initializer: str | keras.initializers.Initializer = "zeros",
    seed: int | None = None,
    precision: str = "float32",
) -> keras.Sequential:
    """Softmax regression: ``logits = Flatten(x) @ kernel + bias``, compiled and ready for ``fit``.

    The loss is ``SparseCategoricalCrossentropy(from_logits=True)``: softmax and logarithm in one, by log-sum-exp, so
    that large logits neither overflow nor give ``log(0)``. The problem is convex, so zero weights are as good a start
    as any, and make the result independent of a seed.

    Args:
        num_outputs: number of classes, at least 2.
        lr: learning rate, above 0; not used if ``optimizer`` is an object.
        optimizer: a name in ``OPTIMIZERS`` or any Keras optimizer.
        momentum: of ``"sgd"``, in [0, 1).
        l2: adds ``l2 * sum(kernel ** 2)`` to the loss; the bias is not penalized.
        label_smoothing: in [0, 1); the target probability of each other class is ``label_smoothing / num_outputs`` in
            training. The saved model has the plain loss.
        decay_steps: steps over which the learning rate falls from ``lr`` to 0 along half a cosine; ``None``: constant.
        initializer: of the kernel.
        seed: of an initializer given by name.
        precision: ``"bfloat16"`` rounds the factors of the matrix products, for TPUs and GPUs that multiply bfloat16
            faster; variables, sums and the optimizer stay float32 (Keras's policy ``mixed_bfloat16`` for the Dense).

    Returns:
        A ``keras.Sequential`` of ``Flatten`` and ``Dense``: takes float32 ``(batch, *shape)``, returns float32 logits
        ``(batch, num_outputs)``. What it saves opens in Keras without tfsoftmax.

    Raises:
        InputError: an argument out of range.
    """
    num_outputs = number("num_outputs", num_outputs, 2, INT32, whole=True)
    l2 = number("l2", l2, 0)
    label_smoothing = fraction("label_smoothing", label_smoothing)
    one_of("precision", precision, PRECISIONS)
    if decay_steps is not None:
        decay_steps = number("decay_steps", decay_steps, 1, whole=True)
    if isinstance(optimizer, str):
        optimizer = _optimizer(optimizer, lr, momentum, decay_steps)
    if isinstance(initializer, str):
        initializer = keras.initializers.get(initializer)
        if seed is not None and "seed" in (config := initializer.get_config()):
            initializer = type(initializer).from_config({**config, "seed": seed})
    regularizer = keras.regularizers.L2(l2) if l2 else None
    model = keras.Sequential(
        [
            # everything that Keras has global settings for is explicit, so that none changes what is trained and
            # exported
            keras.layers.Flatten(data_format="channels_last", dtype="float32", name="flatten"),
            keras.layers.Dense(
                num_outputs,
                kernel_initializer=initializer,
                kernel_regularizer=regularizer,
                dtype=PRECISIONS[precision],
                name="logits",
            ),
        ],
        name="softmax_regression",
    )
    model.dtype_policy = "float32"
    plain = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float32")
    model.compile(
        optimizer=optimizer,
        loss=SmoothedCrossentropy(label_smoothing) if label_smoothing else plain,
        metrics=["accuracy"],
    )
    save_plain_loss(model)
    return accelerate(model)


def _optimizer(name: str, lr: float, momentum: float, decay_steps: int | None) -> keras.optimizers.Optimizer:
    one_of("optimizer", name, OPTIMIZERS)
    lr = number("lr", lr, 0, open_low=True)
    momentum = fraction("momentum", momentum)
    if momentum and name != "sgd":
        raise InputError(f"momentum goes with optimizer 'sgd', got momentum={momentum!r} with {name!r}")
    rate = keras.optimizers.schedules.CosineDecay(lr, decay_steps) if decay_steps is not None else lr
    extra = {"momentum": momentum} if momentum else {}
    return OPTIMIZERS[name](learning_rate=rate, name=name, **extra)  # Keras would count: sgd, sgd_1, …
