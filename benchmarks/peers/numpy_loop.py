"""NumPy: the limit (two bare matrix products a batch) and softmax regression by hand."""

import json
import sys
import time

import numpy as np


def limit(x, y, epochs):
    """Two float32 products a batch on contiguous rows, and nothing else."""
    x = np.ascontiguousarray(x, np.float32) / np.float32(255)
    kernel, error = np.zeros((x.shape[1], 10), np.float32), np.random.default_rng(0).random((256, 10), np.float32)
    for _ in range(epochs):
        begin = time.perf_counter()
        for i in range(0, len(x), 256):
            batch = x[i : i + 256]
            batch @ kernel
            batch.T @ error[: len(batch)]
        yield time.perf_counter() - begin


def hand(x, y, epochs):
    """Gather, cast, softmax, gradient, update: float32, new order each epoch."""
    rng, scale, lr = np.random.default_rng(0), np.float32(1 / 255), np.float32(0.1)
    kernel, bias = np.zeros((x.shape[1], 10), np.float32), np.zeros(10, np.float32)
    raw, buffer = np.empty((256, x.shape[1]), np.uint8), np.empty((256, x.shape[1]), np.float32)
    for _ in range(epochs):
        begin = time.perf_counter()
        order = rng.permutation(len(x))
        for i in range(0, len(x), 256):
            rows = order[i : i + 256]
            np.take(x, rows, axis=0, out=raw[: len(rows)], mode="clip")  # "clip" writes into `out` without a copy
            batch, labels = np.multiply(raw[: len(rows)], scale, out=buffer[: len(rows)]), y[rows]
            error = batch @ kernel + bias
            error -= error.max(axis=1, keepdims=True)
            np.exp(error, out=error)
            error /= error.sum(axis=1, keepdims=True)
            error[np.arange(len(rows)), labels] -= 1
            error *= lr / np.float32(len(rows))
            kernel -= batch.T @ error
            bias -= error.sum(axis=0)
        yield time.perf_counter() - begin


case = json.loads(sys.argv[1])
x, y = np.load(case["folder"] + "/x_train.npy"), np.load(case["folder"] + "/y_train.npy")
run = {"limit": limit, "hand": hand}[case["case"]]
print(json.dumps({"seconds": list(run(x.reshape(len(x), -1), y, case["epochs"]))}))
