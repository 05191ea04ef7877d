"""Heartbeats for a search over several processes, on top of KerasTuner's chief and workers.

KerasTuner's chief waits forever for a worker that died with its trials. Here workers send heartbeats while they train,
and a chief reassigns the trials of a silent one. The heartbeats are KerasTuner's own messages ``create_trial`` and
``get_trial``; nothing is added to the protocol.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import keras_tuner

from tfsoftmax._private import lost

_log = logging.getLogger(__name__)

IDLE_SECONDS = 0.2  # between two requests to an oracle that has no trial yet
_BEAT_SECONDS = 1.0


def is_chief() -> bool:
    """Whether this process is the chief of a search over several, by KerasTuner's environment variables."""
    return "KERASTUNER_ORACLE_IP" in os.environ and "chief" in os.environ.get("KERASTUNER_TUNER_ID", "")


def is_worker() -> bool:
    """Whether this process asks a chief for trials."""
    return "KERASTUNER_ORACLE_IP" in os.environ and not is_chief()


@contextlib.contextmanager
def heartbeat(oracle: Any, running: list[str], active: bool) -> Iterator[None]:
    """While the block runs, request one of our trials from the chief every second, if ``active``.

    Args:
        oracle: the chief's.
        running: our trials; the block removes those that end, as the chief counts running ones only.
        active: whether there is a chief.
    """
    done = threading.Event()

    def beat() -> None:
        while not done.wait(_BEAT_SECONDS):
            for trial_id in running[:1]:
                oracle.get_trial(trial_id)

    thread = threading.Thread(target=beat, daemon=True)
    if active and running:
        thread.start()
    try:
        yield
    finally:
        done.set()
        if thread.is_alive():
            thread.join()


def watch(oracle: Any, timeout: float) -> None:
    """Make a chief's oracle reassign the trials of a worker that is silent for ``timeout`` seconds.

    As long as others have trials, a worker that requests one is told to ask again: it may get one of theirs.
    """
    if gone := lost("chief"):
        _log.warning("lost workers are waited for forever: %s", gone)
        return
    heard: dict[str, float] = {}
    create_trial, get_trial = oracle.create_trial, oracle.get_trial

    def create(tuner_id: str) -> Any:
        heard[_worker(tuner_id)] = time.monotonic()
        trial = create_trial(tuner_id)
        if trial.status == "STOPPED" and oracle.ongoing_trials:
            trial.status = "IDLE"
            oracle.tuner_ids.add(tuner_id)
        return trial

    def get(trial_id: str) -> Any:
        for tuner_id, trial in list(oracle.ongoing_trials.items()):  # a lost worker's may be removed meanwhile
            if trial.trial_id == trial_id:
                heard[_worker(tuner_id)] = time.monotonic()
        return get_trial(trial_id)

    def look() -> None:
        while True:
            time.sleep(_BEAT_SECONDS)
            _reclaim(oracle, heard, timeout)

    oracle.create_trial, oracle.get_trial = create, get
    threading.Thread(target=look, daemon=True).start()


@keras_tuner.synchronized
def _reclaim(oracle: Any, heard: dict[str, float], timeout: float) -> None:
    for worker, last in list(heard.items()):
        if time.monotonic() - last < timeout:
            continue
        del heard[worker]
        lost = [tuner_id for tuner_id in oracle.ongoing_trials if _worker(tuner_id) == worker]
        _log.warning("worker %s is silent for %.0f s; %d of its trials are reassigned", worker, timeout, len(lost))
        for tuner_id in reversed(lost):  # the queue is read from the end
            oracle._retry_queue.append(oracle.ongoing_trials.pop(tuner_id).trial_id)
        oracle.tuner_ids -= {tuner_id for tuner_id in oracle.tuner_ids if _worker(tuner_id) == worker}


def _worker(tuner_id: str) -> str:
    return tuner_id.rsplit("-", 1)[0]
