import gzip
import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
from conftest import idx_bytes


@pytest.fixture
def trained(finished):
    return finished[0].folder


def test_the_whole_way(idx_folder, tfsoftmax_cli, tmp_path):
    run, export = tmp_path / "run", tmp_path / "export"
    status, out, err = tfsoftmax_cli(
        "train", "--data", f"idx:{idx_folder}", "--out", run, "--epochs", 2, "--batch-size", 32
    )
    assert status == 0
    assert "trained 2 epochs" in out
    first, rate, *epochs = err.splitlines()
    assert first == "tiny: 230 training and 50 test rows of 6x5 uint8 values, 3 classes"
    assert rate == f"learning rate {json.loads((run / 'config.json').read_text())['lr']:g}"
    assert f"report: {run / 'report.html'}\n" in out
    assert (run / "report.html").is_file()
    assert [line.split()[1] for line in epochs] == ["1/2", "2/2"], "plain lines where there is no terminal"
    status, out, err = tfsoftmax_cli("evaluate", run, "--split", "val")
    assert (status, err) == (0, "")
    assert "95 % interval" in out
    assert "confusion matrix" in out
    status, out, err = tfsoftmax_cli("export", run, "--to", export, "--json")
    assert (status, err) == (0, "")
    assert json.loads(out)["folder"] == str(export / "1")
    status, out, _ = tfsoftmax_cli("predict", export, idx_folder / "t10k-images-idx3-ubyte.gz")
    assert status == 0
    assert len(out.splitlines()) == 50


def test_json_is_one_object_and_config_repeats(idx_folder, tfsoftmax_cli, tmp_path):
    arguments = ["--data", f"idx:{idx_folder}", "--epochs", 2, "--batch-size", 32, "--val", 40, "--lr", 0.3]
    status, out, _ = tfsoftmax_cli("train", *arguments, "--out", tmp_path / "run", "--json")
    assert status == 0
    first = json.loads(out)
    config = tmp_path / "run" / "config.json"
    status, out, _ = tfsoftmax_cli("train", "--config", config, "--out", tmp_path / "again", "--json")
    again = json.loads(out)
    assert (again["val"], again["test"]) == (first["val"], first["test"])
    assert (tmp_path / "again" / "history.csv").read_bytes() == (tmp_path / "run" / "history.csv").read_bytes()
    tfsoftmax_cli("train", "--config", config, "--lr", 0.01, "--out", tmp_path / "other")
    assert json.loads((tmp_path / "other" / "config.json").read_text())["lr"] == 0.01
    status, out, _ = tfsoftmax_cli("evaluate", tmp_path / "run", "--json")
    assert json.loads(out) == {"split": "test", **first["test"]}


def test_lists(tfsoftmax_cli):
    for verb, word in [("formats", "saved_model"), ("datasets", "fashion_mnist")]:
        status, out, _ = tfsoftmax_cli(verb)
        assert status == 0
        assert word in out
        assert isinstance(json.loads(tfsoftmax_cli(verb, "--json")[1]), dict)


def test_help_has_defaults_and_an_example(tfsoftmax_cli):
    for verb in (
        "serve",
        "train",
        "evaluate",
        "export",
        "verify",
        "predict",
        "formats",
        "numbers",
        "datasets",
        "inspect",
    ):
        status, out, _ = tfsoftmax_cli(verb, "--help")
        assert status == 0
        assert f"Example: tfsoftmax {verb}" in " ".join(out.split())
    assert "0.1 for fashion_mnist" in " ".join(tfsoftmax_cli("train", "--help")[1].split())
    assert tfsoftmax_cli()[:2] == tfsoftmax_cli("--help")[:2] == tfsoftmax_cli("-h")[:2]
    assert tfsoftmax_cli("train", "-h") == tfsoftmax_cli("train", "--help")


def test_version(tfsoftmax_cli):
    assert tfsoftmax_cli("--version") == (0, f"tfsoftmax {metadata.version('tfsoftmax')}\n", "")


