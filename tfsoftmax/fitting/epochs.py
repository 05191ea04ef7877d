"""The compiled epoch: what ``fit`` and ``evaluate`` of a softmax regression run instead of Keras's step by step.

A whole epoch over rows in memory is one XLA function: gather, cast, preprocessing, loss, metrics, gradient and the
optimizer's update in one loop, with static shapes (the last smaller batch is a second body of its own size). The
weight gradient is computed transposed, ``(C, F) = errorᵀ x``, which a matrix product does twice as fast as
``(F, C) = xᵀ error`` when classes are few. Streams go through the same step, compiled once a batch shape.

What cannot be served so goes Keras's own way, with one log line that says why; the results are the same.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from tfsoftmax.data import preprocess, untuned
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.compilable import distributed, misfit, needs_batches, prepare, stream_misfit
from tfsoftmax.fitting.replicated import ReplicatedFunctions
from tfsoftmax.fitting.resume import Resume
from tfsoftmax.fitting.step import labels_checked, linear, wrong_label
from tfsoftmax.spec import ModelSpec

if TYPE_CHECKING:
    from tfsoftmax.data import Rows

_log = logging.getLogger(__name__)

_GROUP = 2  # batches of a stream that go into one call of the compiled step


def accelerate(model: keras.Sequential) -> keras.Sequential:
    """Give ``model`` the compiled epoch and return it; ``SoftmaxRegression`` does this, a loaded model can have it too.

    ``fit`` and ``evaluate`` keep their Keras meaning. The model stays a plain Keras model: what it saves does not
    mention tfsoftmax, and a copy or a loaded file is without the compiled epoch until it is given again.
    """
    epochs = _Epochs(model)
    model.fit, model.evaluate = epochs.fit, epochs.evaluate
    model.make_train_function = functools.partial(epochs.make_function, "train")
    model.make_test_function = functools.partial(epochs.make_function, "test")
    model._maybe_symbolic_build = functools.partial(epochs.build, model._maybe_symbolic_build)
    return model


class _Epochs:
    """The hooks that :func:`accelerate` sets on one model, and the compiled functions behind them."""

    def __init__(self, model: keras.Sequential):
        self.model = model
        self.keras_fit, self.keras_evaluate = model.fit, model.evaluate
        # of the fit or evaluate that is running, set by _running
        self.rows: dict[str, Rows | None] = {}
        self.steps: dict[str, int | None] = {}
        self.position: dict[str, int] = {}
        self.class_weight: tf.Tensor | None = None
        self.order: tf.Tensor | None = None
        self.compiled = False
        self.logs: dict[str, tf.Tensor] = {}
        self.told: set[str] = set()

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As ``keras.Model.fit``: the same arguments, results, callbacks and errors, in compiled epochs."""
        call = inspect.signature(self.keras_fit).bind(*args, **kwargs).arguments
        x = call.get("x")
        if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)):
            call["shuffle"] = False  # it means nothing here, and Keras would warn so
        rows = None if call.get("steps_per_epoch") else getattr(x, "rows", None)
        held_out = call.get("validation_data")
        held_out_rows = None if call.get("validation_steps") else getattr(held_out, "rows", None)
        self._resume(call, rows)
        if not self._check(rows, held_out_rows, stream=x):
            return self.keras_fit(**call)
        for name in ("x", "validation_data"):
            if isinstance(call.get(name), tf.data.Dataset):
                call[name] = untuned(call[name])
        class_weight = None
        if rows is not None:
            call["x"] = _nothing(self.model) if distributed(self.model) else _orders(rows)
            call["steps_per_epoch"] = rows.steps
            if call.get("class_weight") is not None:
                class_weight = self._class_weight(call.pop("class_weight"))
        if held_out_rows is not None:
            call["validation_data"], call["validation_steps"] = _nothing(self.model), held_out_rows.steps
        steps = {"train": call.get("steps_per_epoch") or _cardinality(x)}
        steps["test"] = call.get("validation_steps") or _cardinality(held_out)
        with self._running({"train": rows, "test": held_out_rows}, class_weight, steps, call.get("callbacks")):
            return self.keras_fit(**call)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As ``keras.Model.evaluate``, compiled."""
        call = inspect.signature(self.keras_evaluate).bind(*args, **kwargs).arguments
        call.update(call.pop("kwargs", {}))
        if "_use_cached_eval_dataset" in call:  # called by fit, which has set all up
            return self.keras_evaluate(**call)
        rows = None if call.get("steps") else getattr(call.get("x"), "rows", None)
        if not self._check(rows, stream=call.get("x")):
            return self.keras_evaluate(**call)
        if isinstance(call.get("x"), tf.data.Dataset):
            call["x"] = untuned(call["x"])
        if rows is not None:
            call["x"], call["steps"] = _nothing(self.model), rows.steps
        steps = {"test": call.get("steps") or _cardinality(call.get("x"))}
        with self._running({"test": rows}, None, steps, call.get("callbacks")):
            return self.keras_evaluate(**call)

    def make_function(self, kind: str, force: bool = False) -> None:
        """Set ``train_function`` or ``test_function``: Keras calls this before each fit, and after a compile anew."""
        model, name = self.model, f"{kind}_function"
        if getattr(model, name) is not None and not force:
            return
        getattr(type(model), f"make_{name}")(model, force=True)
        keras_way = getattr(model, name)
        if distributed(model):
            functions = ReplicatedFunctions(model, train=kind == "train")
        else:
            functions = _Functions(model, train=kind == "train")

        def function(iterator: Any) -> dict[str, tf.Tensor]:
            if not self.compiled or not isinstance(iterator, (tf.data.Iterator, tf.distribute.DistributedIterator)):
                return keras_way(iterator)  # also train_on_batch and test_on_batch
            rows = self.rows[kind]
            if rows is None and (why := stream_misfit(model, iterator.element_spec)):
                self._tell(why)
                return keras_way(iterator)
            begin, end = self._advance(kind)
            if rows is None:
                self.logs = functions.stream(iterator, end - begin)
                return self.logs
            if kind == "train" and begin == 0:
                self.order = rows.order(rows.epoch) if distributed(model) else next(iterator)
                rows.epoch.assign_add(1)
            order = self.order if kind == "train" else rows.order(0)
            self.logs = functions.rows(rows, order, begin, end, self.class_weight if kind == "train" else None)
            return self.logs

        setattr(model, name, function)

    def build(self, keras_way: Callable[..., None], **batch: Any) -> None:
        """Keras calls this first; under a strategy it would add up the shares of a batch, which may differ in size."""
        if not (self.compiled and distributed(self.model)):
            keras_way(**batch)

    def _resume(self, call: dict[str, Any], rows: Rows | None) -> None:
        """Begin where the Resume among the callbacks says, which comes first from now on."""
        callbacks = keras.tree.flatten(call.get("callbacks") or [])
        for resume in [callback for callback in callbacks if isinstance(callback, Resume)]:
            others = [callback for callback in callbacks if callback is not resume]
            if call.get("steps_per_epoch") and (resume.rows is not None or hasattr(call.get("x"), "rows")):
                raise InputError("Resume keeps the order of the rows by whole epochs: leave steps_per_epoch out")
            model, shape = self.model, _row_shape(call.get("x"))
            with model.distribute_strategy.scope():
                if not model.built and shape is not None:  # what is not there cannot be brought back
                    model.build((None, *shape))
                if model.built and not model.optimizer.built:
                    model.optimizer.build(model.trainable_variables)
            resume.set_model(model)
            first, epochs = call.get("initial_epoch", 0), call.get("epochs", 1)
            call["initial_epoch"] = resume.begin(others, rows, first, epochs)
            call["callbacks"] = [resume, *others]

    def _advance(self, kind: str) -> tuple[int, int]:
        """The batches of the epoch that this call runs: ``steps_per_execution``, or what is left of the steps."""
        begin, steps = self.position[kind], self.steps[kind]
        end = begin + self.model.steps_per_execution
        if steps is not None:
            end = min(end, steps)
            self.position[kind] = end % steps
        return begin, end

    @contextlib.contextmanager
    def _running(
        self,
        rows: dict[str, Rows | None],
        class_weight: tf.Tensor | None,
        steps: dict[str, int | None],
        callbacks: Any,
    ) -> Iterator[None]:
        """For one fit or evaluate: its rows in memory and its steps, run all at once where the callbacks allow.

        Where a stream does not say how many steps it has, it is run step by step.
        """
        model, names = self.model, ("rows", "class_weight", "steps", "position", "compiled")
        kept, kept_steps = [getattr(self, name) for name in names], model.steps_per_execution
        self.rows, self.class_weight, self.steps, self.compiled = rows, class_weight, steps, True
        self.position = {"train": 0, "test": 0}
        if distributed(model):  # Keras asks again after the last step, and each variable would go through the network
            model.get_metrics_result = lambda: self.logs
        if not needs_batches(callbacks):
            model.steps_per_execution = next(iter(steps.values())) or 1
        try:
            yield
        finally:
            for name, value in zip(names, kept, strict=True):
                setattr(self, name, value)
            model.steps_per_execution = kept_steps
            vars(model).pop("get_metrics_result", None)

    def _check(self, *all_rows: Rows | None, stream: Any) -> bool:
        """Whether this model and these rows can take the compiled way; tells once why not, refuses wrong labels."""
        why = misfit(self.model)
        if distributed(self.model) and (shape := _row_shape(stream)) is not None:  # Keras could not build it there
            why = why or prepare(self.model, shape)
        for rows in all_rows:
            why = why or (rows is not None and prepare(self.model, rows.spec.shape))
            if rows is not None and not why and (largest := int(rows.y.max())) >= self.model.layers[1].units:
                raise InputError(f"label {largest} is outside the model's {self.model.layers[1].units} outputs")
        if why:
            self._tell(why)
        return not why

    def _tell(self, why: str) -> None:
        if isinstance(self.model.distribute_strategy, tf.distribute.MultiWorkerMirroredStrategy):
            raise InputError(f"under MultiWorkerMirroredStrategy, where Keras's own way does not work: {why}")
        if why not in self.told:
            self.told.add(why)
            _log.warning("training Keras's own way, which is slower: %s", why)

    def _class_weight(self, weights: dict[int, float]) -> tf.Tensor:
        classes = self.model.layers[1].units
        if sorted(weights) != list(range(classes)):
            raise InputError(
                f"class_weight must have one weight for each of the {classes} classes, got {sorted(weights)}"
            )
        return tf.constant([weights[label] for label in range(classes)], tf.float32)


class _Functions:
    """The compiled functions for training or for testing one model as it is compiled now."""

    def __init__(self, model: keras.Sequential, train: bool):
        self.model, self.train = model, train
        # partial: TensorFlow counts the tracings of bound methods over all models, and would warn of many models
        self._epoch = tf.function(functools.partial(self._epoch_body), jit_compile=True, autograph=False)
        self._steps = tf.function(functools.partial(self._steps_body), jit_compile=True, autograph=False)
        self._stream = tf.function(functools.partial(self._stream_body), autograph=False, reduce_retracing=True)

    def rows(
        self, rows: Rows, order: tf.Tensor, begin: int, end: int, class_weight: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        """Run batches ``begin`` to ``end`` of an epoch in the given order."""
        x, y = rows.tensors(self.model.layers[1].kernel.value.device)
        return self._epoch(x, y, order, tf.constant(begin), tf.constant(end), class_weight, rows.batch_size, rows.spec)

    def stream(self, iterator: tf.data.Iterator, count: int) -> dict[str, tf.Tensor]:
        """Run the next ``count`` batches of a stream, or those that are left; StopIteration if none is."""
        try:
            done, logs = self._stream(iterator, tf.constant(count))
        except tf.errors.InvalidArgumentError as error:
            raise wrong_label(error, self.model.layers[1].units) from error
        if not done:
            raise StopIteration
        return logs

    def _epoch_body(
        self,
        x: tf.Tensor,
        y: tf.Tensor,
        order: tf.Tensor,
        begin: tf.Tensor,
        end: tf.Tensor,
        class_weight: tf.Tensor | None,
        size: int,
        spec: ModelSpec,
    ) -> dict[str, tf.Tensor]:
        full, rest = divmod(order.shape[0], size)

        def batch(i: tf.Tensor, count: int) -> None:
            picked = tf.slice(order, [i * size], [count])
            raw, labels = tf.gather(x, picked), tf.gather(y, picked)
            weight = None if class_weight is None else tf.gather(class_weight, labels)
            self._step(preprocess(spec, raw), labels, weight)

        def loop(i: tf.Tensor) -> tf.Tensor:
            batch(i, size)
            return i + 1

        def last() -> tf.Tensor:
            batch(tf.constant(full), rest)
            return end

        if full:
            tf.while_loop(lambda i: i < tf.minimum(end, full), loop, [begin])
        if rest:
            tf.cond(end > full, last, lambda: end)
        return self.model.get_metrics_result()

    def _step(self, x: tf.Tensor, y: tf.Tensor, weight: tf.Tensor | None) -> None:
        """One batch: Keras's own loss, metrics and optimizer around our product."""
        model, dense = self.model, self.model.layers[1]
        variables = model.trainable_variables
        with tf.GradientTape() as tape:
            logits = linear(dense, x, dense.kernel.value, dense.bias.value if dense.use_bias else None)
            loss = model.compute_loss(None, y, logits, weight, training=self.train)
        if self.train:
            model.optimizer.apply(tape.gradient(loss, [variable.value for variable in variables]), variables)
        next(metric for metric in model.metrics if metric.name == "loss").update_state(
            loss, sample_weight=tf.shape(x)[0]
        )
        model.compute_metrics(None, y, logits, weight)

    def _stream_body(self, iterator: tf.data.Iterator, count: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Batches in groups of _GROUP, then the rest (with the last, perhaps smaller one) one by one."""

        def present(batches: list[tf.experimental.Optional]) -> tf.Tensor:
            self._checked_steps([batch.get_value() for batch in batches])
            return tf.constant(len(batches))

        def body(size: int, i: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batches = [iterator.get_next_as_optional() for _ in range(size)]
            done = tf.cond(
                batches[-1].has_value(),
                lambda: present(batches),
                lambda: sum(
                    (tf.cond(b.has_value(), lambda b=b: present([b]), lambda: tf.constant(0)) for b in batches[:-1]),
                    tf.constant(0),
                ),
            )
            return i + done, tf.equal(done, size)

        i, more = tf.constant(0), tf.constant(True)
        for size, stop in ((_GROUP, count - _GROUP), (1, count)):
            i, more = tf.while_loop(
                lambda i, more, stop=stop: more & (i < stop), functools.partial(body, size), [i, more]
            )
        return i, self.model.get_metrics_result()

    def _checked_steps(self, batches: list[tuple[tf.Tensor, ...]]) -> None:
        with tf.control_dependencies([labels_checked(batch[1], self.model.layers[1].units) for batch in batches]):
            self._steps(batches)

    def _steps_body(self, batches: list[tuple[tf.Tensor, ...]]) -> None:
        for x, y, *weight in batches:
            self._step(x, y, weight[0] if weight else None)


def _row_shape(x: Any) -> tuple[int, ...] | None:
    """The shape of one row of arrays or of a data set; None if it is not known."""
    if isinstance(x, (tf.data.Dataset, tf.distribute.DistributedDataset)) and isinstance(x.element_spec, tuple):
        x = tf.nest.flatten(x.element_spec, expand_composites=True)[0]
    shape = getattr(x, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None or None in shape[1:]:
        return None
    return tuple(shape[1:])


def _cardinality(x: Any) -> int | None:
    """Batches that a data set says it has; None for anything else."""
    count = -1
    if isinstance(x, tf.data.Dataset):
        count = int(x.cardinality())
    elif isinstance(x, tf.distribute.DistributedDataset):
        count = int(x.cardinality)
    return count if count > 0 else None


def _orders(rows: Rows) -> tf.data.Dataset:
    """One permutation after the other from the rows' next epoch on; ``fit`` keeps its iterator over all epochs."""
    return untuned(tf.data.Dataset.counter(int(rows.epoch)).map(rows.order).prefetch(1))


def _nothing(model: keras.Model) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """What Keras iterates over where the rows are in memory and their order is known."""
    nothing = untuned(tf.data.Dataset.from_tensors(0).repeat())
    if not distributed(model):
        return nothing
    return model.distribute_strategy.distribute_datasets_from_function(lambda _: nothing)
