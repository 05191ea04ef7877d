import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SHAPE

import tfsoftmax


def plain_keras(data, optimizer, epochs, l2=0.0):
    """The same model written with Keras alone, and fitted on an equal data set of its own."""
    model = keras.Sequential(
        [
            keras.layers.Input(data.spec.shape),
            keras.layers.Flatten(),
            keras.layers.Dense(
                len(data.classes),
                kernel_initializer="zeros",
                kernel_regularizer=keras.regularizers.L2(l2) if l2 else None,
            ),
        ]
    )
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(data.train, validation_data=data.val, epochs=epochs, verbose=0, shuffle=False)
    return model.get_weights(), history.history


def by_hand(data, lr, epochs):
    """Gradient descent on the mean cross-entropy, in float64."""
    kernel, bias = np.zeros((30, 3)), np.zeros(3)
    for _ in range(epochs):
        for x, y in data.train:
            x = x.numpy().reshape(len(x), -1).astype(np.float64)
            logits = x @ kernel + bias
            error = np.exp(logits - logits.max(axis=1, keepdims=True))
            error /= error.sum(axis=1, keepdims=True)
            error[np.arange(len(y)), y] -= 1
            kernel -= lr * x.T @ error / len(x)
            bias -= lr * error.mean(axis=0)
    return kernel, bias


def test_two_epochs_equal_plain_keras_and_numpy(source):
    data, same, again = (tfsoftmax.Data(source, batch_size=32, seed=3) for _ in range(3))
    model = tfsoftmax.SoftmaxRegression(3, lr=0.5)
    history = model.fit(data.train, validation_data=data.val, epochs=2, verbose=0).history
    weights, expected = plain_keras(same, keras.optimizers.SGD(0.5), epochs=2)
    for got, keras_way, hand in zip(model.get_weights(), weights, by_hand(again, 0.5, epochs=2), strict=True):
        assert np.abs(got).max() > 0.01
        np.testing.assert_allclose(got, keras_way, atol=1e-5)
        np.testing.assert_allclose(got, hand, atol=1e-5)
    assert history.keys() == expected.keys()
    for name in history:
        np.testing.assert_allclose(history[name], expected[name], atol=1e-5)


@pytest.mark.parametrize("scale", [1e4, 3e38])
@pytest.mark.parametrize("label", [0, 1, 2])
def test_loss_and_gradient_of_extreme_logits(scale, label):
    model = tfsoftmax.SoftmaxRegression(3)
    for signs in ([1, -1, 0], [1, 1, 1], [-1, -1, -1], [0.5, 0.25, 0.125]):
        logits = np.array([signs], np.float32) * np.float32(scale)
        with tf.GradientTape() as tape:
            tape.watch(variable := tf.constant(logits))
            loss = model.loss(tf.constant([label]), variable)
        shifted = logits.astype(np.float64) - logits.max()
        log_softmax = shifted - np.log(np.exp(shifted).sum())
        gradient = np.exp(log_softmax) - np.eye(3)[label]
        if -log_softmax[0, label] <= np.finfo(np.float32).max:  # 6e38, from +3e38 to -3e38, is beyond float32
            np.testing.assert_allclose(loss, -log_softmax[0, label], rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(tape.gradient(loss, variable), gradient, atol=1e-6)


def test_it_is_the_chapters_model():
    model = tfsoftmax.SoftmaxRegression(num_outputs=10, lr=0.1)
    assert type(model) is keras.Sequential
    assert [type(layer) for layer in model.layers] == [keras.layers.Flatten, keras.layers.Dense]
    assert isinstance(model.loss, keras.losses.SparseCategoricalCrossentropy)
    assert model.loss.get_config()["from_logits"] is True
    assert type(model.optimizer) is keras.optimizers.SGD
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1)


def test_initializers_optimizers_and_schedule():
    def kernel(**settings):
        model = tfsoftmax.SoftmaxRegression(3, **settings)
        model.build((None, *SHAPE))
        return model.layers[1].kernel.numpy()

    assert not kernel().any()
    normal = kernel(initializer="glorot_uniform", seed=1)
    np.testing.assert_array_equal(normal, kernel(initializer="glorot_uniform", seed=1))
    assert (normal != kernel(initializer="glorot_uniform", seed=2)).any()
    assert (kernel(initializer=keras.initializers.Constant(2.0)) == 2).all()
    optimizer = keras.optimizers.Nadam(0.01)
    assert tfsoftmax.SoftmaxRegression(3, optimizer=optimizer).optimizer is optimizer
    decaying = tfsoftmax.SoftmaxRegression(3, lr=0.4, decay_steps=10, momentum=0.5).optimizer
    assert decaying.momentum == 0.5
    assert float(decaying.get_config()["learning_rate"]["config"]["initial_learning_rate"]) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"num_outputs": 1}, "num_outputs must be a whole number of at least 2, got 1"),
        ({"lr": 0}, "lr must be a finite number above 0, got 0"),
        ({"lr": float("nan")}, "lr must be a finite number above 0, got nan"),
        ({"lr": "fast"}, "lr must be a finite number above 0, got 'fast'"),
        ({"l2": -1}, "l2 must be"),
        ({"optimizer": "sdg"}, "optimizer must be one of adam, adamw, lion, rmsprop, sgd, got 'sdg'"),
        ({"momentum": 1}, "momentum must be below 1"),
        ({"momentum": 0.9, "optimizer": "adam"}, "momentum goes with optimizer 'sgd'"),
    ],
)
def test_bad_arguments(settings, text):
    with pytest.raises(tfsoftmax.InputError, match=text):
        tfsoftmax.SoftmaxRegression(**{"num_outputs": 3, **settings})


def test_saved_model_opens_where_tfsoftmax_is_not_installed(finished, tmp_path):
    run, _ = finished
    x = np.random.default_rng(0).random((4, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    program = f"""
import sys
sys.modules["tfsoftmax"] = None  # importing it is an error
import keras, numpy as np
model = keras.saving.load_model({str(run.folder / "model.keras")!r})
np.save({str(tmp_path / "y.npy")!r}, model(np.load({str(tmp_path / "x.npy")!r})))
print(type(model).__name__, float(model.optimizer.learning_rate))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "Sequential"
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), run.model(x), atol=1e-6)
