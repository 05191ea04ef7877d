"""Calibration against scikit-learn, SciPy and figures by hand; and all the way into an export."""

import json

import numpy as np
import onnxruntime
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.metrics import brier_score_loss

import tfsoftmax
from tfsoftmax.errors import InputError
from tfsoftmax.runs.calibration import temperature
from tfsoftmax.runs.evaluation import evaluate, probabilities


def sample(seed, sharp=1.0, rows=500, classes=4):
    """Logits, and labels that are drawn from the softmax of ``logits / sharp``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(rows, classes)) * 3
    labels = np.array([rng.choice(classes, p=p) for p in softmax(logits / sharp, axis=1)])
    return logits.astype(np.float32), labels


@pytest.mark.parametrize("seed", range(3))
def test_brier_score_against_scikit_learn(seed):
    logits, labels = sample(seed)
    probability = softmax(logits.astype(np.float64), axis=1)
    expected = brier_score_loss(labels, probability, scale_by_half=False)
    assert evaluate(logits, labels, "abcd")["brier"] == pytest.approx(expected, abs=1e-9)


def test_calibration_error_by_hand():
    """Confidences 0.9, 0.9 and 0.6, right, wrong and right: |0.9 - 0.5| for two rows, |0.6 - 1| for one."""
    logits = np.log([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
    found = evaluate(iter((logits[:1], logits[1:])), np.array([0, 0, 0]), "ab")  # in parts
    assert found["calibration_error"] == pytest.approx((2 * 0.4 + 0.4) / 3, abs=1e-9)
    assert found["reliability"] == [
        {"rows": 1, "confidence": pytest.approx(0.6), "accuracy": 1.0},
        {"rows": 2, "confidence": pytest.approx(0.9), "accuracy": 0.5},
    ]
    assert found["brier"] == pytest.approx((2 * 0.01 + 2 * 0.81 + 2 * 0.16) / 3, abs=1e-9)


@given(st.integers(0, 100), st.sampled_from([0.3, 1.0, 4.0]), st.booleans())
def test_temperature_against_scipy(seed, sharp, weighted):
    logits, labels = sample(seed, sharp, rows=60)
    weights = np.random.default_rng(seed).uniform(0, 2, len(labels)).astype(np.float32) if weighted else None

    def loss(log_t):
        each = -log_softmax(logits.astype(np.float64) / np.exp(log_t), axis=1)[np.arange(len(labels)), labels]
        return np.average(each, weights=weights)

    best = minimize_scalar(loss, bounds=(-6, 6), method="bounded", options={"xatol": 1e-9}).x
    found = temperature(logits, labels, weights)
    assert loss(np.log(found)) <= loss(best) + 1e-9
    assert found == pytest.approx(np.exp(best), rel=1e-2)


def test_temperature_at_the_ends():
    logits = np.eye(3, dtype=np.float32)
    assert temperature(logits, np.arange(3)) == pytest.approx(1e-3)  # all right: as sure as can be
    assert temperature(logits, (np.arange(3) + 1) % 3) == pytest.approx(1e3)  # all wrong
    assert np.isfinite(temperature(logits * 3e38, np.arange(3)))


def test_figures_at_the_temperature():
    logits, labels = sample(5, sharp=3.0)
    found = evaluate(logits, labels, "abcd", temperature=temperature(logits, labels))
    calibrated = found["calibrated"]
    assert calibrated["temperature"] == pytest.approx(3, rel=0.2)  # what the labels were drawn at
    assert calibrated["calibration_error"] < 0.3 * found["calibration_error"]
    assert calibrated["loss"] < found["loss"]
    assert calibrated["brier"] < found["brier"]
    first, second = probabilities(found).splitlines()
    assert first.startswith(f"as trained: log-loss {found['loss']:.4f}   Brier score {found['brier']:.4f}")
    assert second.startswith(f"at temperature {calibrated['temperature']:.4g}: log-loss {calibrated['loss']:.4f}")


def test_an_export_is_calibrated(finished, tmp_path, tfsoftmax_cli):
    """The same classes, and the probabilities of the temperature that makes validation rows likeliest."""
    run, done = finished
    val = run.data().val
    logits = run.model.predict(val, verbose=0)
    status, _, err = tfsoftmax_cli("export", run.folder, "--to", tmp_path / "calibrated", "--calibrated")
    assert status == 0, err
    files = [folder / "model.onnx" for folder in (done.folder, tmp_path / "calibrated" / "1")]
    plain, cooled = (onnxruntime.InferenceSession(file).run(None, {"image": val.rows.x})[0] for file in files)
    expected = temperature(logits, val.rows.y)
    np.testing.assert_allclose(cooled * expected, plain, atol=1e-5)
    np.testing.assert_array_equal(cooled.argmax(axis=1), plain.argmax(axis=1))
    manifest = json.loads((tmp_path / "calibrated" / "1" / "manifest.json").read_text())
    assert manifest["metrics"]["temperature"] == pytest.approx(expected)
    assert manifest["metrics"]["test"]["loss"] == run.metrics["test"]["calibrated"]["loss"]
    card = (tmp_path / "calibrated" / "README.md").read_text()
    assert f"- Calibrated: the logits are divided by the temperature {expected:.4g}, fitted on the validation" in card
    status, out, _ = tfsoftmax_cli("evaluate", run.folder)
    assert f"at temperature {expected:.4g}: log-loss {run.metrics['test']['calibrated']['loss']:.4f}" in out


def test_no_temperature_without_validation_rows(source, tmp_path):
    data = tfsoftmax.Data(source, batch_size=32, val=0)
    run = tfsoftmax.train(data, tfsoftmax.RunConfig(epochs=1, batch_size=32, val=0), tmp_path / "run")
    assert "calibrated" not in run.metrics["test"]
    with pytest.raises(InputError, match="has no temperature: it had no validation rows of its own"):
        run.export(tmp_path / "export", data=data, calibrated=True)


def test_unsure_answers_are_refused(finished, tmp_path, tfsoftmax_cli, source):
    _, done = finished
    np.save(tmp_path / "rows.npy", source.x_test[:20])
    shares = tfsoftmax.Predictor(done.folder)(source.x_test[:20])["probabilities"].max(axis=1)
    limit = float(np.median(shares))
    arguments = ["predict", done.folder, tmp_path / "rows.npy", "--refuse-below", limit]
    rows = json.loads(tfsoftmax_cli(*arguments, "--json")[1])["predictions"]
    assert [row["label"] is None for row in rows] == (shares < limit).tolist()
    assert all(row["label"] in (None, row["top"][0]["label"]) for row in rows)
    text = tfsoftmax_cli(*arguments)[1].splitlines()
    assert [" refused: " in line for line in text] == (shares < limit).tolist()
    assert tfsoftmax_cli(*arguments[:-1], 1.0, "--to", tmp_path / "none.parquet")[0] == 0
    assert pyarrow.parquet.read_table(tmp_path / "none.parquet")["label"].to_pylist() == [None] * 20
    lines = tfsoftmax_cli(*arguments, "--csv")[1].splitlines()[1:]
    assert [line.split(",")[1] == "" for line in lines] == (shares < limit).tolist()
