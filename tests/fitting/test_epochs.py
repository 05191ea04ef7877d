"""The compiled epoch against Keras's own way: the same weights, the same figures, the same calls of callbacks."""

import copy
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from compared import fitted, made_source, plain, same
from hypothesis import given, settings
from hypothesis import strategies as st

import tfsoftmax
from tfsoftmax.fitting import compiled, epochs

OPTIMIZERS = {
    "sgd": lambda steps: keras.optimizers.SGD(0.3),
    "momentum": lambda steps: keras.optimizers.SGD(0.1, momentum=0.9),
    "nesterov": lambda steps: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=1.0),
    "adam": lambda steps: keras.optimizers.Adam(0.01),
    "adamw": lambda steps: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "cosine": lambda steps: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.5, steps)),
}


@pytest.mark.parametrize(
    ("name", "batch_size"),
    [("momentum", 25), *((name, 32) for name in OPTIMIZERS)],
    ids=lambda value: {25: "divides", 32: "leaves-a-rest"}.get(value, value),
)
def test_rows_in_memory(name, batch_size, caplog):
    source = made_source()
    same(
        lambda: tfsoftmax.Data(source, batch_size=batch_size, val=25),
        lambda: tfsoftmax.SoftmaxRegression(3, optimizer=OPTIMIZERS[name](6), l2=0.01),
    )
    assert not caplog.records, "nothing went Keras's own way"


