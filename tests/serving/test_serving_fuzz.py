"""Malformed requests: each is answered 4xx in the one form of errors, and a good one right after it as ever."""

import base64
import gzip
import http.client
import io
import json
import os
import re
import socket
import zlib
from itertools import chain

import hypothesis
import numpy as np
import pytest
import schemathesis
from conftest import SHAPE
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from PIL import Image
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tfsoftmax.inputs import PICTURES

REQUESTS = int(os.environ.get("FUZZ", "1500"))  # FUZZ=10000 is the long run
ROW = np.arange(30).reshape(SHAPE).tolist()
GOOD = json.dumps({"instances": [ROW]}).encode()
PREDICT, INFER = "/v1/models/tiny:predict", "/v2/models/tiny/infer"
TENSOR = {"name": "image", "shape": [1, *SHAPE], "datatype": "UINT8"}


def tensor_body(**changes):
    return json.dumps({"inputs": [{**TENSOR, "data": list(range(30)), **changes}]}).encode()


BAD_VALUES = st.one_of(
    st.integers(256, 10**30),
    st.integers(-(10**30), -1),
    st.floats(allow_nan=True, allow_infinity=True).filter(lambda x: x != int(x) if abs(x) < 1e300 else True),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.integers(1, 400).map(lambda digits: int("9" * digits)).filter(lambda x: x > 255),
)


def with_value(value, i, j):
    row = [list(line) for line in ROW]
    row[i][j] = value
    return row


