"""Seconds until a duality gap of 1e-3: this package and its peers, for one penalty and for many at once."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common

GAP, LIMIT = 1e-3, 300.0  # nats; seconds after which a peer is given no more iterations
BUDGET = 120.0  # seconds that a peer has for all penalties, the largest first, where they would take it an hour
ONE = [1e-4]
SIXTEEN = [float(value) for value in np.geomspace(1e-4, 1e-1, 16)]
MANY = [float(value) for value in np.geomspace(2e-6, 2e2, 45)]
PEERS = {"tfsoftmax": "ours", "torch L-BFGS": "torch", "optax L-BFGS": "jax"}  # all others are scikit-learn's solvers
DEFAULT, SAME = "scikit-learn lbfgs, default tol", "tfsoftmax, the gap of that"


def _fashion() -> tuple[np.ndarray, np.ndarray]:
    from tfsoftmax.sources import read

    source = read("fashion_mnist")
    x = source.x_train.reshape(len(source.x_train), -1).astype(np.float32) / 255
    return x - x.mean(axis=0), source.y_train


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-12)).astype(np.float32), y.astype(np.int32)


def _embeddings(rows: int, features: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Normal rows around class centres, seed 0; neighbours overlap."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(classes, features)).astype(np.float32) * np.float32(3 / np.sqrt(features))
    y = rng.integers(0, classes, rows).astype(np.int32)
    x = centres[y] + rng.normal(size=(rows, features)).astype(np.float32)
    return (x - x.mean(axis=0)) / x.std(axis=0), y


_EACH = ONE, SIXTEEN, MANY
# name -> its rows, and the penalties of each solver; peers that take one after the other get every fifth of the most
# where all of them would take half an hour
DATA: dict[str, tuple[Callable[[], tuple[np.ndarray, np.ndarray]], dict[str, tuple[list[float], ...]]]] = {
    "digits": (
        _digits,
        {
            "tfsoftmax": _EACH,
            "torch L-BFGS": _EACH,
            "optax L-BFGS": _EACH,
            "scikit-learn lbfgs": _EACH,
            "scikit-learn newton-cg": _EACH,
            "scikit-learn newton-cholesky": _EACH,
            "scikit-learn saga": _EACH,
        },
    ),
    "fashion": (
        _fashion,
        {
            "tfsoftmax": _EACH,
            "torch L-BFGS": (ONE, SIXTEEN, MANY[::5]),
            "optax L-BFGS": (ONE, SIXTEEN, MANY[::5]),
            "scikit-learn lbfgs": _EACH,
        },
    ),
    "embeddings-100": (
        lambda: _embeddings(100_000, 768, 100),
        {
            "tfsoftmax": _EACH,
            "torch L-BFGS": (ONE, SIXTEEN),
            "optax L-BFGS": (ONE, SIXTEEN),
            "scikit-learn lbfgs": _EACH,
        },
    ),
    "embeddings-1000": (
        lambda: _embeddings(50_000, 1024, 1000),
        {"tfsoftmax": (ONE,), "torch L-BFGS": (ONE,), "optax L-BFGS": (ONE,), "scikit-learn lbfgs": (ONE,)},
    ),
}
# those that would take a peer an hour: how many it solves in BUDGET seconds, the largest first
IN_TIME: dict[str, dict[str, tuple[list[float], ...]]] = {
    "fashion": {
        "tfsoftmax": _EACH,
        "torch L-BFGS": (MANY,),
        "optax L-BFGS": (MANY,),
        "scikit-learn lbfgs": (ONE,),
        "scikit-learn newton-cg": _EACH,
        "scikit-learn newton-cholesky": (ONE,),
        "scikit-learn saga": _EACH,
    },
    "embeddings-100": {
        "tfsoftmax": (ONE, MANY),
        "torch L-BFGS": (MANY,),
        "optax L-BFGS": (MANY,),
        "scikit-learn newton-cg": _EACH,
        "scikit-learn saga": (ONE,),
    },
    "embeddings-1000": {
        "tfsoftmax": _EACH,
        "torch L-BFGS": _EACH,
        "optax L-BFGS": _EACH,
        "scikit-learn lbfgs": _EACH,
        "scikit-learn newton-cg": _EACH,
        "scikit-learn saga": (ONE,),
    },
}


def main(threads: int, only: str) -> None:
    """Measure, print the table; write each data set of which every case was measured to ``results/optimum.json``."""
    print(f"{'data':<24}{'solver':<32}{'penalties':>10}{'seconds':>10}{'passes':>14}{'gap':>10}")
    cases_of = {data: (*case, False) for data, case in DATA.items()}
    cases_of |= {f"{data}, {BUDGET:g} s": (DATA[data][0], solvers, True) for data, solvers in IN_TIME.items()}
    for data, (make, solvers, in_time) in cases_of.items():
        with tempfile.TemporaryDirectory() as folder:
            measured: list[dict[str, Any]] = []
            left_out, made, gap = False, False, GAP
            cases = [(name, penalties) for name, each in solvers.items() for penalties in each]
            cases += [(DEFAULT, SIXTEEN), (DEFAULT, MANY)] if in_time else [(DEFAULT, ONE), (SAME, ONE)]
            for name, penalties in cases:
                if only not in f"{data} {name} {len(penalties)}":
                    left_out = True
                    continue
                if not made:
                    x, y = make()
                    np.save(Path(folder, "x.npy"), x)
                    np.save(Path(folder, "y.npy"), y)
                    made = True
                program = name.partition(",")[0]
                solver = program.rpartition(" ")[2]
                case = {"folder": folder, "penalties": penalties, "gap": gap, "times": 1 if "embeddings" in data else 2}
                case |= {"solver": solver, "limit": LIMIT, "budget": float("inf")}
                if in_time:
                    case |= {"penalties": penalties[::-1], "budget": BUDGET}
                if name == DEFAULT:
                    case["tol"] = 1e-4
                try:
                    row = common.run(f"optimum_{PEERS.get(program, 'sklearn')}", threads, **case)
                except common.Missing as error:
                    print(f"{data:<24}{name:<32}{len(penalties):>10}  {error}", flush=True)
                    continue
                measured.append({"name": name, "penalties": len(penalties), **row})
                gap = row["gap"] if name == DEFAULT else GAP  # ours goes as far as that
                solved, low, high = len(row["passes"]), min(row["passes"]), max(row["passes"])
                cells = f"{f'{solved} of {len(penalties)}':>10}{row['seconds']:>10.2f}{f'{low} to {high}':>14}"
                print(f"{data:<24}{name:<32}{cells}{row['gap']:>10.1e}", flush=True)
        if not left_out:
            path = common.RESULTS / "optimum.json"
            whole = json.loads(path.read_text()) if path.exists() else {}
            whole[data] = {"machine": common.machine(threads), "gap": GAP, "cases": measured}
            common.write("optimum", whole)
