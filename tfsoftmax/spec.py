"""What travels with a model: ModelSpec (input, preprocessing, classes) and RunConfig (every setting of a run)."""

from __future__ import annotations

import dataclasses
import json
import math
import numbers
from pathlib import Path
from typing import Any

from tfsoftmax._checks import INT32, INT64, class_names, fraction, number, one_of, shown, typed_fields
from tfsoftmax._files import read_json
from tfsoftmax.errors import InputError


class _Json:
    """To and from JSON for the frozen dataclasses below; unknown and missing keys are errors that name them."""

    def to_json(self) -> str:
        """One JSON object, keys in the order of the fields, numbers exact."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Any, what: str) -> Any:
        """Build from a JSON object; absent keys take their defaults. ``what`` names the source in errors."""
        if not isinstance(values, dict):
            raise InputError(f"{what} must be a JSON object, got {shown(values)}")
        known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        if unknown := sorted(set(values) - set(known)):
            raise InputError(f"{what} has the unknown key {shown(unknown[0])}; known are {', '.join(sorted(known))}")
        required = {name for name in known if not hasattr(cls, name)}
        if missing := sorted(required - set(values)):
            raise InputError(f"{what} has no {missing[0]!r}")
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{what}: {error}") from error

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
        classes: class names, at least two different ones, each one line of text; the index is the label.
        preprocess: name of the preprocessing that gave ``offset`` and ``scale``, see ``tfsoftmax.preprocessing``.
        offset: a number, or one number for each element of a raw input, flattened in C order; raw units.
        scale: the same, in 1 / raw units.

    Raises:
        InputError: a field of another type or out of range.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    classes: tuple[str, ...]
    preprocess: str
    offset: float | tuple[float, ...]
    scale: float | tuple[float, ...]

    def __post_init__(self) -> None:
        from tfsoftmax.preprocessing import PREPROCESSORS

        typed_fields(self)
        if not self.shape or min(self.shape) < 1:
            raise InputError(f"shape must be whole numbers of at least 1, got {shown(self.shape)}")
        one_of("dtype", self.dtype, ("uint8", "float32"))
        class_names("classes", self.classes)
        one_of("preprocess", self.preprocess, PREPROCESSORS)
        size = math.prod(self.shape)
        for field in ("offset", "scale"):
            value = getattr(self, field)
            if isinstance(value, tuple) and len(value) != size:
                raise InputError(f"{field} must be one number or {size} (one for each input), got {len(value)}")
            if not all(map(math.isfinite, value if isinstance(value, tuple) else (value,))):
                raise InputError(f"{field} must be finite, got {shown(value)}")

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
        data: name of the data set, as :func:`tfsoftmax.load` takes it; ``None``: rows made in Python, which have none.
            :func:`tfsoftmax.train` and ``tuning.search`` set it from the data that they are given.
        fingerprint: of the data, see :attr:`tfsoftmax.Data.fingerprint`; ``None``: unknown. Set as ``data`` is.
        epochs: passes over the training rows, at least 1.
        batch_size: rows a step, at least 1.
        lr: learning rate, above 0; the first one if ``schedule`` is ``"cosine"``.
        seed: of the split and of the order of the rows, at least 0.
        val: validation rows cut from the training split; ``"test"`` validates on the test split as the book does;
            ``None`` takes one sixth (10,000 of Fashion-MNIST's 60,000); 0: no validation.
        optimizer: see ``tfsoftmax.model.OPTIMIZERS``.
        momentum: of ``sgd``, in [0, 1).
        l2: factor of the squared weights (not the bias) in the loss, at least 0.
        label_smoothing: share of the label's probability that the loss in training gives to all classes, in [0, 1).
        schedule: ``"constant"``, or ``"cosine"`` decay to 0 over all steps (Loshchilov and Hutter, 2017).
        preprocess: see ``tfsoftmax.preprocessing``.
        patience: stop after so many epochs without a lower validation loss and keep the best weights;
            ``None``: train all epochs and keep the last.
        refit: train on training and validation rows together, without validation.
        tensorboard: also write TensorBoard event files into the run folder.
        precision: ``"float32"``, or ``"bfloat16"`` for the products in training; the model that is saved is float32.
    """

    data: str | None = None
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
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        typed_fields(self)
        number("epochs", self.epochs, 1, INT32, whole=True)
        number("batch_size", self.batch_size, 1, INT32, whole=True)
        number("lr", self.lr, 0, open_low=True)
        number("seed", self.seed, 0, INT64, whole=True)
        number("l2", self.l2, 0)
        fraction("momentum", self.momentum)
        fraction("label_smoothing", self.label_smoothing)
        check_val(self.val)
        if self.patience is not None:
            number("patience", self.patience, 1, INT32, whole=True)
            if self.refit or self.val == 0:
                raise InputError("patience needs validation rows, and refit or val=0 leaves none: give one of the two")

    @classmethod
    def of_run(cls, path: Path) -> RunConfig:
        """Read ``config.json`` of a run folder, which has every setting."""
        what = "run configuration"
        values = read_json(path, what)
        config: RunConfig = cls.from_dict(values, f"{what} {str(path)!r}")
        # the fingerprint came later than the first run folders
        if missing := [field.name for field in dataclasses.fields(cls) if field.name not in {*values, "fingerprint"}]:
            raise InputError(f"{what} {str(path)!r} has no {missing[0]!r}: it is not of a run")
        return config


def check_val(val: Any) -> int | str | None:
    """Return ``val`` with plain numbers; raise InputError unless it is None, "test" or a whole number of at least 0."""
    if val is None or (isinstance(val, str) and val == "test"):
        return val
    if not isinstance(val, numbers.Integral) or isinstance(val, bool):
        raise InputError(
            f"val must be a number of rows or 'test', got {shown(val)}; rows of your own go to model.fit as "
            "validation_data"
        )
    plain: int = number("val", val, 0, INT32, whole=True)
    return plain
