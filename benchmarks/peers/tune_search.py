"""Sixteen learning rates on Fashion-MNIST, 50,000 rows and 10,000 to validate on: one fit, lanes, and one at a time."""

import json
import sys
import tempfile
import time

import keras
import keras_tuner
import numpy as np
import tensorflow as tf

import tfsoftmax
import tuning

case = json.loads(sys.argv[1])
arrays = {name: np.load(f"{case['folder']}/{name}.npy") for name in ("x_train", "y_train", "x_test", "y_test")}
epochs, trials = case["epochs"], case["trials"]
source = tfsoftmax.Source("fashion_mnist", **arrays, classes=range(10))
data = tfsoftmax.Data(source, val=10_000)
config = tfsoftmax.RunConfig(epochs=epochs)
rates = tuning.Range(0.003, 3.0)
folder = tempfile.mkdtemp()
asked = {"directory": folder, "project_name": "search"}


def fit(lr):
    """One model, trained alone."""
    tfsoftmax.SoftmaxRegression(10, lr).fit(data.train, validation_data=data.val, epochs=epochs, verbose=0)


def usual_build(hp):
    """What a KerasTuner tutorial builds."""
    model = keras.Sequential([keras.layers.Input((28, 28)), keras.layers.Flatten(), keras.layers.Dense(10)])
    model.compile(
        keras.optimizers.SGD(hp.Float("lr", rates.low, rates.high, sampling="log")),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def usual(rows):
    """The usual pipeline, by the row."""
    order = rows.index
    pairs = tf.data.Dataset.from_tensor_slices((arrays["x_train"][order], arrays["y_train"][order]))
    scaled = pairs.map(lambda x, y: (tf.cast(x, tf.float32) / 255, y))
    return scaled.shuffle(len(order), seed=0).batch(256).prefetch(tf.data.AUTOTUNE)


space = {"lr": rates}
begin = time.perf_counter()
if case["case"] == "fit":
    fit(0.1)
elif case["case"] == "sequential":
    for lr in np.geomspace(rates.low, rates.high, trials):
        fit(float(lr))
elif case["case"] == "lanes":
    oracle = tuning.GridOracle("val_accuracy", space, trials)
    tuning.LaneTuner(oracle, tuning.SoftmaxHyperModel(data, config, space), **asked).search(verbose=0)
elif case["case"] == "compiled":
    hypermodel = tuning.SoftmaxHyperModel(data, config, space)
    keras_tuner.RandomSearch(hypermodel, "val_accuracy", max_trials=trials, seed=1, **asked).search(verbose=0)
else:
    tuner = keras_tuner.RandomSearch(usual_build, "val_accuracy", max_trials=trials, seed=1, **asked)
    tuner.search(usual(data.train.rows), validation_data=usual(data.val.rows), epochs=epochs, verbose=0)
print(json.dumps({"seconds": time.perf_counter() - begin}))
