"""Limits: large, slow, odd and hostile requests; answers that come before the whole request has."""

import asyncio
import concurrent.futures
import gc
import gzip
import json
import socket
import time
import weakref
import zlib
from unittest import mock

import flood
import numpy as np
import pytest
import serve
import uvicorn
from serve import BODY, ROW, SPEC, version, weights
from uvicorn.server import ServerState

from tfsoftmax.serving.effort import PIECE, Effort, Refused
from tfsoftmax.serving.protocol import Protocol


@pytest.fixture(scope="module")
def tight(tmp_path_factory):
    """A server with tight limits."""
    export = tmp_path_factory.mktemp("tight") / "m"
    serve.write_version(export, 1, SPEC, *weights(1))
    with serve.Server(export, "--max-body", 1, "--max-rows", 4, "--timeout", 1) as server:
        packed = gzip.compress(json.dumps(BODY).encode().ljust(2**19)), {"Content-Encoding": "gzip"}
        # the helper process starts with the first request that needs it, which may take more than this second
        serve.until(lambda: server.request("POST", "/v1/models/m:predict", *packed)[0] == 200)
        yield server


def test_rows_and_bytes(tight):
    tight.post("/v1/models/m:predict", {"instances": [ROW] * 4})
    assert tight.error("POST", "/v1/models/m:predict", {"instances": [ROW] * 5})[0] == 400
    assert tight.error("POST", "/v1/models/m:predict", bytes(2**20 + 1))[0] == 413
    packed = gzip.compress(bytes(2**20 + 1))
    assert tight.error("POST", "/v1/models/m:predict", packed, {"Content-Encoding": "gzip"})[0] == 413
    packed = gzip.compress(bytes(2**20))  # as large as may be, but not JSON
    assert tight.error("POST", "/v1/models/m:predict", packed, {"Content-Encoding": "gzip"})[0] == 400
    chunks = iter([bytes(2**18)] * 5)
    status, error = tight.error("POST", "/v1/models/m:predict", chunks)  # sent in chunks
    assert (status, "larger than" in error) == (413, True)


def raw_request(server, content, wait=60, then=b""):
    """All bytes that come back for these bytes, until the server closes."""
    with socket.create_connection((server.host, server.port), wait) as connection:
        connection.sendall(content)
        if then:
            time.sleep(0.3)
            connection.sendall(then)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{", 408),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", 408),
        (b"GET /v2 HTTP/1.1\r\nHost: ", 408),
        (b"GET /v2 HTTP/1.1\r\n" + b"x: y\r\n" * 20_000, 431),
        (b"not http\r\n\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /v2 HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
    ids=["body", "chunk", "head", "large head", "not http", "negative", "smuggled", "bad chunk", "tls"],
)
def test_slow_and_odd_http(tight, content, status):
    head, _, body = raw_request(tight, content).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert list(json.loads(body)) == ["error"]
    assert version(tight) == "1"


def test_a_connection_that_says_nothing_is_closed(tight):
    # 20 s: less than a server allows that is not told otherwise
    assert raw_request(tight, b"", wait=20) == b""


def test_a_bodys_tail_is_no_part_of_the_next_head(tight):
    """Two requests on one connection, so that one read has the end of the first and the beginning of the second."""
    body = json.dumps(BODY).encode().ljust(900_000)
    first = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with socket.create_connection((tight.host, tight.port), 10) as line, line.makefile("rb") as answers:
        line.sendall(first + b"GET /v2/health/live HTTP/1.1\r\nHost: ")
        time.sleep(0.3)
        line.sendall(b"localhost\r\nConnection: close\r\n\r\n")
        found = answers.read()
    heads = [part[:3] for part in found.split(b"HTTP/1.1 ")[1:]]
    assert (heads, found.endswith(b'{"live":true}')) == ([b"200", b"200"], True), found


@pytest.mark.parametrize("connection", ["keep-alive", "close"])
@pytest.mark.parametrize(("path", "status"), [("/v1/models/m:predict", 413), ("/v1/models/nothing:predict", 404)])
def test_an_answer_before_the_body_has_come_arrives(tight, connection, path, status):
    """http.client sends all of its body before it looks for an answer."""
    body = bytes(12_000_000)
    for _ in range(3):
        assert tight.error("POST", path, body, {"Connection": connection})[0] == status
    line = tight.connect()
    line.request("POST", path, body, {"Connection": connection})
    assert line.getresponse().status == status
    line.close()


def _send_for_ever(line):
    while True:
        line.sendall(bytes(1000))
        time.sleep(0.02)


