"""LaneTuner: a KerasTuner tuner that trains many trials as the lanes of one compiled fit."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import logging
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np
from keras_tuner.src.distribute import utils as distribution

from tfsoftmax._checks import number
from tfsoftmax._files import write_text
from tfsoftmax.errors import InputError
from tuning import workers
from tuning.calls import Call, call_of, for_trial
from tuning.lanes import Lanes, lane_bytes

_log = logging.getLogger(__name__)

LANES = 16  # by default: 64 lanes take 20 % less time a lane, and leave an oracle that learns less to learn from

History = dict[str, list[float]]


class LaneTuner(keras_tuner.Tuner):
    """Train up to ``lanes`` trials at once; all else is KerasTuner's.

    Trials that differ in learning rate, momentum, L2, label smoothing or cosine decay and agree in rows, batch size,
    preprocessing and epochs are trained together, exactly (see :mod:`tuning.lanes`). What cannot be a lane (another
    optimizer, callbacks, a hypermodel whose ``fit`` does more than to return ``model.fit(…)``) is trained by itself,
    KerasTuner's way, and the log says why.

    Every trial begins with the same order of the rows, so a trial does not depend on those before it. The execution
    ``i`` of ``executions_per_trial`` goes on where the one before it ended.

    A search that was killed is gone through again with the same oracle from its beginning: trained groups of trials
    are read from the project folder, the others are trained. Thus it ends as an undisturbed one would.

    Args:
        oracle: any KerasTuner oracle. One with a seed makes the search repeatable.
        hypermodel: builds compiled models; :class:`tuning.SoftmaxHyperModel` is one.
        lanes: most trials at once, at least 1; ``None``: 16, or fewer where memory is short.
        seconds: time budget of one ``search``; the trials in training at its end are stopped after their epoch and
            count with what they have. ``None``: no limit.
        worker_timeout: seconds after which a chief gives the trials of a silent worker to the others.
        **kwargs: as ``keras_tuner.Tuner`` takes them (``directory``, ``project_name``, ``overwrite``, …).

    Attributes:
        seconds_of: seconds of the fit that each trial was part of.

    Raises:
        InputError: wrong ``lanes``, a folder of another search, an objective that the models do not report, lanes that
            do not fit into memory. All but the first come from :meth:`search`.
    """

    def __init__(
        self,
        oracle: keras_tuner.Oracle,
        hypermodel: Any,
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
        self._before: dict[str, Any] | None = None  # the oracle's state before it was reloaded
        self.seconds_of: dict[str, float] = {}
        self._results: dict[str, list[Any] | str] = {}
        super().__init__(oracle, hypermodel, **kwargs)

    def reload(self) -> None:
        """Read the state of a search that ended or was killed, for ``results_summary`` and the like."""
        if not self._is_worker():
            self._before = copy.deepcopy(self.oracle.get_state())
        try:
            super().reload()
        except (ValueError, KeyError, RuntimeError) as error:
            # KerasTuner writes its files in place, so a kill can tear them; search() does not need them
            _log.warning("cannot read the state in %s: %s", self.project_dir, error)
            self.oracle.trials = {}

    def search(self, *fit_args: Any, **fit_kwargs: Any) -> None:
        """As ``keras_tuner.Tuner.search``: the arguments are those of ``HyperModel.fit``."""
        if not self._is_worker():
            self._start_again()
        if distribution.is_chief_oracle():
            workers.watch(self.oracle, self.worker_timeout)
            super().search(*fit_args, **fit_kwargs)
            return
        if "verbose" in fit_kwargs and not self._is_worker():
            self.oracle.verbose = fit_kwargs["verbose"]
        self._end = math.inf if self.seconds is None else time.monotonic() + self.seconds
        self._width = LANES if self.lanes is None else self.lanes
        self._asked: set[int] = set()
        self._stopped: set[int] = set()
        self.on_search_begin()
        while len(self._stopped) < self._width and time.monotonic() < self._end:
            trials = self._ask(fit_args, fit_kwargs)
            if not trials:
                time.sleep(workers.IDLE_SECONDS)
            groups: dict[str, list[tuple[Any, Call | str]]] = {}
            for trial, call in trials:
                key = trial.trial_id if isinstance(call, str) else json.dumps(call.key(self.executions_per_trial))
                groups.setdefault(key, []).append((trial, call))
            with workers.heartbeat(self.oracle, [trial.trial_id for trial, _ in trials], self._is_worker()):
                for key, group in groups.items():
                    self._run(key, group, fit_args, fit_kwargs)
        self.on_search_end()

    def run_trial(self, trial: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """What a trial gave that has been trained as a lane; any other is trained now, by itself."""
        if trial.trial_id in self._results:
            return [_as_history(result) for result in self._results[trial.trial_id]]
        for value in (*args, *kwargs.values()):
            if hasattr(value, "rows"):
                value.rows.epoch.assign(0)
        given = super().run_trial(trial, *args, **for_trial(trial, kwargs))
        self._results[trial.trial_id] = [getattr(result, "history", result) for result in given]
        return given

    def history_of(self, trial_id: str) -> History | None:
        """Metrics by epoch of a trial's first execution, by the names that Keras gives them; None if it has none."""
        results = self._results.get(trial_id)
        return results[0] if isinstance(results, list) and isinstance(results[0], dict) else None

    def _build_hypermodel(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """The model of a trial; a later round of Hyperband goes on from the weights of the round before."""
        model = super()._build_hypermodel(hp)
        if before := hp.values.get("tuner/trial_id"):
            self._load(model, before)
        return model

    def load_model(self, trial: Any) -> keras.Model:
        """The model of a trial with the weights of its best epoch."""
        model = super()._build_hypermodel(trial.hyperparameters)
        self._load(model, trial.trial_id)
        return model

    def _load(self, model: keras.Model, trial_id: str) -> None:
        model.build_from_config(json.loads(Path(self._get_build_config_fname(trial_id)).read_text()))
        # Keras refuses a file with more optimizer variables than there are
        model.optimizer.build(model.trainable_variables)
        model.load_weights(self._get_checkpoint_fname(trial_id))

    def _start_again(self) -> None:
        """Put a reloaded oracle back to its beginning, and see that the folder holds this search."""
        note = Path(self.project_dir, "lanes", "search.json")
        objective = str(self.oracle.objective)
        search = {"oracle": type(self.oracle).__name__, "objective": objective, "seed": self.oracle.seed}
        if note.exists():
            there = json.loads(note.read_text())
            for name in ("oracle", "objective"):
                if there[name] != search[name]:
                    raise InputError(
                        f"{str(self.project_dir)!r} holds another search, with {name} {there[name]}, not "
                        f"{search[name]}; choose another project_name, or overwrite=True"
                    )
            search["seed"] = there["seed"]  # an oracle without a seed draws one
        else:
            note.parent.mkdir(exist_ok=True)
            write_text(note, json.dumps(search) + "\n")
        if self._before is not None:
            self.oracle.trials, self.oracle.ongoing_trials, self.oracle.tuner_ids = {}, {}, set()
            state = {**self._before, "seed": search["seed"], "seed_state": search["seed"]}
            self.oracle.set_state(state)
            self._populate_initial_space()
            self._before = None

    def _ask(self, fit_args: Any, fit_kwargs: Any) -> list[tuple[Any, Call | str]]:
        """As many trials as the oracle has for us now, each with the fit that it asks for."""
        trials: list[tuple[Any, Call | str]] = []
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
                    self._width = k  # nothing beyond has been asked for
                continue
            self._asked.add(k)
            call = call_of(trial, self.hypermodel, self._build_hypermodel, fit_args, fit_kwargs)
            if k == 0 and not isinstance(call, str):
                self._fit_memory(call)
            trials.append((trial, call))
            self.on_trial_begin(trial)
        return trials

    def _fit_memory(self, call: Call) -> None:
        """Fewer lanes where the default does not fit; an error where the given number does not."""
        features, classes = call.model.layers[1].kernel.shape
        free, each = workers.free_memory(), lane_bytes(features, classes, call.train.batch_size)
        if self.lanes is None:
            self._width = min(self._width, max(1, int(free / 2 / each)))
        elif self._width * each > free:
            raise InputError(
                f"lanes={self.lanes} take {self._width * each / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free; "
                f"give at most {max(1, int(free / 2 / each))}"
            )

    def _run(self, key: str, group: list[tuple[Any, Call | str]], fit_args: Any, fit_kwargs: Any) -> None:
        """Train the trials of one group, or read what they gave, and report each."""
        trials, calls = [trial for trial, _ in group], [call for _, call in group]
        file = Path(self.project_dir, "lanes", f"{trials[0].trial_id}.json")
        asked = {"fit": key, "trials": {trial.trial_id: trial.hyperparameters.values for trial in trials}}
        try:
            there = json.loads(file.read_text())
        except (OSError, ValueError):
            there = {}
        known = all(there.get(name) == json.loads(json.dumps(value)) for name, value in asked.items())
        for trial in trials:
            self._results.pop(trial.trial_id, None)
        begin = time.perf_counter()
        if known:
            self._results |= there["results"]
        elif isinstance(calls[0], str):
            _log.warning("trial %s is trained by itself: %s", trials[0].trial_id, calls[0])
        else:
            self._check_objective(calls[0])
            self._results |= self._train(trials, calls)
            known = time.monotonic() > self._end  # cut short by the time budget: not what a search with time would find
        for trial in trials:
            if isinstance(why := self._results.get(trial.trial_id), str):
                trial.status, trial.message = "FAILED", why
            else:
                self._try_run_and_update_trial(trial, *fit_args, **fit_kwargs)
                if trial.message:
                    self._results[trial.trial_id] = trial.message
        seconds = there["seconds"] if known and there else time.perf_counter() - begin
        self.seconds_of |= dict.fromkeys(asked["trials"], seconds)
        if not known:
            results = {name: self._results[name] for name in asked["trials"]}
            write_text(file, json.dumps({**asked, "results": results, "seconds": seconds}, default=float) + "\n")
        for trial in trials:
            self.on_trial_end(trial)

    def _check_objective(self, call: Call) -> None:
        known = ["loss", "accuracy", *(["val_loss", "val_accuracy"] if call.val is not None else [])]
        objective = self.oracle.objective
        for name in getattr(objective, "name_to_direction", [objective.name]):
            if name not in known:
                raise InputError(f"the objective {name!r} is not reported; there are {', '.join(known)}")

    def _train(self, trials: list[Any], calls: list[Call]) -> dict[str, list[History] | str]:
        """Train a group of lanes: for each trial its histories, one an execution, or why it failed."""
        objective = self.oracle.objective
        worst = -math.inf if objective.direction == "max" else math.inf
        best, weights = [worst] * len(calls), [call.model.layers[1].get_weights() for call in calls]
        results: dict[str, list[History] | str] = {trial.trial_id: [] for trial in trials}
        first, last = calls[0].initial_epoch, calls[0].epochs
        for execution in range(self.executions_per_trial):
            if execution:
                calls = [self._again(trial, call) for trial, call in zip(trials, calls, strict=True)]
            starts = [tuple(call.model.layers[1].get_weights()) for call in calls]
            lanes = Lanes([call.lane for call in calls], starts, calls[0].train, calls[0].val)
            histories: list[History] = [{} for _ in calls]
            for epoch in range(first, last):
                logs = lanes.epoch(execution * (last - first) + epoch)
                now = lanes.weights()
                for k, (trial, call) in enumerate(zip(trials, calls, strict=True)):
                    if isinstance(results[trial.trial_id], str):
                        continue
                    of_lane = {name: float(values[k]) for name, values in logs.items()}
                    if wrong := [name for name, value in of_lane.items() if not math.isfinite(value)]:
                        results[trial.trial_id] = f"diverged: {wrong[0]} is {of_lane[wrong[0]]} in epoch {epoch + 1}"
                        continue
                    for name, value in of_lane.items():
                        histories[k].setdefault(name, []).append(value)
                    if objective.better_than(objective.get_value(of_lane), best[k]):
                        best[k], weights[k] = objective.get_value(of_lane), now[k]
                    self.on_epoch_end(trial, call.model, epoch, logs=of_lane)
                if time.monotonic() > self._end:
                    break
            for trial, history in zip(trials, histories, strict=True):
                if not isinstance(results[trial.trial_id], str):
                    results[trial.trial_id].append(history)
        for trial, call, best_weights in zip(trials, calls, weights, strict=True):
            if not isinstance(results[trial.trial_id], str):
                self._keep(trial, call.model, best_weights)
        return results

    def _again(self, trial: Any, call: Call) -> Call:
        model = self._build_hypermodel(trial.hyperparameters)
        if not model.built:
            model.build((None, *call.train.spec.shape))
        return dataclasses.replace(call, model=model)

    def _keep(self, trial: Any, model: keras.Model, weights: tuple[np.ndarray, np.ndarray]) -> None:
        """Write the weights of a trial where KerasTuner looks for them."""
        model.layers[1].set_weights(weights)
        model.optimizer.build(model.trainable_variables)
        path = Path(self._get_checkpoint_fname(trial.trial_id))
        path.parent.mkdir(parents=True, exist_ok=True)
        # HDF5 does not survive a disk that is full: it ends the process
        if shutil.disk_usage(path.parent).free < 2**20 + 4 * 4 * model.count_params():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        aside = path.with_name(f".{path.name}")
        try:
            model.save_weights(aside)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
        write_text(Path(self._get_build_config_fname(trial.trial_id)), json.dumps(model.get_build_config()))


def _as_history(result: Any) -> Any:
    """What a fit gave, as it was before it was written to a file."""
    if not (isinstance(result, dict) and all(isinstance(values, list) for values in result.values())):
        return result
    history = keras.callbacks.History()
    history.history = result
    return history
