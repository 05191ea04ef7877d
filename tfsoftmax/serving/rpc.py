"""The gRPC server beside HTTP: same process, same event loop, same models, same limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

# the helper process is started by fork and exec, which needs none of gRPC's care
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc
import grpc.aio
from grpc_reflection.v1alpha import reflection

from tfsoftmax.errors import InputError
from tfsoftmax.serving import metrics, openinference, protos, rpc_openinference, rpc_tfserving
from tfsoftmax.serving.effort import Refused
from tfsoftmax.serving.models import Models, Version
from tfsoftmax.serving.wire import Expired, Gate, TimeLimit

log = logging.getLogger("tfsoftmax.serving")

MOST_CALLS = 1024  # calls at once in one process; further ones are answered RESOURCE_EXHAUSTED
LOOK = 0.3  # seconds between two looks at the readiness that a client watches
V2, PREDICTION, MODEL, HEALTH = (f"/{name}/" for name in protos.SERVICES)
OPEN = (HEALTH, f"{V2}ServerLive", f"{V2}ServerReady")  # without a key, as over HTTP
EXTENSIONS = [name for name in openinference.EXTENSIONS if name != "model_configuration"]

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_MESSAGES = {
    name: protos.message(name)
    for name in (
        "grpc.health.v1.HealthCheckRequest",
        "grpc.health.v1.HealthCheckResponse",
        "inference.ModelMetadataRequest",
        "inference.ModelReadyRequest",
        "inference.ModelStatisticsRequest",
        "inference.RepositoryIndexRequest",
        "tensorflow.serving.GetModelMetadataRequest",
        "tensorflow.serving.GetModelStatusRequest",
        "tfsoftmax.InferHead",
        "tfsoftmax.SpecHead",
    )
}


def _authorization(metadata: Any) -> bytes:
    """The key that a call sends, as HTTP's header."""
    return str(next((value for key, value in metadata or () if key == "authorization"), "")).encode()


def _read(name: str, body: bytes) -> Any:
    return protos.parsed(_MESSAGES[name], body)


class Call:
    """One call: what the metrics and the access log say of it."""

    __slots__ = ("rows", "served", "unseen")

    def __init__(self) -> None:
        self.rows = 0
        self.unseen: dict[str, int] = {}
        self.served = ("", "")


_Method = Callable[[bytes, Call], Awaitable[bytes]]


