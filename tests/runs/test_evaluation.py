import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

from tfsoftmax.runs.evaluation import evaluate, wilson


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
