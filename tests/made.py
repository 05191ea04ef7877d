"""Models that no training made."""

import numpy as np

import tfsoftmax


def model_of(spec):
    """A softmax regression for ``spec`` with weights of a standard normal distribution, seed 0."""
    model = tfsoftmax.SoftmaxRegression(len(spec.classes))
    model.build((None, *spec.features))
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model
