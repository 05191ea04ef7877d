"""LaneTuner against KerasTuner's own tuners; searches that end well and badly."""

import csv
import io
import json
import shutil
from types import SimpleNamespace

import keras
import keras_tuner
import numpy as np
import pytest
from alone import fit_alone

import tfsoftmax
import tuning
from tfsoftmax.fitting.lanes import Lanes
from tuning.space import parse_space


@pytest.fixture(scope="module")
def data(source):
    return tfsoftmax.Data(source, batch_size=32, seed=3)


# LaneTuner

CONFIG = tfsoftmax.RunConfig(epochs=3)
RATES = {"lr": tuning.Range(0.001, 1.0), "momentum": (0.0, 0.9)}


def unshuffled(data):
    """The same rows in one order for ever, so that tuners need not agree on which epoch a trial begins with."""
    rows = data.train.rows
    return tfsoftmax.Rows(rows.x, rows.y, rows.spec, rows.batch_size).dataset()


def values_of(tuner):
    return {name: trial.hyperparameters.values for name, trial in tuner.oracle.trials.items()}


def test_the_same_as_random_search(data, tmp_path, caplog):
    arguments = {"objective": "val_accuracy", "max_trials": 7, "seed": 5}
    hypermodel = tuning.SoftmaxHyperModel(data, CONFIG, RATES)
    ours = tuning.LaneTuner(
        keras_tuner.oracles.RandomSearchOracle(**arguments), hypermodel, 3, directory=tmp_path, project_name="ours"
    )
    theirs = keras_tuner.RandomSearch(hypermodel, directory=tmp_path, project_name="theirs", **arguments)
    for tuner in (ours, theirs):
        tuner.search(unshuffled(data), validation_data=data.val, epochs=3, verbose=0)
    assert "trained alone" not in caplog.text
    assert values_of(ours) == values_of(theirs)
    for name, trial in theirs.oracle.trials.items():
        assert ours.oracle.trials[name].score == pytest.approx(trial.score, abs=1e-5)
        assert ours.oracle.trials[name].best_step == trial.best_step
    ours.results_summary()
    assert ours.get_best_hyperparameters()[0].values == theirs.get_best_hyperparameters()[0].values
    model = ours.get_best_models()[0]
    assert model.evaluate(data.val, verbose=0, return_dict=True)["accuracy"] == pytest.approx(
        max(trial.score for trial in ours.oracle.trials.values()), abs=1e-5
    )


@pytest.mark.parametrize("name", ["GridSearchOracle", "BayesianOptimizationOracle", "HyperbandOracle"])
def test_other_oracles(data, tmp_path, name):
    size = {"max_epochs": 4, "factor": 2} if "Hyperband" in name else {"max_trials": 6}
    oracle = getattr(keras_tuner.oracles, name)(objective="val_loss", seed=2, **size)
    space = {"lr": (0.01, 0.1, 0.5), "momentum": (0.0, 0.9)} if "Grid" in name else RATES
    tuner = tuning.LaneTuner(oracle, tuning.SoftmaxHyperModel(data, CONFIG, space), 4, directory=tmp_path)
    tuner.search(verbose=0)
    trials = tuner.oracle.trials.values()
    assert {trial.status for trial in trials} == {"COMPLETED"}
    if "Grid" in name:
        assert {tuple(trial.hyperparameters.values.values()) for trial in trials} == {
            (lr, momentum) for lr in space["lr"] for momentum in space["momentum"]
        }
    if "Hyperband" in name:
        later = [trial for trial in trials if trial.hyperparameters.values["tuner/initial_epoch"]]
        assert later
        for trial in later:  # goes on from the weights of its round before
            values = trial.hyperparameters.values
            before = tuner.oracle.trials[values["tuner/trial_id"]]
            assert before.hyperparameters.values["lr"] == values["lr"]
            assert (
                len(tuner.history_of(trial.trial_id)["loss"]) == values["tuner/epochs"] - values["tuner/initial_epoch"]
            )
    else:
        assert len(trials) == 6


