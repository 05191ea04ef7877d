"""What each framework is given: rows, their order, the weights at the start; and the loop that all have in common."""

import json
import sys
import time

import numpy as np

BATCH, RATE = 256, 0.1
case = json.loads(sys.argv[1])


def _array(name):
    return np.load(f"{case['folder']}/{name}.npy")


x, x_val = (_array(name).astype(np.float32) / np.float32(255) for name in ("x", "x_val"))  # (rows, 28, 28) in [0, 1]
y, y_val = _array("y"), _array("y_val")
kernel, bias = _array("kernel"), _array("bias")  # (784, 10) and (10,)
order = _array("order")  # (epochs, rows)


def train(step, evaluate, weights, wait=lambda: None):
    """Run all epochs, measure, and print what came out.

    ``step(rows)`` trains on the rows of these numbers and returns the batch's mean loss; ``evaluate()`` returns the
    mean loss over the validation rows, ``weights()`` the kernel ``(784, 10)`` and the bias; ``wait()`` ends when all
    is computed.
    """
    seconds, losses, val_losses = [], [], []
    for epoch in order:
        batches = [epoch[i : i + BATCH] for i in range(0, len(epoch), BATCH)]
        begin = time.perf_counter()
        values = [step(rows) for rows in batches]
        wait()
        seconds.append(time.perf_counter() - begin)
        losses.append(mean_loss(values))
        val_losses.append(float(evaluate()))
    write(seconds, losses, val_losses, *weights())


def mean_loss(values):
    """Mean over the rows of an epoch, from the means of its batches."""
    sizes = [min(BATCH, order.shape[1] - i) for i in range(0, order.shape[1], BATCH)]
    return float(np.average([float(value) for value in values], weights=sizes))


def write(seconds, losses, val_losses, kernel, bias):
    """Save the weights and print the figures."""
    np.savez(case["out"], kernel=kernel, bias=bias)
    print(json.dumps({"seconds": seconds, "loss": losses, "val_loss": val_losses, "versions": _versions()}))


def _versions():
    names = ("torch", "mxnet", "jax", "flax", "optax", "tensorflow", "keras", "d2l", "numpy")
    return {name: sys.modules[name].__version__ for name in names if hasattr(sys.modules.get(name), "__version__")}


class Loader:
    """Batches as the trainer of the d2l package takes them: each whole pass is the next epoch, and is timed.

    ``convert(rows)`` makes a batch of row numbers. What the model reports goes to :meth:`plot`.
    """

    def __init__(self, convert):
        self.convert, self.epoch, self.seconds, self.values = convert, 0, [], {True: [], False: []}

    def __len__(self):
        return -(-order.shape[1] // BATCH)

    def __iter__(self):
        begin = time.perf_counter()
        for i in range(0, order.shape[1], BATCH):
            yield self.convert(order[self.epoch, i : i + BATCH])
        self.seconds.append(time.perf_counter() - begin)
        self.epoch += 1

    def plot(self, key, value, train):
        """Keep the losses that d2l would draw."""
        if key == "loss":
            self.values[train].append(value)

    def write(self, kernel, bias):
        """Save the weights and print the figures."""
        steps = len(self)
        epochs = [self.values[True][i : i + steps] for i in range(0, len(self.values[True]), steps)]
        write(
            self.seconds, [mean_loss(values) for values in epochs], [float(v) for v in self.values[False]], kernel, bias
        )
