"""Seconds for sixteen learning rates, ten epochs each: lanes, one at a time, and KerasTuner's random search."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common
from tfsoftmax import sources

ROUNDS = 3
EPOCHS, TRIALS = 10, 16
# (name, case, trials measured, rounds); times of fewer trials are scaled to all
CASES = [
    ("one fit, compiled epoch", "fit", 1, ROUNDS),
    ("LaneTuner, 16 lanes", "lanes", TRIALS, ROUNDS),
    ("16 fits, compiled epoch", "sequential", TRIALS, ROUNDS),
    ("KerasTuner RandomSearch, compiled epoch", "compiled", TRIALS, 1),
    ("KerasTuner RandomSearch, usual Keras pipeline", "usual", 2, 1),
]


def main(threads: int, only: str) -> None:
    """Run all cases, print the table, write ``results/tune.json`` and ``results/tune.png``."""
    with tempfile.TemporaryDirectory() as folder:
        source = sources.read("fashion_mnist")
        for name in ("x_train", "y_train", "x_test", "y_test"):
            np.save(Path(folder, f"{name}.npy"), getattr(source, name))
        found: dict[str, list[float]] = {name: [] for name, *_ in CASES if only in name}
        for i in range(ROUNDS):
            for name, case, trials, rounds in CASES:
                if name in found and i < rounds:
                    asked: dict[str, Any] = {"folder": folder, "epochs": EPOCHS, "trials": trials, "case": case}
                    seconds = common.run("tune_search", threads, **asked)["seconds"]
                    found[name].append(seconds * (1 if case == "fit" else TRIALS / trials))
    medians = {name: statistics.median(seconds) for name, seconds in found.items()}
    one, ours = medians.get(CASES[0][0]), medians.get(CASES[1][0])
    rows = [
        {
            "name": name,
            "seconds": medians[name],
            "all": found[name],
            "trials_measured": trials,
            "of_one_fit": one and medians[name] / one,
            "of_lanes": ours and medians[name] / ours,
        }
        for name, _, trials, _ in CASES
        if name in found
    ]
    print(f"{'':<48}{'s':>9}{'of one fit':>12}{'of lanes':>10}")
    for row in rows:
        figures = [f"{row[key]:.2f}" if row[key] else "" for key in ("of_one_fit", "of_lanes")]
        scaled = f"  (scaled from {row['trials_measured']} trials)" if row["trials_measured"] not in (1, TRIALS) else ""
        print(f"{row['name']:<48}{row['seconds']:>9.2f}{figures[0]:>12}{figures[1]:>10}{scaled}")
    if not only:
        common.write("tune", {"machine": common.machine(threads), "epochs": EPOCHS, "trials": TRIALS, "cases": rows})
        common.bars("tune", [(row["name"], row["seconds"]) for row in rows], "seconds for 16 learning rates")
