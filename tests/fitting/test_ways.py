"""Which way a call goes is known before it begins: each case beside plain Keras, or NumPy by hand."""

import re

import keras
import numpy as np
import onnxruntime
import pandas
import pytest
import tensorflow as tf
from compared import made_source, plain, same

import tfsoftmax


class Entropy(keras.metrics.MeanMetricWrapper):
    """Not known to compile."""

    def __init__(self):
        super().__init__(lambda y, logits: -keras.ops.sum(keras.ops.log_softmax(logits), axis=-1), name="entropy")


def made_data(**settings):
    return tfsoftmax.Data(made_source(), batch_size=16, val=40, **settings)


def cross_entropy(model, x, y):
    """By hand, in float64."""
    kernel, bias = (np.float64(array) for array in model.get_weights())
    logits = np.float64(x).reshape(len(x), -1) @ kernel + bias
    return np.mean(np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y])


def made_stream(batches, seed=0):
    rng = np.random.default_rng(seed)
    x, y = (
        rng.normal(scale=1 + batches / 10, size=(5 * batches, 4, 3)).astype(np.float32),
        rng.integers(0, 3, 5 * batches),
    )
    return x, y, tf.data.Dataset.from_tensor_slices((x, y)).batch(5)


def test_streams_of_other_lengths_are_evaluated_whole_kerass_own_way():
    model = tfsoftmax.SoftmaxRegression(3, initializer="glorot_normal", seed=1)
    model.compile("sgd", model.loss, metrics=[Entropy()])
    for batches in (4, 40, 2):
        x, y, stream = made_stream(batches)
        assert model.evaluate(stream, verbose=0)[0] == pytest.approx(cross_entropy(model, x, y), rel=1e-5)


def of_unknown_width(stream):
    """The same batches, of whose inputs nobody knows the shape before they come."""

    def unknown(x, y):
        x = tf.py_function(lambda x: x, [x], tf.float32)
        x.set_shape((None, None, 3))
        return x, y

    return stream.map(unknown)


def test_calls_within_a_fit_run_all_their_batches():
    data, model, found = made_data(), tfsoftmax.SoftmaxRegression(3), []
    x, y, stream = made_stream(20)
    unknown = of_unknown_width(stream)
    model.build((None, 4, 3))
    model.predict(x, batch_size=5, verbose=0)

    def look(epoch, logs):
        found.append([model.evaluate(of, verbose=0)[0] for of in (unknown, stream)])
        assert found[-1] == pytest.approx([cross_entropy(model, x, y)] * 2, rel=1e-5)
        assert model.predict(x, batch_size=5, verbose=0).shape == (100, 3)

    model.fit(data.train, epochs=2, verbose=0, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=look)])
    assert len(found) == 2


@pytest.mark.parametrize("replicated", [False, True])
def test_a_validation_stream_that_does_not_fit(replicated, caplog):
    x, y, stream = made_stream(8)
    data = made_data()
    with (tf.distribute.MirroredStrategy(["CPU:0"]) if replicated else tf.distribute.get_strategy()).scope():
        model = tfsoftmax.SoftmaxRegression(3)
    history = model.fit(data.train, validation_data=of_unknown_width(stream), epochs=2, verbose=0).history
    assert history["val_loss"][1] == pytest.approx(cross_entropy(model, x, y), rel=1e-5)
    assert [record.getMessage() for record in caplog.records if record.name.startswith("tfsoftmax")] == [
        "training Keras's own way, which is slower: batches have no static shape: x (None, None, 3), y (None,)"
    ]


