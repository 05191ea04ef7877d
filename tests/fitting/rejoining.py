"""A worker with a script of its own: `python tests/fitting/rejoining.py FOLDER`; the second one kills itself once."""

import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
from replicas import made_data

import tfsoftmax
from tfsoftmax.strategy import again, chief, opened

EPOCHS = 7


class Death(keras.callbacks.Callback):
    def __init__(self, mark):
        super().__init__()
        self.mark = mark

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 4 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def fit(strategy, callbacks):
    data = made_data()
    with strategy.scope():
        model = tfsoftmax.SoftmaxRegression(3, optimizer="adam", lr=0.05)
    model.fit(data.train, validation_data=data.val, epochs=EPOCHS, callbacks=callbacks, verbose=2)
    return model.get_weights()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with again(100) as left:
        strategy = opened("multiworker", left)
        callbacks = [tfsoftmax.Resume(folder / "state")]
        if not chief(strategy):
            callbacks.append(Death(folder / "died"))
        weights = fit(strategy, callbacks)
    if chief(strategy):
        np.savez(folder / "weights.npz", *weights)
