"""Progress on a terminal: whatever ends a run, the cursor is shown again and standard error is as it was."""

import contextlib
import errno
import os
import signal
import sys
import threading

import pytest

import tfsoftmax
import tuning
from tfsoftmax.errors import WorkerLost
from tfsoftmax.runs import log
from tuning import table

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


@contextlib.contextmanager
def terminal():
    """For the block, standard error is a pseudo-terminal; yields the bytes that it is sent, all of them at the end."""
    master, slave = os.openpty()
    before, seen = sys.stderr, bytearray()

    def read():
        try:
            while text := os.read(master, 65536):
                seen.extend(text)
        except OSError:  # nobody writes any more
            os.close(master)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with open(slave, "w") as sys.stderr:  # not by a fixture: pytest sets it again before each test
        stderr = sys.stderr
        try:
            yield seen
            assert sys.stderr is stderr, "it is no longer redirected"
        finally:
            sys.stderr = before
    reader.join(10)


def assert_shown_again(seen):
    assert HIDE in seen
    assert seen.rindex(SHOW) > seen.rindex(HIDE)


@pytest.fixture
def terminal_type(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")


@pytest.fixture(scope="module")
def data(source):
    return tfsoftmax.Data(source, batch_size=32)


def train(data, out, epochs):
    return tfsoftmax.train(data, tfsoftmax.RunConfig(epochs=epochs, batch_size=32), out, progress=True)


def search(data, out, epochs):
    return tuning.search(data, out, config=tfsoftmax.RunConfig(epochs=epochs), trials=2, progress=True)


@pytest.mark.parametrize("run", [train, search])
def test_a_run_that_ends_well(data, tmp_path, terminal_type, run):
    with terminal() as seen:
        run(data, tmp_path / "out", 2)
    assert_shown_again(seen)


@pytest.fixture
def sigint():
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in the background of a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("run", "owner", "name"),
    [(train, log.Log, "on_epoch_end"), (search, table.LiveTable, "epoch")],
    ids=["train", "search"],
)
def test_control_c(data, tmp_path, terminal_type, sigint, monkeypatch, run, owner, name):
    """After an epoch whose figures are shown: of an interrupt amid a finalizer Python would only print that it came."""
    ended = getattr(owner, name)

    def interrupted(*arguments):
        ended(*arguments)
        if b"loss" in seen:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(owner, name, interrupted)
    with terminal() as seen, pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "out", 10**6)
    assert_shown_again(seen)


@pytest.mark.parametrize(
    ("failure", "raised"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), tfsoftmax.TrainingError),
        (WorkerLost("another worker is gone"), WorkerLost),
    ],
    ids=["full disk", "lost worker"],
)
def test_a_failure_while_training(data, tmp_path, terminal_type, monkeypatch, failure, raised):
    def fail(path, rows):
        raise failure

    monkeypatch.setattr(log, "write_csv", fail)
    with terminal() as seen, pytest.raises(raised):
        train(data, tmp_path / "out", 3)
    assert_shown_again(seen)
