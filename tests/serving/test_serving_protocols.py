"""Both protocols, as documented, and through clients that others wrote."""

import base64
import io
import json

import numpy as np
import ovmsclient
import pytest
import tritonclient.http as triton
from conftest import CLASSES, SHAPE
from google.protobuf import json_format
from PIL import Image
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, get_model_status_pb2

TINY = "/v1/models/tiny"


@pytest.fixture(scope="module")
def raw():
    return np.random.default_rng(7).integers(0, 256, (5, *SHAPE)).astype(np.uint8)


@pytest.fixture(scope="module")
def features():
    return np.random.default_rng(8).normal(size=(5, 4)).astype(np.float32)


def equal(found, wanted):
    """A dict of columns is, to the last bit, what the predictor gives."""
    assert set(found) == {"logits", "probabilities", "class_id", "label"}
    for name, column in found.items():
        np.testing.assert_array_equal(np.asarray(column, wanted[name].dtype), wanted[name])


def columns(predictions):
    return {name: [row[name] for row in predictions] for name in predictions[0]}


# ---- TensorFlow Serving


@pytest.mark.parametrize(
    "path",
    [f"{TINY}:predict", f"{TINY}/versions/1:predict", "/V1/Models/tiny/VERSIONS/01:PREDICT", f"{TINY}:predict?fit=1"],
)
@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}])
def test_rows_and_columns(server, predictor, raw, path, headers):
    wanted, rows = predictor["tiny"](raw), raw.tolist()
    equal(columns(server.post(path, {"instances": rows}, headers)["predictions"]), wanted)
    named = {"instances": [{"image": row} for row in rows], "signature_name": "serving_default"}
    equal(columns(server.post(path, named, headers)["predictions"]), wanted)
    mixed = {"instances": [{"image": rows[0]}, *rows[1:]]}
    equal(columns(server.post(path, mixed, headers)["predictions"]), wanted)
    equal(server.post(path, {"inputs": rows}, headers)["outputs"], wanted)
    equal(server.post(path, {"inputs": {"image": rows}}, headers)["outputs"], wanted)


def test_floats_round_trip(server, predictor, features):
    wanted = predictor["table"](features)
    equal(columns(server.post("/v1/models/table:predict", {"instances": features.tolist()})["predictions"]), wanted)
    whole = server.request("POST", "/v1/models/table:predict", {"instances": [[1, 2, 3, 4]]})[2]
    equal(columns(json.loads(whole)["predictions"]), predictor["table"](np.float32([[1, 2, 3, 4]])))
    ones = [[1e38, 1, 1, 1]]
    probabilities = json.loads(server.request("POST", "/v1/models/table:predict", {"inputs": ones})[2], parse_float=str)
    assert sorted(probabilities["outputs"]["probabilities"][0]) == ["0.0", "1.0"], "whole floats end in .0"


def test_pictures(server, predictor, raw):
    files = {}
    for kind in ("PNG", "JPEG"):
        stream = io.BytesIO()
        Image.fromarray(raw[0]).save(stream, kind)
        files[kind] = stream.getvalue()
    seen = np.asarray(Image.open(io.BytesIO(files["JPEG"])))[None]
    b64 = {kind: {"b64": base64.b64encode(file).decode()} for kind, file in files.items()}
    wanted = predictor["tiny"](np.concatenate([raw[:1], seen, raw[1:2]]))
    body = {"instances": [b64["PNG"], {"image": b64["JPEG"]}, raw[1].tolist()]}
    equal(columns(server.post(f"{TINY}:predict", body)["predictions"]), wanted)
    equal(server.post(f"{TINY}:predict", {"inputs": [b64["PNG"], b64["JPEG"], raw[1].tolist()]})["outputs"], wanted)
    for kind, row in (("PNG", raw[:1]), ("JPEG", seen)):
        answer = server.post(f"{TINY}:predict", files[kind], {"Content-Type": f"image/{kind.lower()}"})
        equal(columns(answer["predictions"]), predictor["tiny"](row))
    large = io.BytesIO()
    Image.new("RGB", (50, 60), (200, 200, 200)).save(large, "PNG")
    headers = {"Content-Type": "image/png"}
    status, text = server.error("POST", f"{TINY}:predict", large.getvalue(), headers)
    assert (status, "?fit=true converts" in text) == (400, True)
    answer = server.post(f"{TINY}:predict?fit=true&invert=true", large.getvalue(), headers)
    equal(columns(answer["predictions"]), predictor["tiny"](np.full((1, *SHAPE), 55, np.uint8)))


