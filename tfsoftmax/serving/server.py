"""The server's processes: the socket, uvicorn, workers, signals."""

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
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from tfsoftmax._machine import cpu_count
from tfsoftmax._private import lost
from tfsoftmax.errors import InputError
from tfsoftmax.serving import metrics
from tfsoftmax.serving.settings import Settings

STOP = (signal.SIGTERM, signal.SIGINT)
log = logging.getLogger("tfsoftmax.serving")


class Server(uvicorn.Server):
    """uvicorn's server, which when stopping also answers connections that the kernel has already accepted."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept waiting connections, then stop as uvicorn does: answers under way first."""
        loop, protocol = asyncio.get_running_loop(), cast(Any, self.config.http_protocol_class)
        make = functools.partial(protocol, self.config, server_state=self.server_state, app_state=self.lifespan.state)
        for listener in sockets or ():
            with contextlib.suppress(BlockingIOError):
                while True:
                    await loop.connect_accepted_socket(make, listener.accept()[0])
        await super().shutdown(sockets)


def run(settings: Settings, host: str, port: int, workers: int, grpc_port: int | None = None) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are answered first.

    Args:
        settings: what is served, and the limits.
        host: name or address to listen on.
        port: TCP port; 0 takes a free one.
        workers: processes.
        grpc_port: TCP port of gRPC; 0 takes a free one, none: no gRPC.

    Raises:
        InputError: nothing can be served, or the address cannot be used.
    """
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_bind(host, port))  # a port in use is reported before anything is loaded
        grpc = "" if grpc_port is None else _name(stack.enter_context(_reserve(host, grpc_port)))
        app = application(settings, grpc)  # exports that cannot be served are reported before the server listens
        _listen(listener, host, port)

        def begun() -> None:
            print(f"serving on http://{_name(listener)}", file=sys.stderr, flush=True)

        if workers == 1:
            _serve(app, settings, listener, begun)
            return
        del app
        if cpu_count() < workers:
            log.warning("%d workers share %d processors", workers, cpu_count())
        # set for the workers only: what this process counted when it checked the exports, they count themselves
        if folder := _metrics_folder(stack):
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        else:
            log.warning("no writable temporary folder: /metrics shows only the figures of the worker that answers")
        _supervise(settings, grpc, listener, workers, begun)


def _metrics_folder(stack: contextlib.ExitStack) -> str | None:
    """A folder where workers sum their figures; None if none is writable."""
    for place in (None, "/dev/shm"):
        with contextlib.suppress(OSError):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="tfsoftmax-", dir=place))
            Path(folder, "probe").write_bytes(b"0")
            return folder
    return None


def _protocol() -> Any:
    """Our HTTP protocol, or uvicorn's own if a release lacks what ours builds on."""
    if gone := lost("server"):
        log.warning("HTTP errors and the limits on request heads are uvicorn's own: %s", gone)
        return "auto"
    from tfsoftmax.serving.protocol import Protocol

    return Protocol


def _serve(app: ASGIApp, settings: Settings, listener: socket.socket, begun: Callable[[], None] = lambda: None) -> None:
    """Serve in this process until a signal; ``begun`` is called once none can be lost."""
    config: Any = uvicorn.Config(
        app,
        http=_protocol(),
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
    server = Server(config)

    def stop(*_: Any) -> None:
        server.should_exit = True

    for number in STOP:  # until uvicorn installs its own handlers, and after: it raises signals again once drained
        signal.signal(number, stop)
    begun()
    listener.setblocking(False)
    server.run([listener])


def _work(settings: Settings, grpc: str, listener: socket.socket) -> None:
    """A worker process: it ends on a signal, or with its parent."""

    def follow() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()
    _serve(application(settings, grpc), settings, listener)


def _supervise(settings: Settings, grpc: str, listener: socket.socket, count: int, begun: Callable[[], None]) -> None:
    """Run ``count`` workers on one socket; a worker that dies is replaced."""
    context = multiprocessing.get_context("spawn")
    woken, wake = context.Pipe(duplex=False)
    for number in STOP:
        signal.signal(number, lambda *_: wake.send(None))
    begun()

    def start() -> BaseProcess:
        worker = context.Process(target=_work, args=(settings, grpc, listener))
        worker.start()
        return worker

    running = [start() for _ in range(count)]
    while woken not in (done := multiprocessing.connection.wait([woken, *(worker.sentinel for worker in running)])):
        for i, worker in enumerate(running):
            if worker.sentinel in done:
                worker.join()
                if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
                    metrics.forget(worker.pid)
                log.error("a worker ended (%s); another begins", worker.exitcode)
                time.sleep(0.5)  # one that cannot start must not be restarted in a tight loop
                running[i] = start()
    listener.close()  # the workers accept what waits in it
    for worker in running:
        worker.terminate()
    for worker in running:
        worker.join()


def application(settings: Settings, grpc: str = "") -> ASGIApp:
    """The app in this process, gRPC on an address that is not empty, and the log on standard error."""
    from tfsoftmax.serving.app import create_app

    if not log.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return create_app(settings, grpc)


def addresses(host: str, port: int) -> list[tuple[Any, ...]]:
    """The results of ``socket.getaddrinfo``. Raises InputError."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise InputError(f"--host {host!r} is not a name or address of this machine: {error}") from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    return all(ipaddress.ip_address(found[4][0].partition("%")[0]).is_loopback for found in addresses(host, 0))


def _reserve(host: str, port: int) -> socket.socket:
    """A socket that never listens: it keeps the port of gRPC, which each worker listens on, from others."""
    with _bind(host, port, "--grpc-port") as alone:  # nobody else has it
        port = alone.getsockname()[1]
    return _bind(host, port, "--grpc-port", shared=True)


def _bind(host: str, port: int, option: str = "--port", *, shared: bool = False) -> socket.socket:
    """A socket that is bound to the address and does not listen yet."""
    family, _, _, _, address = addresses(host, port)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address[:2])
    except OSError as error:
        listener.close()
        raise _taken(host, port, error, option) from error
    return listener


def _name(listener: socket.socket) -> str:
    """``HOST:PORT`` of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _listen(listener: socket.socket, host: str, port: int) -> None:
    try:
        listener.listen(2048)
    except OSError as error:
        raise _taken(host, port, error) from error


def _taken(host: str, port: int, error: OSError, option: str = "--port") -> InputError:
    return InputError(f"cannot listen on {host}:{port}: {error.strerror}; choose another with {option}")
