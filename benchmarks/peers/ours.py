"""This package: `model.fit` on rows in memory, streamed, and until the book's ten epochs are over."""

import json
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import tfsoftmax


class Seconds(keras.callbacks.Callback):
    """Wall-clock seconds of each epoch, validation included."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.begin)


case = json.loads(sys.argv[1])
arrays = {name: np.load(f"{case['folder']}/{name}.npy") for name in ("x_train", "y_train", "x_test", "y_test")}
if case.get("floats"):
    arrays |= {name: arrays[name].astype(np.float32) / 255 for name in ("x_train", "x_test")}
data = tfsoftmax.Data(tfsoftmax.Source("fashion_mnist", **arrays, classes=range(10)), val="test")
train = data.train
if case["case"] == "stream":
    x = arrays["x_train"].astype(np.float32) / 255
    train = tf.data.Dataset.from_tensor_slices((x, arrays["y_train"])).batch(256).prefetch(2)
model, clock = tfsoftmax.SoftmaxRegression(10, **case.get("optimizer", {})), Seconds()
begin = time.perf_counter()
model.fit(
    train,
    validation_data=data.val if case.get("validate") else None,
    epochs=case["epochs"],
    callbacks=[clock],
    verbose=0,
)
total = time.perf_counter() - begin
accuracy = model.evaluate(data.test, verbose=0, return_dict=True)["accuracy"]
print(json.dumps({"seconds": clock.seconds, "total": total, "accuracy": accuracy}))
