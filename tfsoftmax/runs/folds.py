"""Folds: what models say of training rows that they have not seen."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tfsoftmax._checks import typed
from tfsoftmax.data import Data
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.compilable import prepare
from tfsoftmax.fitting.solver import optimum
from tfsoftmax.runs.evaluation import softmax
from tfsoftmax.runs.run import Run, data_settings, logits
from tfsoftmax.runs.training import build
from tfsoftmax.spec import SOLVER
from tfsoftmax.splits import folds

FOLDS = 5


class OutOfFold(NamedTuple):
    """What :func:`out_of_fold` returns.

    Attributes:
        rows: places in the source's training split, ascending, without those drawn for the test, int64 ``(rows,)``.
        labels: int32 ``(rows,)``.
        probabilities: float32 ``(rows, classes)``.
    """

    rows: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def out_of_fold(run: Run, data: Data) -> OutOfFold:
    """Fit the settings of ``run`` on all folds but one, for each of ``FOLDS``, and ask what it says of that one.

    Validation rows of the run are in the folds. A fit has as many epochs as the run had; the constants of the
    preprocessing, which know no labels, are those of all rows, so that one compilation serves all fits. Each fold has
    of every class its share; groups stay together.

    Raises:
        InputError: fewer rows, or groups, than folds.
    """
    config = run.config
    every = Data(data.source, **{**data_settings(config), "val": 0, "refit": False})
    rows, classes, seed = every.rows.train, len(every.classes), typed("seed", config.seed, int)
    fold = drawn(every, FOLDS, seed)
    model = build(config, every, math.ceil((fold != 0).sum() / rows.batch_size))
    prepare(model, every.spec.features)
    state = [*model.variables, *model.optimizer.variables]
    begin = [np.array(variable) for variable in state]
    probabilities = np.empty((len(rows), classes), np.float32)
    for one in range(FOLDS):
        held_out, others = (np.flatnonzero(part) for part in (fold == one, fold != one))
        train = rows.some(others, every.spec, seed)
        if config.optimizer == SOLVER:
            (found,) = optimum(train, classes, [config.l2], tol=config.tol, passes=config.passes)
            model.layers[1].set_weights(found.weights)
        else:
            for variable, value in zip(state, begin, strict=True):
                variable.assign(value)
            model.fit(train.dataset(), epochs=run.metrics["epochs"], verbose=0)
        said = np.concatenate(list(logits(model.get_weights(), rows.some(held_out, every.spec))))
        probabilities[held_out] = softmax(said)
    places = np.arange(len(rows)) if rows.index is None else rows.index.astype(np.int64)
    return OutOfFold(places, rows.y, probabilities)


def drawn(data: Data, count: int, seed: int) -> np.ndarray:
    """Which of ``count`` folds each training row is in, int64 ``(rows,)``: of every class its share, or whole groups.

    Raises:
        InputError: fewer rows, or groups, than folds.
    """
    random, groups, rows = np.random.default_rng(seed), data.source.groups, data.rows.train
    if groups is not None:
        names, group = np.unique(groups if rows.index is None else groups[rows.index], return_inverse=True)
        _enough(len(names), count, "groups", data)
        found: np.ndarray = (random.permutation(len(names)) % count)[group]
        return found
    _enough(len(rows), count, "rows", data)
    return folds(rows.y, count, random)


def _enough(there: int, wanted: int, what: str, data: Data) -> None:
    if there < wanted:
        raise InputError(f"{wanted} folds need as many training {what}, and {data.spec.name!r} has {there}")
