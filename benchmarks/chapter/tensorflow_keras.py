"""Softmax regression in TensorFlow: Keras for layers, loss and optimizer, a loop of its own."""

import given
import keras
import tensorflow as tf

x, y = tf.constant(given.x), tf.constant(given.y)
x_val, y_val = tf.constant(given.x_val), tf.constant(given.y_val)
model = keras.Sequential([keras.layers.Input((28, 28)), keras.layers.Flatten(), keras.layers.Dense(10)])
model.set_weights([given.kernel, given.bias])
cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
optimizer = keras.optimizers.SGD(given.RATE)
optimizer.build(model.trainable_variables)


@tf.function(reduce_retracing=True)
def update(rows):
    """One step of gradient descent; returns the loss."""
    with tf.GradientTape() as tape:
        loss = cross_entropy(tf.gather(y, rows), model(tf.gather(x, rows)))
    optimizer.apply(tape.gradient(loss, model.trainable_variables))
    return loss


given.train(
    lambda rows: update(tf.constant(rows)), lambda: cross_entropy(y_val, model(x_val)), lambda: model.get_weights()
)
