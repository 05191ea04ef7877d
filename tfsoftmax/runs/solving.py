"""A run to the optimum: what train() does instead of epochs where the optimizer is ``lbfgs``."""

from __future__ import annotations

import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

# isort: split

import sys
import time
from typing import Any

import keras

from tfsoftmax.data import Data
from tfsoftmax.fitting.compilable import prepare
from tfsoftmax.fitting.solver import Progress, optimum
from tfsoftmax.runs.log import Log
from tfsoftmax.spec import RunConfig

_EVERY = 5.0  # seconds between lines of progress


def to_the_optimum(model: keras.Sequential, config: RunConfig, data: Data, log: Log, progress: bool) -> dict[str, Any]:
    """Solve for the training rows, give ``model`` the weights, fill ``log``; returns the certificate."""
    begin = said = time.perf_counter()

    def on_pass(now: Progress) -> None:
        nonlocal said
        log.rows.append({"epoch": now.passes, "objective": now.objective, "gap": now.gap})
        if progress and time.perf_counter() - said > _EVERY:
            said = time.perf_counter()
            print(f"pass {now.passes}  objective {now.objective:.6f}  gap {now.gap:.2g}", file=sys.stderr, flush=True)

    prepare(model, data.spec.features)
    rows = data.rows.train
    (found,) = optimum(rows, len(data.classes), [config.l2], tol=config.tol, passes=config.passes, on_pass=on_pass)
    model.layers[1].set_weights(found.weights)
    log.seconds = time.perf_counter() - begin
    log.write()
    return found.certificate()
