"""What clients of other make send, and what pages, proxies and programs for Triton ask for."""

import base64
import gzip
import io
import json
import socket
import zlib

import numpy as np
import ovmsclient
import pytest
import serve
import tritonclient.http as triton
from conftest import CLASSES, SHAPE
from google.protobuf import json_format
from PIL import Image

TINY, INFER = "/v1/models/tiny", "/v2/models/tiny/infer"
RAW = np.random.default_rng(5).integers(0, 256, SHAPE).astype(np.uint8)
TENSOR = {"name": "image", "shape": [1, *SHAPE], "datatype": "UINT8", "data": RAW.ravel().tolist()}


@pytest.fixture(scope="module")
def wanted(predictor):
    return predictor["tiny"](RAW)


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.address) as made:
        yield made


def predicted(answer, wanted):
    """The answer of ``:predict`` is that of the predictor."""
    (row,) = answer["predictions"]
    np.testing.assert_array_equal(np.float32(row["logits"]), wanted["logits"][0])
    assert row["label"] == wanted["label"][0]


def inferred(answer, wanted):
    found = {output["name"]: output["data"] for output in answer["outputs"]}
    np.testing.assert_array_equal(np.float32(found["logits"]), wanted["logits"][0])


def png(array=RAW, kind="PNG"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind)
    return stream.getvalue()


# ---- HTTP


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "in pieces"])
@pytest.mark.parametrize("chunked", [True, False], ids=["chunked", "sized"])
def test_a_client_that_offers_http2_is_answered_in_http1(server, wanted, at_once, chunked):
    """As Java's HttpClient does it: with each POST, and it goes on over the same connection."""
    body = json.dumps({"instances": [RAW.tolist()]}).encode()
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    length = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    head = b"POST /v1/models/tiny:predict HTTP/1.1\r\nHost: localhost\r\n%s%s\r\n\r\n" % (UPGRADE, length)
    with socket.create_connection((server.host, server.port), 10) as line, line.makefile("rb") as answers:
        for _ in range(3):
            for part in [head + framed] if at_once else [head[:50], head[50:], framed[:9], framed[9:]]:
                line.sendall(part)
            assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
            length_found = 0
            while (header := answers.readline()) != b"\r\n":
                if header.lower().startswith(b"content-length:"):
                    length_found = int(header.split(b":")[1])
            predicted(json.loads(answers.read(length_found)), wanted)
        line.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % UPGRADE)
        assert answers.readline() == b"HTTP/1.1 200 OK\r\n", "one without a body"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "gzip;q=1.0, deflate;q=0.5", "br, *"])
def test_answers_are_packed_for_those_who_read_it(server, encoding):
    path = "/page/models/tiny"
    plain = server.request("GET", path)
    assert "content-encoding" not in plain[1]
    status, headers, body = server.request("GET", path, headers={"Accept-Encoding": encoding})
    name = headers["content-encoding"]
    assert (status, name) == (200, "deflate" if encoding == "deflate" else "gzip")
    assert (gzip if name == "gzip" else zlib).decompress(body) == plain[2]
    assert len(body) < len(plain[2]) / 2
    assert headers["vary"] == plain[1]["vary"] == "accept-encoding"


@pytest.mark.parametrize("encoding", ["", "br", "identity", "gzip;q=0", "deflate;q=0.0, gzip;q=0"])
def test_answers_are_plain_for_those_who_do_not(server, encoding):
    headers = server.request("GET", "/page/models/tiny", headers={"Accept-Encoding": encoding})[1]
    assert "content-encoding" not in headers


def test_packed_bodies(server):
    body = json.dumps({"instances": [RAW.tolist()]}).encode()
    wanted = server.post(f"{TINY}:predict", body)
    raw_deflate = zlib.compressobj(wbits=-15)
    packed = {
        "gzip": gzip.compress(body),
        "deflate": zlib.compress(body),
        "DEFLATE": raw_deflate.compress(body) + raw_deflate.flush(),
        "identity": body,
    }
    for name, content in packed.items():
        assert server.post(f"{TINY}:predict", content, {"Content-Encoding": name}) == wanted
    members = gzip.compress(body[:50]) + gzip.compress(body[50:])
    assert server.post(f"{TINY}:predict", members, {"Content-Encoding": "gzip"}) == wanted
    for name, content, status in [
        ("gzip", body, 400),
        ("gzip", packed["gzip"][:-9], 400),
        ("gzip", packed["gzip"] + b"more", 400),
        ("deflate", packed["deflate"] * 2, 400),
        ("deflate", b"", 400),
        ("br", body, 415),
        ("gzip, gzip", packed["gzip"], 415),
        ("gzip", gzip.compress(bytes(65 * 2**20)), 413),
    ]:
        assert server.error("POST", f"{TINY}:predict", content, {"Content-Encoding": name})[0] == status


