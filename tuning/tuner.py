"""LaneTuner: a KerasTuner tuner that trains many trials as the lanes of one compiled fit."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from tfsoftmax._checks import number
from tfsoftmax._machine import memory_available
from tfsoftmax._private import lost
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.lanes import lane_bytes
from tuning import group, workers
from tuning.calls import Call, call_of, for_trial
from tuning.kept import Kept

_log = logging.getLogger(__name__)

LANES = 16  # by default: 64 lanes take 20 % less time per lane, and leave an oracle fewer results to learn from

# what runs or observes the inside of one fit: to override any is to train trials alone, KerasTuner's way
_INSIDE = (
    "run_trial",
    "_build_and_fit_model",
    "_try_build",
    "on_epoch_begin",
    "on_epoch_end",
    "on_batch_begin",
    "on_batch_end",
)


class LaneTuner(keras_tuner.Tuner):
    """A ``keras_tuner.Tuner`` that trains up to ``lanes`` trials at once.

    Trials that differ in learning rate, momentum, L2, label smoothing or cosine decay and agree in rows, batch size,
    preprocessing and epochs are trained together, exactly (see :mod:`tfsoftmax.fitting.lanes`). A trial that cannot be
    a lane (another optimizer, loss or metric, callbacks, a hypermodel whose ``fit`` does more than return
    ``model.fit(…)``) is trained alone, KerasTuner's way, and the log says why. So are all trials of a subclass that
    overrides ``run_trial``, ``_build_and_fit_model``, ``on_epoch_begin``, ``on_epoch_end`` or ``on_batch_…``; to
    observe the figures without losing the lanes, override :meth:`epoch_ended`.

    Every trial, and each of its executions, sees the rows in the same order, so none depends on earlier ones.

    A search that was killed is replayed from its start with the same oracle: groups of trials that were trained are
    read from the project folder, the others are trained. So it ends as an uninterrupted one would.

    Args:
        oracle: any KerasTuner oracle. One with a seed makes the search repeatable.
        hypermodel: builds compiled models; :class:`tuning.SoftmaxHyperModel` is one. As in KerasTuner, ``None`` if
            ``run_trial`` is overridden.
        lanes: largest number of trials at once, at least 1; ``None``: 16, or fewer if memory is short.
        seconds: time budget of one ``search``; trials still in training then stop after their epoch and
            count with their results so far. ``None``: no limit.
        worker_timeout: seconds after which a chief reassigns the trials of a silent worker.
        **kwargs: as ``keras_tuner.Tuner`` takes them (``directory``, ``project_name``, ``overwrite``, …).

    Attributes:
        seconds_of: duration of the fit that each trial was part of.

    Raises:
        InputError: wrong ``lanes``, or the folder of another search; in :meth:`search`: an objective that the models do
            not report, or lanes that do not fit into memory.
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        hypermodel: Any = None,
        lanes: int | None = None,
        *,
        seconds: float | None = None,
        worker_timeout: float = 60.0,
        **kwargs: Any,
    ):
        if lanes is not None:
            number("lanes", lanes, 1, whole=True)
        if seconds is not None:
            number("seconds", seconds, 0, open_low=True)
        number("worker_timeout", worker_timeout, 0, open_low=True)
        self.lanes, self.seconds, self.worker_timeout = lanes, seconds, worker_timeout
        self._begin = copy.deepcopy(oracle.get_state()) if isinstance(oracle, keras_tuner.Oracle) else {}
        self._reloaded = False
        self.seconds_of: dict[str, float] = {}
        self._results: dict[str, list[Any] | str] = {}
        super().__init__(oracle, hypermodel, **kwargs)
        self._kept.check(oracle)

    @property
    def _kept(self) -> Kept:
        return Kept(self.project_dir)

    def reload(self) -> None:
        """Read the state of a search that finished or was killed, for ``results_summary`` and similar methods."""
        if not workers.is_worker():
            self._kept.check(self.oracle)
        self._reloaded = True
        try:
            super().reload()
        except (ValueError, KeyError, RuntimeError) as error:
            if not self._kept.begun:
                raise
            # KerasTuner writes its files in place, so a kill can damage them; search() does not need them
            _log.warning("cannot read the state in %s: %s", self.project_dir, error)
            self.oracle.trials = {}

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """As ``keras_tuner.Tuner.search``: the arguments are those of ``HyperModel.fit``."""
        if gone := lost("lanes"):
            _log.warning("all trials are trained KerasTuner's way, one after the other: %s", gone)
            super().search(*fit_args, **fit_kwargs)
            return
        if not workers.is_worker():
            self._start_again()
        if workers.is_chief():
            workers.watch(self.oracle, self.worker_timeout)
            super().search(*fit_args, **fit_kwargs)
            return
        if "verbose" in fit_kwargs and not workers.is_worker():
            self.oracle.verbose = fit_kwargs["verbose"]
        self._end = math.inf if self.seconds is None else time.monotonic() + self.seconds
        overridden = [name for name in _INSIDE if self._overridden(name)]
        self._alone = f"{overridden[0]} is overridden" if overridden else ""
        self._width = 1 if self._alone else self.lanes or LANES
        self._asked: set[int] = set()
        self._stopped: set[int] = set()
        self.on_search_begin()
        while len(self._stopped) < self._width and time.monotonic() < self._end:
            trials = self._ask(fit_args, fit_kwargs)
            if not trials and len(self._stopped) < self._width:
                time.sleep(workers.IDLE_SECONDS)
            groups: dict[str, list[tuple[Any, Call | str]]] = {}
            for trial, call in trials:
                key = trial.trial_id if isinstance(call, str) else json.dumps(call.key(self.executions_per_trial))
                groups.setdefault(key, []).append((trial, call))
            running = [trial.trial_id for trial, _ in trials]
            with workers.heartbeat(self.oracle, running, workers.is_worker()):
                for key, members in groups.items():
                    self._run(key, members, running, fit_args, fit_kwargs)
        self.on_search_end()

    def _overridden(self, name: str) -> bool:
        return getattr(getattr(self, name, None), "__func__", None) is not getattr(LaneTuner, name, None)

    def epoch_ended(self, trial: Any, epoch: int, logs: dict[str, float]) -> None:
        """Called after each epoch of each trial with its figures, for a subclass to show them."""

    def on_epoch_end(self, trial: Any, model: keras.Model, epoch: int, logs: dict[str, float] | None = None) -> None:
        """As in KerasTuner; a subclass that overrides it has every trial trained alone."""
        self.epoch_ended(trial, epoch, logs or {})

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the results of a trial that was trained as a lane; train any other now, alone."""
        if trial.trial_id in self._results:
            return [_as_history(result) for result in self._results[trial.trial_id]]
        results = super().run_trial(trial, *args, **for_trial(trial, kwargs))
        self._results[trial.trial_id] = [getattr(result, "history", result) for result in results]
        return results

    def history_of(self, trial_id: str) -> group.History | None:
        """Metrics by epoch of a trial's first execution, under Keras's names; None if it has none."""
        results = self._results.get(trial_id)
        return results[0] if isinstance(results, list) and isinstance(results[0], dict) else None

    def _build_hypermodel(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The model of a trial; a later round of Hyperband continues from the weights of the round before."""
        model = super()._build_hypermodel(hp)
        if (before := hp.values.get("tuner/trial_id")) and not lost("lanes"):
            self._load(model, before)
        return model

    def load_model(self, trial: Any) -> keras.Model:
        """The model of a trial with the weights of its best epoch."""
        if lost("lanes"):
            return super().load_model(trial)
        model = self._build_hypermodel(trial.hyperparameters)
        self._load(model, trial.trial_id)
        return model

    def _load(self, model: keras.Model, trial_id: str) -> None:
        if not model.built:
            model.build_from_config(json.loads(Path(self._get_build_config_fname(trial_id)).read_text()))
        if model.compiled:  # Keras rejects a file with more optimizer variables than the model has
            model.optimizer.build(model.trainable_variables)
        model.load_weights(self._get_checkpoint_fname(trial_id))

    def _start_again(self) -> None:
        """Reset a reloaded oracle to its start, and check that the folder holds this search."""
        seed = self._kept.begin(self.oracle)
        if self._reloaded:
            self.oracle.trials, self.oracle.ongoing_trials, self.oracle.tuner_ids = {}, {}, set()
            self.oracle.set_state({**copy.deepcopy(self._begin), "seed": seed, "seed_state": seed})
            self._populate_initial_space()
            self._reloaded = False

    def _ask(self, fit_args: Any, fit_kwargs: Any) -> list[tuple[Any, Call | str]]:
        """Get as many trials as the oracle has now, each with its call of fit."""
        trials: list[tuple[Any, Call | str]] = []
        space = {(hp.name, str(hp.conditions)) for hp in self.oracle.get_space().space}
        k = -1
        while (k := k + 1) < self._width:
            if k in self._stopped:
                continue
            self.pre_create_trial()
            trial = self.oracle.create_trial(f"{self.tuner_id}-{k}")
            if trial.status == "IDLE":
                break
            if trial.status == "STOPPED":
                self._stopped.add(k)
                if k not in self._asked:
                    self._width = k  # no trial was requested beyond it
                continue
            self._asked.add(k)
            self.on_trial_begin(trial)
            call = self._alone or self._call_of(trial, fit_args, fit_kwargs)
            if not (trials or isinstance(call, str)):
                self._fit_memory(call)
            trials.append((trial, call))
            # hyperparameters that a fit requests join the space when its trial ends; no trial has them before that
            new = {(hp.name, str(hp.conditions)) for hp in trial.hyperparameters.space} - space
            if new or (isinstance(call, str) and len(trials) == 1):
                break
        return trials

    def _call_of(self, trial: Any, fit_args: Any, fit_kwargs: Any) -> Call | str:
        try:
            return call_of(trial, self.hypermodel, self._build_hypermodel, fit_args, fit_kwargs, self.max_model_size)
        except keras_tuner.errors.FailedTrialError as error:
            return _Refused(error)

    def _fit_memory(self, call: Call) -> None:
        """Use fewer lanes if the default does not fit; raise InputError if the given number does not."""
        features, classes = call.model.layers[1].kernel.shape
        free, each = memory_available(), lane_bytes(features, classes, call.train.batch_size)
        if self.lanes is None:
            self._width = min(self._width, max(1, int(free / 2 / each)))
        elif self._width * each > free:
            raise InputError(
                f"lanes={self.lanes} take {self._width * each / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
                f"use at most {max(1, int(free / 2 / each))}"
            )

    def _run(
        self, key: str, members: list[tuple[Any, Call | str]], running: list[str], fit_args: Any, fit_kwargs: Any
    ) -> None:
        """Train the trials of one group, or read their results, and report each."""
        trials, call = [trial for trial, _ in members], members[0][1]
        asked = {"fit": key, "trials": {trial.trial_id: dict(trial.hyperparameters.values) for trial in trials}}
        there, lasting = self._kept.read(asked), True
        for trial in trials:
            self._results.pop(trial.trial_id, None)
        begin = time.perf_counter()
        if there:
            self._results |= there["results"]
        elif isinstance(call, _Refused):
            self._results[trials[0].trial_id] = str(call)
        elif isinstance(call, str):
            _log.warning("trial %s is trained alone: %s", trials[0].trial_id, call)
        else:
            self._results |= self._train(trials, [call for _, call in members if isinstance(call, Call)])
            lasting = time.monotonic() <= self._end  # if the time budget cut it short, a search with time finds more
        found: dict[str, Any] = {"results": {}, "reported": {}, "space": {}}
        for trial in trials:
            self._report(trial, there, fit_args, fit_kwargs)
            self.seconds_of[trial.trial_id] = there.get("seconds", time.perf_counter() - begin)
            self.on_trial_end(trial)
            running.remove(trial.trial_id)
            ended = self.oracle.get_trial(trial.trial_id)
            lasting &= ended.status in ("COMPLETED", "FAILED")  # else it is retried
            if isinstance(call, str):
                found["reported"][trial.trial_id] = _reported(ended)
                found["space"][trial.trial_id] = trial.hyperparameters.get_config()
            found["results"][trial.trial_id] = self._results.get(trial.trial_id, [])
        if lasting and not there:
            self._kept.write(asked, {**found, "seconds": time.perf_counter() - begin})

    def _report(self, trial: Any, there: dict[str, Any], fit_args: Any, fit_kwargs: Any) -> None:
        """Report a trial to the oracle; one without results is trained here."""
        if space := there.get("space", {}).get(trial.trial_id):
            trial.hyperparameters = keras_tuner.HyperParameters.from_config(space)
        if isinstance(why := self._results.get(trial.trial_id), str):
            trial.status, trial.message = "FAILED", why
        elif reported := there.get("reported", {}).get(trial.trial_id):
            for step, metrics in reported:
                self.oracle.update_trial(trial.trial_id, metrics, step)
            trial.status = "COMPLETED"
        else:
            self._try_run_and_update_trial(trial, *fit_args, **fit_kwargs)
            if trial.status != "COMPLETED":
                self._results[trial.trial_id] = trial.message

    def _train(self, trials: list[Any], calls: list[Call]) -> dict[str, list[group.History] | str]:
        """Train a group of lanes; return for each trial its histories, one per execution, or why it failed."""
        known = ["loss", "accuracy", *(["val_loss", "val_accuracy"] if calls[0].val is not None else [])]
        objective = self.oracle.objective
        for name in getattr(objective, "name_to_direction", [objective.name]):
            if name not in known:
                raise InputError(f"the objective {name!r} is not reported; the metrics are {', '.join(known)}")

        def build(k: int) -> keras.Model:
            model = self._build_hypermodel(trials[k].hyperparameters)
            if not model.built:
                model.build((None, *calls[k].train.spec.features))
            return model

        def epoch_ended(k: int, epoch: int, logs: dict[str, float]) -> None:
            self.epoch_ended(trials[k], epoch, logs)

        def time_is_up() -> bool:
            return time.monotonic() > self._end

        trained = group.train(calls, objective, self.executions_per_trial, build, epoch_ended, time_is_up)
        for trial, lane in zip(trials, trained, strict=True):
            if not lane.failed:
                checkpoint, config = self._get_checkpoint_fname, self._get_build_config_fname
                lane.save(Path(checkpoint(trial.trial_id)), Path(config(trial.trial_id)))
        return {trial.trial_id: lane.failed or lane.histories for trial, lane in zip(trials, trained, strict=True)}


class _Refused(str):
    """Why a trial fails without being trained."""


def _reported(trial: Any) -> list[tuple[int, dict[str, float]]]:
    """What was reported of a trial to the oracle: steps and metrics."""
    steps: dict[int, list[dict[str, float]]] = {}
    for name in trial.metrics.metrics:
        for observation in trial.metrics.get_history(name):
            rounds = steps.setdefault(observation.step, [])
            for i, value in enumerate(observation.value):
                rounds.extend({} for _ in range(i + 1 - len(rounds)))
                rounds[i][name] = value
    return [(step, metrics) for step, rounds in steps.items() for metrics in rounds]


def _as_history(result: Any) -> Any:
    """The result of a fit as it was before it was written to a file."""
    if not (isinstance(result, dict) and all(isinstance(values, list) for values in result.values())):
        return result
    history = keras.callbacks.History()
    history.history = result
    return history
