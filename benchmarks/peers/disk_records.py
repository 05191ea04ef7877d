"""Keras's fit on the usual TFRecordDataset: one record a row, shuffled by a buffer, parsed in batches."""

import json
import math
import resource
import sys
import time

import keras
import numpy as np
import tensorflow as tf

case = json.loads(sys.argv[1])
x, y = np.load(f"{case['folder']}/x.npy", mmap_mode="r"), np.load(f"{case['folder']}/y.npy")
count, size = min(len(x), 100_000), case["batch_size"]
full = 255 if x.dtype == np.uint8 else 1
path = f"{case['folder']}/rows.tfrecord"
with tf.io.TFRecordWriter(path) as writer:
    for row in range(count):
        raw = tf.train.Feature(bytes_list=tf.train.BytesList(value=[x[row].tobytes()]))
        label = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(y[row])]))
        writer.write(tf.train.Example(features=tf.train.Features(feature={"x": raw, "y": label})).SerializeToString())


def parsed(records):
    """A batch."""
    found = tf.io.parse_example(
        records, {"x": tf.io.FixedLenFeature((), tf.string), "y": tf.io.FixedLenFeature((), tf.int64)}
    )
    rows = tf.reshape(tf.io.decode_raw(found["x"], x.dtype.name), (-1, x.shape[1]))
    return tf.cast(rows, tf.float32) / full, found["y"]


class Seconds(keras.callbacks.Callback):
    """Wall-clock seconds of each epoch."""

    def on_train_begin(self, logs=None):
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.begin)


start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
data = tf.data.TFRecordDataset(path).shuffle(10_000, seed=0).batch(size)
data = data.map(parsed, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
data = data.apply(tf.data.experimental.assert_cardinality(math.ceil(count / size)))
model = keras.Sequential([keras.Input((x.shape[1],)), keras.layers.Dense(case["classes"])])
model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
clock = Seconds()
model.fit(data, epochs=2, callbacks=[clock], verbose=0)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - start
print(json.dumps({"rows_per_second": count / clock.seconds[1], "peak_mb": peak}))
