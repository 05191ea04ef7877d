"""search(): a data set and a space become a tune folder with the trials, the best settings and the learning curves."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfsoftmax._checks import number, one_of
from tfsoftmax._files import write_csv, write_text
from tfsoftmax._folders import Kind, claim, locked
from tfsoftmax.data import Data
from tfsoftmax.errors import InputError, TrainingError
from tfsoftmax.runs.run import differences
from tfsoftmax.spec import OPTIONS, SOLVER, RunConfig
from tfsoftmax.tuned import DRAWN, SEARCH, TRIALS, read_search
from tuning import curves, penalties
from tuning.oracles import TUNERS
from tuning.solved import CERTIFICATE, SolvedTuner
from tuning.space import PENALTIES, Curvature, Range, SoftmaxHyperModel, Space, around, curvature
from tuning.table import LiveTable
from tuning.tuner import LaneTuner

OBJECTIVES = ("val_loss", "val_accuracy")
# these are part of the loss, so losses with different values cannot be compared
_IN_THE_LOSS = ("l2", "label_smoothing")


@dataclasses.dataclass(frozen=True)
class Search:
    """A finished search.

    Args:
        folder: the tune folder: ``trials.csv``, ``best.json``, ``learning_curves.png`` (of the optimizer ``lbfgs``
            ``penalties.png``), ``search.json`` (what was requested) and ``trials/`` (KerasTuner's project).
        tuner: the tuner, with ``results_summary``, ``get_best_models`` and all else of KerasTuner.
        best: settings of the best trial, as ``train`` takes them.
        trials: one row per trial, as in ``trials.csv``, in the order in which they were started.
        curvature: the curvature of the data, which the learning rates are centred on; ``None`` where there are none.
    """

    folder: Path
    tuner: LaneTuner
    best: RunConfig
    trials: list[dict[str, Any]]
    curvature: Curvature | None


def search(
    data: Data,
    out: str | os.PathLike[str],
    *,
    config: RunConfig | None = None,
    space: Space | None = None,
    tuner: str = "sweep",
    trials: int = 16,
    objective: str = "val_loss",
    lanes: int | None = None,
    minutes: float | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> Search:
    """Find settings of softmax regression for ``data``; the test split is not used.

    The same call continues a search that was killed, with the result of an uninterrupted one.

    Trials of the optimizer ``lbfgs`` are penalties (and preprocessings), each solved to ``config.tol`` within
    ``config.passes``, a group of them at once; their losses are without the penalty, so that they compare. Of trials
    with the same accuracy the best is the one with the lower loss.

    Args:
        data: the data set; needs validation rows of its own.
        out: the tune folder.
        config: the settings that are not tuned; ``None``: cosine decay over 50 epochs. Data, split, batch size and
            preprocessing are those of ``data``.
        space: what is tuned, see :class:`tuning.SoftmaxHyperModel`; ``None``: the learning rate, from a 32nd to 32
            times the curvature bound; of ``lbfgs`` ``l2`` from 1e-6 to 100. A space without the learning rate keeps
            that of ``config``.
        tuner: a name in ``TUNERS``; ``"sweep"`` tries ``trials`` learning rates, or penalties of ``lbfgs``, and half as
            many around the best.
        trials: how many; for ``"sweep"`` and ``"grid"`` the values of a range; ``"hyperband"`` decides by itself.
        objective: ``"val_loss"`` or ``"val_accuracy"``, at each trial's best epoch.
        lanes: most trials in one compiled fit; ``None``: 16, or fewer where memory is short.
        minutes: time budget; trials in training at its end stop after their epoch and count with what they have.
        overwrite: replace a search that is there. Files in the folder that a search did not write stay.
        progress: a live table on standard error on a terminal, one line per trial elsewhere.

    Raises:
        InputError: an argument out of range, a space that does not fit, a folder of another search.
        TrainingError: no trial finished.
    """
    config = RunConfig(epochs=50, schedule="cosine") if config is None else config
    solved, bound = config.optimizer == SOLVER, None
    if not solved:
        config = dataclasses.replace(config, schedule=config.schedule or "constant")
        bound = curvature(data.rows.train)
    if space is None:
        space = {"l2": PENALTIES} if bound is None else {"lr": around(bound.bound)}
    one_of("tuner", tuner, TUNERS)
    one_of("objective", objective, OBJECTIVES)
    trials = number("trials", trials, 1, whole=True)
    if minutes is not None:
        minutes = number("minutes", minutes, 0, open_low=True)
    if solved and tuner == "hyperband":
        raise InputError(f"hyperband ends trials after some epochs, and {SOLVER!r} has none: take another tuner")
    if data.rows.val is None or data.settings["val"] == "test":
        raise InputError("tuning needs validation rows of its own: set val to a number of training rows, without refit")
    if objective == "val_loss" and not solved and (names := [name for name in _IN_THE_LOSS if name in space]):
        raise InputError(
            f"{names[0]} is part of the loss, so losses do not compare: tune it with objective val_accuracy"
        )
    if tuner == "bayesian" and importlib.util.find_spec("sklearn") is None:
        raise InputError("tuner 'bayesian' needs scikit-learn: pip install scikit-learn")
    noted = {**data.settings, **dict.fromkeys(OPTIONS), **data.options, "fingerprint": data.fingerprint}
    config = dataclasses.replace(config, **noted, data=data.name)
    hypermodel = SoftmaxHyperModel(data, config, space)
    asked = {
        "config": dataclasses.asdict(config),
        "space": {
            name: dataclasses.asdict(values) if isinstance(values, Range) else list(values)
            for name, values in space.items()
        },
        **{"tuner": tuner, "trials": trials, "objective": objective},
    }
    folder = Path(out)
    with locked(folder):
        text = json.dumps(asked, indent=1) + "\n"
        claim(folder, TUNE_FOLDER, text, overwrite, functools.partial(_same, folder, asked))
        # KerasTuner takes seed 0 for none
        oracle = TUNERS[tuner](objective, space, trials, config, config.seed + 1)
        seconds = None if minutes is None else 60 * minutes
        with _quiet_tuner(), LiveTable(hypermodel, objective, shown=progress) as table:
            lane_tuner = (_ShownSolver if solved else _ShownTuner)(
                oracle, hypermodel, lanes, seconds=seconds, directory=str(folder), project_name="trials", table=table
            )
            lane_tuner.search(verbose=0)
        rows = _rows(lane_tuner, space)
        write_csv(folder / "trials.csv", rows, header=["trial"])
        finished = [trial for trial in lane_tuner.oracle.get_best_trials(1) if trial.status == "COMPLETED"]
        if not finished:
            raise TrainingError(f"no trial finished; {str(folder / 'trials.csv')!r} says why")
        best_trial = finished[0]
        if solved:
            ended = [{"l2": config.l2, **row} for row in rows if row["status"] == "completed"]
            best_trial = lane_tuner.oracle.get_trial(penalties.chosen(ended, objective)["trial"])
        best = hypermodel.config_of(best_trial.hyperparameters)
        if not solved and best.schedule == "constant":  # a cosine decay is only good at its end
            best = dataclasses.replace(best, epochs=best_trial.best_step + 1)
        write_text(folder / "best.json", best.to_json())
        if bound is None:
            _draw_penalties(folder / "penalties.png", rows, best_trial.trial_id, best)
        else:
            curves.draw(folder / "learning_curves.png", lane_tuner, objective, bound)
    return Search(folder, lane_tuner, best, rows, bound)


class _ShownTuner(LaneTuner):
    """Reports each epoch and the end of each trial to a table."""

    def __init__(self, *args: Any, table: LiveTable, **kwargs: Any):
        self._table = table
        super().__init__(*args, **kwargs)

    def epoch_ended(self, trial: Any, epoch: int, logs: dict[str, float]) -> None:
        self._table.epoch(trial, epoch, logs)

    def on_trial_end(self, trial: Any) -> None:
        super().on_trial_end(trial)
        self._table.end(self.oracle.get_trial(trial.trial_id))


class _ShownSolver(_ShownTuner, SolvedTuner):
    """The same of trials that are solved."""


def _draw_penalties(path: Path, rows: list[dict[str, Any]], chosen: str, best: RunConfig) -> None:
    """The penalties of the best trial's preprocessing."""
    found = []
    for row in rows:
        if row["status"] == "completed" and row.get("preprocess", best.preprocess) == best.preprocess:
            of_train = {f"train_{name}": row[name] for name in ("loss", "accuracy")}
            found.append({"l2": best.l2, **row, **of_train})
    penalties.draw(path, found, next(row for row in found if row["trial"] == chosen))


TUNE_FOLDER = Kind(
    "tune folder",
    SEARCH,
    read_search,
    (
        *(SEARCH, TRIALS, "best.json", "learning_curves.png", "penalties.png"),
        *("report.html", *(f"report/{name}.{ending}" for name in DRAWN for ending in ("png", "csv"))),
        *("trials/oracle.json", "trials/tuner*.json", "trials/lanes/*.json"),
        *(f"trials/trial_*/{name}" for name in ("trial.json", "build_config.json", "checkpoint.weights.h5")),
    ),
)


def _same(folder: Path, asked: dict[str, Any], there: dict[str, Any]) -> None:
    """Raise InputError unless the search in the folder is the requested one."""
    others = differences(there["config"], RunConfig(**asked["config"]))
    wanted = json.loads(json.dumps(asked))
    others += [name for name in ("space", "tuner", "trials", "objective") if there[name] != wanted[name]]
    if others:
        raise InputError(
            f"{str(folder)!r} holds another search, with other {'; '.join(others)}; "
            "choose another --out, or pass --overwrite"
        )


def _rows(tuner: LaneTuner, space: Space) -> list[dict[str, Any]]:
    """One row per trial: its values and its figures at the best epoch."""
    rows = []
    for trial in sorted(tuner.oracle.trials.values(), key=lambda trial: trial.trial_id):
        found = {name: trial.metrics.get_last_value(name) for name in trial.metrics.metrics}
        metrics = ("loss", "accuracy", "val_loss", "val_accuracy")
        of_epochs = {"best_epoch": trial.best_step + 1 if trial.status == "COMPLETED" else None}
        kinds = dict(zip(CERTIFICATE, (float, int, bool), strict=True))
        certificate = {name: kind(found[name]) if name in found else None for name, kind in kinds.items()}
        rows.append(
            {
                "trial": trial.trial_id,
                **{name: trial.hyperparameters.values.get(name) for name in space},
                **({} if isinstance(tuner, SolvedTuner) else of_epochs),
                **{name: float(found[name]) if name in found else None for name in metrics},
                **(certificate if isinstance(tuner, SolvedTuner) else {}),
                "status": trial.status.lower(),
                "reason": (trial.message or "").strip().splitlines()[-1:],
                "seconds": tuner.seconds_of.get(trial.trial_id),
            }
        )
        rows[-1]["reason"] = rows[-1]["reason"][0] if rows[-1]["reason"] else None
    return rows


@contextlib.contextmanager
def _quiet_tuner() -> Iterator[None]:
    """KerasTuner prints on standard output, where results belong."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
