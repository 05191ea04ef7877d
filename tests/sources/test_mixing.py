"""Files that are sorted by class: said before training, and mended by convert."""

import json
import math

import numpy as np
import pytest

import tfsoftmax
from tfsoftmax import findings, sources
from tfsoftmax.inspection import inspect

CLASSES, EACH, BATCH = 50, 40, 32


@pytest.fixture(scope="module")
def sorted_rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sorted")
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(CLASSES), EACH)
    np.save(folder / "x.npy", (rng.normal(size=(CLASSES, 8)) * 2)[y].astype(np.float32) + rng.random((len(y), 8)) - 0.5)
    np.save(folder / "y.npy", y)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("tfsoftmax.windows._BLOCK", 32 * 32)  # 32 rows of a class


MEMORY = 2 * 256 * 8 * 4 * 8 // 8


def test_what_a_batch_holds(sorted_rows):
    rows = tfsoftmax.load(f"npy:{sorted_rows}", memory=MEMORY, batch_size=BATCH, val=0).train.rows
    batches = [labels.numpy() for _, labels in rows.dataset()]
    counts = [len(np.unique(batch)) for batch in batches if len(batch) == BATCH]
    all_, wanted = math.comb(len(rows), BATCH), 0.0  # by the hypergeometric distribution
    for rows_of_class in np.bincount(rows.y).tolist():
        wanted += 1 - math.comb(len(rows) - rows_of_class, BATCH) / all_
    assert rows.mixing["expected"] == np.mean(counts)
    assert rows.mixing["smallest"] == min(counts)
    assert rows.mixing["shuffled"] == pytest.approx(wanted, rel=0.02)
    assert rows.mixing["share"] < 0.6
    assert tfsoftmax.load(f"npy:{sorted_rows}", val=0).train.rows.mixing is None


def test_sorted_files_are_said_and_convert_mends_them(sorted_rows, tmp_path, tfsoftmax_cli):
    settings = ["--batch-size", BATCH, "--val", 200, "--epochs", 4, "--lr", 0.3, "--memory", MEMORY]
    accuracies, said = (
        [],
        "the files are sorted, and training may suffer; `tfsoftmax convert DATA --to FOLDER` shuffles",
    )
    assert tfsoftmax_cli("convert", f"npy:{sorted_rows}", "--to", tmp_path / "rows", "--memory", MEMORY)[0] == 0
    for data, name in ((f"npy:{sorted_rows}", "sorted"), (tmp_path / "rows", "mixed")):
        status, _, error = tfsoftmax_cli("train", "--data", data, *settings, "--out", tmp_path / name)
        assert status == 0, error
        assert (said in error) == (name == "sorted")
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        assert (metrics["mixing"]["share"] < 0.9) == (name == "sorted")
        accuracies.append(metrics["test"]["accuracy"])
    assert metrics["mixing"]["share"] == pytest.approx(1, abs=0.03)
    whole = tfsoftmax.load(f"npy:{sorted_rows}", batch_size=BATCH, val=200)
    model = tfsoftmax.SoftmaxRegression(CLASSES, 0.3)
    model.fit(whole.train, epochs=4, verbose=0)
    shuffled = model.evaluate(whole.test, verbose=0)[1]
    assert accuracies[1] == pytest.approx(shuffled, abs=1.96 * np.sqrt(0.5 / 400))


def test_inspect_says_it(sorted_rows):
    found = inspect(sources.read(f"npy:{sorted_rows}", memory=MEMORY))
    assert found.mixing["batch"] == 256
    assert any("the files are sorted" in line for line in findings.warnings(found)) == (found.mixing["share"] < 0.9)
