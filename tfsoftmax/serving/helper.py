"""A helper process for what would block the event loop: large bodies, compressed ones, pictures.

Unlike a thread it can be bounded and ended: its memory by the kernel, its work by a kill when the client has left.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import pickle
import resource
import signal
import struct
import sys
import traceback
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from tfsoftmax.errors import InputError
from tfsoftmax.serving.effort import Effort, Refused

if TYPE_CHECKING:
    from tfsoftmax.serving.models import Version

log = logging.getLogger("tfsoftmax.serving")

WAITING = 32  # requests that may wait for the helper; further ones are answered 503
# large blocks are returned to the kernel when freed, so that every request has the same memory available
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20), "MALLOC_ARENA_MAX": "1"}
_LENGTHS = struct.Struct("<QQ")  # of the description and the content that follow


def perform(function: Callable[..., Any], body: bytes, encoding: bytes, effort: Effort, *arguments: Any) -> Any:
    """``function(body, *arguments, effort)`` of a body that may be compressed."""
    return function(effort.decompress(body, encoding) if encoding else body, *arguments, effort)


class Helper:
    """The process, started when first needed; it handles one request after the other.

    Args:
        max_body: bytes of one body after decompression.
        memory: bytes that it may use for one request, beyond what it uses when idle.
    """

    def __init__(self, max_body: int, memory: int):
        self.max_body, self.memory = max_body, memory
        self._process: Any = None
        self._known: dict[str, Version] = {}  # versions that the process has received
        self._starting: asyncio.Task[Process] | None = None
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def perform(
        self, function: Callable[..., Any], body: bytes, encoding: bytes, version: Version, *arguments: Any
    ) -> Any:
        """As :func:`perform`, in the process; ``version`` is the first argument.

        Raises:
            Refused: too many requests wait, or this one needs too much memory or has crashed the process.
            InputError: what the function raises.
        """
        if self._waiting >= WAITING:
            raise Refused(503, "too many large requests at once; try again", (b"retry-after", b"1"))
        self._waiting += 1
        try:
            async with self._turn:
                process = await self._started()
                try:
                    return await self._ask(process, function, body, encoding, version, arguments)
                except (asyncio.IncompleteReadError, ConnectionError) as error:
                    await self._end()
                    log.error("the helper process ended (%s) while it worked on a request", process.returncode)
                    raise Refused(500, "the request could not be computed") from error
                except asyncio.CancelledError:  # the client no longer waits
                    process.kill()
                    self._process = None
                    raise
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """End the process."""
        async with self._turn:
            if self._starting is not None:
                await self._started()
            await self._end()

    async def _started(self) -> Process:
        if self._process is None:
            if self._starting is None:
                self._starting = asyncio.create_task(self._start())
            # a request that times out does not cancel the start, or it would never finish under short timeouts
            self._process = await asyncio.shield(self._starting)
            self._starting, self._known = None, {}
        return self._process

    async def _start(self) -> Process:
        path = os.pathsep.join(part or os.getcwd() for part in sys.path)
        process: Any = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tfsoftmax.serving.helper", str(self.max_body), str(self.memory)),
            stdin=PIPE,
            stdout=PIPE,
            limit=2**20,
            env={**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1", **_MALLOC},
        )
        await process.stdout.readexactly(1)
        return process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _ask(
        self,
        process: Any,
        function: Callable[..., Any],
        body: bytes,
        encoding: bytes,
        version: Version,
        arguments: tuple[Any, ...],
    ) -> Any:
        news = None if self._known.get(version.name) is version else version
        described = pickle.dumps((function, encoding, version.name, news, arguments))
        process.stdin.writelines([_LENGTHS.pack(len(described), len(body)), described, body])
        await process.stdin.drain()
        self._known[version.name] = version
        first, second = _LENGTHS.unpack(await process.stdout.readexactly(_LENGTHS.size))
        status, *rest = msgspec.msgpack.decode(await process.stdout.readexactly(first))
        content = await process.stdout.readexactly(second)
        if status == 200:
            return (content, *rest)
        text, headers = rest
        raise InputError(text) if status == 400 and not headers else Refused(status, text, *map(tuple, headers))


# ---- in the process


def main(max_body: int, memory: int) -> None:
    """Answer requests from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server stops this process after its last answer
    source, sink = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that print cannot write into the answers
    for module in ("PIL.Image", "onnx", "onnxruntime", "tfsoftmax.serving.explain", "tfsoftmax.serving.openinference"):
        importlib.import_module(module)  # now, not during the first request
    sink.write(b"0")
    sink.flush()
    known: dict[str, Version] = {}
    while head := source.read(_LENGTHS.size):
        first, second = _LENGTHS.unpack(head)
        function, encoding, name, news, arguments = pickle.loads(source.read(first))
        if news is not None:
            known[name] = news
            _limit_memory(memory)
        body, effort = source.read(second), Effort(max_body, False)
        try:
            described, content = _answer(function, body, encoding, effort, known[name], arguments)
        except MemoryError:
            described, content = (
                [413, f"the request needs more than {memory >> 20} MiB of memory; send fewer rows", []],
                b"",
            )
        packed = msgspec.msgpack.encode(described)
        sink.writelines([_LENGTHS.pack(len(packed), len(content)), packed, content])
        sink.flush()
        del body, content


def _answer(
    function: Callable[..., Any],
    body: bytes,
    encoding: bytes,
    effort: Effort,
    version: Version,
    arguments: tuple[Any, ...],
) -> tuple[list[Any], bytes]:
    try:
        content, *rest = perform(function, body, encoding, effort, version, *arguments)
        return [200, *rest], content
    except MemoryError:
        raise
    except InputError as error:
        return [400, str(error), []], b""
    except Refused as error:
        return [error.status, str(error), error.headers], b""
    except Exception as error:
        if "alloc" in str(error).lower():  # how ONNX Runtime reports it
            raise MemoryError from error
        traceback.print_exc()
        return [500, "internal error; the server's log has it", []], b""


def _limit_memory(more: int) -> None:
    """Limit this process to ``more`` bytes beyond its present memory, if the kernel supports that."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                _, hard = resource.getrlimit(resource.RLIMIT_DATA)
                resource.setrlimit(resource.RLIMIT_DATA, (int(line.split()[1]) * 1024 + more, hard))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
