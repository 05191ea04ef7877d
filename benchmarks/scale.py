"""Rows a second on one and two replicas, and the cost of the all-reduce against its model.

A step of a global batch of ``B`` rows on ``R`` replicas costs what one replica needs for ``B / R`` rows, and one
all-reduce of the gradient, ``G = 4 (F + 1) C`` bytes: ``2 (R - 1) (latency + G / (R * bandwidth))`` on a ring (Thakur,
Rabenseifner and Gropp, 2005). Latency and bandwidth are fitted to all-reduces alone; the time of one replica is
measured with ``B / R`` rows a batch, as many such fits at once as there are replicas: they share caches and memory.
The all-reduces within the steps are timed in a fit of their own, with what a replica waits for the slower one.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import common

EPOCHS = 5
SHAPES = [(256, 10, 262_144), (4096, 10, 262_144), (256, 1000, 32_768)]  # global batch, classes, rows
KINDS = ("mirrored", "multiworker")
BILLION, WORKERS, SHARES = (
    10**9,
    (1, 10, 100, 1000),
    (256, 4096, 65_536),
)  # projected: rows, workers, rows a worker's step
SIZES = [10, 1_000, 7_840, 30_000, 100_000, 300_000, 784_000, 2_000_000]  # float32 in one all-reduce


def main(threads: int, only: str) -> None:
    """Measure, print the tables, write ``results/scale.json`` and ``results/scale.png``."""
    links = {kind: _link(kind) for kind in KINDS if only in kind}
    rows: list[dict[str, Any]] = []
    print(f"\n{'':<34}{'rows/s':>12}{'speed-up':>10}{'ms a step':>11}{'model':>8}{'all-reduce':>12}{'model':>8}")
    for batch_size, classes, count in SHAPES:
        size = {"batch_size": batch_size, "classes": classes, "rows": count}
        print(f"batch {batch_size:,}, {classes} classes")
        plain = _row("compiled epoch, no strategy", "none", 1, size, rows)
        for kind, link in links.items():
            one = _row(f"{kind}, 1 replica", kind, 1, size, rows, plain)
            half = _seconds(kind, 2, {**size, "batch_size": batch_size // 2, "rows": count // 2}, apart=True)
            reduction = one["steps"] * _reduction(link, 2, 785 * classes)
            _row(f"{kind}, 2 replicas", kind, 2, size, rows, plain, (half + reduction, reduction))
    if not only:
        projected = _project(links["multiworker"], rows)
        common.write("scale", {"machine": common.machine(2), "links": links, "cases": rows, "projection": projected})
        _plot(links, rows)


def _seconds(kind: str, replicas: int, size: dict[str, int], **more: bool) -> float:
    found = common.run("scale_fit", replicas, kind=kind, replicas=replicas, epochs=EPOCHS, **size, **more)
    return float(found["seconds"])


def _row(
    name: str,
    kind: str,
    replicas: int,
    size: dict[str, int],
    rows: list[dict[str, Any]],
    plain: dict[str, Any] | None = None,
    model: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Measure one case, print its line and keep it; ``model``: seconds of an epoch, and of the all-reduces in it."""
    seconds, steps = _seconds(kind, replicas, size), size["rows"] // size["batch_size"]
    row = {"name": name, **size, "steps": steps, "seconds": seconds, "rows_per_second": size["rows"] / seconds}
    figures = [seconds]
    if model:
        reductions = _seconds(kind, replicas, size, timed=True)
        row |= {"model_seconds": model[0], "reduction_seconds": reductions, "model_reduction_seconds": model[1]}
        figures += [model[0], reductions, model[1]]
    speed_up = f"{plain['seconds'] / seconds:.2f}" if plain else ""
    milliseconds = (
        f"{1e3 * figure / steps:>{width}.2f}" for figure, width in zip(figures, (11, 8, 12, 8), strict=False)
    )
    print(f"  {name:<32}{row['rows_per_second']:>12,.0f}{speed_up:>10}{''.join(milliseconds)}", flush=True)
    rows.append(row)
    return row


