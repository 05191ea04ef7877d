"""Traces: a span per request, by OpenTelemetry, which is imported only where they are wanted."""

from __future__ import annotations

import time
from typing import Any

from tfsoftmax.errors import InputError


class Traces:
    """The spans of a process, sent by OTLP over HTTP, or to the provider that the process has already.

    OpenTelemetry's own variables say where and which: ``OTEL_EXPORTER_OTLP_ENDPOINT``, ``OTEL_SERVICE_NAME``,
    ``OTEL_TRACES_SAMPLER``, ``OTEL_PROPAGATORS``. Raises InputError where the packages are missing.
    """

    def __init__(self) -> None:
        try:
            from opentelemetry import propagate, trace
            from opentelemetry.sdk.trace import TracerProvider

            self.provider: Any = trace.get_tracer_provider()
            if not isinstance(self.provider, TracerProvider):
                self.provider = _provider()
                trace.set_tracer_provider(self.provider)
        except ImportError as error:
            text = f"--traces needs OpenTelemetry: pip install 'tfsoftmax[otel]' ({error})"
            raise InputError(text) from error
        self.extract = propagate.extract
        self.tracer = self.provider.get_tracer("tfsoftmax.serving")
        self.kind, self.failed = trace.SpanKind.SERVER, trace.StatusCode.ERROR

    def record(self, scope: Any, verb: str, status: int, seconds: float, call: Any) -> None:
        """The span of a request that has just been answered; a ``traceparent`` in its headers is the parent's."""
        headers = {_text(name): _text(value) for name, value in scope["headers"]}
        end = time.time_ns()
        attributes: dict[str, Any] = {"tfsoftmax.status": status}
        if scope["method"] == "gRPC":
            name = scope["path"].removeprefix("/")
            service, _, method = name.rpartition("/")
            attributes |= {"tfsoftmax.protocol": "grpc", "rpc.system": "grpc"}
            attributes |= {"rpc.service": service, "rpc.method": method}
        else:
            name = f"{scope['method']} {verb}"
            attributes |= {"tfsoftmax.protocol": "http", "http.request.method": scope["method"]}
            attributes |= {"url.path": scope["path"], "http.response.status_code": status}
        if call.served[0]:
            model, version = call.served
            attributes |= {"tfsoftmax.model": model, "tfsoftmax.version": version, "tfsoftmax.rows": call.rows}
        span = self.tracer.start_span(
            name,
            self.extract(headers),
            kind=self.kind,
            attributes=attributes,
            start_time=end - round(seconds * 1e9),
        )
        if status >= 500:
            span.set_status(self.failed)
        span.end(end)

    def flush(self) -> None:
        """Send the spans that wait."""
        self.provider.force_flush()


def _provider() -> Any:
    """A provider that sends by OTLP. Raises ImportError."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = OTELResourceDetector().detect().attributes.get("service.name", "tfsoftmax")
    provider = TracerProvider(resource=Resource.create({"service.name": named}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _text(value: Any) -> str:
    """A name or value of a header, HTTP's bytes or gRPC's text."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)
