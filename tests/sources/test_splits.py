"""Which rows are for training, validation and the test: shares of classes, whole groups, the source's own splits."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
from conftest import make_rows

import tfsoftmax
from tfsoftmax.errors import InputError
from tfsoftmax.splits import each


def source(rows=300, classes=3, **fields):
    x, y = make_rows(rows, 1, classes=classes)
    return tfsoftmax.Source("made", x, y, classes=range(classes), **fields)


def places(data):
    """The rows of each split, as sets of places in the source."""
    return [set(split.rows.index.tolist()) for split in (data.train, data.val, data.test)]


def test_a_test_split_is_drawn_by_class_and_seed(caplog):
    made = source()
    with caplog.at_level(logging.INFO):
        data, again, other = (tfsoftmax.Data(made, seed=seed) for seed in (0, 0, 1))
    assert "'made' has no test split: 60 of its 300 rows are drawn for one (test=0.2, seed=0)" in caplog.text
    train, val, test = places(data)
    assert (len(train), len(val), len(test)) == (200, 40, 60)
    assert len(train | val | test) == 300
    np.testing.assert_allclose(np.bincount(data.test.rows.y), np.bincount(made.y_train) / 5, atol=1)
    assert places(again)[2] == test != places(other)[2]
    exact = tfsoftmax.Data(made, test=7, val="test")
    assert (len(exact.test.rows), len(exact.train.rows)) == (7, 293)
    np.testing.assert_array_equal(exact.val.rows.x, exact.test.rows.x)
    # preprocessing knows the training rows alone
    centred = tfsoftmax.Data(made, preprocess="center")
    mean = made.x_train[sorted(places(centred)[0])].mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(np.reshape(centred.spec.offset, mean.shape), mean)


def test_the_first_of_a_class_in_a_random_order_are_drawn(monkeypatch):
    monkeypatch.setattr("tfsoftmax.splits._PART", 16)
    labels, counts = np.random.default_rng(0).integers(0, 4, 100), np.array([3, 0, 50, 7])
    order = np.random.default_rng(5).permutation(100)
    expected = [row for label in range(4) for row in order[labels[order] == label][: counts[label]]]
    np.testing.assert_array_equal(each(labels, counts, np.random.default_rng(5)), sorted(expected))


def test_each_class_keeps_a_row_to_train_on():
    x, y = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32), np.array([0] * 10 + [1, 1])
    data = tfsoftmax.Data(tfsoftmax.Source("few", x, y, classes="ab"), test=10, val=0)
    assert np.bincount(data.train.rows.y).tolist() == [1, 1]
    with pytest.raises(InputError, match="test=11 of 12 rows leaves classes of 'few' without one: give less"):
        tfsoftmax.Data(tfsoftmax.Source("few", x, y, classes="ab"), test=11)


def test_shares_and_numbers_of_validation_rows():
    made = source()
    assert len(tfsoftmax.Data(made, test=60, val=0.25).val.rows) == 60
    assert len(tfsoftmax.Data(made, test=60, val=24).val.rows) == 24
    nothing = tfsoftmax.Data(made, val=0)
    assert nothing.val is None
    assert len(nothing.train.rows) == 240
    for settings, text in {
        (("test", 300),): "test=300 leaves no training row of 300 in 'made': give less",
        (("test", 0),): "test must be a whole number of at least 1, got 0",
        (("test", "some"),): "test must be a number of rows or a share of them such as 0.2, got 'some'",
        (("val", 1.5),): "val must be a number of rows, a share of them such as 0.2, or 'test', got 1.5",
        (("val", 240),): "val=240 leaves no training row of 240",
    }.items():
        with pytest.raises(InputError, match=text):
            tfsoftmax.Data(made, **dict(settings))


def test_groups_stay_together():
    groups = np.random.default_rng(4).integers(0, 50, 300)
    made = source(groups=groups)
    data = tfsoftmax.Data(made, val=0.2)
    train, val, test = (set(groups[sorted(rows)]) for rows in places(data))
    assert len(train) + len(val) + len(test) == len(train | val | test)
    assert len(data.test.rows) == pytest.approx(60, abs=6)
    np.testing.assert_allclose(np.bincount(data.test.rows.y), np.bincount(made.y_train) / 5, atol=5)
    with pytest.raises(InputError, match="cannot be drawn as whole groups: there are 2, the largest has 150 rows"):
        tfsoftmax.Data(source(groups=np.arange(300) % 2), test=3)
    with pytest.raises(InputError, match=r"groups must be whole numbers of shape \(rows,\), got int64 \(299,\)"):
        source(groups=groups[1:])


def test_a_validation_split_of_the_source():
    made = source(val_rows=np.arange(250, 300))
    data = tfsoftmax.Data(made, test=50)
    train, val, test = places(data)
    assert val == set(range(250, 300))
    assert not test & train
    assert not train & val
    x, y = make_rows(20, 2)
    made = tfsoftmax.Source("own", made.x_train, made.y_train, x, y, range(3), val_rows=made.val_rows)
    assert len(tfsoftmax.Data(made).train.rows) == 250
    assert len(tfsoftmax.Data(made, refit=True).train.rows) == 300
    assert len(tfsoftmax.Data(made, val=0).train.rows) == 250
    with pytest.raises(InputError, match="'own' has a validation split, so val=10 draws none"):
        tfsoftmax.Data(made, val=10)
    with pytest.raises(InputError, match=r"'own' has a test split, so test=0\.5 draws none"):
        tfsoftmax.Data(made, test=0.5)
    with pytest.raises(InputError, match="val_rows must be different ones of 300 training rows"):
        source(val_rows=np.array([1, 1]))


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.normal(size=200), "b": rng.choice(["x", "y"], 200), "who": rng.integers(0, 40, 200)})
    frame["kind"] = np.where(frame.a + (frame.b == "x") > 0.5, "yes", "no")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path / "rows.csv"


def test_a_run_opens_its_data_as_it_was_read(table, tmp_path, tfsoftmax_cli):
    common = ["--data", table, "--label", "kind", "--group", "who", "--epochs", 2, "--batch-size", 16]
    status, _, err = tfsoftmax_cli("train", *common, "--test", 0.3, "--val", "0.2", "--out", tmp_path / "run")
    assert status == 0, err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert [config[name] for name in ("data", "label", "group", "test", "val")] == [str(table), "kind", "who", 0.3, 0.2]
    run = tfsoftmax.Run(tmp_path / "run")
    assert run.evaluate() == run.metrics["test"]
    assert run.evaluate("val") == run.metrics["val"]
    # the settings of a run are those of another
    status, _, err = tfsoftmax_cli("train", "--config", tmp_path / "run" / "config.json", "--out", tmp_path / "again")
    assert status == 0, err
    files = [(tmp_path / name / "model.keras").read_bytes() for name in ("run", "again")]
    assert files[0] == files[1]


def test_options_go_to_the_kinds_that_take_them(idx_folder, table):
    with pytest.raises(InputError, match="'fashion_mnist' does not take the option label: csv:PATH, tsv:PATH"):
        tfsoftmax.load("fashion_mnist", label="x")
    with pytest.raises(InputError, match="a data frame does not take the option resize"):
        tfsoftmax.load(pd.read_csv(table), label="kind", resize="8x8")
    frame = tfsoftmax.load(pd.read_csv(table), label="kind", drop="b", group="who")
    assert [column.name for column in frame.spec.columns] == ["a"]
    assert frame.options == {}
    for name in (idx_folder, f"idx:{idx_folder}"):
        assert tfsoftmax.load(name).spec.name == "tiny"
    for name in (table, f"csv:{table}", str(table)):
        read = tfsoftmax.load(name, label="kind", drop="b", group="who")
        assert read.fingerprint == frame.fingerprint
        assert read.options == {"label": "kind", "drop": ("b",), "group": "who"}
