"""What KerasTuner promises its users, kept by LaneTuner: hooks, results of any kind, retries, limits, other compiles.

Expected values come from KerasTuner's own Tuner with the same subclass, or from plain Keras.
"""

import json
import queue
import time

import keras
import keras_tuner
import numpy as np
import pytest

import tfsoftmax
import tuning
from tfsoftmax.fitting.lanes import lane_of
from tuning import workers

SPACE = {"lr": (0.01, 0.1, 0.5)}


@pytest.fixture(scope="module")
def data(source):
    return tfsoftmax.Data(source, batch_size=64, seed=3)


@pytest.fixture(scope="module")
def fit_kwargs(data):
    """The same rows in one order for ever, so that tuners need not agree on the epoch that a trial begins with."""
    rows = data.train.rows
    train = tfsoftmax.Rows(rows.x, rows.y, rows.spec, rows.batch_size).dataset()
    return {"x": train, "validation_data": data.val, "epochs": 3, "verbose": 0}


def both(hooks, data, folder, space=SPACE, objective="val_loss", **settings):
    """Tuners that differ in their base only: ours, KerasTuner's."""
    for base in (tuning.LaneTuner, keras_tuner.Tuner):
        tuner_class = type("Hooked", (hooks, base), {})
        yield tuner_class(
            tuning.GridOracle(objective, space, 2),
            tuning.SoftmaxHyperModel(data, space=space),
            directory=folder,
            project_name=base.__name__,
            **settings,
        )


def outcome(tuner):
    return {name: (trial.status, trial.score, trial.best_step) for name, trial in tuner.oracle.trials.items()}


def assert_same(ours, theirs):
    assert outcome(ours).keys() == outcome(theirs).keys()
    for name, (status, score, step) in outcome(theirs).items():
        got = outcome(ours)[name]
        assert (got[0], got[2]) == (status, step), name
        assert got[1] == (score if score is None else pytest.approx(score, abs=1e-5)), name


def test_default_verbosity(data, fit_kwargs, tmp_path, capsys):
    oracle = keras_tuner.oracles.RandomSearchOracle("val_accuracy", max_trials=3, seed=1)
    tuner = tuning.LaneTuner(oracle, tuning.SoftmaxHyperModel(data, space=SPACE), directory=tmp_path)
    tuner.search(**{name: value for name, value in fit_kwargs.items() if name != "verbose"})
    tuner.results_summary()
    printed = capsys.readouterr().out
    best = max(trial.score for trial in tuner.oracle.trials.values())
    assert printed.count("Best val_accuracy So Far: ") == 3
    assert f"Best val_accuracy So Far: {best}\n" in printed


# how a model is compiled


class Hits(keras.metrics.SparseCategoricalAccuracy):
    """A metric of one's own, which counts double."""

    def result(self):
        return 2 * super().result()


def loss(reduction="sum_over_batch_size"):
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)


COMPILED = {
    "sum": lambda: {"loss": loss("sum"), "metrics": ["accuracy"]},
    "none": lambda: {"loss": loss("none"), "metrics": ["accuracy"]},
    "loss_weights": lambda: {"loss": [loss()], "loss_weights": [3.0], "metrics": ["accuracy"]},
    "own metric": lambda: {"loss": loss(), "metrics": [Hits(name="accuracy")]},
    "renamed metric": lambda: {"loss": loss(), "metrics": [keras.metrics.SparseCategoricalAccuracy(name="hits")]},
    "two metrics": lambda: {
        "loss": loss(),
        "metrics": ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")],
    },
    "eager": lambda: {"loss": loss(), "metrics": ["accuracy"], "run_eagerly": True},
}


