"""Plain Keras `fit`: the usual pipelines, by the row and by the batch."""

import json
import sys
import time

import keras
import numpy as np
import tensorflow as tf

case = json.loads(sys.argv[1])
x, y = np.load(case["folder"] + "/x_train.npy"), np.load(case["folder"] + "/y_train.npy")
rows = tf.data.Dataset.from_tensor_slices((x, y))


def scale(x, y):
    """Pixels to [0, 1]."""
    return tf.cast(x, tf.float32) / 255, y


if case["case"] == "rows":
    train = rows.map(scale).shuffle(len(x), seed=0).batch(256).prefetch(tf.data.AUTOTUNE)
else:
    train = (
        rows.shuffle(len(x), seed=0)
        .batch(256)
        .map(scale, num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
model = keras.Sequential([keras.layers.Input((28, 28)), keras.layers.Flatten(), keras.layers.Dense(10)])
model.compile(
    keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"]
)
seconds = []
for _ in range(case["epochs"]):
    begin = time.perf_counter()
    model.fit(train, epochs=1, verbose=0, shuffle=False)
    seconds.append(time.perf_counter() - begin)
print(json.dumps({"seconds": seconds}))
