"""HTTP for every endpoint: bodies within limits and deadlines, keys, one form of errors, metrics, the access log."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import time
import zlib
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from tfsoftmax.errors import InputError
from tfsoftmax.serving import metrics
from tfsoftmax.serving.settings import Settings

log = logging.getLogger("tfsoftmax.serving")

INLINE = 128 * 1024  # bytes of a body up to which an answer takes less time than a change of threads is worth
WAITING = 32  # large requests that may wait for a thread; more are answered 503
JSON = b"application/json"


class Refused(Exception):
    """An answer that is an error: its status, its text, and headers beyond the usual ones."""

    def __init__(self, status: int, text: str, *headers: tuple[bytes, bytes]):
        super().__init__(text)
        self.status, self.headers = status, headers


class Reply:
    """What an endpoint answers: content, its type, a status, and headers beyond the usual ones."""

    __slots__ = ("content", "headers", "kind", "status")

    def __init__(self, content: bytes, kind: bytes = JSON, *headers: tuple[bytes, bytes], status: int = 200):
        self.content, self.kind, self.headers, self.status = content, kind, headers, status

    @classmethod
    def error(cls, status: int, text: str, *headers: tuple[bytes, bytes]) -> Reply:
        """The one form of errors: ``{"error": text}``."""
        text = text.encode("utf-8", "replace").decode()
        return cls(msgspec.json.encode({"error": text}), JSON, *headers, status=status)


class Gate:
    """What all requests of a process share: the settings, the threads for large requests, the memory of bodies."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.keys = [key.encode() for key in settings.api_keys]
        self.held = 0  # bytes of bodies that are being read
        self.waiting = 0
        self.threads = ThreadPoolExecutor(2, "serve")

    def check_key(self, headers: dict[bytes, bytes]) -> None:
        """Raise Refused unless the request names a key. Takes the same time whichever key is wrong, and where."""
        given = headers.get(b"authorization", b"")
        scheme, _, given = given.partition(b" ")
        if not any([hmac.compare_digest(given.strip(), key) for key in self.keys]) or scheme.lower() != b"bearer":  # noqa: C419
            text = "this server asks for a key: send the header Authorization: Bearer KEY"
            raise Refused(401, text, (b"www-authenticate", b"Bearer"))


class Call:
    """One request, as endpoints see it."""

    __slots__ = ("body_read", "gate", "headers", "method", "parameters", "query", "receive", "rows", "served")

    def __init__(self, scope: Scope, receive: Receive, gate: Gate):
        self.receive, self.gate = receive, gate
        self.headers: dict[bytes, bytes] = dict(scope["headers"])
        self.parameters: dict[str, str | None] = scope["path_params"]
        self.query: bytes = scope["query_string"]
        self.method: str = scope["method"]
        self.body_read = False
        self.rows = 0
        self.served = ("", "")  # name and version of the model that answers, once it is known

    async def body(self) -> bytes:
        """The whole body, decompressed. Raises Refused beyond the limits."""
        limit = self.gate.settings.max_body
        if int(self.headers.get(b"content-length", b"0")) > limit:
            raise Refused(413, f"the body is larger than {limit} bytes")
        message = await self.receive()
        body = message.get("body", b"")
        if message.get("more_body", False):
            body = await self._rest(body, limit)
        elif message["type"] == "http.disconnect":
            raise ConnectionResetError
        if len(body) > limit:
            raise Refused(413, f"the body is larger than {limit} bytes")
        self.body_read = True
        encoding = self.headers.get(b"content-encoding")
        return body if encoding is None else decompress(body, encoding.strip().lower(), limit)

    async def _rest(self, first: bytes, limit: int) -> bytes:
        gate, parts, size, more = self.gate, [first], len(first), True
        gate.held += size
        try:
            while more:
                message = await self.receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError
                part, more = message.get("body", b""), message.get("more_body", False)
                parts.append(part)
                size += len(part)
                gate.held += len(part)
                if size > limit:
                    raise Refused(413, f"the body is larger than {limit} bytes")
                if gate.held > 16 * limit:
                    raise Refused(503, "too many large requests at once; try again", (b"retry-after", b"1"))
            return b"".join(parts)
        finally:
            gate.held -= size

    async def work(self, function: Callable[..., Any], body: bytes, *arguments: Any) -> Any:
        """``function(body, *arguments)``: here for a small body, in a thread for a large one."""
        if len(body) <= INLINE:
            return function(body, *arguments)
        gate = self.gate
        if gate.waiting >= WAITING:
            raise Refused(503, "too many large requests at once; try again", (b"retry-after", b"1"))
        gate.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(gate.threads, function, body, *arguments)
        finally:
            gate.waiting -= 1


def decompress(body: bytes, encoding: bytes, limit: int) -> bytes:
    """A gzip or deflate body, at most ``limit`` bytes of it. Raises Refused."""
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        text = f"content encoding {encoding.decode('latin-1')!r} is not supported; gzip, deflate and identity are"
        raise Refused(415, text, (b"accept-encoding", b"gzip, deflate"))
    raw = encoding == b"deflate" and (body[:1] or b"\0")[0] & 15 != 8  # some send deflate without the zlib header
    inflate = zlib.decompressobj(-15 if raw else 47)
    try:
        content = inflate.decompress(body, limit + 1)
    except zlib.error as error:
        raise Refused(400, f"the body is not {encoding.decode()}: {error}") from error
    if len(content) > limit:
        raise Refused(413, f"the body is larger than {limit} bytes after decompression")
    if not inflate.eof or inflate.unused_data:
        raise Refused(400, f"the {encoding.decode()} body is cut off, or something follows its end")
    return content


class Endpoint(BaseRoute):
    """A route and its function: everything between the socket and the function happens here.

    Args:
        pattern: regular expression of the whole path; letters match in both cases. Its groups are the parameters.
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
        """As Starlette asks: FULL, PARTIAL (another method), NONE."""
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
        expired = False
        task = asyncio.current_task()

        def expire() -> None:
            nonlocal expired
            expired = True
            task.cancel()

        timer = asyncio.get_running_loop().call_later(self.gate.settings.timeout, expire)
        try:
            if self.gate.keys and not self.open:
                self.gate.check_key(call.headers)
            reply = await self.function(call)
            if type(reply) is bytes:
                reply = Reply(reply)
        except Refused as error:
            reply = Reply.error(error.status, str(error), *error.headers)
        except InputError as error:
            reply = Reply.error(400, str(error))
        except ConnectionResetError:  # the client has gone: nobody is there to answer
            return
        except asyncio.CancelledError:
            if not expired:
                raise
            if hasattr(task, "uncancel"):
                task.uncancel()
            seconds = f"{self.gate.settings.timeout:g} s"
            if call.body_read:
                reply = Reply.error(504, f"no answer within {seconds}")
            else:
                reply = Reply.error(408, f"the body did not arrive within {seconds}", (b"connection", b"close"))
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            reply = Reply.error(500, "internal error; the server's log has it")
        finally:
            timer.cancel()
        await respond(reply, scope, send)
        seconds = time.perf_counter() - begin
        metrics.count(call.served[0], self.verb, reply.status, seconds, call.rows)
        if self.gate.settings.access_log:
            access(scope, reply.status, seconds, call)


async def respond(reply: Reply, scope: Scope, send: Send) -> None:
    """Send one reply."""
    content = reply.content
    headers = [(b"content-type", reply.kind), (b"content-length", b"%d" % len(content)), *reply.headers]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})


def access(scope: Scope, status: int, seconds: float, call: Call | None = None) -> None:
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
