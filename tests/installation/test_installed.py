"""The wheel, and every block of README and docs as printed, run by the installed wheel outside the checkout."""

import contextlib
import re
import shutil
import signal
import subprocess
import time
import zipfile

import numpy as np
import pytest
import yaml
from installed import CHECKOUT, Environment, build
from PIL import Image

PICTURES = CHECKOUT / "tests" / "pictures"
# a reader goes through them in this order, in one folder
ORDER = ["README", "data", "training", "tuning", "exports", "speed", "serving", "scaling", "decisions"]
# document and first words of a block -> why it cannot run here
CANNOT_RUN = {
    ("tuning", "import keras_tuner"): "KerasTuner's display fails on a group of trials; to be mended",
    ("README", "scripts/demo"): "makes an environment of its own; its commands are those of the README, which run",
    ("serving", "docker run -p 8501"): "needs Docker and TensorFlow Serving's image",
    ("serving", "docker run -p 8000"): "needs Docker and Triton's image",
    ("serving", "TFSOFTMAX_SERVE"): "starts a Ray cluster; tests/serving/test_serving_ray.py does",
    ("scaling", "#SBATCH"): "needs Slurm",
    ("scaling", "tfsoftmax train --strategy tpu"): "needs a TPU",
    ("scaling", "KERASTUNER_TUNER_ID"): "needs several machines; tests/tuning/test_tuning_processes.py uses processes",
}
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


BLOCKS = [pytest.param(*block, id=f"{block[0]}:{block[1]}") for block in _blocks()]


class Reader:
    """Someone who has installed the wheel and types what is printed.

    ``folder`` is where; ``checkout`` is the unpacked source archive, where ``pip install .`` is typed.
    """

    def __init__(self, folder, wheel, checkout, environment):
        self.folder, self.wheel, self.checkout, self.environment = folder, wheel, checkout, environment
        self.printed, self._server = "", None
        shutil.copytree(PICTURES, folder / "tests" / "pictures")
        shutil.copy(PICTURES / "ankle_boot.png", folder / "shoe.png")
        Image.open(PICTURES / "pullover_dark_on_light.png").convert("RGB").resize((280, 280)).save(folder / "photo.jpg")
        rng = np.random.default_rng(0)
        (folder / "rows").mkdir()
        for i in range(2):
            rows = rng.integers(0, 256, (1024, 785), np.uint8)
            rows[:, -1] %= 10
            rows.tofile(folder / "rows" / f"{i}.bin")

    def python(self, text, variables):
        (self.folder / "program.py").write_text(text)
        done = self.environment.run("python", "program.py", cwd=self.folder, **variables)
        self.printed = done.stdout
        return done

    def shell(self, text):
        if "tfsoftmax serve " in text:
            self.serve(text)
            return
        where, variables = self.folder, {}
        if text.startswith("pip install"):  # everything that it asks for is there: nothing is fetched
            where, variables = self.checkout, {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
        self.printed = self.environment.run("bash", "-euo", "pipefail", "-c", text, cwd=where, **variables).stdout

    def serve(self, text):
        """Leave a server running for the blocks that follow."""
        self.close()
        log = self.folder / "server.log"
        with log.open("w") as errors:
            command = ["bash", "-c", f"exec {text}"]
            self._server = subprocess.Popen(command, cwd=self.folder, env=self.environment.variables(), stderr=errors)
        until = time.monotonic() + 60
        while "serving on " not in log.read_text():
            assert self._server.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)

    def close(self):
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            try:
                assert self._server.wait(30) == 0
            finally:
                self._server.kill()
                self._server = None


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    _, wheel, checkout = build(tmp_path_factory.mktemp("built"))
    environment = Environment(tmp_path_factory.mktemp("environment"), wheel, extras=("serve", "ray"), pip=True)
    with contextlib.closing(Reader(tmp_path_factory.mktemp("reader"), wheel, checkout, environment)) as one:
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
    program = "import tfsoftmax, tuning; print(tfsoftmax.__file__, tuning.__file__)"
    for file in reader.environment.run("python", "-c", program, cwd=tmp_path).stdout.split():
        assert file.startswith(str(reader.environment.site)), file


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
def test_block(reader, document, line, language, text):
    if any(document == name and text.startswith(words) for name, words in CANNOT_RUN):
        return
    if language == "python":
        done = reader.python(text, VARIABLES.get(document, {}))
        if document == "README":
            assert done.stderr == "", "neither TensorFlow's start-up lines nor anything else"
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
    commands = next(text for _, _, language, text in _blocks() if language == "sh" and "train --out" in text).split(
        "\n"
    )
    for command in filter(None, commands):
        assert any(shown.startswith(command) for shown in demo), command