def test_a_large_answer_in_binary_is_packed_for_tritons_client(client, predictor):
    rows = np.random.default_rng(1).integers(0, 256, (500, *SHAPE)).astype(np.uint8)
    item = triton.InferInput("image", rows.shape, "UINT8")
    item.set_data_from_numpy(rows)
    answer = client.infer("tiny", [item], response_compression_algorithm="gzip")
    np.testing.assert_allclose(answer.as_numpy("logits"), predictor["tiny"](rows)["logits"], atol=1e-5)


# ---- JSON


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "a1", "model_name": "tiny"},
        {"id": None},
        {"id": None, "parameters": None, "outputs": None},
        {"inputs": [{**TENSOR, "parameters": None}]},
        {"inputs": [{**TENSOR, "parameters": {"binary_data_size": None, "shared_memory_region": None}}]},
        {"outputs": [{"name": "logits", "parameters": None}], "parameters": {"binary_data_output": None}},
        {"a newer client": {"says": ["more"]}, "parameters": {"priority": 3, "timeout": 9}},
        {"inputs": [{**TENSOR, "new": 1}], "outputs": [{"name": "logits", "new": {}}]},
    ],
)
def test_nulls_are_absent_and_what_is_not_known_is_let_pass(server, wanted, changes):
    inferred(server.post(INFER, {"inputs": [TENSOR], **changes}), wanted)


@pytest.mark.parametrize("more", [{"signature_name": None}, {"inputs": None}, {"new": {"a": [1]}}, {"id": None}])
def test_nulls_and_more_in_predict_and_classify(server, wanted, more):
    predicted(server.post(f"{TINY}:predict", {"instances": [RAW.tolist()], **more}), wanted)
    more.pop("inputs", None)
    answer = server.post(f"{TINY}:classify", {"examples": [{"image": RAW.tolist()}], "context": None, **more})
    assert [score for _, score in answer["results"][0]] == wanted["probabilities"][0].tolist()


@pytest.mark.parametrize("where", ["inputs", "outputs"])
def test_shared_memory_is_refused_and_not_passed_over(server, where):
    named = {"name": "logits" if where == "outputs" else "image"}
    memory = {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 12, "shared_memory_offset": 0}}
    body = {"inputs": [TENSOR], where: [{**(TENSOR if where == "inputs" else named), **memory}]}
    status, error = server.error("POST", INFER, body)
    assert (status, "shared_memory_region" in error) == (400, True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{TINY}:classify", b'{"examples": [{"image": [%s]}], "x": "\xff"}' % b",".join([b"0"] * 30)),
        (f"{TINY}:classify", b'{"examples": [{"image": "\xff:"}]}'),
        (f"{TINY}:predict", b'{"instances": [%s], "x": "\xff:"}' % json.dumps(RAW.tolist()).encode()),
        (f"{TINY}:predict", b'{"instances": [%s], "x": "\\u12:"}' % json.dumps(RAW.tolist()).encode()),
        (INFER, b'{"inputs": [{"name":"image","shape":[1,6,5],"datatype":"UINT8","data":["\xff:"]}]}'),
        (INFER, b'{"inputs": [{"name":"image","shape":[1,6,5],"datatype":"UINT8","data":["\\ud800:"]}]}'),
        (INFER, b'{"inputs": [{"name":"image","shape":[1,6,5],"datatype":"UINT8","data":["\x01:"]}]}'),
    ],
)
def test_bad_bytes_where_a_decoder_skips(server, path, body):
    assert server.error("POST", path, body)[0] == 400


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_what_python_calls_json_is_named(server, value):
    row = b"[1, %s, 2, 3]" % value.encode()
    tensor = b'{"name": "features", "shape": [1, 4], "datatype": "FP32", "data": %s}' % row
    for path, body in (
        ("/v1/models/table:predict", b'{"instances": [%s]}' % row),
        ("/v2/models/table/infer", b'{"inputs": [%s]}' % tensor),
    ):
        status, error = server.error("POST", path, body)
        assert (status, error) == (400, f"{value} at byte {body.index(value.encode())} is not a JSON number: "
                                        "finite numbers are expected")  # fmt: skip


