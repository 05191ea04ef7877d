"""PyTorch on a memory map: a loop by hand over random batches, and a DataLoader."""

import json
import os
import resource
import sys
import time
import warnings

import numpy as np
import torch

warnings.simplefilter("ignore")  # the map is read-only
case = json.loads(sys.argv[1])
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
torch.manual_seed(0)
x, y = np.load(f"{case['folder']}/x.npy", mmap_mode="r"), np.load(f"{case['folder']}/y.npy")
start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
full = 255 if x.dtype == np.uint8 else 1
model = torch.nn.Linear(x.shape[1], case["classes"])
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
size = case["batch_size"]


class Map(torch.utils.data.Dataset):
    """Rows of the map."""

    def __len__(self):
        return len(x)

    def __getitem__(self, row):
        return torch.from_numpy(x[row]), y[row]


def batches():
    """The batches of one epoch, in a new order."""
    if case["case"] == "loader":
        yield from torch.utils.data.DataLoader(Map(), batch_size=size, shuffle=True, num_workers=1)
    else:
        for rows in np.array_split(np.random.default_rng(0).permutation(len(x)), len(x) // size):
            picked = np.sort(rows)
            yield torch.from_numpy(x[picked]), torch.from_numpy(y[picked])


done, begin = 0, time.perf_counter()
for batch, labels in batches():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(batch.float() / full), labels).backward()
    optimizer.step()
    done += len(labels)
    if time.perf_counter() - begin > case["limit"]:
        break
seconds = time.perf_counter() - begin
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - start
print(json.dumps({"rows_per_second": done / seconds, "peak_mb": peak}), flush=True)
os._exit(0)  # a loader that is left before its end waits for its worker
