"""How each trial calls ``model.fit``, found out without training."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import operator
from collections.abc import Callable
from typing import Any

import keras
import keras_tuner

from tfsoftmax.fitting import compilable
from tfsoftmax.fitting.call import declared
from tfsoftmax.fitting.lanes import Lane, lane_of
from tfsoftmax.rows import Rows

_FIT = inspect.signature(declared("fit"))
# arguments of fit that lanes support; all others must have their defaults
_KNOWN = {"self", "x", "epochs", "initial_epoch", "validation_data", "verbose", "shuffle"}
_EPOCHS = {"epochs": 1, "initial_epoch": 0}  # and Keras's defaults


@dataclasses.dataclass(frozen=True)
class Call:
    """The one call of ``model.fit`` in a trial."""

    model: keras.Model
    lane: Lane
    train: Rows
    val: Rows | None
    epochs: int
    initial_epoch: int

    def key(self, executions: int) -> dict[str, Any]:
        """What trials must have in common to be lanes of one fit; the same in every process."""

        def facts(rows: Rows | None) -> Any:
            if rows is None:
                return None
            spec = hashlib.sha256(rows.spec.to_json().encode()).hexdigest()
            return [len(rows), rows.batch_size, rows.seed, spec, rows.checksum]

        return {
            "train": facts(self.train),
            "val": facts(self.val),
            "epochs": [self.initial_epoch, self.epochs],
            "executions": executions,
        }


def call_of(
    trial: Any,
    hypermodel: keras_tuner.HyperModel,
    build: Callable[[keras_tuner.HyperParameters], keras.Model],
    fit_args: Any,
    fit_kwargs: Any,
    max_model_size: int | None = None,
) -> Call | str:
    """The call of ``model.fit`` that the hypermodel would make, or why the trial cannot be a lane.

    Args:
        trial: the trial.
        hypermodel: its ``fit`` is called, with a model whose ``fit`` only records its arguments.
        build: builds the model.
        fit_args: the arguments of ``search``.
        fit_kwargs: its keyword arguments.
        max_model_size: largest number of parameters that a model may have.

    Raises:
        keras_tuner.errors.FailedTrialError: the model has more; KerasTuner's own check skips a model that is not
            built before it is fitted.
    """
    try:
        return _call_of(trial, hypermodel, build, fit_args, fit_kwargs, max_model_size)
    except keras_tuner.errors.FailedTrialError:
        raise
    except Exception as error:  # it is raised again, and recorded, when the trial is run alone
        return f"{type(error).__name__}: {error}"


def _call_of(
    trial: Any, hypermodel: Any, build: Any, fit_args: Any, fit_kwargs: Any, max_model_size: int | None
) -> Call | str:
    history, calls = keras.callbacks.History(), []

    def fit(*args: Any, **kwargs: Any) -> keras.callbacks.History:
        calls.append(_FIT.bind(model, *args, **kwargs).arguments)
        return history

    model = build(trial.hyperparameters)
    model.fit = fit
    returned = hypermodel.fit(trial.hyperparameters, model, *fit_args, **for_trial(trial, fit_kwargs))
    if returned is not history or len(calls) != 1:
        return "the hypermodel's fit does more than return model.fit(…)"
    arguments = {name: value for name, value in calls[0].items() if value is not _FIT.parameters[name].default}
    if not arguments.get("callbacks"):
        arguments.pop("callbacks", None)
    train = getattr(arguments.get("x"), "rows", None)
    val = getattr(arguments.get("validation_data"), "rows", None)
    if train is not None and not model.built:
        model.build((None, *train.spec.features))
    if max_model_size and train is not None and model.count_params() > max_model_size:
        raise keras_tuner.errors.FailedTrialError(f"Oversized model: {model.count_params()} parameters. Skip model.")
    if unknown := [name for name in arguments if name not in _KNOWN]:
        return f"fit is called with {', '.join(unknown)}"
    if train is None or (val is None and arguments.get("validation_data") is not None):
        return "the rows are not in memory: pass data.train and data.val"
    lane = lane_of(model)
    if isinstance(lane, str):
        return lane
    for rows in (train, val):
        if rows is None:
            continue
        if why := compilable.prepare(model, rows.spec.features):
            return why
        if (largest := int(rows.y.max())) >= model.layers[1].units:
            return f"label {largest} is outside the model's {model.layers[1].units} outputs"
    epochs, initial_epoch = (operator.index(arguments.get(name, usual)) for name, usual in _EPOCHS.items())
    return Call(model, lane, train, val, epochs, initial_epoch)


def for_trial(trial: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of fit, with the epochs that Hyperband assigns to the trial."""
    values = trial.hyperparameters.values
    if "tuner/epochs" not in values:
        return kwargs
    return {**kwargs, "epochs": values["tuner/epochs"], "initial_epoch": values["tuner/initial_epoch"]}
