"""HTTP on one connection: uvicorn's, with JSON errors, limits on the head of a request, and answers that arrive."""

from __future__ import annotations

import asyncio
import http
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tfsoftmax.serving.wire import Reply

MAX_HEADERS = 64 * 1024  # bytes of the head of one request
PIECE = 16 * 1024  # bytes parsed at once; a head may exceed its limit by this much
LINGER = 0.5  # seconds that an idle connection stays open for one more request when the server is stopping
QUIET = 1.0  # seconds without a byte after which a connection that was answered early is closed


class Protocol(HttpToolsProtocol):
    """One connection.

    - What is not HTTP, and heads that are too large or too slow, are answered in the one form of errors.
    - After an answer that precedes the end of the request, only our side of the connection is closed; what still
    arrives
      is read and dropped. To close a connection with unread bytes resets it, and the client never sees the answer.
    - A request that offers another protocol (``Upgrade: h2c``, as Java's client does) is answered over HTTP/1.1.
    - A stopping server drops no request.
    """

    def __init__(self, config: Any, **options: Any):
        super().__init__(config, **options)
        self.head_timeout: float = config.head_timeout
        self._head = 0  # bytes of a head that is not complete
        self._begun = 0  # heads that have begun in this piece
        self._between = True  # no request is being read
        self._stopping = self._ended = False
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = 0.0  # of an ended connection

    def connection_made(self, transport: Any) -> None:
        """A new connection: its first head must arrive in time."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.head_timeout, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self._stop_timer()
        super().connection_lost(exc)

    # ---- what the parser calls

    def on_message_begin(self) -> None:
        """A request starts."""
        super().on_message_begin()
        self._head, self._between = 1, False
        self._begun += 1

    def on_headers_complete(self) -> None:
        """Its head is complete."""
        self._head = 0
        if self._timer is not None:
            self._stop_timer()
        super().on_headers_complete()
        self.cycle.transport = cast(Any, _Answers(self, self.cycle))
        if self._stopping:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Its body is complete, unless the parser has left it to another protocol."""
        if not self.parser.should_upgrade():
            super().on_message_complete()
            self._between = True

    # ---- bytes

    def data_received(self, data: bytes) -> None:
        """Parse bytes, and enforce the limits of a head."""
        self._unset_keepalive_if_required()
        if len(data) <= PIECE:
            self._take(data)
            return
        for start in range(0, len(data), PIECE):
            self._take(data[start : start + PIECE])

    def _take(self, piece: bytes) -> None:
        if self._ended:
            self._wait_for_quiet()
            return
        if self.parser is None:  # the connection is lost
            return
        before, between, self._begun = self._head, self._between, 0
        self._parse(piece)
        if self._head:
            # all of this piece, unless the head starts within it: then it is unknown how much
            self._head = before + len(piece) if self._begun == (1 if between else 0) else 1
            if self._head > MAX_HEADERS:
                self._refuse(431, f"the head of the request is larger than {MAX_HEADERS} bytes")
            elif self._timer is None:
                self._timer = self.loop.call_later(self.head_timeout, self._too_slow)

    def _parse(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline(piece[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(400, "Invalid HTTP request received.")

    def _decline(self, rest: bytes) -> None:
        """Continue in HTTP/1.1: a new parser reads the body, which the old one leaves to the other protocol."""
        framing = [pair for pair in self.headers if pair[0] in (b"content-length", b"transfer-encoding")]
        silent = True  # about the head that only says how the body is framed

        def aloud(call: Callable[..., None]) -> Callable[..., None]:
            return lambda *arguments: None if silent else call(*arguments)

        heads = ("on_message_begin", "on_url", "on_header", "on_headers_complete")
        calls = SimpleNamespace(on_body=self.on_body, on_message_complete=self.on_message_complete)
        vars(calls).update({name: aloud(getattr(self, name)) for name in heads})
        self.parser = httptools.HttpRequestParser(calls)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._parse(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(b"%s: %s\r\n" % pair for pair in framing))
        silent = False
        self._parse(rest)

    # ---- the end

    def shutdown(self) -> None:
        """The server stops: the answer under way or the next one is the last; an idle connection stays open briefly."""
        self._stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER, super().shutdown)
        else:
            self.cycle.keep_alive = False

    def end(self) -> None:
        """Close our side of the connection; the whole connection once nothing more arrives."""
        if self.transport.is_closing() or self._ended:
            return
        if not self._head and not (self.cycle is not None and self.cycle.more_body):
            self.transport.close()  # all that was sent has been read
            return
        self._head, self._ended = 0, True
        self.pipeline.clear()
        self.transport.write_eof()
        self.flow.resume_reading()
        self._deadline = self.loop.time() + self.head_timeout
        self._wait_for_quiet()

    def _wait_for_quiet(self) -> None:
        self._stop_timer()
        left = min(QUIET, self._deadline - self.loop.time())
        self._timer = self.loop.call_later(max(0, left), self.transport.close)

    def _too_slow(self) -> None:
        self._timer = None
        if self._head:
            self._refuse(408, f"the head of the request did not arrive within {self.head_timeout:g} s")
        else:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, text: str) -> None:
        """Answer bytes that never become a request."""
        self._stop_timer()
        if not self.transport.is_closing():
            content = Reply.error(status, text).content
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(content)
            line = b"HTTP/1.1 %d %s\r\n" % (status, http.HTTPStatus(status).phrase.encode())
            self.transport.write(line + head + content)
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._head = 1  # there may be more to come
        self.end()


class _Answers:
    """The transport that uvicorn writes one answer to; closing it is left to the protocol."""

    __slots__ = ("cycle", "is_closing", "protocol", "write")

    def __init__(self, protocol: Protocol, cycle: Any):
        # the cycle holds this; with a strong reference back, every request would wait for the garbage collector
        self.protocol, self.cycle = protocol, weakref.ref(cycle)
        self.write, self.is_closing = protocol.transport.write, protocol.transport.is_closing

    def close(self) -> None:
        """The answer is complete and the last one, or it was aborted."""
        cycle = self.cycle()
        if cycle is not None and cycle.response_complete:
            self.protocol.end()
        else:
            self.protocol.transport.abort()
