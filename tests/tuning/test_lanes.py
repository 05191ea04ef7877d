"""Lanes against separate fits and plain Keras; the curvature bound; label smoothing."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from alone import fit_alone
from conftest import make_rows
from hypothesis import given, settings
from hypothesis import strategies as st

import tfsoftmax
import tuning
from tfsoftmax.fitting.lanes import Lane, Lanes, lane_of

MIXED = [
    {"lr": 0.1},
    {"lr": 0.03, "momentum": 0.9},
    {"lr": 0.05, "l2": 0.01},
    {"lr": 0.2, "label_smoothing": 0.1},
    {"lr": 0.2, "decay_steps": 20},
    {"lr": 0.1, "momentum": 0.5, "l2": 0.001, "label_smoothing": 0.05, "decay_steps": 15},
]


@pytest.fixture(scope="module")
def data(source):
    return tfsoftmax.Data(source, batch_size=32, seed=3)


def fit_lanes(data, epochs, settings, initializer="zeros"):
    models = [tfsoftmax.SoftmaxRegression(len(data.classes), **one) for one in settings]
    for model in models:
        model.build((None, *data.spec.shape))
    starts = [tuple(model.get_weights()) for model in models]
    fitted = Lanes([lane_of(model) for model in models], starts, data.train.rows, data.val.rows)
    logs = [fitted.epoch(epoch) for epoch in range(epochs)]
    return fitted.weights(), logs


def same_as_alone(data, epochs, settings):
    weights, logs = fit_lanes(data, epochs, settings)
    for k, one in enumerate(settings):
        expected, history = fit_alone(data, epochs, **one)
        for got, wanted in zip(weights[k], expected, strict=True):
            np.testing.assert_allclose(got, wanted, atol=1e-5, err_msg=str(one))
        for name, values in history.items():
            np.testing.assert_allclose([log[name][k] for log in logs], values, atol=1e-5, err_msg=f"{one} {name}")


def test_lanes_are_separate_fits(data):
    same_as_alone(data, 3, MIXED)


@settings(max_examples=4, deadline=None)
@given(
    rows=st.integers(12, 60),
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple),
    classes=st.integers(2, 6),
    batch_size=st.integers(1, 70),
    picked=st.lists(st.sampled_from(range(len(MIXED))), min_size=1, max_size=4),
    preprocess=st.sampled_from(["unit", "center", "standardize"]),
)
def test_lanes_of_any_sizes(rows, shape, classes, batch_size, picked, preprocess):
    x, y = make_rows(rows, 5, shape, classes)
    source = tfsoftmax.Source("any", x, y, x[:1], y[:1], range(classes))
    any_data = tfsoftmax.Data(source, batch_size=batch_size, preprocess=preprocess, val=rows // 3)
    same_as_alone(any_data, 2, [MIXED[k] | {"initializer": "glorot_uniform", "seed": k} for k in picked])


def test_a_diverged_lane_leaves_its_neighbours_alone(data):
    wild = {"lr": 1e30, "l2": 1.0}
    weights, logs = fit_lanes(data, 3, [MIXED[2], wild, MIXED[0]])
    alone, _ = fit_lanes(data, 3, [MIXED[2], MIXED[2], MIXED[0]])  # as wide, so that the same sums are taken
    assert not np.isfinite(logs[-1]["loss"][1])
    for k in (0, 2):
        np.testing.assert_array_equal(weights[k][0], alone[k][0])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"optimizer": "adam"}, "not SGD"),
        ({"optimizer": keras.optimizers.SGD(0.1, nesterov=True, momentum=0.5)}, "not SGD"),
        ({"optimizer": keras.optimizers.SGD(0.1, clipnorm=1.0)}, "clips"),
        ({"optimizer": keras.optimizers.SGD(0.1, weight_decay=0.1)}, "decays"),
        ({"optimizer": keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.1, 5, 0.5))}, "cosine"),
    ],
)
def test_what_is_no_lane(change, why):
    assert why in lane_of(tfsoftmax.SoftmaxRegression(3, **change))


def test_lane_of_a_model():
    got = lane_of(tfsoftmax.SoftmaxRegression(3, **MIXED[-1]))
    assert got == Lane(
        lr=pytest.approx(0.1), momentum=0.5, l2=pytest.approx(0.001), label_smoothing=0.05, decay_steps=15
    )


def test_label_smoothing_is_keras_on_one_hot_labels(data):
    weights, history = fit_alone(data, 2, lr=0.1, label_smoothing=0.2)
    model = tfsoftmax.SoftmaxRegression(3)
    plain = keras.models.clone_model(model)
    plain.compile(
        keras.optimizers.SGD(0.1), keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.2)
    )
    data = tfsoftmax.Data(data.source, batch_size=32, seed=3)  # whose rows nobody has gone through
    theirs = plain.fit(data.train.map(lambda x, y: (x, tf.one_hot(y, 3))), epochs=2, verbose=0, shuffle=False).history
    np.testing.assert_allclose(weights[0], plain.get_weights()[0], atol=1e-5)
    np.testing.assert_allclose(history["loss"], theirs["loss"], atol=1e-5)


def test_a_smoothed_model_is_saved_plain(tmp_path):
    model = tfsoftmax.SoftmaxRegression(3, label_smoothing=0.1)
    model.build((None, 2, 2))
    model.save(tmp_path / "model.keras")
    assert type(keras.saving.load_model(tmp_path / "model.keras").loss) is keras.losses.SparseCategoricalCrossentropy


def test_curvature(data):
    x = (data.train.rows.x.reshape(len(data.train.rows), -1) - data.spec.offset) * data.spec.scale
    x = np.c_[x, np.ones(len(x))]
    largest = np.linalg.eigvalsh(x.T @ x / len(x))[-1]
    got = tuning.curvature(data.train.rows)
    assert got.largest == pytest.approx(largest, rel=1e-3)
    assert (got.bound, got.start) == (pytest.approx(2 / largest, rel=1e-3), pytest.approx(3 / largest, rel=1e-3))


def test_curvature_of_weighted_rows(data):
    rows = data.train.rows
    weight = np.random.default_rng(0).uniform(0, 3, len(rows.x)).astype(np.float32)
    got = tuning.curvature(tfsoftmax.Rows(rows.x, rows.y, data.spec, 32, weight=weight))
    x = (rows.x.reshape(len(rows), -1) - data.spec.offset) * data.spec.scale
    x = np.c_[x, np.ones(len(x))]
    assert got.largest == pytest.approx(np.linalg.eigvalsh((x.T * weight) @ x / len(x))[-1], rel=1e-3)
