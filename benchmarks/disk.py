"""Rows a second from a file: windows against the same rows in memory, against reading alone, and against the peers."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common

ROUNDS = 3  # of each pair of our own, each case in a new process, so that a disturbance does not hit one case alone
BATCH, MEMORY, SECONDS = 256, 2**26, 10.0  # of windows; and how long a peer may train
SHAPES = [
    {"rows": 400_000, "features": 784, "dtype": "uint8", "classes": 10},
    {"rows": 50_000, "features": 1024, "dtype": "float32", "classes": 1000},
]
OURS = [
    ("tfsoftmax, in memory", {"memory": 2**62}),
    ("tfsoftmax, windows", {"memory": MEMORY}),
    ("tfsoftmax, windows, not in the page cache", {"memory": MEMORY, "cold": True}),
]
PEERS = [
    ("scikit-learn partial_fit, memory map", "disk_sklearn", {}),
    ("PyTorch, hand loop, memory map", "disk_torch", {"case": "hand"}),
    ("PyTorch, DataLoader, memory map", "disk_torch", {"case": "loader"}),
    ("Keras fit, TFRecordDataset", "disk_records", {}),
    ("Hugging Face datasets, torch format", "disk_datasets", {}),
]


def main(threads: int, only: str) -> None:
    """Measure, print the table, write ``results/disk.json`` and, for the first shape, ``results/disk.png``."""
    result: list[dict[str, Any]] = []
    common.CACHE.mkdir(parents=True, exist_ok=True)
    for shape in SHAPES:
        with tempfile.TemporaryDirectory(dir=common.CACHE) as folder:
            _make(Path(folder), **shape)
            case = {"folder": folder, "batch_size": BATCH, "limit": SECONDS, **shape}
            rows = [_read(Path(folder), cold) for cold in (False, True)]
            ours: dict[str, list[dict[str, Any]]] = {name: [] for name, _ in OURS if only in name}
            for _ in range(ROUNDS):
                for name, more in OURS:
                    if only in name:
                        ours[name].append(_case("disk_fit", threads, **case, **more))
            rows += [{"name": name, **_together(found)} for name, found in ours.items()]
            for name, peer, more in PEERS:
                if only in name:
                    rows.append({"name": name, **_case(peer, threads, **case, **more)})
            memory = next((row.get("rows_per_second") for row in rows if row["name"] == OURS[0][0]), None)
            print(f"\n{shape['rows']:,} rows of {shape['dtype']} {shape['features']:,}, {shape['classes']:,} classes")
            print(f"{'':<44}{'rows/s':>12}{'of memory':>11}{'peak MB':>9}")
            for row in rows:
                if "missing" in row:
                    print(f"{row['name']:<44}  {row['missing']}")
                    continue
                row["share"] = row["rows_per_second"] / memory if memory else None
                share, peak = f"{row['share']:.2f}" if memory else "", row.get("peak_mb")
                cells = f"{row['rows_per_second']:>12,.0f}{share:>11}{'' if peak is None else f'{peak:,.0f}':>9}"
                print(f"{row['name']:<44}{cells}", flush=True)
            result.append({**shape, "cases": rows})
        if not only:  # after each shape: the whole takes long
            common.write("disk", {"machine": common.machine(threads), "memory": MEMORY, "shapes": result})
    if not only:
        first = [(row["name"], 1e6 / row["rows_per_second"]) for row in result[0]["cases"] if "missing" not in row]
        common.bars("disk", first, "microseconds per row of 784 uint8, 10 classes")


def _case(peer: str, threads: int, **case: Any) -> dict[str, Any]:
    """What one process found, or why there is nothing."""
    try:
        return common.run(peer, threads, **case)
    except common.Missing as error:
        return {"missing": str(error)}


def _together(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Several processes of one case: median and best speed, median processor time, largest peak."""
    done = [row for row in found if "missing" not in row]
    if not done:
        return found[0]
    speeds = [row["rows_per_second"] for row in done]
    return {
        "rows_per_second": statistics.median(speeds),
        "best": max(speeds),
        "cpu_seconds": statistics.median(row["cpu_seconds"] for row in done),
        "peak_mb": max(row["peak_mb"] for row in done),
        "rounds": len(done),
    }


def _make(folder: Path, rows: int, features: int, dtype: str, classes: int) -> None:
    """Rows that a linear model learns, in random order."""
    rng = np.random.default_rng(0)
    y, patterns = rng.integers(0, classes, rows), rng.integers(0, 120, (classes, features)).astype(np.uint8)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", dtype, (rows, features))
    for begin in range(0, rows, 4096):
        labels = y[begin : begin + 4096]
        part = patterns[labels] + rng.integers(0, 136, (len(labels), features), dtype=np.uint8)
        x[begin : begin + 4096] = part if dtype == "uint8" else part / np.float32(255)
    x.flush()
    np.save(folder / "y.npy", y)


def _read(folder: Path, cold: bool) -> dict[str, Any]:
    """The read speed of the file, front to back."""
    path, buffer = folder / "x.npy", bytearray(2**22)
    shape = np.load(path, mmap_mode="r").shape
    times = []
    for _ in range(2 if cold else 3):
        with open(path, "rb", buffering=0) as file:
            if cold:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            begin = time.perf_counter()
            while file.readinto(buffer):
                pass
            times.append(time.perf_counter() - begin)
    name = f"limit: reading alone, {'not ' if cold else ''}in the page cache"
    return {"name": name, "rows_per_second": shape[0] / min(times)}
