"""Row files: the same rows as the source in another order, in files that NumPy opens, written whole or not at all."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tfsoftmax
from tfsoftmax import sources
from tfsoftmax.errors import InputError
from tfsoftmax.sources.converted import convert
from tfsoftmax.stored import Stored

X = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
Y = np.array(["a", "b", "c", "d"])[np.arange(200) // 50]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("tfsoftmax.sources.converted._SHARD", 12 * 64)
    monkeypatch.setattr("tfsoftmax.sources.converted._PART", 12 * 30)


@pytest.mark.parametrize("memory", [None, 100])
def test_shuffled(tmp_path, memory):
    for name, array in {"x": X, "y": Y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    done = []
    convert(sources.read(f"npy:{tmp_path}", memory=memory), tmp_path / "rows", 7, lambda *rows: done.append(rows))
    assert done[-1] == (400, 400)
    assert sorted(path.name for path in (tmp_path / "rows").iterdir()) == [
        "rows.json",
        *(f"train-0000{i}.npy" for i in range(4)),
        "y_train.npy",
    ]
    x = np.concatenate([np.load(tmp_path / "rows" / f"train-0000{i}.npy") for i in range(4)])
    order = np.random.default_rng(7).permutation(200)
    np.testing.assert_array_equal(x, X[order])
    np.testing.assert_array_equal(np.array(["a", "b", "c", "d"])[np.load(tmp_path / "rows" / "y_train.npy")], Y[order])
    mark = json.loads((tmp_path / "rows" / "rows.json").read_text())
    for entry in (*mark["x_train"], *mark["arrays"].values()):
        assert hashlib.sha256((tmp_path / "rows" / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]
    both = [tfsoftmax.load(name, memory=memory) for name in (tmp_path / "rows", f"rows:{tmp_path / 'rows'}")]
    assert both[0].fingerprint == both[1].fingerprint == tfsoftmax.Source("rows", X[order], Y[order]).fingerprint
    assert both[0].classes == ("a", "b", "c", "d")
    assert isinstance(both[0].source.x_train, Stored) == (memory is not None)


def test_all_parts_of_a_source(tmp_path):
    parts = {"groups": np.arange(200) // 5, "val_rows": np.array([3, 77, 150]), "weights": np.arange(200.0) + 1}
    test = {"x_test": X[:9], "y_test": Y[:9], "weights_test": np.arange(9.0) + 1}
    source = tfsoftmax.Source("all", X, Y, classes=("d", "c", "b", "a"), **parts, **test)
    convert(source, tmp_path / "kept", None)
    assert sources.read(tmp_path / "kept").fingerprint == source.fingerprint
    convert(source, tmp_path / "shuffled", 1)
    made = sources.read(tmp_path / "shuffled")
    order = np.random.default_rng(1).permutation(200)
    for name in ("x_train", "y_train", "groups", "weights"):
        np.testing.assert_array_equal(getattr(made, name), getattr(source, name)[order])
    np.testing.assert_array_equal(np.sort(order[made.val_rows]), parts["val_rows"])
    np.testing.assert_array_equal(made.x_test, source.x_test)


def test_what_is_refused(tmp_path):
    source = tfsoftmax.Source("s", X, Y)
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="there' exists; choose another folder"):
        convert(source, tmp_path / "there")
    convert(source, tmp_path / "rows")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        convert(source, tmp_path / "file" / "rows")
    (tmp_path / "rows" / "train-00002.npy").unlink()
    with pytest.raises(InputError, match=r"cannot read '.*train-00002\.npy': No such file"):
        sources.read(tmp_path / "rows")
    np.save(tmp_path / "rows" / "train-00002.npy", X[:3])
    with pytest.raises(InputError, match=r"train-00002\.npy' has 3 rows of shape \(3,\); rows.json says 64"):
        sources.read(tmp_path / "rows")
    convert(source, tmp_path / "other")
    content = bytearray((tmp_path / "other" / "y_train.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "other" / "y_train.npy").write_bytes(content)
    with pytest.raises(InputError, match=r"y_train\.npy' is not as it was written"):
        sources.read(tmp_path / "other")


def test_a_kill_leaves_nothing_and_the_same_command_begins_again(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 256, (400_000, 600), dtype=np.uint8))
    np.save(tmp_path / "y.npy", np.arange(400_000, dtype=np.int32) % 3)
    command = [sys.executable, "-m", "tfsoftmax", "convert", f"npy:{tmp_path}", "--to", str(tmp_path / "rows")]
    begun = subprocess.Popen(command)
    while not list(tmp_path.glob(".rows.converting/*.part")):
        time.sleep(0.02)
        assert begun.poll() is None
    begun.send_signal(signal.SIGKILL)
    begun.wait()
    assert not (tmp_path / "rows").exists()
    assert os.listdir(tmp_path / ".rows.converting")
    subprocess.run(command, check=True, capture_output=True)
    assert not (tmp_path / ".rows.converting").exists()
    labels = np.load(tmp_path / "rows" / "y_train.npy")
    assert np.bincount(labels).tolist() == [133_334, 133_333, 133_333]
