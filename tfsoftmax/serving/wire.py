"""HTTP for every endpoint: limits and deadlines of bodies, keys, one form of errors, metrics, the access log."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import functools
import hmac
import ipaddress
import json
import logging
import math
import re
import time
import zlib
from asyncio import to_thread
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from tfsoftmax._machine import memory_available
from tfsoftmax.errors import InputError
from tfsoftmax.serving import metrics
from tfsoftmax.serving.effort import INLINE, Effort, Refused, TooMuch, check_encoding
from tfsoftmax.serving.helper import Helper, perform
from tfsoftmax.serving.models import Version
from tfsoftmax.serving.rate import Rate
from tfsoftmax.serving.settings import Settings
from tfsoftmax.serving.traces import Traces

log = logging.getLogger("tfsoftmax.serving")

LEAST = 64 * 2**20  # bytes of memory that the helper process may always use for one request
PACKED = 1024  # bytes from which an answer is compressed for clients that accept it
JSON = b"application/json"


class Reply:
    """The answer of an endpoint: content, its type, a status, and extra headers."""

    __slots__ = ("content", "headers", "kind", "status")

    def __init__(self, content: bytes, kind: bytes = JSON, *headers: tuple[bytes, bytes], status: int = 200):
        self.content, self.kind, self.headers, self.status = content, kind, headers, status

    @classmethod
    def error(cls, status: int, text: str, *headers: tuple[bytes, bytes]) -> Reply:
        """The one form of errors: ``{"error": text}``."""
        text = text.encode("utf-8", "replace").decode()
        return cls(msgspec.json.encode({"error": text}), JSON, *headers, status=status)


@functools.lru_cache(256)
def is_served(host: bytes, names: tuple[str, ...]) -> bool:
    """Whether a request's ``Host``, with or without a port, is one of ``names`` or of this machine; empty: it is."""
    name = re.sub(rb":[0-9]*$", b"", host).decode("latin-1").lower()
    if name in names or name in ("", "localhost") or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


class Gate:
    """State shared by all requests of a process: settings, helper process, memory held."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.keys = [key.encode() for key in settings.api_keys]
        self.rate = None if settings.rate is None else Rate(settings.rate)
        self.under_way: collections.Counter[bytes] = collections.Counter()  # requests of each key
        self.traces = Traces() if settings.traces else None
        self.watched = settings.access_log or settings.traces  # who asks is wanted, too
        self.origins = {origin.encode() for origin in settings.allow_origins}
        self.held = 0  # bytes of bodies, and of answers that are being sent
        free = memory_available() // 4
        self.most_held = max(2 * settings.max_body, min(4 * settings.max_body, free))
        self.helper = Helper(settings.max_body, max(2 * settings.max_body, LEAST, min(3 * settings.max_body, free)))

    def check_page(self, method: str, headers: dict[bytes, bytes]) -> None:
        """Raise Refused if a web page asks that is not ours and not admitted.

        A page reaches a server on loopback under its own name, which it lets point there (DNS rebinding), and it can
        send a POST to any server, though it cannot read the answer.
        """
        host = headers.get(b"host", b"")
        if self.settings.hosts and not is_served(host, self.settings.hosts):
            name = host.decode("latin-1")
            text = f"this server answers for {self.settings.hosts[0]}, not for {name!r}: behind a proxy start it with "
            raise Refused(421, text + "--api-key-file FILE, or with --insecure")
        origin = headers.get(b"origin")
        if origin is None or method != "POST" or origin in self.origins or b"*" in self.origins:
            return
        site = headers.get(b"sec-fetch-site")  # the browser's own word, which holds behind a proxy as well
        ours = origin.partition(b"://")[2] == host if site is None else site in (b"same-origin", b"none")
        if not ours:
            name = origin.decode("latin-1")
            raise Refused(403, f"a page of {name!r} may not ask this server; --allow-origin {name} admits it")

    def check_key(self, authorization: bytes) -> None:
        """Raise Refused unless the header has a valid key, which may send a request now.

        Takes the same time for every wrong key.
        """
        scheme, _, given = authorization.partition(b" ")
        given = given.strip()
        if not any([hmac.compare_digest(given, key) for key in self.keys]) or scheme.lower() != b"bearer":  # noqa: C419
            text = "this server requires a key: send the header Authorization: Bearer KEY"
            raise Refused(401, text, (b"www-authenticate", b"Bearer"))
        if self.rate is not None and (seconds := self.rate.wait(given, time.monotonic())):
            text = f"more than {self.settings.rate:g} requests a second with this key; try again"
            raise Refused(429, text, (b"retry-after", b"%d" % math.ceil(seconds)))

    @contextlib.contextmanager
    def counted(self, authorization: bytes) -> Iterator[None]:
        """Count a request of the header's key while the block lasts. Raises Refused if it has too many under way."""
        key, most = authorization.partition(b" ")[2].strip(), self.settings.concurrency
        if most is not None and self.under_way[key] >= most:
            text = f"more than {most} requests under way with this key; try again"
            raise Refused(429, text, (b"retry-after", b"1"))
        self.under_way[key] += 1
        try:
            yield
        finally:
            self.under_way[key] -= 1

    def check_room(self, size: int) -> None:
        """Raise Refused if a body of ``size`` bytes, which is counted, is large and one too many."""
        if size > INLINE and self.held > self.most_held:
            raise Refused(503, "too many large requests at once; try again", (b"retry-after", b"1"))

    async def perform(
        self, function: Callable[..., Any], body: bytes, encoding: bytes, version: Version, *arguments: Any
    ) -> Any:
        """``function(body, version, *arguments, effort)``: here if it is cheap, else in the helper process."""
        if len(body) <= INLINE:
            try:
                return perform(function, body, encoding, Effort.here(self.settings.max_body), version, *arguments)
            except TooMuch:
                pass
        return await self.helper.perform(function, body, encoding, version, *arguments)

    def answered(self, scope: Any, verb: str, status: int, seconds: float, call: Any) -> None:
        """Count a request that has been answered, HTTP's or gRPC's; log it and trace it if that is wanted."""
        metrics.count(call.served[0], verb, status, seconds, call.rows)
        for column, values in call.unseen.items():
            metrics.unseen(call.served[0], column, values)
        if self.settings.access_log:
            access(scope, status, seconds, call)
        if self.traces is not None:
            self.traces.record(scope, verb, status, seconds, call)


