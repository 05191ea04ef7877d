"""This package on cells of the grid: an epoch of `model.fit`."""

import json
import statistics
import sys
import time

import keras
import machine
import numpy as np

import tfsoftmax


class Seconds(keras.callbacks.Callback):
    """Wall-clock seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.begin)


def run(cell):
    """Measure one cell."""
    x, y = machine.made(cell)
    names = tuple(map(str, range(cell["classes"])))
    scale = 1 / 255 if cell["dtype"] == "uint8" else 1.0
    spec = tfsoftmax.ModelSpec("made", x.shape[1:], cell["dtype"], names, "unit", 0.0, scale)
    train = tfsoftmax.Rows(x, y.astype(np.int32), spec, cell["batch_size"], seed=0).dataset()
    model, clock = tfsoftmax.SoftmaxRegression(cell["classes"], **cell.get("settings", {})), Seconds()
    model.fit(train, epochs=machine.ROUNDS + 1, callbacks=[clock], verbose=0)
    return {"first": clock.seconds[0], "seconds": statistics.median(clock.seconds[1:])}


print(json.dumps({"cells": [run(cell) for cell in json.loads(sys.argv[1])["cells"]]}))
