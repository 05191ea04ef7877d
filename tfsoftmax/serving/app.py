"""The ASGI app: which path is answered by what."""

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
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from tfsoftmax.errors import InputError
from tfsoftmax.serving import explain, metrics, openapi, openinference, tensors, tfserving
from tfsoftmax.serving.models import Models, Version
from tfsoftmax.serving.settings import Settings
from tfsoftmax.serving.wire import JSON, Call, Endpoint, Gate, Refused, Reply, access

log = logging.getLogger("tfsoftmax.serving")

LOOK = 0.3  # seconds between two looks at the export folders

_MODEL = "/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]{1,19})|/labels/(?P<label>[^/:]+))?"
_MODEL_2 = "/v2/models/(?P<model>[^/:]+)(?:/versions/(?P<version>[0-9]{1,19}))?"
_PAGE = {
    "/": ("index.html", b"text/html; charset=utf-8"),
    "/page.css": ("page.css", b"text/css; charset=utf-8"),
    "/page.js": ("page.js", b"text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", b"image/svg+xml"),
}
_PAGE_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


class Handlers:
    """What answers each path: a thin layer from HTTP to the protocols."""

    def __init__(self, models: Models):
        self.models = models

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

    async def answer(self, function: Callable[..., tuple[bytes, int]], call: Call) -> bytes:
        """``:predict``, ``:classify`` and ``:explain``."""
        version = self.version(call)
        body = await call.body()
        whole = call.headers.get(b"content-type", b"").startswith(b"image/") and function is not tfserving.classify
        convert = tensors.Convert(whole=whole, **_flags(call.query))
        answer, call.rows = await call.work(function, body, version, convert)
        return answer

    async def infer(self, call: Call) -> bytes | Reply:
        """The Open Inference Protocol's ``infer``."""
        version = self.version(call)
        length = call.headers.get(b"inference-header-content-length")
        answer, head, call.rows = await call.work(openinference.infer, await call.body(), version, length)
        if head is None:
            return answer
        return Reply(answer, b"application/octet-stream", (b"inference-header-content-length", b"%d" % head))

    async def status(self, call: Call) -> bytes:
        """TensorFlow Serving's status of a model, or of one version."""
        name, number = call.parameters["model"], call.parameters["version"]
        if call.parameters["label"] is not None or name not in self.models.current:
            self.version(call)
        states = self.models.states[name]
        if number is not None:
            states = {n: state for n, state in states.items() if str(n) == number.lstrip("0")}
            if not states:
                self.version(call)
        return tfserving.status(states)

    async def described(self, function: Callable[[Version], bytes], call: Call) -> bytes:
        """Whatever follows from the version alone."""
        return function(self.version(call))

    async def ready(self, call: Call) -> bytes:
        """Readiness of one model."""
        return b'{"name":"%s","ready":true}' % self.version(call).name.encode()

    async def all_ready(self, call: Call) -> Reply:
        """Readiness of the server: each model that was found has a version that answers."""
        ready = bool(self.models.current) and all(name in self.models.current for name in self.models.states)
        return Reply(b'{"ready":%s}' % (b"true" if ready else b"false"), status=200 if ready else 503)


def _flags(query: bytes) -> dict[str, bool]:
    """``fit`` and ``invert`` of a query, for pictures."""
    if not query:
        return {}
    values = {"true": True, "1": True, "false": False, "0": False}
    found = {}
    for name, value in urllib.parse.parse_qsl(query.decode("latin-1"), keep_blank_values=True):
        if name not in ("fit", "invert") or value not in values or name in found:
            raise InputError(f"the query may hold fit and invert, once, each true or false; got {name!r}={value!r}")
        found[name] = values[value]
    return found


class App(Starlette):
    """Starlette, but an endpoint that matches is called at once: it needs none of the middleware for errors."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection."""
        for endpoint in self.routes:
            match, found = endpoint.matches(scope)
            if match is Match.FULL:
                scope.update(found)
                return await endpoint.handle(scope, receive, send)
        await super().__call__(scope, receive, send)


async def _error(settings: Settings, request: Request, error: HTTPException) -> Response:
    """What the router itself refuses: no such path, another method."""
    text = error.detail if error.status_code == 405 else f"there is nothing at {request.url.path!r}"
    reply = Reply.error(error.status_code, text)
    metrics.count("", "other", error.status_code)
    if settings.access_log:
        access(request.scope, error.status_code, 0.0)
    return Response(reply.content, error.status_code, error.headers, reply.kind.decode())


@contextlib.asynccontextmanager
async def _lifespan(models: Models, app: Starlette) -> AsyncIterator[None]:
    """Follow the export folders while the app runs."""

    async def follow() -> None:
        while True:
            await asyncio.sleep(LOOK)
            try:
                await asyncio.to_thread(models.refresh)
            except Exception:
                log.exception("looking for new versions failed; trying again")

    gc.collect()
    gc.freeze()  # what was imported stays: collections need not walk over it
    task = asyncio.create_task(follow())
    yield
    task.cancel()


def create_app(settings: Settings) -> Starlette:
    """The app over the exports that ``settings`` name, loaded and warm. Raises InputError."""
    gate, models = Gate(settings), Models(settings)
    handlers = Handlers(models)

    def route(pattern: str, function: Callable, **options: Any) -> Endpoint:
        return Endpoint(pattern, function, gate, **options)

    def post(pattern: str, verb: str, function: Callable, *arguments: Any) -> Endpoint:
        return route(pattern, functools.partial(function, *arguments), methods=("POST",), verb=verb)

    def fixed(pattern: str, content: bytes, kind: bytes = JSON, *headers: tuple[bytes, bytes]) -> Endpoint:
        async def reply(call: Call) -> Reply:
            return Reply(content, kind, *headers)

        return route(pattern, reply, open=True)

    async def no_list(call: Call) -> bytes:
        raise Refused(400, "Missing model name in request: GET /v1/models/NAME")

    async def measured(call: Call) -> Reply:
        return Reply(*metrics.page())

    async def described(call: Call) -> bytes:
        return openapi.document(list(models.current.values()), settings)

    async def names(call: Call) -> bytes:
        return msgspec.json.encode(sorted(models.current))

    routes = [
        post(f"{_MODEL}:predict", "predict", handlers.answer, tfserving.predict),
        post(f"{_MODEL_2}/infer", "infer", handlers.infer),
        post(f"{_MODEL}:classify", "classify", handlers.answer, tfserving.classify),
        post(f"{_MODEL}:explain", "explain", handlers.answer, explain.explain),
        route(_MODEL, handlers.status),
        route(f"{_MODEL}/metadata", functools.partial(handlers.described, tfserving.metadata)),
        route("/v1/models/?", no_list),
        fixed("/v2/?", openinference.server()),
        fixed("/v2/health/live", b'{"live":true}'),
        route("/v2/health/ready", handlers.all_ready, open=True),
        route(_MODEL_2, functools.partial(handlers.described, openinference.metadata)),
        route(f"{_MODEL_2}/ready", handlers.ready),
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
        lifespan=functools.partial(_lifespan, models),
        exception_handlers={HTTPException: functools.partial(_error, settings)},
    )
    app.router.redirect_slashes = False
    return app
