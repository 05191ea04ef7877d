"""The same requests to this server and to a real Triton: values equal, accepted or refused alike, or in DIFFERENT."""

import contextlib
import gzip
import http.client
import itertools
import json
import os
import socket
import subprocess
import zlib

import numpy as np
import pytest
import serve
import tritonclient.grpc
from conftest import SHAPE

from benchmarks import common

RAW = np.random.default_rng(11).integers(0, 256, (5, *SHAPE)).astype(np.uint8)
KINDS = {"FP32": np.float32, "INT64": np.int64, "BYTES": None}
PACK = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress}
PATH = "/v2/models/tiny/infer"

# which of the two accept what only one accepts; docs/serving.md has the reasons
OURS, TRITON = "tfsoftmax", "Triton"
DIFFERENT = {
    "data nested in another way": TRITON,
    "data ragged": TRITON,
    "data above 255": TRITON,
    "an output twice": TRITON,
    "gzip cut": TRITON,
    "version 0": OURS,
}


@pytest.fixture(scope="module")
def ports(served, tmp_path_factory):
    """Of this server and of Triton: HTTP, gRPC."""
    try:
        python = common.python_of("serve_triton")
    except common.Missing as error:
        pytest.skip(f"nvidia-pytriton, which holds Triton, {error}")
    folder = tmp_path_factory.mktemp("triton")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        http_port, grpc_port = (each.getsockname()[1] for each in (one, two))
    export = served / "tiny"
    case = {"export": str(export), "onnx": str(export / "1" / "model.onnx"), "folder": str(folder)}
    case |= {"port": http_port, "grpc_port": grpc_port}
    peer = common.HERE / "peers" / "serve_triton.py"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, peer, json.dumps(case)], stdout=log, stderr=log, env={**os.environ, "PYTHONPATH": ""}
        )
    try:
        with serve.Server(export, "--grpc-port", 0) as ours:
            with contextlib.suppress(AssertionError):
                serve.until(lambda: process.poll() is not None or answers(http_port))
            if not answers(http_port):
                pytest.skip(f"Triton does not start here: {(folder / 'log').read_text().splitlines()[-1:]}")
            yield (ours.port, int(ours.grpc.rpartition(":")[2])), (http_port, grpc_port)
    finally:
        process.terminate()
        process.wait(60)


def answers(port):
    try:
        return ask(port, "/v2/health/ready", {}, None)[0] == 200
    except OSError:
        return False


