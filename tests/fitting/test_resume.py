"""A fit that was stopped anywhere and goes on, against one that nobody disturbed: the same bytes."""

import errno
import logging
import os

import keras
import killed_training
import numpy as np
import pytest
import tensorflow as tf

import tfsoftmax
from tfsoftmax.fitting import resume

EPOCHS = 6


class Stop(Exception):
    """Instead of a kill: nothing after it runs."""


class StopAt(keras.callbacks.Callback):
    """Stops before or after the other callbacks of an epoch's end, as it stands in the list."""

    def __init__(self, epoch):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise Stop


class Counter(keras.callbacks.Callback):
    resumed = ("seen", "best")

    def __init__(self):
        super().__init__()
        self.seen, self.best = [], {"kernel": np.zeros(1)}

    def on_epoch_end(self, epoch, logs=None):
        self.seen.append((epoch, logs["loss"]))
        self.best = {"kernel": self.model.get_weights()[0]}


def fit(source, path=None, stop=None, epochs=EPOCHS, optimizer="adam", patience=2, **other):
    """Weights, optimizer variables, history and what the callbacks know after a fit in which much happens."""
    data = tfsoftmax.Data(source, batch_size=32, seed=other.pop("seed", 1))
    model = tfsoftmax.SoftmaxRegression(3, lr=0.5, optimizer=optimizer)
    early = keras.callbacks.EarlyStopping("val_loss", 1e6 if patience == 2 else 0, patience, restore_best_weights=True)
    slower = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=0.1)
    counter = Counter()
    callbacks = [early, slower, counter]
    if path is not None:
        callbacks.insert(other.pop("place", 1), tfsoftmax.Resume(path))
    if stop is not None:
        callbacks.append(StopAt(stop))
    history = model.fit(data.train, validation_data=data.val, epochs=epochs, callbacks=callbacks, verbose=0)
    arrays = [variable.numpy().tobytes() for variable in model.weights + model.optimizer.variables]
    known = [early.best, early.wait, early.best_epoch, early.stopped_epoch, slower.best, slower.wait]
    seen = [tuple(pair) for pair in counter.seen], counter.best["kernel"].tobytes()
    return arrays, history.epoch, history.history, known, seen


@pytest.mark.parametrize(("place", "patience"), [(0, 2), (3, 20)])
def test_goes_on_with_the_same_bytes(source, tmp_path, place, patience):
    expected = fit(source, patience=patience)
    assert (len(expected[1]) < EPOCHS) == (patience == 2)
    path = tmp_path / "state"
    for stop in sorted((0, 1, 1, len(expected[1]) - 1)):  # 0: before anything was kept; twice 1: nothing new was kept
        with pytest.raises(Stop):
            fit(source, path, stop, place=place, patience=patience)
    assert sorted(os.listdir(tmp_path)) == ["state", "state.before"]
    assert fit(source, path, place=place, patience=patience) == expected
    assert fit(source, path, stop=0, place=place, patience=patience) == expected, "at its end it trains nothing"


def test_more_epochs_go_on(source, tmp_path):
    path = tmp_path / "state"
    fit(source, path, epochs=2, patience=20)
    assert fit(source, path, patience=20) == fit(source, patience=20), "the best weights were restored after 2 epochs"


def test_fewer_epochs_are_refused(source, tmp_path):
    fit(source, tmp_path / "state", epochs=3, patience=20)
    with pytest.raises(tfsoftmax.InputError, match="has 3 epochs already, and 2 are requested; delete it"):
        fit(source, tmp_path / "state", epochs=2, patience=20)


def test_a_learning_rate_that_a_callback_has_set(source, tmp_path):
    """A fit goes on in the process that has begun it, and in a new one."""

    def made():
        return tfsoftmax.SoftmaxRegression(3, lr=0.5)

    def go_on(model, epochs, *others):
        data = tfsoftmax.Data(source, batch_size=32, seed=1)
        slower = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
        state = tfsoftmax.Resume(tmp_path / "state")
        model.fit(data.train, epochs=epochs, callbacks=[state, slower, *others], verbose=0)
        return [array.tobytes() for array in model.get_weights()]

    go_on(same := made(), 2)
    content = (tmp_path / "state").read_bytes()
    found = [go_on(same, 4)]
    (tmp_path / "state").write_bytes(content)
    found.append(go_on(made(), 4))
    (tmp_path / "state").write_bytes(content)
    with pytest.raises(Stop):
        go_on(same := made(), 4, StopAt(2))
    found.append(go_on(same, 4))
    (tmp_path / "state").unlink()
    (tmp_path / "state.before").unlink()
    assert found == [go_on(made(), 4)] * 3


