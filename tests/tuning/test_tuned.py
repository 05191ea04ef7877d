"""A tune folder as it is read again: what describe says of it, and its report."""

import csv
import json
import shutil

import pytest

import tfsoftmax
import tuning
from tfsoftmax._folders import remove
from tuning.search import TUNE_FOLDER

RATES = (0.001, 0.1, 1e38)  # the last one diverges


@pytest.fixture(scope="module")
def found(source, tmp_path_factory):
    data = tfsoftmax.Data(source, batch_size=32)
    config = tfsoftmax.RunConfig(epochs=3, momentum=0.9)
    folder = tmp_path_factory.mktemp("tuned") / "tune <b>"
    return tuning.search(data, folder, config=config, space={"lr": RATES}, tuner="grid", trials=3)


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def ranked(found):
    """Its trials, those that ended by their loss."""
    rows = rows_of(found.folder / "trials.csv")
    return sorted(rows, key=lambda row: float(row["val_loss"] or "inf"))


def test_describe(found, ranked, tfsoftmax_cli, tmp_path):
    said = json.loads(tfsoftmax_cli("describe", found.folder, "--json")[1])
    assert (said["kind"], said["finished"]) == ("tune", True)
    assert said["trials"] == {"completed": 2, "failed": 1}
    assert [row["trial"] for row in said["best"]] == [row["trial"] for row in ranked[:2]]
    assert said["best"][0]["val_loss"] == float(ranked[0]["val_loss"])
    assert said["space"] == {"lr": list(RATES)}
    assert said["config"]["lr"] == found.best.lr
    text = tfsoftmax_cli("describe", found.folder)[1]
    assert "lr 0.001, 0.1, 1e+38, by grid, for val_loss" in text
    assert f"{float(ranked[0]['val_loss']):.4g}" in text

    shutil.copytree(found.folder, tmp_path / "tune")
    for name in ("trials.csv", "best.json"):  # as a kill leaves it
        (tmp_path / "tune" / name).unlink()
    said = json.loads(tfsoftmax_cli("describe", tmp_path / "tune", "--json")[1])
    assert (said["finished"], said["trials"], said["best"]) == (False, {"trained": 2}, [])
    status, _, err = tfsoftmax_cli("report", tmp_path / "tune")
    assert (status, "has not come to its end" in err) == (2, True)


def test_the_report(found, ranked, tfsoftmax_cli, tmp_path):
    shutil.copytree(found.folder, tmp_path / "tune")
    status, out, err = tfsoftmax_cli("report", tmp_path / "tune")
    assert (status, err) == (0, "")
    page = tmp_path / "tune" / "report.html"
    assert out == f"report: {page}\n"
    text = page.read_text()
    places = [text.index(f'<th scope="row">{row["trial"]}</th>') for row in ranked]
    assert places == sorted(places)
    assert "diverged: " in text
    assert text.count("<svg") == 2
    for row in ranked[:2]:
        past = found.tuner.history_of(row["trial"])["val_loss"]
        drawn = [one for one in rows_of(tmp_path / "tune/report/curves.csv") if one["trial"] == row["trial"]]
        assert [float(one["val_loss"]) for one in drawn] == past
    assert len(rows_of(tmp_path / "tune/report/lr.csv")) == 2
    status, _, err = tfsoftmax_cli("report", tmp_path / "tune", "--labels")
    assert (status, "--labels goes with a run" in err) == (2, True)
    remove(tmp_path / "tune", TUNE_FOLDER)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.browser
def test_the_report_in_a_browser(browser, found, tfsoftmax_cli, tmp_path):
    assert tfsoftmax_cli("report", found.folder, "--to", tmp_path / "page.html")[0] == 0
    page, errors = browser.new_page(viewport={"width": 360, "height": 900}), []
    page.on("console", lambda message: errors.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    inside = "caption => caption.firstChild.getBoundingClientRect().right <= innerWidth"
    assert page.locator("caption").first.evaluate(inside)
    page.locator("th", has_text="lr").locator("button").click()
    assert page.locator("tbody tr td:nth-of-type(1)").all_inner_texts() == ["1.000e+38", "0.1000", "0.001000"]
    assert errors == []
    page.close()
