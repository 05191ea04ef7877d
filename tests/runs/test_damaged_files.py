"""Every JSON file that is read, damaged: it is read, or refused in one line that names the file."""

import copy
import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfsoftmax
import tuning
from tfsoftmax.exporting import manifest
from tfsoftmax.tuned import Tuned

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**31, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "test", "sgd", "\ud800"])
    | st.floats()
    | st.text(st.characters(), max_size=5)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    """The paths of all values inside a JSON value, its own among them; of lists the first two elements."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def damaged(data, value):
    """``value`` with something in it replaced, removed or added, as the text of a file."""
    value = copy.deepcopy(value)
    place = data.draw(st.sampled_from(sorted(places(value), key=repr)))
    if not place:
        return json.dumps(data.draw(VALUES))
    around = value
    for key in place[:-1]:
        around = around[key]
    what = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
    if what == "remove":
        del around[place[-1]]
    elif what == "add" and isinstance(around, dict):
        around[data.draw(st.text(st.characters(), max_size=3))] = data.draw(VALUES)
    else:
        around[place[-1]] = data.draw(VALUES)
    return json.dumps(value)


def signed(text):
    """The text of a manifest with the signature that it should have, so that not the signature is refused."""
    try:
        values = json.loads(text)
        assert values["sha256"].isascii()
        text = json.dumps({**values, "sha256": "0" * 64})
        return manifest._sign(text, manifest.digest(text.encode()))
    except (AssertionError, AttributeError, KeyError, TypeError, UnicodeEncodeError):
        return text


@pytest.fixture(scope="module")
def folder(finished, source, tmp_path_factory):
    """A run, an export and a search, whose files are damaged and put back."""
    folder = tmp_path_factory.mktemp("damaged")
    run, done = finished
    shutil.copytree(run.folder, folder / "run")
    shutil.copytree(done.folder.parent, folder / "tiny")
    config = tfsoftmax.RunConfig(epochs=1)
    found = tfsoftmax.Data(source, batch_size=32)
    space = {"lr": (0.01, 0.1)}
    tuning.search(found, folder / "tune", config=config, space=space, tuner="grid", trials=2)
    return folder


def search(folder):
    from tuning.search import TUNE_FOLDER

    return TUNE_FOLDER.read(folder / "tune" / "search.json")


FILES = {
    "run/config.json": lambda folder: tfsoftmax.Run(folder / "run").config,
    "run/spec.json": lambda folder: tfsoftmax.Run(folder / "run").spec,
    "run/metrics.json": lambda folder: tfsoftmax.Run(folder / "run").metrics,
    "tune/best.json": lambda folder: tfsoftmax.RunConfig.load(folder / "tune" / "best.json", "configuration"),
    "tune/search.json": search,
    "tune/trials/lanes/0000.json": lambda folder: Tuned(folder / "tune").histories,
    "tiny/1/manifest.json": lambda folder: manifest.verify_files(folder / "tiny" / "1"),
}


def tried(folder, name, text, read):
    path = folder / name
    before = path.read_bytes()
    try:
        path.write_text(text)
        said = refusal(read, folder)
    finally:
        path.write_bytes(before)
    if said is not None:
        said.encode()
        assert len(said.splitlines()) == 1
        assert path.name in said or "is not as it was exported: " in said
        assert len(said) < 1000


def refusal(read, folder):
    """What is said where the file is refused; None where it is read."""
    try:
        read(folder)
    except tfsoftmax.TfsoftmaxError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", FILES)
@given(data=st.data())
def test_damaged_values(folder, name, data):
    text = damaged(data, json.loads((folder / name).read_text()))
    tried(folder, name, signed(text) if "manifest" in name else text, FILES[name])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "text", ["", "[" * 10**6, '{"a":' * 10**6, '{"epochs": ' + "9" * 5000 + "}", '"\\ud800"', "\0"]
)
def test_damaged_text(folder, name, text):
    tried(folder, name, text, FILES[name])


NESTED = json.loads("[" * 50 + "]" * 50)


@pytest.mark.parametrize(
    ("command", "name", "field", "value", "text"),
    [
        (
            "evaluate",
            "run/config.json",
            "batch_size",
            "32",
            "config.json': batch_size must be a whole number, got '32'",
        ),
        (
            "evaluate",
            "run/config.json",
            "batch_size",
            10**30,
            "batch_size must be a whole number of at most 2147483647, got 1000000000",
        ),
        ("evaluate", "run/config.json", "data", ["idx"], "config.json': data must be a string or null, got ['idx']"),
        ("evaluate", "run/config.json", "fingerprint", "x", "is no longer the data of the run"),
        ("evaluate", "run/spec.json", "classes", ["a", 1, "b"], "spec.json': classes[1] must be a string, got 1"),
        ("evaluate", "run/spec.json", "classes", ["a", "b", "\ud800"], "classes[2] must be text without lone"),
        ("evaluate", "run/spec.json", "classes", ["a", "b", "b"], "the classes 1 and 2 are both called 'b'"),
        ("evaluate", "run/spec.json", "preprocess", "whiten", "preprocess must be one of center, standardize, unit"),
        ("evaluate", "run/spec.json", "shape", [5, 6], "spec.json beside it says (5, 6) and 3 classes"),
        ("evaluate", "run/spec.json", "offset", NESTED, "spec.json': offset[0] must be a number, got [[["),
        ("export", "run/metrics.json", "test", NESTED, "metrics.json'.test must be an object, got [[["),
        ("export", "run/metrics.json", "seconds", "long", "metrics.json'.seconds must be a number, got 'long'"),
        ("predict", "tiny/1/manifest.json", "spec", [], "manifest.json'.spec must be a JSON object, got []"),
        ("verify", "tiny/1/manifest.json", "parity", {"a": 1}, "manifest.json'.parity must be a list, got {'a': 1}"),
        (
            "verify",
            "tiny/1/manifest.json",
            "parity",
            [{"format": "jpeg", "model_accuracy": 1}],
            "format in the manifest",
        ),
        ("verify", "tiny/1/manifest.json", "files", {"\ud800": {"sha256": ""}}, "a key of manifest"),
        ("train", "tune/best.json", "lr", "fast", "best.json': lr must be a number or null, got 'fast'"),
        ("train", "tune/best.json", "epochs", True, "best.json': epochs must be a whole number, got True"),
    ],
)
def test_the_command_names_file_and_field(folder, tfsoftmax_cli, tmp_path, command, name, field, value, text):
    path = folder / name
    before = path.read_bytes()
    changed = json.dumps({**json.loads(before), field: value})
    path.write_text(signed(changed) if command == "verify" else changed)
    (tmp_path / "row.json").write_text("[]")
    arguments = {
        "evaluate": [folder / "run"],
        "export": [folder / "run", "--to", tmp_path / "export"],
        "predict": [folder / "tiny", tmp_path / "row.json"],
        "verify": [folder / "tiny" / "1"],
        "train": ["--config", path, "--out", tmp_path / "run"],
    }[command]
    try:
        status, out, err = tfsoftmax_cli(command, *arguments)
    finally:
        path.write_bytes(before)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert text in err
