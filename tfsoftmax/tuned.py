"""Tuned: a tune folder, opened: what was searched, its trials and their curves. No heavy imports."""

from __future__ import annotations

import contextlib
import csv
import functools
import math
import os
from pathlib import Path
from typing import Any, TypedDict

from tfsoftmax._checks import typed
from tfsoftmax._files import read_json
from tfsoftmax._kinds import TUNE, not_a
from tfsoftmax.errors import InputError
from tfsoftmax.spec import RunConfig

SEARCH, TRIALS = "search.json", "trials.csv"
# what a report of a search writes beside it, in the folder report
DRAWN = (
    *("curves", "trials"),
    *("lr", "momentum", "l2", "label_smoothing", "optimizer", "schedule", "preprocess", "batch_size", "epochs"),
)


class _Range(TypedDict):
    low: float
    high: float


class _Asked(TypedDict):
    """``search.json``: what was requested."""

    config: dict[str, Any]
    space: dict[str, _Range | list[Any]]
    tuner: str
    trials: int
    objective: str


class _Group(TypedDict):
    """What is read of the results of a group of trials: histories by trial, or why there are none."""

    results: dict[str, list[Any] | str]


def read_search(path: Path) -> dict[str, Any]:
    """Read ``search.json``, with ``config`` as a RunConfig."""
    what = f"search {str(path)!r}"
    asked: dict[str, Any] = typed(what, read_json(path, "search"), _Asked)
    return {**asked, "config": RunConfig.from_dict(asked["config"], f"{what}.config")}


class Tuned:
    """A tune folder, finished or not.

    Args:
        folder: where it is.

    Raises:
        InputError: no such folder. The attributes raise it where a file is not as ``tune`` wrote it.
    """

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)
        if not (self.folder / SEARCH).is_file():
            text = f"there is no tune folder {str(self.folder)!r}; `tfsoftmax tune --out {folder}` makes one"
            raise not_a(TUNE, self.folder, text)

    @functools.cached_property
    def asked(self) -> dict[str, Any]:
        """What was requested: ``config``, a RunConfig; ``space``, ``tuner``, ``trials`` and ``objective``."""
        return read_search(self.folder / SEARCH)

    @functools.cached_property
    def best(self) -> RunConfig | None:
        """The settings of the best trial; ``None`` if none has finished."""
        path = self.folder / "best.json"
        return RunConfig.load(path, "configuration") if path.is_file() else None

    @functools.cached_property
    def trials(self) -> list[dict[str, Any]]:
        """``trials.csv``, the best first and those without figures last: numbers as such, ``None`` for nothing.

        Empty where the search has not come to its end.
        """
        path = self.folder / TRIALS
        if not path.is_file():
            return []
        objective = self.asked["objective"]
        sign = -1 if objective == "val_accuracy" else 1

        def place(row: dict[str, Any]) -> tuple[float, float]:
            value, loss = row[objective], row["val_loss"]
            return (math.inf, math.inf) if value is None or loss is None else (sign * value, loss)

        try:
            with open(path, encoding="utf-8", newline="") as file:
                return sorted(map(_read, csv.DictReader(file)), key=place)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{str(path)!r} is not as tune wrote it: {error}") from error

    @functools.cached_property
    def histories(self) -> dict[str, dict[str, list[float]]]:
        """The figures by epoch of each trial of which they are kept, under Keras's names."""
        found = {}
        for path in sorted((self.folder / "trials" / "lanes").glob("[0-9]*.json")):
            group = typed(f"trials {str(path)!r}", read_json(path, "trials"), _Group)
            for name, results in group["results"].items():
                if isinstance(results, list) and results and isinstance(results[0], dict):
                    found[name] = typed(f"trial {name} in {str(path)!r}", results[0], dict[str, list[float]])
        return found


_TEXT = ("trial", "status", "reason")


def _read(row: dict[str, str]) -> dict[str, Any]:
    """A row of ``trials.csv``; the columns depend on what is tuned and by what."""
    return {name: row[name] or None if name in _TEXT else _value(value) for name, value in row.items()}


def _value(text: str) -> int | float | str | None:
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text or None
