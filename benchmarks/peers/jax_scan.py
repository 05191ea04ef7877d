"""JAX: a whole epoch in one `lax.scan`, rows and order on the device."""

import json
import sys
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

case = json.loads(sys.argv[1])
x = np.load(case["folder"] + "/x_train.npy")
x, y = jnp.asarray(x.reshape(len(x), -1)), jnp.asarray(np.load(case["folder"] + "/y_train.npy"))


def loss(weights, batch, labels):
    """Mean cross-entropy of a batch."""
    logits = batch @ weights[0] + weights[1]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()


def step(weights, rows):
    """One step of SGD."""
    batch = x[rows].astype(jnp.float32) / 255
    value, gradient = jax.value_and_grad(loss)(weights, batch, y[rows])
    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradient), value


@partial(jax.jit, donate_argnums=0)
def epoch(weights, order):
    """All full batches in a scan, then the smaller last one."""
    full = len(order) // 256 * 256
    weights, _ = jax.lax.scan(step, weights, order[:full].reshape(-1, 256))
    return step(weights, order[full:])[0]


weights, rng, seconds = (jnp.zeros((x.shape[1], 10)), jnp.zeros(10)), np.random.default_rng(0), []
for _ in range(case["epochs"]):
    begin = time.perf_counter()
    weights = jax.block_until_ready(epoch(weights, jnp.asarray(rng.permutation(len(x)))))
    seconds.append(time.perf_counter() - begin)
print(json.dumps({"seconds": seconds, "jax": jax.__version__}))
