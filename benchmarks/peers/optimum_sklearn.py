"""scikit-learn's LogisticRegression, one penalty after the other, until the gap.

lbfgs is ended by its own gradient; the others are given as few iterations as reach the gap, and only the fit that does
counts. The gap is that of the gradient by the kernel alone, which flatters.
"""

import json
import sys
import time
import warnings

import numpy as np
import scipy.optimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

warnings.simplefilter("ignore", ConvergenceWarning)
case = json.loads(sys.argv[1])
x, y = np.load(f"{case['folder']}/x.npy"), np.load(f"{case['folder']}/y.npy")
hot = np.eye(int(y.max()) + 1)[y]


def gap(model: LogisticRegression, penalty: float) -> float:
    """The squared gradient by the kernel over twice the penalty."""
    logits = x @ model.coef_.T + model.intercept_
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    gradient = x.T @ (p - hot) / len(x) + penalty * model.coef_.T
    return float((gradient**2).sum() / (2 * penalty))


class Reached(Exception):
    """The gap is small enough, or the time is over."""


def made(penalty: float, iterations: int, tol: float) -> LogisticRegression:
    """Not fitted yet."""
    return LogisticRegression(C=1 / (penalty * len(x)), solver=case["solver"], max_iter=iterations, tol=tol)


def watched(penalty: float) -> tuple[float, float, int]:
    """Fit by L-BFGS until a gradient that it asks for has the gap; returns seconds, gap and passes."""
    begin, passes, reached, minimize = time.perf_counter(), 0, np.inf, scipy.optimize.minimize

    def until(function, start, **settings):
        def watch(weights, *given):
            nonlocal passes, reached
            value, gradient = function(weights, *given)
            kernel = gradient.reshape((hot.shape[1], -1), order="F")[:, :-1]
            passes, reached = passes + 1, float((kernel**2).sum() / (2 * penalty))
            if reached <= case["gap"] or time.perf_counter() - begin > case["limit"]:
                raise Reached
            return value, gradient

        return minimize(watch, start, **settings)

    scipy.optimize.minimize = until
    try:
        made(penalty, 100_000, 1e-20).fit(x, y)
    except Reached:
        pass
    finally:
        scipy.optimize.minimize = minimize
    return time.perf_counter() - begin, reached, passes


def counted(penalty: float) -> tuple[float, float, int]:
    """Fit with more and more iterations until the gap; returns seconds, gap and iterations of the last."""
    for iterations in case["iterations"]:
        model = made(penalty, iterations, case.get("tol", 1e-12))
        begin = time.perf_counter()
        model.fit(x, y)
        seconds, reached = time.perf_counter() - begin, gap(model, penalty)
        if reached <= case["gap"] or seconds > case["limit"]:
            break
    return seconds, reached, int(np.max(model.n_iter_))


fit = watched if case["solver"] == "lbfgs" and "tol" not in case else counted
found, started = [], time.perf_counter()
for penalty in case["penalties"]:
    found.append(fit(penalty))
    if time.perf_counter() - started > case.get("budget", np.inf):
        break
seconds, gaps, used = zip(*found, strict=True)
print(json.dumps({"seconds": sum(seconds), "gap": max(gaps), "passes": used}))
