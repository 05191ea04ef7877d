"""Wrong labels: confident learning as cleanlab does it, folds that have not seen their rows, the page's section."""

import csv
import dataclasses
import shutil

import keras
import numpy as np
import pytest

import tfsoftmax
from tfsoftmax.reporting.confident import joint, suspects
from tfsoftmax.runs.evaluation import softmax
from tfsoftmax.runs.folds import drawn, out_of_fold


def test_the_suspects_are_those_of_cleanlab():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, 60)
    labels = true.copy()
    labels[:9] = (labels[:9] + 1) % 3
    odds = rng.dirichlet([1, 1, 1], 60) * 0.5
    odds[np.arange(60), true] += 0.5
    # cleanlab 2.9: compute_confident_joint(labels, odds, calibrate=False), and find_label_issues(labels, odds,
    # return_indices_ranked_by="normalized_margin")
    counts = np.array([[5, 0, 0], [2, 16, 0], [0, 2, 14]])
    scaled = counts * (np.array([14, 25, 21]) / counts.sum(axis=1))[:, None]
    np.testing.assert_allclose(joint(odds, labels), scaled)
    found = suspects(odds, labels)
    assert found.rows.tolist() == [4, 5, 8, 1, 2]
    assert np.array_equal(found.suggested, true[found.rows])
    assert found.estimated == 6


def test_a_class_without_rows_is_suspected_of_nothing():
    odds = np.array([[0.6, 0.1, 0.3], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7], [0.9, 0.1, 0.0]])
    found = suspects(odds, np.array([0, 1, 1, 0]))
    assert len(found.rows) == 0
    assert np.isfinite(joint(odds, np.array([0, 1, 1, 0]))).all()


def test_no_fold_has_seen_its_rows_or_their_groups(tmp_path):
    """Labels without reason, each row twice: who has seen one of the two knows the label of the other."""
    rng = np.random.default_rng(0)
    x, y = np.repeat(rng.normal(size=(100, 300)), 2, axis=0), np.repeat(rng.integers(0, 2, 100), 2)
    data = tfsoftmax.Data(x, y, x_test=x, y_test=y, groups=np.repeat(np.arange(100), 2), val=0)
    run = tfsoftmax.train(data, tfsoftmax.RunConfig(epochs=4, val=0), tmp_path / "run")
    assert run.metrics["test"]["accuracy"] > 0.95  # of rows that it has seen
    said = out_of_fold(run, data)
    assert np.array_equal(said.rows, np.arange(200))
    assert (said.probabilities.argmax(axis=1) == said.labels).mean() < 0.7


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_fold_has_the_weight_0_in_its_fit(finished, source, tmp_path, optimizer):
    """Of SGD the fits are lanes, of Adam they are not; both are what plain Keras makes of weighted rows."""
    shutil.copytree(finished[0].folder, tmp_path / "run")
    settings = {"sgd": {"momentum": 0.9}, "adam": {"lr": 0.002}}[optimizer]
    config = dataclasses.replace(finished[0].config, optimizer=optimizer, **settings)
    (tmp_path / "run" / "config.json").write_text(config.to_json())
    run = tfsoftmax.Run(tmp_path / "run")
    said = out_of_fold(run, tfsoftmax.Data(source, batch_size=32))
    every = tfsoftmax.Data(source, batch_size=32, val=0)
    fold = drawn(every, 5, 0)
    for one in range(5):
        rows, held_out = every.rows.train, np.flatnonzero(fold == one)
        weight = (fold != one) * np.float32(len(fold) / (fold != one).sum())
        model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(3, kernel_initializer="zeros")])
        sgd = keras.optimizers.SGD(config.lr, momentum=0.9)
        model.compile(
            sgd if optimizer == "sgd" else keras.optimizers.Adam(config.lr),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        train = tfsoftmax.Rows(rows.x, rows.y, every.spec, 32, rows.seed, weight=weight).dataset()
        model.fit(train.map(lambda *batch: batch), epochs=3, verbose=0, shuffle=False)
        logits = model.predict(rows.x[held_out] / np.float32(255), verbose=0)
        np.testing.assert_allclose(said.probabilities[held_out], softmax(logits), atol=1e-5)


def test_swapped_labels_in_the_report(finished, source, tmp_path):
    from tfsoftmax.reporting.one import report

    labels, x = source.y_train.copy(), source.x_train.copy()
    labels[:8] = (labels[:8] + 1) % 3
    x[100:108] = x[:8]
    x[100:108, 0, 0] ^= 1
    labels[100:108] = source.y_train[:8]
    changed = dataclasses.replace(source, x_train=x, y_train=labels)
    shutil.copytree(finished[0].folder, tmp_path / "run")
    config = dataclasses.replace(finished[0].config, lr=0.5)  # so that the folds know the classes
    (tmp_path / "run" / "config.json").write_text(config.to_json())
    run = tfsoftmax.Run(tmp_path / "run")
    page = report(run, data=tfsoftmax.Data(changed, batch_size=32), labels=True)
    rows = {}
    for name in ("issues", "duplicates"):
        with open(page.parent / "report" / f"{name}.csv", newline="", encoding="utf-8") as file:
            rows[name] = list(csv.DictReader(file))
    assert "Labels that may be wrong" in page.read_text()
    found = [row for row in rows["issues"][:8] if int(row["row"]) < 8]
    assert len(found) >= 5
    for row in found:
        assert (row["like"], int(row["like_row"])) == ("training", int(row["row"]) + 100)
        assert row["like_label"] == row["suggested"] == source.classes[source.y_train[int(row["row"])]]
    pairs = {tuple(sorted((int(pair["row"]), int(pair["like_row"])))) for pair in rows["duplicates"]}
    assert pairs == {(k, k + 100) for k in range(8)}
    assert {round(float(pair["distance"]), 9) for pair in rows["duplicates"]} == {round(30**-0.5, 9)}