class Batches(keras.utils.PyDataset):
    """What does not say beforehand what it yields."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x) // 5

    def __getitem__(self, i):
        return self.x[5 * i : 5 * i + 5], self.y[5 * i : 5 * i + 5]


def test_data_of_other_kinds(caplog):
    model, found = tfsoftmax.SoftmaxRegression(3, initializer="glorot_normal", seed=1), []
    for batches in (4, 12):
        x, y, _ = made_stream(batches)
        x = x.reshape(len(x), -1)
        frame = pandas.DataFrame(x.astype(np.float64)), y
        for given in (frame, (x, y), (tf.constant(x), tf.constant(y))):
            found.append(model.evaluate(*given, batch_size=5, verbose=0)[0] - cross_entropy(model, x, y))
        assert "slower" not in caplog.text or batches == 12
        found.append(model.evaluate(Batches(x, y), verbose=0)[0] - cross_entropy(model, x, y))
    np.testing.assert_allclose(found, 0, atol=1e-5)
    assert caplog.text.count("the batches of Batches are not known beforehand") == 1


@pytest.mark.parametrize("mode", ["int8", "float8"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
def test_a_quantized_model_is_evaluated_kerass_own_way(mode, caplog):
    data, model = made_data(), tfsoftmax.SoftmaxRegression(3)
    model.fit(data.train, epochs=3, verbose=0)
    model.quantize(mode)
    found = model.evaluate(data.val, verbose=0)
    assert found == pytest.approx(keras.Model.evaluate(model, data.val.map(lambda x, y: (x, y)), verbose=0))
    assert f"it is quantized ({mode}_from_float32)" in caplog.text


@pytest.mark.parametrize("replicated", [False, True])
def test_the_scale_of_the_loss_changes_nothing(replicated, caplog):
    data, weights = made_data(), []
    for scale in (None, 128.0):
        with (tf.distribute.MirroredStrategy(["CPU:0"]) if replicated else tf.distribute.get_strategy()).scope():
            model = tfsoftmax.SoftmaxRegression(3, optimizer=keras.optimizers.SGD(0.1, loss_scale_factor=scale))
        model.fit(data.train, verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-6)
    assert np.abs(weights[0]).max() > 1e-3
    assert "slower" not in caplog.text


@keras.saving.register_keras_serializable("tests")
class Applied(keras.optimizers.SGD):
    """An optimizer that changes what Keras's train_step calls."""

    def apply_gradients(self, grads_and_vars):
        return super().apply_gradients([(2 * gradient, variable) for gradient, variable in grads_and_vars])


def test_an_optimizer_with_an_apply_gradients_of_its_own():
    same(made_data, lambda: tfsoftmax.SoftmaxRegression(3, optimizer=Applied(0.1)))


@pytest.mark.parametrize(
    ("when", "streamed"), [("on_train_begin", False), ("on_epoch_begin", False), ("on_epoch_begin", True)]
)
def test_stop_training(when, streamed):
    class Stop(keras.callbacks.Callback):
        pass

    setattr(Stop, when, lambda self, *args, **logs: setattr(self.model, "stop_training", True))
    same(
        made_data,
        lambda: tfsoftmax.SoftmaxRegression(3),
        x=(lambda data: data.train.map(lambda x, y: (x, y))) if streamed else None,
        callbacks=[Stop()],
    )


@pytest.mark.parametrize("limit", [3, 50])
@pytest.mark.filterwarnings("ignore:Limiting steps_per_epoch", "ignore:Your input ran out of data")
def test_max_steps_per_epoch(limit):
    keras.config.set_max_steps_per_epoch(limit)
    try:
        same(made_data, lambda: tfsoftmax.SoftmaxRegression(3), epochs=3)
    finally:
        keras.config.set_max_steps_per_epoch(None)


