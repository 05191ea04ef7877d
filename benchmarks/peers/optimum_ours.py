"""tfsoftmax.solve until the gap: one penalty or several, twice, the first time with all that compiles."""

import json
import sys
import time

import numpy as np

import tfsoftmax
from tfsoftmax.fitting.solver import optimum

case = json.loads(sys.argv[1])
x, y = np.load(f"{case['folder']}/x.npy"), np.load(f"{case['folder']}/y.npy")
rows = tfsoftmax.Data(x, y, val=0, test=1, preprocess="unit").train.rows
rows.index = None
seconds = []
for _ in range(case["times"]):
    begin = time.perf_counter()
    found = optimum(rows, int(y.max()) + 1, [value / 2 for value in case["penalties"]], tol=case["gap"], passes=5000)
    seconds.append(time.perf_counter() - begin)
gaps, passes = [one.gap for one in found], [one.passes for one in found]
print(json.dumps({"seconds": min(seconds), "first": seconds[0], "gap": max(gaps), "passes": passes}))
