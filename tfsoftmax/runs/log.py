"""What happens after each epoch: a row in history.csv, progress on standard error, a stop if the loss is not finite."""

from __future__ import annotations

import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

# isort: split

import math
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tfsoftmax._files import write_csv
from tfsoftmax.curvature import LR
from tfsoftmax.errors import TrainingError
from tfsoftmax.spec import RunConfig


class Log(keras.callbacks.Callback):
    """Collects the rows and writes them after each epoch; as a context manager, owns the progress bar around a ``fit``.

    Args:
        path: of ``history.csv``; ``None`` writes nothing.
        config: of the run.
        progress: report each epoch: a bar on a terminal, one line per epoch elsewhere.

    Attributes:
        rows: epoch, figures and learning rate of each epoch.
        seconds: wall-clock time of all epochs, including those before a kill.
        diverged: whether the loss was not a number.

    Raises:
        TrainingError: in ``fit``: the loss is not a number.
    """

    resumed = ("rows", "seconds")

    def __init__(self, path: Path | None, config: RunConfig, progress: bool):
        super().__init__()
        self.path, self.config = path, config
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.diverged = self.begun = False
        self.bar = None
        self.lines = progress and not sys.stderr.isatty()
        if progress and not self.lines:
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True))
            self.task = self.bar.add_task("epochs", total=config.epochs)

    def __enter__(self) -> Log:
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.bar:
            self.bar.stop()

    def write(self) -> None:
        """Write ``history.csv``."""
        if self.path is not None:
            write_csv(self.path, self.rows)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Start the clock."""
        self.begin = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Say where a run continues."""
        if epoch and not self.begun and (self.bar or self.lines):
            print(f"continuing after epoch {epoch}", file=sys.stderr, flush=True)
        self.begun = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write and report the row of this epoch."""
        wrong = [name for name in ("loss", "val_loss") if not math.isfinite(logs.get(name, 0.0))]
        if wrong:
            self.diverged = True
            lr = self.config.lr or LR
            smaller = min(LR, lr / 10)
            raise TrainingError(
                f"the {wrong[0]} is {logs[wrong[0]]} in epoch {epoch + 1} at learning rate {lr:g}; "
                f"take a smaller one, such as --lr {smaller:g}"
            )
        rate = float(np.asarray(self.model.optimizer.learning_rate))
        now = time.perf_counter()
        self.seconds, self.begin = self.seconds + now - self.begin, now
        self.rows.append({"epoch": epoch + 1, **logs, "learning_rate": rate})
        if self.path is None:
            return
        self.write()
        figures = "  ".join(f"{name} {value:.4f}" for name, value in logs.items())
        if self.bar:
            self.bar.update(self.task, completed=epoch + 1, description=figures)
        elif self.lines:
            print(f"epoch {epoch + 1}/{self.config.epochs}  {figures}", file=sys.stderr, flush=True)
