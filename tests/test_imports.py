import ast
import inspect
import os
import subprocess
import sys

import pytest

import tfsoftmax
from tfsoftmax._quiet import quiet


def run(program, *arguments):
    return subprocess.run(
        [sys.executable, *arguments, "-c", program], capture_output=True, text=True, check=True
    ).stdout


NAMES = ("tensorflow", "keras", "keras_tuner", "onnxruntime", "matplotlib", "numpy", "tuning")
HEAVY = f"[m for m in {NAMES} if m in sys.modules]"


def test_import_is_light():
    program = f"""
import sys, time
begin = time.perf_counter()
import tfsoftmax
print(time.perf_counter() - begin, {HEAVY})
"""
    seconds, heavy = min((run(program).split(maxsplit=1) for _ in range(3)), key=lambda row: float(row[0]))
    assert heavy.strip() == "[]"
    assert float(seconds) < 0.2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["train", "--help"],
        ["serve", "--help"],
        ["formats"],
        ["numbers"],
        ["predict", "EXPORT", "x.npy"],
        ["inspect", "fashion_mnist"],
        ["describe", "RUN"],
        ["describe", "EXPORT", "--json"],
        ["evaluate", "RUN"],
        ["report", "RUN", "--to", "report.html"],
    ],
)
def test_verbs_without_tensorflow(finished, tmp_path, arguments):
    import numpy as np

    np.save(tmp_path / "x.npy", np.zeros((6, 5), np.uint8))
    names = {"RUN": str(finished[0].folder), "EXPORT": str(finished[1].folder.parent)}
    names |= {name: str(tmp_path / name) for name in ("x.npy", "report.html")}
    program = f"""
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None  # importing them is an error
sys.argv = ["tfsoftmax", *{[names.get(word, word) for word in arguments]!r}]
from tfsoftmax import cli
cli.main()
"""
    assert run(program)


def test_public_names():
    assert tfsoftmax.__all__ == [
        "Data",
        "ExportError",
        "FashionMNIST",
        "InputError",
        "ModelSpec",
        "Predictor",
        "Resume",
        "Rows",
        "Run",
        "RunConfig",
        "SoftmaxRegression",
        "Source",
        "TfsoftmaxError",
        "TrainingError",
        "accelerate",
        "export",
        "load",
        "solve",
        "train",
        "verify",
    ]
    for name in tfsoftmax.__all__:
        assert getattr(tfsoftmax, name).__doc__
    with pytest.raises(AttributeError, match="has no attribute 'fit'"):
        _ = tfsoftmax.fit


def test_type_checkers_see_the_public_names():
    tree = ast.parse(inspect.getsource(tfsoftmax))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    declared = {alias.asname: node.module for node in block.body for alias in node.names}
    assert declared == {name: f"tfsoftmax.{module}" for name, module in tfsoftmax._PUBLIC.items()}


@pytest.mark.parametrize(
    ("what", "level"),
    [("SoftmaxRegression(10).build((None, 28, 28))", None), ("verify('EXPORT')", None), ("train", "0")],
)
def test_the_library_is_quiet(finished, tmp_path, what, level):
    """TensorFlow's start-up lines appear only for those who have set its variable."""
    what = what.replace("EXPORT", str(finished[1].folder))
    script = f"import gc, tfsoftmax\ntfsoftmax.{what}\nprint('done' if gc.isenabled() else 'no garbage is collected')\n"
    (tmp_path / "script.py").write_text(script)
    variables = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": level}
    kept = {name: value for name, value in variables.items() if value is not None}
    command = [sys.executable, tmp_path / "script.py"]
    done = subprocess.run(command, capture_output=True, text=True, env=kept, check=True)
    assert done.stdout == "done\n"
    assert (done.stderr == "") == (level is None), done.stderr


def test_what_fails_under_quiet_is_shown(capfd):
    def fails():
        os.write(2, b"the reason\n")
        raise OverflowError

    with pytest.raises(OverflowError), quiet():
        fails()
    with quiet():
        os.write(2, b"chatter\n")
    assert capfd.readouterr().err == "the reason\n"


def test_export_and_verify_stay_functions():
    program = """
from tfsoftmax.export import Export
from tfsoftmax.exporting.verify import Verified
import tfsoftmax.export, tfsoftmax.exporting.verify, tfsoftmax
print(callable(tfsoftmax.export), callable(tfsoftmax.verify))
"""
    assert run(program).split() == ["True", "True"]


def test_hashes_are_checked_without_a_runtime(finished):
    program = f"""
import sys
from pathlib import Path
from tfsoftmax.exporting.manifest import verify_files
verify_files(Path({str(finished[1].folder)!r}))
print([m for m in ("tensorflow", "keras", "onnx", "onnxruntime", "ai_edge_litert") if m in sys.modules])
"""
    assert run(program).strip() == "[]"
