"""Seconds an epoch on Fashion-MNIST, 60,000 rows, batch 256: the limit, this package, the peers."""

from __future__ import annotations

import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from tfsoftmax import sources

ROUNDS = 3  # the whole list so often, each case in a new process, so that a disturbance does not hit one case alone
EPOCHS = 11  # in each process; the first two are warm-up
PROCESSES = 30  # that run the same, to see whether each is as fast as the others

# (name, peer, case); the limit is measured again between the others, so that a drift of the machine shows
LIMIT = ("limit: two matrix products a batch (NumPy)", "numpy_loop", {"case": "limit"})
CASES = [
    ("tfsoftmax, SGD", "ours", {"case": "memory"}),
    ("tfsoftmax, momentum", "ours", {"case": "memory", "optimizer": {"momentum": 0.9}}),
    ("tfsoftmax, Adam", "ours", {"case": "memory", "optimizer": {"optimizer": "adam", "lr": 0.001}}),
    ("tfsoftmax, SGD, validation on 10,000", "ours", {"case": "memory", "validate": True}),
    ("tfsoftmax, SGD, float32 rows", "ours", {"case": "memory", "floats": True}),
    ("tfsoftmax, SGD, streamed tf.data", "ours", {"case": "stream"}),
    ("NumPy by hand", "numpy_loop", {"case": "hand"}),
    ("JAX, lax.scan", "jax_scan", {}),
    ("PyTorch, tensors", "torch_loop", {"case": "tensors"}),
    ("PyTorch, DataLoader", "torch_loop", {"case": "loader"}),
    ("MXNet Gluon, arrays", "mxnet_loop", {}),
    ("Keras fit, batched tf.data", "keras_fit", {"case": "batched"}),
    ("Keras fit, map a row, shuffle, batch", "keras_fit", {"case": "rows"}),
]
# seconds in all until the test accuracy that this package has after the book's ten epochs
TO_ACCURACY = [
    ("tfsoftmax, 10 epochs of SGD", "ours", {"case": "accuracy"}),
    ("scikit-learn lbfgs", "sklearn_fit", {"solver": "lbfgs"}),
    ("scikit-learn saga", "sklearn_fit", {"solver": "saga"}),
]


def main(threads: int, only: str) -> None:
    """Run all cases, print the tables, write ``results/epoch.json`` and ``results/epoch.png``."""
    with tempfile.TemporaryDirectory() as folder:
        source = sources.read("fashion_mnist")
        for name in ("x_train", "y_train", "x_test", "y_test"):
            np.save(Path(folder, f"{name}.npy"), getattr(source, name))
        cases = [case for case in CASES if only in case[0]]
        found: dict[str, list[dict[str, Any]]] = {name: [] for name, _, _ in [LIMIT, *cases]}
        for _ in range(ROUNDS):
            for i, (name, peer, case) in enumerate(cases):
                if i % 4 == 0:
                    found[LIMIT[0]].append(_measure(*LIMIT[:2], threads, folder=folder, epochs=EPOCHS, **LIMIT[2]))
                if not any("missing" in result for result in found[name]):
                    found[name].append(_measure(name, peer, threads, folder=folder, epochs=EPOCHS, **case))
        rows = [_pooled(name, results) for name, results in found.items() if results]
        limit = rows[0]["median"] if rows else math.nan
        for row in rows:
            row["ratio"] = row["median"] / limit if "median" in row else None
        print(f"{'':<44}{'s/epoch':>9}{'quartiles':>19}{'first':>8}{'ratio':>8}")
        for row in rows:
            print(f"{row['name']:<44}{_figures(row)}")
        goals: list[dict[str, Any]] = []
        for name, peer, case in TO_ACCURACY:
            if only in name:
                goal = {} if not goals else {"goal": goals[0].get("accuracy")}
                goals.append(_measure(name, peer, threads, folder=folder, epochs=10, **case, **goal))
        print(f"\n{'seconds in all to the same test accuracy':<44}{'s':>9}{'accuracy':>10}")
        for row in goals:
            print(f"{row['name']:<44}{row['total']:>9.2f}{row['accuracy']:>10.4f}" if "total" in row else _figures(row))
        steady = _steady(threads, folder) if only in "steady" else {}
    if not only:
        figures = {"epoch": rows, "to_accuracy": goals, "steady": steady}
        common.write("epoch", {"machine": common.machine(threads), **figures})
        common.bars(
            "epoch",
            [(row["name"], row["ratio"]) for row in rows if "median" in row],
            "time of an epoch, as a multiple of the limit",
        )


def _steady(threads: int, folder: str) -> dict[str, Any]:
    """The median epoch of each of many processes, one after the other."""
    medians = []
    for _ in range(PROCESSES):
        seconds = common.run("ours", threads, folder=folder, epochs=EPOCHS, case="memory")["seconds"][2:]
        medians.append(statistics.median(seconds))
    middle, slow = statistics.median(medians), statistics.quantiles(medians, n=10)[-1]
    ratios = f"90th percentile {slow / middle:.2f}, slowest {max(medians) / middle:.2f} of it"
    print(f"\n{PROCESSES} processes: median {middle:.4f} s/epoch, {ratios}")
    return {"medians": medians, "median": middle, "p90": slow}


def _measure(name: str, peer: str, threads: int, **case: Any) -> dict[str, Any]:
    try:
        result = common.run(peer, threads, **case)
    except common.Missing as error:
        return {"name": name, "missing": str(error)}
    return {"name": name, **result}


def _pooled(name: str, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Quartiles over the epochs of all rounds, warm-up left out; the first epoch is the median of the rounds'."""
    if "missing" in results[-1]:
        return results[-1]
    low, middle, high = statistics.quantiles([s for result in results for s in result["seconds"][2:]], n=4)
    first = statistics.median(result["seconds"][0] for result in results)
    return {"name": name, "first": first, "median": middle, "low": low, "high": high}


def _figures(row: dict[str, Any]) -> str:
    if "missing" in row:
        return f"  {row['missing']}"
    return f"{row['median']:>9.4f}{row['low']:>10.4f} -{row['high']:>7.4f}{row['first']:>8.2f}{row['ratio']:>8.2f}"
