"""What a run folder says of itself without TensorFlow: whether its training has finished, and its history."""

from __future__ import annotations

import csv
from pathlib import Path

from tfsoftmax.errors import InputError

STATE = "state"  # in the run folder until training has finished


def has_finished(folder: Path) -> bool:
    """Whether training has finished in ``folder``."""
    return (folder / "metrics.json").is_file() and not (folder / STATE).exists()


def history(folder: Path) -> dict[str, list[float]]:
    """``history.csv``: the values of each column, in order; empty where there is none.

    Raises:
        InputError: it is not as ``train`` wrote it.
    """
    path = folder / "history.csv"
    if not path.is_file():
        return {}
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {name: [float(row[name] or "nan") for row in rows] for name in (rows[0] if rows else ())}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{str(path)!r} is not as train wrote it: {error}") from error


def best_epoch(past: dict[str, list[float]]) -> int | None:
    """The epoch with the lowest validation loss of what :func:`history` returns; ``None`` without validation."""
    losses = past.get("val_loss")
    return int(past["epoch"][losses.index(min(losses))]) if losses else None
