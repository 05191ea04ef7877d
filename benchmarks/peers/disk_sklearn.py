"""scikit-learn's SGDClassifier, fed random batches of a memory map."""

import json
import resource
import sys
import time

import numpy as np
from sklearn.linear_model import SGDClassifier

case = json.loads(sys.argv[1])
x, y = np.load(f"{case['folder']}/x.npy", mmap_mode="r"), np.load(f"{case['folder']}/y.npy")
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
full = 255 if x.dtype == np.uint8 else 1
model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01)
order, size, done = np.random.default_rng(0).permutation(len(x)), case["batch_size"], 0
model.partial_fit(x[:size].astype(np.float32) / full, y[:size], classes=np.arange(case["classes"]))
begin = time.perf_counter()
while time.perf_counter() - begin < case["limit"] and done + size <= len(x):
    rows = np.sort(order[done : done + size])
    model.partial_fit(x[rows].astype(np.float32) / full, y[rows])
    done += size
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - start
print(json.dumps({"rows_per_second": done / seconds, "peak_mb": peak}))