def test_a_client_that_sends_on_for_ever_is_ended(tight):
    """After its answer, in the time that a request has."""
    begin = time.perf_counter()
    with socket.create_connection((tight.host, tight.port), 20) as line:
        line.sendall(
            b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 999999999\r\n\r\n"
        )
        with pytest.raises(OSError, match=r"reset|Broken pipe"):
            _send_for_ever(line)
    assert time.perf_counter() - begin < 20, "it is told one second, and by itself allows 30"


def test_what_is_large_takes_its_time_elsewhere(tight):
    """A packed body that is small and becomes large."""
    body = json.dumps({"instances": [ROW] * 4}).encode()
    packed = gzip.compress(body.ljust(2**20))
    headers = {"Content-Encoding": "gzip"}
    assert tight.post("/v1/models/m:predict", packed, headers) == tight.post("/v1/models/m:predict", body)
    assert tight.error("POST", "/v1/models/m:predict", gzip.compress(b" " * 2**20), headers)[0] == 400


@pytest.mark.parametrize("wbits", [31, 15, -15])
@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_packed_bodies_of_any_size_are_whole(size, wbits):
    packer = zlib.compressobj(9, wbits=wbits)
    packed = packer.compress(bytes(size)) + packer.flush()
    name = b"gzip" if wbits == 31 else b"deflate"
    assert Effort(2 * PIECE, inline=False).decompress(packed, name) == bytes(size)
    with pytest.raises(Refused) as refused:
        Effort(2 * PIECE, inline=False).decompress(packed[:-1], name)
    assert refused.value.status == 400
    if size > PIECE:
        with pytest.raises(Refused) as refused:
            Effort(size - 1, inline=False).decompress(packed, name)
        assert refused.value.status == 413


@pytest.mark.parametrize("size", [(5657, 5657), (32_000_001, 1), (60_000, 60_000)])
def test_pictures_of_too_many_pixels_are_not_decoded(tight, size):
    # the head of a PNG file says how large it is; nothing follows
    width, height = size
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\0\0\0\0"
    content = head + zlib.crc32(head[12:]).to_bytes(4, "big") + b"\0\0\0\0IEND\xaeB\x60\x82"
    status, error = tight.error("POST", "/v1/models/m:predict?fit=true", content, {"Content-Type": "image/png"})
    assert (status, "pixels" in error) == (400, True), error


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["many good rows, packed", "picture in base64"])
def test_a_good_client_is_answered_while_hostile_ones_come(hostile, kind):
    """``python tests/flood.py`` shows the figures on a machine that does nothing else: p99 is below 50 ms there."""
    found = flood.run(hostile, *flood.requests()[kind])
    assert found["memory"] < 400
    assert found["p99"] < 250
    assert set(found["statuses"]) <= {200, 400, 413, 503}
    assert found["statuses"][503] >= 1, "as many as may wait do, the others are told"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    with serve.Server(flood.export(tmp_path_factory.mktemp("hostile")), "--timeout", 120) as server:
        yield server


def test_work_ends_with_its_request(tmp_path):
    """What takes longer than a request may is answered 504, and the next does not wait for it."""
    export = flood.export(tmp_path)
    path, body, headers = flood.requests()["colour picture with transparency"]
    with serve.Server(export, "--timeout", 0.3) as server:
        statuses = [server.request("POST", path, body, headers)[0] for _ in range(12)]
        assert 504 in statuses
        small = json.dumps({"instances": np.zeros((100, 28, 28), int).tolist()}).encode()
        serve.until(lambda: server.request("POST", "/v1/models/m:predict", small)[0] == 200)


def test_a_request_leaves_nothing_to_the_garbage_collector():
    """Each is freed once the next one has come: no reference leads round in a circle."""
    seen: list[weakref.ref] = []

    async def app(scope, receive, send):
        seen.append(weakref.ref(receive.__self__))
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def connection() -> None:
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        config.load()
        config.head_timeout = 60
        protocol = Protocol(config, server_state=ServerState(), app_state={})
        protocol.connection_made(mock.Mock(spec=asyncio.Transport, is_closing=lambda: False))
        for _ in range(3):
            protocol.data_received(b"GET / HTTP/1.1\r\nhost: me\r\n\r\n")
            await asyncio.gather(*protocol.tasks)

    gc.disable()
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as thread:  # a browser's loop may be running in this one
            thread.submit(asyncio.run, connection()).result()
        assert [one() is None for one in seen[:2]] == [True, True]
    finally:
        gc.enable()
