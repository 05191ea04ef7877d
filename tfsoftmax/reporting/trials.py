"""The report of a search: its trials as a table, their learning curves, and what each hyperparameter does."""

from __future__ import annotations

import dataclasses
import math
import os
import shlex
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tfsoftmax.errors import InputError
from tfsoftmax.reporting import figures
from tfsoftmax.reporting.files import Files
from tfsoftmax.tuned import Tuned

_NAMED = 3  # best trials whose curves are named
_TEXTS = {
    "val_loss": "Validation loss (nats)",
    "val_accuracy": "Validation accuracy",
    "loss": "Training loss (nats)",
    "accuracy": "Training accuracy",
    "best_epoch": "Best epoch",
    "gap": "Duality gap (nats)",
    "passes": "Passes",
    "converged": "Converged",
    "status": "Status",
    "reason": "Reason",
    "seconds": "Seconds of its fit",
}


def report(search: Tuned, to: str | os.PathLike[str] | None = None) -> Path:
    """Write the report of a search: a page, and its figures as PNG and CSV in a folder of its name.

    Args:
        search: one that has come to its end.
        to: the ``.html`` file; ``None``: ``report.html`` in the tune folder.

    Returns:
        The path of the page.

    Raises:
        InputError: the search has not ended, one of its files is not as it was written, or ``to`` is not a report.
    """
    trials = search.trials
    if not trials:
        raise InputError(f"the search in {str(search.folder)!r} has not come to its end; the same `tune` goes on")
    files = Files(search.folder / "report.html" if to is None else Path(to))
    files.numbers("trials", trials)
    objective, config = search.asked["objective"], search.asked["config"]
    columns = [name for name in trials[0] if name != "trial" and any(row[name] is not None for row in trials)]
    best = None if search.best is None else dataclasses.asdict(search.best)
    return files.page(
        "trials.html",
        name=config.data or "rows made in Python",
        heads=["Trial", *(_TEXTS.get(name, name) for name in columns)],
        texts=[k + 1 for k, name in enumerate(columns) if any(isinstance(row[name], str) for row in trials)],
        rows=[[row["trial"], *map(row.get, columns)] for row in trials],
        first=trials[0],
        ended=sum(row["status"] == "completed" for row in trials),
        asked=search.asked,
        objective=objective,
        text=_TEXTS[objective],
        curves=_curves(search, files),
        values=[drawn for name in search.asked["space"] if (drawn := _values(trials, name, objective, files))],
        best=best
        and [(name, "-" if value is None else str(value)) for name, value in best.items() if name != "fingerprint"],
        command=f"tfsoftmax train --config {shlex.quote(str(search.folder / 'best.json'))} --refit",
    )


def _curves(search: Tuned, files: Files) -> Markup | None:
    """The objective by epoch of all trials, the best ones named; ``None`` where no trial has more than one epoch."""
    name, numbers, lines = search.asked["objective"], [], {}
    for row in search.trials:
        past = search.histories.get(row["trial"], {}).get(name, [])
        if len(past) > 1:
            values = ", ".join(f"{one} {figures.plain(row[one])}" for one in search.asked["space"])
            lines[f"{row['trial']}: {values}"] = (list(range(1, len(past) + 1)), past)
            numbers += [{"trial": row["trial"], "epoch": k + 1, name: value} for k, value in enumerate(past)]
    if not lines:
        return None
    best = next(iter(lines))
    label = (
        f"{_TEXTS[name]} per epoch of {len(lines)} trials; that of the best, {best}, ends at {lines[best][1][-1]:.4g}"
    )
    return files.figure("curves", label, figures.bundle(lines, _NAMED, "epoch", _TEXTS[name]), numbers)


def _values(trials: list[dict[str, Any]], name: str, objective: str, files: Files) -> tuple[str, Markup] | None:
    """The objective of each trial by one hyperparameter; ``None`` where all have the same value."""
    points = [(row[name], row[objective]) for row in trials if None not in (row[name], row[objective])]
    points = [point for point in points if math.isfinite(point[1])]
    if len({value for value, _ in points}) < 2:
        return None
    label = f"{_TEXTS[objective]} by {name}: {points[0][1]:.4g} at {figures.plain(points[0][0])}, the best"
    numbers = [{name: value, objective: found} for value, found in points]
    return name, files.figure(name, label, figures.points(points, name, _TEXTS[objective]), numbers)