@st.composite
def bad_json(draw):
    """(path, body): what is wrong with the body is drawn, that something is wrong is certain."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    return KINDS[kind](draw)


def cut(draw):
    path, body = draw(st.sampled_from([(PREDICT, GOOD), (INFER, tensor_body())]))
    return path, body[: draw(st.integers(0, len(body) - 1))]


def spoiled(draw):
    path, body = draw(st.sampled_from([(PREDICT, GOOD), (INFER, tensor_body())]))
    at = draw(st.integers(0, len(body)))
    return path, body[:at] + draw(st.sampled_from([b"}", b"]", b"\x00", b"\xff", b"\\", b"{"])) + body[at:]


def deep(draw):
    depth = draw(st.integers(4, 10_000))
    opened = draw(st.sampled_from([(b"[", b"]"), (b'{"image":', b"}")]))
    closed = opened[1] * depth if draw(st.booleans()) else b""
    key = draw(st.sampled_from([b'{"instances":[', b'{"inputs":', b'{"parameters":', b"["]))
    return draw(st.sampled_from([PREDICT, INFER, "/v1/models/tiny:classify"])), key + opened[0] * depth + closed


def value(draw):
    changed = with_value(draw(BAD_VALUES), draw(st.integers(0, 5)), draw(st.integers(0, 4)))
    if draw(st.booleans()):
        return PREDICT, json.dumps({draw(st.sampled_from(["instances", "inputs"])): [changed]}).encode()
    return INFER, tensor_body(data=draw(st.sampled_from([changed, list(chain(*changed))])))


def shape(draw):
    wrong = draw(st.lists(st.integers(0, 7), max_size=4).filter(lambda s: tuple(s[1:]) != SHAPE or s[0] == 0))
    data = np.zeros(wrong, int).tolist()
    if draw(st.booleans()):
        return PREDICT, json.dumps({"instances": data}).encode()
    return INFER, tensor_body(shape=wrong, data=data)


def lying_shape(draw):
    wrong = draw(st.lists(st.integers(-3, 2**62), min_size=0, max_size=5).filter(lambda s: s != [1, *SHAPE]))
    return INFER, tensor_body(shape=wrong)


def repeated(draw):
    key = draw(st.sampled_from([b"instances", b"signature_name"]))
    first = (
        b'{"%s": "serving_default", ' % key
        if key == b"signature_name"
        else b'{"instances": [%s], ' % json.dumps(ROW).encode()
    )
    second = b'"signature_name": "", "instances": [%s]}' % json.dumps(ROW).encode()
    return PREDICT, first + second


def unknown(draw):
    name = draw(st.text(max_size=10).filter(lambda text: text not in ("image", "b64")))
    return PREDICT, json.dumps({"instances": [{name: ROW}, {"image": ROW}]}).encode()


LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text())
DOCUMENTS = st.recursive(
    LEAVES, lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(max_size=8), x, max_size=4), max_leaves=12
)


def anything(draw):
    path = draw(st.sampled_from([PREDICT, INFER, "/v1/models/tiny:classify", "/v1/models/tiny:explain"]))
    return path, json.dumps(draw(DOCUMENTS)).encode()


def noise(draw):
    return draw(st.sampled_from([PREDICT, INFER])), draw(st.binary(max_size=200))


KINDS = {
    function.__name__: function
    for function in (cut, spoiled, deep, value, shape, lying_shape, repeated, unknown, anything, noise)
}


@st.composite
def bad_headers(draw):
    """(path, body, headers) whose headers lie about the body."""
    kind = draw(st.sampled_from(["header length", "binary size", "not packed", "cut", "bomb", "encoding", "picture"]))
    head = json.dumps({"inputs": [{**TENSOR, "parameters": {"binary_data_size": 30}}]}).encode()
    if kind == "header length":
        lie = draw(st.one_of(st.integers(-5, 400).filter(lambda n: n != len(head)), st.integers(10**6, 10**40)))
        return INFER, head + bytes(30), {"Inference-Header-Content-Length": str(lie)}
    if kind == "binary size":
        size = draw(st.integers(-1, 10**20).filter(lambda n: n != 30))
        follow = draw(st.integers(0, 90))
        head = json.dumps({"inputs": [{**TENSOR, "parameters": {"binary_data_size": size}}]}).encode()
        return INFER, head + bytes(follow), {"Inference-Header-Content-Length": str(len(head))}
    if kind == "not packed":
        return PREDICT, draw(st.binary(max_size=60)), {"Content-Encoding": draw(st.sampled_from(["gzip", "deflate"]))}
    if kind == "cut":
        name, packed = draw(st.sampled_from([("gzip", gzip.compress(GOOD, mtime=0)), ("deflate", zlib.compress(GOOD))]))
        return PREDICT, packed[: draw(st.integers(0, len(packed) - 1))], {"Content-Encoding": name}
    if kind == "bomb":
        return PREDICT, BOMB, {"Content-Encoding": "gzip"}
    if kind == "encoding":
        return PREDICT, GOOD, {"Content-Encoding": draw(st.sampled_from(["br", "zstd", "x", "gzip, gzip", "chunked"]))}
    content = draw(st.one_of(st.binary(max_size=80), st.integers(0, 45).map(lambda n: PICTURE[:n])))
    return PREDICT, content, {"Content-Type": draw(st.sampled_from(["image/png", "image/jpeg", "image/svg+xml"]))}


BOMB = gzip.compress(bytes(80 * 2**20), mtime=0)


def _picture():
    stream = io.BytesIO()
    Image.fromarray(np.uint8(ROW)).save(stream, "PNG")
    return stream.getvalue()


PICTURE = _picture()
WORDS = "%2e%2e %2f %00 etc passwd v1 v2 models tiny versions 1 page.js infer tiny:predict labels ~ \\ .."
SEGMENTS = [*WORDS.split(), "tiny%3Apredict", *["%c3%28", "%ff", ":predict", "*", "%25%32%65"], "A" * 3000]
ANSWERED = re.compile("/v1/models/?|/v1/models/tiny(/versions/1)?|/v2(/models/tiny(/versions/1)?)?/?|/page.js")
PATHS = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=6).map(lambda parts: "/" + "/".join(parts))


class Client:
    """One connection that is kept while it can be."""

    def __init__(self, server):
        self.server, self.connection, self.bad = server, server.connect(), 0

    def request(self, method, path, body=None, headers=None):
        try:
            self.connection.putrequest(method, path, skip_accept_encoding=True)
            for name, text in (headers or {}).items():
                self.connection.putheader(name, text)
            if body is not None:
                self.connection.putheader("Content-Length", str(len(body)))
            self.connection.endheaders(body)
            answer = self.connection.getresponse()
            content = answer.read()
        except http.client.HTTPException:
            self.connection.close()
            raise
        if answer.headers.get("connection") == "close":
            self.connection.close()
        return answer.status, answer.headers, content

    def refused(self, method, path, body=None, headers=None):
        status, found, content = self.request(method, path, body, headers)
        assert 400 <= status < 500, (status, path, body, headers, content)
        assert found["content-type"] == "application/json"
        error = json.loads(content)
        assert list(error) == ["error"]
        assert isinstance(error["error"], str)
        assert error["error"]
        self.bad += 1

    def works(self):
        status, _, content = self.request("POST", PREDICT, GOOD)
        assert status == 200
        assert content == self.expected

    @property
    def expected(self):
        if not hasattr(self, "_expected"):
            self._expected = self.server.request("POST", PREDICT, GOOD)[2]
        return self._expected


@pytest.fixture(scope="module")
def client(server):
    made = Client(server)
    yield made
    made.connection.close()
    print(f"\n{made.bad} malformed requests refused")  # pytest -s shows it


def many(share):
    return settings(max_examples=max(20, int(REQUESTS * share)), deadline=None, suppress_health_check=list(HealthCheck))


@many(0.6)
@hypothesis.given(request=bad_json())
def test_bad_bodies(client, request):
    path, body = request
    client.refused("POST", path, body)
    client.works()


@many(0.2)
@hypothesis.given(request=bad_headers())
def test_lying_headers(client, request):
    client.refused("POST", *request)
    client.works()


@many(0.15)
@hypothesis.given(path=PATHS, method=st.sampled_from(["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"]))
def test_paths(client, path, method):
    hypothesis.assume(method != "GET" or not ANSWERED.fullmatch(path))
    client.refused(method, path)
    client.works()


HEAD = b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: localhost\r\n"
RAW = st.one_of(
    st.integers(1, len(GOOD) - 1).map(lambda n: HEAD + b"Content-Length: %d\r\n\r\n" % n + GOOD),  # too short
    st.binary(min_size=1, max_size=60).map(lambda noise: noise.replace(b"\n", b"") + b"\r\n\r\n"),
    st.sampled_from([b"Content-Length: x", b"Content-Length: -1", b"Content-Length: 1\r\nContent-Length: 2"]).map(
        lambda line: HEAD + line + b"\r\n\r\n" + GOOD
    ),
    st.binary(min_size=1, max_size=9).map(
        lambda size: HEAD + b"Transfer-Encoding: chunked\r\n\r\ng" + size.replace(b"\n", b"") + b"\r\n"
    ),
    st.integers(70_000, 200_000).map(lambda size: b"GET /v2 HTTP/1.1\r\nx: " + b"a" * size),
)


@many(0.05)
@hypothesis.given(content=RAW)
def test_what_is_not_http(client, content):
    server = client.server
    with socket.create_connection((server.host, server.port), 10) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
    answers = found.split(b"HTTP/1.1 ")[1:]
    assert answers, content
    for answer in answers:
        assert answer[:1] == b"4", (content, found)
        assert list(json.loads(answer.partition(b"\r\n\r\n")[2])) == ["error"]
    client.works()


# ---- against the OpenAPI document


PICTURE_BASE64 = base64.b64encode(PICTURE).decode()


def test_openapi(server, client):
    schemathesis.openapi.format("picture-base64", st.just(PICTURE_BASE64))
    for kind in PICTURES:
        schemathesis.openapi.media_type(f"image/{kind.lower()}", st.just(PICTURE))
    api = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    operations = [result.ok() for result in api.get_all_operations()]
    assert len(operations) == 7 + 2 * 11
    for operation in operations:
        for mode in schemathesis.GenerationMode:

            @many(1 / 100)
            @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
            def check(case):
                answer = case.call()
                # JSON Schema bounds neither sums (logits beyond float32) nor a product (shape and number of values),
                # and takes 1.0 for an integer
                tied = "float" in answer.text or case.path.endswith("/infer")
                case.validate_response(answer, excluded_checks=[positive_data_acceptance] if tied else [])

            try:
                check()
            except hypothesis.errors.Unsatisfiable:  # nothing of this operation can be wrong
                assert mode.is_negative
            client.works()
