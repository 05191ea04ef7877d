import csv
import dataclasses
import json
import os

import numpy as np
import pytest
import tensorflow as tf
from conftest import SHAPE
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tfsoftmax
from tfsoftmax.spec import RunConfig

CONFIG = RunConfig(epochs=3, batch_size=32, lr=0.05)


def train(source, folder, **settings):
    config = dataclasses.replace(CONFIG, **settings)
    data = tfsoftmax.Data(
        source,
        batch_size=config.batch_size,
        val=config.val,
        seed=config.seed,
        preprocess=config.preprocess,
        refit=config.refit,
    )
    return tfsoftmax.train(data, config, folder), data


def history(run):
    with open(run.folder / "history.csv", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def test_run_folder(source, tmp_path):
    run, data = train(source, tmp_path / "run")
    written = ["config.json", "history.csv", "metrics.json", "model.keras", "report", "report.html", "spec.json"]
    assert sorted(os.listdir(run.folder)) == written
    config = json.loads((run.folder / "config.json").read_text())
    noted = {"val": 38, "preprocess": "unit", "data": None, "fingerprint": data.fingerprint, "schedule": "constant"}
    assert config == {**dataclasses.asdict(CONFIG), **noted}, "every setting, and what the data are"
    assert run.spec == data.spec
    rows = history(run)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert set(rows[0]) == {"epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"}
    assert rows[-1]["val_loss"] == pytest.approx(run.metrics["val"]["loss"], abs=1e-5)
    assert run.evaluate("test", data) == run.metrics["test"]
    loss, accuracy = run.model.evaluate(data.test, verbose=0)
    assert run.metrics["test"]["loss"] == pytest.approx(loss, abs=1e-5)
    assert run.metrics["test"]["accuracy"] == pytest.approx(accuracy)


def test_one_seed_one_result(source, tmp_path):
    def made(name, seed):
        run, _ = train(source, tmp_path / name, seed=seed, lr=0.2)
        return [array.tobytes() for array in run.model.get_weights()], (run.folder / "history.csv").read_bytes()

    first, again, other = made("first", 7), made("again", 7), made("other", 8)
    assert first == again
    assert first[0] != other[0]
    assert first[1] != other[1]


def test_config_repeats_a_run(source, tmp_path):
    run, data = train(source, tmp_path / "run", optimizer="adam", lr=0.01, l2=0.001, preprocess="center")
    again = tfsoftmax.train(data, RunConfig.load(run.folder / "config.json", "configuration"), tmp_path / "again")
    assert again.config == run.config


def test_l2_shrinks_and_cosine_falls(source, tmp_path):
    plain, _ = train(source, tmp_path / "plain")
    decayed, _ = train(source, tmp_path / "decayed", l2=1.0)
    assert np.abs(decayed.model.get_weights()[0]).sum() < np.abs(plain.model.get_weights()[0]).sum() / 2
    cosine, _ = train(source, tmp_path / "cosine", schedule="cosine")
    rates = [row["learning_rate"] for row in history(cosine)]
    assert rates == pytest.approx([0.05 * 0.75, 0.05 * 0.25, 0.0], abs=1e-8), "half a cosine, read after each epoch"


def test_early_stopping_keeps_the_best(source, tmp_path):
    run, _ = train(source, tmp_path / "run", epochs=200, patience=2, lr=2.0)
    losses = [row["val_loss"] for row in history(run)]
    best = int(np.argmin(losses))
    assert len(losses) == best + 3 < 200
    assert run.metrics["val"]["loss"] == pytest.approx(losses[best], abs=1e-5)
    assert run.metrics["epochs"] == len(losses)


def test_refit_takes_all_training_rows(source, tmp_path):
    run, data = train(source, tmp_path / "run", refit=True)
    assert run.metrics["val"] is None
    assert "val_loss" not in history(run)[0]
    with pytest.raises(tfsoftmax.InputError, match="has no split 'val'"):
        run.evaluate("val", data)


def test_bfloat16_leaves_a_float32_model(source, tmp_path):
    (run, _), (exact, _) = (train(source, tmp_path / name, precision=name) for name in ("bfloat16", "float32"))
    assert run.model.layers[1].compute_dtype == "float32"
    difference = np.abs(run.model.get_weights()[0] - exact.model.get_weights()[0]).max()
    assert 1e-5 < difference < 0.02


def test_tensorboard_files(source, tmp_path):
    run, _ = train(source, tmp_path / "run", tensorboard=True)
    read = EventAccumulator(str(run.folder / "tensorboard" / "train")).Reload()
    losses = [tf.make_ndarray(event.tensor_proto) for event in read.Tensors("epoch_loss")]
    assert losses == pytest.approx([row["loss"] for row in history(run)])
    (settings,) = read.Tensors("settings")
    assert f"| lr | {run.config.lr} |" in tf.make_ndarray(settings.tensor_proto).item().decode()
    kernel = np.asarray(run.model.get_weights()[0], np.float64)
    template = (kernel - kernel.mean(axis=1, keepdims=True))[:, 1].reshape(SHAPE)
    (event,) = read.Tensors("templates/1 square")
    assert event.step == run.metrics["epochs"]
    width, height, png = tf.make_ndarray(event.tensor_proto)
    assert (int(width), int(height)) == SHAPE[::-1]
    drawn = tf.io.decode_png(png).numpy().astype(int)
    far = abs(template) > abs(template).max() / 2
    assert np.array_equal((drawn[..., 2] > drawn[..., 0])[far], (template > 0)[far]), "blue speaks for the class"


def test_a_loss_that_is_no_number_stops(source, tmp_path):
    with pytest.raises(
        tfsoftmax.TrainingError, match=r"the loss is (nan|inf) in epoch 1 at learning rate 1e\+38.*--lr 0.1"
    ):
        train(source, tmp_path / "run", lr=1e38, momentum=0.9)
    assert not os.listdir(tmp_path)


def test_a_taken_folder_is_refused(source, tmp_path):
    run, data = train(source, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(tfsoftmax.InputError, match=r"run' exists; choose another --out, or pass --overwrite"):
        train(source, run.folder)
    (run.folder / "metrics.json").unlink()
    with pytest.raises(tfsoftmax.InputError, match=r"unfinished run with other settings \(epochs \d, not 4\)"):
        train(source, run.folder, epochs=4)
    with pytest.raises(tfsoftmax.InputError, match="has not finished"):
        tfsoftmax.Run(str(run.folder))
    assert all(
        (run.folder / name).read_bytes() == content for name, content in before.items() if name != "metrics.json"
    )
    again = tfsoftmax.train(data, CONFIG, run.folder)
    assert again.metrics["epochs"] == 3
    assert tfsoftmax.train(data, CONFIG, run.folder, overwrite=True).config == again.config
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("do not lose this")
    with pytest.raises(tfsoftmax.InputError, match="exists and is not a run folder"):
        tfsoftmax.train(data, CONFIG, tmp_path / "other", overwrite=True)


def test_two_processes_in_one_folder(source, tmp_path):
    import fcntl

    with open(tmp_path / ".run.lock", "w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(tfsoftmax.InputError, match="another process is writing"):
            train(source, tmp_path / "run")
    train(source, tmp_path / "run")
    assert os.listdir(tmp_path) == ["run"]


def test_folder_that_cannot_be_written(source, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tfsoftmax.InputError, match="cannot write the folder"):
        train(source, tmp_path / "file" / "run")


def test_config_must_fit_the_data(source, tmp_path):
    data = tfsoftmax.Data(source, batch_size=32)
    with pytest.raises(tfsoftmax.InputError, match="config says batch_size=64 and the data has batch_size=32"):
        tfsoftmax.train(data, dataclasses.replace(CONFIG, batch_size=64), tmp_path / "run")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"lr": -1}, "lr must be a finite number above 0, got -1"),
        ({"lr": float("inf")}, "lr must be a finite number above 0, got inf"),
        ({"momentum": 1.0}, "momentum must be below 1, got 1.0"),
        ({"patience": 0}, "patience must be a whole number of at least 1"),
        ({"patience": 3, "refit": True}, "patience needs validation rows"),
        ({"refit": "yes"}, "refit must be true or false, got 'yes'"),
        ({"optimizer": 3}, "optimizer must be a string, got 3"),
        ({"val": 2.5}, "val must be a number of rows, a share of them"),
    ],
)
def test_bad_config(settings, text):
    with pytest.raises(tfsoftmax.InputError, match=text):
        RunConfig(**settings)


def test_bad_config_files(tmp_path):
    path = tmp_path / "config.json"
    for content, text in [
        ('{"epoch": 3}', "unknown key 'epoch'; known are .*epochs"),
        ("[]", "must hold one JSON object, got list"),
        ("{", "is not JSON"),
    ]:
        path.write_text(content)
        with pytest.raises(tfsoftmax.InputError, match=text):
            RunConfig.load(path, "configuration")
    with pytest.raises(tfsoftmax.InputError, match=r"cannot read configuration .*No such file"):
        RunConfig.load(tmp_path / "nothing.json", "configuration")
