"""This package on made rows of one size: seconds an epoch, and the peak of memory above TensorFlow's own start."""

import json
import resource
import sys
import time

import keras
import numpy as np
import tensorflow as tf

import tfsoftmax
from tfsoftmax.sources.arrays import empty_aligned


def peak():
    """Largest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


case = json.loads(sys.argv[1])
tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1.0))  # TensorFlow and XLA have started
start = peak()
rows, features, classes = case["rows"], case["features"], case["classes"]
rng = np.random.default_rng(0)
x = empty_aligned((rows, features), np.uint8)  # as the sources read: TensorFlow shares this memory
for part in np.array_split(x, max(1, rows // 4096)):
    part[...] = rng.integers(0, 256, part.shape, np.uint8)
y = rng.integers(0, classes, rows)
spec = tfsoftmax.ModelSpec("made", (features,), "uint8", tuple(map(str, range(classes))), "unit", 0.0, 1 / 255)
train = tfsoftmax.Rows(x, y.astype(np.int32), spec, case["batch_size"], seed=0).dataset()
seconds = []


class Seconds(keras.callbacks.Callback):
    """Wall-clock seconds of each epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds.append(time.perf_counter() - self.begin)


model = tfsoftmax.SoftmaxRegression(classes, lr=0.01)
model.fit(train, epochs=2, callbacks=[Seconds()], verbose=0)
more = int(np.clip(8 / seconds[1], 3, 12))  # long epochs need fewer repetitions
model.fit(train, epochs=more, callbacks=[Seconds()], verbose=0)
print(
    json.dumps(
        {
            "first": seconds[0],
            "median": float(np.median(seconds[2:])),
            "raw_mb": x.nbytes / 2**20,
            "peak_mb": peak() - start,
        }
    )
)
