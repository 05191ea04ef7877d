"""Runs beside each other: the tests of differences against SciPy, the page."""

import csv
import dataclasses

import numpy as np
import pytest
from scipy.stats import binomtest

import tfsoftmax
from tfsoftmax.reporting.several import mcnemar, paired_bootstrap


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (3, 0), (7, 12), (40, 40), (900, 1000)])
def test_mcnemar_is_the_exact_binomial_test(won, lost):
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert mcnemar(won, lost) == pytest.approx(expected, rel=1e-9)


def test_the_interval_covers_as_often_as_it_says():
    rng, covered = np.random.default_rng(1), 0
    for won, lost, _ in rng.multinomial(500, [0.12, 0.08, 0.8], 400):
        low, high = paired_bootstrap(won, lost, 500)
        covered += low <= 0.04 <= high
    assert 0.92 < covered / 400 < 0.975  # 95 %, three standard errors of 400


def test_two_runs(finished, tfsoftmax_cli, tmp_path):
    first = finished[0]
    second = tfsoftmax.train(first.data(), dataclasses.replace(first.config, lr=1e-5), tmp_path / "second")
    page = tmp_path / "page.html"
    status, _, err = tfsoftmax_cli("report", first.folder, second.folder, "--to", page)
    assert status == 0, err
    with open(tmp_path / "page" / "runs.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    difference = second.metrics["test"]["accuracy"] - first.metrics["test"]["accuracy"]
    assert float(rows[1]["difference"]) == pytest.approx(difference, abs=1e-9)
    assert float(rows[1]["difference_95_low"]) <= difference <= float(rows[1]["difference_95_high"])
    settings = page.read_text().split("Settings that differ")[-1]
    assert "<bdi>1e-05</bdi>" in settings
    assert "momentum" not in settings
    status, _, err = tfsoftmax_cli("report", first.folder, first.folder, "--to", page)
    assert (status, "several different runs" in err) == (2, True)
