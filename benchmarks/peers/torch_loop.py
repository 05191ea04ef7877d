"""PyTorch: a loop over tensors in memory, and over a DataLoader."""

import json
import os
import sys
import time

import numpy as np
import torch

case = json.loads(sys.argv[1])
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
torch.manual_seed(0)
x = torch.from_numpy(np.load(case["folder"] + "/x_train.npy"))
y = torch.from_numpy(np.load(case["folder"] + "/y_train.npy")).long()
x = x.reshape(len(x), -1).float() / 255
model = torch.nn.Linear(x.shape[1], 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=256, shuffle=True)


def batches():
    """The batches of one epoch, in a new order."""
    if case["case"] == "loader":
        yield from loader
    else:
        for rows in torch.randperm(len(x)).split(256):
            yield x[rows], y[rows]


seconds = []
for _ in range(case["epochs"]):
    begin = time.perf_counter()
    for batch, labels in batches():
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch), labels).backward()
        optimizer.step()
    seconds.append(time.perf_counter() - begin)
print(json.dumps({"seconds": seconds, "torch": torch.__version__}))
