"""A model with the compiled epoch beside the same model fitted Keras's own way, on small made rows."""

import keras
import numpy as np

import tfsoftmax


def made_source(rows=100, shape=(4, 3), classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    x = np.clip(rng.integers(0, 200, (rows, *shape)) + 10 * y.reshape(-1, *[1] * len(shape)), 0, 255).astype(np.uint8)
    return tfsoftmax.Source("made", x, y, x[:classes], y[:classes], range(classes))


def plain(model):
    """The same model without the compiled epoch: what Keras makes of its configuration, step by step."""
    copied = keras.models.clone_model(model)
    optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
    copied.compile(optimizer, model.loss, metrics=["accuracy"], run_eagerly=True)  # nothing to trace
    return copied


def fitted(make_data, make_model, accelerated, **fit):
    """Weights, optimizer state and history after a fit, in the one way or the other."""
    data, model = make_data(), make_model()
    if not accelerated:
        model = plain(model)
        for _ in range(fit.get("initial_epoch", 0)):  # whoever goes through the rows by hand sees the next order
            list(data.train)
    x = fit.pop("x", None)
    held_out = fit.pop("validation", "val")
    fit.setdefault("epochs", 2)
    history = model.fit(
        data.train if x is None else x(data), validation_data=getattr(data, held_out), verbose=0, shuffle=False, **fit
    )
    state = {variable.path.split("/")[-1]: np.asarray(variable) for variable in model.optimizer.variables}
    state.pop("learning_rate", None)
    return {**dict(zip(("kernel", "bias"), model.get_weights(), strict=True)), **state}, history.history


def same(make_data, make_model, ignore=(), **fit):
    ours, theirs = (fitted(make_data, make_model, way, **fit) for way in (True, False))
    assert ours[0].keys() == theirs[0].keys()
    for name, got in ours[0].items():
        if name not in ignore:
            np.testing.assert_allclose(got, theirs[0][name], atol=1e-5, err_msg=name)
    assert np.abs(ours[0]["kernel"]).max() > 1e-3, "it has learnt something"
    assert ours[1].keys() == theirs[1].keys()
    for name, values in ours[1].items():
        np.testing.assert_allclose(values, theirs[1][name], rtol=1e-5, atol=1e-5)  # a loss of 40 has five decimals
