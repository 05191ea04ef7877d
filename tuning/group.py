"""A group of trials in training, as the lanes of one compiled fit."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax._files import write_text
from tfsoftmax.fitting.lanes import Lanes
from tuning.calls import Call

History = dict[str, list[float]]


@dataclasses.dataclass
class Trained:
    """The result of one lane.

    Args:
        model: the model of its first execution; it is saved with the weights of the best epoch.
        value: the objective's value in the best epoch.
        weights: kernel and bias of that epoch.
        histories: metrics by epoch, by the names that Keras uses; one per execution.
        failed: why it failed; empty if it did not.
    """

    model: Any
    value: float
    weights: tuple[np.ndarray, np.ndarray]
    histories: list[History] = dataclasses.field(default_factory=list)
    failed: str = ""

    def epoch(self, epoch: int, logs: dict[str, float], objective: Any, weights: tuple[np.ndarray, np.ndarray]) -> None:
        """Record the figures of an epoch."""
        if wrong := [name for name, value in logs.items() if not math.isfinite(value)]:
            self.failed = f"diverged: {wrong[0]} is {logs[wrong[0]]} in epoch {epoch + 1}"
            return
        for name, value in logs.items():
            self.histories[-1].setdefault(name, []).append(value)
        if objective.better_than(objective.get_value(logs), self.value):
            self.value, self.weights = objective.get_value(logs), weights

    def save(self, checkpoint: Path, build_config: Path) -> None:
        """Write the weights of the best epoch, as KerasTuner does for a trial."""
        model = self.model
        model.layers[1].set_weights(self.weights)
        model.optimizer.build(model.trainable_variables)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        # HDF5 ends the process when the disk is full
        if shutil.disk_usage(checkpoint.parent).free < 2**20 + 4 * 4 * model.count_params():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(checkpoint))
        aside = checkpoint.with_name(f".{checkpoint.name}")
        try:
            model.save_weights(aside)
            os.replace(aside, checkpoint)
        finally:
            aside.unlink(missing_ok=True)
        write_text(build_config, json.dumps(model.get_build_config()))


def train(
    calls: list[Call],
    objective: Any,
    executions: int,
    build: Callable[[int], Any],
    epoch_ended: Callable[[int, int, dict[str, float]], None],
    time_is_up: Callable[[], bool],
) -> list[Trained]:
    """Train a group of lanes.

    Args:
        calls: their fits, which differ in the lane only.
        objective: KerasTuner's, which decides which epoch is best.
        executions: how many times each is trained, each time on a new model.
        build: lane number -> a new, built model for another execution.
        epoch_ended: called with lane number, epoch and figures, unless the lane has diverged.
        time_is_up: called after each epoch.
    """
    worst = -math.inf if objective.direction == "max" else math.inf
    trained = [Trained(call.model, worst, call.model.layers[1].get_weights()) for call in calls]
    first, last = calls[0].initial_epoch, calls[0].epochs
    for execution in range(executions):
        models = [build(k) if execution else call.model for k, call in enumerate(calls)]
        starts = [tuple(model.layers[1].get_weights()) for model in models]
        lanes = Lanes([call.lane for call in calls], starts, calls[0].train, calls[0].val)
        for lane in trained:
            lane.histories.append({})
        for epoch in range(first, last):
            logs = lanes.epoch(epoch)
            weights = lanes.weights()
            for k, lane in enumerate(trained):
                if lane.failed:
                    continue
                of_lane = {name: float(values[k]) for name, values in logs.items()}
                lane.epoch(epoch, of_lane, objective, weights[k])
                if not lane.failed:
                    epoch_ended(k, epoch, of_lane)
            if time_is_up():
                break
    return trained
