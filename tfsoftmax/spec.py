"""What travels with a model: ModelSpec (input, preprocessing, classes) and RunConfig (every setting of a run)."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from tfsoftmax._checks import fraction, number, one_of
from tfsoftmax._files import read_json
from tfsoftmax.errors import InputError


class _Json:
    """To and from JSON for the frozen dataclasses below; unknown and missing keys are errors that name them."""

    def to_json(self) -> str:
        """One JSON object, keys in the order of the fields, numbers exact."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: dict[str, Any], what: str) -> Any:
        """Build from a JSON object; absent keys take their defaults. ``what`` names the source in errors."""
        known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if unknown := sorted(set(values) - known):
            raise InputError(f"{what} has the unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"{what} is incomplete: {error}") from error

    @classmethod
    def load(cls, path: Path, what: str) -> Any:
        """Read what :meth:`to_json` wrote."""
        return cls.from_dict(read_json(path, what), f"{what} {str(path)!r}")


@dataclasses.dataclass(frozen=True)
class ModelSpec(_Json):
    """What a model takes and gives: the single source of the preprocessing, from tf.data to the served graph.

    A raw input ``x`` becomes ``(x - offset) * scale`` in float32, element by element.

    Args:
        name: name of the data set, for people.
        shape: shape of one raw input, without the batch: ``(28, 28)`` for Fashion-MNIST.
        dtype: ``"uint8"`` for pictures, ``"float32"`` for tables.
        classes: class names; the index is the label.
        preprocess: name of the preprocessing that gave ``offset`` and ``scale``.
        offset: a number, or one number for each element of a raw input, flattened in C order; raw units.
        scale: the same, in 1 / raw units.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    classes: tuple[str, ...]
    preprocess: str
    offset: float | tuple[float, ...]
    scale: float | tuple[float, ...]

    def __post_init__(self) -> None:
        for field in ("shape", "classes", "offset", "scale"):
            value = getattr(self, field)
            if isinstance(value, list):
                object.__setattr__(self, field, tuple(value))
        one_of("dtype", self.dtype, ("uint8", "float32"))
        size = math.prod(self.shape)
        for field in ("offset", "scale"):
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) != size:
                raise InputError(f"{field} must be one number or {size} (one for each input), got {len(value)}")

    @property
    def input_name(self) -> str:
        """Name of the graph input: ``image`` for pictures, ``features`` for tables."""
        return "image" if self.dtype == "uint8" else "features"

    @property
    def row_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that one raw input may come in: ``shape``; for grey pictures also with, or without, a last 1."""
        if len(self.shape) == 2:
            return self.shape, (*self.shape, 1)
        if len(self.shape) == 3 and self.shape[2] == 1:
            return self.shape, self.shape[:2]
        return (self.shape,)


@dataclasses.dataclass(frozen=True)
class RunConfig(_Json):
    """Every setting of one training run; ``config.json`` of the run folder holds them, defaults included.

    Args:
        data: data set as :func:`tfsoftmax.load` takes it.
        epochs: passes over the training rows, at least 1.
        batch_size: rows a step, at least 1.
        lr: learning rate, above 0; the first one if ``schedule`` is ``"cosine"``.
        seed: of the split and of the order of the rows, at least 0.
        val: validation rows cut from the training split; ``"test"`` validates on the test split as the book does;
            ``None`` takes one sixth (10,000 of Fashion-MNIST's 60,000).
        optimizer: see ``tfsoftmax.model.OPTIMIZERS``.
        momentum: of ``sgd``, in [0, 1).
        l2: factor of the squared weights (not the bias) in the loss, at least 0.
        label_smoothing: share of the label's probability that the loss in training gives to all classes, in [0, 1).
        schedule: ``"constant"``, or ``"cosine"`` decay to 0 over all steps (Loshchilov and Hutter, 2017).
        preprocess: see ``tfsoftmax.data.PREPROCESSORS``.
        patience: stop after so many epochs without a lower validation loss and keep the best weights;
            ``None``: train all epochs and keep the last.
        refit: train on training and validation rows together, without validation.
        tensorboard: also write TensorBoard event files into the run folder.
        precision: ``"float32"``, or ``"bfloat16"`` for the products in training; the model that is saved is float32.
    """

    data: str = "fashion_mnist"
    epochs: int = 10
    batch_size: int = 256
    lr: float = 0.1
    seed: int = 0
    val: int | str | None = None
    optimizer: str = "sgd"
    momentum: float = 0.0
    l2: float = 0.0
    label_smoothing: float = 0.0
    schedule: str = "constant"
    preprocess: str = "unit"
    patience: int | None = None
    refit: bool = False
    tensorboard: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        for name in ("data", "optimizer", "schedule", "preprocess", "precision"):
            if not isinstance(getattr(self, name), str):
                raise InputError(f"{name} must be a name, got {getattr(self, name)!r}")
        for name in ("refit", "tensorboard"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, got {getattr(self, name)!r}")
        number("epochs", self.epochs, 1, whole=True)
        number("batch_size", self.batch_size, 1, whole=True)
        number("lr", self.lr, 0, open_low=True)
        number("seed", self.seed, 0, whole=True)
        number("l2", self.l2, 0)
        fraction("momentum", self.momentum)
        fraction("label_smoothing", self.label_smoothing)
        if self.patience is not None:
            number("patience", self.patience, 1, whole=True)
            if self.refit:
                raise InputError("patience needs validation rows and refit leaves none: give one of the two")
        check_val(self.val)


def check_val(val: Any) -> None:
    """Raise InputError unless ``val`` is None, "test" or a whole number of at least 1."""
    if val is not None and val != "test":
        if isinstance(val, str):
            raise InputError(f"val must be a number of rows or 'test', got {val!r}")
        number("val", val, 1, whole=True)
