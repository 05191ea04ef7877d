"""Epochs of one table, as codes and dense, in one process, in turn."""

import json
import statistics
import sys
import time

import keras
import numpy as np

import tfsoftmax
from tfsoftmax import columns
from tfsoftmax.spec import Column, ModelSpec


class Seconds(keras.callbacks.Callback):
    """Wall-clock seconds of each epoch."""

    def __init__(self):
        super().__init__()
        self.taken = []

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.taken.append(time.perf_counter() - self.begin)


def main(values: int, numbers: int, categories: int, rows: int) -> dict[str, float]:
    """Median seconds of an epoch of each form, and how many features there are."""
    rng = np.random.default_rng(0)
    words = tuple(map(str, range(values)))
    made = [Column(f"n{k}", "number", "float32") for k in range(numbers)]
    made += [Column(f"c{k}", "category", "string", words) for k in range(categories)]
    width = numbers + categories
    spec = ModelSpec("t", (width,), "float32", tuple(map(str, range(10))), "unit", 0, 1, tuple(made))
    x = np.concatenate([rng.normal(size=(rows, numbers)), rng.integers(0, values, (rows, categories))], axis=1)
    x, y = x.astype(np.float32), rng.integers(0, 10, rows).astype(np.int32)
    dense = columns.dense(spec, x)
    plain = ModelSpec("t", dense.shape[1:], "float32", spec.classes, "unit", 0.0, 1.0)
    fits = {}
    for name, part in (
        ("codes", tfsoftmax.Rows(x, y, spec, 256, 0)),
        ("dense", tfsoftmax.Rows(dense, y, plain, 256, 0)),
    ):
        fits[name] = (tfsoftmax.SoftmaxRegression(10, lr=0.01), part.dataset())
    taken: dict[str, list[float]] = {name: [] for name in fits}
    for _ in range(3):
        for name, (model, data) in fits.items():
            clock = Seconds()
            model.fit(data, epochs=5, verbose=0, callbacks=[clock])
            taken[name] += clock.taken[1:]
    found = {name: statistics.median(seconds) for name, seconds in taken.items()}
    same = [
        np.abs(a - b).max() for a, b in zip(fits["codes"][0].get_weights(), fits["dense"][0].get_weights(), strict=True)
    ]
    return {**found, "features": dense.shape[1], "largest_difference": float(max(same))}


print(json.dumps(main(**json.loads(sys.argv[1]))))