def test_a_channel_of_one_is_no_other_shape(server, wanted):
    channel = RAW[..., None]
    predicted(server.post(f"{TINY}:predict", {"instances": [channel.tolist()]}), wanted)
    predicted(server.post(f"{TINY}:predict", {"instances": [{"image": channel.tolist()}]}), wanted)
    for data in (channel[None].tolist(), RAW.ravel().tolist()):
        inferred(server.post(INFER, {"inputs": [{**TENSOR, "shape": [1, *SHAPE, 1], "data": data}]}), wanted)
    answer = server.post(f"{TINY}:classify", {"examples": [{"image": channel.tolist()}]})
    assert [score for _, score in answer["results"][0]] == wanted["probabilities"][0].tolist()
    status, error = server.error("POST", f"{TINY}:predict", {"instances": [np.zeros((*SHAPE, 2), int).tolist()]})
    assert (status, error) == (400, "Expected `int`, got `array` - at `$.instances[0][0][0]`")


def test_many_rows_are_read_one_by_one_and_say_where_they_do_not_fit(server, predictor):
    rows = np.random.default_rng(2).integers(0, 256, (12_000, *SHAPE)).astype(np.uint8)  # over a megabyte
    expected, lists = predictor["tiny"](rows)["logits"], rows.tolist()
    for body in ({"instances": lists}, {"inputs": lists}, {"inputs": {"image": lists}}):
        answer = server.post(f"{TINY}:predict", {**body, "signature_name": "serving_default"})
        found = answer["outputs"]["logits"] if "outputs" in answer else [row["logits"] for row in answer["predictions"]]
        np.testing.assert_allclose(found, expected, atol=1e-5)
    mixed = [{"image": lists[0]}, {"b64": base64.b64encode(png(rows[1])).decode()}, *lists[2:]]
    answer = server.post(f"{TINY}:predict", {"instances": mixed})["predictions"]
    np.testing.assert_allclose([row["logits"] for row in answer], expected, atol=1e-5)
    tensor = {**TENSOR, "shape": rows.shape, "data": lists}
    output = server.post(INFER, {"inputs": [tensor], "outputs": [{"name": "logits"}]})["outputs"][0]
    np.testing.assert_allclose(np.reshape(output["data"], expected.shape), expected, atol=1e-5)
    lists[7_000][3][2] = 256
    for key in ("instances", "inputs"):
        error = server.error("POST", f"{TINY}:predict", {key: lists})
        assert error == (400, f"Expected `int` <= 255 - at `$.{key}[7000][3][2]`")
    twice = b'{"instances":%s,"instances":%s}' % ((json.dumps(mixed[:6_000]).encode(),) * 2)
    assert server.error("POST", f"{TINY}:predict", twice) == (400, "the key 'instances' stands twice in one object")


# ---- pictures


@pytest.mark.parametrize(
    "write",
    [
        lambda text: base64.encodebytes(base64.b64decode(text)).decode(),
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
        lambda text: f"data:image/png;base64,{text}",
    ],
    ids=["lines", "no padding", "url-safe", "data URL"],
)
def test_base64_as_clients_write_it(server, predictor, write):
    rng = np.random.default_rng(0)
    while True:
        row = rng.integers(0, 256, SHAPE).astype(np.uint8)
        text = base64.b64encode(png(row)).decode()
        if "+" in text and "/" in text and text.endswith("="):
            break
    predicted(server.post(f"{TINY}:predict", {"instances": [{"b64": write(text)}]}), predictor["tiny"](row))


@pytest.mark.parametrize("text", ["a", "####", "data:image/png,abc", "ÿ", "="])
def test_what_is_not_base64(server, text):
    assert server.error("POST", f"{TINY}:predict", {"instances": [{"b64": text}]})[0] == 400


