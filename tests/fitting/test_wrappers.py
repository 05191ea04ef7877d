"""Tools that stand around ``keras.Model.fit`` see the user's data, and change nothing."""

import itertools

import keras
import mlflow
import mlflow.tensorflow
import numpy as np
import pytest
import tensorflow as tf
from compared import made_source

import tfsoftmax


def made_data():
    return tfsoftmax.Data(made_source(), batch_size=16, val=40)


def fitted(**fit):
    data, model = made_data(), tfsoftmax.SoftmaxRegression(3)
    history = model.fit(data.train, validation_data=data.val, epochs=3, verbose=0, **fit).history
    return model.get_weights()[0], history


def test_a_bare_wrapper_is_handed_finite_data_that_says_what_it_is(monkeypatch):
    keras_fit, expected, seen, steps = keras.Model.fit, fitted(class_weight={2: 2.0}), [], []

    def fit(self, *args, **kwargs):
        for dataset in (args[0], kwargs["validation_data"]):
            batches = list(itertools.islice(dataset.as_numpy_iterator(), 1000))
            seen.append((dataset.element_spec, int(dataset.cardinality()), sum(len(y) for _, y in batches)))
        count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: steps.append(batch))
        return keras_fit(self, *args, **{**kwargs, "callbacks": [*kwargs["callbacks"], count]})

    monkeypatch.setattr(keras.Model, "fit", fit)
    weights, history = fitted(class_weight={2: 2.0})
    spec = made_data().train.element_spec
    assert seen == [(spec, 4, 60), (spec, 3, 40)]
    assert steps == [0, 1, 2, 3] * 3, "a callback that the wrapper adds is called for each batch"
    np.testing.assert_allclose(weights, expected[0], atol=1e-6)
    assert {name: pytest.approx(values, abs=1e-6) for name, values in history.items()} == expected[1]


def test_a_wrapper_of_evaluate(monkeypatch):
    keras_evaluate, seen = keras.Model.evaluate, []
    data, model = made_data(), tfsoftmax.SoftmaxRegression(3)
    expected = model.evaluate(data.test, verbose=0)

    def evaluate(self, *args, **kwargs):
        seen.append(int(args[0].cardinality()) if args else None)
        return keras_evaluate(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "evaluate", evaluate)
    assert model.evaluate(data.test, verbose=0) == pytest.approx(expected)
    assert seen == [1]


def test_a_wrapper_under_a_strategy(monkeypatch):
    keras_fit, seen = keras.Model.fit, []

    def fit(self, *args, **kwargs):
        seen.append((args[0].element_spec, int(args[0].cardinality), len(list(itertools.islice(args[0], 1000)))))
        return keras_fit(self, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "fit", fit)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        weights, _ = fitted()
    monkeypatch.undo()
    assert seen == [(made_data().train.element_spec, 4, 4)]
    np.testing.assert_allclose(weights, fitted()[0], atol=1e-6)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A file store for MLflow, whose patches of Keras are taken back at the end."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setattr(keras.Model, "fit", keras.Model.fit)
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    yield
    mlflow.tensorflow.autolog(disable=True)
    mlflow.set_tracking_uri(None)


@pytest.mark.filterwarnings("ignore::Warning:mlflow", "ignore::Warning:pydantic", "ignore:.*MLflow")
@pytest.mark.parametrize("how", ["autolog", "callback"])
def test_mlflow(how, store):
    expected = fitted()
    if how == "autolog":
        mlflow.tensorflow.autolog(log_models=False)
        weights, _ = fitted()
        run = mlflow.last_active_run()
    else:
        with mlflow.start_run() as run:
            weights, _ = fitted(callbacks=[mlflow.tensorflow.MlflowCallback()])
        run = mlflow.get_run(run.info.run_id)
    np.testing.assert_allclose(weights, expected[0], atol=1e-6)
    for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
        kept = mlflow.MlflowClient().get_metric_history(run.info.run_id, name)
        kept.sort(key=lambda point: point.step)  # it writes them in threads
        assert [point.value for point in kept] == pytest.approx(expected[1][name], abs=1e-6)
    if how == "autolog":
        assert run.data.params["epochs"] == "3"
        profiles = [given.dataset.profile for given in run.inputs.dataset_inputs]
        assert sorted(profiles) == ['{"features_cardinality": 3}', '{"features_cardinality": 4}']