def test_classify(server, predictor, raw, features):
    wanted = predictor["tiny"](raw[:2])["probabilities"].tolist()
    body = {"signature_name": "classify", "examples": [{"image": raw[0].tolist()}, {"image": raw[1].ravel().tolist()}]}
    answer = server.post(f"{TINY}:classify", body)
    assert answer == {"results": [[list(pair) for pair in zip(CLASSES, row, strict=True)] for row in wanted]}
    common = {"context": {"features": features[0].tolist()}, "examples": [{}, {"features": features[1].tolist()}]}
    answer = server.post("/v1/models/table:classify", common)["results"]
    assert [[score for _, score in row] for row in answer] == predictor["table"](features[:2])["probabilities"].tolist()


def test_status_and_metadata_are_the_protos_of_tensorflow_serving(server):
    for path in (TINY, f"{TINY}/versions/1"):
        status = json_format.ParseDict(server.get(path), get_model_status_pb2.GetModelStatusResponse())
        (version,) = status.model_version_status
        assert (version.version, version.state) == (1, version.AVAILABLE)
        assert (version.status.error_code, version.status.error_message) == (0, "")
    for path in (f"{TINY}/metadata", f"{TINY}/versions/1/metadata"):
        answer = server.get(path)
        assert answer["model_spec"] == {"name": "tiny", "signature_name": "", "version": "1"}
        proto = get_model_metadata_pb2.SignatureDefMap()
        json_format.ParseDict(answer["metadata"]["signature_def"], proto)
        signature = proto.signature_def["serving_default"]
        assert [d.size for d in signature.inputs["image"].tensor_shape.dim] == [-1, *SHAPE]
        assert set(signature.outputs) == {"logits", "probabilities", "class_id", "label"}
        assert signature.outputs["label"].dtype == 7  # DT_STRING
        assert proto.signature_def["classify"].method_name == "tensorflow/serving/classify"


def test_classification_result_is_the_proto_of_tensorflow_serving(server, raw):
    (row,) = server.post(f"{TINY}:classify", {"examples": [{"image": raw[0].tolist()}]})["results"]
    classes = [{"label": label, "score": score} for label, score in row]
    proto = json_format.ParseDict({"classes": classes}, classification_pb2.Classifications())
    assert [item.label for item in proto.classes] == list(CLASSES)


def test_ovmsclient(server, predictor, raw):
    client = ovmsclient.make_http_client(server.address)
    assert client.get_model_status("tiny", 1) == {1: {"state": "AVAILABLE", "error_code": 0, "error_message": ""}}
    metadata = client.get_model_metadata("tiny", 1)
    assert metadata["model_spec"]["version"] == "1"
    answer = client.predict({"image": raw}, "tiny", 1)
    wanted = predictor["tiny"](raw)
    for name in ("logits", "probabilities", "class_id"):
        np.testing.assert_array_equal(np.asarray(answer[name], wanted[name].dtype), wanted[name])
    with pytest.raises(ovmsclient.tfs_compat.base.errors.ModelNotFoundError):
        client.get_model_status("tiny", 2)


# ---- Open Inference Protocol


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.address) as made:
        yield made


def test_triton_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("table", "3")
    assert not client.is_model_ready("nothing")
    assert set(client.get_server_metadata()["extensions"]) >= {"binary_tensor_data", "classification", "statistics"}
    metadata = client.get_model_metadata("tiny", "1")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, *SHAPE]}]
    assert {(item["name"], item["datatype"]) for item in metadata["outputs"]} == {
        ("logits", "FP32"),
        ("probabilities", "FP32"),
        ("class_id", "INT64"),
        ("label", "BYTES"),
    }