class Expired(Exception):
    """The block of a :class:`TimeLimit` took too long."""


class TimeLimit:
    """Raises :class:`Expired` where the block takes longer than ``seconds``; what it awaits is cancelled."""

    def __init__(self, seconds: float):
        self._seconds, self._expired = seconds, False

    def __enter__(self) -> None:
        self._task: Any = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._expire)

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._timer.cancel()
        if self._expired and kind is asyncio.CancelledError:
            if hasattr(self._task, "uncancel"):
                self._task.uncancel()
            raise Expired from error


class Call:
    """One request, as endpoints see it."""

    __slots__ = (
        "body_read",
        "gate",
        "headers",
        "held",
        "method",
        "parameters",
        "query",
        "receive",
        "rows",
        "served",
        "unseen",
    )

    def __init__(self, scope: Scope, receive: Receive, gate: Gate):
        self.receive, self.gate = receive, gate
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.parameters: dict[str, Any] = scope["path_params"]
        self.query: bytes = scope["query_string"]
        self.method: str = scope["method"]
        self.body_read = False
        self.held = 0  # its share of the memory that the gate counts
        self.rows = 0
        self.unseen: dict[str, int] = {}  # values that training did not see, by column
        self.served = ("", "")  # name and version of the model that answers, once it is known

    async def body(self) -> bytes:
        """Read the whole body, still compressed. Raises Refused beyond the limits."""
        limit = self.gate.settings.max_body
        if int(self.headers.get(b"content-length", b"0")) > limit:
            raise Refused(413, f"the body is larger than {limit} bytes")
        if b"content-encoding" in self.headers:
            check_encoding(self.encoding)
        parts: list[bytes] = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ConnectionResetError
            part = message.get("body", b"")
            self.hold(len(part))
            if self.held > limit:
                raise Refused(413, f"the body is larger than {limit} bytes")
            self.gate.check_room(self.held)
            if not message.get("more_body", False):
                break
            parts.append(part)
        self.body_read = True
        return b"".join([*parts, part]) if parts else part

    def hold(self, size: int) -> None:
        """Count bytes that stay in memory until the request is answered."""
        self.held += size
        self.gate.held += size

    @property
    def encoding(self) -> bytes:
        """The body's content encoding."""
        return self.headers.get(b"content-encoding", b"").strip().lower()

    async def work(self, function: Callable[..., Any], version: Version, *arguments: Any) -> Any:
        """:meth:`Gate.perform` of this request's body."""
        body = await self.body()
        encoding = self.encoding if b"content-encoding" in self.headers else b""
        return await self.gate.perform(function, body, encoding, version, *arguments)