class Service(grpc.GenericRpcHandler):
    """All methods: messages as bytes in and out, with what every call needs around them."""

    def __init__(self, models: Models, gate: Gate):
        self.models, self.gate, self.stopping = models, gate, asyncio.Event()
        methods: dict[str, _Method] = {
            f"{V2}ModelInfer": self.infer,
            f"{V2}ServerLive": self.live,
            f"{V2}ServerReady": self.ready,
            f"{V2}ModelReady": self.model_ready,
            f"{V2}ServerMetadata": self.server_metadata,
            f"{V2}ModelMetadata": self.model_metadata,
            f"{V2}ModelStatistics": self.statistics,
            f"{V2}RepositoryIndex": self.index,
            f"{PREDICTION}Predict": self.predict,
            f"{PREDICTION}Classify": self.classify,
            f"{PREDICTION}GetModelMetadata": self.metadata,
            f"{MODEL}GetModelStatus": self.status,
            f"{HEALTH}Check": self.check,
        }
        self.handlers: dict[str, Any] = {
            # the request is read by us, within the time limit; on the wire there is no difference
            name: grpc.stream_unary_rpc_method_handler(self._handler(name, method))
            for name, method in methods.items()
        }
        self.handlers[f"{HEALTH}Watch"] = grpc.unary_stream_rpc_method_handler(self.watch)

    def service(self, handler_call_details: Any) -> Any:
        """gRPC's interface: the handler of a method; None: there is no such method."""
        return self.handlers.get(handler_call_details.method)

    def _handler(self, name: str, method: _Method) -> Callable[[Any, Any], Awaitable[bytes]]:
        verb = name.rpartition("/")[2]

        async def handle(_: Any, context: Any) -> bytes:
            begin, call = time.perf_counter(), Call()
            status, text, answer = await self._answer(name, method, context, call)
            seconds = time.perf_counter() - begin
            scope: dict[str, Any] = {"method": "gRPC", "path": name}
            if self.gate.watched:
                scope |= {"client": (context.peer(),), "headers": context.invocation_metadata() or ()}
            self.gate.answered(scope, verb, status, seconds, call)
            if status != 200:
                await context.abort(_CODES[status], text if text.isprintable() else " ".join(text.split()))
            return answer

        return handle

    async def _answer(self, name: str, method: _Method, context: Any, call: Call) -> tuple[int, str, bytes]:
        """HTTP's status of a call, the text of its error, its answer."""
        held = 0
        try:
            with TimeLimit(self.gate.settings.timeout), self._counted(name, context):
                body = await context.read()
                if not isinstance(body, bytes):
                    raise InputError("the call has no message")
                held = len(body)
                self.gate.held += held
                self.gate.check_room(held)
                return 200, "", await method(body, call)
        except Refused as error:
            return error.status, str(error), b""
        except InputError as error:
            return 400, str(error), b""
        except Expired:
            return 504, f"no answer within {self.gate.settings.timeout:g} s", b""
        except Exception:
            log.exception("%s failed", name)
            return 500, "internal error; the server's log has it", b""
        finally:
            self.gate.held -= held

    def _counted(self, name: str, context: Any) -> contextlib.AbstractContextManager[None]:
        """:meth:`Gate.counted` of a call that needs a key."""
        if not self.gate.keys or name.startswith(OPEN):
            return contextlib.nullcontext()
        return self.gate.counted(_authorization(context.invocation_metadata()))

    def version(self, name: str, version: str | None, call: Call) -> Version:
        """The version that a request names. Raises Refused."""
        try:
            found = self.models.get(name, version)
        except KeyError as error:
            raise Refused(404, error.args[0]) from error
        call.served = (found.name, str(found.number))
        return found

    # ---- the Open Inference Protocol

    async def infer(self, body: bytes, call: Call) -> bytes:
        """``ModelInfer``."""
        head = _read("tfsoftmax.InferHead", body)
        version = self.version(head.model_name, head.model_version or None, call)
        answer, call.rows, call.unseen = await self.gate.perform(rpc_openinference.infer, body, b"", version)
        return answer

    async def live(self, body: bytes, call: Call) -> bytes:
        """``ServerLive``."""
        return rpc_openinference.message("inference.ServerLiveResponse", {"live": True})

    async def ready(self, body: bytes, call: Call) -> bytes:
        """``ServerReady``."""
        return rpc_openinference.message("inference.ServerReadyResponse", {"ready": self.models.ready})

    async def model_ready(self, body: bytes, call: Call) -> bytes:
        """``ModelReady``: false of an unknown model, as Triton answers."""
        asked = _read("inference.ModelReadyRequest", body)
        try:
            self.models.get(asked.name, asked.version or None)
        except KeyError:
            return b""
        return rpc_openinference.message("inference.ModelReadyResponse", {"ready": True})

    async def server_metadata(self, body: bytes, call: Call) -> bytes:
        """``ServerMetadata``."""
        return rpc_openinference.message("inference.ServerMetadataResponse", openinference.server(EXTENSIONS))

    async def model_metadata(self, body: bytes, call: Call) -> bytes:
        """``ModelMetadata``."""
        asked = _read("inference.ModelMetadataRequest", body)
        version = self.version(asked.name, asked.version or None, call)
        return rpc_openinference.message("inference.ModelMetadataResponse", openinference.metadata(version))

    async def statistics(self, body: bytes, call: Call) -> bytes:
        """``ModelStatistics``, of one model or of all."""
        asked = _read("inference.ModelStatisticsRequest", body)
        versions = list(self.models.shown.current.values())
        if asked.name:
            versions = [self.version(asked.name, asked.version or None, call)]
        return rpc_openinference.message("inference.ModelStatisticsResponse", openinference.statistics(versions))

    async def index(self, body: bytes, call: Call) -> bytes:
        """``RepositoryIndex``."""
        ready = b'{"ready":true}' if _read("inference.RepositoryIndexRequest", body).ready else b""
        found = b'{"models":%s}' % openinference.index(ready, self.models.shown)
        return rpc_openinference.message("inference.RepositoryIndexResponse", found)

    # ---- TensorFlow Serving

    async def predict(self, body: bytes, call: Call) -> bytes:
        """``Predict``."""
        return await self._perform(rpc_tfserving.predict, body, call)

    async def classify(self, body: bytes, call: Call) -> bytes:
        """``Classify``."""
        return await self._perform(rpc_tfserving.classify, body, call)

    async def _perform(self, function: Callable[..., Any], body: bytes, call: Call) -> bytes:
        spec = _read("tfsoftmax.SpecHead", body).model_spec
        version = self.version(spec.name, _number(spec), call)
        answer, call.rows, call.unseen = await self.gate.perform(function, body, b"", version)
        return answer

    async def metadata(self, body: bytes, call: Call) -> bytes:
        """``GetModelMetadata``."""
        asked = _read("tensorflow.serving.GetModelMetadataRequest", body)
        version = self.version(asked.model_spec.name, _number(asked.model_spec), call)
        return rpc_tfserving.metadata(version, asked.metadata_field)

    async def status(self, body: bytes, call: Call) -> bytes:
        """``GetModelStatus``."""
        spec = _read("tensorflow.serving.GetModelStatusRequest", body).model_spec
        try:
            return rpc_tfserving.status(self.models.states(spec.name, _number(spec)))
        except KeyError as error:
            raise Refused(404, error.args[0]) from error

    # ---- health

    def _health(self, body: bytes) -> int | None:
        """The health of the service that a request names; None: there is no such service."""
        service = _read("grpc.health.v1.HealthCheckRequest", body).service
        if service and service not in protos.SERVICES:
            return None
        return 1 if self.models.ready and not self.stopping.is_set() else 2

    async def check(self, body: bytes, call: Call) -> bytes:
        """``Check``: of the server (no name) or of one of its services."""
        found = self._health(body)
        if found is None:
            raise Refused(404, f"there is no such service; there are {', '.join(protos.SERVICES)}")
        return _MESSAGES["grpc.health.v1.HealthCheckResponse"](status=found).SerializeToString()

    async def watch(self, body: bytes, context: Any) -> AsyncIterator[bytes]:
        """``Watch``: the health now, and whenever it changes."""
        last = None
        while not (last and self.stopping.is_set()):
            try:
                found = self._health(body)
            except InputError as error:
                await context.abort(_CODES[400], str(error))
            found = 3 if found is None else found
            if found != last:
                yield _MESSAGES["grpc.health.v1.HealthCheckResponse"](status=found).SerializeToString()
                last = found
            try:
                await asyncio.wait_for(self.stopping.wait(), LOOK)
            except asyncio.TimeoutError:
                continue
            if last != 2:
                yield _MESSAGES["grpc.health.v1.HealthCheckResponse"](status=2).SerializeToString()


