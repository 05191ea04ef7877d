"""What describe and a notebook show of runs and exports; of searches see tests/tuning/test_tuned.py."""

import json
import shutil
from html.parser import HTMLParser

from conftest import CLASSES, ROWS, TEST_ROWS

import tfsoftmax


def described(tfsoftmax_cli, folder):
    status, out, err = tfsoftmax_cli("describe", folder, "--json")
    assert (status, err) == (0, "")
    text = tfsoftmax_cli("describe", folder)[1]
    assert len(text.splitlines()) < 40
    assert max(map(len, text.splitlines())) <= 100
    return json.loads(out), text


def test_a_run(finished, tfsoftmax_cli):
    run = finished[0]
    found, text = described(tfsoftmax_cli, run.folder)
    assert (found["kind"], found["finished"], found["epochs"]) == ("run", True, 3)
    assert found["data"]["rows"] == {"train": ROWS, "test": TEST_ROWS}
    assert found["data"]["fingerprint"] == run.config.fingerprint
    assert tuple(found["classes"]) == CLASSES
    assert found["test"] == {name: run.metrics["test"][name] for name in found["test"]}
    assert found["temperature"] == run.temperature
    rows = (run.folder / "history.csv").read_text().splitlines()
    losses = [float(row.split(",")[rows[0].split(",").index("val_loss")]) for row in rows[1:]]
    assert found["best_epoch"] == 1 + losses.index(min(losses))
    assert found["bytes"] == sum(path.stat().st_size for path in run.folder.rglob("*") if path.is_file())
    for word in ("230 training and 50 test rows", "image, 6x5 uint8", "lr 0.05", "3 of 3", "95 % interval"):
        assert word in " ".join(text.split())


def test_a_run_that_was_killed(finished, tfsoftmax_cli, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0].folder, folder)
    (folder / "state").write_bytes(b"")
    (folder / "history.csv").write_text("epoch,loss,val_loss\n1,0.5,0.75\n2,0.25,1\n")
    for _ in range(2):  # in the last moment, and before
        found, text = described(tfsoftmax_cli, folder)
        assert (found["finished"], found["epochs"], found["best_epoch"]) == (False, 2, 1)
        assert found["test"] is None
        assert "not finished" in text
        (folder / "metrics.json").unlink(missing_ok=True)


def test_an_export(finished, tfsoftmax_cli, tmp_path):
    run, done = finished
    found, text = described(tfsoftmax_cli, done.folder.parent)
    assert (found["kind"], found["versions"], found["calibrated"]) == ("export", [1], False)
    assert {row["format"]: row["bytes"] for row in found["formats"]} == {
        row["format"]: row["bytes"] for row in done.parity
    }
    assert found["input"] == {"name": "image", "shape": [6, 5], "dtype": "uint8"}
    assert found["config"]["data"] == run.config.data
    assert "model.int8.tflite" in text
    assert "not in the weights" in text
    shutil.copytree(done.folder.parent, tmp_path / "m")
    shutil.copytree(tmp_path / "m" / "1", tmp_path / "m" / "12")
    assert described(tfsoftmax_cli, tmp_path / "m")[0]["versions"] == [1, 12]
    assert described(tfsoftmax_cli, tmp_path / "m" / "12")[0]["versions"] == [12]


def test_what_is_none_of_ours(tfsoftmax_cli, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for path, why in {
        tmp_path: "there is nothing of ours in",
        tmp_path / "no": "there is no folder",
        tmp_path / "notes.txt": "is a file",
    }.items():
        status, out, err = tfsoftmax_cli("describe", path)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert why in err


class Cells(HTMLParser):
    """The text of a table, and the names of its elements."""

    def __init__(self, text):
        super().__init__()
        self.text, self.tags = "", set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)

    def handle_data(self, data):
        self.text += data


def test_what_a_notebook_shows(finished, tmp_path):
    markup = "<img src=x onerror=alert(1)>"
    shutil.copytree(finished[0].folder, tmp_path / "run")
    for name in ("spec.json", "metrics.json"):
        path = tmp_path / "run" / name
        path.write_text(path.read_text().replace(CLASSES[1], markup))
    page = Cells(tfsoftmax.Run(tmp_path / "run")._repr_html_())
    assert page.tags == {"table", "tr", "th", "td", "bdi"}
    assert markup in page.text
    assert f"accuracy {finished[0].metrics['test']['accuracy']:.4f}" in page.text
