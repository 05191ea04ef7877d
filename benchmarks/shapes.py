"""An epoch on a grid of shapes: against two NumPy products a batch, against the machine's own limits, and the peers."""

from __future__ import annotations

import itertools
import math
from typing import Any

from benchmarks import common
from benchmarks.peers.machine import rows as rows_of

ROUNDS = 3  # over the whole grid, so that a disturbance does not hit a cell each time
FEATURES, CLASSES, BATCHES = (64, 784, 4096), (2, 10, 100, 1000), (64, 256, 1024, 4096)
PEERS = {"tfsoftmax": "ours", "JAX, lax.scan": "jax", "PyTorch, tensors": "torch"}
OPTIMIZERS = {
    "momentum": {"momentum": 0.9},
    "Adam": {"optimizer": "adam", "lr": 0.001},
}
DIAGONAL = list(zip(FEATURES, (2, 10, 1000), (256, 256, 1024), strict=True))


def main(threads: int, only: str) -> None:
    """Run all cells, print the table, write ``results/shapes.json`` and ``results/shapes.png``."""
    machine = {**common.machine(threads), **common.run("machine", threads)}
    print(f"{machine['cpu']}: peak {machine['peak'] / 1e9:.0f} GFLOP/s, reads {machine['bandwidth'] / 1e9:.1f} GB/s")
    print(f"{'':<28}{'features':>9}{'classes':>8}{'batch':>6}{'s/epoch':>9}{'of NumPy':>9}{'of the roofline':>16}")
    groups = [(name, group) for name, group in _groups() if only in name]
    rounds: list[list[dict[str, Any]]] = [[] for _, group in groups for _ in group]  # of each cell what was found
    for _ in range(ROUNDS):
        here = iter(rounds)
        for name, group in groups:
            limits = common.run("machine", threads, cells=group)["cells"]  # beside each peer: machines drift
            try:
                found = common.run(f"shapes_{PEERS[name.split(':')[0]]}", threads, cells=group)["cells"]
            except common.Missing as error:
                print(f"{name:<28}  {error}", flush=True)
                found = []
            for cell, limit, figures in itertools.zip_longest(group, limits, found):
                rows = next(here)
                if figures is not None:
                    row = {"name": name, **cell, **figures, "ratio": figures["seconds"] / limit["seconds"]}
                    rows.append({**row, "of_roofline": figures["seconds"] / _roofline(cell, machine)})
                    _show(rows[-1])
    measured = []
    for rows in filter(None, rounds):  # the median, and what it lies between
        rows.sort(key=lambda row: row["ratio"])
        measured.append({**rows[len(rows) // 2], "ratios": [row["ratio"] for row in rows]})
    print(f"the medians of {ROUNDS} rounds:")
    for row in measured:
        _show(row)
    for name in dict.fromkeys(row["name"] for row in measured):
        ratios = [row["ratio"] for row in measured if row["name"] == name and row["batch_size"] >= 256]
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"{name}: {mean:.2f} in the geometric mean, {max(ratios):.2f} at most, of batches of 256 and more")
    if not only:
        common.write("shapes", {"machine": machine, "cells": measured})
        _plot(measured)


def _show(row: dict[str, Any]) -> None:
    print(
        f"{row['name']:<28}{row['features']:>9,}{row['classes']:>8,}{row['batch_size']:>6,}{row['seconds']:>9.4f}"
        f"{row['ratio']:>9.2f}{row['of_roofline']:>16.2f}",
        flush=True,
    )


def _groups() -> list[tuple[str, list[dict[str, Any]]]]:
    """``(name, cells)``, each for one process."""
    groups = []
    for dtype, features in itertools.product(("float32", "uint8"), FEATURES):
        cells = [
            {"features": features, "classes": classes, "batch_size": size, "dtype": dtype}
            for classes, size in itertools.product(CLASSES, BATCHES)
        ]
        groups += [(f"{peer}: {dtype}", cells) for peer in PEERS]
    shape = ("features", "classes", "batch_size")
    for optimizer, settings in {"SGD": {}, **OPTIMIZERS}.items():
        cells = [dict(zip(shape, at, strict=True), dtype="uint8", settings=settings) for at in DIAGONAL]
        groups.append((f"tfsoftmax: {optimizer}", cells))
    return groups


def _roofline(cell: dict[str, Any], machine: dict[str, Any]) -> float:
    """Seconds that the machine needs for the products at its peak, or to read the rows once if that takes longer."""
    rows = rows_of(cell)
    operations = 4 * rows * cell["features"] * cell["classes"]
    size = rows * cell["features"] * {"uint8": 1, "float32": 4}[cell["dtype"]]
    return float(max(operations / machine["peak"], size / machine["bandwidth"]))


def _plot(measured: list[dict[str, Any]]) -> None:
    import matplotlib
    import numpy as np

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.colors import TwoSlopeNorm

    names = [f"{peer}: {dtype}" for peer in PEERS for dtype in ("float32", "uint8")]
    names = [name for name in names if any(row["name"] == name for row in measured)]
    figure, axes = plt.subplots(len(names), len(FEATURES), figsize=(11, 2.2 * len(names)), layout="constrained")
    norm = TwoSlopeNorm(0, -2, 2)
    for line, name in zip(axes, names, strict=True):
        for ax, features in zip(line, FEATURES, strict=True):
            ratios = {
                (row["classes"], row["batch_size"]): row["ratio"]
                for row in measured
                if row["name"] == name and row["features"] == features
            }
            grid = np.array([[ratios[classes, size] for size in BATCHES] for classes in CLASSES])
            image = ax.imshow(np.log2(grid), cmap="RdYlGn_r", norm=norm)
            for (i, j), ratio in np.ndenumerate(grid):
                ax.text(j, i, f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}", ha="center", va="center", fontsize=9)
            ax.set_title(f"{name}, {features:,} features", fontsize=9)
            ax.set_xticks(range(len(BATCHES)), BATCHES)
            ax.set_yticks(range(len(CLASSES)), CLASSES)
            ax.set_xlabel("batch size")
            ax.set_ylabel("classes")
    ticks = (0.25, 0.5, 1, 2, 4)
    bar = figure.colorbar(image, ax=axes, ticks=np.log2(ticks), shrink=0.4)
    bar.ax.set_yticklabels([f"{tick:g}" for tick in ticks])
    bar.set_label("time of an epoch, as a multiple of two NumPy products a batch")
    figure.savefig(common.RESULTS / "shapes.png", dpi=110)
