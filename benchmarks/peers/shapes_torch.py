"""PyTorch on cells of the grid: a loop over tensors in memory."""

import json
import os
import sys

import machine
import torch


def run(cell):
    """Measure one cell."""
    rows, labels = (torch.from_numpy(array) for array in machine.made(cell))
    model = torch.nn.Linear(rows.shape[1], cell["classes"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def epoch():
        for picked in torch.randperm(len(rows)).split(cell["batch_size"]):
            batch = rows[picked] if rows.is_floating_point() else rows[picked].float() / 255
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(batch), labels[picked]).backward()
            optimizer.step()

    return machine.measure(epoch)


torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
torch.manual_seed(0)
print(json.dumps({"cells": [run(cell) for cell in json.loads(sys.argv[1])["cells"]]}))
