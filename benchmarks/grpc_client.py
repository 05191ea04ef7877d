"""A loop of grpcio's client over ModelInfer, as wrk is one over HTTP: ``python -m benchmarks.grpc_client CASE``."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc

METHOD = "/inference.GRPCInferenceService/ModelInfer"


async def _connection(case: dict[str, Any], body: bytes, end: float, seconds: list[float]) -> None:
    async with grpc.aio.insecure_channel(case["address"], [("grpc.use_local_subchannel_pool", 1)]) as channel:
        method = channel.unary_unary(METHOD)
        while (begin := time.perf_counter()) < end:
            await method(body)
            seconds.append(time.perf_counter() - begin)


async def _main(case: dict[str, Any]) -> None:
    """Calls one after the other on each connection; the message is read once, the answers are not parsed."""
    body, seconds = Path(case["body"]).read_bytes(), []
    begin = time.perf_counter()
    calls = (_connection(case, body, begin + case["seconds"], seconds) for _ in range(case["connections"]))
    await asyncio.gather(*calls)
    took = time.perf_counter() - begin
    p99 = sorted(seconds)[int(len(seconds) * 0.99)]
    print(json.dumps({"requests": len(seconds) / took, "p99_ms": p99 * 1000}))


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
