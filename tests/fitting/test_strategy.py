"""Several devices and several processes against one: the same weights, also where a worker dies."""

import contextlib
import json
import re
import signal
import socket
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import rejoining
import tensorflow as tf
from forked import Program

import tfsoftmax
from tfsoftmax.strategy import opened

REPLICAS = Path(__file__).with_name("replicas.py")


@contextlib.contextmanager
def processes():
    """Gives a function that starts one; at the end none is left."""
    started = []

    def start(*arguments, **settings):
        started.append(Program(*arguments, **settings))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.kill()
            process.wait()


def cluster(workers=2):
    """TF_CONFIG of each worker."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(workers)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{free.getsockname()[1]}" for free in sockets]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}) for i in range(workers)
    ]


@pytest.mark.slow
def test_replicas_have_the_weights_of_one_device(tmp_path):
    configs = cluster()
    with processes() as start:
        running = [start(REPLICAS, tmp_path, "one", "mirrored", log=tmp_path / "here")]
        for i, config in enumerate(configs):
            running.append(start(REPLICAS, tmp_path, "multiworker", log=tmp_path / f"worker{i}", TF_CONFIG=config))
        assert [process.wait(600) for process in running] == [0] * 3, [
            log.read_text()[-2000:] for log in tmp_path.iterdir() if not log.suffix
        ]
    one, *others = (np.load(tmp_path / f"{name}.npz") for name in ("one", "mirrored", "multiworker-0", "multiworker-1"))
    assert len(one["momentum-loss"]) < 8, "it stopped early"
    for other in others:
        assert set(other) == set(one)
        for name in one:
            np.testing.assert_allclose(other[name], one[name], atol=1e-5, err_msg=name)
    assert {"adam-0", "momentum-val_loss", "momentum-evaluated", "divided-1", "own-loss", "unknown-0"} < set(one)
    for kind in ("momentum", "adam"):
        assert (tmp_path / f"state-multiworker-{kind}").exists()


class Workers:
    """Two workers of `tfsoftmax train` on this machine; the first is the chief."""

    def __init__(self, start, folder, *options):
        self.start, self.folder, self.configs = start, folder, cluster()
        self.command = ["-c", "from tfsoftmax.cli import main; main()", "train", "--out", folder / "run", *options]

    def begin(self, i):
        return self.start(*self.command, log=self.log(i), TF_CONFIG=self.configs[i])

    def log(self, i):
        return self.folder / f"log{i}"

    def wait_for(self, pattern, process):
        """Until the chief has said it."""
        deadline = time.monotonic() + 300
        while not re.search(pattern, self.log(0).read_text()):
            assert process is None or process.exitcode is None, self.log(0).read_text()
            assert time.monotonic() < deadline, (pattern, self.log(0).read_text())
            time.sleep(0.01)


@pytest.mark.slow
def test_a_worker_that_dies(idx_folder, tmp_path):
    settings = {"epochs": 60, "batch_size": 50, "momentum": 0.9, "schedule": "cosine", "val": 40}
    options = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    with processes() as start:
        workers = Workers(start, tmp_path, "--data", f"idx:{idx_folder}", *options)
        chief, other = workers.begin(0), workers.begin(1)
        workers.wait_for("epoch 5/60", chief)
        other.kill()
        workers.wait_for(r"another worker is gone: .*\nwaiting for all workers, at most 2\d\d s more", chief)
        other = workers.begin(1)
        workers.wait_for(r"continuing after epoch \d+\n", chief)
        workers.wait_for("epoch 20/60", chief)
        chief.kill()
        other.kill()
        chief.wait()
        workers.command += ["--timeout", 8]
        chief, other = workers.begin(0), workers.begin(1)
        workers.wait_for("epoch 35/60", chief)
        other.kill()
        assert chief.wait(300) == 1
        workers.wait_for(r"error: not all workers \(127.0.0.1:\d+, .*\) came in time\n$", None)
        assert not (tmp_path / "run" / "metrics.json").exists()
        chief, other = workers.begin(0), workers.begin(1)
        assert [chief.wait(300), other.wait(300)] == [0, 0], workers.log(0).read_text()
    assert workers.log(0).read_text().count("continuing after epoch") == 3
    data = f"idx:{idx_folder}"
    one = tfsoftmax.train(
        tfsoftmax.load(data, batch_size=50, val=40), tfsoftmax.RunConfig(data=data, **settings), tmp_path / "one"
    )
    several = tfsoftmax.Run(tmp_path / "run")
    for ours, theirs in zip(several.model.get_weights(), one.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert several.metrics["epochs"] == 60


@pytest.mark.slow
def test_a_worker_of_a_script_that_dies(tmp_path):
    script = REPLICAS.with_name("rejoining.py")
    with processes() as start:
        configs = cluster()
        chief, other = (start(script, tmp_path, log=tmp_path / f"log{i}", TF_CONFIG=configs[i]) for i in range(2))
        assert other.wait(300) == -signal.SIGKILL
        other = start(script, tmp_path, log=tmp_path / "log1", TF_CONFIG=configs[1])
        assert [chief.wait(300), other.wait(300)] == [0, 0], (tmp_path / "log0").read_text()
    log = (tmp_path / "log0").read_text()
    assert re.search(r"Epoch 4/7.*another worker is gone: .*continuing after epoch 4, from .*Epoch 5/7", log, re.DOTALL)
    one = rejoining.fit(tf.distribute.get_strategy(), [])
    for ours, theirs in zip(np.load(tmp_path / "weights.npz").values(), one, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_workers_of_different_settings_are_refused(idx_folder, tmp_path):
    with processes() as start:
        workers = Workers(start, tmp_path, "--data", f"idx:{idx_folder}", "--epochs", 2)
        chief = workers.begin(0)
        workers.command += ["--lr", 0.2]
        other = workers.begin(1)
        assert [chief.wait(300), other.wait(300)] == [2, 2]
    for i in range(2):
        assert re.search(
            r"error: all workers must have the same settings; the checksums of theirs are: \[\d+, \d+\]$",
            workers.log(i).read_text(),
        )
    assert not (tmp_path / "run" / "history.csv").exists()


def tf_config(value):
    return {"TF_CONFIG": value if isinstance(value, str) else json.dumps(value)}


@pytest.mark.parametrize(
    ("name", "environment", "text"),
    [
        ("cluster", {}, "strategy must be one of auto, cpu, gpu, mirrored, multiworker, tpu, got 'cluster'"),
        ("gpu", {}, "strategy 'gpu' needs a GPU"),
        ("tpu", {}, "strategy 'tpu' finds no TPU 'local'"),
        ("multiworker", {}, "strategy 'multiworker' needs TF_CONFIG"),
        ("auto", tf_config("{"), "TF_CONFIG must be {"),
        ("auto", tf_config("[]"), "TF_CONFIG must be {"),
        ("auto", tf_config({"cluster": {"worker": 5}}), "TF_CONFIG must be {"),
        ("auto", tf_config({"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}), "must be {"),
        ("auto", tf_config({"cluster": {"worker": []}, "task": {"type": ["a"], "index": 0}}), "its cluster has []"),
        ("auto", tf_config({"cluster": {"worker": ["a:1"]}}), "TF_CONFIG must be {"),
        ("auto", tf_config({"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "x"}}), "must be {"),
        (
            "multiworker",
            tf_config({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 2}}),
            "TF_CONFIG says that this is task ('worker', 2), and its cluster has [('worker', 0), ('worker', 1)]",
        ),
        (
            "auto",
            tf_config({"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "evaluator", "index": 0}}),
            "TF_CONFIG says that this is task ('evaluator', 0)",
        ),
        (
            "auto",
            tf_config({"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}),
            "TF_CONFIG has the jobs ['ps']; training takes 'chief' and 'worker'",
        ),
        (
            "auto",
            tf_config({"cluster": {"worker": ["a:1", "a:1"]}, "task": {"type": "worker", "index": 0}}),
            "TF_CONFIG has one address for several workers: ['a:1', 'a:1']",
        ),
    ],
)
def test_a_strategy_that_is_not_there(name, environment, text, monkeypatch):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(tfsoftmax.InputError, match=re.escape(text)):
        opened(name, timeout=5)


@pytest.mark.parametrize(
    ("why", "compiled"),
    [
        ("its loss is reduced by 'sum'", {"loss": keras.losses.SparseCategoricalCrossentropy(True, reduction="sum")}),
        ("it has weighted metrics or losses", {"loss_weights": 3.0}),
        ("its optimizer clips gradients", {"optimizer": keras.optimizers.SGD(0.1, clipnorm=1.0)}),
    ],
)
def test_what_replicas_cannot_serve_goes_kerass_way(source, why, compiled, caplog):
    data = tfsoftmax.Data(source, batch_size=32)
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = tfsoftmax.SoftmaxRegression(3)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(**{"optimizer": "sgd", "loss": loss, "metrics": ["accuracy"], **compiled})
    model.fit(data.train, verbose=0)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("tfsoftmax")]
    assert len(told) == 1
    assert told[0].startswith(f"training Keras's own way, which is slower: {why}")


def test_the_order_of_rows_belongs_to_no_strategy(source):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        epoch = tfsoftmax.Data(source, batch_size=32).train.rows.epoch
    assert not isinstance(epoch, tf.distribute.DistributedValues)


def test_one_device_is_no_strategy():
    assert opened("auto", timeout=5) is None
    assert opened("cpu", timeout=5) is None
