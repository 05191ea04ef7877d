"""Softmax regression in JAX, with Flax for the layer and Optax for loss and optimizer."""

import flax.linen as nn
import given
import jax
import jax.numpy as jnp
import optax

x, y = jnp.asarray(given.x), jnp.asarray(given.y)
x_val, y_val = jnp.asarray(given.x_val), jnp.asarray(given.y_val)
model, optimizer = nn.Dense(10), optax.sgd(given.RATE)
params = {"params": {"kernel": jnp.asarray(given.kernel), "bias": jnp.asarray(given.bias)}}
state = optimizer.init(params)


def mean_loss(params, x, y):
    """Mean cross-entropy of images x and labels y."""
    logits = model.apply(params, x.reshape(len(x), -1))
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


@jax.jit
def update(params, state, rows):
    """One step of gradient descent; returns the new parameters, the optimizer's state and the loss."""
    loss, gradient = jax.value_and_grad(mean_loss)(params, x[rows], y[rows])
    change, state = optimizer.update(gradient, state)
    return optax.apply_updates(params, change), state, loss


def step(rows):
    """One step of gradient descent."""
    global params, state
    params, state, loss = update(params, state, rows)
    return loss


given.train(
    step,
    lambda: mean_loss(params, x_val, y_val),
    lambda: (params["params"]["kernel"], params["params"]["bias"]),
    lambda: jax.block_until_ready(params),
)
