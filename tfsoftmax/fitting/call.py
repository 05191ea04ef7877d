"""One call of ``fit`` or ``evaluate``: what it goes through, which way, and how far it is."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfsoftmax.data import Rows, untuned
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.compilable import distributed, misfit, prepare, stream_misfit

if TYPE_CHECKING:
    from tfsoftmax.fitting.compiled import CompiledFunctions
    from tfsoftmax.fitting.replicated import ReplicatedFunctions

DATA_SETS = (tf.data.Dataset, tf.distribute.DistributedDataset)


class Part:
    """What a call trains on, or what it is tested on.

    Args:
        x: the first argument of ``fit`` or ``evaluate``; ``y`` and ``sample_weight`` go with arrays.
        steps: how many batches an epoch is asked to have; ``None``: all.

    Attributes:
        data: ``x``.
        rows: the rows in memory, where all of them are asked for in each epoch.
        steps: batches per epoch; ``None`` where only the end of the stream tells.
        asked: whether the number of batches was asked for.
    """

    def __init__(self, x: Any, y: Any = None, sample_weight: Any = None, steps: int | None = None):
        limit = keras.config.max_steps_per_epoch()
        steps = min((count for count in (steps, limit) if count), default=None)
        self.data, self.asked = x, steps is not None
        self.rows: Rows | None = None if self.asked else getattr(x, "rows", None)
        self.steps: int | None = steps or _cardinality(x)
        self._arrays = [array for array in (x, y, sample_weight) if array is not None]
        self._position = 0
        self._order: tf.Tensor | None = None

    def begin(self) -> None:
        """An epoch begins."""
        self._position = 0

    def misfit(self, model: keras.Sequential) -> str:
        """Why batches of this cannot take the compiled way; empty if they can, and then the model is prepared."""
        if self.rows is not None:
            return prepare(model, self.rows.spec.features)
        if isinstance(self.data, DATA_SETS):
            return stream_misfit(model, self.data.element_spec)
        specs = tuple(_spec(array) for array in self._arrays)
        if None in specs:
            kinds = [type(array).__name__ for array in self._arrays]
            return f"the batches of {', '.join(kinds)} are not known beforehand"
        return stream_misfit(model, specs)

    def handed(self, model: keras.Sequential) -> Any:
        """What Keras is given: the same data. Of rows in memory no batch is made until somebody reads one."""
        if self.rows is None:
            return untuned(self.data) if isinstance(self.data, tf.data.Dataset) else self.data
        if distributed(model):
            return _unread(model.distribute_strategy.distribute_datasets_from_function(lambda _: self.data))
        return _unread(self.data.with_options(tf.data.Options()))

    def run(
        self,
        functions: CompiledFunctions | ReplicatedFunctions,
        iterator: Any,
        count: int,
        epoch: int,
        class_weight: tf.Tensor | None,
    ) -> dict[str, tf.Tensor]:
        """Run the next ``count`` batches, or those that are left of ``epoch``; returns Keras's logs."""
        begin, end = self._position, self._position + count
        if self.steps is not None:
            end = min(end, self.steps)
            self._position = end % self.steps
        if self.rows is None:
            return functions.stream(iterator, end - begin)
        if begin == 0 or self._order is None:
            self._order = self.rows.order(epoch)
        return functions.rows(self.rows, self._order, begin, end, class_weight)


class Call(keras.callbacks.Callback):
    """One call of ``fit`` or ``evaluate``. As the last of its callbacks it sees where Keras's loop is.

    Args:
        model: the model; variables are made for what the call goes through.
        own_steps: ``steps_per_execution`` as the user compiled the model.
        train: what is trained on; ``None`` in ``evaluate``.
        test: what is evaluated; ``None``: nothing.

    Attributes:
        why: why it goes Keras's own way; empty if it is compiled.
        steps_per_execution: batches that run at once.
        class_weight: of each class, float32 ``(classes,)``, for rows in memory.
        logs: of the last batches that ran.

    Raises:
        InputError: rows in memory have a label outside the model's outputs.
    """

    def __init__(self, model: keras.Sequential, own_steps: int, train: Part | None = None, test: Part | None = None):
        super().__init__()
        self.set_model(model)
        self.own_steps = self.steps_per_execution = own_steps
        self.parts = {kind: part for kind, part in (("train", train), ("test", test)) if part is not None}
        self.class_weight: tf.Tensor | None = None
        self.logs: dict[str, tf.Tensor] = {}
        self._epoch: int | None = None
        self.why = misfit(model)
        for part in self.parts.values():
            self.why = self.why or part.misfit(model)
        for part in self.parts.values():
            if part.rows is not None and not self.why and (largest := int(part.rows.y.max())) >= model.layers[1].units:
                raise InputError(f"label {largest} is outside the model's {model.layers[1].units} outputs")

    def at_once(self) -> None:
        """Run whole epochs at once, where it is known how many batches they have."""
        self.steps_per_execution = next(iter(self.parts.values())).steps or self.own_steps

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """The order of the rows is the epoch's, whoever has gone through them before."""
        train, first = self.parts["train"], self._epoch is None
        self._epoch = epoch
        train.begin()
        if (self.why or train.rows is None) and (
            first or not train.asked
        ):  # else an iterator of an epoch before goes on
            Rows.begin(epoch, counting=train.asked)

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Keras goes through what is evaluated from its beginning."""
        if "test" in self.parts:
            self.parts["test"].begin()

    def run(self, kind: str, functions: CompiledFunctions | ReplicatedFunctions, iterator: Any) -> dict[str, tf.Tensor]:
        """What Keras's ``train_function`` or ``test_function`` does, for the next batches."""
        train = kind == "train"
        stopped = self.model.stop_training if train else self.model.stop_evaluating
        count = self.own_steps if stopped else self.steps_per_execution  # Keras looks after each execution
        epoch, weight = (self._epoch or 0, self.class_weight) if train else (0, None)
        self.logs = self.parts[kind].run(functions, iterator, count, epoch, weight)
        return self.logs


