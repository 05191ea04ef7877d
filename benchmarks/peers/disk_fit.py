"""This package on two .npy files: rows a second of `model.fit`, and the peak of memory above TensorFlow's own start."""

import json
import os
import resource
import sys
import time

import keras
import tensorflow as tf

import tfsoftmax


def peak():
    """Largest resident memory so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Seconds(keras.callbacks.Callback):
    """Wall-clock and processor seconds of each epoch; before each the file may be dropped from the page cache."""

    def on_train_begin(self, logs=None):
        self.seconds, self.cpu_seconds = [], []

    def on_epoch_begin(self, epoch, logs=None):
        if case.get("cold"):
            with open(f"{case['folder']}/x.npy", "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        self.begin, self.used = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.begin)
        self.cpu_seconds.append(time.process_time() - self.used)


case = json.loads(sys.argv[1])
tf.function(lambda x: x + 1, jit_compile=True)(tf.constant(1.0))  # TensorFlow and XLA have started
start = peak()
settings = {"batch_size": case["batch_size"], "val": 0, "test": 1000, "preprocess": "unit"}
data = tfsoftmax.load(f"npy:{case['folder']}", memory=case["memory"], **settings)
model, clock = tfsoftmax.SoftmaxRegression(len(data.classes), lr=0.01), Seconds()
model.fit(data.train, epochs=4, callbacks=[clock], verbose=0)
rows = len(data.train.rows)
found = {"rows_per_second": rows / min(clock.seconds[1:]), "seconds": clock.seconds}
print(json.dumps({**found, "cpu_seconds": min(clock.cpu_seconds[1:]), "peak_mb": peak() - start}))
