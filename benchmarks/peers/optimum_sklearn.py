"""scikit-learn's LogisticRegression, one penalty after the other, until the gap.

Each solver is ended by the gradient that it computes itself; saga, which computes none, has its default 100 iterations,
or as many as there is time for. The gap is that of the gradient by the kernel alone, which flatters.
"""

import json
import sys
import time
import unittest.mock
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.linear_model._linear_loss import LinearModelLoss

warnings.simplefilter("ignore", ConvergenceWarning)
case = json.loads(sys.argv[1])
x, y = np.load(f"{case['folder']}/x.npy"), np.load(f"{case['folder']}/y.npy")
hot = np.eye(int(y.max()) + 1)[y]


class Ended(Exception):
    """The gap is small enough, or the time is over."""


def made(penalty: float, iterations: int, tol: float) -> LogisticRegression:
    """Not fitted yet."""
    return LogisticRegression(C=1 / (penalty * len(x)), solver=case["solver"], max_iter=iterations, tol=tol)


def watched(penalty: float, limit: float) -> tuple[float, int, bool]:
    """Fit until a gradient has the gap, or to the case's ``tol``; returns gap, gradients, and False out of time."""
    begin, wanted = time.perf_counter(), 0.0 if "tol" in case else case["gap"]
    passes, reached = 0, np.inf
    gradient_of, product_of = LinearModelLoss.loss_gradient, LinearModelLoss.gradient_hessian_product

    def in_time() -> None:
        if time.perf_counter() - begin > limit:
            raise Ended

    def look(gradient: np.ndarray) -> None:
        nonlocal passes, reached
        kernel = gradient.reshape((hot.shape[1], -1), order="F")[:, :-1]
        passes, reached = passes + 1, float((kernel**2).sum() / (2 * penalty))
        if reached <= wanted:
            raise Ended
        in_time()

    def gradient(*given, **settings):  # of lbfgs and newton-cholesky
        value, found = gradient_of(*given, **settings)
        look(found)
        return value, found

    def product(*given, **settings):  # of newton-cg
        found, by_hessian = product_of(*given, **settings)
        look(found)

        def timed(vector):
            in_time()
            return by_hessian(vector)

        return found, timed

    try:
        with unittest.mock.patch.multiple(LinearModelLoss, loss_gradient=gradient, gradient_hessian_product=product):
            made(penalty, 100_000, case.get("tol", 1e-20)).fit(x, y)
    except Ended:
        return reached, passes, reached <= wanted
    return reached, passes, True


def counted(penalty: float, limit: float) -> tuple[float, int, bool]:
    """Fit with 100 iterations, or as many as there is time for; returns gap, iterations, and False out of time."""
    iterations = int(min(100, max(1, limit / one_iteration)))
    model = made(penalty, iterations, 1e-12).fit(x, y)
    logits = x @ model.coef_.T + model.intercept_
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    gradient = x.T @ (p - hot) / len(x) + penalty * model.coef_.T
    return float((gradient**2).sum() / (2 * penalty)), int(np.max(model.n_iter_)), iterations == 100


fit, least = watched, 0.0  # seconds that a fit needs to be begun
if case["solver"] == "saga":
    begin = time.perf_counter()
    made(case["penalties"][0], 1, 1e-12).fit(x, y)
    one_iteration = time.perf_counter() - begin
    fit, least = counted, 100 * one_iteration
found, begin, seconds = [], time.perf_counter(), 0.0
for penalty in case["penalties"]:
    left = min(case["limit"], case["budget"] - seconds)
    if found and left < least:
        break
    gap, passes, done = fit(penalty, left)
    seconds = time.perf_counter() - begin
    if done or seconds < case["budget"] or not found:
        found.append((gap, passes))
    if seconds > case["budget"]:
        break
gaps, used = zip(*found, strict=True)
print(json.dumps({"seconds": seconds, "gap": max(gaps), "passes": used}))
