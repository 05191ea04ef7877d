"""Traces: one span a request over both protocols, in memory and as they are sent."""

import asyncio
import http.server
import json
import socket
import sys
import threading

import grpc
import pytest
import serve
from calls import V2, infer
from serve import BODY

from tfsoftmax.errors import InputError
from tfsoftmax.serving.app import create_app
from tfsoftmax.serving.settings import Settings

sdk = pytest.importorskip("opentelemetry.sdk.trace")
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"  # the example of the W3C's Trace Context
HEADER = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def spans(monkeypatch):
    """The spans that were recorded here, by way of a provider that the process has already."""
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter").InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(sdk.export.SimpleSpanProcessor(memory))
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: provider)
    return memory.get_finished_spans


def test_http(export, spans):
    app = create_app(Settings((str(export),), traces=True))
    body = json.dumps(BODY).encode()
    assert serve.ask(app, "POST", "/v1/models/m:predict", HEADER, body)[0] == 200
    assert serve.ask(app, "POST", "/v1/models/m:predict", {"traceparent": "nonsense"}, b"{")[0] == 400
    assert serve.ask(app, "GET", "/v1/models/x")[0] == 404
    good, bad, unknown = spans()
    assert (good.name, good.kind.name, good.status.status_code.name) == ("POST predict", "SERVER", "UNSET")
    assert dict(good.attributes) == {
        "tfsoftmax.protocol": "http",
        "tfsoftmax.model": "m",
        "tfsoftmax.version": "1",
        "tfsoftmax.rows": 1,
        "tfsoftmax.status": 200,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "url.path": "/v1/models/m:predict",
    }
    assert (f"{good.context.trace_id:032x}", f"{good.parent.span_id:016x}") == (TRACE, PARENT)
    assert 0 < good.end_time - good.start_time < 60e9
    assert (bad.parent, bad.attributes["tfsoftmax.status"], bad.attributes["tfsoftmax.rows"]) == (None, 400, 0)
    assert (unknown.name, unknown.attributes["tfsoftmax.status"]) == ("GET other", 404)
    assert "tfsoftmax.model" not in unknown.attributes


def test_grpc(export, spans):
    async def ask():
        with socket.create_server(("127.0.0.1", 0)) as free:
            address = f"127.0.0.1:{free.getsockname()[1]}"
        app = create_app(Settings((str(export),), traces=True), address)
        async with app.router.lifespan_context(app), grpc.aio.insecure_channel(address) as channel:
            method = channel.unary_unary(f"{V2}ModelInfer")
            await method(infer().SerializeToString(), metadata=list(HEADER.items()), wait_for_ready=True)
            with pytest.raises(grpc.RpcError):
                await method(infer(model_name="x").SerializeToString())

    asyncio.run(ask())
    good, bad = spans()
    assert (good.name, good.kind.name) == ("inference.GRPCInferenceService/ModelInfer", "SERVER")
    assert dict(good.attributes) == {
        "tfsoftmax.protocol": "grpc",
        "tfsoftmax.model": "m",
        "tfsoftmax.version": "1",
        "tfsoftmax.rows": 2,
        "tfsoftmax.status": 200,
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
    }
    assert (f"{good.context.trace_id:032x}", f"{good.parent.span_id:016x}") == (TRACE, PARENT)
    assert (bad.parent, bad.attributes["tfsoftmax.status"]) == (None, 404)


def test_they_are_sent(export, monkeypatch):
    """Those of the last moment, too, and by each worker."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="the extra otel is not installed")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
        with serve.Server(export, "--traces", "--workers", 2) as server:
            server.post("/v1/models/m:predict", BODY, HEADER)
            assert server.stop() == 0
        collector.shutdown()
    ((path, message),) = received
    (of_process,) = message.resource_spans
    assert path == "/v1/traces"
    assert {"tfsoftmax"} == {a.value.string_value for a in of_process.resource.attributes if a.key == "service.name"}
    ((span,),) = (scope.spans for scope in of_process.scope_spans)
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("POST predict", TRACE, PARENT)


def test_packages_that_are_missing(export, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(InputError, match=r"--traces needs OpenTelemetry: pip install 'tfsoftmax\[otel\]'"):
        create_app(Settings((str(export),), traces=True))
