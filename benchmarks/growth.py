"""How time and memory grow: an epoch against rows, in memory and in files, features, classes and batch size."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import common

BASE = {"rows": 50_000, "features": 784, "classes": 10, "batch_size": 256}
AXES = {
    "rows": [10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000],
    "features": [64, 256, 784, 3072, 12_288],
    "classes": [2, 10, 100, 1000, 10_000],
    "batch_size": [32, 128, 512, 2048, 8192],
    "rows in files": [100_000, 300_000, 1_000_000, 3_000_000, 10_000_000, 20_000_000],
}
FILES = {"features": 64, "memory": 2**26}  # what those rows are like; all are more than that memory but the fewest
# the exponent is fitted where an epoch is long enough to be more than its fixed costs
FIT_FROM = {"rows": 50_000, "features": 784, "classes": 100, "batch_size": 32, "rows in files": 100_000}


def main(threads: int, only: str) -> None:
    """Measure, print the table and the exponents, write ``results/growth.json`` and ``results/growth.png``."""
    measured: dict[str, list[dict[str, Any]]] = {}
    exponents = {}
    print(f"{'axis':<15}{'size':>10}{'s/epoch':>10}{'first':>8}{'raw MB':>8}{'peak MB':>9}")
    for axis, sizes in AXES.items():
        if only not in axis:
            continue
        measured[axis] = []
        for size in sizes:
            case = {**BASE, **FILES, "rows": size} if axis == "rows in files" else {**BASE, axis: size}
            row = {"size": size, **common.run("growth_fit", threads, **case)}
            measured[axis].append(row)
            print(
                f"{axis:<15}{size:>10,}{row['median']:>10.4f}{row['first']:>8.2f}{row['raw_mb']:>8.0f}{row['peak_mb']:>9.0f}",
                flush=True,
            )
        fitted = [row for row in measured[axis] if row["size"] >= FIT_FROM[axis]]
        exponents[axis] = float(np.polyfit(*(np.log([row[key] for row in fitted]) for key in ("size", "median")), 1)[0])
        print(f"  time grows as {axis} to the power {exponents[axis]:.2f} (from {FIT_FROM[axis]:,} on)")
    if not only:
        result = {"machine": common.machine(threads), "base": BASE, "axes": measured, "exponents": exponents}
        common.write("growth", result)
        _plot(measured, exponents)


def _plot(measured: dict[str, list[dict[str, Any]]], exponents: dict[str, float]) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, len(measured), figsize=(15, 5.5), sharex="col", sharey="row", layout="constrained")
    for column, (axis, rows) in zip(axes.T, measured.items(), strict=True):
        sizes = [row["size"] for row in rows]
        column[0].loglog(sizes, [row["median"] for row in rows], "o-", color="#0b6e4f")
        column[0].set_title(f"{axis}: exponent {exponents[axis]:.2f}")
        column[1].loglog(sizes, [row["peak_mb"] for row in rows], "o-", color="#0b6e4f", label="peak above TensorFlow")
        column[1].loglog(sizes, [row["raw_mb"] for row in rows], "--", color="#333333", label="raw rows")
        column[1].set_xlabel(axis)
    axes[0, 0].set_ylabel("seconds an epoch")
    axes[1, 0].set_ylabel("MB")
    axes[1, 0].legend()
    figure.savefig(common.RESULTS / "growth.png", dpi=110)
