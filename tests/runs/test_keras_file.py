"""The weights of a run are read without Keras, and by Keras where its file is another."""

import shutil

import keras
import numpy as np
import pytest

import tfsoftmax
from tfsoftmax.runs.keras_file import weights_of


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished[0].folder, tmp_path / "run")
    return tfsoftmax.Run(tmp_path / "run")


def test_they_are_those_that_keras_reads(run):
    found = weights_of(run.folder / "model.keras", run.spec)
    for ours, theirs in zip(found, keras.saving.load_model(run.folder / "model.keras").get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("layers", [["Dense"], ["Dense", "Activation"]])
def test_another_model_is_read_by_keras(run, layers):
    made = {"Dense": lambda: keras.layers.Dense(3, "relu"), "Activation": lambda: keras.layers.Activation("linear")}
    shape = keras.Input(run.spec.features)
    model = keras.Sequential([shape, keras.layers.Flatten(), *(made[name]() for name in layers)])
    model.save(run.folder / "model.keras")
    assert weights_of(run.folder / "model.keras", run.spec) is None
    for ours, theirs in zip(run.weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("cut", [0, 100, -100])
def test_a_file_that_is_not_whole(run, cut):
    path = run.folder / "model.keras"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(tfsoftmax.InputError, match="cannot open the model"):
        run.evaluate()


def test_weights_that_do_not_fit(run):
    model = keras.Sequential([keras.Input(run.spec.features), keras.layers.Flatten(), keras.layers.Dense(4)])
    model.save(run.folder / "model.keras")
    with pytest.raises(tfsoftmax.InputError, match=r"returns \(4,\), and spec.json beside it says"):
        run.evaluate()