@pytest.mark.parametrize("kind", COMPILED)
def test_other_compile_settings_are_trained_alone(data, fit_kwargs, tmp_path, caplog, kind):
    def build(hp):
        model = tfsoftmax.SoftmaxRegression(3)
        model.compile(keras.optimizers.SGD(hp.Choice("lr", [0.01])), **COMPILED[kind]())
        return model

    oracle = tuning.GridOracle("val_loss", {"lr": (0.01,)}, 1)
    tuner = tuning.LaneTuner(oracle, build, directory=tmp_path)
    tuner.search(**fit_kwargs)
    assert "trained alone" in caplog.text
    plain = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, kernel_initializer="zeros")])
    plain.compile(keras.optimizers.SGD(0.01), **COMPILED[kind]() | {"run_eagerly": True})
    expected = plain.fit(**fit_kwargs, shuffle=False).history
    (trial,) = tuner.oracle.trials.values()
    best = int(np.argmin(expected["val_loss"]))
    got = {name: trial.metrics.get_last_value(name) for name in trial.metrics.metrics}
    assert got == pytest.approx({name: values[best] for name, values in expected.items()}, rel=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        {"metrics": [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]},
        {"weighted_metrics": ["accuracy"]},
        {"metrics": ["accuracy"], "jit_compile": False, "steps_per_execution": 2},
    ],
)
def test_what_makes_no_difference_stays_a_lane(data, fit_kwargs, tmp_path, caplog, settings):
    def build(hp):
        model = tfsoftmax.SoftmaxRegression(3)
        model.compile(keras.optimizers.SGD(hp.Choice("lr", [0.01])), loss=loss("mean"), **settings)
        return model

    tuner = tuning.LaneTuner(tuning.GridOracle("val_loss", {"lr": (0.01,)}, 1), build, directory=tmp_path)
    tuner.search(**fit_kwargs)
    assert "trained alone" not in caplog.text
    model = build(keras_tuner.HyperParameters())
    expected = min(model.fit(**fit_kwargs).history["val_loss"])
    assert next(iter(tuner.oracle.trials.values())).score == pytest.approx(expected, abs=1e-5)


def test_no_metrics_is_no_lane():
    model = tfsoftmax.SoftmaxRegression(3)
    model.compile("sgd", loss())
    assert "without metrics" in lane_of(model)


def test_an_optimizer_that_has_taken_steps_is_no_lane(data):
    model = tfsoftmax.SoftmaxRegression(3)
    model.build((None, *data.spec.shape))
    model.optimizer.iterations.assign(5)
    assert "has taken steps" in lane_of(model)


# hooks


class Watching:
    """Takes down what each hook sees; stops the second trial after its second epoch, fails the third."""

    def seen(self, *what):
        self.__dict__.setdefault("events", []).append(what)

    def on_epoch_begin(self, trial, model, epoch, logs=None):
        self.seen("epoch begins", trial.trial_id, epoch)

    def on_epoch_end(self, trial, model, epoch, logs=None):
        kernel = np.asarray(model.layers[1].kernel)
        self.seen("epoch ends", trial.trial_id, epoch, round(float(np.abs(kernel).sum()), 3), round(logs["loss"], 4))
        if trial.trial_id == "0001" and epoch == 1:
            model.stop_training = True
        if trial.trial_id == "0002":
            raise keras_tuner.errors.FailedTrialError("not this one")

    def on_batch_begin(self, trial, model, batch, logs):
        self.seen("batch begins", trial.trial_id, batch)

    def on_batch_end(self, trial, model, batch, logs=None):
        self.seen("batch ends", trial.trial_id, batch)


def test_hooks_inside_a_fit(data, fit_kwargs, tmp_path):
    ours, theirs = both(Watching, data, tmp_path)
    for tuner in (ours, theirs):
        tuner.search(**fit_kwargs)
    assert_same(ours, theirs)
    assert [status for status, *_ in outcome(ours).values()] == ["COMPLETED", "COMPLETED", "FAILED"]
    assert ours.events == theirs.events
    assert {event[0] for event in ours.events} == {"epoch begins", "epoch ends", "batch begins", "batch ends"}
    assert [event[2] for event in ours.events if event[:2] == ("epoch ends", "0001")] == [0, 1]


def test_figures_of_lanes_for_those_who_only_look(data, fit_kwargs, tmp_path, caplog):
    class Looking(tuning.LaneTuner):
        def epoch_ended(self, trial, epoch, logs):
            seen.append((trial.trial_id, epoch, sorted(logs)))

    seen = []
    oracle = tuning.GridOracle("val_loss", {"lr": (0.01, 0.1)}, 2)
    Looking(oracle, tuning.SoftmaxHyperModel(data, space=SPACE), directory=tmp_path).search(**fit_kwargs)
    assert "trained alone" not in caplog.text
    names = ["accuracy", "loss", "val_accuracy", "val_loss"]
    assert seen == [(trial, epoch, names) for epoch in range(3) for trial in ("0000", "0001")]