def test_a_torn_state(source, tmp_path, caplog):
    path = tmp_path / "state"
    expected = fit(source, patience=20)
    with pytest.raises(Stop):
        fit(source, path, stop=3, patience=20)
    whole = path.read_bytes()
    for torn in (
        b"",
        whole[:1000],
        whole[:-1],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        whole.replace(b"state", b"slate", 1),
    ):
        path.write_bytes(torn)
        caplog.clear()
        assert resume.read(path)["epoch"] == 2
        assert [record.getMessage() for record in caplog.records] == [
            f"the state {path} is damaged: continuing from the previous one, {path}.before"
        ]
    assert fit(source, path, patience=20) == expected
    path.write_bytes(b"torn")
    resume.before(path).write_bytes(whole[:77])
    with pytest.raises(tfsoftmax.InputError, match=r"state' and '.*before' is damaged; delete it to start over"):
        fit(source, path)


def test_a_state_of_something_else_is_refused(source, tmp_path):
    path = tmp_path / "state"
    fit(source, path, epochs=1)
    content = path.read_bytes()
    with pytest.raises(
        tfsoftmax.InputError, match=r"its optimizer\.class is 'Adam', not 'SGD'; delete it to start over"
    ):
        fit(source, path, optimizer="sgd")
    with pytest.raises(tfsoftmax.InputError, match=r"its data.seed is 1, not 2"):
        fit(source, path, seed=2)
    data = tfsoftmax.Data(source, batch_size=32, seed=1)
    with pytest.raises(tfsoftmax.InputError, match=r"its callbacks.0 is 'EarlyStopping', not None"):
        tfsoftmax.SoftmaxRegression(3, 0.5, optimizer="adam").fit(
            data.train, callbacks=tfsoftmax.Resume(path), verbose=0
        )
    other = tmp_path / "other"
    tfsoftmax.SoftmaxRegression(3).fit(data.train, callbacks=[tfsoftmax.Resume(other)], verbose=0)
    for change, text in (
        ({"num_outputs": 4}, r"layers\.1\.units is 3, not 4"),
        ({"l2": 0.5}, r"layers\.1\.kernel_regularizer\.\w* is None, not .*"),
        ({"lr": 0.2}, r"optimizer\.learning_rate is 0\.1\d*, not 0\.2\d*"),
        ({"momentum": 0.9}, r"optimizer\.momentum is 0\.0, not 0\.9"),
        ({"label_smoothing": 0.1}, r"loss\.class is 'SparseCategoricalCrossentropy', not 'SmoothedCrossentropy'"),
        ({"precision": "bfloat16"}, r"layers\.1\.dtype.* is 'float32', not 'mixed_bfloat16'"),
        ({"decay_steps": 9}, r"optimizer\.learning_rate.* is 0\.1\d*, not None"),
    ):
        model = tfsoftmax.SoftmaxRegression(**{"num_outputs": 3, **change})
        with pytest.raises(tfsoftmax.InputError, match=f"belongs to another fit: its {text}; delete it"):
            model.fit(data.train, epochs=2, callbacks=[tfsoftmax.Resume(other)], verbose=0)
    wide = tf.data.Dataset.from_tensor_slices((np.zeros((9, 7), np.float32), np.zeros(9, np.int32))).batch(3)
    narrow = wide.map(lambda x, y: (x[:, :5], y))
    tfsoftmax.SoftmaxRegression(3).fit(wide, callbacks=[tfsoftmax.Resume(stream := tmp_path / "stream")], verbose=0)
    with pytest.raises(tfsoftmax.InputError, match=r"its variables are \[\(7, 3\), \(3,\).* not \[\(5, 3\), "):
        tfsoftmax.SoftmaxRegression(3).fit(narrow, epochs=2, callbacks=[tfsoftmax.Resume(stream)], verbose=0)
    assert path.read_bytes() == content
    stranger = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3)])
    stranger.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(tfsoftmax.InputError, match=r"Resume works in the fit of a tfsoftmax model"):
        stranger.fit(data.train, callbacks=[tfsoftmax.Resume(path)], shuffle=False, verbose=0)


def test_a_state_that_cannot_be_written(source, tmp_path):
    with pytest.raises(tfsoftmax.InputError, match=r"cannot write the state .*: its folder does not exist"):
        fit(source, tmp_path / "nowhere" / "state", epochs=2)


