import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

from tfsoftmax.runs.evaluation import evaluate, read_metrics, report, wilson


@pytest.mark.parametrize("seed", range(3))
def test_against_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(200, 4)).astype(np.float32), rng.integers(0, 4, 200)
    result = evaluate(logits, labels, "abcd")
    predicted = logits.argmax(axis=1)
    exps = np.exp(logits.astype(np.float64))
    assert result["loss"] == pytest.approx(log_loss(labels, exps / exps.sum(axis=1, keepdims=True)), rel=1e-9)
    assert result["accuracy"] == accuracy_score(labels, predicted)
    assert result["confusion"] == confusion_matrix(labels, predicted).tolist()
    precision, recall, _, count = precision_recall_fscore_support(labels, predicted)
    assert [row["precision"] for row in result["classes"]] == pytest.approx(precision)
    assert [row["recall"] for row in result["classes"]] == pytest.approx(recall)
    assert [row["count"] for row in result["classes"]] == count.tolist()


def test_mistakes_against_scikit_learn():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(400, 5)), rng.integers(0, 5, 400)
    matrix = confusion_matrix(labels, logits.argmax(axis=1))
    found = evaluate(logits, labels, "abcde")["mistakes"]
    assert len(found) == 20
    assert [row["rows"] for row in found] == sorted((matrix - np.diag(matrix.diagonal())).ravel(), reverse=True)[:20]
    for row in found:
        assert matrix["abcde".index(row["true"]), "abcde".index(row["predicted"])] == row["rows"]


def test_nothing_grows_with_the_square_of_the_classes():
    rng, sizes = np.random.default_rng(0), {}
    for count in (300, 1200):
        names = [f"class {i}" for i in range(count)]
        labels = np.arange(2 * count) % count
        found = evaluate(rng.normal(size=(2 * count, count)).astype(np.float32), labels, names)
        assert found["confusion"] is None
        sizes[count] = len(json.dumps(found))
        text = report(found)
        assert text.startswith(f"the 20 of {count:,} classes that are found least")
        assert len(text.splitlines()) < 50
    assert sizes[1200] < 4.2 * sizes[300]


def test_metrics_of_the_first_versions_are_read(tmp_path):
    rng = np.random.default_rng(1)
    figures = evaluate(rng.normal(size=(90, 3)), rng.integers(0, 3, 90), "abc")
    first = {name: value for name, value in figures.items() if name != "mistakes"}
    (tmp_path / "metrics.json").write_text(json.dumps({"val": None, "test": first, "epochs": 1, "seconds": 1}))
    read = read_metrics(tmp_path / "metrics.json")
    assert [row["rows"] for row in read["test"]["mistakes"]] == [row["rows"] for row in figures["mistakes"]]
    assert read["test"]["confusion"] == figures["confusion"]


def test_a_figure_over_nothing_is_none():
    result = evaluate(np.array([[1.0, 0, 0]]), np.array([1]), "abc")
    assert [(row["precision"], row["recall"]) for row in result["classes"]] == [(0.0, None), (None, 0.0), (None, None)]


def test_loss_of_extreme_logits_is_finite():
    logits = np.array([[3e38, -3e38, 0], [1e4, -1e4, 0], [-3e38, -3e38, -3e38]], np.float32)
    assert evaluate(logits, np.array([0, 0, 0]), "abc")["loss"] == pytest.approx(np.log(3) / 3)
    assert np.isfinite(evaluate(logits, np.array([1, 1, 1]), "abc")["loss"])


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_against_scipy(pair):
    expected = binomtest(*pair).proportion_ci(method="wilson")
    assert wilson(*pair) == pytest.approx((expected.low, expected.high), abs=1e-9)
