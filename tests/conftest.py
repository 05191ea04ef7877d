"""Tiny seeded data, the command line in this process, and one trained and exported run for all tests."""

import gc
import gzip
import os
import shutil
import sys
import tempfile

# before TensorFlow and TFDS are imported: no chatter, our own data folder, and a compiler that optimizes less: most
# tests compile for a second and compute for a millisecond
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TFDS_DATA_DIR"] = tempfile.mkdtemp(prefix="tfds-")
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=1 --xla_cpu_parallel_codegen_split_count=1 "
    "--xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)

import numpy as np
import programs
import pytest
import serve
from hypothesis import settings
from keras.src.utils import naming

import tfsoftmax
from tfsoftmax import cli

settings.register_profile("seeded", derandomize=True)
settings.load_profile("seeded")
programs.share()

SHAPE, CLASSES, ROWS, TEST_ROWS = (6, 5), ("round", "square", "flat"), 230, 50

# folders and files that take a minute or more: where they come last, one core waits for the other
FIRST = ("installation", "fitting", "tuning", "test_classifier.py", "chapter")

PROGRAM = """
import tfsoftmax

data = tfsoftmax.FashionMNIST(batch_size=256)
model = tfsoftmax.SoftmaxRegression(num_outputs=10, lr=0.1)
model.fit(data.train, validation_data=data.val, epochs=10)
tfsoftmax.export(model, data.spec, "export/fashion_mnist")
"""


def pytest_collection_modifyitems(items):
    def place(item):
        return next((i for i, name in enumerate(FIRST) if name in item.path.parts[-2:]), len(FIRST))

    items.sort(key=place)
    gc.freeze()  # all that is imported by now stays; looking through it again and again costs three percent
    # KerasTuner and the LiteRT converter do so for each model, through all that was traced here: a tenth of the suite
    gc.collect = lambda generation=2: 0


def make_rows(count, seed, shape=SHAPE, classes=3):
    """uint8 pictures: noise on one pattern a class, so that a linear model learns them, but not perfectly."""
    patterns = np.random.default_rng(99).integers(0, 120, (classes, *shape))
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, count)
    return (patterns[y] + rng.integers(0, 136, (count, *shape))).astype(np.uint8), y.astype(np.uint8)


def idx_bytes(array):
    """An IDX file as its description says, written independently of the reader."""
    header = b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture(autouse=True)
def names():
    """Keras counts its names from the start, so that a test's programs are those of other tests, see ``programs``."""
    naming.reset_uids()


@pytest.fixture(scope="session")
def source():
    (x, y), (x_test, y_test) = make_rows(ROWS, 1), make_rows(TEST_ROWS, 2)
    return tfsoftmax.Source("tiny", x, y, x_test, y_test, CLASSES)


@pytest.fixture
def idx_folder(source, tmp_path):
    return write_idx_folder(tmp_path / "tiny", source)


def write_idx_folder(folder, source):
    folder.mkdir()
    for name, array in {
        "train-images-idx3-ubyte": source.x_train,
        "train-labels-idx1-ubyte": source.y_train,
        "t10k-images-idx3-ubyte": source.x_test,
        "t10k-labels-idx1-ubyte": source.y_test,
    }.items():
        (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(array)))
    (folder / "labels.txt").write_text("\n".join(CLASSES))
    return folder


@pytest.fixture
def tfsoftmax_cli(monkeypatch, capfd):
    """Run the command line here: ``tfsoftmax_cli("train", …)`` gives (status, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["tfsoftmax", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capfd.readouterr()
        return stop.value.code, out, err

    return call


@pytest.fixture(scope="session")
def finished(source, tmp_path_factory):
    """A trained run of the tiny data, by the Python interface, and its export."""
    folder = tmp_path_factory.mktemp("finished")
    idx = write_idx_folder(folder / "tiny", source)
    config = tfsoftmax.RunConfig(data=f"idx:{idx}", epochs=3, batch_size=32, lr=0.05)
    run = tfsoftmax.train(tfsoftmax.load(config.data, batch_size=32), config, folder / "run")
    val = run.data().val.rows
    done = tfsoftmax.export(
        run.model,
        run.spec,
        folder / "export" / "tiny",
        rows=val.x,
        labels=val.y,
        metrics=run.metrics,
        config=run.config,
    )
    return run, done


@pytest.fixture(scope="session")
def program(tmp_path_factory):
    """What the program of the README leaves behind, run as a script: its folder, its data, its model."""
    folder, here, names = tmp_path_factory.mktemp("program"), os.getcwd(), {}
    os.chdir(folder)
    try:
        exec(PROGRAM, names)
    finally:
        os.chdir(here)
    return folder, names["data"], names["model"]


@pytest.fixture
def export(tmp_path):
    """An export called `m` with version 1, made without TensorFlow."""
    serve.write_version(tmp_path / "m", 1, serve.SPEC, *serve.weights(1))
    return tmp_path / "m"


@pytest.fixture(scope="session")
def served(finished, tmp_path_factory):
    """A folder of two exports: `tiny`, pictures as trained and exported; `table`, four float features."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(finished[1].folder.parent, folder / "tiny")
    rng = np.random.default_rng(3)
    spec = tfsoftmax.ModelSpec("table", (4,), "float32", ("no", "yes"), "standardize", (1.0, 2.0, 3.0, 4.0), 0.5)
    kernel, bias = rng.normal(size=(4, 2)).astype(np.float32), rng.normal(size=2).astype(np.float32)
    serve.write_version(folder / "table", 3, spec, kernel, bias)
    return folder


@pytest.fixture(scope="session")
def server(served):
    """One server of both, for all tests that leave it as it is."""
    with serve.Server(served) as running:
        yield running


@pytest.fixture(scope="session")
def grpc_server(tmp_path_factory):
    """`m`, pictures, and `people`, a table, over HTTP and gRPC."""
    import calls
    import made

    folder = tmp_path_factory.mktemp("grpc")
    serve.write_version(folder / "m", 4, serve.SPEC, *serve.weights(1))
    raw = np.array([[39.1, 1, 0], [np.nan, 2, 1], [50, np.nan, -1]] * 3, np.float32)
    tfsoftmax.export(made.model_of(calls.TABLE), calls.TABLE, folder / "people", rows=raw, labels=np.arange(9) % 2)
    limits = ("--max-rows", 2000, "--max-body", 1, "--timeout", 2)
    with serve.Server(folder, "--grpc-port", 0, *limits) as running:
        yield running


@pytest.fixture(scope="session")
def channel(grpc_server):
    """A connection to it."""
    import grpc

    with grpc.insecure_channel(grpc_server.grpc) as made:
        yield made


@pytest.fixture(scope="session")
def predictor(served):
    """model -> what answers in this process."""
    return {name: tfsoftmax.Predictor(served / name) for name in ("tiny", "table")}


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt-get install chromium")

    with sync_playwright() as driver:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = driver.chromium.launch(executable_path=chromium, args=sandbox)
        yield started
        started.close()
