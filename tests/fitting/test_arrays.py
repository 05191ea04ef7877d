"""Arrays given to fit: the same as Keras, whatever they are held in."""

import keras
import numpy as np
import pandas as pd
import pytest

import tfsoftmax

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 7)).astype(np.float32), RNG.integers(0, 3, 90)
W = RNG.uniform(0, 2, 90)

GIVEN = {
    "plain": {"x": X, "y": Y},
    "float64 and columns": {"x": X.astype(np.float64), "y": Y[:, None].astype(np.float32)},
    "pixels": {"x": RNG.integers(0, 9, (90, 4, 5), np.uint8), "y": Y.astype(np.uint8)},
    "whole numbers": {"x": RNG.integers(0, 9, (90, 7)), "y": Y},
    "frames": {"x": pd.DataFrame(X, columns=list("abcdefg")), "y": pd.Series(Y)},
    "weights": {"x": X, "y": Y, "sample_weight": W},
    "class weights": {"x": X, "y": Y, "class_weight": {0: 2.0, 2: 0.5}},
    "split": {"x": X, "y": Y, "sample_weight": W, "validation_split": 0.3},
    "validation": {"x": X, "y": Y, "validation_data": (X[:20], Y[:20], W[:20])},
    "a generator to validate on": {"x": X, "y": Y, "validation_data": "generator"},
    "steps": {"x": X, "y": Y, "steps_per_epoch": 2, "epochs": 1},
    "tensors": {"x": keras.ops.convert_to_tensor(X), "y": keras.ops.convert_to_tensor(Y)},
}


def fitted(make, given):
    given = dict(given)
    if given.get("validation_data") == "generator":
        given["validation_data"] = ((X[:10], Y[:10]) for _ in range(9))
        given["validation_steps"] = 1
    model = make()
    given = {"epochs": 3, "batch_size": 25, "shuffle": False, "verbose": 0, **given}
    return model.get_weights(), model.fit(**given).history, model


def plain():
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, kernel_initializer="zeros")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.5), loss, metrics=["accuracy"], run_eagerly=True)
    return model


@pytest.mark.parametrize("case", GIVEN)
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_the_same_as_keras(case):
    _, expected, model = fitted(plain, GIVEN[case])
    _, found, ours = fitted(lambda: tfsoftmax.SoftmaxRegression(3, lr=0.05, momentum=0.5), GIVEN[case])
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, atol=1e-5, err_msg=name)
    for a, b in zip(ours.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_shuffled_by_the_seed_of_keras():
    def weights(seed):
        keras.utils.set_random_seed(seed)
        model = tfsoftmax.SoftmaxRegression(3, lr=0.3)
        model.fit(X, Y, batch_size=10, epochs=2, verbose=0)
        return model.get_weights()[0]

    first = weights(1)
    np.testing.assert_array_equal(first, weights(1))
    assert np.abs(first - weights(2)).max() > 1e-4


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"x": X, "y": Y[:50]}, "cardinality"),
        ({"x": X, "y": Y, "validation_split": 1.0}, "validation_split|empty"),
        ({"x": X, "y": Y + 3}, r"outside \[0, 3\)|outside the model's 3 outputs"),
    ],
)
def test_what_does_not_fit_is_refused(given, error):
    with pytest.raises((ValueError, tfsoftmax.InputError), match=error):
        tfsoftmax.SoftmaxRegression(3).fit(**given, verbose=0)