@settings(max_examples=4, deadline=None)  # each compiles
@given(
    rows=st.integers(12, 60),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    classes=st.integers(2, 9),
    batch_size=st.integers(1, 70),
    weighted=st.booleans(),
    streamed=st.booleans(),
)
def test_any_sizes(rows, shape, classes, batch_size, weighted, streamed):
    source = made_source(rows, shape, classes)
    same(
        lambda: tfsoftmax.Data(source, batch_size=batch_size, val=rows // 3),
        lambda: tfsoftmax.SoftmaxRegression(classes, lr=0.05, momentum=0.5),
        x=(lambda data: data.train.map(lambda x, y: (x, y))) if streamed else None,
        class_weight={label: 0.5 + label / classes for label in range(classes)} if weighted else None,
    )


@pytest.mark.parametrize("preprocess", ["unit", "center", "standardize"])
def test_preprocessing_in_the_loop(preprocess):
    source = made_source()
    same(
        lambda: tfsoftmax.Data(source, batch_size=32, preprocess=preprocess, val="test"),
        lambda: tfsoftmax.SoftmaxRegression(3, initializer="glorot_uniform", seed=4),
    )


def mapped(function):
    """``function`` of the batches; AutoGraph, which has nothing to convert, logs that it fails in Python 3.13."""
    return lambda data: data.train.map(tf.autograph.experimental.do_not_convert(function))


STREAMS = {
    "mapped": mapped(lambda x, y: (x, y)),
    "sample-weight": mapped(lambda x, y: (x, y, tf.cast(y, tf.float32) + 0.5)),
    "column-of-labels": mapped(lambda x, y: (x, y[:, None])),
    "unknown-size": lambda data: data.train.filter(tf.autograph.experimental.do_not_convert(lambda x, y: True)),
    "uint8": lambda data: tf.data.Dataset.from_tensor_slices((data.train.rows.x, data.train.rows.y)).batch(7),
    "prefetched": lambda data: data.train.prefetch(2),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras says so of a stream of unknown size
def test_streams(name, caplog):
    source = made_source()
    same(
        lambda: tfsoftmax.Data(source, batch_size=32, val="test"),
        lambda: tfsoftmax.SoftmaxRegression(3, lr=0.01),
        x=STREAMS[name],
        # where a stream ends without notice, Keras's own way counts a step that it did not make
        ignore=["iteration"] if name == "unknown-size" else [],
    )
    assert not caplog.records


def test_arrays_with_sample_weight_and_validation_split(caplog):
    source = made_source()
    x, weight = source.x_train / np.float32(255), np.linspace(0, 2, 100, dtype=np.float32)
    results = []
    for wrap in (lambda model: model, plain):
        model = wrap(tfsoftmax.SoftmaxRegression(3))
        history = model.fit(
            x,
            source.y_train,
            sample_weight=weight,
            batch_size=24,
            validation_split=0.2,
            epochs=3,
            shuffle=False,
            verbose=0,
        )
        results.append((model.get_weights(), history.history))
    for got, expected in zip(results[0][0], results[1][0], strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    for name, values in results[0][1].items():
        np.testing.assert_allclose(values, results[1][1][name], atol=1e-5)
    assert not caplog.records


def repeated(data):
    return data.train.repeat()


@pytest.mark.parametrize(
    "fit",
    [
        {"initial_epoch": 1, "epochs": 3},
        {"steps_per_epoch": 2, "epochs": 2, "x": repeated},
        {"steps_per_epoch": 2, "epochs": 1},
        {"validation_freq": 2, "epochs": 4},
        {"validation_steps": 1, "epochs": 2},
        {"validation": "test", "epochs": 1},
    ],
    ids=lambda fit: "-".join(fit),
)
def test_arguments_of_fit_mean_what_keras_says(fit):
    source = made_source()
    same(lambda: tfsoftmax.Data(source, batch_size=16, val=40), lambda: tfsoftmax.SoftmaxRegression(3), **fit)


class Calls(keras.callbacks.Callback):
    """Every call with its number, and what was in the logs."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(("epoch begin", epoch, self.params["steps"]))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch end", epoch, sorted(logs)))


class BatchCalls(Calls):
    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append(("begin", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(("end", batch, sorted(logs), round(logs["loss"], 4)))

    def on_test_batch_end(self, batch, logs=None):
        self.calls.append(("test", batch))


@pytest.mark.parametrize("kind", [Calls, BatchCalls])
@pytest.mark.parametrize("stream", [None, STREAMS["mapped"]], ids=["memory", "stream"])
def test_callbacks_are_called_as_by_keras(kind, stream):
    source, calls = made_source(), []
    for accelerated in (True, False):
        callback = kind()
        fitted(
            lambda: tfsoftmax.Data(source, batch_size=16, val=40),
            lambda: tfsoftmax.SoftmaxRegression(3),
            accelerated,
            callbacks=[callback],
            x=stream,
        )
        calls.append(callback.calls)
    assert calls[0] == calls[1]
    if kind is BatchCalls:
        assert sum(call[0] == "end" for call in calls[0]) == 2 * 4


def test_callbacks_that_stop_and_save(tmp_path):
    source = made_source()
    data, model = tfsoftmax.Data(source, batch_size=16), tfsoftmax.SoftmaxRegression(3)

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = batch == 1

    model.fit(data.train, epochs=3, callbacks=[Stop()], verbose=0)
    assert int(model.optimizer.iterations) == 2
    seen = []
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.evaluate(data.test, verbose=0))
    )
    model.fit(data.train, validation_data=data.val, epochs=2, callbacks=[checkpoint, look], verbose=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.keras", "2.keras"]
    assert len(seen) == 2
    loaded = keras.saving.load_model(tmp_path / "2.keras")
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    assert type(loaded).fit is keras.Model.fit


def test_evaluate_equals_keras():
    data, model = tfsoftmax.Data(made_source(), batch_size=16), tfsoftmax.SoftmaxRegression(3)
    model.fit(data.train, verbose=0)
    expected = plain(model)
    expected.set_weights(model.get_weights())
    for x in (data.test, data.val, data.val.map(lambda x, y: (x, y))):
        assert model.evaluate(x, verbose=0) == pytest.approx(expected.evaluate(x, verbose=0), abs=1e-6)
    assert model.evaluate(data.val, verbose=0, return_dict=True).keys() == {"loss", "accuracy"}
    assert model.evaluate(data.val, verbose=0, steps=1) == pytest.approx(
        expected.evaluate(data.val, verbose=0, steps=1)
    )


@pytest.mark.parametrize("broken", [[], [1], [0, 1, 2]], ids=["equal-logits", "one-nan", "all-nan"])
def test_accuracy_where_argmax_has_to_choose(broken):
    data, model = tfsoftmax.Data(made_source(), batch_size=16), tfsoftmax.SoftmaxRegression(3)
    model.build((None, 4, 3))
    model.set_weights([np.zeros((12, 3)), np.where(np.isin(range(3), broken), np.nan, 0.0)])
    predicted = broken[0] if broken else 0  # as NumPy's argmax
    expected = np.mean(data.test.rows.y == predicted)
    assert model.evaluate(data.test, verbose=0)[1] == pytest.approx(expected)


def test_second_fit_compiles_nothing(monkeypatch):
    traced = []
    linear = compiled.linear
    monkeypatch.setattr(compiled, "linear", lambda *given: traced.append(1) or linear(*given))
    data, model = tfsoftmax.Data(made_source(), batch_size=16), tfsoftmax.SoftmaxRegression(3)
    model.fit(data.train, validation_data=data.val, epochs=2, verbose=0)
    first = len(traced)
    assert first > 0
    model.optimizer.learning_rate = 0.01
    model.fit(data.train, validation_data=data.val, epochs=2, verbose=0)
    other = tfsoftmax.Data(made_source(seed=1), batch_size=16)
    model.fit(other.train, validation_data=other.val, epochs=1, verbose=0)
    assert len(traced) == first


def test_another_compile_and_a_larger_data_set():
    data, model = tfsoftmax.Data(made_source(), batch_size=16), tfsoftmax.SoftmaxRegression(3)
    model.fit(data.train, verbose=0)
    before = model.get_weights()
    model.compile(
        keras.optimizers.Adam(0.1), model.loss, metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)]
    )
    large = tfsoftmax.Data(made_source(300), batch_size=64)
    history = model.fit(large.train, verbose=0).history
    assert set(history) == {"accuracy", "loss", "sparse_top_k_categorical_accuracy"}
    assert (model.get_weights()[0] != before[0]).any()


FALLBACKS = {
    "its layers are": lambda model: (
        model.add(keras.layers.Dense(3)) or model.compile("sgd", model.loss, metrics=["accuracy"])
    ),
    "its loss is not": lambda model: model.compile("sgd", lambda y, o: model_loss(y, o), metrics=["accuracy"]),
    "train_step is not Keras's own": lambda model: setattr(
        model, "train_step", lambda data: type(model).train_step(model, data)
    ),
    "run_eagerly is on": lambda model: setattr(model, "run_eagerly", True),
    "its metric SparseEntropy is not known": lambda model: model.compile("sgd", model.loss, metrics=[SparseEntropy()]),
}
model_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class SparseEntropy(keras.metrics.MeanMetricWrapper):
    def __init__(self):
        super().__init__(lambda y, logits: -keras.ops.sum(keras.ops.log_softmax(logits), axis=-1), name="accuracy")


@pytest.mark.parametrize("why", FALLBACKS)
def test_what_cannot_be_compiled_goes_kerass_way(why, caplog):
    data = tfsoftmax.Data(made_source(), batch_size=16, val=40)
    model = tfsoftmax.SoftmaxRegression(3)
    model.build((None, 4, 3))
    FALLBACKS[why](model)
    with caplog.at_level(logging.WARNING):
        history = model.fit(data.train, validation_data=data.val, epochs=2, verbose=0).history
        model.evaluate(data.test, verbose=0)
    assert set(history) == {"accuracy", "loss", "val_accuracy", "val_loss"}
    assert history["loss"][1] < history["loss"][0]
    assert len(caplog.records) == 1
    assert why in caplog.text


def test_ragged_and_other_shapes_go_kerass_way(caplog):
    data, model = tfsoftmax.Data(made_source(), batch_size=16), tfsoftmax.SoftmaxRegression(3)
    dictionary = data.train.map(lambda x, y: ({"x": x}, y))
    with pytest.raises((ValueError, TypeError)):
        model.fit(dictionary, verbose=0)
    assert "not (x, y) or (x, y, sample_weight) of dense tensors" in caplog.text


def test_bfloat16_rounds_the_factors_alone(caplog):
    def rounded(array):
        return array.astype(tf.bfloat16.as_numpy_dtype).astype(np.float64)

    def data():
        return tfsoftmax.Data(made_source(), batch_size=16, val=40).train

    model, exact = (tfsoftmax.SoftmaxRegression(3, 0.5, precision=name) for name in ("bfloat16", "float32"))
    kernel, bias = np.zeros((12, 3)), np.zeros(3)
    for x, y in data():
        x = rounded(x.numpy().reshape(-1, 12))
        logits = x @ rounded(kernel) + bias
        error = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        error[np.arange(len(y)), y] -= 1
        error /= len(y)
        kernel -= 0.5 * x.T @ rounded(error)
        bias -= 0.5 * error.sum(axis=0)
    model.fit(data(), verbose=0)
    exact.fit(data(), verbose=0)
    assert not caplog.records
    assert {weight.dtype for weight in model.weights} == {"float32"}
    np.testing.assert_allclose(model.get_weights()[0], kernel, atol=2e-5)
    np.testing.assert_allclose(model.get_weights()[1], bias, atol=2e-5)
    assert np.abs(exact.get_weights()[0] - kernel).max() > 2e-4


def test_train_on_batch_and_predict_are_keras(source):
    data, model = tfsoftmax.Data(made_source(), batch_size=16), tfsoftmax.SoftmaxRegression(3)
    x, y = next(iter(data.train))
    expected = plain(model)
    for _ in range(2):
        ours, theirs = (m.train_on_batch(x, y, return_dict=True) for m in (model, expected))
        assert {name: float(ours[name]) for name in theirs} == pytest.approx(
            {name: float(theirs[name]) for name in theirs}, abs=1e-6
        )
    np.testing.assert_allclose(model.predict(data.test, verbose=0), expected.predict(data.test, verbose=0), atol=1e-6)


def test_labels_outside_are_refused_before_anything_changes():
    model = tfsoftmax.SoftmaxRegression(2)
    data = tfsoftmax.Data(made_source(classes=3), batch_size=16)
    with pytest.raises(tfsoftmax.InputError, match="label 2 is outside the model's 2 outputs"):
        model.fit(data.train, verbose=0)
    stream = data.train.map(lambda x, y: (x, tf.fill(tf.shape(y), -1)))
    with pytest.raises(tfsoftmax.InputError, match=r"the data has a label outside \[0, 2\)"):
        model.fit(stream, verbose=0)
    assert not model.get_weights()[0].any()


def test_copies_and_summary(capsys):
    data, model = tfsoftmax.Data(made_source(), batch_size=16), tfsoftmax.SoftmaxRegression(3)
    model.fit(data.train, verbose=0)
    copied = copy.deepcopy(model)
    np.testing.assert_array_equal(copied.get_weights()[0], model.get_weights()[0])
    again = epochs.accelerate(copied)
    again.fit(data.train, verbose=0)
    model.summary()
    assert "softmax_regression" in capsys.readouterr().out
