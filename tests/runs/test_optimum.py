"""Runs with the optimizer lbfgs: the optimum of scikit-learn, with the certificate wherever people look."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression

import tfsoftmax
from tfsoftmax.runs.folder import STATE
from tfsoftmax.spec import RunConfig


@pytest.mark.parametrize(("load", "c"), [(load_iris, 1.0), (load_breast_cancer, 0.1)])
def test_c_is_scikit_learn_s(load, c, tmp_path, tfsoftmax_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = load(return_X_y=True)
    np.savez("rows.npz", x=x.astype(np.float32), y=y)
    arguments = ["--data", "rows.npz", "--val", "0", "--out", "run", "--optimizer", "lbfgs", "--tol", "1e-9", "--json"]
    status, out, _ = tfsoftmax_cli("train", *arguments, "--C", str(c))
    assert status == 0
    printed = json.loads(out)
    run = tfsoftmax.Run("run")
    rows = run.data().train.rows
    z = (rows.x - run.spec.offset) * run.spec.scale
    best = LogisticRegression(C=c, solver="newton-cg", tol=1e-8, max_iter=10_000).fit(z, rows.y)
    logits = run.model.predict(z.astype(np.float32), verbose=0).astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(p - best.predict_proba(z)).max() < 1e-4
    assert printed["optimum"] == run.metrics["optimum"]
    assert printed["optimum"]["converged"]
    assert 0 <= printed["optimum"]["gap"] <= 1e-9


def test_a_run_that_ends_early_says_so_on_the_screen_and_in_the_card(tmp_path, tfsoftmax_cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x, y = load_iris(return_X_y=True)
    np.savez("rows.npz", x=x.astype(np.float32), y=y)
    arguments = ["--data", "rows.npz", "--optimizer", "lbfgs", "--l2", "0.001", "--passes", "4"]
    status, out, _ = tfsoftmax_cli("train", *arguments, "--out", "run")
    assert status == 0
    assert "not converged: the loss is within" in out
    assert "after all 4 passes" in out
    run = tfsoftmax.Run("run")
    assert run.metrics["optimum"]["converged"] is False
    assert run.metrics["epochs"] == 3
    run.export("export")
    assert "not converged" in (tmp_path / "export" / "README.md").read_text()
    # a run that was killed, before its figures and in its report, is begun again, and ends in the same bytes
    names = ("model.keras", "history.csv", "config.json")
    bytes_ = {name: (tmp_path / "run" / name).read_bytes() for name in names}
    (tmp_path / "run" / "metrics.json").unlink()
    for _ in range(2):
        (tmp_path / "run" / "report.html").unlink()
        assert tfsoftmax_cli("train", *arguments, "--out", "run")[0] == 0
        assert bytes_ == {name: (tmp_path / "run" / name).read_bytes() for name in bytes_}
        assert (tmp_path / "run" / "report.html").exists()
        (tmp_path / "run" / STATE).touch()


@pytest.mark.parametrize("settings", [{"lr": 0.1}, {"momentum": 0.9}, {"patience": 3}, {"label_smoothing": 0.1}])
def test_settings_of_epochs_are_refused(settings):
    with pytest.raises(tfsoftmax.InputError, match=f"{next(iter(settings))} says nothing to the optimizer 'lbfgs'"):
        RunConfig(optimizer="lbfgs", **settings)
