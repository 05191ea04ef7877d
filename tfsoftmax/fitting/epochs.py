"""What ``fit`` and ``evaluate`` of a softmax regression run instead of Keras's step by step: compiled epochs.

Before a call starts, all its data is inspected: the whole call is compiled, or it falls back to Keras's own way and one
log line says why. The results are the same.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfsoftmax._private import lost
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.arrays import into_rows
from tfsoftmax.fitting.call import DATA_SETS, Call, Part, Unread, bound, class_weights, first_spec, wrapped
from tfsoftmax.fitting.compilable import distributed, needs_batches
from tfsoftmax.fitting.compiled import CompiledFunctions
from tfsoftmax.fitting.replicated import ReplicatedFunctions
from tfsoftmax.fitting.resume import Resume
from tfsoftmax.rows import Rows

_log = logging.getLogger(__name__)


def accelerate(model: keras.Sequential) -> keras.Sequential:
    """Give ``model`` the compiled epoch and return it; ``SoftmaxRegression`` does this; call it on models that you
    load.

    ``fit`` and ``evaluate`` keep their Keras meaning. The model stays a plain Keras model: what it saves does not
    mention tfsoftmax, and a copy or a loaded file has no compiled epoch until this is called on it.
    """
    epochs = _Epochs(model)
    model.fit, model.evaluate, model.predict = epochs.fit, epochs.evaluate, epochs.predict
    model.make_train_function = functools.partial(epochs.make_function, "train")
    model.make_test_function = functools.partial(epochs.make_function, "test")
    if distributed(model):
        model.get_metrics_result = epochs.metrics
        if not lost("strategy"):
            model._maybe_symbolic_build = functools.partial(epochs.build, model._maybe_symbolic_build)
    return model


class _Epochs:
    """The hooks that :func:`accelerate` sets on one model."""

    def __init__(self, model: keras.Sequential):
        self.model = model
        self.call: Call | None = None  # the fit, evaluate or predict that is running
        self.fitted: tf.DType | None = None  # the type of the inputs of the last fit
        self.warned: set[str] = set()

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As ``keras.Model.fit``: the same arguments, results, callbacks and errors, in compiled epochs."""
        model, arguments = self.model, bound("fit", self.model, args, kwargs)
        spec = first_spec(arguments.get("x"))
        if not wrapped("fit", model):  # whoever stands around it is shown what the user gave
            into_rows(arguments, model)
        x, held_out = arguments.get("x"), arguments.get("validation_data")
        if isinstance(x, DATA_SETS):
            arguments["shuffle"] = False  # it has no effect here, and Keras would warn about it
        if arguments.get("class_weight") is not None and hasattr(model.layers[-1], "units"):
            arguments["class_weight"] = class_weights(arguments["class_weight"], model.layers[-1].units)
        y, sample_weight = arguments.get("y"), arguments.get("sample_weight")
        train = Part(x, y, sample_weight, arguments.get("steps_per_epoch"))
        test: Part | None = None
        if held_out is not None:
            val_x, val_y, val_weight = keras.utils.unpack_x_y_sample_weight(held_out)
            test = Part(val_x, val_y, val_weight, arguments.get("validation_steps"))
        elif arguments.get("validation_split"):
            test = Part(x, y, sample_weight)
        self._resume(arguments, train)
        call = Call(model, self._own_steps(), train, test)
        self._check(call)
        if not call.why:
            for name, part in ("x", train), ("validation_data", test):
                if part is not None and isinstance(arguments.get(name), DATA_SETS):
                    arguments[name] = part.for_keras(model)
            if train.rows is not None and (weights := arguments.pop("class_weight", None)) is not None:
                call.class_weight = tf.constant(list(weights.values()), tf.float32)
            if not (needs_batches(arguments.get("callbacks")) or wrapped("fit", model)):
                call.at_once()
        self.fitted = None if spec is None else spec.dtype
        with self._running(call), _last_of_callbacks(call, arguments), Rows.in_fit():
            return type(model).fit(model, arguments.pop("x", None), **arguments)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As ``keras.Model.evaluate``, compiled."""
        model, arguments = self.model, bound("evaluate", self.model, args, kwargs)
        if "kwargs" in arguments:  # called by Keras's fit; all is set up
            return type(model).evaluate(model, *args, **kwargs)
        x = arguments.get("x")
        test = Part(x, arguments.get("y"), arguments.get("sample_weight"), arguments.get("steps"))
        call = Call(model, self._own_steps(), test=test)
        self._check(call)
        if not call.why:
            if isinstance(x, DATA_SETS):
                arguments["x"] = test.for_keras(model)
            if not (needs_batches(arguments.get("callbacks")) or wrapped("evaluate", model)):
                call.at_once()
        with self._running(call), _last_of_callbacks(call, arguments):
            return type(model).evaluate(model, arguments.pop("x", None), **arguments)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As ``keras.Model.predict``; warns once if the model was fitted on preprocessed rows and these are raw."""
        spec = first_spec(bound("predict", self.model, args, kwargs).get("x"))
        if self.fitted is not None and self.fitted.is_floating and spec is not None and spec.dtype == tf.uint8:
            self._warn_once(
                f"predict got raw uint8, but the model was fitted on preprocessed {self.fitted.name}: "
                "pass data.test or similar; an export takes raw rows"
            )
        with self._running(None):
            return type(self.model).predict(self.model, *args, **kwargs)

    def make_function(self, kind: str, force: bool = False) -> None:
        """Set ``train_function`` or ``test_function``; Keras calls this before each fit and after ``compile``."""
        model, name = self.model, f"{kind}_function"
        if getattr(model, name) is not None and not force:
            return
        getattr(type(model), f"make_{name}")(model, force=True)
        keras_way = getattr(model, name)
        functions = (ReplicatedFunctions if distributed(model) else CompiledFunctions)(model, train=kind == "train")

        def function(iterator: Any) -> dict[str, tf.Tensor]:
            of_call = isinstance(iterator, (Unread, tf.data.Iterator, tf.distribute.DistributedIterator))
            if self.call is None or self.call.why or not of_call:  # also train_on_batch and test_on_batch
                return keras_way(iterator)
            return self.call.run(kind, functions, iterator)

        setattr(model, name, function)

    def metrics(self) -> dict[str, tf.Tensor]:
        """The logs of the last step; to compute them again would send each variable over the network."""
        if self.call is None or self.call.why:
            return type(self.model).get_metrics_result(self.model)
        return self.call.logs

    def build(self, keras_way: Callable[..., None], **batch: Any) -> None:
        """Keras calls this first; under a strategy it would add up shares of a batch, which may differ in size."""
        if self.call is None or self.call.why:
            keras_way(**batch)

    def _resume(self, arguments: dict[str, Any], train: Part) -> None:
        """Start at the epoch of a Resume among the callbacks, and move it to the front."""
        callbacks = keras.tree.flatten(arguments.get("callbacks") or [])
        for resume in [callback for callback in callbacks if isinstance(callback, Resume)]:
            others = [callback for callback in callbacks if callback is not resume]
            if train.limited and (resume.rows is not None or hasattr(train.data, "rows")):
                raise InputError("Resume keeps the order of the rows by whole epochs: remove steps_per_epoch")
            model, spec = self.model, first_spec(train.data)
            with model.distribute_strategy.scope():
                if not model.built and spec is not None and spec.shape.rank and None not in spec.shape[1:]:
                    model.build((None, *spec.shape[1:]))  # only variables that exist can be restored
                if model.built and not model.optimizer.built:
                    model.optimizer.build(model.trainable_variables)
            resume.set_model(model)
            first, epochs = arguments.get("initial_epoch", 0), arguments.get("epochs", 1)
            arguments["initial_epoch"] = resume.begin(others, train.rows, first, epochs)
            arguments["callbacks"] = [resume, *others]

    def _check(self, call: Call) -> None:
        """Log once why a call falls back to Keras's own way; raise InputError where that does not work."""
        if call.why and isinstance(self.model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise InputError(f"under MultiWorkerMirroredStrategy, where Keras's own way does not work: {call.why}")
        if call.why:
            self._warn_once(f"training Keras's own way, which is slower: {call.why}")

    def _own_steps(self) -> int:
        return self.model.steps_per_execution if self.call is None else self.call.own_steps

    @contextlib.contextmanager
    def _running(self, call: Call | None) -> Iterator[None]:
        """Set up one call, perhaps nested in another; ``None``: ``predict``, which is always Keras's own."""
        model, before = self.model, (self.call, self.model.steps_per_execution)
        model.steps_per_execution = self._own_steps() if call is None else call.steps_per_execution
        self.call = call
        try:
            yield
        finally:
            self.call, model.steps_per_execution = before

    def _warn_once(self, text: str) -> None:
        if text not in self.warned:
            self.warned.add(text)
            _log.warning(text)


@contextlib.contextmanager
def _last_of_callbacks(call: Call, arguments: dict[str, Any]) -> Iterator[None]:
    """Put ``call`` at the end of the callbacks; a CallbackList is the caller's and has it only in the block."""
    callbacks = arguments.get("callbacks")
    if not isinstance(callbacks, keras.callbacks.CallbackList):
        arguments["callbacks"] = [*keras.tree.flatten(callbacks or []), call]
        yield
        return
    callbacks.append(call)
    try:
        yield
    finally:
        callbacks.callbacks.remove(call)
