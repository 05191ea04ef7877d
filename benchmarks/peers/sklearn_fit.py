"""scikit-learn LogisticRegression with as few iterations as reach an accuracy."""

import json
import sys
import time
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

warnings.simplefilter("ignore", ConvergenceWarning)
case = json.loads(sys.argv[1])
x, y, x_test, y_test = (np.load(f"{case['folder']}/{name}.npy") for name in ("x_train", "y_train", "x_test", "y_test"))
x, x_test = (a.reshape(len(a), -1).astype(np.float32) / 255 for a in (x, x_test))
for iterations in (1, 2, 3, 5, 10, 20, 30, 50, 100):
    model = LogisticRegression(solver=case["solver"], max_iter=iterations, random_state=0)
    begin = time.perf_counter()
    model.fit(x, y)
    total, accuracy = time.perf_counter() - begin, model.score(x_test, y_test)
    if accuracy >= case["goal"]:
        break
print(json.dumps({"seconds": [total], "total": total, "accuracy": accuracy, "iterations": iterations}))
