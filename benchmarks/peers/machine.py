"""What a cell of the grid of shapes is held against: NumPy's products, the machine's own peak and bandwidth.

The peers of the grid import this; it needs NumPy alone.
"""

import json
import statistics
import sys
import time

import numpy as np

ROUNDS = 5


def made(cell):
    """Rows and labels of one cell, ``(x, y)``."""
    rng = np.random.default_rng(0)
    size = (rows(cell), cell["features"])
    x = rng.integers(0, 256, size, np.uint8) if cell["dtype"] == "uint8" else rng.random(size, np.float32)
    return x, rng.integers(0, cell["classes"], len(x))


def rows(cell):
    """Whole batches: as many rows as NumPy takes a tenth of a second or less for, four batches at least."""
    wanted = 2.4e10 / (4 * cell["features"] * cell["classes"] + 80 * cell["features"] + 3000)
    size = cell["batch_size"]
    return int(min(max(wanted, 4 * size), 60_000)) // size * size


def products(cell):
    """Two float32 products a batch in NumPy on contiguous rows, and nothing else."""
    size, count = cell["batch_size"], rows(cell)
    x = np.random.default_rng(0).random((count, cell["features"]), np.float32)
    kernel = np.zeros((cell["features"], cell["classes"]), np.float32)
    error = np.random.default_rng(1).random((size, cell["classes"]), np.float32)

    def epoch():
        for i in range(0, count, size):
            batch = x[i : i + size]
            batch @ kernel
            batch.T @ error

    return measure(epoch)


def measure(epoch):
    """The median of an epoch, which ``epoch`` runs once; the first is warm-up."""
    seconds = []
    for _ in range(ROUNDS + 1):
        begin = time.perf_counter()
        epoch()
        seconds.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(seconds[1:])}


def peak():
    """float32 operations a second, of a product of 3,000 x 3,000."""
    a = np.random.default_rng(0).random((3000, 3000), np.float32)
    return 2 * 3000**3 / _best(lambda: a @ a)


def bandwidth():
    """Bytes a second, reading half a GB once."""
    a = np.ones(2**27, np.float32)
    return a.nbytes / _best(lambda: np.dot(a, a))


def _best(run):
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    return min(seconds)


if __name__ == "__main__":
    case = json.loads(sys.argv[1])
    found = {"cells": [products(cell) for cell in case["cells"]]} if "cells" in case else None
    print(json.dumps(found or {"peak": peak(), "bandwidth": bandwidth()}))