@pytest.mark.parametrize("packed", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary_out", [True, False])
@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("model", ["tiny", "table"])
def test_triton_infer(client, predictor, raw, features, model, binary_in, binary_out, packed):
    array = raw if model == "tiny" else features
    item = triton.InferInput(
        "image" if model == "tiny" else "features", array.shape, "UINT8" if model == "tiny" else "FP32"
    )
    item.set_data_from_numpy(array, binary_data=binary_in)
    wanted = predictor[model](array)
    outputs = [triton.InferRequestedOutput(name, binary_data=binary_out) for name in wanted]
    answer = client.infer(
        model,
        [item],
        outputs=outputs,
        request_id="a:b",
        request_compression_algorithm=packed,
        response_compression_algorithm=packed,
    )
    assert (answer.get_response()["id"], answer.get_response()["model_name"]) == ("a:b", model)
    for name, value in wanted.items():
        found = answer.as_numpy(name)
        found = np.array([x.decode() if isinstance(x, bytes) else x for x in found]) if name == "label" else found
        np.testing.assert_array_equal(found, value)
        assert found.dtype == value.dtype or name == "label"


def test_triton_default_outputs(client, predictor, raw):
    item = triton.InferInput("image", raw.shape, "UINT8")
    item.set_data_from_numpy(raw)
    answer = client.infer("tiny", [item])  # asks for everything in binary
    np.testing.assert_array_equal(answer.as_numpy("probabilities"), predictor["tiny"](raw)["probabilities"])
    assert answer.as_numpy("label").tolist() == [name.encode() for name in predictor["tiny"](raw)["label"]]


def test_triton_sees_errors(client, raw):
    item = triton.InferInput("picture", raw.shape, "UINT8")
    item.set_data_from_numpy(raw)
    with pytest.raises(triton.InferenceServerException, match="unexpected inference input 'picture' for model 'tiny'"):
        client.infer("tiny", [item])
    with pytest.raises(triton.InferenceServerException, match="Servable not found"):
        client.get_model_metadata("nothing")


@pytest.mark.parametrize("nested", [True, False])
def test_infer_as_documented(server, predictor, raw, nested):
    data = raw.tolist() if nested else raw.ravel().tolist()
    tensor = {"name": "image", "shape": raw.shape, "datatype": "UINT8", "data": data}
    answer = server.post("/v2/models/tiny/versions/1/infer", {"inputs": [tensor], "outputs": [{"name": "class_id"}]})
    class_id = predictor["tiny"](raw)["class_id"].tolist()
    output = {"name": "class_id", "datatype": "INT64", "shape": [5], "data": class_id}
    assert answer == {"model_name": "tiny", "model_version": "1", "outputs": [output]}


def test_health_as_documented(server):
    assert server.get("/v2/health/live") == {"live": True}
    assert server.get("/v2/health/ready") == {"ready": True}
    assert server.get("/v2") == server.get("/v2/")
    assert server.get("/v2/models/tiny/ready") == {"name": "tiny", "ready": True}


# ---- bad input: the column `ours`


ROW = np.zeros(SHAPE, int).tolist()
GOOD = {"name": "image", "shape": [1, *SHAPE], "datatype": "UINT8", "data": [0] * 30}
INFER = "/v2/models/tiny/infer"


@pytest.mark.parametrize(
    ("path", "body", "text"),
    [
        (":predict", b"", "not JSON"),
        (":predict", b'{"instances": [[[1, 2', "not JSON"),
        (":predict", b"[" * 10_000, "Expected `object`, got `array`"),
        (":predict", b'{"instances": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "Expected"),
        (":predict", b'{"instances": NaN}', "NaN at byte 14 is not a JSON number"),
        (":predict", {}, "one of instances"),
        (":predict", {"instances": [ROW], "inputs": [ROW]}, "not both"),
        (":predict", {"instances": []}, "length >= 1"),
        (":predict", {"instances": [[1, 2]]}, "Expected `array`, got `int`"),
        (":predict", {"instances": [ROW[:-1]]}, "length >= 6 - at `$.instances[0]`"),
        (":predict", {"instances": [[*ROW[:-1], [1]]]}, "length >= 5 - at `$.instances[0][5]`"),
        (":predict", {"instances": [[*ROW[:-1], [0, 0, 0, 0, 256]]]}, "<= 255"),
        (":predict", {"instances": [[*ROW[:-1], [0, 0, 0, 0, -1]]]}, ">= 0"),
        (":predict", {"instances": [[*ROW[:-1], [0, 0, 0, 0, 0.5]]]}, "Expected `int`"),
        (":predict", {"instances": [[*ROW[:-1], [0, 0, 0, 0, True]]]}, "Expected `int`"),
        (":predict", {"instances": [[*ROW[:-1], [0, 0, 0, 0, "1"]]]}, "Expected `int`"),
        (":predict", {"instances": [[*ROW[:-1], [0, 0, 0, 0, None]]]}, "Expected `int`"),
        (":predict", {"instances": [{"picture": ROW}]}, "unknown field `picture`"),
        (":predict", {"instances": [{}]}, "one key"),
        (":predict", {"instances": [{"b64": "####"}]}, "not base64"),
        (":predict", {"instances": [{"b64": "aGk="}]}, "not a picture"),
        (":predict", {"instances": [ROW], "signature_name": "other"}, "signature 'other'"),
        (":predict", b'{"instances": [], "instances": %s}' % json.dumps([ROW]).encode(), "length >= 1"),
        (":predict", b'{"instances": %s, "instances": %s}' % ((json.dumps([ROW]).encode(),) * 2), "stands twice"),
        (":predict?fit=2", {"instances": [ROW]}, "the query may contain"),
        (":predict?size=2", {"instances": [ROW]}, "the query may contain"),
        (":classify", {"examples": [{}]}, "example 0 has no 'image'"),
        (":classify", {"examples": [{"image": [1, 2]}]}, "2 values"),
        (":classify", {"signature_name": "classify"}, "needs examples"),
        (":classify", {"signature_name": "serving_default", "examples": [{"image": ROW}]}, "signature"),
        ("/labels/stable:predict", {"instances": [ROW]}, "label: stable"),
    ],
)
def test_bad_predict(server, path, body, text):
    status, error = server.error("POST", TINY + path, body)
    assert status == 400
    assert text in error
    server.post(f"{TINY}:predict", {"instances": [ROW]})


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "required field `inputs`"),
        ({"inputs": []}, "length >= 1"),
        ({"inputs": [{**GOOD, "name": "xx"}]}, "unexpected inference input 'xx' for model 'tiny'"),
        ({"inputs": [GOOD, GOOD]}, "there 2 times"),
        ({"inputs": [{**GOOD, "datatype": "FP32"}]}, "datatype 'FP32', expected UINT8"),
        ({"inputs": [{**GOOD, "shape": [1, 5, 6]}]}, "has shape [1, 5, 6], expected [n, 6, 5]"),
        ({"inputs": [{**GOOD, "shape": []}]}, "has shape []"),
        ({"inputs": [{**GOOD, "shape": [0, *SHAPE], "data": []}]}, "n from 1"),
        ({"inputs": [{**GOOD, "shape": [-1, *SHAPE]}]}, ">= 0"),
        ({"inputs": [{**GOOD, "shape": [2**31, *SHAPE]}]}, "n from 1"),
        ({"inputs": [{**GOOD, "data": [0] * 29}]}, "29 values"),
        ({"inputs": [{**GOOD, "data": [ROW, ROW]}]}, "data has shape [2, 6, 5]"),
        ({"inputs": [{**GOOD, "data": [300] * 30}]}, "<= 255"),
        ({"inputs": [{key: value for key, value in GOOD.items() if key != "data"}]}, "needs data"),
        ({"inputs": [{**GOOD, "parameters": {"binary_data_size": 30}}]}, "one of the two"),
        ({"inputs": [{**GOOD, "parameters": {"deep": {}}}]}, "Expected"),
        ({"inputs": [GOOD], "outputs": [{"name": "xx"}]}, "unexpected inference output 'xx'"),
        ({"inputs": [GOOD], "outputs": [{"name": "label"}, {"name": "label"}]}, "twice"),
        ({"inputs": [GOOD], "outputs": [{"name": "label", "parameters": {"classification": 3}}]}, "one value a row"),
        (
            {"inputs": [GOOD], "outputs": [{"name": "logits", "parameters": {"classification": -1}}]},
            "number of classes",
        ),
        ({"inputs": [GOOD], "outputs": [{"name": "label", "parameters": {"binary_data": 1}}]}, "true or false"),
        (b'{"id": "a", "id": "b", "inputs": [%s]}' % json.dumps(GOOD).encode(), "'id' stands twice"),
        (b"[]", "Expected `object`"),
        (b'{"inputs": \xff}', "not JSON"),
    ],
)
def test_bad_infer(server, body, text):
    status, error = server.error("POST", INFER, body)
    assert status == 400
    assert text in error


