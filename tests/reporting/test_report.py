"""The report of a run: its figures against scikit-learn, names that are markup, the page in a browser."""

import csv
import html
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss, precision_recall_fscore_support

import tfsoftmax
from tfsoftmax.errors import InputError
from tfsoftmax.reporting.answers import above, coverage, read, threshold
from tfsoftmax.reporting.one import report

MARKUP, HEBREW = '<script>alert("1")</script> & $x_1$', "\u05e9\u05dc\u05d5\u05dd \u202eabc"


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pictures(finished, tmp_path_factory):
    """The report of the tiny run of pictures, in a folder of its own."""
    folder = tmp_path_factory.mktemp("pictures") / "run"
    shutil.copytree(finished[0].folder, folder)
    run = tfsoftmax.Run(folder)
    return run, report(run)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A run of a table without validation whose names are markup, read from right to left, and long."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    x, word = rng.normal(size=300), rng.choice([MARKUP, HEBREW, "plain"], 300)
    y = np.where(x + (word == "plain") + rng.normal(size=300) > 0, MARKUP, HEBREW)
    gaps = np.where(rng.random(300) < 0.2, np.nan, x)
    frame = pd.DataFrame({MARKUP: x, HEBREW: word, "long" * 250: gaps, "label": y})
    frame.to_csv(folder / "rows.csv", index=False)
    data = tfsoftmax.load(str(folder / "rows.csv"), val=0, missing="impute")
    run = tfsoftmax.train(data, tfsoftmax.RunConfig(epochs=5, val=0, missing="impute"), folder / "run")
    return run, report(run, folder / "page.html")


def test_the_figures_are_those_of_scikit_learn(pictures):
    run, page = pictures
    test = run.data().test.rows
    odds = np.asarray(run.model(tfsoftmax.Rows(test.x, test.y, run.spec, 50).dataset().get_single_element()[0]))
    odds = np.exp(odds.astype(np.float64))
    odds /= odds.sum(axis=1, keepdims=True)
    said, classes = odds.argmax(axis=1), rows_of(page.parent / "report" / "classes.csv")
    precision, recall, f1, count = precision_recall_fscore_support(test.y, said, zero_division=0)
    for name, expected in {"precision": precision, "recall": recall, "f1": f1, "count": count}.items():
        np.testing.assert_allclose([float(row[name] or 0) for row in classes], expected, rtol=0, atol=1e-9)
    matrix = [list(row.values())[1:] for row in rows_of(page.parent / "report" / "confusion.csv")]
    assert np.array_equal(np.array(matrix, int), confusion_matrix(test.y, said))
    found = read([odds[:20], odds[20:]], test.y, run.spec.classes).figures
    assert found["accuracy"] == pytest.approx(accuracy_score(test.y, said), abs=1e-9)
    logits = np.log(odds)
    found = read([logits[:20], logits[20:]], test.y, run.spec.classes).figures
    assert found["loss"] == pytest.approx(log_loss(test.y, odds), abs=1e-9)
    assert f"{100 * found['accuracy']:.1f}\u00a0% of them" in page.read_text()


def test_evidence_is_the_difference_of_logits(pictures, table):
    from tfsoftmax.reporting.weights import evidence
    from tfsoftmax.rows import preprocess
    from tfsoftmax.runs.run import logits as logits_of

    for run in (pictures[0], table[0]):
        rows = run.rows(run.data())
        kernel, bias = (np.asarray(value, np.float64) for value in run.model.get_weights())
        logits = np.asarray(run.model(preprocess(rows.spec, rows.x)))
        np.testing.assert_allclose(np.concatenate([*logits_of(run.weights, rows)]), logits, rtol=0, atol=1e-5)
        for raw, (first, second, *_) in zip(rows.x[:9], logits[:9], strict=True):
            said = evidence(run.spec, kernel, raw, 0, 1).sum() + bias[0] - bias[1]
            assert said == pytest.approx(first - second, abs=1e-4)


def test_refusing_by_hand():
    sure = np.array([0.9, 0.9, 0.8, 0.6, 0.7])
    logits = np.log(np.stack([sure, 1 - sure], axis=1))
    found = read([logits[:3], logits[3:]], np.array([0, 0, 1, 0, 0]), ("a", "b"))
    assert [round(row["coverage"], 9) for row in coverage(found)] == [0.4, 0.6, 0.8, 1.0]
    assert [row["accuracy"] for row in coverage(found)] == [1, 2 / 3, 3 / 4, 4 / 5]
    assert threshold(found, 0.95) == 0.9
    assert threshold(found, 0.75) == 0.6001  # float32 of 0.6 is above it
    assert threshold(read([logits], np.ones(5, int), ("a", "b")), 0.9) is None
    assert above(found, 0.75) == {
        "threshold": 0.75,
        "coverage": 0.6,
        "accuracy": 2 / 3,
        "accuracy_95": pytest.approx((0.2077, 0.9385), abs=1e-4),  # of 2 out of 3
    }
    assert [(mistake.row, round(mistake.confidence, 6)) for mistake in found.mistakes] == [(2, 0.8)]


