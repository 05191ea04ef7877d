"""What stands in a folder that we did not write stays, whatever is asked for."""

import json
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tfsoftmax
import tuning
from tfsoftmax._folders import locked

CONFIG = tfsoftmax.RunConfig(epochs=1, batch_size=32)


@pytest.fixture(scope="module")
def data(source):
    return tfsoftmax.Data(source, batch_size=32)


def train(data, folder, **settings):
    return tfsoftmax.train(
        data, tfsoftmax.RunConfig(batch_size=32, **{"epochs": 1, **settings}), folder, overwrite=True
    )


def search(data, folder):
    space = {"lr": (0.01, 0.1)}
    return tuning.search(data, folder, config=CONFIG, space=space, tuner="grid", trials=2, overwrite=True)


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


STRANGERS = {
    "an empty object": ("config.json", "{}"),
    "a checkpoint of a language model": ("config.json", '{"architectures": ["BertModel"], "hidden_size": 768}'),
    "some of our settings": ("config.json", '{"lr": 0.1, "epochs": 3}'),
    "no JSON": ("config.json", "model: bert"),
    "another search": ("search.json", '{"query": "cats"}'),
    "no mark at all": ("notes.txt", "mine"),
}


@pytest.mark.parametrize("made", [train, search])
@pytest.mark.parametrize("stranger", STRANGERS)
def test_folders_of_others_are_refused(data, tmp_path, made, stranger):
    name, text = STRANGERS[stranger]
    (tmp_path / "d" / "below").mkdir(parents=True)
    for path, written in {name: text, "weights.bin": "w", "below/.config.json.7.tmp": "t", ".model.keras": "m"}.items():
        (tmp_path / "d" / path).write_text(written)
    before = content(tmp_path)
    with pytest.raises(tfsoftmax.InputError, match=r"d' exists and is not a (run|tune) folder.*choose another --out$"):
        made(data, tmp_path / "d")
    assert content(tmp_path) == before


@pytest.mark.parametrize("made", [train, search])
def test_files_of_others_stay_in_our_folders(data, tmp_path, made):
    made(data, tmp_path / "d")
    ours = set(content(tmp_path))
    others = {tmp_path / "d" / name for name in ("notes.txt", "trials/trial_0000/why.md", "tensorboard/x", ".a.1.tmp")}
    for path in others:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    torn = tmp_path / "d" / f".{'spec' if made is train else 'best'}.json.4321.tmp"
    torn.write_text("{")
    if made is train:
        (tmp_path / "d" / "metrics.json").write_text("old")
    made(data, tmp_path / "d")
    assert set(content(tmp_path)) == ours | others
    assert {path.read_text() for path in others} == {"mine"}


def test_a_run_without_end_leaves_the_files_of_others(data, tmp_path):
    run = train(data, tmp_path / "d")
    (run.folder / "notes.txt").write_text("mine")
    with pytest.raises(tfsoftmax.TrainingError, match="the loss is"):
        train(data, run.folder, lr=1e38, momentum=0.9)
    assert os.listdir(run.folder) == ["notes.txt"]


def test_overwrite_leaves_nothing_of_the_run_before(data, tmp_path):
    run = train(data, tmp_path / "d", tensorboard=True)
    assert (run.folder / "tensorboard").is_dir()
    run = train(data, run.folder)
    written = ["config.json", "history.csv", "metrics.json", "model.keras", "report", "report.html", "spec.json"]
    assert sorted(os.listdir(run.folder)) == written


def test_a_link_is_followed_and_stays(data, tmp_path):
    run = train(data, tmp_path / "d")
    (tmp_path / "link").symlink_to(run.folder)
    assert train(data, tmp_path / "link", lr=0.5).config.lr == 0.5
    assert (tmp_path / "link").is_symlink()
    assert tfsoftmax.Run(run.folder).config.lr == 0.5


def test_a_lock_file_of_others(data, tmp_path):
    (tmp_path / ".d.lock").write_text("requests==2.0")
    with pytest.raises(tfsoftmax.InputError, match=r"d.lock' is not a lock of ours"):
        train(data, tmp_path / "d")
    assert (tmp_path / ".d.lock").read_text() == "requests==2.0"


def test_a_lock_that_many_wait_for(tmp_path):
    """The file is removed by each that leaves, at any moment of those that come."""
    inside, seen = [], []

    def work(_):
        for _ in range(1000):
            with locked(tmp_path / "d", wait=True):
                inside.append(None)
                seen.append(len(inside))
                inside.pop()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert seen == [1] * 4000
    assert os.listdir(tmp_path) == []


def test_a_folder_without_the_fingerprint_goes_on(data, tmp_path):
    """As the first versions wrote them."""
    run = train(data, tmp_path / "d")
    values = json.loads((run.folder / "config.json").read_text())
    del values["fingerprint"]
    (run.folder / "config.json").write_text(json.dumps(values))
    assert tfsoftmax.Run(run.folder).evaluate(data=data) == run.metrics["test"]
    (run.folder / "metrics.json").unlink()
    again = tfsoftmax.train(data, CONFIG, run.folder)
    np.testing.assert_array_equal(again.model.get_weights()[0], run.model.get_weights()[0])