@pytest.mark.parametrize(
    ("on", "off", "why"),
    [
        (
            lambda: tf.config.run_functions_eagerly(True),
            lambda: tf.config.run_functions_eagerly(False),
            "tf.config.run_functions_eagerly is on",
        ),
        (
            tf.debugging.enable_check_numerics,
            tf.debugging.disable_check_numerics,
            "tf.debugging instruments each operation",
        ),
    ],
    ids=["eagerly", "check-numerics"],
)
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly` option is set")
def test_tensorflows_debugging(on, off, why, caplog):
    data, weights = made_data(), []
    for switch in (lambda: None, on, off):
        switch()
        try:
            model = tfsoftmax.SoftmaxRegression(3)
            model.fit(data.train, validation_data=data.val, epochs=2, verbose=0)
            weights.append(model.get_weights()[0])
        except BaseException:
            off()
            raise
    np.testing.assert_allclose(weights[1], weights[0], atol=1e-6)
    np.testing.assert_array_equal(weights[2], weights[0])
    told = [record.getMessage() for record in caplog.records if record.name.startswith("tfsoftmax")]
    assert told == [f"training Keras's own way, which is slower: {why}"]


@pytest.mark.parametrize("streamed", [False, True])
def test_class_weights_of_other_classes(streamed):
    data, weights = made_data(), []
    for model, weight in (
        (tfsoftmax.SoftmaxRegression(3), {np.int64(2): np.float32(3), 0: 0.5, 3: 9.0, -1: 4}),
        (plain(tfsoftmax.SoftmaxRegression(3)), {0: 0.5, 1: 1.0, 2: 3.0}),
    ):
        data = made_data()
        x = data.train.map(lambda x, y: (x, y)) if streamed else data.train
        model.fit(x, class_weight=weight, shuffle=False, verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-6)


@pytest.mark.parametrize("weights", ["balanced", [1.0, 2.0, 3.0], {"cat": 1.0}, {0: "high"}])
def test_what_is_no_class_weight(weights):
    data, model = made_data(), tfsoftmax.SoftmaxRegression(3)
    text = f"class_weight must be a dictionary from class number to weight, got {weights!r}"
    for x in (data.train, data.train.map(lambda x, y: (x, y))):
        with pytest.raises(tfsoftmax.InputError, match=re.escape(text)):
            model.fit(x, class_weight=weights, verbose=0)


def test_a_smoothed_model_compiled_again_saves_what_it_is_compiled_with(tmp_path):
    model = tfsoftmax.SoftmaxRegression(3, label_smoothing=0.1)
    kept = []
    for compiled in (None, ("adam", model.loss), ("rmsprop", "mse")):
        if compiled:
            model.compile(*compiled, metrics=["accuracy"])
        model.build((None, 4, 3))
        model.optimizer.build(model.trainable_variables)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        kept.append((type(loaded.optimizer).__name__, getattr(loaded.loss, "name", loaded.loss)))
    entropy = "sparse_categorical_crossentropy"
    assert kept == [("SGD", entropy), ("Adam", entropy), ("RMSprop", "mse")]


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_settings_of_keras_do_not_change_what_is_trained(policy, caplog):
    source = made_source()
    wide = (70_000 + 1000 * source.x_train.astype(np.float32)).astype(np.float32)
    data = made_data()
    expected = tfsoftmax.SoftmaxRegression(3, initializer="glorot_normal", seed=1)
    expected.fit(data.train, epochs=2, verbose=0)
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format("channels_first")
    try:
        model = tfsoftmax.SoftmaxRegression(3, initializer="glorot_normal", seed=1)
        model.fit(data.train, epochs=2, verbose=0)
        logits = model.predict(wide, verbose=0)
        rounded = tfsoftmax.SoftmaxRegression(3, precision="bfloat16")
    finally:
        keras.config.set_dtype_policy("float32")
        keras.config.set_image_data_format("channels_last")
    assert "slower" not in caplog.text
    np.testing.assert_array_equal(model.get_weights()[0], expected.get_weights()[0])
    kernel, bias = model.get_weights()
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, wide.reshape(100, -1).astype(np.float64) @ kernel + bias, rtol=1e-4, atol=20)
    assert rounded.layers[1].compute_dtype == "bfloat16"


def test_a_flatten_that_turns_its_inputs_is_not_compiled(caplog):
    data = made_data()
    model = keras.Sequential([keras.layers.Flatten(data_format="channels_first"), keras.layers.Dense(3)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    tfsoftmax.accelerate(model).fit(data.train, epochs=2, verbose=0)
    x = np.concatenate([x for x, _ in data.val.as_numpy_iterator()])
    assert model.evaluate(data.val, verbose=0)[0] == pytest.approx(
        cross_entropy(model, x.transpose(0, 2, 1), data.val.rows.y), rel=1e-5
    )
    assert "its Flatten turns the axes" in caplog.text


@pytest.mark.filterwarnings("ignore:In the future `np.object`")
def test_export_to_onnx_right_after_fit(tmp_path):
    data, model = made_data(), tfsoftmax.SoftmaxRegression(3)
    model.fit(data.train, verbose=0)
    model.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    x = next(data.test.as_numpy_iterator())[0]
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    logits = session.run(None, {session.get_inputs()[0].name: x})[0]
    np.testing.assert_allclose(logits, model.predict(x, verbose=0), atol=1e-5)


def test_predict_says_once_that_rows_are_raw(caplog):
    source, data, model = made_source(), made_data(), tfsoftmax.SoftmaxRegression(3)
    model.predict(source.x_train, verbose=0)
    model.fit(data.train, verbose=0)
    model.predict(data.test, verbose=0)
    assert "raw" not in caplog.text
    for _ in range(2):
        model.predict(source.x_train, verbose=0)
    model.predict(tf.data.Dataset.from_tensor_slices(source.x_train).batch(9), verbose=0)
    assert caplog.text.count("predict got raw uint8, but the model was fitted on preprocessed float32") == 1
    raw = tfsoftmax.SoftmaxRegression(3, 1e-3)
    raw.fit(source.x_train, source.y_train, verbose=0)
    raw.predict(source.x_train, verbose=0)
    assert caplog.text.count("predict got raw") == 1