def form(*files):
    parts = [b'Content-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + file for file in files]
    return b"".join(b"--a-b\r\n%s\r\n" % part for part in parts) + b"--a-b--\r\n"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (png(), "image/png"),
        (png(), "Image/PNG"),
        (png(), "application/x-www-form-urlencoded"),  # curl --data-binary
        (png(kind="BMP"), "application/octet-stream"),
        (form(png()), "multipart/form-data; boundary=a-b"),  # curl -F
        (form(png()), 'Multipart/Form-Data; charset=utf-8; boundary="a-b"'),
    ],
)
def test_ways_to_send_a_picture(server, wanted, body, kind):
    predicted(server.post(f"{TINY}:predict", body, {"Content-Type": kind}), wanted)
    answer = server.post(f"{TINY}:classify", body, {"Content-Type": kind})
    assert dict(answer["results"][0]) == dict(zip(CLASSES, wanted["probabilities"][0].tolist(), strict=True))
    (why,) = server.post(f"{TINY}:explain", body, {"Content-Type": kind})["explanations"]
    assert (why["label"], why["input"]) == (wanted["label"][0], RAW.tolist())


def test_a_form_of_several_pictures_and_one_of_none(server, wanted, predictor):
    kind = {"Content-Type": "multipart/form-data; boundary=a-b"}
    other = 255 - RAW
    first, second = server.post(f"{TINY}:predict", form(png(), png(other)), kind)["predictions"]
    predicted({"predictions": [first]}, wanted)
    predicted({"predictions": [second]}, predictor["tiny"](other))
    for body in (b"", form(), form(b""), b"--a-b--", png()[:20] + b"x"):
        status, error = server.error("POST", f"{TINY}:predict", body, kind)
        assert (status, "picture" in error) == (400, True)


# ---- Triton's extensions


def test_classification(client, wanted):
    item = triton.InferInput("image", [1, *SHAPE], "UINT8")
    item.set_data_from_numpy(RAW[None])
    probabilities = wanted["probabilities"][0]
    order = sorted(range(3), key=lambda k: -probabilities[k])
    expected = [f"{probabilities[k]:f}:{k}:{CLASSES[k]}" for k in order]
    for binary in (True, False):
        for count in (1, 2, 3, 9):
            output = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=count)
            found = client.infer("tiny", [item], outputs=[output]).as_numpy("probabilities")
            texts = [value.decode() if isinstance(value, bytes) else value for value in found.ravel()]
            assert (found.shape, texts) == ((1, min(count, 3)), expected[:count])


def test_configuration_is_that_of_tritons_protos(client):
    protos = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    config = json_format.ParseDict(client.get_model_config("tiny"), protos.ModelConfig())
    assert (config.name, config.backend) == ("tiny", "onnxruntime")
    assert [(entry.name, list(entry.dims)) for entry in config.input] == [("image", list(SHAPE))]
    assert {entry.name: list(entry.dims) for entry in config.output} == {
        "logits": [3],
        "probabilities": [3],
        "class_id": [1],
        "label": [1],
    }


@pytest.mark.parametrize("workers", [1, 2])
def test_statistics_count_what_was_answered(served, workers):
    with serve.Server(served, "--workers", workers) as server, triton.InferenceServerClient(server.address) as client:
        for _ in range(3):
            server.post(INFER, {"inputs": [{**TENSOR, "shape": [2, *SHAPE], "data": TENSOR["data"] * 2}]})
        server.error("POST", INFER, {})
        (one,) = client.get_inference_statistics("tiny")["model_stats"]
        assert (one["name"], one["version"], one["inference_count"], one["execution_count"]) == ("tiny", "1", 6, 3)
        success, fail = one["inference_stats"]["success"], one["inference_stats"]["fail"]
        assert (success["count"], fail["count"]) == (3, 1)
        assert success["ns"] > 0
        assert fail["ns"] > 0
        assert one["last_inference"] > 1.7e12, "milliseconds"
        assert {stats["name"] for stats in client.get_inference_statistics()["model_stats"]} == {"tiny", "table"}


def test_lists_of_models(server, client):
    assert server.get("/v1/models") == {"models": ["table", "tiny"]}  # as KServe's
    index = client.get_model_repository_index()
    assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
        ("table", "3", "READY"),
        ("tiny", "1", "READY"),
    ]
    assert server.post("/v2/repository/index", {"ready": True}) == index
    assert server.error("POST", "/v2/repository/index", b"[1]")[0] == 400


def test_version_zero_is_the_newest(server, predictor):
    client = ovmsclient.make_http_client(server.address)
    assert list(client.get_model_status("table")) == [3]
    assert client.get_model_metadata("table")["model_spec"]["version"] == "3"
    features = np.float32([[1, 2, 3, 4]])
    answer = client.predict({"features": features}, "table")
    np.testing.assert_allclose(answer["logits"], predictor["table"](features)["logits"], rtol=1e-6)
    assert server.get("/v2/models/table/versions/0")["versions"] == ["3"]
