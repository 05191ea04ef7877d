"""The live table of a search: one line per running trial, and the best finished ones."""

from __future__ import annotations

import sys
import time
from typing import Any

from tfsoftmax.spec import SOLVER
from tuning.space import SoftmaxHyperModel

_SHOWN = 24  # lines at most


class LiveTable:
    """Shows trials on standard error: a table on a terminal, otherwise one line per finished trial.

    Args:
        hypermodel: whose space names the columns.
        objective: the metric that trials are sorted by.
        shown: whether to show anything.
    """

    def __init__(self, hypermodel: SoftmaxHyperModel, objective: str, shown: bool):
        self._names, self._objective, self._shown = list(hypermodel.space), objective, shown
        self._step = "pass" if hypermodel.config.optimizer == SOLVER else "epoch"
        self._rows: dict[str, dict[str, Any]] = {}
        self._live: Any = None
        self._drawn = 0.0
        if shown and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)

    def __enter__(self) -> LiveTable:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def epoch(self, trial: Any, epoch: int, logs: dict[str, float]) -> None:
        """A trial has ended an epoch."""
        self._rows[trial.trial_id] = {
            "values": trial.hyperparameters.values,
            "state": f"{self._step} {epoch + 1}",
            **logs,
        }
        if self._live and time.monotonic() - self._drawn > 0.2:
            self._draw()

    def end(self, trial: Any) -> None:
        """A trial has ended."""
        row = self._rows.setdefault(trial.trial_id, {"values": trial.hyperparameters.values})
        row["state"] = "done" if trial.status == "COMPLETED" else trial.status.lower()
        row.update({name: trial.metrics.get_last_value(name) for name in trial.metrics.metrics})
        if self._live:
            self._draw()
        elif self._shown:
            print(f"trial {trial.trial_id}  {'  '.join(self._cells(row))}", file=sys.stderr, flush=True)

    def _cells(self, row: dict[str, Any]) -> list[str]:
        values = [f"{name} {_short(row['values'].get(name))}" for name in self._names]
        figures = [f"{name} {row[name]:.4f}" for name in ("val_loss", "val_accuracy") if name in row]
        return [*values, *figures, row["state"]]

    def _draw(self) -> None:
        from rich.table import Table

        self._drawn = time.monotonic()
        table = Table(box=None, pad_edge=False)
        for name in ("trial", *self._names, "val_loss", "val_accuracy", "state"):
            table.add_column(name, justify="left" if name in ("trial", "state") else "right")
        running = {name: row for name, row in self._rows.items() if row["state"].startswith(self._step)}
        ended = {name: row for name, row in self._rows.items() if name not in running}
        sign = -1 if self._objective == "val_accuracy" else 1
        ended = dict(sorted(ended.items(), key=lambda item: sign * item[1].get(self._objective, sign * float("inf"))))
        for name, row in list({**running, **ended}.items())[:_SHOWN]:
            figures = [f"{row[key]:.4f}" if key in row else "" for key in ("val_loss", "val_accuracy")]
            table.add_row(name, *(_short(row["values"].get(key)) for key in self._names), *figures, row["state"])
        self._live.update(table, refresh=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
