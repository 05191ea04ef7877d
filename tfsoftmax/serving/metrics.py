"""Prometheus metrics, summed over workers, which share files in the folder PROMETHEUS_MULTIPROC_DIR."""

from __future__ import annotations

import functools
import glob
import os
import time
from collections.abc import Callable, Iterable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    generate_latest,
    multiprocess,
)
from prometheus_client.registry import Collector

_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)
_ROWS = (1, 2, 4, 8, 16, 64, 256, 1024, 4096, 16384)

_requests = Counter("tfsoftmax_requests", "Requests by model, endpoint and HTTP status.", ["model", "verb", "code"])
_errors = Counter("tfsoftmax_errors", "Requests that were answered 4xx or 5xx.", ["model", "verb"])
_seconds = Histogram(
    "tfsoftmax_request_seconds",
    "Seconds from the head of a request to its answer.",
    ["model", "verb"],
    buckets=_SECONDS,
)
_rows = Histogram("tfsoftmax_batch_rows", "Rows in a request that was answered.", ["model"], buckets=_ROWS)
_version = Gauge("tfsoftmax_served_version", "Version that is served.", ["model"], multiprocess_mode="mostrecent")
_failed = Counter("tfsoftmax_error_seconds", "Seconds of requests that were answered 4xx or 5xx.", ["model", "verb"])
_last = Gauge(
    "tfsoftmax_last_answer_seconds", "Time of the last answer (Unix).", ["model"], multiprocess_mode="mostrecent"
)
# each worker looks on its own and finds the same: the largest of those that live, not their sum
_refused = Gauge("tfsoftmax_refused_versions", "Versions that are refused.", ["model"], multiprocess_mode="livemax")

_unseen = Counter("tfsoftmax_unseen_values", "Values that training did not see.", ["model", "column"])

# looking a child up by its labels costs more than counting
_request = functools.lru_cache(4096)(lambda model, verb, code: _requests.labels(model, verb, code))
_error = functools.lru_cache(1024)(_errors.labels)
_time = functools.lru_cache(1024)(_seconds.labels)


@functools.lru_cache(1024)
def _answered(model: str, verb: str, status: int) -> tuple[Callable[..., None], ...]:
    """What counts a request whose rows were answered."""
    counted, timed = _requests.labels(model, verb, status), _seconds.labels(model, verb)
    return counted.inc, timed.observe, _rows.labels(model).observe, _last.labels(model).set


def count(model: str, verb: str, status: int, seconds: float | None = None, rows: int = 0) -> None:
    """Count one answered request; ``model`` is empty if the request named no served model."""
    if rows and seconds is not None and status < 400:
        counted, timed, batch, last = _answered(model, verb, status)
        counted()
        timed(seconds)
        batch(rows)
        last(time.time())
        return
    _request(model, verb, status).inc()
    if seconds is not None:
        _time(model, verb).observe(seconds)
    if status >= 400:
        _error(model, verb).inc()
        if seconds is not None:
            _failed.labels(model, verb).inc(seconds)


def unseen(model: str, column: str, values: int) -> None:
    """Count values of a table's column that training did not see."""
    _unseen.labels(model, column).inc(values)


def served(model: str, version: int) -> None:
    """Record the version that is served now."""
    _version.labels(model).set(version)


def refused(model: str, versions: int) -> None:
    """Record how many versions are refused now."""
    _refused.labels(model).set(versions)


def forget(process: int | None) -> None:
    """Drop the gauges of a worker that has ended."""
    multiprocess.mark_process_dead(process)


def totals(model: str) -> dict[str, float]:
    """The requests answered for a model since the start, over all verbs and workers.

    Returns:
        ``rows``; ``good`` and ``bad`` requests; ``good_seconds`` and ``bad_seconds``; ``last``, the Unix time of the
        last answer, 0 if there was none.
    """
    found = dict.fromkeys(("rows", "good", "bad", "good_seconds", "bad_seconds", "last"), 0.0)
    for family in _registry().collect():
        for sample in family.samples:
            if sample.labels.get("model") != model:
                continue
            if sample.name == "tfsoftmax_requests_total":
                found["good" if sample.labels["code"] < "400" else "bad"] += sample.value
            elif sample.name == "tfsoftmax_request_seconds_sum":
                found["good_seconds"] += sample.value
            elif sample.name == "tfsoftmax_error_seconds_total":
                found["bad_seconds"] += sample.value
                found["good_seconds"] -= sample.value
            elif sample.name == "tfsoftmax_batch_rows_sum":
                found["rows"] += sample.value
            elif sample.name == "tfsoftmax_last_answer_seconds":
                found["last"] = sample.value
    return found


def page() -> tuple[bytes, bytes]:
    """The metrics of all workers in Prometheus's text form, and its content type."""
    return generate_latest(_registry()), CONTENT_TYPE_LATEST.encode()


def _registry() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    registry.register(_Workers())
    return registry


class _Workers(Collector):
    """The files of all workers but those that a worker has only just made: prometheus_client fails on an empty one."""

    def collect(self) -> Iterable[Metric]:
        """prometheus_client's interface."""
        files = glob.glob(os.path.join(os.environ["PROMETHEUS_MULTIPROC_DIR"], "*.db"))
        found: Iterable[Metric] = multiprocess.MultiProcessCollector.merge(list(filter(_written, files)))
        return found


def _written(file: str) -> bool:
    try:
        return os.path.getsize(file) > 0
    except FileNotFoundError:  # of a worker that has ended
        return False
