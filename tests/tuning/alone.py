"""A model trained alone, to compare lanes with."""

import tfsoftmax


def fit_alone(data, epochs, **settings):
    model = tfsoftmax.SoftmaxRegression(len(data.classes), **settings)
    history = model.fit(data.train, validation_data=data.val, epochs=epochs, verbose=0).history
    return model.get_weights(), history
