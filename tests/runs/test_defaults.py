"""What nobody sets fits the data: preprocessing by kind, the learning rate by curvature; what fails is said."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import tfsoftmax
from tfsoftmax.curvature import default_rate, settled
from tfsoftmax.spec import RunConfig


def rows(scale=1.0):
    """Two classes that one of four inputs tells apart; the inputs' scales differ."""
    x = np.random.default_rng(0).normal(size=(300, 4))
    return (x * [1, 10, 100, 1000] * scale).astype(np.float32), (x[:, 1] > 0).astype(int)


def test_floats_are_standardised_and_the_rate_is_the_bound(tmp_path):
    data = tfsoftmax.Data(*rows(), batch_size=512)  # all rows are one batch
    run = tfsoftmax.train(data, RunConfig(batch_size=512, epochs=100), tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    x = np.column_stack([(data.train.rows.x - data.spec.offset) * data.spec.scale, np.ones(len(data.train.rows))])
    bound = 2 / np.linalg.eigvalsh(x.T @ x / len(x))[-1]
    assert config["lr"] == pytest.approx(bound, rel=1e-2)  # three digits
    assert (config["preprocess"], config["schedule"]) == ("standardize", "constant")
    assert run.metrics["test"]["accuracy"] > 0.95
    # the settings of the run, noted, are those that it ran with
    again = tfsoftmax.train(data, run.config, tmp_path / "again")
    assert again.metrics["test"] == run.metrics["test"]
    adam = tfsoftmax.train(data, RunConfig(batch_size=512, epochs=1, optimizer="adam"), tmp_path / "adam")
    assert adam.config.lr == 0.1


def test_the_rate_falls_where_batches_are_many():
    data = tfsoftmax.Data(*rows(), batch_size=2, val=0)
    assert settled(RunConfig(batch_size=2), data).schedule == "cosine"
    assert settled(RunConfig(batch_size=2, lr=0.1), data).schedule == "constant"
    assert settled(RunConfig(batch_size=2, schedule="constant"), data).schedule == "constant"


def test_the_rate_is_that_of_batches_where_they_bend_more():
    """Noisy embeddings in batches of fewer rows than features: as accurate as scikit-learn's optimum."""
    rng = np.random.default_rng(0)
    means, labels = rng.normal(size=(10, 256)) * 0.12, rng.integers(0, 10, 8000)
    x = (means[labels] + rng.normal(size=(8000, 256))).astype(np.float32)
    (x, x_test), (y, y_test) = np.split(x, [6000]), np.split(labels, [6000])
    data = tfsoftmax.Data(x, y, x_test=x_test, y_test=y_test, batch_size=64, val=0)
    rate = default_rate(data.train.rows, "sgd", 0.0)
    z = np.column_stack([(x - x.mean(axis=0)) / x.std(axis=0), np.ones(len(x))])
    batches = [z[np.random.default_rng(seed).permutation(6000)[:64]] for seed in range(20)]
    largest = np.mean([np.linalg.norm(batch, 2) ** 2 / 64 for batch in batches])
    assert rate == pytest.approx(2 / largest, rel=0.03)  # other batches: the mean of 8 and of 20
    model = tfsoftmax.SoftmaxRegression(10, rate)
    model.fit(data.train, epochs=10, verbose=0)
    accuracy = model.evaluate(data.test, verbose=0)[1]
    other = LogisticRegression(max_iter=300).fit(z[:, :-1], y).score(x_test, y_test)
    assert accuracy > other - 1.96 * np.sqrt(other * (1 - other) / 2000)


def test_the_chapter_keeps_its_settings():
    data = tfsoftmax.FashionMNIST()
    config = settled(RunConfig(), data)
    assert (config.lr, config.schedule, data.settings["preprocess"]) == (0.1, "constant", "unit")
    assert tfsoftmax.load("fashion_mnist").settings["preprocess"] == "unit"
    assert settled(RunConfig(lr=0.3), data).lr == 0.3


def test_a_loss_worse_than_guessing_is_said(tmp_path, caplog):
    data = tfsoftmax.Data(*rows(), batch_size=32, preprocess="unit")
    tfsoftmax.train(data, RunConfig(batch_size=32, epochs=2, lr=0.1, preprocess="unit"), tmp_path / "run")
    said = [text for text in caplog.messages if "that of guessing" in text]
    assert len(said) == 1
    assert said[0].startswith("the final val loss ")
    assert " is above 0.6931, that of guessing: the learning rate 0.1 is above the curvature bound 2" in said[0]
    assert said[0].endswith("of these rows: leave --lr out, or take --preprocess standardize")
    caplog.clear()
    noise = tfsoftmax.Data(rows()[0][:40], np.arange(40) % 2, batch_size=4)
    tfsoftmax.train(noise, RunConfig(batch_size=4, epochs=30), tmp_path / "noise")
    assert "too few rows for so many inputs, or labels that do not follow from them: take --l2" in caplog.text
