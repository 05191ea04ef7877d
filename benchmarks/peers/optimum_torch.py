"""PyTorch's L-BFGS with its strong Wolfe search, one penalty after the other, until the gap.

The gap is that of the gradient by the kernel alone, which flatters.
"""

import contextlib
import json
import os
import sys
import time

import numpy as np
import torch


class Reached(Exception):
    """The gap is small enough, or the time is over."""


def solve(x: torch.Tensor, y: torch.Tensor, penalty: float, wanted: float, limit: float) -> tuple[float, int]:
    """Minimize until the gap; returns it, and the passes."""
    kernel = torch.zeros((x.shape[1], int(y.max()) + 1), requires_grad=True)
    bias = torch.zeros(kernel.shape[1], requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [kernel, bias], max_iter=10_000, history_size=10, tolerance_grad=0, line_search_fn="strong_wolfe"
    )
    passes, gap, begin = 0, np.inf, time.perf_counter()

    def closure() -> torch.Tensor:
        nonlocal passes, gap
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(x @ kernel + bias, y) + penalty / 2 * (kernel**2).sum()
        loss.backward()
        passes, gap = passes + 1, float((kernel.grad**2).sum() / (2 * penalty))
        if gap <= wanted or time.perf_counter() - begin > limit:
            raise Reached
        return loss

    with contextlib.suppress(Reached):
        optimizer.step(closure)
    return gap, passes


case = json.loads(sys.argv[1])
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
x = torch.from_numpy(np.load(f"{case['folder']}/x.npy"))
y = torch.from_numpy(np.load(f"{case['folder']}/y.npy")).long()
begin, seconds, found = time.perf_counter(), 0.0, []
for penalty in case["penalties"]:
    gap, passes = solve(x, y, penalty, case["gap"], min(case["limit"], case["budget"] - seconds))
    seconds = time.perf_counter() - begin
    if gap <= case["gap"] or seconds < case["budget"] or not found:
        found.append((gap, passes))
    if seconds > case["budget"]:
        break
print(json.dumps({"seconds": seconds, "gap": max(gap for gap, _ in found), "passes": [passes for _, passes in found]}))
