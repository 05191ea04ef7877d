"""Names of other packages that are not public: the installed releases have them; without one, it is done another way.

A name is taken away as a new release would: the attribute has another name, in the other package's own code, too.
"""

import keras
import keras_tuner
import numpy as np
import pytest
import serve
import tensorflow as tf
from keras.src.backend.tensorflow.trainer import TensorFlowTrainer
from keras.src.trainers.compile_utils import CompileMetrics
from keras_tuner.src.engine.base_tuner import BaseTuner

import tfsoftmax
import tuning
from tfsoftmax._private import NAMES, find
from tfsoftmax.fitting import step

HTTP = "uvicorn.protocols.http.httptools_impl"
RENAMING = """
import inspect

def rename(setattr, delattr, name, *kinds):
    for kind in kinds:
        for method in map(inspect.unwrap, filter(inspect.isfunction, list(vars(kind).values()))):
            code = method.__code__
            names = tuple("new" + name if used == name else used for used in code.co_names)
            setattr(method, "__code__", code.replace(co_names=names))
        if name in vars(kind):
            setattr(kind, "new" + name, vars(kind)[name])
            delattr(kind, name)
"""
exec(RENAMING)  # again in the process of the server


@pytest.fixture
def take_away(monkeypatch):
    def take(name, *kinds):
        rename(lambda *given: monkeypatch.setattr(*given, raising=False), monkeypatch.delattr, name, *kinds)  # noqa: F821

    return take


def test_the_installed_releases_have_every_name():
    assert [name.where for name in NAMES if not name.there] == []


def fits(source, strategy=None):
    """Weights of a model of ours after one epoch."""
    data = tfsoftmax.Data(source, batch_size=50, val=40)
    with (strategy or tf.distribute.get_strategy()).scope():
        model = tfsoftmax.SoftmaxRegression(3)
    model.fit(data.train, validation_data=data.val, verbose=0)
    return model.get_weights()[0]


def test_fit_without_names_of_keras(source, take_away, monkeypatch, caplog):
    expected = fits(source)
    take_away("_maybe_symbolic_build", TensorFlowTrainer)
    take_away("_stop_batch", keras.callbacks.TensorBoard)
    monkeypatch.setattr(step, "_barrier", find("tensorflow.compiler.tf2xla.ops.gen_xla_ops:renamed"))
    np.testing.assert_allclose(fits(source), expected, atol=1e-6)
    assert not caplog.records
    np.testing.assert_allclose(fits(source, tf.distribute.MirroredStrategy(["CPU:0"])), expected, atol=1e-6)
    assert f"which is slower: keras {keras.__version__} has no Model._maybe_symbolic_build" in caplog.text
    compiled = property(lambda metrics: "compiled", lambda metrics, name: None)
    monkeypatch.setattr(CompileMetrics, "name", compiled, raising=False)
    np.testing.assert_allclose(fits(source), expected, atol=1e-6)
    assert "which is slower: its metric compiled is not one that it is compiled with" in caplog.text


def test_a_search_without_names_of_keras_tuner(source, take_away, tmp_path, caplog):
    data, space = tfsoftmax.Data(source, batch_size=64), {"lr": (0.01, 0.1)}

    def search(folder):
        oracle, hypermodel = tuning.GridOracle("val_loss", space, 2), tuning.SoftmaxHyperModel(data, space=space)
        tuner = tuning.LaneTuner(oracle, hypermodel, directory=tmp_path, project_name=folder)
        tuner.search(data.train, validation_data=data.val, epochs=1, verbose=0)
        (best,) = tuner.get_best_models(1)
        return [trial.score for trial in oracle.trials.values()], best.evaluate(data.val, verbose=0)[0]

    scores, best = search("lanes")
    assert min(scores) == pytest.approx(best, abs=1e-5)
    names = [name.where.rpartition(".")[2] for name in NAMES if name.use in ("lanes", "hooks")]
    for name in names:
        take_away(name, BaseTuner, keras_tuner.Tuner)
    found, best = search("alone")
    np.testing.assert_allclose(found, scores, atol=1e-5)
    assert min(found) == pytest.approx(best, abs=1e-5)
    assert f"keras_tuner {keras_tuner.__version__} has no Tuner.{names[0]}" in caplog.text


def test_a_server_without_names_of_uvicorn(tmp_path, monkeypatch):
    renamed = "rename(setattr, delattr, 'cycle', HttpToolsProtocol)\n"
    monkeypatch.setattr(
        serve, "PROGRAM", RENAMING + f"from {HTTP} import HttpToolsProtocol\n" + renamed + serve.PROGRAM
    )
    serve.write_version(tmp_path / "m", 1, serve.SPEC, *serve.weights(0))
    with serve.Server(tmp_path / "m") as server:
        assert len(server.post("/v1/models/m:predict", serve.BODY)["predictions"]) == 1
        assert server.stop() == 0
    assert any("has no HttpToolsProtocol.cycle" in line for line in server.lines)
