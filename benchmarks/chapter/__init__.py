"""The chapter's four frameworks and this package from one start, in one order of the rows: losses, weights, seconds."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common

EPOCHS = 10
OURS = ("tfsoftmax", "ours")
CASES = [
    OURS,
    ("PyTorch", "torch_nn"),
    ("MXNet Gluon", "mxnet_gluon"),
    ("JAX, Flax, Optax", "jax_flax"),
    ("TensorFlow, Keras", "tensorflow_keras"),
    ("d2l, PyTorch", "d2l_torch"),
    ("d2l, MXNet", "d2l_mxnet"),
    ("d2l, JAX", "d2l_jax"),
    ("d2l, TensorFlow", "d2l_tensorflow"),
]
LOSS_LIMIT, WEIGHT_LIMIT = 1e-5, 1e-4  # how far the others may be from ours


def main(threads: int, only: str) -> None:
    """Run all cases, print the table, write ``results/chapter.json``."""
    with tempfile.TemporaryDirectory() as folder:
        give(Path(folder), EPOCHS)
        results = [measure(name, peer, threads, Path(folder)) for name, peer in CASES if only in name or peer == "ours"]
    compare(results)
    print(f"{'':<20}{'s/epoch':>9}{'first':>8}{'loss off':>11}{'val_loss off':>14}{'weights off':>13}")
    for row in results:
        if "missing" in row:
            print(f"{row['name']:<20}  {row['missing']}")
            continue
        print(f"{row['name']:<20}{row['median']:>9.3f}{row['seconds'][0]:>8.2f}", end="")
        print(f"{row['loss_off']:>11.1e}{row['val_loss_off']:>14.1e}{row['weights_off']:>13.1e}")
    print(f"\n{'epoch':>5}" + "".join(f"{row['name']:>19}" for row in results if "median" in row))
    for epoch in range(EPOCHS):
        print(f"{epoch + 1:>5}" + "".join(f"{row['val_loss'][epoch]:>19.8f}" for row in results if "median" in row))
    if not only:
        common.write("chapter", {"machine": common.machine(threads), "epochs": EPOCHS, "cases": results})


def give(folder: Path, epochs: int) -> None:
    """Write what all are given: raw rows, labels, each epoch's order, and weights to start from."""
    import tfsoftmax

    data, rng = tfsoftmax.FashionMNIST(batch_size=256), np.random.default_rng(0)
    rows = data.train.rows
    arrays = {
        "x": data.source.x_train,
        "y": data.source.y_train,
        "x_val": data.val.rows.x,
        "y_val": data.val.rows.y,
        "order": np.stack([rows.order(epoch).numpy() for epoch in range(epochs)]),
        "kernel": rng.normal(0, 0.01, (784, 10)).astype(np.float32),
        "bias": rng.normal(0, 0.01, 10).astype(np.float32),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def measure(name: str, peer: str, threads: int, folder: Path) -> dict[str, Any]:
    """Run one case; what it printed, and its weights, or why it could not run."""
    out = folder / f"{peer}.npz"
    try:
        result = common.run(f"chapter/{peer}", threads, folder=str(folder), out=str(out))
    except common.Missing as error:
        return {"name": name, "missing": str(error)}
    return {"name": name, **result, "median": statistics.median(result["seconds"][2:]), "weights": dict(np.load(out))}


def compare(results: list[dict[str, Any]]) -> None:
    """Replace the weights of all results by their largest differences from the first one's, losses likewise."""
    ours = results[0]
    weights = ours.get("weights", {})
    for row in results:
        if "weights" not in row:
            continue
        for name in ("loss", "val_loss"):
            row[f"{name}_off"] = float(np.abs(np.subtract(row[name], ours[name])).max())
        row["weights_off"] = max(float(np.abs(array - weights[name]).max()) for name, array in row["weights"].items())
        row["within"] = max(row["loss_off"], row["val_loss_off"]) <= LOSS_LIMIT and row["weights_off"] <= WEIGHT_LIMIT
    for row in results:
        row.pop("weights", None)
