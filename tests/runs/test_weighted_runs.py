"""Runs with weights of rows and classes: what is trained, reported and corrected."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

import tfsoftmax
from tfsoftmax.errors import InputError
from tfsoftmax.runs.evaluation import cross_entropy


@pytest.fixture
def frame():
    rng = np.random.default_rng(0)
    y = (rng.random(600) < 0.15).astype(int)
    return pd.DataFrame(
        {
            "a": rng.normal(size=600) + 1.5 * y,
            "b": rng.choice(["u", "v"], 600),
            "w": rng.integers(0, 4, 600) / 2,
            "kind": np.array(["no", "yes"])[y],
        }
    )


def test_weights_reach_the_optimum_of_scikit_learn(frame):
    weights = {"no": 0.5, "yes": 2.0}
    data = tfsoftmax.load(
        frame, label="kind", sample_weight="w", class_weight=weights, preprocess="unit", val=0, test=100, batch_size=500
    )
    assert [column.name for column in data.spec.columns] == ["a", "b"]
    np.testing.assert_array_equal(data.class_weights, [0.5, 2.0])
    rows = data.train.rows
    of_class = np.array([0.5, 2.0])[rows.y]
    own = frame["w"].to_numpy()[rows.index]
    np.testing.assert_allclose(rows.weight, own * of_class, rtol=1e-6)
    np.testing.assert_allclose(data.test.rows.weight, frame["w"].to_numpy()[data.test.rows.index])
    # l2 * |W|^2 on the sum of weighted losses over 500 rows, of two columns that mirror each other
    model = tfsoftmax.SoftmaxRegression(2, lr=1.0, l2=0.002)
    model.fit(data.train, epochs=3000, verbose=0)
    x = np.stack([frame["a"], frame["b"] == "u", frame["b"] == "v"], axis=1)[rows.index]
    expected = LogisticRegression(C=1 / (500 * 0.002), tol=1e-8, max_iter=1000)
    expected.fit(x, rows.y, own * of_class)
    found = model.get_weights()[0][:, 1] - model.get_weights()[0][:, 0]
    np.testing.assert_allclose(found, expected.coef_[0], atol=2e-3)


def test_a_run_with_weights(frame, tfsoftmax_cli, tmp_path):
    frame.to_csv(tmp_path / "t.csv", index=False)
    run = tmp_path / "run"
    given = ("--data", tmp_path / "t.csv", "--label", "kind", "--sample-weight", "w", "--class-weight", "balanced")
    status, out, err = tfsoftmax_cli("train", *given, "--out", run, "--preprocess", "standardize", "--json")
    assert status == 0, err
    metrics = json.loads(out)
    assert set(metrics["test"]["weighted"]) == {"loss", "accuracy"}
    data = tfsoftmax.Run(run).data()
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=data.train.rows.y)
    np.testing.assert_allclose(data.class_weights, expected)
    model, rows = tfsoftmax.Run(run).model, data.test.rows
    logits = model.predict(data.test, verbose=0)
    losses, weights = cross_entropy(logits, rows.y), rows.weight
    assert metrics["test"]["weighted"]["loss"] == pytest.approx((losses * weights).sum() / weights.sum(), abs=1e-6)
    corrected = json.loads(tfsoftmax_cli("evaluate", run, "--prior", "--json")[1])
    assert corrected["loss"] == pytest.approx(cross_entropy(logits - np.log(expected), rows.y).mean(), abs=1e-6)
    assert corrected["loss"] < metrics["test"]["loss"]  # the rows are as unequal as in training
    config = json.loads((run / "config.json").read_text())
    assert (config["sample_weight"], config["class_weight"]) == ("w", "balanced")


def test_weights_from_a_file(frame, tfsoftmax_cli, tmp_path):
    frame.to_csv(tmp_path / "t.csv", index=False)
    given = ("train", "--data", tmp_path / "t.csv", "--label", "kind", "--out", tmp_path / "run", "--class-weight")
    (tmp_path / "w.json").write_text('{"yes": 3}')
    assert tfsoftmax_cli(*given, tmp_path / "w.json", "--epochs", 1)[0] == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["class_weight"] == {"yes": 3.0}
    for text, expected in {
        '{"maybe": 3}': "class_weight names 'maybe', which is no class; the classes are 'no, yes'",
        '{"yes": -1}': "class_weight['yes'] must be a number of at least 0, got -1",
        '{"yes": 0, "no": 0}': "class_weight is 0 for every class",
        "[]": "must hold one JSON object, got list",
        "{": "w.json",
    }.items():
        (tmp_path / "w.json").write_text(text)
        status, out, err = tfsoftmax_cli(*given, tmp_path / "w.json", "--overwrite")
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert expected in err
    status, _, err = tfsoftmax_cli("evaluate", tmp_path / "run", "--prior")
    assert status == 0, err


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"w": -1.0}, "the weight of row 0 is -1.0; weights are numbers of at least 0"),
        ({"w": 0.0}, "all weights are 0"),
        ({"w": "x"}, "the weight column 'w' of 'frame' must hold numbers, got 'x' in row 0"),
        ({"w": None}, "the weight of row 0 is nan"),
        ({"kind": None}, "the label column 'kind' of 'frame' has 600 missing values, the first in row 0"),
    ],
)
def test_wrong_weights(frame, change, text):
    with pytest.raises(InputError, match=text):
        tfsoftmax.load(frame.assign(**change), label="kind", sample_weight="w")
