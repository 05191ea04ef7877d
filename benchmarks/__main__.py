"""Run one benchmark: print its table, write benchmarks/results/NAME.json and NAME.png."""

import argparse
import importlib
import os

BENCHMARKS = {
    "epoch": "seconds an epoch: the limit, this package, its peers",
    "tune": "seconds for sixteen learning rates: lanes, one at a time, KerasTuner's random search",
    "serve": "requests a second: the server, the smallest possible handler, its peers; needs wrk and h2load",
    "scale": "rows a second on one and two replicas, the all-reduce against its model",
    "chapter": "this package and the chapter's four frameworks from one start: losses, weights, seconds an epoch",
    "tables": "an epoch of a table with words, as codes and with all their zeros",
    "optimum": "seconds to a duality gap of 1e-3: one penalty and many, against scikit-learn, PyTorch and JAX",
    "disk": "rows a second from a file: windows, in memory, reading alone, the peers",
    "shapes": "an epoch on a grid of shapes, against NumPy, the roofline of the machine and the peers",
    "growth": "time and memory against rows, features, classes and batch size",
}


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "name", choices=BENCHMARKS, help="; ".join(f"{name}: {text}" for name, text in BENCHMARKS.items())
    )
    parser.add_argument(
        "--threads", type=int, default=len(os.sched_getaffinity(0)), help="cores that each case may use"
    )
    parser.add_argument("--only", default="", help="run only the cases whose name has this in it; nothing is written")
    arguments = parser.parse_args()
    importlib.import_module(f"benchmarks.{arguments.name}").main(arguments.threads, arguments.only)


main()
