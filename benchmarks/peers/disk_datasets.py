"""Hugging Face datasets: an Arrow file, shuffled indices, batches in the torch format."""

import json
import os
import resource
import sys
import time

import datasets
import numpy as np
import torch

case = json.loads(sys.argv[1])
datasets.disable_progress_bars()
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
torch.manual_seed(0)
x, y = np.load(f"{case['folder']}/x.npy", mmap_mode="r"), np.load(f"{case['folder']}/y.npy")
count, size = min(len(x), 50_000), case["batch_size"]
full = 255 if x.dtype == np.uint8 else 1
kind = datasets.Sequence(datasets.Value(x.dtype.name), length=x.shape[1])
features = datasets.Features({"x": kind, "y": datasets.Value("int64")})
datasets.Dataset.from_dict({"x": x[:count], "y": y[:count]}, features=features).save_to_disk(f"{case['folder']}/arrow")
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
rows = datasets.load_from_disk(f"{case['folder']}/arrow").shuffle(seed=0).with_format("torch")
model = torch.nn.Linear(x.shape[1], case["classes"])
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
done, begin = 0, time.perf_counter()
for batch in rows.iter(batch_size=size):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(batch["x"].float() / full), batch["y"]).backward()
    optimizer.step()
    done += len(batch["y"])
    if time.perf_counter() - begin > case["limit"]:
        break
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - start
print(json.dumps({"rows_per_second": done / seconds, "peak_mb": peak}))
