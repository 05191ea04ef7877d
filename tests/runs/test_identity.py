"""A run knows its data: other data are never taken for them."""

import json

import numpy as np
import pytest
from conftest import CLASSES, make_rows, write_idx_folder

import tfsoftmax
import tuning

SETTINGS = {"epochs": 3, "batch_size": 32, "preprocess": "center"}


@pytest.fixture(scope="module")
def made_in_python(source, tmp_path_factory):
    """Data, run and search of rows made in Python."""
    folder = tmp_path_factory.mktemp("python")
    data = tfsoftmax.Data(source, batch_size=32, preprocess="center")
    config = tfsoftmax.RunConfig(**SETTINGS)
    space = {"lr": (0.01, 0.1)}
    found = tuning.search(data, folder / "tune", config=config, space=space, tuner="grid", trials=2)
    return data, tfsoftmax.train(data, config, folder / "run"), found


def one_line(err):
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_rows_made_in_python_are_not_taken_for_others(made_in_python, tfsoftmax_cli, tmp_path):
    _, run, found = made_in_python
    assert json.loads((run.folder / "config.json").read_text())["data"] is None
    for command in (("evaluate", run.folder), ("export", run.folder, "--to", tmp_path / "export")):
        status, out, err = tfsoftmax_cli(*command)
        assert (status, out) == (2, "")
        assert "names no data set (its rows were made in Python)" in one_line(err)
        assert f"tfsoftmax.Run({str(run.folder)!r}).evaluate(data=…)" in err
    best = found.folder / "best.json"
    status, _, err = tfsoftmax_cli("train", "--config", best, "--out", tmp_path / "run")
    assert status == 2
    assert "best.json' names no data set" in one_line(err)
    assert "--data" in err
    assert not list(tmp_path.iterdir())


def test_data_may_be_passed(made_in_python, tmp_path):
    data, run, found = made_in_python
    assert run.config.fingerprint == found.best.fingerprint == data.fingerprint
    opened = tfsoftmax.Run(run.folder)
    for split in ("test", "val"):
        assert opened.evaluate(split, data) == run.metrics[split]
    other = tfsoftmax.Data(data.source, batch_size=7, val=3, seed=9)
    assert opened.evaluate("val", other) == run.metrics["val"], "the split of the run, not that of the data given"
    done = opened.export(tmp_path / "export", data=other)
    assert done.parity[0]["model_accuracy"] == pytest.approx(run.metrics["val"]["accuracy"])
    manifest = json.loads((done.folder / "manifest.json").read_text())
    assert run.spec.fingerprint == manifest["spec"]["fingerprint"] == data.fingerprint
    assert run.spec == data.spec
    again = tfsoftmax.train(tfsoftmax.Data(data.source, **_split(found.best)), found.best, tmp_path / "best")
    assert again.config == found.best


def _split(config):
    return {name: getattr(config, name) for name in ("batch_size", "val", "seed", "preprocess", "refit")}


def test_new_rows_are_preprocessed_as_in_training(made_in_python):
    data, run, _ = made_in_python
    (x, y), (x_test, y_test) = make_rows(60, 5), make_rows(40, 6)
    new = tfsoftmax.Data(tfsoftmax.Source("new", 255 - x, y, x_test, y_test, CLASSES))
    kernel, bias = run.model.get_weights()
    mean = data.train.rows.x.reshape(-1, 30).mean(axis=0)
    right = ((x_test.reshape(-1, 30) - mean) / 255 @ kernel + bias).argmax(axis=1) == y_test
    assert run.evaluate("test", new)["accuracy"] == pytest.approx(right.mean())
    with pytest.raises(tfsoftmax.InputError, match=r"validation rows of the run in .* are in its own data alone"):
        run.evaluate("val", new)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"classes": ("square", "round", "flat")}, "label 0 was 'round' and is 'square'"),
        ({"classes": (*CLASSES, "new")}, "3 classes then, 4 now"),
        ({"x_train": np.zeros((230, 5, 6), np.uint8), "x_test": np.zeros((50, 5, 6), np.uint8)}, r"uint8 \(5, 6\)"),
    ],
)
def test_data_that_do_not_fit(made_in_python, tmp_path, change, text):
    data, run, _ = made_in_python
    arrays = {name: getattr(data.source, name) for name in ("x_train", "y_train", "x_test", "y_test", "classes")}
    other = tfsoftmax.Data(tfsoftmax.Source("other", **{**arrays, **change}))
    for use in (run.evaluate, lambda data: run.export(tmp_path / "export", data=data)):
        with pytest.raises(tfsoftmax.InputError, match=text):
            use(data=other)
    with pytest.raises(tfsoftmax.InputError, match=r"data must be a tfsoftmax.Data, .*, got 'test'"):
        run.evaluate(data="test")


def test_data_that_changed_are_refused(source, tfsoftmax_cli, tmp_path):
    name = f"idx:{write_idx_folder(tmp_path / 'rows', source)}"
    train = ("train", "--data", name, "--epochs", 2, "--batch-size", 32)
    assert tfsoftmax_cli(*train, "--out", tmp_path / "run")[0] == 0
    found = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (found["data"], found["fingerprint"]) == (name, source.fingerprint)
    before = tfsoftmax_cli("evaluate", tmp_path / "run")[1]
    labels = tmp_path / "rows" / "labels.txt"
    labels.write_text("square\nround\nflat\n")
    config = tmp_path / "run" / "config.json"
    again = ("train", "--config", config, "--out", tmp_path / "again")
    for command in (("evaluate", tmp_path / "run"), ("export", tmp_path / "run", "--to", tmp_path / "e"), again):
        status, out, err = tfsoftmax_cli(*command)
        assert (status, out) == (2, "")
        assert "is no longer the data of the " in one_line(err)
        assert ": changed order of the class names" in err
    assert "label 0 was 'round' and is 'square'" in tfsoftmax_cli("evaluate", tmp_path / "run")[2]
    (tmp_path / "run" / "metrics.json").unlink()
    status, _, err = tfsoftmax_cli(*train, "--out", tmp_path / "run")
    assert status == 2
    assert "unfinished run with other settings (other data: order of the class names)" in one_line(err)
    assert tfsoftmax_cli(*again, "--data", name)[0] == 0, "data that are named are meant as they are now"
    assert tfsoftmax.Run(tmp_path / "again").spec.classes == ("square", "round", "flat")
    labels.write_text("\n".join(CLASSES))
    assert tfsoftmax_cli(*train, "--out", tmp_path / "run")[0] == 0
    assert tfsoftmax_cli("evaluate", tmp_path / "run")[1] == before


def test_a_configuration_without_data(tfsoftmax_cli, tmp_path):
    (tmp_path / "settings.json").write_text('{"lr": 0.5}')
    status, _, err = tfsoftmax_cli("train", "--config", tmp_path / "settings.json", "--out", tmp_path / "run")
    assert status == 2
    assert "settings.json' names no data set" in one_line(err)
    assert not (tmp_path / "run").exists()
