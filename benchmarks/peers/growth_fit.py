"""This package on made rows of one size: seconds an epoch, and the peak of memory above TensorFlow's own start."""

import json
import resource
import sys
import tempfile
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


def in_memory():
    """The training rows of an array."""
    x = empty_aligned((rows, features), np.uint8)  # as the sources read: TensorFlow shares this memory
    for part in np.array_split(x, max(1, rows // 4096)):
        part[...] = rng.integers(0, 256, part.shape, np.uint8)
    y = rng.integers(0, classes, rows)
    spec = tfsoftmax.ModelSpec("made", (features,), "uint8", tuple(map(str, range(classes))), "unit", 0.0, 1 / 255)
    return tfsoftmax.Rows(x, y.astype(np.int32), spec, case["batch_size"], seed=0).dataset()


def in_files(folder):
    """The training rows of two .npy files, written without a map, whose pages would count."""
    header = {"descr": "|u1", "fortran_order": False}
    with open(f"{folder}/x.npy", "wb") as x, open(f"{folder}/y.npy", "wb") as y:
        np.lib.format.write_array_header_1_0(x, {**header, "shape": (rows, features)})
        np.lib.format.write_array_header_1_0(y, {**header, "shape": (rows,)})
        for begin in range(0, rows, 65_536):
            count = min(65_536, rows - begin)
            x.write(rng.integers(0, 256, (count, features), np.uint8).tobytes())
            y.write(rng.integers(0, classes, count, np.uint8).tobytes())
    settings = {"batch_size": case["batch_size"], "val": 0, "test": 1000, "preprocess": "unit"}
    return tfsoftmax.load(f"npy:{folder}", memory=case["memory"], **settings).train


seconds = []


class Seconds(keras.callbacks.Callback):
    """Wall-clock seconds of each epoch."""

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds.append(time.perf_counter() - self.begin)


with tempfile.TemporaryDirectory() as folder:
    train = in_files(folder) if "memory" in case else in_memory()
    model = tfsoftmax.SoftmaxRegression(classes, lr=0.01)
    model.fit(train, epochs=2, callbacks=[Seconds()], verbose=0)
    more = int(np.clip(8 / seconds[1], 3, 12))  # long epochs need fewer repetitions
    model.fit(train, epochs=more, callbacks=[Seconds()], verbose=0)
print(
    json.dumps(
        {
            "first": seconds[0],
            "median": float(np.median(seconds[2:])),
            "raw_mb": rows * features / 2**20,
            "peak_mb": peak() - start,
        }
    )
)
