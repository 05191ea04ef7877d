"""SolvedTuner: trials at their optimum; the penalties of a group are solved one from the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tfsoftmax.fitting.compilable import prepare
from tfsoftmax.fitting.lanes import Lane
from tfsoftmax.fitting.solver import Progress, optimum
from tuning.calls import Call
from tuning.group import History, Trained
from tuning.penalties import figures_of
from tuning.tuner import LaneTuner

CERTIFICATE = ("gap", "passes", "converged")


class SolvedTuner(LaneTuner):
    """A ``LaneTuner`` of :class:`tuning.SoftmaxHyperModel` whose configuration has the optimizer ``lbfgs``.

    Trials report one step: ``loss``, ``accuracy``, ``val_loss`` and ``val_accuracy``, all without the penalty, so that
    those of different penalties compare; and of the certificate ``gap`` (none without penalty), ``passes`` and
    ``converged``, 1 or 0. A group that has begun when the time is up is solved to its end.
    """

    def _call_of(self, trial: Any, fit_args: Any, fit_kwargs: Any) -> Call:
        config = self.hypermodel.config_of(trial.hyperparameters)
        data, model = self.hypermodel.data_of(config), self._build_hypermodel(trial.hyperparameters)
        prepare(model, data.spec.features)
        return Call(model, Lane(lr=0.0, l2=config.l2), data.rows.train, data.rows.val, 1, 0)

    def _train(self, trials: list[Any], calls: list[Call]) -> dict[str, list[History] | str]:
        """Solve a group; return the history of each trial, as often as it is to be executed."""
        config, train, val = self.hypermodel.config, calls[0].train, calls[0].val
        l2 = [call.lane.l2 for call in calls]
        of = dict(zip(l2, trials, strict=True))

        def on_pass(now: Progress) -> None:
            self.epoch_ended(of[now.l2], now.passes - 1, {})

        found = optimum(train, len(train.spec.classes), l2, tol=config.tol, passes=config.passes, on_pass=on_pass)
        figures = figures_of(train, found)
        if val is not None:
            figures |= {f"val_{name}": values for name, values in figures_of(val, found).items()}
        results: dict[str, list[History] | str] = {}
        for k, (trial, call, one) in enumerate(zip(trials, calls, found, strict=True)):
            logs = {name: values[k] for name, values in figures.items()}
            logs |= {name: getattr(one, name) for name in CERTIFICATE}
            history = {name: [float(value)] for name, value in logs.items() if value is not None}
            files = self._get_checkpoint_fname(trial.trial_id), self._get_build_config_fname(trial.trial_id)
            Trained(call.model, 0.0, (one.kernel, one.bias)).save(*map(Path, files))
            results[trial.trial_id] = [history] * self.executions_per_trial
        return results
