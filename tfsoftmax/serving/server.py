"""The server's processes: the socket, uvicorn, workers, and what malformed HTTP is answered."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.util
import ipaddress
import logging
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from multiprocessing.process import BaseProcess
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tfsoftmax.errors import InputError
from tfsoftmax.serving.settings import Settings
from tfsoftmax.serving.wire import Reply

MAX_HEADERS = 64 * 1024  # bytes of the head of one request
STOP = (signal.SIGTERM, signal.SIGINT)
LINGER = 0.5  # seconds that an idle connection has left for one more request once the server is told to stop


class Protocol(HttpToolsProtocol):
    """uvicorn's HTTP with JSON errors, limits on the head of a request, and a shutdown that drops no request."""

    def __init__(self, config: uvicorn.Config, **options: Any):
        super().__init__(config, **options)
        self.head_timeout: float = config.head_timeout
        self._head = 0  # bytes of a head that is not complete
        self._stopping = self._refused = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """A new connection: its first head has to come in time."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(self.head_timeout, self._too_slow)

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._head = 1

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._head = 0
        self._stop_timer()
        super().on_headers_complete()
        if self._stopping:
            self.cycle.keep_alive = False

    def data_received(self, data: bytes) -> None:
        """Bytes: parse them, and see to the limits of a head."""
        if self._refused:
            return
        before = self._head
        super().data_received(data)
        if self._head:
            self._head = before + len(data)
            if self._head > MAX_HEADERS:
                self._refuse(431, f"the head of the request is larger than {MAX_HEADERS} bytes")
            elif self._timer is None:
                self._timer = self.loop.call_later(self.head_timeout, self._too_slow)

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP."""
        self._refuse(400, msg)

    def shutdown(self) -> None:
        """The server stops: the answer under way or the next one is the last; an idle connection lingers shortly."""
        self._stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER, super().shutdown)
        else:
            self.cycle.keep_alive = False

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
        """Answer, and read on for a moment: a connection that is closed on unread bytes loses the answer."""
        self._head, self._refused = 0, True
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            content = Reply.error(status, text).content
            head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(content)
            self.transport.write(STATUS_LINE[status] + head + content)
            self.transport.write_eof()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.loop.call_later(LINGER, self.transport.close)


class Server(uvicorn.Server):
    """uvicorn's server, which answers also the connections that the kernel has taken when it is told to stop."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take what waits, then stop as uvicorn does: answers under way first."""
        loop, config = asyncio.get_running_loop(), self.config
        make = functools.partial(Protocol, config, server_state=self.server_state, app_state=self.lifespan.state)
        for listener in sockets or ():
            with contextlib.suppress(BlockingIOError):
                while True:
                    await loop.connect_accepted_socket(make, listener.accept()[0])
        await super().shutdown(sockets)


def run(settings: Settings, host: str, port: int, workers: int) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are answered first.

    Args:
        settings: what is served, and the limits.
        host: name or address to listen on.
        port: TCP port; 0 takes a free one.
        workers: processes.

    Raises:
        InputError: nothing there that can be served, or the address cannot be listened on.
    """
    with contextlib.ExitStack() as stack:
        if workers > 1:  # before the metrics are imported, here and in the workers
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="tfsoftmax-")
            )
        app = application(settings)  # what cannot be served is told here, before anything listens
        listener = stack.enter_context(_listen(host, port))
        address = listener.getsockname()
        name = f"[{address[0]}]" if ":" in address[0] else address[0]
        print(f"serving on http://{name}:{address[1]}", file=sys.stderr, flush=True)
        if workers == 1:
            _serve(app, settings, listener)
        else:
            _supervise(settings, listener, workers)


def _serve(app: ASGIApp, settings: Settings, listener: socket.socket) -> None:
    """Serve in this process until a signal."""
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        loop="uvloop" if importlib.util.find_spec("uvloop") else "asyncio",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=math.ceil(settings.timeout),
    )
    config.head_timeout = settings.timeout
    for number in STOP:  # uvicorn raises them again once it has drained
        signal.signal(number, lambda *_: None)
    listener.setblocking(False)
    Server(config).run([listener])


def _work(settings: Settings, listener: socket.socket) -> None:
    """A worker process: ends on a signal, or with its parent."""

    def follow() -> None:
        multiprocessing.parent_process().join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    _serve(application(settings), settings, listener)


def _supervise(settings: Settings, listener: socket.socket, count: int) -> None:
    """Keep so many workers on one socket; a worker that dies is replaced."""
    context = multiprocessing.get_context("spawn")
    woken, wake = context.Pipe(duplex=False)
    for number in STOP:
        signal.signal(number, lambda *_: wake.send(None))

    def start() -> BaseProcess:
        worker = context.Process(target=_work, args=(settings, listener))
        worker.start()
        return worker

    running = [start() for _ in range(count)]
    while woken not in (done := multiprocessing.connection.wait([woken, *(worker.sentinel for worker in running)])):
        for i, worker in enumerate(running):
            if worker.sentinel in done:
                worker.join()
                logging.getLogger("tfsoftmax.serving").error("a worker ended (%s); another begins", worker.exitcode)
                time.sleep(0.5)  # one that cannot start must not be started without pause
                running[i] = start()
    listener.close()  # the workers take what waits in it
    for worker in running:
        worker.terminate()
    for worker in running:
        worker.join()


def application(settings: Settings) -> ASGIApp:
    """The app in this process, and its log on standard error."""
    from tfsoftmax.serving.app import create_app

    log = logging.getLogger("tfsoftmax.serving")
    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return create_app(settings)


def addresses(host: str, port: int) -> list[tuple[Any, ...]]:
    """What ``socket.getaddrinfo`` finds. Raises InputError."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host!r} is no name or address of this machine: {error}") from error


def is_loopback(host: str) -> bool:
    """Whether nobody but this machine can reach ``host``."""
    return all(ipaddress.ip_address(found[4][0].partition("%")[0]).is_loopback for found in addresses(host, 0))


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = addresses(host, port)[0]
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        text = f"cannot listen on {host}:{port}: {error.strerror}; name another one with --port"
        raise InputError(text) from error