def test_executions_go_on_with_the_order(data, tmp_path):
    def averages(executions, project):
        tuner = tuning.LaneTuner(
            tuning.GridOracle("val_loss", {"lr": (0.1, 0.5)}, 2),
            tuning.SoftmaxHyperModel(data, CONFIG, {"lr": (0.1, 0.5)}),
            executions_per_trial=executions,
            directory=tmp_path,
            project_name=project,
        )
        tuner.search(verbose=0)
        return [trial.score for trial in tuner.oracle.trials.values()]

    expected = []
    for _ in range(2):
        model = tfsoftmax.SoftmaxRegression(3, lr=0.1)
        expected.append(model.fit(data.train, validation_data=data.val, epochs=3, verbose=0).history["val_loss"])
    one, two = averages(1, "one"), averages(2, "two")
    assert one[0] == pytest.approx(min(expected[0]), abs=1e-5)
    assert two[0] == pytest.approx(np.mean([min(losses) for losses in expected]), abs=1e-5)


class Stopping(tuning.SoftmaxHyperModel):
    def fit(self, hp, model, *args, **kwargs):
        kwargs["callbacks"] = [*kwargs.get("callbacks", []), keras.callbacks.EarlyStopping(patience=1)]
        return super().fit(hp, model, *args, **kwargs)


class Scoring(tuning.SoftmaxHyperModel):
    def fit(self, hp, model, *args, **kwargs):
        return {"val_loss": super().fit(hp, model, *args, **kwargs).history["val_loss"][-1]}


@pytest.mark.parametrize(
    ("hypermodel", "space", "why"),
    [
        (tuning.SoftmaxHyperModel, {"optimizer": ("sgd", "adam")}, "its optimizer is not SGD"),
        (Stopping, {"lr": (0.01, 0.1)}, "fit is called with callbacks"),
        (Scoring, {"lr": (0.01, 0.1)}, "KeyError"),
    ],
)
def test_what_cannot_be_a_lane_is_trained_by_itself(data, tmp_path, caplog, monkeypatch, hypermodel, space, why):
    def make():
        oracle = tuning.GridOracle("val_loss", space, 2)
        return tuning.LaneTuner(oracle, hypermodel(data, CONFIG, space), directory=tmp_path)

    tuner = make()
    tuner.search(verbose=0)
    assert any(why in record.message for record in caplog.records)
    scores = {name: (trial.score, trial.status) for name, trial in tuner.oracle.trials.items()}
    assert {status for _, status in scores.values()} == {"COMPLETED"}
    tuner.search(verbose=0)
    again = make()
    assert again.get_best_hyperparameters()[0].values in list(values_of(tuner).values())
    with monkeypatch.context() as nothing_is_trained_twice:
        nothing_is_trained_twice.delattr(Lanes, "epoch")
        nothing_is_trained_twice.setattr(keras.Model, "fit", None)
        again.search(verbose=0)
    assert {name: (trial.score, trial.status) for name, trial in again.oracle.trials.items()} == scores


def test_failed_trials_say_why(data, tmp_path):
    space = {"lr": (0.1, 1e30), "l2": (1.0,)}
    tuner = tuning.LaneTuner(
        tuning.GridOracle("val_accuracy", space, 2), tuning.SoftmaxHyperModel(data, CONFIG, space), directory=tmp_path
    )
    tuner.search(verbose=0)
    good, bad = tuner.oracle.trials.values()
    assert (good.status, bad.status) == ("COMPLETED", "FAILED")
    assert bad.message.startswith("diverged: ")


def test_objectives_that_do_not_exist(data, tmp_path):
    oracle = tuning.GridOracle(keras_tuner.Objective("val_f1", "max"), {"lr": (0.1,)}, 1)
    tuner = tuning.LaneTuner(oracle, tuning.SoftmaxHyperModel(data, CONFIG, {"lr": (0.1,)}), directory=tmp_path)
    with pytest.raises(tfsoftmax.InputError, match="'val_f1' is not reported; the metrics are loss, accuracy"):
        tuner.search(verbose=0)


def test_more_lanes_than_memory(data, tmp_path):
    oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=2, seed=1)
    tuner = tuning.LaneTuner(oracle, tuning.SoftmaxHyperModel(data, CONFIG, RATES), 10**9, directory=tmp_path)
    with pytest.raises(tfsoftmax.InputError, match=r"lanes=1000000000 take .* GiB are free; use at most \d+"):
        tuner.search(verbose=0)


