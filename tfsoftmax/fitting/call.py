"""One call of ``fit`` or ``evaluate``: its data, whether it is compiled, and how far it has got."""

from __future__ import annotations

import functools
import inspect
import numbers
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from tfsoftmax.errors import InputError
from tfsoftmax.fitting.compilable import distributed, prepare, unsupported, unsupported_stream
from tfsoftmax.rows import Rows, Window, untuned
from tfsoftmax.windows import Buffers

if TYPE_CHECKING:
    from tfsoftmax.fitting.compiled import CompiledFunctions
    from tfsoftmax.fitting.replicated import ReplicatedFunctions

DATA_SETS = (tf.data.Dataset, tf.distribute.DistributedDataset)


class Part:
    """The training data of a call, or its test data.

    Args:
        x: the first argument of ``fit`` or ``evaluate``; ``y`` and ``sample_weight`` go with arrays.
        steps: batches per epoch as the caller set them; ``None``: all.

    Attributes:
        data: ``x``.
        rows: the rows, if every epoch uses all of them.
        steps: batches per epoch; ``None`` where only the end of the stream shows it.
        limited: whether the caller set the number of batches.
    """

    def __init__(self, x: Any, y: Any = None, sample_weight: Any = None, steps: int | None = None):
        limit = keras.config.max_steps_per_epoch()
        steps = min((count for count in (steps, limit) if count), default=None)
        self.data, self.limited = x, steps is not None
        self.rows: Rows | None = None if self.limited else getattr(x, "rows", None)
        self.steps: int | None = steps or _cardinality(x)
        self._arrays = [array for array in (x, y, sample_weight) if array is not None]
        self._position = 0
        self._windows: Iterator[Window] = iter(())
        self._window: Window | None = None

    def begin(self) -> None:
        """Start an epoch."""
        self._position = 0

    def unsupported(self, model: keras.Sequential) -> str:
        """Why batches of this data cannot be compiled; empty if they can, and then the model is prepared."""
        if self.rows is not None:
            return prepare(model, self.rows.spec.features)
        if isinstance(self.data, DATA_SETS):
            return unsupported_stream(model, self.data.element_spec)
        specs = tuple(_spec(array) for array in self._arrays)
        if None in specs:
            kinds = [type(array).__name__ for array in self._arrays]
            return f"the batches of {', '.join(kinds)} are not known beforehand"
        return unsupported_stream(model, specs)

    def for_keras(self, model: keras.Sequential) -> Any:
        """The data as passed to Keras. Batches of rows in memory are made only when something reads them."""
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
        buffers: Buffers,
    ) -> dict[str, tf.Tensor]:
        """Run the next ``count`` batches, or what is left of ``epoch``; return Keras's logs."""
        begin, end = self._position, self._position + count
        if self.steps is not None:
            end = min(end, self.steps)
            self._position = end % self.steps
        if self.rows is None:
            return functions.stream(iterator, end - begin)
        if begin == 0 or self._window is None:
            self._windows, self._window = self.rows.windows(epoch, functions.device, functions.mine, buffers), None
        logs: dict[str, tf.Tensor] = {}
        while begin < end:
            if self._window is None or begin == self._window.end:
                self._window = next(self._windows)
            window = self._window
            logs = functions.rows(window, begin - window.begin, min(end, window.end) - window.begin, class_weight)
            begin = min(end, window.end)
        if end == self.steps:
            self._windows, self._window = iter(()), None  # a window is no small thing to keep
        return logs


class Call(keras.callbacks.Callback):
    """One call of ``fit`` or ``evaluate``. As the last of its callbacks, it follows Keras's loop.

    Args:
        model: the model; its variables are built for the data of the call.
        own_steps: ``steps_per_execution`` as the user compiled the model.
        train: training data; ``None`` in ``evaluate``.
        test: data to evaluate; ``None``: none.

    Attributes:
        why: why it falls back to Keras's own way; empty if it is compiled.
        steps_per_execution: batches per execution.
        class_weight: of each class, float32 ``(classes,)``, for rows in memory.
        logs: of the last execution.

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
        self._buffers = Buffers()  # of the windows of all parts
        self.why = unsupported(model)
        for part in self.parts.values():
            self.why = self.why or part.unsupported(model)
        for part in self.parts.values():
            if part.rows is not None and not self.why and (largest := int(part.rows.y.max())) >= model.layers[1].units:
                raise InputError(f"label {largest} is outside the model's {model.layers[1].units} outputs")

    def at_once(self) -> None:
        """Run each epoch in one execution, if its number of batches is known."""
        self.steps_per_execution = next(iter(self.parts.values())).steps or self.own_steps

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Put the rows in the order of the epoch, whatever has read them before."""
        train = self.parts["train"]
        goes_on = train.limited and self._epoch is not None  # with the iterator of the epoch before
        self._epoch = epoch
        train.begin()
        if not goes_on and (self.why or train.rows is None):
            Rows.begin(epoch, counting=train.limited)

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Keras evaluates from the first batch."""
        if "test" in self.parts:
            self.parts["test"].begin()

    def run(self, kind: str, functions: CompiledFunctions | ReplicatedFunctions, iterator: Any) -> dict[str, tf.Tensor]:
        """Do what Keras's ``train_function`` or ``test_function`` does, for the next batches."""
        train = kind == "train"
        stopped = self.model.stop_training if train else self.model.stop_evaluating
        count = self.own_steps if stopped else self.steps_per_execution  # Keras checks after each execution
        epoch, weight = (self._epoch or 0, self.class_weight) if train else (0, None)
        self.logs = self.parts[kind].run(functions, iterator, count, epoch, weight, self._buffers)
        return self.logs


class Unread:
    """An iterator that ``make`` creates when it is first read."""

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
    """``dataset`` itself, with iterators that are :class:`Unread`: Keras creates one per epoch, which costs 5 ms."""
    kind = type(dataset)
    changed = {"__iter__": lambda self: Unread(functools.partial(kind.__iter__, self))}
    dataset.__class__ = type(kind.__name__, (kind,), changed)
    return dataset


def declared(name: str) -> Callable[..., Any]:
    """``keras.Model.NAME`` as Keras defines it, without wrappers that others have put around it."""
    return next(vars(kind)[name] for kind in reversed(keras.Model.__mro__) if name in vars(kind))


def bound(name: str, model: keras.Model, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments of a call of ``model.NAME``, by name."""
    arguments = dict(inspect.signature(declared(name)).bind(model, *args, **kwargs).arguments)
    del arguments["self"]
    return arguments


def wrapped(name: str, model: keras.Model) -> bool:
    """Whether something wraps ``keras.Model.NAME``: it may add callbacks that are not visible here."""
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
    """The number of batches that a data set reports; None if it reports none."""
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
    """The spec of the batches that Keras makes of an array; None for anything else."""
    if not hasattr(array, "__array__"):
        return None
    dtype = array.dtype if hasattr(array, "dtype") else np.result_type(*array.dtypes)  # a data frame
    try:
        return tf.TensorSpec((None, *array.shape[1:]), getattr(dtype, "name", str(dtype).rpartition(".")[2]))
    except TypeError:
        return None
