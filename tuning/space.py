"""What can be tuned and over which ranges: the table of hyperparameters, the hypermodel."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import keras_tuner
import numpy as np

from tfsoftmax._checks import one_of
from tfsoftmax.curvature import Curvature as Curvature
from tfsoftmax.curvature import curvature as curvature
from tfsoftmax.curvature import learning_rate
from tfsoftmax.data import Data
from tfsoftmax.errors import InputError
from tfsoftmax.model import OPTIMIZERS
from tfsoftmax.preprocessing import PREPROCESSORS
from tfsoftmax.runs.build import SCHEDULES, build
from tfsoftmax.spec import SOLVER, RunConfig


@dataclasses.dataclass(frozen=True)
class Range:
    """All numbers from ``low`` to ``high``, spread evenly in their logarithm; both above 0."""

    low: float
    high: float


PENALTIES = Range(1e-6, 1e2)
Values = Range | tuple[Any, ...]
Space = dict[str, Values]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise InputError(f"{text!r} is not a number") from error


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{text!r} is not a whole number") from error


def _name(choices: Mapping[str, Any]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        one_of("a value", text, choices)
        return text

    return parse


# name, as in RunConfig -> (how to read one value, whether a range LOW:HIGH is allowed)
HYPERPARAMETERS: dict[str, tuple[Callable[[str], Any], bool]] = {
    "lr": (_number, True),
    "momentum": (_number, False),
    "l2": (_number, True),
    "label_smoothing": (_number, False),
    "optimizer": (_name(OPTIMIZERS), False),
    "schedule": (_name(SCHEDULES), False),
    "preprocess": (_name(PREPROCESSORS), False),
    "batch_size": (_whole, False),
    "epochs": (_whole, False),
}
_OF_SOLVER = ("l2", "preprocess")  # those that say something to lbfgs


def parse_space(entries: Sequence[str]) -> Space:
    """Read ``NAME=LOW:HIGH`` and ``NAME=VALUE,VALUE,…``, as on the command line.

    Raises:
        InputError: an unknown name, an empty or wrong range, a value that a run would reject.
    """
    space: Space = {}
    for entry in entries:
        name, equals, text = entry.partition("=")
        name = name.replace("-", "_")
        one_of("a hyperparameter", name, HYPERPARAMETERS)
        if not equals or not text:
            raise InputError(f"{entry!r} has no values; write {name}=VALUE,VALUE or, where allowed, {name}=LOW:HIGH")
        read, ranges = HYPERPARAMETERS[name]
        low, colon, high = text.partition(":")
        try:
            if colon and not ranges:
                raise InputError(f"{name} takes values separated by commas, not a range")
            values = Range(read(low), read(high)) if colon else tuple(read(value) for value in text.split(","))
        except InputError as error:
            raise InputError(f"{entry!r}: {error}") from error
        space[name] = values
    check_space(space)
    return space


def check_space(space: Space, optimizer: str = "sgd") -> None:
    """Raise InputError unless all names are known, those that the optimizer takes, and a run accepts all values."""
    for name, values in space.items():
        one_of("a hyperparameter", name, HYPERPARAMETERS)
        if optimizer == SOLVER and name not in _OF_SOLVER:
            raise InputError(
                f"{name} says nothing to the optimizer {SOLVER!r}, which is tuned by {' and '.join(_OF_SOLVER)}: leave "
                f"{name} out, or take another optimizer"
            )
        if isinstance(values, Range):
            if not (0 < values.low < values.high < math.inf):
                raise InputError(f"the range of {name} must be 0 < low < high, got {values.low:g} to {values.high:g}")
            if not HYPERPARAMETERS[name][1]:
                raise InputError(f"{name} takes a tuple of values, not a range")
        elif not values or len(set(values)) < len(values):
            raise InputError(f"the values of {name} must be distinct, and at least one, got {values!r}")
        for value in dataclasses.astuple(values) if isinstance(values, Range) else values:
            RunConfig(**{name: value})


class SoftmaxHyperModel(keras_tuner.HyperModel):
    """Softmax regression for any KerasTuner tuner.

    ``fit`` trains on the data given here, with the batch size, preprocessing and epochs of the trial, if the tuner's
    ``search`` is called without data; otherwise as any hypermodel does.

    Args:
        data: the data set.
        config: the settings that are not tuned.
        space: what is tuned: names in ``HYPERPARAMETERS`` and their ``Range`` or tuple of values; ``None``: the
            learning rate, from a 32nd to 32 times the curvature bound, or ``PENALTIES`` of the optimizer ``lbfgs``.

    Raises:
        InputError: an unknown name, a wrong range, or a value that a run would reject.
    """

    def __init__(self, data: Data, config: RunConfig | None = None, space: Space | None = None):
        super().__init__()
        self.config = RunConfig() if config is None else config
        solved = self.config.optimizer == SOLVER
        if space is None:
            space = {"l2": PENALTIES} if solved else {"lr": around(curvature(data.rows.train).bound)}
        self.space = space
        check_space(space, self.config.optimizer)
        if not solved and "lr" not in space:
            self.config = dataclasses.replace(self.config, lr=learning_rate(self.config, data))
        self._data = {(data.settings["batch_size"], data.settings["preprocess"]): data}
        self._first = data

    def config_of(self, hp: keras_tuner.HyperParameters) -> RunConfig:
        """All settings of a trial's run, with the tuned ones from ``hp``."""
        settings = {}
        for name, values in self.space.items():
            if isinstance(values, Range):
                settings[name] = hp.Float(name, values.low, values.high, sampling="log")
            else:
                settings[name] = hp.Choice(name, list(values), ordered=not isinstance(values[0], str))
        settings.setdefault("batch_size", self._first.settings["batch_size"])
        settings.setdefault("preprocess", self._first.settings["preprocess"])
        return dataclasses.replace(self.config, **settings)

    def data_of(self, config: RunConfig) -> Data:
        """The data set with the batch size and preprocessing of ``config``."""
        key = config.batch_size, config.preprocess
        if key not in self._data:
            settings: dict[str, Any] = {
                **self._first.settings,
                "batch_size": config.batch_size,
                "preprocess": config.preprocess,
            }
            self._data[key] = Data(self._first.source, **settings)
        return self._data[key]

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Sequential:
        """The compiled model of a trial."""
        config = self.config_of(hp)
        return build(config, self.data_of(config))

    def fit(self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any) -> Any:
        """Train; returns the ``History``."""
        if args or "x" in kwargs:
            return model.fit(*args, **kwargs)
        config = self.config_of(hp)
        if config.optimizer == SOLVER:
            raise InputError(f"trials of the optimizer {SOLVER!r} are solved by tuning.search, and not fitted")
        data = self.data_of(config)
        kwargs.setdefault("epochs", config.epochs)
        return model.fit(data.train, validation_data=data.val, **kwargs)


def around(rate: float, factor: float = 32.0) -> Range:
    """Learning rates from ``rate / factor`` to ``rate * factor``."""
    return Range(rate / factor, rate * factor)


def log_spaced(values: Range, count: int) -> list[float]:
    """``count`` values over a range with a constant ratio, both ends included; one value is their geometric mean."""
    if count == 1:
        return [math.sqrt(values.low * values.high)]
    return [float(value) for value in np.geomspace(values.low, values.high, count)]
