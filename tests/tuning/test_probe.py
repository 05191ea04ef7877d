"""probe(): penalties, choice and refit against scikit-learn's; a probe that was killed goes on."""

import json

import numpy as np
import pytest
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

import tfsoftmax
import tuning
from tfsoftmax.runs.folder import STATE
from tfsoftmax.splits import each
from tuning.penalties import GRIDS, chosen


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Wine with noise, so that penalties matter."""
    x, y = load_wine(return_X_y=True)
    rng = np.random.default_rng(0)
    x = np.hstack([x / x.std(axis=0) + 2 * rng.normal(size=x.shape), rng.normal(size=(len(x), 10))])
    path = tmp_path_factory.mktemp("rows") / "wine.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    return path


def test_the_penalty_and_the_model_are_scikit_learn_s(rows, tfsoftmax_cli, tmp_path):
    out = tmp_path / "probe"
    status, text, _ = tfsoftmax_cli("probe", rows, "--out", out, "--val", "50", "--json")
    assert status == 0
    printed = json.loads(text)
    table = printed["penalties"]
    np.testing.assert_allclose([row["l2"] for row in table], np.geomspace(1e-6, 1e2, 45))
    data = tfsoftmax.load(str(rows), val=50, preprocess="standardize")

    def standardized(part):
        return (part.rows.x - data.spec.offset) * data.spec.scale

    for row in table[10::12]:
        best = LogisticRegression(C=1 / (2 * len(data.train.rows) * row["l2"]), max_iter=10_000, tol=1e-8)
        best.fit(standardized(data.train), data.train.rows.y)
        p = best.predict_proba(standardized(data.val))
        loss = -np.log(p[np.arange(len(p)), data.val.rows.y]).mean()
        assert row["converged"]
        assert row["val_loss"] == pytest.approx(loss, abs=0.02)
    assert printed["best"] == chosen(table, "val_accuracy")
    assert printed["best"]["val_accuracy"] == max(row["val_accuracy"] for row in table)

    run = tfsoftmax.Run(out / "run")
    assert run.config.refit
    assert run.config.l2 == printed["best"]["l2"]
    both = run.data().train.rows
    assert len(both) == len(data.train.rows) + 50
    np.testing.assert_allclose(run.spec.offset, both.x.mean(axis=0), rtol=1e-5, atol=1e-6)
    assert printed["optimum"]["converged"]
    assert printed["test"]["rows"] == len(data.test.rows)
    assert (out / "penalties.png").stat().st_size > 10_000

    status, _, err = tfsoftmax_cli("probe", rows, "--out", out, "--val", "50")
    assert status == 2
    assert "--overwrite" in err
    # killed in the run, and in its report: the same command goes on from the table
    kept = {name: (out / name).read_bytes() for name in ("penalties.csv", "run/model.keras")}
    (out / "run" / "metrics.json").unlink()
    for _ in range(2):
        (out / "run" / "report.html").unlink()
        status, text, _ = tfsoftmax_cli("probe", rows, "--out", out, "--val", "50")
        assert status == 0
        assert kept == {name: (out / name).read_bytes() for name in kept}
        assert (out / "run" / "report.html").exists()
        (out / "run" / STATE).touch()
    assert "<- chosen" in text
    assert "95 % interval" in text


def test_presets_are_the_published_grids():
    c = 1 / (2 * 1000 * np.array(GRIDS["dinov2"](1000, 10)))
    np.testing.assert_allclose(c, 10 ** np.linspace(-6, 5, 45))
    strength = 2 * 1000 * np.array(GRIDS["clip"](1000, 10))
    np.testing.assert_allclose(sorted(strength), np.logspace(-6, 6, 96))


def test_of_equal_penalties_the_larger_is_chosen_and_validation_rows_are_needed(rows, tmp_path):
    equal = [{"l2": l2, "val_accuracy": 0.5, "val_loss": 1.0} for l2 in (1e-3, 1e-1, 1e-2)]
    assert chosen(equal, "val_accuracy")["l2"] == chosen(equal, "val_loss")["l2"] == 1e-1
    with pytest.raises(tfsoftmax.InputError, match="validation rows of its own"):
        tuning.probe(tfsoftmax.load(str(rows), val=0), tmp_path / "probe")


def test_folds_choose_and_keep_what_they_predict(rows, tfsoftmax_cli, tmp_path, monkeypatch):
    monkeypatch.setitem(GRIDS, "default", lambda rows, classes: [1e-3, 1e-2, 1e-1])
    out = tmp_path / "probe"
    status, text, _ = tfsoftmax_cli("probe", rows, "--out", out, "--folds", "2", "--json")
    assert status == 0
    best = json.loads(text)["best"]
    data = tfsoftmax.load(str(rows), val=0)
    with np.load(out / "out_of_fold.npz") as kept:
        p, labels, places = kept["probabilities"], kept["labels"], kept["rows"]
    np.testing.assert_array_equal(places, np.sort(data.train.rows.index))
    np.testing.assert_array_equal(labels, data.source.y_train[places])
    right = p[np.arange(len(p)), labels]
    assert (p.argmax(axis=1) == labels).mean() == pytest.approx(best["val_accuracy"], abs=0.02)
    assert -np.log(right).mean() == pytest.approx(best["val_loss"], abs=0.02)
    assert best["val_loss"] > best["train_loss"]  # no row is predicted by a model that saw it
    status, _, err = tfsoftmax_cli("probe", rows, "--out", tmp_path / "other", "--folds", "2", "--val", "20")
    assert status == 2
    assert "set val to 0" in err


def test_folds_keep_groups_together_and_take_tables(tfsoftmax_cli, tmp_path, monkeypatch):
    monkeypatch.setitem(GRIDS, "default", lambda rows, classes: [1e-3])
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(30), 8)
    numbers = rng.normal(size=(30, 12))[group]  # rows of one group are alike; labels follow from nothing but the group
    words, labels = np.array(["red", "blue"])[rng.integers(0, 2, 240)], np.array(["a", "b", "c"])[group % 3]
    header = ["label", "group", "word", *(f"n{k}" for k in range(12))]
    rows = np.column_stack([labels, group, words, numbers])
    path = tmp_path / "rows.csv"
    path.write_text("\n".join(",".join(map(str, row)) for row in (header, *rows)))
    arguments = ("probe", path, "--group", "group", "--json", "--out", tmp_path / "probe")
    status, text, _ = tfsoftmax_cli(*arguments, "--folds", "3")
    assert status == 0
    best = json.loads(text)["best"]
    assert best["train_accuracy"] > 0.9
    assert best["val_accuracy"] < 0.7
    with np.load(tmp_path / "probe/out_of_fold.npz") as kept:
        assert (np.array(["a", "b", "c"])[kept["labels"]] == labels[kept["rows"]]).all()
        assert kept["probabilities"].shape == (len(kept["rows"]), 3)
    status, _, err = tfsoftmax_cli("evaluate", tmp_path / "probe")
    assert status == 2
    assert "is a probe folder, not a run folder; its run is" in err
    status, _, err = tfsoftmax_cli(*arguments[:-1], tmp_path / "other", "--folds", "40")
    assert status == 2
    assert "40 folds need as many training groups" in err
    assert not (tmp_path / "other").exists()


def test_few_shot_probes_are_those_of_so_many_rows_over_several_draws(rows, tfsoftmax_cli, tmp_path, monkeypatch):
    l2 = 0.01
    monkeypatch.setitem(GRIDS, "default", lambda rows, classes: [l2])
    arguments = ["probe", rows, "--val", "20", "--seeds", "2", "--json"]
    status, text, _ = tfsoftmax_cli(*arguments, "--out", tmp_path / "one", "--few-shot", "1000,1")
    assert status == 0
    one, every = json.loads(text)["few_shot"]
    data = tfsoftmax.load(str(rows), val=20, preprocess="standardize")
    train, test = ((part.rows.x - data.spec.offset) * data.spec.scale for part in (data.train, data.test))
    best = LogisticRegression(C=1 / (2 * len(train) * l2), max_iter=10_000, tol=1e-8).fit(train, data.train.rows.y)
    assert every["accuracies"] == [pytest.approx(best.score(test, data.test.rows.y))] * 2
    assert (every["rows"], every["std"], every["classes_with_fewer"]) == (len(train), 0, 3)
    assert (one["shots"], one["rows"], one["classes_with_fewer"]) == (1, 3, 0)
    for draw in range(2):  # fewer rows than features
        few = each(data.train.rows.y, 1, np.random.default_rng([0, draw, 0]))
        best = LogisticRegression(C=1 / (2 * 3 * l2), max_iter=10_000, tol=1e-8).fit(train[few], data.train.rows.y[few])
        assert one["accuracies"][draw] == pytest.approx(best.score(test, data.test.rows.y))
    assert one["accuracy"] == pytest.approx(np.mean(one["accuracies"]))
    assert one["std"] == pytest.approx(np.std(one["accuracies"], ddof=1))
    assert 1 / 3 < one["accuracy"] < every["accuracy"]

    arguments[-1] = "--overwrite"  # the same seed, the same bytes; and a table for people
    status, text, _ = tfsoftmax_cli(*arguments, "--out", tmp_path / "two", "--few-shot", "1,1000")
    assert status == 0
    assert "give all that they have: 3 with fewer than 1000" in text
    for name in ("few_shot.json", "few_shot.png", "probe.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    status, _, err = tfsoftmax_cli(*arguments[:-1], "--out", tmp_path / "two")
    assert status == 2
    assert "other few_shot, seeds" in err


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--few-shot", "1,x"], "--few-shot must be numbers of rows per class such as 1,2,4,8,16, got '1,x'"),
        (["--few-shot", "0"], "few_shot must be a whole number of at least 1"),
        (["--few-shot", "2,2"], "few_shot must be distinct"),
        (["--few-shot", "1", "--seeds", "1"], "seeds must be a whole number of at least 2"),
        (["--few-shot", "1", "--folds", "2"], "leave folds out"),
    ],
)
def test_wrong_few_shot_probes_are_one_line(rows, tfsoftmax_cli, tmp_path, more, text):
    status, _, err = tfsoftmax_cli("probe", rows, "--out", tmp_path / "probe", *more)
    assert status == 2
    assert text in err
    assert not (tmp_path / "probe").exists()


def test_rows_of_each_class_are_drawn_once_and_more_rows_hold_the_fewer():
    labels = np.array([0] * 5 + [2] * 2 + [1] * 9 + [4])
    few, more = (each(labels, count, np.random.default_rng(7)) for count in (2, 4))
    assert np.bincount(labels[few]).tolist() == [2, 2, 2, 0, 1]
    assert np.bincount(labels[more]).tolist() == [4, 4, 2, 0, 1]
    assert len(set(more)) == len(more)
    assert set(few) < set(more)
    assert set(few) != set(each(labels, 2, np.random.default_rng(8)))
