"""Searches whose trials are solved: the optimum of scikit-learn for each penalty, with the certificate beside it."""

import csv
import json

import keras_tuner
import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

import tfsoftmax
import tuning
from tuning import solved

SOLVED = tfsoftmax.RunConfig(optimizer="lbfgs", tol=1e-6)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Wine with noise, so that penalties matter."""
    x, y = load_wine(return_X_y=True)
    path = tmp_path_factory.mktemp("rows") / "wine.npz"
    noise = np.random.default_rng(0).normal(size=x.shape)
    np.savez(path, x=(x / x.std(axis=0) + 2 * noise).astype(np.float32), y=y)
    return path


@pytest.fixture(scope="module")
def data(file):
    return tfsoftmax.load(str(file), val=50)


def test_trials_are_the_optimum_of_their_penalty(data, tmp_path, monkeypatch):
    space = {"l2": tuning.Range(1e-3, 1e-1)}
    found = tuning.search(data, tmp_path / "tune", config=SOLVED, space=space, trials=3)
    np.testing.assert_allclose([row["l2"] for row in found.trials[:3]], [1e-3, 1e-2, 1e-1])
    train, val = ((part.rows.x - data.spec.offset) * data.spec.scale for part in (data.train, data.val))
    for row in found.trials:
        best = LogisticRegression(C=1 / (2 * len(train) * row["l2"]), max_iter=10_000, tol=1e-8)
        best.fit(train, data.train.rows.y)
        for name, x, y in (("loss", train, data.train.rows.y), ("val_loss", val, data.val.rows.y)):
            assert row[name] == pytest.approx(-np.log(best.predict_proba(x)[np.arange(len(y)), y]).mean(), abs=2e-3)
        assert row["val_accuracy"] == pytest.approx(best.score(val, data.val.rows.y), abs=0.021)
        assert row["converged"] is True
        assert 0 <= row["gap"] <= 1e-6
        assert row["passes"] >= 2
    assert found.best.optimizer == "lbfgs"
    lowest = min(found.trials, key=lambda row: row["val_loss"])
    assert found.best.l2 == lowest["l2"]
    kept = json.loads((tmp_path / "tune/trials" / f"trial_{lowest['trial']}" / "trial.json").read_text())
    assert kept["metrics"]["metrics"]["gap"]["observations"][0]["value"] == [lowest["gap"]]
    model = found.tuner.get_best_models()[0]
    assert model.evaluate(data.val, verbose=0, return_dict=True)["accuracy"] == pytest.approx(lowest["val_accuracy"])
    assert (tmp_path / "tune/penalties.png").read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(solved, "optimum", None)  # what has ended is read
    again = tuning.search(data, tmp_path / "tune", config=SOLVED, space=space, trials=3)
    assert [{**row, "seconds": 0} for row in again.trials] == [{**row, "seconds": 0} for row in found.trials]


def test_of_equal_trials_the_one_with_the_lower_loss_is_the_best(tmp_path):
    x, y = load_wine(return_X_y=True)
    rows = tfsoftmax.Data((x / x.std(axis=0)).astype(np.float32), y, val=60)  # separable
    space = {"l2": (0.0, 1e-3), "preprocess": ("center", "standardize")}
    found = tuning.search(rows, tmp_path / "tune", config=SOLVED, space=space, objective="val_accuracy")
    assert [(row["gap"] is None, row["converged"]) for row in found.trials if row["l2"] == 0] == [(True, False)] * 2
    equal = [row for row in found.trials if row["val_accuracy"] == max(row["val_accuracy"] for row in found.trials)]
    assert len(equal) > 1
    (best,) = [row for row in equal if (row["l2"], row["preprocess"]) == (found.best.l2, found.best.preprocess)]
    assert best["val_loss"] == min(row["val_loss"] for row in equal) < max(row["val_loss"] for row in equal)


def test_command_line(file, tfsoftmax_cli, tmp_path):
    out = tmp_path / "tune"
    common = ("tune", "--data", file, "--val", 50, "--optimizer", "lbfgs", "--trials", 2, "--out", out)
    status, text, _ = tfsoftmax_cli(*common, "--space", "l2=0.001:0.1")
    assert status == 0
    assert "converged" in text
    assert "best.json, trials.csv, penalties.png" in text
    assert "curvature" not in text
    with open(out / "trials.csv") as table:
        assert {row["converged"] for row in csv.DictReader(table)} == {"True"}
    status, text, _ = tfsoftmax_cli("train", "--config", out / "best.json", "--refit", "--out", tmp_path / "run")
    assert status == 0
    assert "nats above the lowest one" in text
    for more, why in (
        (("--space", "l2=1e-6:1e2", "--space", "lr=0.1,1"), "lr says nothing to the optimizer 'lbfgs'"),
        (("--space", "batch-size=16,32"), "batch_size says nothing to the optimizer 'lbfgs'"),
        (("--schedule", "cosine"), "schedule says nothing to the optimizer 'lbfgs'"),
        (("--tuner", "hyperband"), "hyperband ends trials after some epochs"),
    ):
        status, _, err = tfsoftmax_cli(*common[:-1], tmp_path / "other", *more)
        assert status == 2
        assert why in err
    assert not (tmp_path / "other").exists()


def test_other_tuners_are_told_that_these_trials_are_not_fitted(data):
    hypermodel = tuning.SoftmaxHyperModel(data, SOLVED)
    assert hypermodel.space == {"l2": tuning.Range(1e-6, 1e2)}
    with pytest.raises(tfsoftmax.InputError, match="solved by tuning"):
        hypermodel.fit(keras_tuner.HyperParameters(), None)
