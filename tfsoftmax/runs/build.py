"""build(): the model that the settings of a run say."""

from __future__ import annotations

import tfsoftmax._tensorflow  # noqa: F401 - before TensorFlow

# isort: split

from collections.abc import Callable

import keras

from tfsoftmax._checks import one_of
from tfsoftmax.curvature import learning_rate
from tfsoftmax.data import Data
from tfsoftmax.model import SoftmaxRegression
from tfsoftmax.spec import SOLVER, RunConfig

# name -> function of the number of all steps that returns SoftmaxRegression's decay_steps
SCHEDULES: dict[str, Callable[[int], int | None]] = {"constant": lambda steps: None, "cosine": lambda steps: steps}


def build(config: RunConfig, data: Data) -> keras.Sequential:
    """The model that ``config`` says, for ``config.epochs`` epochs of ``data.train``."""
    schedule = config.schedule or "constant"
    one_of("schedule", schedule, SCHEDULES)
    return SoftmaxRegression(
        len(data.classes),
        learning_rate(config, data),
        optimizer="sgd" if config.optimizer == SOLVER else config.optimizer,
        momentum=config.momentum,
        l2=config.l2,
        label_smoothing=config.label_smoothing,
        decay_steps=SCHEDULES[schedule](config.epochs * data.rows.train.steps),
        precision=config.precision,
    )
