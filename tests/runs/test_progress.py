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

HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"


@contextlib.contextmanager
def terminal(interrupt=False):
    """For the block, standard error is a pseudo-terminal; after it, the bytes that it was sent are in the list.

    With ``interrupt``, Ctrl-C comes as soon as figures are shown.
    """
    master, slave = os.openpty()
    before, seen, written = sys.stderr, bytearray(), []

    def read():
        try:
            while text := os.read(master, 65536):
                if interrupt and b"loss" in text and b"loss" not in seen:
                    os.kill(os.getpid(), signal.SIGINT)
                seen.extend(text)
        except OSError:  # nobody writes any more
            os.close(master)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with open(slave, "w") as sys.stderr:  # not by a fixture: pytest sets it again before each test
        stderr = sys.stderr
        try:
            yield written
            assert sys.stderr is stderr, "it is no longer redirected"
        finally:
            sys.stderr = before
    reader.join(10)
    written.append(bytes(seen))


def assert_shown_again(written):
    (written,) = written
    assert HIDE in written
    assert written.rindex(SHOW) > written.rindex(HIDE)


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
    with terminal() as written:
        run(data, tmp_path / "out", 2)
    assert_shown_again(written)


@pytest.mark.parametrize("run", [train, search])
def test_control_c(data, tmp_path, terminal_type, run):
    with terminal(interrupt=True) as written, pytest.raises(KeyboardInterrupt):
        run(data, tmp_path / "out", 10**6)
    assert_shown_again(written)


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
    with terminal() as written, pytest.raises(raised):
        train(data, tmp_path / "out", 3)
    assert_shown_again(written)
