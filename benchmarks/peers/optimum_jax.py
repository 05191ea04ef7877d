"""JAX: optax's L-BFGS with its zoom line search, one penalty after the other, until the gap.

The gap is that of the gradient by the kernel alone, which flatters. Passes are those of the line searches.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

case = json.loads(sys.argv[1])
x, y = jnp.asarray(np.load(f"{case['folder']}/x.npy")), jnp.asarray(np.load(f"{case['folder']}/y.npy"))
optimizer = optax.lbfgs(memory_size=10)


def objective(weights, penalty, x, y):
    """Mean cross-entropy and penalty."""
    kernel, bias = weights
    losses = optax.softmax_cross_entropy_with_integer_labels(x @ kernel + bias, y)
    return losses.mean() + penalty / 2 * (kernel**2).sum()


@jax.jit
def step(weights, state, penalty, x, y):
    """One step, its passes, and the gap where it began."""
    value, gradient = optax.value_and_grad_from_state(objective)(weights, penalty, x, y, state=state)
    updates, state = optimizer.update(
        gradient, state, weights, value=value, grad=gradient, value_fn=lambda w: objective(w, penalty, x, y)
    )
    searched = optax.tree_utils.tree_get(state, "info").num_linesearch_steps
    return optax.apply_updates(weights, updates), state, searched, (gradient[0] ** 2).sum() / (2 * penalty)


gaps, used, begin, seconds = [], [], time.perf_counter(), 0.0
for penalty in case["penalties"]:
    limit = min(case["limit"], case["budget"] - seconds)
    weights = jnp.zeros((x.shape[1], int(y.max()) + 1)), jnp.zeros(int(y.max()) + 1)
    state, passes, gap, started = optimizer.init(weights), 1, np.inf, time.perf_counter()
    while gap > case["gap"] and time.perf_counter() - started <= limit:
        weights, state, searched, gap = step(weights, state, penalty, x, y)
        passes, gap = passes + int(searched), float(gap)
    seconds = time.perf_counter() - begin
    if gap <= case["gap"] or seconds < case["budget"] or not gaps:
        gaps, used = [*gaps, gap], [*used, passes]
    if seconds > case["budget"]:
        break
print(json.dumps({"seconds": seconds, "gap": max(gaps), "passes": used}))