def _number(spec: Any) -> str | None:
    """The version of a ModelSpec, as text. Raises Refused."""
    if spec.version_label:
        raise Refused(400, f"Unrecognized servable version label: {spec.version_label}")
    return str(spec.version.value) if spec.HasField("version") else None


class _Keys(grpc.aio.ServerInterceptor):
    """Calls without a key that may send one now end before their message is read."""

    def __init__(self, gate: Gate):
        self.gate = gate

    async def intercept_service(self, continuation: Callable[..., Any], handler_call_details: Any) -> Any:
        """gRPC's interface: the handler of a call."""
        if not handler_call_details.method.startswith(OPEN):
            try:
                self.gate.check_key(_authorization(handler_call_details.invocation_metadata))
            except Refused as error:
                code, text = _CODES[error.status], str(error).replace("header", "metadata")
                metrics.count("", "other", error.status)

                async def refuse(_: Any, context: Any) -> None:
                    await context.abort(code, text)

                return grpc.stream_unary_rpc_method_handler(refuse)
        return await continuation(handler_call_details)


class Server:
    """The server on one address; several processes may share it.

    Args:
        models: what answers.
        gate: the limits, shared with HTTP.
        address: ``HOST:PORT``.
    """

    def __init__(self, models: Models, gate: Gate, address: str):
        self.service, self.timeout = Service(models, gate), gate.settings.timeout
        self.server = grpc.aio.server(
            interceptors=[_Keys(gate)] if gate.keys else (),
            options=[
                ("grpc.so_reuseport", 1),
                ("grpc.max_receive_message_length", gate.settings.max_body),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", 16 * 1024),
            ],
            maximum_concurrent_rpcs=MOST_CALLS,
        )
        self.server.add_generic_rpc_handlers((self.service,))
        reflection.enable_server_reflection((*protos.SERVICES, reflection.SERVICE_NAME), self.server, protos.POOL)
        self.address = address

    async def start(self) -> None:
        """Listen and answer."""
        self.server.add_insecure_port(self.address)
        await self.server.start()
        log.info("answering gRPC on %s", self.address)

    async def stop(self) -> None:
        """Take no more calls; end once those under way are answered, or their time is over."""
        self.service.stopping.set()
        await self.server.stop(self.timeout)
