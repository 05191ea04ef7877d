"""The report of several runs beside each other: what differs, in figures and in settings."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax.errors import InputError
from tfsoftmax.reporting import answers, figures
from tfsoftmax.reporting.answers import Answers
from tfsoftmax.reporting.files import Files
from tfsoftmax.runs.folder import history
from tfsoftmax.runs.run import Run, logits

_RESAMPLES = 10_000


def compare(runs: Sequence[Run], to: str | os.PathLike[str]) -> Path:
    """Write the report of several runs on the same test rows: a page, and its figures in a folder of its name.

    Args:
        runs: finished ones, at least two; each is compared with the first.
        to: the ``.html`` file.

    Returns:
        The path of the page.

    Raises:
        InputError: the runs have other test rows or classes than the first, data cannot be read, or ``to`` is not a
            report.
    """
    names, first = [str(run.folder) for run in runs], runs[0]
    if len(set(names)) < max(2, len(names)):
        raise InputError(f"several different runs are compared, got {', '.join(names)}")
    read, tested = [], None
    for run in runs:
        data = run.data()
        if tested is None:
            tested = data
        other = data.fingerprint != tested.fingerprint or run.spec.classes != first.spec.classes
        drawn: list[Any] = [one.rows.test.index for one in (data, tested)]
        if other or not np.array_equal(*drawn):
            raise InputError(
                f"the run in {str(run.folder)!r} has other test rows or classes than that in {names[0]!r}; runs are "
                "compared on the same ones"
            )
        rows = run.rows(data)
        read.append(answers.read(logits(run.weights, rows), rows.y, run.spec.classes, rows.weight))
    files = Files(Path(to))
    table = [_row(name, found, read[0]) for name, found in zip(names, read, strict=True)]
    files.numbers("runs", table)
    settings = [dataclasses.asdict(run.config) for run in runs]
    return files.page(
        "several.html",
        name=first.spec.name,
        rows=table,
        curves=_curves(names, runs, files),
        settings=[
            (key, ["-" if one[key] is None else str(one[key]) for one in settings])
            for key in settings[0]
            if any(one[key] != settings[0][key] for one in settings)
        ],
    )


def _row(name: str, found: Answers, first: Answers) -> dict[str, Any]:
    row = {key: found.figures[key] for key in ("rows", "accuracy", "accuracy_95", "loss", "brier", "calibration_error")}
    if found is first:
        return {"run": name, **row, "difference": None, "difference_95": (None, None), "p": None}
    won, lost = int((found.right & ~first.right).sum()), int((first.right & ~found.right).sum())
    interval = paired_bootstrap(won, lost, len(found.right))
    apart = {"difference": (won - lost) / len(found.right), "difference_95": interval, "p": mcnemar(won, lost)}
    return {"run": name, **row, **apart}


def paired_bootstrap(won: int, lost: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two accuracies on the same rows.

    Percentiles of ``_RESAMPLES`` resamples of the rows, seed 0. Rows count by who is right alone, so that a resample is
    one draw from a multinomial distribution.

    Args:
        won: rows where the one is right and the other is not.
        lost: the other way round.
        rows: all.
    """
    shares = np.array([won, lost, rows - won - lost]) / rows
    drawn = np.random.default_rng(0).multinomial(rows, shares, _RESAMPLES)
    low, high = np.percentile((drawn[:, 0] - drawn[:, 1]) / rows, (2.5, 97.5))
    return float(low), float(high)


def mcnemar(won: int, lost: int) -> float:
    """The two-sided p-value of McNemar's exact test: of fair coins, one for each row that one alone has right."""
    count, few = won + lost, min(won, lost)
    factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count + 1)))])
    of_each = factorial[count] - factorial[: few + 1] - factorial[count - few : count + 1][::-1] - count * np.log(2)
    return min(1.0, 2 * float(np.exp(of_each).sum()))


def _curves(names: list[str], runs: Sequence[Run], files: Files) -> list[tuple[str, Any]]:
    """A figure for each column of ``history.csv`` that a run has."""
    past = [history(run.folder) for run in runs]
    made = []
    for column, text in {
        "loss": "training loss",
        "val_loss": "validation loss",
        "val_accuracy": "validation accuracy",
    }.items():
        lines = {
            name: (one["epoch"], one[column])
            for name, one in zip(names, past, strict=True)
            if np.isfinite(one.get(column, [])).any()
        }
        if lines:
            label = f"{text} per epoch: " + "; ".join(f"{name} ends at {y[-1]:.4f}" for name, (_, y) in lines.items())
            numbers = [
                {"run": name, "epoch": a, column: b}
                for name, (x, y) in lines.items()
                for a, b in zip(x, y, strict=True)
            ]
            made.append((text, files.figure(column, label, figures.curves(lines, "epoch", text), numbers)))
    return made
