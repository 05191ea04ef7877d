"""Softmax regression by this package; `order` says in which order its epochs take the rows."""

import time

import given
import keras
import numpy as np

import tfsoftmax


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch until its validation begins."""

    def __init__(self):
        super().__init__()
        self.seconds, self.begin = [], 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.begin = time.perf_counter()

    def on_test_begin(self, logs=None):
        self.seconds.append(time.perf_counter() - self.begin)


data, clock = tfsoftmax.FashionMNIST(batch_size=given.BATCH), Clock()
model = tfsoftmax.SoftmaxRegression(num_outputs=10, lr=given.RATE)
model(np.zeros((1, 28, 28), np.float32))
model.set_weights([given.kernel, given.bias])
history = model.fit(data.train, validation_data=data.val, epochs=len(given.order), callbacks=[clock], verbose=0).history
given.write(clock.seconds, history["loss"], history["val_loss"], *model.get_weights())
