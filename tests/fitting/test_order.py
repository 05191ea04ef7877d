"""The order of the rows depends on the seed and on the epochs that ``fit`` trains, and on nothing before."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from compared import made_source

import tfsoftmax


class Entropy(keras.metrics.MeanMetricWrapper):
    """Not known to compile: the fit goes Keras's own way."""

    def __init__(self):
        super().__init__(lambda y, logits: -keras.ops.sum(keras.ops.log_softmax(logits), axis=-1), name="entropy")


def made_data():
    return tfsoftmax.Data(made_source(), batch_size=16, val=40)


def made_model(metric="accuracy"):
    model = tfsoftmax.SoftmaxRegression(3)
    model.compile("sgd", model.loss, metrics=[metric])
    model.build((None, 4, 3))
    return model


def weights(model, x, **fit):
    """What a fit from the start comes to."""
    model.set_weights([np.zeros((12, 3)), np.zeros(3)])
    model.fit(x, verbose=0, **fit)
    return model.get_weights()[0]


FITS = {
    "rows": lambda model, data: weights(model, data.train, epochs=2),
    "stream": lambda model, data: weights(model, data.train.map(lambda x, y: (2 * x, y)), epochs=2),
    "repeated": lambda model, data: weights(model, data.train.repeat(), epochs=3, steps_per_epoch=3),
    "some steps": lambda model, data: weights(model, data.train, epochs=3, steps_per_epoch=3),
}


@pytest.mark.parametrize("metric", ["accuracy", Entropy()], ids=["compiled", "Keras's own way"])
@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras, at the end of the rows amid an epoch
def test_each_fit_on_one_data_object_is_the_same(metric):
    data, model = made_data(), made_model(metric)
    first = {name: fit(model, data) for name, fit in FITS.items()}
    for name, fit in reversed(FITS.items()):
        list(data.train.take(1))
        np.testing.assert_array_equal(fit(model, data), first[name], err_msg=name)
    fresh = made_model(metric)
    for name, fit in FITS.items():
        np.testing.assert_array_equal(fit(fresh, made_data()), first[name], err_msg=name)


def test_a_fit_that_goes_on_sees_the_epochs_that_follow():
    data, model = made_data(), made_model()
    whole = weights(model, data.train, epochs=3)
    first = weights(model, data.train, epochs=2)
    model.fit(data.train, initial_epoch=2, epochs=3, verbose=0)
    np.testing.assert_array_equal(model.get_weights()[0], whole)
    assert np.abs(first - whole).max() > 1e-5
    weights(model, data.train)
    model.fit(data.train, initial_epoch=0, epochs=2, verbose=0)
    assert np.abs(model.get_weights()[0] - whole).max() > 1e-5, "the first epoch twice is not the first two"


def test_rows_gone_through_by_hand_are_shuffled_anew_each_time():
    data = made_data()

    def labels(dataset):
        return np.concatenate([y for _, y in dataset.as_numpy_iterator()])

    passes = [labels(data.train) for _ in range(3)]
    assert not (passes[0] == passes[1]).all()
    assert not (passes[1] == passes[2]).all()
    made_model().fit(data.train.map(lambda x, y: (x, y)), epochs=2, verbose=0)
    assert not (labels(data.train) == labels(data.train)).all()
    for shuffled in passes:
        np.testing.assert_array_equal(np.sort(shuffled), np.sort(passes[0]))


def test_reading_rows_while_a_fit_runs_changes_nothing():
    data, model = made_data(), made_model()
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: list(data.train), on_epoch_end=lambda epoch, logs: list(data.train.take(1))
    )
    for x in (data.train, data.train.map(lambda x, y: (x, y))):
        np.testing.assert_array_equal(weights(model, x, epochs=3, callbacks=[look]), weights(model, x, epochs=3))


def test_replicas_see_the_same_order():
    data, model = made_data(), made_model()
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        replicated = made_model()
    for name in ("rows", "stream"):
        first = FITS[name](replicated, data)
        np.testing.assert_array_equal(FITS[name](replicated, data), first)
        np.testing.assert_allclose(first, FITS[name](model, data), atol=1e-6)