def test_what_a_state_cannot_keep_is_refused(source, tmp_path):
    class Keeper(keras.callbacks.Callback):
        resumed = ("kept",)
        kept = frozenset({1, 2})

    data = tfsoftmax.Data(source, batch_size=32)
    model, state = tfsoftmax.SoftmaxRegression(3), tfsoftmax.Resume(tmp_path / "state")
    with pytest.raises(tfsoftmax.InputError, match=r"lists and dictionaries; got frozenset"):
        model.fit(data.train, epochs=2, callbacks=[state, Keeper()], verbose=0)
    with pytest.raises(tfsoftmax.InputError, match="remove steps_per_epoch"):
        model.fit(data.train, steps_per_epoch=2, callbacks=[state], verbose=0)
    rows = tfsoftmax.Resume(tmp_path / "state", rows=data.train.rows)
    with pytest.raises(tfsoftmax.InputError, match="remove steps_per_epoch"):
        model.fit(data.train.repeat(), steps_per_epoch=2, callbacks=[rows], verbose=0)
    assert not (tmp_path / "state").exists()


def test_the_order_of_a_stream_is_not_kept(source, tmp_path, caplog, capsys):
    rows = tfsoftmax.Data(source, batch_size=32).train
    for epochs in (1, 2):
        state = tfsoftmax.Resume(tmp_path / "state")
        model = tfsoftmax.SoftmaxRegression(3)
        model.fit(rows.map(lambda x, y: (x, y)), epochs=epochs, callbacks=[state], verbose=epochs)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("tfsoftmax")]
    assert told == [f"the order of the rows is not saved in {state.path}: it must be the same in each epoch"]
    assert f"continuing after epoch 1, from {state.path}\n" in capsys.readouterr().out


def test_data_sets_made_of_the_rows(source, tmp_path, caplog):
    def made(path=None, stop=None):
        data = tfsoftmax.Data(source, batch_size=32)
        model = tfsoftmax.SoftmaxRegression(3, momentum=0.9)
        callbacks = [] if path is None else [tfsoftmax.Resume(path, rows=data.train.rows)]
        if stop is not None:
            callbacks.append(StopAt(stop))
        with caplog.at_level(logging.INFO, "tfsoftmax"):
            model.fit(data.train.map(lambda x, y: (-x, y)), epochs=4, callbacks=callbacks, verbose=0)
        return [array.tobytes() for array in model.get_weights()]

    with pytest.raises(Stop):
        made(tmp_path / "state", stop=2)
    assert made(tmp_path / "state") == made()
    assert "continuing after epoch 2" in caplog.text


def test_a_run_that_is_killed(source, idx_folder, tmp_path):
    command = ["train", "--data", f"idx:{idx_folder}", "--epochs", 3, "--batch-size", 32, "--optimizer", "adam"]
    command += ["--schedule", "cosine", "--patience", 4]
    log = tmp_path / "log"
    trainer = killed_training.Trainer(*command, log=log)
    assert trainer.run(tmp_path / "whole")
    expected = killed_training.content(tmp_path / "whole")
    # in the middle of the state of epoch 2; of history.csv; of the report
    for death in ({"fsync": 6}, {"fsync": 2}, {"fsync": 9}):
        assert not trainer.run(tmp_path / "killed", **death)
    assert (tmp_path / "killed" / "report").is_dir()
    assert not (tmp_path / "killed" / "report.html").exists()
    assert trainer.run(tmp_path / "killed")
    assert killed_training.content(tmp_path / "killed") == expected
    assert log.read_text().count("continuing after epoch 1\n") == 2
    assert sorted(os.listdir(tmp_path)) == ["killed", "log", "tiny", "whole"]


def test_a_full_disk(source, tmp_path, monkeypatch):
    config = tfsoftmax.RunConfig(data="tiny", epochs=2, batch_size=32, momentum=0.9)
    written, fsync, full_at = [], os.fsync, [0]

    def forced(file):
        written.append(file)
        if len(written) == full_at[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    def train(name, full=0):
        written.clear()
        full_at[0] = full
        tfsoftmax.train(tfsoftmax.Data(source, batch_size=32), config, tmp_path / name)
        return killed_training.content(tmp_path / name)

    monkeypatch.setattr(os, "fsync", forced)
    expected = train("whole")
    assert len(written) == 24, "config, spec, twice history and state, model, metrics, 15 figures and tables, the page"
    for full in (*range(1, 10), 24):
        with pytest.raises(tfsoftmax.TfsoftmaxError, match=r"cannot write the .*: No space left on device"):
            train(f"full{full}", full)
        assert not list((tmp_path / f"full{full}").glob(".*")), "nothing half-written is left"
    for full in (1, 6, 7, 8, 9, 24):
        assert train(f"full{full}") == expected, full