@pytest.mark.parametrize("length", ["0", "-1", "x", "99999", "9" * 400, "10"])
def test_lying_header_length(server, length):
    head = json.dumps({"inputs": [{**{k: GOOD[k] for k in ("name", "shape", "datatype")}}]}).encode()
    assert server.error("POST", INFER, head + bytes(30), {"Inference-Header-Content-Length": length})[0] == 400


@pytest.mark.parametrize(
    ("size", "follow"), [(30, 29), (29, 29), (30, 31), (-1, 30), (True, 30), (2**70, 30), ("30", 30)]
)
def test_lying_binary_sizes(server, size, follow):
    item = {**{k: GOOD[k] for k in ("name", "shape", "datatype")}, "parameters": {"binary_data_size": size}}
    head = json.dumps({"inputs": [item]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert server.error("POST", INFER, head + bytes(follow), headers)[0] == 400
    item["parameters"]["binary_data_size"] = 30
    head = json.dumps({"inputs": [item]}).encode()
    server.post(INFER, head + bytes(30), {"Inference-Header-Content-Length": str(len(head))})


def test_floats_beyond_float32_are_refused(server):
    for body in (
        b'{"instances": [[1e39, 0, 0, 0]]}',
        b'{"instances": [[1e400, 0, 0, 0]]}',
        b'{"inputs": [[3e38, 3e38, 0, 0]]}',
    ):
        assert server.error("POST", "/v1/models/table:predict", body)[0] == 400
    item = {"name": "features", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [item]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    for value in (np.nan, np.inf):
        assert (
            server.error("POST", "/v2/models/table/infer", head + np.full(4, value, "<f4").tobytes(), headers)[0] == 400
        )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/nothing", 404),
        ("GET", f"{TINY}/versions/7", 404),
        ("GET", f"{TINY}/versions/{'9' * 19}", 404),
        ("GET", f"{TINY}/versions/x", 404),
        ("GET", f"{TINY}/labels/stable", 400),
        ("GET", f"{TINY}/metadata/x", 404),
        ("POST", f"{TINY}:regress", 404),
        ("POST", "/v1/models/nothing:predict", 404),
        ("POST", f"{TINY}/versions/7:predict", 404),
        ("POST", "/v2/models/nothing/infer", 404),
        ("GET", "/v2/models/nothing/ready", 404),
        ("GET", "/v2/models/%2e%2e%2f%2e%2e%2fetc/ready", 404),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/page.css/../../../../etc/passwd", 404),
        ("GET", "/%00", 404),
    ],
)
def test_what_is_not_there(server, method, path, status):
    assert server.error(method, path, b"{}" if method == "POST" else None)[0] == status


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", f"{TINY}:predict", "POST"),
        ("DELETE", TINY, "GET, HEAD"),
        ("PUT", INFER, "POST"),
        ("POST", "/v2/health/live", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
    ],
)
def test_wrong_method(server, method, path, allow):
    status, headers, _ = server.request(method, path)
    assert (status, headers["allow"]) == (405, allow)
    assert server.error(method, path)[0] == 405
