"""scikit-learn's LogisticRegression, one penalty after the other, with as few iterations as reach the gap.

The gap is that of the gradient by the kernel alone, which flatters. Seconds are those of the fit that reaches it.
"""

import json
import sys
import time
import warnings

import numpy as np
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


total, gaps, used = 0.0, [], []
for penalty in case["penalties"]:
    for iterations in case["iterations"]:
        tol = case.get("tol", 1e-12)
        model = LogisticRegression(C=1 / (penalty * len(x)), solver=case["solver"], max_iter=iterations, tol=tol)
        begin = time.perf_counter()
        model.fit(x, y)
        seconds, reached = time.perf_counter() - begin, gap(model, penalty)
        if reached <= case["gap"] or seconds > case["limit"]:
            break
    total, gaps, used = total + seconds, [*gaps, reached], [*used, int(np.max(model.n_iter_))]
print(json.dumps({"seconds": total, "gap": max(gaps), "passes": used}))
