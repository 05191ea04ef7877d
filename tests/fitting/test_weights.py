"""Weights of rows and of classes: the same as Keras, compiled, in memory, streamed, under a strategy and as lanes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfsoftmax
from tfsoftmax.fitting.lanes import Lane, Lanes
from tfsoftmax.runs.evaluation import evaluate

CLASSES = {0: 2.0, 1: 0.5, 2: 1.0}


@pytest.fixture(scope="module")
def rows(source):
    spec = tfsoftmax.Data(source, batch_size=32).spec
    weights = np.random.default_rng(5).uniform(0, 3, len(source.x_train)).astype(np.float32)
    weights[:20] = 0
    index = np.flatnonzero(np.arange(len(weights)) % 5).astype(np.int32)
    held_out = np.flatnonzero(np.arange(len(weights)) % 5 == 0).astype(np.int32)
    x, y = source.x_train, source.y_train
    return (
        tfsoftmax.Rows(x, y, spec, 32, 3, index, weights),
        tfsoftmax.Rows(x, y, spec, 32, None, held_out, weights),
    )


@pytest.fixture(scope="module")
def expected(rows):
    """Keras on the same batches, with the product of both weights in its hands."""
    train, val = rows
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    dense = keras.layers.Dense(3, kernel_initializer="zeros", kernel_regularizer=keras.regularizers.L2(0.01))
    model = keras.Sequential([keras.layers.Flatten(), dense])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), loss, metrics=["accuracy"])
    of_class = tf.constant(list(CLASSES.values()))
    batches = train.dataset().map(lambda x, y, w: (x, y, w * tf.gather(of_class, y)))
    train.epoch.assign(0)
    history = model.fit(batches, validation_data=val.dataset(), epochs=3, verbose=0, shuffle=False).history
    return model.get_weights(), history


def fitted(train, val, scope=None, class_weight=CLASSES):
    with scope or tf.distribute.get_strategy().scope():
        model = tfsoftmax.SoftmaxRegression(3, lr=0.1, momentum=0.9, l2=0.01)
    history = model.fit(train, validation_data=val, epochs=3, verbose=0, class_weight=class_weight).history
    return model.get_weights(), history


def check(found, expected):
    for got, wanted in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    for name, values in expected[1].items():
        np.testing.assert_allclose(found[1][name], values, atol=1e-5, err_msg=name)


def test_in_memory(rows, expected):
    check(fitted(rows[0].dataset(), rows[1].dataset()), expected)


def test_streamed(rows, expected):
    of_class = tf.constant(list(CLASSES.values()))
    stream = rows[0].dataset().map(lambda x, y, w: (x, y, w * tf.gather(of_class, y)))
    check(fitted(stream, rows[1].dataset().map(lambda *batch: batch), class_weight=None), expected)


def test_mirrored(rows, expected):
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    check(fitted(rows[0].dataset(), rows[1].dataset(), strategy.scope()), expected)


def test_lanes(rows, expected, source):
    train, val = rows
    both = np.asarray(train._weight) * np.array(list(CLASSES.values()), np.float32)[source.y_train]
    train = tfsoftmax.Rows(source.x_train, source.y_train, train.spec, 32, 3, train.index, both)
    start = np.zeros((30, 3), np.float32), np.zeros(3, np.float32)
    lanes = Lanes([Lane(0.1, 0.9, 0.01), Lane(0.5)], [start, start], train, val)
    logs = [lanes.epoch(epoch) for epoch in range(3)]
    history = {name: [row[name][0] for row in logs] for name in logs[0]}
    # Keras keeps the accuracy of rows without their weights; so do lanes
    check((lanes.weights()[0], history), expected)


def test_a_row_of_weight_2_is_two_rows(source):
    spec = tfsoftmax.Data(source).spec
    x, y = source.x_train, source.y_train
    weights = np.where(np.arange(len(x)) < 50, 2, 1).astype(np.float32)
    once = tfsoftmax.Rows(x, y, spec, len(x), weight=weights)
    twice = tfsoftmax.Rows(np.concatenate([x, x[:50]]), np.concatenate([y, y[:50]]), spec, len(x) + 50)
    found = []
    for rows, lr in ((once, 0.1), (twice, 0.1 * (len(x) + 50) / len(x))):
        model = tfsoftmax.SoftmaxRegression(3, lr=lr)
        model.fit(rows.dataset(), epochs=3, verbose=0)
        found.append(model.get_weights())
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_evaluation_by_weight():
    logits = np.log(np.array([[0.7, 0.3], [0.4, 0.6], [0.9, 0.1]]))
    result = evaluate(logits, np.array([0, 0, 1]), ["a", "b"], np.array([1.0, 3.0, 0.0]))
    assert result["weighted"]["accuracy"] == pytest.approx(1 / 4)
    assert result["weighted"]["loss"] == pytest.approx(-(np.log(0.7) + 3 * np.log(0.4)) / 4)
    assert result["accuracy"] == pytest.approx(1 / 3)
    assert "weighted" not in evaluate(logits, np.array([0, 0, 1]), ["a", "b"])