def test_a_folder_of_another_search(data, tmp_path):
    def make(objective):
        oracle = keras_tuner.oracles.RandomSearchOracle(objective, max_trials=2, seed=1)
        return tuning.LaneTuner(oracle, tuning.SoftmaxHyperModel(data, CONFIG, RATES), directory=tmp_path)

    make("val_loss").search(verbose=0)
    with pytest.raises(tfsoftmax.InputError, match="holds another search, with objective"):
        make("val_accuracy").search(verbose=0)


# search() and the command line


class Killed(BaseException):
    """What nobody catches."""


def test_a_killed_search_ends_as_an_undisturbed_one(data, tmp_path, monkeypatch):
    trained = []
    epoch = Lanes.epoch

    def counted(self, number):
        trained.append(number)
        if len(trained) == stop:
            raise Killed
        return epoch(self, number)

    monkeypatch.setattr(Lanes, "epoch", counted)

    def search(folder):
        tuning.search(data, folder, config=CONFIG, trials=5, lanes=2)
        return [{**row, "seconds": None} for row in csv.DictReader(io.StringIO((folder / "trials.csv").read_text()))]

    stop = 0
    expected = search(tmp_path / "undisturbed")
    needed, trained[:] = len(trained), []
    for stop in (2, 6, 9):
        trained_before = len(trained)
        with pytest.raises(Killed):
            search(tmp_path / "killed")
        stop += trained_before
    for torn in ("trials/oracle.json", "trials/trial_0001/trial.json"):
        (tmp_path / "killed" / torn).write_text("{")
    stop = 0
    assert search(tmp_path / "killed") == expected
    assert len(trained) < 2 * needed
    assert (tmp_path / "killed/best.json").read_bytes() == (tmp_path / "undisturbed/best.json").read_bytes()
    trained[:] = []
    assert search(tmp_path / "killed") == expected
    assert not trained, "what has ended is read"