def _link(kind: str) -> dict[str, Any]:
    """Time of all-reduces of two replicas by size, and the latency (s) and bandwidth (bytes/s) fitted to it."""
    seconds = common.run("scale_fit", 2, kind=kind, replicas=2, sizes=SIZES)["seconds"]
    size = 4.0 * np.array(SIZES)
    # relative errors count: from 40 bytes to 8 MB the times span two orders of magnitude
    terms = np.stack([np.full_like(size, 2.0), size], axis=1) / np.array(seconds)[:, None]
    latency, per_byte = np.linalg.lstsq(terms, np.ones(len(seconds)), rcond=None)[0]
    link = {"bytes": size.tolist(), "seconds": seconds, "latency": float(latency), "bandwidth": float(1 / per_byte)}
    print(f"all-reduce, {kind}, 2 replicas: latency {latency * 1e3:.2f} ms, bandwidth {1e-6 / per_byte:,.0f} MB/s")
    for bytes_, second in zip(size, seconds, strict=True):
        print(
            f"  {bytes_:>12,.0f} bytes {second * 1e3:>9.2f} ms, model {_reduction(link, 2, bytes_ / 4) * 1e3:>7.2f} ms"
        )
    return link


def _reduction(link: dict[str, Any], replicas: int, values: float) -> float:
    """Seconds of one all-reduce of float32 values on a ring."""
    return 2 * (replicas - 1) * (link["latency"] + 4 * values / (replicas * link["bandwidth"]))


def _project(link: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds of an epoch of a billion rows by the model, with what was measured of one worker on one core."""
    small, large = (row for row in rows if row["name"] == "multiworker, 1 replica" and row["classes"] == SHAPES[0][1])
    steps = [row["seconds"] / row["steps"] for row in (small, large)]
    row_seconds = (steps[1] - steps[0]) / (large["batch_size"] - small["batch_size"])
    step_seconds = steps[0] - row_seconds * small["batch_size"]
    print(f"\none worker: {step_seconds * 1e3:.3f} ms a step and {row_seconds * 1e6:.3f} µs a row")
    print(f"projected seconds of an epoch of {BILLION:,} rows (784 features, 10 classes)")
    print(f"{'workers':>10}" + "".join(f"{share:>12,} rows" for share in SHARES) + "   a worker and step")
    table = {}
    for workers in WORKERS:
        reduction = _reduction(link, workers, 785 * SHAPES[0][1])
        table[workers] = [
            BILLION / (workers * share) * (step_seconds + share * row_seconds + reduction) for share in SHARES
        ]
        print(f"{workers:>10,}" + "".join(f"{seconds:>15,.0f}  " for seconds in table[workers]))
    return {"step_seconds": step_seconds, "row_seconds": row_seconds, "shares": SHARES, "seconds": table}


def _plot(links: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for (kind, link), colour in zip(links.items(), ("#0b6e4f", "#9d4edd"), strict=True):
        sizes = np.geomspace(link["bytes"][0], link["bytes"][-1])
        left.loglog(link["bytes"], [1e3 * second for second in link["seconds"]], "o", color=colour, label=kind)
        left.loglog(sizes, [1e3 * _reduction(link, 2, size / 4) for size in sizes], "-", color=colour)
    left.set(xlabel="bytes", ylabel="ms", title="one all-reduce, two replicas; lines: model")
    left.legend()
    two = [row for row in rows if "model_seconds" in row]
    names = [f"{row['name'].split(',')[0]}\nbatch {row['batch_size']}\n{row['classes']} classes" for row in two]
    for shift, prefix, colour in ((-0.2, "", "#0b6e4f"), (0.2, "model_", "#9db4c0")):
        place = np.arange(len(two)) + shift
        step, reduction = (
            [row[prefix + name] / row["seconds"] for row in two] for name in ("seconds", "reduction_seconds")
        )
        name = "model" if prefix else "measured"
        right.bar(place, reduction, 0.36, color=colour, label=f"{name}: all-reduce")
        right.bar(
            place, np.subtract(step, reduction), 0.36, reduction, color=colour, alpha=0.5, label=f"{name}: the rest"
        )
    right.set(title="one step of two replicas; 1: measured", ylim=(0, 1.3), yticks=np.linspace(0, 1, 6))
    right.set_xticks(np.arange(len(two)), names, fontsize=7)
    right.legend(ncols=2, loc="upper center", frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(common.RESULTS / "scale.png", dpi=110)
