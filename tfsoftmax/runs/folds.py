"""Folds: what models say of training rows that they have not seen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tfsoftmax._checks import typed
from tfsoftmax.data import Data
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.compilable import prepare
from tfsoftmax.fitting.lanes import Lane, Lanes, lane_of
from tfsoftmax.fitting.solver import optimum
from tfsoftmax.runs.build import build
from tfsoftmax.runs.evaluation import softmax
from tfsoftmax.runs.run import Run, data_settings, logits
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

    Validation rows of the run are in the folds. A fit has as many epochs as the run had, over all rows, of which those
    of its fold have the weight 0; the constants of the preprocessing, which know no labels, are those of all rows. Each
    fold has of every class its share; groups stay together.

    Raises:
        InputError: fewer rows, or groups, than folds.
    """
    every = Data(data.source, **{**data_settings(run.config), "val": 0, "refit": False})
    rows, classes = every.rows.train, len(every.classes)
    fold = drawn(every, FOLDS, typed("seed", run.config.seed, int))
    probabilities = np.empty((len(rows), classes), np.float32)
    for one, weights in enumerate(_fitted(run, every, fold)):
        held_out = np.flatnonzero(fold == one)
        said = np.concatenate(list(logits(weights, rows.some(held_out, every.spec))))
        probabilities[held_out] = softmax(said)
    places = np.arange(len(rows)) if rows.index is None else rows.index.astype(np.int64)
    return OutOfFold(places, rows.y, probabilities)


def _fitted(run: Run, data: Data, fold: np.ndarray) -> Iterator[Sequence[np.ndarray]]:
    """Kernel and bias of the fit without each fold: lanes where the settings allow them, else one after the other."""
    config, epochs, rows = run.config, run.metrics["epochs"], data.rows.train
    weight = (fold[:, None] != np.arange(FOLDS)).astype(np.float32)
    weight *= len(rows) / weight.sum(axis=0)
    if rows.weight is not None:
        weight *= rows.weight[:, None]
    if config.optimizer == SOLVER:
        for of_rows in weight.T:
            train = rows.weighted(of_rows)
            yield optimum(train, len(data.classes), [config.l2], tol=config.tol, passes=config.passes)[0].weights
        return
    model = build(config, data)
    prepare(model, data.spec.features)
    lane = lane_of(model)
    if isinstance(lane, Lane):
        lanes = Lanes([lane] * FOLDS, [model.get_weights()] * FOLDS, rows.weighted(weight), None)
        for epoch in range(epochs):
            lanes.epoch(epoch)
        yield from lanes.weights()
        return
    state = [*model.variables, *model.optimizer.variables]
    begin = [np.array(variable) for variable in state]
    for of_rows in weight.T:
        for variable, value in zip(state, begin, strict=True):
            variable.assign(value)
        model.fit(rows.weighted(of_rows).dataset(), epochs=epochs, verbose=0)
        yield model.get_weights()


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
