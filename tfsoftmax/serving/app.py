"""The ASGI app: which handler answers which path."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import urllib.parse
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from tfsoftmax.errors import InputError
from tfsoftmax.serving import explain, metrics, openapi, openinference, tfserving
from tfsoftmax.serving.effort import INLINE, Effort, Refused
from tfsoftmax.serving.models import Models, Version
from tfsoftmax.serving.pictures import Convert
from tfsoftmax.serving.settings import Settings
from tfsoftmax.serving.wire import JSON, Call, Endpoint, Gate, Reply, access

log = logging.getLogger("tfsoftmax.serving")

LOOK = 0.3  # seconds between two scans of the export folders

_MODEL = "/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]{1,19})|/labels/(?P<label>[^/:]+))?"
_MODEL_2 = "/v2/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]{1,19}))?"
_PAGE = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/page.css": ("page.css", b"text/css; charset=utf-8"),
    **{f"/{name}": (name, b"text/javascript; charset=utf-8") for name in ("page.js", "drawing.js", "dom.js")},
    "/icon.svg": ("icon.svg", b"image/svg+xml"),
}
_PAGE_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


class Handlers:
    """The handlers of all paths: a thin layer between HTTP and the protocols."""

    def __init__(self, models: Models, gate: Gate):
        self.models, self.gate = models, gate

    def version(self, call: Call) -> Version:
        """The version that the path names."""
        if call.parameters.get("label") is not None:
            raise Refused(400, f"Unrecognized servable version label: {call.parameters['label']}")
        try:
            version = self.models.get(call.parameters["model"], call.parameters.get("version"))
        except KeyError as error:
            raise Refused(404, error.args[0]) from error
        call.served = (version.name, str(version.number))
        return version

    async def answer(self, function: Callable[..., tfserving.Answered], call: Call) -> bytes:
        """``:predict``, ``:classify`` and ``:explain``."""
        version = self.version(call)
        convert = Convert(call.headers.get(b"content-type", b""), **_flags(call.query))
        answer, call.rows, call.unseen = await call.work(function, version, convert)
        return answer

    async def infer(self, call: Call) -> bytes | Reply:
        """The Open Inference Protocol's ``infer``."""
        version = self.version(call)
        length = call.headers.get(b"inference-header-content-length")
        answer, call.rows, call.unseen, head = await call.work(openinference.infer, version, length)
        if head is None:
            return answer
        return Reply(answer, b"application/octet-stream", (b"inference-header-content-length", b"%d" % head))

    async def status(self, call: Call) -> bytes:
        """TensorFlow Serving's status of a model, or of one version."""
        if call.parameters["label"] is not None:
            self.version(call)
        try:
            states = self.models.states(call.parameters["model"], call.parameters["version"])
        except KeyError as error:
            raise Refused(404, error.args[0]) from error
        return tfserving.status(states)

    async def described(self, function: Callable[[Version], bytes], call: Call) -> bytes:
        """An answer that depends on the version alone."""
        return function(self.version(call))

    async def ready(self, call: Call) -> bytes:
        """Readiness of one model."""
        return msgspec.json.encode({"name": self.version(call).name, "ready": True})

    async def all_ready(self, call: Call) -> Reply:
        """Readiness of the server: each model has a version that answers."""
        ready = self.models.ready
        return Reply(b'{"ready":%s}' % (b"true" if ready else b"false"), status=200 if ready else 503)

    async def names(self, call: Call) -> bytes:
        """The models that answer, as KServe lists them."""
        return msgspec.json.encode({"models": sorted(self.models.shown.current)})

    async def index(self, call: Call) -> bytes:
        """Triton's index of the repository."""
        body = Effort(INLINE, inline=False).decompress(await call.body(), call.encoding)
        return openinference.index(body, self.models.shown)

    async def statistics(self, call: Call) -> bytes:
        """Triton's statistics, of one model or of all."""
        if "model" in call.parameters:
            return openinference.statistics([self.version(call)])
        return openinference.statistics(list(self.models.shown.current.values()))


def _flags(query: bytes) -> dict[str, bool]:
    """``fit`` and ``invert`` of a query, for pictures."""
    if not query:
        return {}
    values = {"true": True, "1": True, "false": False, "0": False}
    found = {}
    for name, value in urllib.parse.parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in ("fit", "invert") or value not in values or name in found:
            raise InputError(f"the query may contain fit and invert, once each, true or false; got {name!r}={value!r}")
        found[name] = values[value]
    return found


