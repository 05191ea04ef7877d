"""Prometheus metrics, right with several workers: those share files where PROMETHEUS_MULTIPROC_DIR says."""

from __future__ import annotations

import functools
import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

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
_refused = Counter("tfsoftmax_refused_versions", "Versions that could not be loaded.", ["model"])

# looking a child up by its labels costs more than counting
_request = functools.lru_cache(4096)(lambda model, verb, code: _requests.labels(model, verb, code))
_error = functools.lru_cache(1024)(_errors.labels)
_time = functools.lru_cache(1024)(_seconds.labels)
_batch = functools.lru_cache(1024)(_rows.labels)


def count(model: str, verb: str, status: int, seconds: float | None = None, rows: int = 0) -> None:
    """Count one answered request; ``model`` is empty where no served model was named."""
    _request(model, verb, status).inc()
    if seconds is not None:
        _time(model, verb).observe(seconds)
    if status >= 400:
        _error(model, verb).inc()
    elif rows:
        _batch(model).observe(rows)


def served(model: str, version: int) -> None:
    """Note the version that is served now."""
    _version.labels(model).set(version)


def refused(model: str) -> None:
    """Count a version that could not be loaded."""
    _refused.labels(model).inc()


def page() -> tuple[bytes, bytes]:
    """The metrics of all workers in Prometheus's text form, and its content type."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)
    return generate_latest(registry), CONTENT_TYPE_LATEST.encode()