class ReturnsFloat:
    def run_trial(self, trial, *args, **kwargs):
        return 3.0 + trial.hyperparameters.values["lr"]


class ReturnsDict:
    def run_trial(self, trial, *args, **kwargs):
        return {"val_loss": trial.hyperparameters.Choice("other", [1.5]), "more": 5}


class ReturnsList:
    def run_trial(self, trial, *args, **kwargs):
        return [1.0, np.float32(2.0)]


class OtherArguments:
    def run_trial(self, trial, *args, **kwargs):
        return super().run_trial(trial, *args, **{**kwargs, "epochs": 1})


class OwnFit:
    def _build_and_fit_model(self, trial, *args, **kwargs):
        history = super()._build_and_fit_model(trial, *args, **kwargs)
        return {"val_loss": 10 * min(history.history["val_loss"])}


class Reporting:
    def run_trial(self, trial, *args, **kwargs):
        for step, value in enumerate([4.0, 2.0, 3.0]):
            self.oracle.update_trial(trial.trial_id, {"val_loss": value}, step)


@pytest.mark.filterwarnings("ignore:The use case of calling")
@pytest.mark.parametrize("hooks", [ReturnsFloat, ReturnsDict, ReturnsList, OtherArguments, OwnFit, Reporting])
def test_results_of_any_kind(data, fit_kwargs, tmp_path, hooks):
    space = {"lr": (0.01, 0.1)}
    ours, theirs = both(hooks, data, tmp_path, space)
    for tuner in (ours, theirs):
        tuner.search(**fit_kwargs)
    assert_same(ours, theirs)
    again = next(both(hooks, data, tmp_path, space))
    again._build_and_fit_model = None  # all is known, nothing is trained
    for _ in range(2):
        again.reload()
        assert outcome(again) == outcome(ours)
        again.search(**fit_kwargs)
        assert outcome(again) == outcome(ours)
    for name, trial in again.oracle.trials.items():
        assert trial.hyperparameters.values == ours.oracle.trials[name].hyperparameters.values


def test_failures_are_tried_again(data, fit_kwargs, tmp_path):
    class Flaky(tuning.SoftmaxHyperModel):
        def fit(self, hp, model, *args, **kwargs):
            history = super().fit(hp, model, *args, **kwargs)
            tried.append(hp.values["lr"])
            if history.history and hp.values["lr"] == 0.1 and tried.count(0.1) < 4:
                raise ValueError("a hiccup")
            return min(history.history["val_loss"])

    def search():
        oracle = keras_tuner.oracles.GridSearchOracle("val_loss", max_retries_per_trial=1, seed=1)
        tuner = tuning.LaneTuner(oracle, Flaky(data, space=SPACE), directory=tmp_path)
        tuner.search(**fit_kwargs)
        return outcome(tuner)

    tried = []
    first = search()
    assert {status for status, *_ in first.values()} == {"COMPLETED"}
    assert search() == first


def test_max_model_size(data, fit_kwargs, tmp_path):
    oracle = tuning.GridOracle("val_loss", SPACE, 2)
    tuner = tuning.LaneTuner(oracle, tuning.SoftmaxHyperModel(data, space=SPACE), max_model_size=92, directory=tmp_path)
    tuner.search(**fit_kwargs)
    assert {trial.status for trial in oracle.trials.values()} == {"FAILED"}
    assert oracle.trials["0000"].message == "Oversized model: 93 parameters. Skip model."  # 6 * 5 * 3 + 3
    enough = tuning.LaneTuner(
        tuning.GridOracle("val_loss", SPACE, 2),
        tuning.SoftmaxHyperModel(data, space=SPACE),
        max_model_size=93,
        directory=tmp_path,
        project_name="enough",
    )
    enough.search(**fit_kwargs)
    assert {trial.status for trial in enough.oracle.trials.values()} == {"COMPLETED"}