class App(Starlette):
    """Starlette, but a matching endpoint is called directly: it does not need the error middleware."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        for endpoint in self.routes:
            match, found = endpoint.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return await endpoint.handle(scope, receive, send)
        await super().__call__(scope, receive, send)


async def _error(settings: Settings, request: Request, error: HTTPException) -> Response:
    """The router's own errors: unknown path, wrong method."""
    text = error.detail if error.status_code == 405 else f"there is nothing at {request.url.path!r}"
    reply = Reply.error(error.status_code, text)
    metrics.count("", "other", error.status_code)
    if settings.access_log:
        access(request.scope, error.status_code, 0.0)
    return Response(reply.content, error.status_code, error.headers, reply.kind.decode())


@contextlib.asynccontextmanager
async def _lifespan(models: Models, gate: Gate, grpc: str, app: Starlette) -> AsyncIterator[None]:
    """Follow the export folders while the app runs, and answer gRPC where an address is given."""

    async def follow() -> None:
        while True:
            await asyncio.sleep(LOOK)
            try:
                await asyncio.to_thread(models.refresh)
            except Exception:
                log.exception("looking for new versions failed; trying again")

    gc.collect()
    gc.freeze()  # imported objects stay: garbage collections need not visit them
    server = None
    if grpc:
        from tfsoftmax.serving import rpc

        server = rpc.Server(models, gate, grpc)
        await server.start()
    task = asyncio.create_task(follow())
    yield
    task.cancel()
    if server is not None:
        await server.stop()
    await gate.helper.close()
    if gate.traces is not None:
        await asyncio.to_thread(gate.traces.flush)


def create_app(settings: Settings, grpc: str = "") -> ASGIApp:
    """The app over the exports that ``settings`` name, loaded and warm; gRPC on ``HOST:PORT``. Raises InputError."""
    gate, models = Gate(settings), Models(settings)
    handlers = Handlers(models, gate)

    def route(pattern: str, function: Callable[..., Any], **options: Any) -> Endpoint:
        return Endpoint(pattern, function, gate, **options)

    def post(pattern: str, verb: str, function: Callable[..., Any], *arguments: Any) -> Endpoint:
        return route(pattern, functools.partial(function, *arguments), methods=("POST",), verb=verb)

    def fixed(pattern: str, content: bytes, kind: bytes = JSON, *headers: tuple[bytes, bytes]) -> Endpoint:
        async def reply(call: Call) -> Reply:
            return Reply(content, kind, *headers)

        return route(pattern, reply, open=True)

    async def measured(call: Call) -> Reply:
        return Reply(*metrics.page())

    async def described(call: Call) -> bytes:
        return openapi.document(list(models.shown.current.values()), settings)

    async def names(call: Call) -> bytes:
        return msgspec.json.encode(sorted(models.shown.current))

    routes = [
        post(f"{_MODEL}:predict", "predict", handlers.answer, tfserving.predict),
        post(f"{_MODEL_2}/infer", "infer", handlers.infer),
        post(f"{_MODEL}:classify", "classify", handlers.answer, tfserving.classify),
        post(f"{_MODEL}:explain", "explain", handlers.answer, explain.explain),
        route(_MODEL, handlers.status),
        route(f"{_MODEL}/metadata", functools.partial(handlers.described, tfserving.metadata)),
        route("/v1/models/?", handlers.names),
        fixed("/v2/?", openinference.server()),
        fixed("/v2/health/live", b'{"live":true}'),
        route("/v2/health/ready", handlers.all_ready, open=True),
        route("/v2/models/stats", handlers.statistics),
        route(_MODEL_2, functools.partial(handlers.described, openinference.metadata)),
        route(f"{_MODEL_2}/ready", handlers.ready),
        route(f"{_MODEL_2}/config", functools.partial(handlers.described, openinference.config)),
        route(f"{_MODEL_2}/stats", handlers.statistics),
        post("/v2/repository/index", "other", handlers.index),
        route("/metrics", measured),
        route("/openapi.json", described),
        route("/page/models", names),
        route("/page/models/(?P<model>[^/:]+)", functools.partial(handlers.described, explain.card)),
    ]
    files = resources.files("tfsoftmax.serving") / "page"
    for path, (name, kind) in _PAGE.items():
        routes.append(fixed(path, files.joinpath(name).read_bytes(), kind, *_PAGE_HEADERS))
    app = App(
        routes=routes,
        lifespan=functools.partial(_lifespan, models, gate, grpc),
        exception_handlers={HTTPException: functools.partial(_error, settings)},
    )
    app.router.redirect_slashes = False
    if not settings.allow_origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=settings.allow_origins,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=("Inference-Header-Content-Length",),
    )
