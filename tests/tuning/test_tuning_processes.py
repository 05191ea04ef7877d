"""Searches of several processes, and searches that are killed."""

import csv
import io
import json
import socket

import numpy as np
import pytest
import serve
from forked import Program

WORKER = """
import sys, time
import tfsoftmax, tuning, keras_tuner
from conftest import make_rows

class Slow(tuning.LaneTuner):
    def epoch_ended(self, trial, epoch, logs):
        print("training", flush=True)
        time.sleep(float(sys.argv[2]))

(x, y), (x_test, y_test) = make_rows(120, 1), make_rows(10, 2)
data = tfsoftmax.Data(tfsoftmax.Source("tiny", x, y, x_test, y_test, "abc"), batch_size=32)
oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=8, seed=1)
space = {"lr": tuning.Range(0.01, 1.0)}
hypermodel = tuning.SoftmaxHyperModel(data, tfsoftmax.RunConfig(epochs=3), space)
tuner = Slow(oracle, hypermodel, 2, worker_timeout=4, directory=sys.argv[1], project_name="shared")
tuner.search(verbose=0)
"""


@pytest.mark.slow
def test_chief_and_workers_of_which_one_dies(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def start(name, slow):
        return Program(
            *("-c", WORKER, tmp_path, slow),
            log=tmp_path / name,
            KERASTUNER_TUNER_ID=name,
            KERASTUNER_ORACLE_IP="127.0.0.1",
            KERASTUNER_ORACLE_PORT=str(port),
        )

    started = []
    try:
        for name, slow in (("chief", 0), ("worker0", 0.2), ("worker1", 60)):
            started.append(start(name, slow))
        chief, lives, dies = started
        serve.until(lambda: "training\n" in (tmp_path / "worker1").read_text(), 120)
        dies.kill()
        assert lives.wait(120) == 0
        assert chief.wait(60) == 0
    finally:
        for process in started:
            process.kill()
            process.wait()
    trials = [json.loads(file.read_text()) for file in tmp_path.glob("shared/trial_*/trial.json")]
    assert [trial["status"] for trial in trials] == ["COMPLETED"] * 8
    assert all((tmp_path / f"shared/trial_{trial['trial_id']}/checkpoint.weights.h5").exists() for trial in trials)


@pytest.mark.slow
def test_killed_at_random(idx_folder, tmp_path):
    def search(name, seconds=None):
        command = ["tune", "--data", f"idx:{idx_folder}", "--epochs", 40, "--trials", 6, "--lanes", 2]
        process = Program("-c", "from tfsoftmax.cli import main; main()", *command, "--out", tmp_path / name)
        process.wait(seconds)
        process.kill()
        return process.wait()

    assert search("undisturbed") == 0
    for seconds in np.random.default_rng(0).uniform(1, 6, 2):
        search("killed", seconds)
    assert search("killed") == 0
    rows = [
        [{**row, "seconds": None} for row in csv.DictReader(io.StringIO((tmp_path / name / "trials.csv").read_text()))]
        for name in ("undisturbed", "killed")
    ]
    assert rows[0] == rows[1]
    assert (tmp_path / "undisturbed/best.json").read_text() == (tmp_path / "killed/best.json").read_text()
