"""The wheel, and every block of README and docs as printed, run by the installed wheel outside the checkout."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from importlib import metadata

import numpy as np
import pytest
import serve
import yaml
from installed import CHECKOUT, Environment, build
from packaging.requirements import Requirement
from PIL import Image

import tfsoftmax

PICTURES = CHECKOUT / "tests" / "pictures"
# a reader goes through them in this order, in one folder
ORDER = [
    "README",
    "data",
    "classifier",
    "training",
    "tracking",
    "tuning",
    "optimum",
    "exports",
    "speed",
    "serving",
    "scaling",
    "decisions",
]
# document and first words of a block -> why it cannot run here
CANNOT_RUN = {
    ("README", "scripts/demo"): "makes an environment of its own; its commands are those of the README, which run",
    ("serving", "docker run -p 8501"): "needs Docker and TensorFlow Serving's image",
    ("serving", "docker run -p 8000"): "needs Docker and Triton's image",
    ("serving", "TFSOFTMAX_SERVE"): "starts a Ray cluster; tests/serving/test_serving_ray.py does",
    ("scaling", "#SBATCH"): "needs Slurm",
    ("scaling", "tfsoftmax train --strategy tpu"): "needs a TPU",
    ("scaling", "KERASTUNER_TUNER_ID"): "needs several machines; tests/tuning/test_tuning_processes.py uses processes",
}
# 3,000 rows of the embedded data, and 600 to validate on
FEW = """
from tfsoftmax import data
from tfsoftmax.sources import idx
read = idx.read_idx
idx.read_idx = lambda path, sha256=None: read(path, sha256)[: 3_600 if path.name.startswith("train") else 1_000]
data.FashionMNIST.__defaults__ = (256, 600, 0, "unit")
"""
# one worker, where a document's Python needs the address of one
VARIABLES = {
    "scaling": {"TF_CONFIG": '{"cluster": {"worker": ["127.0.0.1:7003"]}, "task": {"type": "worker", "index": 0}}'}
}


def _blocks():
    """(document, line, language, text) of each fenced block."""
    for document in ORDER:
        path = CHECKOUT / ("README.md" if document == "README" else f"docs/{document}.md")
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL):
            yield document, path.read_text()[: found.start()].count("\n") + 1, found[1], found[2]


DEMO = next(text for document, _, language, text in _blocks() if document == "README" and "train --out" in text)
BLOCKS = [
    pytest.param(*block, id=f"{block[0]}:{block[1]}", marks=[pytest.mark.pinned] * ("constraints.txt" in block[3]))
    for block in _blocks()
]


class Reader:
    """Someone who has installed the wheel and types what is printed.

    ``folder`` is where; ``checkout`` is the unpacked source archive, where ``pip install .`` is typed; ``programs`` is
    a folder of commands that hide the environment's.
    """

    def __init__(self, folder, wheel, checkout, environment, programs=None):
        self.folder, self.wheel, self.checkout, self.environment = folder, wheel, checkout, environment
        self.printed, self._server, self._programs = "", contextlib.ExitStack(), programs
        shutil.copytree(PICTURES, folder / "tests" / "pictures")
        shutil.copy(PICTURES / "ankle_boot.png", folder / "shoe.png")
        Image.open(PICTURES / "pullover_dark_on_light.png").convert("RGB").resize((280, 280)).save(folder / "photo.jpg")
        rng = np.random.default_rng(0)
        (folder / "rows").mkdir()
        for i in range(2):
            rows = rng.integers(0, 256, (1024, 785), np.uint8)
            rows[:, -1] %= 10
            rows.tofile(folder / "rows" / f"{i}.bin")

    def python(self, text, **variables):
        """Returns what it prints on standard error."""
        (self.folder / "program.py").write_text(text)
        return self._run("python", "program.py", **variables)

    def shell(self, text):
        if "tfsoftmax serve " in text:
            self.serve(text)
        elif text.startswith("pip install"):  # everything that it asks for is there: nothing is fetched
            offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
            self._run("bash", "-c", text, cwd=self.checkout, **offline)
        else:
            self._run("bash", "-euo", "pipefail", "-c", text)

    def _run(self, *command, cwd=None, **variables):
        if self._programs:
            variables["PATH"] = f"{self._programs}:{self.environment.variables()['PATH']}"
            variables["XLA_FLAGS"] = os.environ["XLA_FLAGS"]
        done = self.environment.run(*command, cwd=cwd or self.folder, **variables)
        self.printed = done.stdout
        return done.stderr

    def serve(self, text):
        """Leave a server running for the blocks that follow."""
        self.close()
        self._server.enter_context(self.environment.serving(text, self.folder))

    def close(self):
        self._server.close()


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    _, wheel, checkout = build(tmp_path_factory.mktemp("built"))
    environment = Environment(
        tmp_path_factory.mktemp("environment"),
        wheel,
        extras=("serve", "grpc", "ray", "sklearn"),
        also=("mlflow-skinny", "pandas"),  # as pip install mlflow would
        pip=True,
    )
    with contextlib.closing(Reader(tmp_path_factory.mktemp("reader"), wheel, checkout, environment)) as one:
        yield one


@pytest.fixture(scope="module")
def reader_on(reader, tmp_path_factory):
    """Who goes on behind the README, in a Python that has TensorFlow imported and on few rows of the embedded data.

    What the blocks do is tested, not their figures.
    """
    folder = tmp_path_factory.mktemp("reader_on")
    with (
        reader.environment.forking(FEW) as programs,
        contextlib.closing(Reader(folder, reader.wheel, reader.checkout, reader.environment, programs)) as one,
    ):
        one.shell(DEMO)
        yield one


def test_the_wheel_made_from_the_source_archive_holds_every_file_of_the_packages(reader):
    expected = {
        path.relative_to(CHECKOUT).as_posix()
        for package in ("tfsoftmax", "tuning")
        for path in (CHECKOUT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "tfsoftmax/datasets/fashion_mnist/t10k-labels-idx1-ubyte.gz" in expected
    held = {name for name in zipfile.ZipFile(reader.wheel).namelist() if ".dist-info/" not in name}
    assert held == expected


def test_nothing_of_the_checkout_is_seen(reader, tmp_path):
    program = (
        "from importlib.util import find_spec\nfor name in ('tfsoftmax', 'tuning'):\n    print(find_spec(name).origin)"
    )
    for file in reader.environment.run("python", "-c", program, cwd=tmp_path).stdout.split():
        assert file.startswith(str(reader.environment.site)), file


@pytest.mark.slow
def test_type_checkers_see_what_the_wheel_offers(reader, tmp_path):
    five = next(text for document, _, language, text in _blocks() if (document, language) == ("README", "python"))
    wrong = "tfsoftmax.load(5, label=5)\ntfsoftmax.Fashion()\n"
    (tmp_path / "program.py").write_text(f"{five}reveal_type(data.classes)\n{wrong}")
    python = reader.environment.folder / "bin" / "python"
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--cache-dir", tmp_path]
    variables = reader.environment.variables()
    done = subprocess.run([*command, "program.py"], cwd=tmp_path, env=variables, capture_output=True, text=True)
    found = done.stdout
    assert 'Revealed type is "tuple[str, ...]"' in found.replace("builtins.", "")
    errors = [line for line in found.splitlines() if ": error: " in line]
    assert len(errors) == 2, found
    assert 'incompatible type "int"; expected "str | None"' in errors[0]
    assert 'no attribute "Fashion"' in errors[1]


@pytest.mark.pinned
def test_what_the_requirements_bring_is_pinned(reader):
    text = (CHECKOUT / "constraints.txt").read_text()
    pinned = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.+-]+)", text, re.MULTILINE):
        pinned.setdefault(re.sub(r"[-_.]+", "-", name).lower(), set()).add(version)
    for name, distribution in reader.environment.distributions.items():
        assert distribution.version in pinned.get(name, ()), name


@pytest.mark.slow
@pytest.mark.parametrize(("document", "line", "language", "text"), BLOCKS)
def test_block(request, document, line, language, text):
    if any(document == name and text.startswith(words) for name, words in CANNOT_RUN):
        return
    reader = request.getfixturevalue("reader" if document == "README" else "reader_on")
    if language == "python":
        printed = reader.python(text, **VARIABLES.get(document, {}))
        assert document != "README" or printed == "", "neither TensorFlow's start-up lines nor anything else"
    elif language == "sh":
        reader.shell(text)
    elif language == "yaml":
        assert isinstance(yaml.safe_load(text), dict)
    elif document == "README":
        printed = list(map(_shape, reader.printed.splitlines()))
        for shown in map(_shape, text.splitlines()):
            assert shown in printed, "not what the block before prints, whatever the numbers are"


def _shape(line):
    return " ".join(re.sub(r"[\d.,]+(e[-+]\d+)?", "0", line).split())


@pytest.fixture(scope="module")
def lean(reader, tmp_path_factory):
    """The wheel with what requirements-serve.txt names, and nothing else."""
    lines = (CHECKOUT / "requirements-serve.txt").read_text().splitlines()
    folder = tmp_path_factory.mktemp("lean")
    return Environment(folder, reader.wheel, instead=[line for line in lines if not line.startswith("#")])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """An export of a table with four columns, and what it should answer for a row: by NumPy."""
    spec = tfsoftmax.ModelSpec("table", (4,), "float32", ("no", "yes"), "unit", 0.0, 1.0)
    kernel, bias = np.arange(8, dtype=np.float32).reshape(4, 2) / 8, np.float32([0.5, -0.5])
    folder = tmp_path_factory.mktemp("exports") / "table"
    serve.write_version(folder, 1, spec, kernel, bias)
    odds = np.exp(np.float64([1, 2, 3, 4]) @ kernel + bias)
    return folder, odds / odds.sum()


def test_serve_and_predict_need_only_what_their_list_names(lean, table, tmp_path):
    assert not {"tensorflow", "keras", "matplotlib"} & lean.distributions.keys()
    folder, expected = table
    row = tmp_path / "row.json"
    row.write_text("[[1, 2, 3, 4]]")
    done = lean.run("bash", "-c", f"tfsoftmax predict {folder} - --json < {row}", cwd=tmp_path)
    (found,) = json.loads(done.stdout)["predictions"]
    assert found["top"][0]["probability"] == pytest.approx(expected.max(), abs=1e-6)
    with lean.serving(f"tfsoftmax serve {folder} --port 0", tmp_path) as url:
        body = json.dumps({"instances": [[1, 2, 3, 4]]}).encode()
        with urllib.request.urlopen(f"{url}/v1/models/table:predict", body) as answer:
            assert json.load(answer)["predictions"][0]["probabilities"] == pytest.approx(list(expected), abs=1e-6)


def test_without_tensorflow_the_other_verbs_say_what_they_need(lean, tmp_path):
    done = lean.run("tfsoftmax", "train", cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: this needs tensorflow, which is not installed")
    assert done.stderr.count("\n") == 1


def test_each_line_of_the_list_is_a_requirement_of_the_package(reader):
    (own,) = metadata.distributions(name="tfsoftmax", path=[str(reader.environment.site)])
    required = {str(Requirement(line.partition(";")[0])) for line in own.requires}
    for line in (CHECKOUT / "requirements-serve.txt").read_text().splitlines():
        assert line.startswith("#") or str(Requirement(line.partition(";")[0])) in required, line


def test_the_table_of_what_cannot_run_names_blocks_that_are_printed():
    for document, words in CANNOT_RUN:
        assert any(name == document and text.startswith(words) for name, _, _, text in _blocks()), words


def test_each_block_says_what_it_is():
    documents = {path.stem for path in (CHECKOUT / "docs").glob("*.md")} | {"README"}
    assert sorted(ORDER) == sorted(documents)
    for document, line, language, _ in _blocks():
        assert language in ("python", "sh", "text", "yaml"), f"{document}, line {line}"
    for document in ORDER:
        path = CHECKOUT / ("README.md" if document == "README" else f"docs/{document}.md")
        outside = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"\n\n {4}\S", outside), f"{document} has an indented block; fence it and say what it is"


def test_the_demo_runs_the_commands_of_the_readme():
    demo = re.findall(r"^show (.*)$", (CHECKOUT / "scripts" / "demo").read_text(), re.MULTILINE)
    for command in filter(None, DEMO.split("\n")):
        assert any(shown.startswith(command) for shown in demo), command
