"""Which trials a search runs: KerasTuner's oracles by name, and two of our own that issue rounds of trials."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import keras_tuner

from tfsoftmax.spec import SOLVER, RunConfig
from tuning.space import Range, Space, log_spaced

# tuned in the second round of a sweep, around the best learning rate; the others are crossed with the first's rates.
# Where the penalty is swept it is not among them
_FINE = ("momentum", "l2", "label_smoothing")
_STEPS = 4  # values of a range that is crossed with others


class _Listed(keras_tuner.Oracle):
    """Trials that are known in advance: each of ``rounds`` is a function that returns the values of one round.

    A round starts when all trials before it have ended. Its values follow from their results, so no state is needed
    beyond KerasTuner's own.
    """

    def __init__(self, objective: str, rounds: list[Callable[[], list[dict[str, Any]]]], seed: int | None = None):
        # large learning rates may diverge one after the other, which is a result
        super().__init__(objective, seed=seed, max_consecutive_failed_trials=10**9)
        self._rounds = rounds

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The values of the next trial, or that none is available yet, or that all are done."""
        begin = 0
        for values_of in self._rounds:
            if any(self.trials[past].status == "RUNNING" for past in list(self.trials)[:begin]):
                return {"status": "IDLE"}
            values = values_of()
            if int(trial_id) < begin + len(values):
                return {"status": "RUNNING", "values": values[int(trial_id) - begin]}
            begin += len(values)
        return {"status": "STOPPED"}


class GridOracle(_Listed):
    """Every combination of the space's values; of a range, ``trials`` values in a constant ratio.

    KerasTuner's ``GridSearchOracle`` issues one trial at a time, and does not resume.
    """

    def __init__(self, objective: str, space: Space, trials: int, seed: int | None = None):
        super().__init__(objective, [lambda: list(_product(space, trials))], seed)


class SweepOracle(_Listed):
    """Learning rates over their range, crossed with the choices of the space; then finer ones around the best.

    The second round keeps the best choices and tries ``refine`` trials with learning rates between the neighbours
    of the best one, crossed with momentum, L2 and label smoothing where these are tuned (then at least one trial for
    each combination).

    Args:
        objective: as KerasTuner takes it.
        space: what is tuned.
        trials: number of learning rates in the first round, if the space has a range of them.
        refine: trials of the second round; 0: none.
        seed: not used; saved with the search.
        swept: what takes the place of the learning rate.
    """

    def __init__(
        self, objective: str, space: Space, trials: int, refine: int, seed: int | None = None, swept: str = "lr"
    ):
        self._space, self._trials, self._refine, self._swept = space, trials, refine, swept
        self._finer = [name for name in _FINE if name != swept]
        super().__init__(objective, [self._first, self._second], seed)

    def _first(self) -> list[dict[str, Any]]:
        rest = {name: values for name, values in self._space.items() if name not in self._finer}
        return [{**values, **self._fine()[0]} for values in _product(rest, self._trials)]

    def _second(self) -> list[dict[str, Any]]:
        first = self._first()
        ended = [trial for trial in list(self.trials.values())[: len(first)] if trial.status == "COMPLETED"]
        if not (self._refine and ended):
            return []
        sign = -1 if self.objective.direction == "max" else 1
        best = min(ended, key=lambda trial: sign * trial.score).hyperparameters.values
        fine, swept = self._fine(), self._swept
        rates = [best[swept]] if swept in best else []
        if isinstance(self._space.get(swept), Range):
            count = max(1, self._refine // len(fine))
            tried = sorted({values[swept] for values in first})
            at = tried.index(best[swept])
            low, high = tried[max(0, at - 1)], tried[min(len(tried) - 1, at + 1)]
            rates = log_spaced(Range(low, high), count + 2)[1:-1] if low < high else rates
        found = [{**best, **({swept: rate} if rates else {}), **values} for rate in rates or [None] for values in fine]
        return [values for values in found if values not in first]

    def _fine(self) -> list[dict[str, Any]]:
        return list(_product({name: values for name, values in self._space.items() if name in self._finer}, _STEPS))


def _product(space: Space, steps: int) -> Iterable[dict[str, Any]]:
    """All combinations; a range counts as ``steps`` values."""
    lists = [log_spaced(values, steps) if isinstance(values, Range) else values for values in space.values()]
    return (dict(zip(space, values, strict=True)) for values in itertools.product(*lists))


def _sweep(objective: str, space: Space, trials: int, config: RunConfig, seed: int) -> keras_tuner.Oracle:
    swept = "l2" if config.optimizer == SOLVER else "lr"
    return SweepOracle(objective, space, trials, refine=max(1, trials // 2), seed=seed, swept=swept)


def _grid(objective: str, space: Space, trials: int, config: RunConfig, seed: int) -> keras_tuner.Oracle:
    return GridOracle(objective, space, trials, seed=seed)


def _random(objective: str, space: Space, trials: int, config: RunConfig, seed: int) -> keras_tuner.Oracle:
    return keras_tuner.oracles.RandomSearchOracle(
        objective, max_trials=trials, seed=seed, max_consecutive_failed_trials=trials + 1
    )


def _bayesian(objective: str, space: Space, trials: int, config: RunConfig, seed: int) -> keras_tuner.Oracle:
    return keras_tuner.oracles.BayesianOptimizationOracle(
        objective, max_trials=trials, seed=seed, max_consecutive_failed_trials=trials + 1
    )


def _hyperband(objective: str, space: Space, trials: int, config: RunConfig, seed: int) -> keras_tuner.Oracle:
    return keras_tuner.oracles.HyperbandOracle(
        objective, max_epochs=config.epochs, seed=seed, max_consecutive_failed_trials=10**9
    )


# name -> function of (objective, space, trials, fixed settings, seed of at least 1) that returns the oracle
TUNERS: dict[str, Callable[..., keras_tuner.Oracle]] = {
    "sweep": _sweep,
    "grid": _grid,
    "random": _random,
    "bayesian": _bayesian,
    "hyperband": _hyperband,
}
