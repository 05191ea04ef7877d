"""More rows than memory: windows over files train to the last bit what the same order trains in memory."""

import json

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from conftest import make_rows
from hypothesis import given

import tfsoftmax
from tfsoftmax.errors import InputError
from tfsoftmax.fitting.lanes import Lane, Lanes
from tfsoftmax.rows import Rows
from tfsoftmax.windows import Plan

COUNT, SHAPE = 700, (6, 5)
X, Y = make_rows(COUNT, 5, SHAPE)
SETTINGS = {"batch_size": 32, "val": 100, "test": 50, "seed": 3}


@pytest.fixture(scope="module", autouse=True)
def small():
    """Windows and blocks of a few rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfsoftmax.windows._BLOCK", 16 * 30)
        yield


@pytest.fixture
def name(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    return f"npy:{tmp_path}"


def load(name, **more):
    return tfsoftmax.load(name, memory=2 * 130 * 30, **{**SETTINGS, **more})  # two windows of four batches


class Fake(list):
    row_bytes, memory = 30, 2 * 130 * 30


@given(
    count=st.integers(1, 900),
    batch=st.integers(1, 200),
    keep=st.floats(0.01, 1),
    seed=st.none() | st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 3),
)
def test_every_row_comes_once_in_whole_batches(count, batch, keep, seed, epoch):
    kept = np.flatnonzero(np.random.default_rng(count).random(count) < keep).astype(np.int32)
    index = kept if 0 < len(kept) < count else None
    rows = count if index is None else len(index)
    plan = Plan.of(Fake(range(count)), index, batch)
    order = plan.order(seed, epoch)
    windows = []
    for number in range(len(order)):
        windows.append(order.taken(number)[order.places(number)])
    assert plan.window % batch == 0
    assert plan.window == batch or plan.window <= 130
    assert [len(window) for window in windows[:-1]] == [plan.window] * (len(windows) - 1)
    found = np.concatenate(windows)
    np.testing.assert_array_equal(np.sort(found), np.arange(rows))
    if seed is None:
        np.testing.assert_array_equal(found, np.arange(rows))
    elif rows > 400:
        assert (found != np.arange(rows)).any()
        other = plan.order(seed, epoch + 1)
        assert (order.taken(0) != other.taken(0)).any()
        assert (order.places(0) != other.places(0)).any()


def test_windows_train_what_the_same_order_trains_in_memory(name):
    data = load(name, class_weight={"0": 3.0})
    rows = data.train.rows
    assert [len(window.order) for window in rows.windows(0)] == [128, 128, 128, 128, 38]
    models = [tfsoftmax.SoftmaxRegression(3, 0.3, momentum=0.5) for _ in range(2)]
    history = models[0].fit(data.train, validation_data=data.val, epochs=3, verbose=0).history
    logs = []
    for epoch in range(3):
        parts = []
        for window in rows.windows(epoch):
            parts.append([np.asarray(part)[window.order] for part in window.tensors("CPU")])
        x, y, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
        ordered = Rows(x, y, rows.spec, 32, weight=weight).dataset()
        val = Rows(data.val.rows.x, data.val.rows.y, rows.spec, 32).dataset()
        logs.append(models[1].fit(ordered, validation_data=val, epochs=1, verbose=0).history)
    for one, other in zip(*(model.get_weights() for model in models), strict=True):
        assert one.tobytes() == other.tobytes()
    assert history == {key: [log[key][0] for log in logs] for key in logs[0]}


def test_a_worker_holds_the_rows_of_its_replicas_only(name):
    """The last of three replicas, which have 11, 11 and 10 rows of 32."""
    rows = load(name).train.rows
    windows = rows.windows(1), rows.windows(1, mine=lambda count, size: np.arange(count) % size >= 22)
    for one, other in zip(*windows, strict=True):
        assert len(other.tensors("CPU")[0]) == 4 * 10
        wanted = np.arange(len(one.order)) % 32 >= 22
        for every, part in zip(one.tensors("CPU")[:2], other.tensors("CPU")[:2], strict=True):
            expected = np.asarray(every)[one.order][wanted]
            np.testing.assert_array_equal(np.asarray(part)[other.order][wanted], expected)


def test_iterating_gives_the_order_of_the_epoch(name):
    data = load(name)
    for epoch in range(2):
        expected = [np.asarray(w.tensors("CPU")[1])[w.order] for w in data.train.rows.windows(epoch)]
        batches = list(data.train)
        np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), np.concatenate(expected))
        assert [len(x) for x, _ in batches] == [32] * 17 + [6]
    assert batches[0][0].numpy().max() <= 1  # preprocessed


def test_batch_by_batch_trains_the_same(name):
    """A callback that needs every batch makes each a call of its own, and may evaluate in the middle of a window."""
    data, weights = load(name), []

    def evaluated(batch, logs):
        if batch == 5:
            model.evaluate(data.val, verbose=0)  # of the fit that runs

    for at_batch in (None, lambda batch, logs: None, evaluated):
        callbacks = [] if at_batch is None else [keras.callbacks.LambdaCallback(on_train_batch_end=at_batch)]
        model = tfsoftmax.SoftmaxRegression(3, 0.3)
        model.fit(data.train, epochs=2, verbose=0, callbacks=callbacks)
        weights.append(model.get_weights()[0])
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-6)
    assert weights[1].tobytes() == weights[2].tobytes()


def test_lanes_train_what_a_model_trains(name):
    data = load(name)
    lanes = [Lane(0.3), Lane(0.05, momentum=0.9)]
    zero = np.zeros((30, 3), np.float32), np.zeros(3, np.float32)
    fit = Lanes(lanes, [zero] * 2, data.train.rows, data.val.rows)
    logs = [fit.epoch(epoch) for epoch in range(2)]
    for k, lane in enumerate(lanes):
        model = tfsoftmax.SoftmaxRegression(3, lane.lr, momentum=lane.momentum)
        history = model.fit(data.train, validation_data=data.val, epochs=2, verbose=0).history
        np.testing.assert_allclose(fit.weights()[k][0], model.get_weights()[0], atol=1e-5)
        for key in ("loss", "accuracy", "val_loss", "val_accuracy"):
            np.testing.assert_allclose([log[key][k] for log in logs], history[key], rtol=1e-5)


def test_a_file_that_goes_ends_the_fit_and_its_return_continues_it(name, tmp_path):
    file = tmp_path / "x.npy"

    class Remove(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                file.rename(tmp_path / "away")

    def fit(data, *callbacks):
        model = tfsoftmax.SoftmaxRegression(3, 0.3, momentum=0.9)
        model.fit(data.train, epochs=4, verbose=0, callbacks=[tfsoftmax.Resume(tmp_path / "state"), *callbacks])
        return [value.tobytes() for value in model.get_weights()]

    whole = fit(load(name))
    (tmp_path / "state").unlink()
    (tmp_path / "state.before").unlink()
    with pytest.raises(InputError, match=r"cannot read '.*x\.npy': No such file or directory"):
        fit(load(name), Remove())
    (tmp_path / "away").rename(file)
    assert fit(load(name)) == whole
    other = tfsoftmax.load(name, memory=4 * 130 * 30, **SETTINGS)  # other windows: another order
    with pytest.raises(InputError, match=r"its data\.checksum is"):
        fit(other)


def test_the_command_line(name, tmp_path, tfsoftmax_cli):
    folder = tmp_path / "run"
    settings = ["--data", name, "--epochs", 2, "--val", 100, "--test", 50, "--batch-size", 32, "--out", folder]
    status, out, error = tfsoftmax_cli("train", *settings, "--memory", "6KiB", "--json")
    assert status == 0, error
    metrics = json.loads(out)
    run = tfsoftmax.Run(folder)
    assert run.config.memory == 6144
    in_memory = tfsoftmax.load(name, **{**SETTINGS, "seed": 0})
    assert run.evaluate(data=in_memory)["loss"] == pytest.approx(metrics["test"]["loss"], rel=1e-6)
    status, out, error = tfsoftmax_cli("evaluate", folder, "--split", "val", "--json")
    assert status == 0, error
    assert json.loads(out)["loss"] == metrics["val"]["loss"]
    status, out, error = tfsoftmax_cli("train", *settings, "--memory", "much")
    assert (status, error) == (2, "error: --memory must be a size such as 64MiB or 2GB, got 'much'\n")


def test_the_optimum_of_rows_in_files_is_that_in_memory(name, monkeypatch):
    monkeypatch.setattr("tfsoftmax.fitting.passes._WINDOW", 256 * 30)
    monkeypatch.setattr("tfsoftmax.fitting.passes._BLOCK", 100)
    stored, held = load(name), tfsoftmax.load(name, **SETTINGS)
    assert stored.train.rows.stored
    one, other = (tfsoftmax.solve(tfsoftmax.SoftmaxRegression(3), data.train, l2=0.01) for data in (stored, held))
    assert one.converged
    np.testing.assert_array_equal(one.kernel, other.kernel)
    np.testing.assert_array_equal(one.bias, other.bias)
    assert one.gap == other.gap