class Unread:
    """An iterator that ``make`` makes when somebody reads it."""

    def __init__(self, make: Callable[[], Iterator[Any]]):
        self._make = make
        self._iterator: Iterator[Any] | None = None

    def __iter__(self) -> Unread:
        return self

    def __next__(self) -> Any:
        if self._iterator is None:
            self._iterator = self._make()
        return next(self._iterator)


def _unread(dataset: Any) -> Any:
    """``dataset`` itself, whose iterators are :class:`Unread`: Keras makes one per epoch, which costs 5 ms."""
    kind = type(dataset)
    changed = {"__iter__": lambda self: Unread(functools.partial(kind.__iter__, self))}
    dataset.__class__ = type(kind.__name__, (kind,), changed)
    return dataset


def declared(name: str) -> Callable[..., Any]:
    """``keras.Model.NAME`` as Keras declares it, whoever has put a wrapper around it since."""
    return next(vars(kind)[name] for kind in reversed(keras.Model.__mro__) if name in vars(kind))


def bound(name: str, model: keras.Model, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call of ``model.NAME``, by name."""
    arguments = dict(inspect.signature(declared(name)).bind(model, *args, **kwargs).arguments)
    del arguments["self"]
    return arguments


def wrapped(name: str, model: keras.Model) -> bool:
    """Whether somebody stands around ``keras.Model.NAME``, who may add callbacks that are not seen here."""
    own = next((vars(kind)[name] for kind in keras.Model.__mro__[1:] if name in vars(kind)), None)
    return getattr(type(model), name) is not own


def class_weights(weights: Any, classes: int) -> dict[int, float]:
    """The weight of each class; as in Keras, a class without one has 1, and numbers beyond the classes are ignored.

    Raises:
        InputError: not a dictionary from class numbers to weights.
    """
    if not isinstance(weights, dict) or not all(
        isinstance(label, numbers.Integral) and isinstance(weight, numbers.Real) for label, weight in weights.items()
    ):
        raise InputError(
            f"class_weight must be a dictionary from class number to weight, got {weights!r}; "
            "scikit-learn's compute_class_weight computes balanced weights"
        )
    return {label: float(weights.get(label, 1.0)) for label in range(classes)}


def _cardinality(x: Any) -> int | None:
    """Batches that a data set says it has; None for anything else."""
    count = -1
    if isinstance(x, tf.data.Dataset):
        count = int(x.cardinality())
    elif isinstance(x, tf.distribute.DistributedDataset):
        count = int(x.cardinality)
    return count if count > 0 else None


def first_spec(x: Any) -> tf.TensorSpec | None:
    """Shape and type of the inputs in the batches of ``x``; None if that is not known."""
    if not isinstance(x, DATA_SETS):
        return _spec(x)
    specs = tf.nest.flatten(x.element_spec, expand_composites=True)
    return specs[0] if specs and isinstance(specs[0], tf.TensorSpec) else None


def _spec(array: Any) -> tf.TensorSpec | None:
    """What Keras makes batches of an array of; None for what is not one."""
    if not hasattr(array, "__array__"):
        return None
    dtype = array.dtype if hasattr(array, "dtype") else np.result_type(*array.dtypes)  # a data frame
    try:
        return tf.TensorSpec((None, *array.shape[1:]), getattr(dtype, "name", str(dtype).rpartition(".")[2]))
    except TypeError:
        return None
