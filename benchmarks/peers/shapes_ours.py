"""This package on cells of the grid: an epoch of `model.fit`."""

import json
import sys
import time

import keras
import machine
import numpy as np

import tfsoftmax


class Turns(keras.callbacks.Callback):
    """NumPy's products before each epoch, and the seconds of the epoch."""

    def __init__(self, limit):
        super().__init__()
        self.limit, self.limits, self.seconds = limit, [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.limits.append(next(self.limit))
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds.append(time.perf_counter() - self.begin)


def run(cell):
    """Measure one cell."""
    x, y = machine.made(cell)
    names = tuple(map(str, range(cell["classes"])))
    spec = tfsoftmax.ModelSpec("made", x.shape[1:], cell["dtype"], names, "unit", 0.0, 1 / 255)
    train = tfsoftmax.Rows(x, y.astype(np.int32), spec, cell["batch_size"], seed=0).dataset()
    turns = Turns(machine.products(cell, len(x)))
    model = tfsoftmax.SoftmaxRegression(cell["classes"], **cell.get("settings", {}))
    model.fit(train, epochs=machine.ROUNDS + 1, callbacks=[turns], verbose=0)
    medians = {"seconds": np.median(turns.seconds[1:]), "products": np.median(turns.limits[1:])}
    return {"rows": len(x), "first": turns.seconds[0], **medians}


print(json.dumps({"cells": [run(cell) for cell in json.loads(sys.argv[1])["cells"]]}))