def ask(port, path, headers, body, method=None, chunked=False):
    """(status, headers, body)"""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        content = iter([body[:7], body[7:]]) if chunked else body
        connection.request(
            method or ("GET" if body is None else "POST"), path, content, headers, encode_chunked=chunked
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def values(headers, body):
    """Id, model, version and outputs of an answer, binary or not.

    Triton gives ``class_id`` and ``label`` as [n, 1], as its configuration cannot say [n]; that is overlooked.
    """
    size = int(headers.get("inference-header-content-length") or len(body))
    head, rest = json.loads(body[:size]), body[size:]
    found = {}
    for output in head["outputs"]:
        length = output.get("parameters", {}).get("binary_data_size")
        kind, shape = KINDS[output["datatype"]], output["shape"]
        if length is None:
            data = np.array(output["data"], kind or object)
        elif kind is not None:
            data = np.frombuffer(rest[:length], kind)
        else:
            texts, at = [], 0
            while at < length:
                long = int.from_bytes(rest[at : at + 4], "little")
                texts.append(rest[at + 4 : at + 4 + long].decode())
                at += 4 + long
            data = np.array(texts, object)
        rest = rest[length or 0 :]
        found[output["name"]] = output["datatype"], shape[: 2 if data.size > shape[0] else 1], data.ravel().tolist()
    return head.get("id"), head["model_name"], head["model_version"], found


def tensor(rows=RAW[:2], **changed):
    return {"name": "image", "shape": list(rows.shape), "datatype": "UINT8", "data": rows.tolist()} | changed


def binary(rows=RAW[:2], tail=b"", **changed):
    """Head and body of a request with a binary tensor, without the header."""
    made = {"name": "image", "shape": list(rows.shape), "datatype": "UINT8"}
    made["parameters"] = {"binary_data_size": rows.nbytes}
    head = json.dumps({"inputs": [made | changed.pop("input", {})], **changed}).encode()
    return head, head + rows.tobytes() + tail


def good():
    """Name, headers and body of what must be answered alike."""
    outputs = {
        "all": {},
        "one": {"outputs": [{"name": "logits"}]},
        "two": {"outputs": [{"name": "label"}, {"name": "class_id"}]},
        "mixed": {"outputs": [{"name": "logits", "parameters": {"binary_data": True}}, {"name": "label"}]},
        "binary": {"parameters": {"binary_data_output": True}},
    }
    for (kind, wanted), count, form in itertools.product(outputs.items(), (1, 2, 5), ("nested", "flat", "binary")):
        rows = RAW[:count]
        if form == "binary":
            head, body = binary(rows, **wanted)
            headers = {"Inference-Header-Content-Length": str(len(head))}
        else:
            data = rows.tolist() if form == "nested" else rows.ravel().tolist()
            body, headers = json.dumps({"id": f"{kind} {count}", "inputs": [tensor(rows, data=data)], **wanted}), {}
            body = body.encode()
        for (encoding, pack), chunked in itertools.product(PACK.items(), (False, True)):
            if count == 5 and chunked:
                continue
            more = {"Content-Encoding": encoding} if encoding else {}
            name = f"{kind}, {count} rows, {form}, {encoding or 'plain'}, {'chunked' if chunked else 'sized'}"
            yield name, {**headers, **more}, pack(body), chunked


def malformed():
    """Name, path, headers, body: what one of the two might refuse."""
    bodies = {
        "empty": b"",
        "not JSON": b"{",
        "a list": b"[]",
        "null": b"null",
        "no inputs": {},
        "empty inputs": {"inputs": []},
        "inputs not a list": {"inputs": 3},
        "an input not an object": {"inputs": [3]},
        "two inputs of a name": {"inputs": [tensor(), tensor()]},
        "another input": {"inputs": [tensor(name="picture")]},
        "an input too many": {"inputs": [tensor(), tensor(name="picture")]},
        "no name": {"inputs": [{k: v for k, v in tensor().items() if k != "name"}]},
        "no shape": {"inputs": [{k: v for k, v in tensor().items() if k != "shape"}]},
        "no datatype": {"inputs": [{k: v for k, v in tensor().items() if k != "datatype"}]},
        "no data": {"inputs": [{k: v for k, v in tensor().items() if k != "data"}]},
        "datatype of another size": {"inputs": [tensor(datatype="FP32")]},
        "datatype of the same size": {"inputs": [tensor(datatype="INT8")]},
        "unknown datatype": {"inputs": [tensor(datatype="UINT4")]},
        "datatype not a text": {"inputs": [tensor(datatype=8)]},
        "shape too large": {"inputs": [tensor(shape=[3, *SHAPE])]},
        "shape too small": {"inputs": [tensor(shape=[1, *SHAPE])]},
        "shape of other rows": {"inputs": [tensor(shape=[2, 30])]},
        "shape turned": {"inputs": [tensor(shape=[2, *SHAPE[::-1]])]},
        "shape without rows": {"inputs": [tensor(RAW[0])]},
        "shape with a channel": {"inputs": [tensor(shape=[2, *SHAPE, 1])]},
        "shape negative": {"inputs": [tensor(shape=[-2, *SHAPE])]},
        "shape of -1": {"inputs": [tensor(shape=[-1, *SHAPE])]},
        "shape of floats": {"inputs": [tensor(shape=[2.0, 6.0, 5.0])]},
        "shape of texts": {"inputs": [tensor(shape=["2", "6", "5"])]},
        "shape not a list": {"inputs": [tensor(shape=60)]},
        "shape beyond 64 bits": {"inputs": [tensor(shape=[2**64, *SHAPE])]},
        "no rows": {"inputs": [tensor(RAW[:0])]},
        "data too short": {"inputs": [tensor(data=RAW[:1].tolist())]},
        "data too long": {"inputs": [tensor(data=RAW[:3].tolist())]},
        "data nested in another way": {"inputs": [tensor(data=RAW[:2].reshape(5, 12).tolist())]},
        "data ragged": {"inputs": [tensor(data=[RAW[:2].ravel().tolist()[:7], RAW[:2].ravel().tolist()[7:]])]},
        "data a number": {"inputs": [tensor(data=3)]},
        "data a text": {"inputs": [tensor(data="AAAA")]},
        "data with a text": {"inputs": [tensor(data=["1"] * 60)]},
        "data with null": {"inputs": [tensor(data=[None] * 60)]},
        "data with booleans": {"inputs": [tensor(data=[True] * 60)]},
        "data with whole floats": {"inputs": [tensor(data=[1.0] * 60)]},
        "data with fractions": {"inputs": [tensor(data=[1.5] * 60)]},
        "data below 0": {"inputs": [tensor(data=[-1] * 60)]},
        "data above 255": {"inputs": [tensor(data=[256] * 60)]},
        "data beyond 64 bits": {"inputs": [tensor(data=[2**70] * 60)]},
        "unknown output": {"inputs": [tensor()], "outputs": [{"name": "x"}]},
        "output without a name": {"inputs": [tensor()], "outputs": [{}]},
        "outputs not a list": {"inputs": [tensor()], "outputs": "logits"},
        "no outputs": {"inputs": [tensor()], "outputs": []},
        "an output twice": {"inputs": [tensor()], "outputs": [{"name": "logits"}, {"name": "logits"}]},
        "id a number": {"inputs": [tensor()], "id": 3},
        "parameters not an object": {"inputs": [tensor()], "parameters": 3},
        "unknown parameter": {"inputs": [tensor()], "parameters": {"mine": "x"}},
        "unknown key": {"inputs": [tensor()], "mine": 1},
        "priority": {"inputs": [tensor()], "parameters": {"priority": 1}},
        "shared memory": {"inputs": [tensor(parameters={"shared_memory_region": "x", "shared_memory_byte_size": 60})]},
        "trailing text": json.dumps({"inputs": [tensor()]}).encode() + b"x",
        "not UTF-8": b'{"id":"\xff","inputs":[]}',
        "NaN": json.dumps({"inputs": [tensor(data=[float("nan")] * 60)]}).encode(),
    }
    for name, body in bodies.items():
        yield name, PATH, {}, body if isinstance(body, bytes) else json.dumps(body).encode()
    length = "Inference-Header-Content-Length"
    head, body = binary()
    for name, value in {
        "header length of 0": "0",
        "header length too small": str(len(head) - 1),
        "header length too large": str(len(head) + 1),
        "header length beyond the body": str(len(body) + 1),
        "header length negative": "-1",
        "header length not a number": "x",
    }.items():
        yield name, PATH, {length: value}, body
    yield "no header length", PATH, {}, body
    for name, (first, content) in {
        "binary tail": binary(tail=b"1234"),
        "binary data cut": (head, body[:-1]),
        "no binary data": (head, head),
        "binary size too small": binary(input={"parameters": {"binary_data_size": 59}}),
        "binary size too large": binary(input={"parameters": {"binary_data_size": 61}}),
        "binary size negative": binary(input={"parameters": {"binary_data_size": -60}}),
        "binary size a text": binary(input={"parameters": {"binary_data_size": "60"}}),
        "binary and data": binary(input={"data": RAW[:2].tolist()}),
    }.items():
        yield name, PATH, {length: str(len(first))}, content
    plain = json.dumps({"inputs": [tensor()]}).encode()
    for name, path in {
        "version 1": "/v2/models/tiny/versions/1/infer",
        "version 2": "/v2/models/tiny/versions/2/infer",
        "version 0": "/v2/models/tiny/versions/0/infer",
        "version not a number": "/v2/models/tiny/versions/x/infer",
        "another model": "/v2/models/x/infer",
        "another path": "/v2/models/tiny/guess",
    }.items():
        yield name, path, {}, plain
    for name, encoding, content in (
        ("gzip that is none", "gzip", plain),
        ("gzip cut", "gzip", gzip.compress(plain)[:-9]),
        ("deflate that is none", "deflate", plain),
        ("unknown encoding", "br", plain),
        ("identity", "identity", plain),
    ):
        yield name, PATH, {"Content-Encoding": encoding}, content
    yield "content type of a form", PATH, {"Content-Type": "application/x-www-form-urlencoded"}, plain


@pytest.mark.slow
def test_answers_are_those_of_triton(ports):
    (ours, _), (theirs, _) = ports
    cases = list(good())
    for name, headers, body, chunked in cases:
        one, other = (ask(port, PATH, headers, body, chunked=chunked) for port in (ours, theirs))
        assert one[0] == other[0] == 200, (name, one, other)
        assert values(*one[1:]) == values(*other[1:]), name
    assert len(cases) >= 190


@pytest.mark.slow
def test_what_is_refused_is_what_triton_refuses(ports):
    (ours, _), (theirs, _) = ports
    found = {}
    for name, path, headers, body in malformed():
        one, other = (ask(port, path, headers, body) for port in (ours, theirs))
        assert answers(theirs), f"Triton ended at {name}"
        assert one[0] < 500, (name, one)
        if one[0] == other[0] == 200:
            assert values(*one[1:]) == values(*other[1:]), name
        elif 200 in (one[0], other[0]):
            found[name] = OURS if one[0] == 200 else TRITON
    assert found == DIFFERENT


@pytest.mark.slow
def test_grpc_is_that_of_triton(ports):
    (_, ours), (_, theirs) = ports
    found = []
    for port in (ours, theirs):
        with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
            item = tritonclient.grpc.InferInput("image", RAW.shape, "UINT8")
            item.set_data_from_numpy(RAW)
            answer = client.infer("tiny", [item])
            names = ("logits", "probabilities", "class_id", "label")
            found.append({name: answer.as_numpy(name).ravel().tolist() for name in names})
            with pytest.raises(tritonclient.grpc.InferenceServerException) as caught:
                client.infer("x", [item])
            assert caught.value.status() == "StatusCode.NOT_FOUND"
    assert found[0] == found[1]
