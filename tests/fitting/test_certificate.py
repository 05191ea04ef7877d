"""The duality gap against scikit-learn's optimum in float64: the real distance is never above it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from tfsoftmax.fitting.certificate import bounds
from tfsoftmax.fitting.passes import Moments, Totals


def objective(x, y, weight, kernel, bias, penalty):
    logits = x @ kernel + bias
    top = logits.max(axis=1, keepdims=True)
    exps = np.exp(logits - top)
    losses = np.log(exps.sum(axis=1)) + top[:, 0] - logits[np.arange(len(y)), y]
    residuals = (exps / exps.sum(axis=1, keepdims=True) - np.eye(logits.shape[1])[y]) * weight[:, None]
    value = (weight * losses).mean() + penalty / 2 * (kernel**2).sum()
    normalizer = (exps / exps.sum(axis=1, keepdims=True)).T @ ((np.log(exps.sum(axis=1)) + top[:, 0]) * weight) / len(y)
    return value, residuals / len(y), (weight * losses).mean(), np.abs(logits).max(), normalizer


@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    power=st.floats(-5, 2),
    away=st.floats(-9, 1),
    tilt=st.floats(-9, 0),
    spread=st.floats(-2, 2),
)
def test_the_distance_to_the_optimum_is_at_most_the_gap(seed, power, away, tilt, spread):
    rng = np.random.default_rng(seed)
    rows, features, classes = int(rng.integers(20, 60)), int(rng.integers(1, 5)), int(rng.integers(3, 5))
    x = rng.normal(size=(rows, features)) * 10**spread
    x -= 0.1 * rng.normal(size=features)  # the centre need not be exact
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    weight = rng.uniform(0.1, 3, rows)
    penalty = 10**power
    best = LogisticRegression(C=1 / (penalty * rows), solver="newton-cholesky", tol=1e-12, max_iter=1000)
    best.fit(x, y, sample_weight=weight)
    lowest = objective(x, y, weight, best.coef_.T, best.intercept_, penalty)[0]

    kernel = best.coef_.T + 10**away * rng.normal(size=(features, classes))
    bias = best.intercept_ + 10**tilt * rng.normal(size=classes)
    value, residuals, loss, largest, normalizer = objective(x, y, weight, kernel, bias, penalty)
    sums = np.array(loss), x.T @ residuals, residuals.sum(axis=0), normalizer
    totals = Totals(*sums, np.zeros(()), np.array(largest))
    hot = np.eye(classes)[y] * weight[:, None] / rows
    moments = Moments(hot.sum(axis=0), x.T @ hot, np.array((weight * (x**2).sum(axis=1)).mean()))
    lower, upper = bounds(penalty, kernel, bias, totals, moments, rows)
    assert lower <= lowest
    assert value <= upper


def test_without_a_gradient_by_the_bias_the_gap_is_the_squared_gradient_over_twice_the_penalty():
    rng = np.random.default_rng(0)
    x, y, penalty = rng.normal(size=(90, 4)), np.arange(90) % 3, 0.1
    x -= x.mean(axis=0)
    kernel, bias, weight = rng.normal(size=(4, 3)), np.zeros(3), np.ones(90)
    for _ in range(100):  # Newton by the bias
        logits = x @ kernel + bias
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        residual = (p - np.eye(3)[y]).mean(axis=0)
        hessian = np.diag(p.mean(axis=0)) - p.T @ p / 90
        bias = bias - np.linalg.pinv(hessian) @ residual
    value, residuals, loss, largest, normalizer = objective(x, y, weight, kernel, bias, penalty)
    gradient = x.T @ residuals
    hot = np.eye(3)[y] / 90
    totals = Totals(np.array(loss), gradient, residuals.sum(axis=0), normalizer, np.zeros(()), np.array(largest))
    moments = Moments(hot.sum(axis=0), x.T @ hot, np.array((x**2).sum(axis=1).mean()))
    lower, upper = bounds(penalty, kernel, bias, totals, moments, 90)
    slope = np.linalg.norm(gradient + penalty * kernel)
    np.testing.assert_allclose(upper - lower, slope**2 / (2 * penalty), rtol=1e-9)
    np.testing.assert_allclose(upper, value, rtol=1e-9)


def test_one_class_of_many_whose_bias_is_off_costs_no_more_than_it_has_too_much():
    rng = np.random.default_rng(0)
    x, y, weight, penalty = rng.normal(size=(500, 5)), np.arange(500) % 50, np.ones(500), 1e3
    x -= x.mean(axis=0)
    kernel, bias = np.zeros((5, 50)), np.zeros(50)
    best = objective(x, y, weight, kernel, bias, penalty)[0]  # about: so heavy a penalty allows no weights
    bias[0] = 0.1
    value, residuals, loss, largest, normalizer = objective(x, y, weight, kernel, bias, penalty)
    sums = np.array(loss), x.T @ residuals, residuals.sum(axis=0), normalizer
    hot = np.eye(50)[y] / 500
    moments = Moments(hot.sum(axis=0), x.T @ hot, np.array((x**2).sum(axis=1).mean()))
    lower, _ = bounds(penalty, kernel, bias, Totals(*sums, np.zeros(()), np.array(largest)), moments, 500)
    assert value > best
    assert value - lower < 3 * (value - best)