def test_the_same_run_gives_the_same_bytes(pictures):
    run, page = pictures
    before = {path.name: path.read_bytes() for path in (page.parent / "report").iterdir()} | {"": page.read_bytes()}
    assert report(run) == page
    assert before == {path.name: path.read_bytes() for path in (page.parent / "report").iterdir()} | {
        "": page.read_bytes()
    }


def test_each_figure_has_a_picture_and_its_numbers(pictures):
    names = {path.name for path in (pictures[1].parent / "report").iterdir()}
    for name in ("loss", "accuracy", "reliability", "coverage", "confusion", "templates", "mistakes"):
        assert {f"{name}.png", f"{name}.csv"} <= names


def test_names_are_text(table):
    text = table[1].read_text()
    assert text.count("<script>") == 1
    assert "script-src 'sha256-" in text
    assert html.escape(MARKUP, quote=False)[:20] in text
    assert HEBREW in text
    assert f"<bdi>{HEBREW}</bdi>" in text
    assert "long" * 30 not in text
    slices = rows_of(table[1].parent / "page" / "slices.csv")
    assert {MARKUP, HEBREW, "long" * 250} == {row["column"] for row in slices}
    for column in (MARKUP, HEBREW, "long" * 250):
        assert sum(int(row["rows"]) for row in slices if row["column"] == column) == 60
    assert "no best epoch is known" in text
    assert not re.search(r"\son\w+=|https?://(?!www\.w3\.org)", text)


def test_a_slice_by_hand(table):
    run, page = table
    rows = run.rows(run.data())
    right = np.asarray(run.model(next(iter(rows.dataset()))[0])).argmax(axis=1) == rows.y
    place = [column.name for column in run.spec.columns].index(HEBREW)
    code = run.spec.columns[place].values.index("plain")
    (row,) = (row for row in rows_of(page.parent / "page" / "slices.csv") if row["value"] == "plain")
    assert float(row["accuracy"]) == right[rows.x[:, place] == code].mean()


def test_where_it_may_write(tfsoftmax_cli, pictures, tmp_path):
    (tmp_path / "mine.html").write_text("mine")
    for to, why in {"mine.html": "is not a report of ours", "page.txt": "the name of an .html file"}.items():
        status, _, err = tfsoftmax_cli("report", pictures[0].folder, "--to", tmp_path / to)
        assert status == 2
        assert why in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.html"]
    (tmp_path / "page").write_text("")
    with pytest.raises(InputError, match="is a file, where the figures belong"):
        report(pictures[0], tmp_path / "page.html")


def test_a_run_that_is_trained_again_has_nothing_of_the_old_report(pictures, tmp_path):
    run = pictures[0]
    shutil.copytree(run.folder, tmp_path / "run")
    before = {path.name for path in (tmp_path / "run" / "report").iterdir()}
    (tmp_path / "run" / "report" / "gap.csv").write_text("of a run to the optimum")
    (tmp_path / "run" / "report" / "notes.txt").write_text("mine")
    tfsoftmax.train(run.data(), run.config, tmp_path / "run", overwrite=True)
    assert {path.name for path in (tmp_path / "run" / "report").iterdir()} == before | {"notes.txt"}


def test_a_page_of_others_is_no_hindrance(pictures, tmp_path, tfsoftmax_cli, caplog):
    run = pictures[0]
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / "metrics.json").unlink()  # it has not finished
    (tmp_path / "run" / "report.html").write_text("mine")
    status, out, _ = tfsoftmax_cli("train", "--config", tmp_path / "run" / "config.json", "--out", tmp_path / "run")
    assert status == 0
    assert tfsoftmax.Run(tmp_path / "run").metrics["test"] == run.metrics["test"]
    assert (tmp_path / "run" / "report.html").read_text() == "mine"
    assert "no report: " in caplog.text
    assert "report: " not in out


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(browser, pictures, table, scheme):
    for _, path in (pictures, table):
        for width in (360, 1280):
            page, errors, asked = (
                browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme),
                [],
                [],
            )
            page.on("console", lambda message, errors=errors: errors.append(message.text))
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.goto(path.as_uri())
            assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
            assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
            for caption in page.locator("caption").all():  # of a table that is wider than the screen, too
                assert caption.evaluate("one => one.firstChild.getBoundingClientRect().right <= innerWidth")
            assert page.locator("img:not([alt]), svg:not([aria-label])").count() == 0
            recall = page.locator("#classes table.sorts").first.locator("th", has_text="Recall")
            for expected in ("descending", "ascending"):
                recall.locator("button").click()
                assert recall.get_attribute("aria-sort") == expected
                cells = (
                    page.locator("#classes table.sorts").first.locator("tbody tr td:nth-of-type(3)").all_inner_texts()
                )
                assert cells == sorted(cells, reverse=expected == "descending")
            assert errors == []
            page.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_core_finds_no_violation(browser, pictures, table, scheme):
    axe = Path(sys.prefix) / "node_modules" / "axe-core" / "axe.min.js"
    if not axe.is_file():
        pytest.skip(f"needs {axe}: scripts/test installs it where there is npm")
    for _, path in (pictures, table):
        page = browser.new_page(color_scheme=scheme)
        page.goto(path.as_uri())
        page.evaluate(axe.read_text())
        assert page.evaluate("axe.run().then(found => found.violations.map(one => one.id))") == []
        page.close()