def test_python_m(tmp_path):
    done = subprocess.run([sys.executable, "-m", "tfsoftmax", "formats"], capture_output=True, text=True, check=True)
    assert "saved_model" in done.stdout


def test_shell_completion(tfsoftmax_cli, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))  # no shell may have started us
    found = tfsoftmax_cli("--show-completion")
    assert "complete -o default -F" in found[1], found
    for name, value in {
        "_TFSOFTMAX_COMPLETE": "complete_bash",
        "COMP_WORDS": "tfsoftmax ev",
        "COMP_CWORD": "1",
    }.items():
        monkeypatch.setenv(name, value)
    assert tfsoftmax_cli()[1].split() == ["evaluate"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--batch-size", "0"], "batch_size must be a whole number of at least 1, got 0"),
        (["--lr", "-1"], "lr must be a finite number above 0, got -1"),
        (["--lr", "fast"], "--lr"),
        (["--epochs", "0"], "epochs must be a whole number of at least 1, got 0"),
        (["--val", "0", "--patience", "2"], "patience needs validation rows, and refit or val=0 leaves none"),
        (["--val", "ten"], "--val must be a number of rows, a share of them such as 0.2 or 'test', got 'ten'"),
        (["--val", "230"], "val=230 leaves no training row of 230"),
        (["--data", "fasion_mnist"], "unknown data set 'fasion_mnist'; known are .*nearest: fashion_mnist"),
        (["--optimizer", "sdg"], "optimizer must be one of adam"),
        (["--schedule", "linear"], "schedule must be one of constant, cosine"),
        (["--preprocess", "none"], "preprocess must be one of"),
        (["--config", "nothing.json"], "cannot read configuration 'nothing.json'"),
        (["--wrong"], "--wrong"),
    ],
)
def test_wrong_usage(idx_folder, tfsoftmax_cli, tmp_path, arguments, text):
    status, out, err = tfsoftmax_cli("train", "--data", f"idx:{idx_folder}", "--out", tmp_path / "run", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("train-images-idx3-ubyte.gz", b"\x1f\x8b", "not a whole gzip file"),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"\7\7\7\7", mtime=0), "not an IDX file"),
        ("train-labels-idx1-ubyte.gz", gzip.compress(idx_bytes(__import__("numpy").zeros(3)), mtime=0), "3 labels"),
    ],
)
def test_bad_data(idx_folder, tfsoftmax_cli, tmp_path, name, content, text):
    (idx_folder / name).write_bytes(content)
    status, out, err = tfsoftmax_cli("train", "--data", f"idx:{idx_folder}", "--out", tmp_path / "run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert text in err
    assert not (tmp_path / "run").exists()


def test_folders_that_cannot_be_used(trained, idx_folder, tfsoftmax_cli, tmp_path):
    before = sorted(os.listdir(trained))
    status, _, err = tfsoftmax_cli("train", "--data", f"idx:{idx_folder}", "--out", trained)
    assert (status, err.count("\n")) == (2, 1)
    assert "--overwrite" in err
    assert sorted(os.listdir(trained)) == before
    (tmp_path / "file").write_text("")
    status, _, err = tfsoftmax_cli("train", "--data", f"idx:{idx_folder}", "--out", tmp_path / "file" / "run")
    assert status == 2
    assert "cannot write the folder" in err
    status, _, err = tfsoftmax_cli("export", trained, "--to", tmp_path / "file")
    assert status == 2
    assert "is a file, not an export folder" in err
    status, _, err = tfsoftmax_cli("evaluate", tmp_path / "nothing")
    assert status == 2
    assert "there is no run folder" in err
    status, _, err = tfsoftmax_cli("evaluate", trained, "--split", "train")
    assert status == 2
    assert "--split must be one of test, val, got 'train'" in err


@pytest.fixture(scope="module")
def kinds(finished, tmp_path_factory):
    """What a path is -> such a path."""
    run, export = finished[0].folder, finished[1].folder.parent
    unfinished = tmp_path_factory.mktemp("kinds") / "unfinished"
    unfinished.mkdir()
    for name in ("config.json", "spec.json"):
        (unfinished / name).write_bytes((run / name).read_bytes())
    tune = unfinished.with_name("tune")
    tune.mkdir()
    (tune / "search.json").write_text("{}")
    return {
        "a run folder": run,
        "an export folder": export,
        "one version of an export": export / "1",
        "a tune folder": tune,
        "the folder of an unfinished run": unfinished,
        "a file": run / "model.keras",
    }


@pytest.mark.parametrize(
    ("command", "wrong", "expected", "use"),
    [
        (["evaluate", ...], "an export folder", "a run folder", "`tfsoftmax predict`, `verify` and `serve` take it"),
        (["evaluate", ...], "one version of an export", "a run folder", "`tfsoftmax predict` and `verify` take it"),
        (["evaluate", ...], "a tune folder", "a run folder", "`tfsoftmax train --config"),
        (["export", ..., "--to", "x"], "an export folder", "a run folder", "`tfsoftmax predict`"),
        (
            ["export", "RUN", "--to", ...],
            "a run folder",
            "an export folder",
            "`tfsoftmax evaluate` and `export` take it",
        ),
        (["verify", ...], "a run folder", "an export folder", "`tfsoftmax evaluate`"),
        (["verify", ...], "a tune folder", "an export folder", "`tfsoftmax train --config"),
        (["predict", ..., "x.npy"], "a run folder", "an export folder", "`tfsoftmax evaluate`"),
        (
            ["predict", ..., "x.npy"],
            "the folder of an unfinished run",
            "an export folder",
            "`tfsoftmax train` finishes",
        ),
        (["predict", ..., "x.npy"], "a file", "an export folder", "name the folder"),
        (["serve", ...], "a run folder", "an export folder", "`tfsoftmax evaluate`"),
        (["serve", ...], "one version of an export", "an export folder", "`serve` its parent"),
    ],
)
def test_another_kind_of_folder_is_named(kinds, tfsoftmax_cli, tmp_path, monkeypatch, command, wrong, expected, use):
    monkeypatch.chdir(tmp_path)
    names = {...: kinds[wrong], "RUN": kinds["a run folder"]}
    status, out, err = tfsoftmax_cli(*(names.get(word, word) for word in command))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"'{kinds[wrong]}' is {wrong}, not {expected}; " in err
    assert use in err
    assert not list(tmp_path.iterdir())


def test_a_folder_as_configuration(kinds, tfsoftmax_cli, tmp_path):
    status, _, err = tfsoftmax_cli("train", "--config", kinds["a run folder"], "--out", tmp_path / "run")
    assert (status, err.count("\n")) == (2, 1)
    assert "--config must be a JSON file, got the folder" in err


def test_export_of_an_unfinished_run(trained, tfsoftmax_cli, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_bytes((trained / "config.json").read_bytes())
    status, out, err = tfsoftmax_cli("export", tmp_path / "run", "--to", tmp_path / "export")
    assert (status, out) == (2, "")
    assert "has not finished" in err
    assert not (tmp_path / "export").exists()


def test_damaged_model_file(trained, idx_folder, tfsoftmax_cli, tmp_path):
    import shutil

    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "model.keras"
    path.write_bytes(path.read_bytes()[:1000])
    status, _, err = tfsoftmax_cli("export", tmp_path / "run", "--to", tmp_path / "export")
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot open the model" in err


def test_debug_shows_the_traceback(tfsoftmax_cli, monkeypatch):
    from tfsoftmax import InputError, cli

    monkeypatch.setattr("sys.argv", ["tfsoftmax", "train", "--epochs", "0", "--debug"])
    with pytest.raises(InputError):
        cli.main()