def test_a_full_disk(data, tmp_path, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(OSError, match="No space left on device"):
            tuning.search(data, tmp_path / "found", config=CONFIG, trials=2)
    assert len(tuning.search(data, tmp_path / "found", config=CONFIG, trials=2).trials) == 3


def test_search(data, tmp_path):
    untouched = tfsoftmax.Data(data.source, batch_size=32, seed=3)
    untouched.test = None  # the test split is not seen
    found = tuning.search(untouched, tmp_path / "found", config=CONFIG, trials=4)
    rates = [row["lr"] for row in found.trials]
    bound = found.curvature.bound
    np.testing.assert_allclose(rates[:4], bound * np.geomspace(1 / 32, 32, 4), rtol=1e-6)
    best = min(found.trials[:4], key=lambda row: row["val_loss"])["lr"]
    step = 32 ** (2 / 3)
    assert all(best / step < rate < best * step and rate != best for rate in rates[4:])
    assert len(rates) == 6
    assert found.best.lr == min(found.trials, key=lambda row: row["val_loss"])["lr"]
    assert (tmp_path / "found/learning_curves.png").read_bytes().startswith(b"\x89PNG")
    for row in found.trials:  # trials.csv holds what a fit of one's own gives
        _, history = fit_alone(data, 3, lr=row["lr"])
        # above the bound steps overshoot and amplify the rounding, which depends on the processor
        assert row["val_loss"] == pytest.approx(min(history["val_loss"]), abs=1e-5 if row["lr"] <= bound else 1e-3)
        assert row["best_epoch"] == 1 + np.argmin(history["val_loss"])
    assert found.best.epochs == min(found.trials, key=lambda row: row["val_loss"])["best_epoch"]


def test_a_time_budget(data, tmp_path):
    found = tuning.search(
        data, tmp_path / "short", config=tfsoftmax.RunConfig(epochs=10**6), trials=3, lanes=2, minutes=0.03
    )
    assert 1 <= sum(row["status"] == "completed" for row in found.trials) <= 3
    assert 1 <= found.best.epochs < 10**6


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"objective": "val_f1"}, "objective must be one of val_accuracy, val_loss, got 'val_f1'"),
        ({"tuner": "best"}, "tuner must be one of bayesian, grid, hyperband, random, sweep, got 'best'"),
        ({"trials": 0}, "trials must be a whole number of at least 1, got 0"),
        ({"minutes": 0}, "minutes must be a finite number above 0, got 0"),
        ({"lanes": 0}, "lanes must be a whole number of at least 1, got 0"),
        (
            {"space": {"l2": (0.0, 0.1)}},
            "l2 is part of the loss, so losses do not compare",
        ),
        ({"space": {"depth": (1, 2)}}, "a hyperparameter must be one of"),
        ({"space": {"lr": tuning.Range(1.0, 0.1)}}, "the range of lr must be 0 < low < high, got 1 to 0.1"),
        ({"space": {"momentum": (0.5, 1.5)}}, "momentum must be below 1, got 1.5"),
        ({"space": {"lr": ()}}, "the values of lr must be distinct, and at least one"),
    ],
)
def test_wrong_searches(data, tmp_path, change, why):
    with pytest.raises(tfsoftmax.InputError) as error:
        tuning.search(data, tmp_path / "wrong", **{"config": CONFIG, **change})
    assert why in str(error.value)
    assert not (tmp_path / "wrong/trials.csv").exists()


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("lr", "'lr' has no values"),
        ("lr=", "'lr=' has no values"),
        ("lr=a:1", "'a' is not a number"),
        ("lr=1:0.1", "the range of lr must be 0 < low < high"),
        ("momentum=0:0.9", "momentum takes values separated by commas"),
        ("preprocess=none", "must be one of center, standardize, unit"),
        ("batch_size=1.5", "'1.5' is not a whole number"),
        ("lr=nan:1", "the range of lr must be 0 < low < high"),
        ("colour=red", "a hyperparameter must be one of"),
    ],
)
def test_wrong_spaces(entry, why):
    with pytest.raises(tfsoftmax.InputError) as error:
        parse_space([entry])
    assert why in str(error.value)


def test_the_validation_rows_must_be_ones_own(source, tmp_path):
    for settings_ in ({"val": "test"}, {"refit": True}):
        with pytest.raises(tfsoftmax.InputError, match="validation rows of its own"):
            tuning.search(tfsoftmax.Data(source, **settings_), tmp_path / "x")


def test_command_line(tfsoftmax_cli, idx_folder, tmp_path):
    common = ("tune", "--data", f"idx:{idx_folder}", "--epochs", 3, "--trials", 4, "--out", tmp_path / "t")
    status, out, err = tfsoftmax_cli(*common, "--space", "lr=0.001:1", "--space", "preprocess=unit,center")
    assert (status, "trial 0000" in err) == (0, True)
    assert "curvature bound 1/L: learning rate" in out
    assert "best.json, trials.csv, learning_curves.png" in out
    status, _, err = tfsoftmax_cli(*common)
    assert (status, "holds another search, with other space" in err) == (2, True)
    status, out, _ = tfsoftmax_cli(*common, "--overwrite", "--json")
    found = json.loads(out)
    assert status == 0
    assert len(found["trials"]) == 6
    status, out, _ = tfsoftmax_cli(
        "train", "--config", tmp_path / "t/best.json", "--refit", "--out", tmp_path / "run", "--json"
    )
    assert status == 0
    assert json.loads(out)["val"] is None
    assert json.loads((tmp_path / "run/config.json").read_text())["lr"] == found["best"]["config"]["lr"]


def test_tuning_seeds(data, tmp_path):
    def rows(folder, tuner):
        space = {"lr": tuning.Range(0.01, 1.0)}
        tuning.search(data, folder, config=CONFIG, tuner=tuner, trials=5, space=space)
        return [{**row, "seconds": None} for row in csv.DictReader(io.StringIO((folder / "trials.csv").read_text()))]

    for tuner in ("random", "bayesian", "grid"):
        assert rows(tmp_path / f"{tuner}1", tuner) == rows(tmp_path / f"{tuner}2", tuner)