@pytest.mark.parametrize("base", [tuning.LaneTuner, keras_tuner.Tuner])
def test_a_folder_of_another_oracle_is_refused_at_once(data, fit_kwargs, tmp_path, base):
    hypermodel = tuning.SoftmaxHyperModel(data, space=SPACE)
    oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=1, seed=1)
    base(oracle, hypermodel, directory=tmp_path).search(**fit_kwargs)
    with pytest.raises(RuntimeError, match="pass `overwrite=True`"):
        tuning.LaneTuner(keras_tuner.oracles.HyperbandOracle("val_loss"), hypermodel, directory=tmp_path)
    tuning.LaneTuner(keras_tuner.oracles.HyperbandOracle("val_loss"), hypermodel, directory=tmp_path, overwrite=True)


def test_hyperparameters_first_met_in_fit(data, fit_kwargs, tmp_path):
    class Longer(tuning.SoftmaxHyperModel):
        def fit(self, hp, model, *args, **kwargs):
            kwargs["epochs"] = hp.Choice("length", [1, 2, 3])
            return super().fit(hp, model, *args, **kwargs)

    def values(base):
        oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=3, seed=4)
        tuner = base(oracle, Longer(data, space=SPACE), directory=tmp_path, project_name=base.__name__)
        tuner.search(**fit_kwargs)
        return {name: trial.hyperparameters.values for name, trial in oracle.trials.items()}

    assert values(tuning.LaneTuner) == values(keras_tuner.Tuner)
    kept = json.loads((tmp_path / "LaneTuner/oracle.json").read_text())
    assert "length" in [entry["config"]["name"] for entry in kept["hyperparameters"]["space"]]


# chief and workers


def signs_of_life(oracle, monkeypatch):
    """Returns a function that waits for the next sign of life that names a trial still running, at most 30 s."""
    monkeypatch.setattr(workers, "_BEAT_SECONDS", 0.05)
    heard, get_trial = queue.SimpleQueue(), oracle.get_trial

    def get(trial_id):
        heard.put(trial_id)
        return get_trial(trial_id)

    oracle.get_trial = get

    def wait():
        while not heard.empty():
            heard.get()
        end = time.monotonic() + 30
        while oracle.trials[heard.get(timeout=30)].status != "RUNNING":
            assert time.monotonic() < end, "only trials that have ended are named"

    return wait


def test_a_worker_lives_as_long_as_one_of_its_trials_runs(tmp_path, monkeypatch):
    oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=2, seed=1)
    oracle.verbose = 0
    oracle.hyperparameters.Float("lr", 0.1, 1.0)
    oracle._set_project_dir(tmp_path, "shared")
    wait = signs_of_life(oracle, monkeypatch)
    workers.watch(oracle, timeout=1)
    first, second = (oracle.create_trial(f"worker-{k}") for k in range(2))
    running = [first.trial_id, second.trial_id]
    with workers.heartbeat(oracle, running, active=True):
        oracle.update_trial(first.trial_id, {"val_loss": 1.0})
        first.status = "COMPLETED"
        oracle.end_trial(first)
        running.remove(first.trial_id)
        wait()
    end = time.monotonic() + 30
    while oracle.ongoing_trials:
        assert time.monotonic() < end, "a silent worker keeps its trial"
        time.sleep(0.05)


def test_a_worker_lives_through_the_last_of_its_fits(data, fit_kwargs, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "is_worker", lambda: True)
    oracle = tuning.GridOracle("val_loss", {"lr": (0.01, 0.1)}, 2)
    wait, waited = signs_of_life(oracle, monkeypatch), []

    def slow(y_true, y_pred):
        if not waited:
            waited.append(oracle.trials["0000"].status)
            wait()
            waited.append("heard")
        return loss()(y_true, y_pred)

    def build(hp):  # a lane, and then a model that is trained alone
        model = tfsoftmax.SoftmaxRegression(3)
        alone = hp.Choice("lr", [0.01, 0.1]) == 0.1
        model.compile("sgd", loss=slow if alone else loss(), metrics=["accuracy"], run_eagerly=alone)
        return model

    tuner = tuning.LaneTuner(oracle, build, directory=tmp_path, project_name="shared")
    (tmp_path / "shared" / "lanes").mkdir()  # as a chief does
    tuner.search(**fit_kwargs)
    assert waited == ["COMPLETED", "heard"]