class Endpoint(BaseRoute):
    """A route and its function, with everything between the socket and the function.

    Args:
        pattern: regular expression of the whole path, case-insensitive. Its groups are the parameters.
        function: answers a :class:`Call` with JSON bytes or a :class:`Reply`.
        gate: the shared state.
        methods: allowed methods.
        verb: name of the endpoint in the metrics.
        open: answer without a key.
    """

    def __init__(
        self,
        pattern: str,
        function: Callable[[Call], Awaitable[bytes | Reply]],
        gate: Gate,
        *,
        methods: tuple[str, ...] = ("GET", "HEAD"),
        verb: str = "other",
        open: bool = False,
    ):
        self.match = re.compile(pattern, re.IGNORECASE).fullmatch
        self.function, self.gate, self.methods, self.verb, self.open = function, gate, methods, verb, open

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Starlette's interface: FULL, PARTIAL (another method), NONE."""
        if scope["type"] != "http":
            return Match.NONE, {}
        path, root = scope["path"], scope.get("root_path", "")
        found = self.match(path.removeprefix(root) if root else path)
        if not found:
            return Match.NONE, {}
        return (
            Match.FULL if scope["method"] in self.methods else Match.PARTIAL,
            {"endpoint": self, "path_params": found.groupdict()},
        )

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        begin = time.perf_counter()
        if scope["method"] not in self.methods:
            raise HTTPException(405, f"{scope['method']} is not allowed here", {"Allow": ", ".join(self.methods)})
        call = Call(scope, receive, self.gate)
        try:
            reply = await self._reply(call, scope)
            await respond(reply, call, send)
        except ConnectionResetError:  # the client has disconnected
            return
        except asyncio.TimeoutError:  # the client does not read: uvicorn closes the incomplete answer
            return
        finally:
            self.gate.held -= call.held
        seconds = time.perf_counter() - begin
        self.gate.answered(scope, self.verb, reply.status, seconds, call)

    async def _reply(self, call: Call, scope: Scope) -> Reply:
        """Return the function's answer, or the error if it fails or times out. Raises ConnectionResetError."""
        try:
            with TimeLimit(self.gate.settings.timeout):
                self.gate.check_page(call.method, call.headers)
                if self.gate.keys and not self.open:
                    key = call.headers.get(b"authorization", b"")
                    self.gate.check_key(key)
                    with self.gate.counted(key):
                        reply = await self.function(call)
                else:
                    reply = await self.function(call)
                return Reply(reply) if isinstance(reply, bytes) else reply
        except Refused as error:
            return Reply.error(error.status, str(error), *error.headers)
        except InputError as error:
            return Reply.error(400, str(error))
        except ConnectionResetError:
            raise
        except Expired:
            seconds = f"{self.gate.settings.timeout:g} s"
            if call.body_read:
                return Reply.error(504, f"no answer within {seconds}")
            return Reply.error(408, f"the body did not arrive within {seconds}", (b"connection", b"close"))
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            return Reply.error(500, "internal error; the server's log has it")


async def respond(reply: Reply, call: Call, send: Send) -> None:
    """Send one reply, compressed if the client accepts that. Raises TimeoutError if the client does not read."""
    content, headers = reply.content, [(b"content-type", reply.kind), *reply.headers]
    if len(content) >= PACKED:
        headers.append((b"vary", b"accept-encoding"))
        if encoding := _accepted(call.headers.get(b"accept-encoding", b"")):
            content = _pack(content, encoding) if len(content) <= INLINE else await to_thread(_pack, content, encoding)
            headers.append((b"content-encoding", encoding))
    headers.append((b"content-length", b"%d" % len(content)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if len(content) <= INLINE:
        await send({"type": "http.response.body", "body": content})
        return
    call.hold(len(content))
    await send({"type": "http.response.body", "body": content, "more_body": True})
    # waits until most of it is sent
    await asyncio.wait_for(send({"type": "http.response.body", "body": b""}), call.gate.settings.timeout)


def _accepted(header: bytes) -> bytes:
    """The content encoding of the answer, from ``Accept-Encoding``; empty: none."""
    if not header:
        return b""
    weights = {}
    for item in header.lower().split(b","):
        name, _, parameter = item.partition(b";")
        weights[name.strip()] = parameter.strip() not in (b"q=0", b"q=0.0", b"q=0.00", b"q=0.000")
    everything = weights.get(b"*", False)
    return next((name for name in (b"gzip", b"deflate") if weights.get(name, everything)), b"")


def _pack(content: bytes, encoding: bytes) -> bytes:
    packer = zlib.compressobj(1, wbits=31 if encoding == b"gzip" else 15)
    return packer.compress(content) + packer.flush()


def access(scope: Any, status: int, seconds: float, call: Any = None) -> None:
    """One line of the access log: a JSON object on standard output."""
    client = scope.get("client")
    entry = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z",
        "client": client[0] if client else None,
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "milliseconds": round(seconds * 1000, 3),
    }
    if call is not None and call.served[0]:
        entry |= {"model": call.served[0], "version": call.served[1], "rows": call.rows}
    print(json.dumps(entry), flush=True)
