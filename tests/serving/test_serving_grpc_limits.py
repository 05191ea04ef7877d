"""gRPC: what is refused and how, keys, workers, the end."""

import json
import os
import threading

import grpc
import numpy as np
import pytest
import serve
import tritonclient.grpc as triton
from calls import CODE, HEALTH, MODEL, PREDICTION, V2, infer, picture, refused, request, tensor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve import SPEC, weights
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tritonclient.grpc import service_pb2, service_pb2_grpc

MALFORMED = int(os.environ.get("FUZZ", "400"))  # FUZZ=10000 is the long run
KEY = "correct-horse-battery"


@pytest.fixture(scope="module")
def server(grpc_server):
    return grpc_server


# ---- errors


@pytest.mark.parametrize(
    ("changed", "code", "text"),
    [
        ({"model_name": "x"}, CODE.NOT_FOUND, "Servable not found for request: Latest(x)"),
        ({"model_version": "7"}, CODE.NOT_FOUND, "Servable not found for request: Specific(m, 7)"),
        ({"model_version": "one"}, CODE.NOT_FOUND, "Servable not found for request: Specific(m, one)"),
        ({"inputs": [], "raw_input_contents": []}, CODE.INVALID_ARGUMENT, "the request has no inputs"),
        ({"raw_input_contents": [b"", b""]}, CODE.INVALID_ARGUMENT, "raw_input_contents has 2 tensors for 1 inputs"),
        (
            {"raw_input_contents": [b"1234"]},
            CODE.INVALID_ARGUMENT,
            "input 'image' of shape [2, 6, 5] takes 60 bytes as UINT8, got 4",
        ),
    ],
)
def test_errors_of_inference(channel, changed, code, text):
    assert refused(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer, infer(**changed)) == (code, text)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "picture"},
        {"datatype": "FP64"},
        {"datatype": "FP32"},
        {"shape": [60]},
        {"shape": [-2, -6, 5]},
        {"shape": [1, 2, 6, 5]},
    ],
)
def test_wrong_inputs_have_the_texts_of_http(server, channel, change):
    item = service_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=[2, 6, 5])
    json_item = {"name": "image", "shape": [2, 6, 5], "datatype": "UINT8", "data": [0] * 60, **change}
    for name, value in change.items():
        if name == "shape":
            item.shape[:] = value
        else:
            setattr(item, name, value)
    size = 60 * {"FP64": 8, "FP32": 4}.get(item.datatype, 1)
    message = infer(inputs=[item], raw_input_contents=[bytes(size)])
    code, text = refused(service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer, message)
    assert code == CODE.INVALID_ARGUMENT
    if min(item.shape) > 0:  # JSON's decoder refuses others before
        assert (400, text) == server.error("POST", "/v2/models/m/infer", {"inputs": [json_item]})


def test_errors_of_tensorflow_serving(channel):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    predict = stub.Predict
    assert refused(predict, request(name="x")) == (CODE.NOT_FOUND, "Servable not found for request: Latest(x)")
    assert refused(predict, request(version=9))[0] == CODE.NOT_FOUND
    for message in (
        request(version_label="stable"),
        request(signature_name="classify"),
        request(tensor_pb2.TensorProto(dtype=types_pb2.DT_COMPLEX64)),
        request(tensor_pb2.TensorProto(dtype=types_pb2.DT_UINT8)),
        request(tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, tensor_content=b"1")),
        request(picture(int_val=[300])),
        request(picture(int_val=[1, 2])),
        predict_pb2.PredictRequest(model_spec=request().model_spec),
        predict_pb2.PredictRequest(model_spec=request().model_spec, inputs={"other": picture()}),
    ):
        code, text = refused(predict, message)
        assert code == CODE.INVALID_ARGUMENT, text
        assert "\n" not in text
    method = stub.GetModelMetadata
    assert refused(method, get_model_metadata_pb2.GetModelMetadataRequest())[0] == CODE.NOT_FOUND


def test_what_is_not_served_is_unimplemented(channel):
    assert refused(channel.unary_unary(f"{V2}ModelConfig"), b"")[0] == CODE.UNIMPLEMENTED
    assert refused(channel.unary_unary(f"{PREDICTION}Regress"), b"")[0] == CODE.UNIMPLEMENTED


def test_limits(server, channel):
    method = channel.unary_unary(f"{V2}ModelInfer")
    assert refused(method, bytes(2**20 + 1))[0] == CODE.RESOURCE_EXHAUSTED
    message = infer(np.zeros((2001, *SPEC.shape), np.uint8)).SerializeToString()
    code, text = refused(method, message)
    assert code == CODE.INVALID_ARGUMENT
    assert "from 1 to 2000" in text

    over = threading.Event()
    code, text = refused(channel.stream_unary(f"{V2}ModelInfer"), iter(lambda: over.wait(10), True))
    over.set()
    assert (code, text) == (CODE.DEADLINE_EXCEEDED, "no answer within 2 s")


BODIES = {
    f"{V2}ModelInfer": infer().SerializeToString(),
    f"{V2}ModelMetadata": service_pb2.ModelMetadataRequest(name="m").SerializeToString(),
    f"{V2}ModelStatistics": service_pb2.ModelStatisticsRequest(name="m").SerializeToString(),
    f"{V2}RepositoryIndex": service_pb2.RepositoryIndexRequest(ready=True).SerializeToString(),
    f"{PREDICTION}Predict": request().SerializeToString(),
    f"{PREDICTION}Classify": classification_pb2.ClassificationRequest(
        model_spec=request().model_spec
    ).SerializeToString(),
    f"{MODEL}GetModelStatus": get_model_status_pb2.GetModelStatusRequest(
        model_spec=request().model_spec
    ).SerializeToString(),
    f"{HEALTH}Check": b"",
}
ALLOWED = {CODE.OK, CODE.INVALID_ARGUMENT, CODE.NOT_FOUND}


@st.composite
def broken(draw):
    """A method and a message that is cut, changed, mixed with another or made up."""
    method, body = draw(st.sampled_from(list(BODIES))), draw(st.sampled_from(list(BODIES.values())))
    body = bytearray(body)
    for _ in range(draw(st.integers(0, 4))):
        if body:
            body[draw(st.integers(0, len(body) - 1))] = draw(st.integers(0, 255))
    body = body[: draw(st.integers(0, len(body)))] if draw(st.booleans()) else body
    return method, bytes(body) + draw(st.binary(max_size=20))


@given(broken())
@settings(max_examples=MALFORMED, deadline=None, suppress_health_check=list(HealthCheck))
def test_malformed_messages(channel, case):
    method, body = case
    call = channel.unary_unary(method).future(body)
    assert call.code() in ALLOWED, call.details()
    assert "\n" not in call.details()


def test_alive_after_all_that(channel):
    answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(infer())
    assert len(answer.raw_output_contents) == 4


# ---- operation


def test_a_key_is_required(export, tmp_path):
    (tmp_path / "keys").write_text(KEY)
    once = ("--api-key-file", tmp_path / "keys", "--rate", 0.001)
    with serve.Server(export, "--grpc-port", 0, *once, "--access-log") as server:
        with triton.InferenceServerClient(server.grpc) as client:
            assert client.is_server_live()
            for headers in (None, {"authorization": KEY}, {"authorization": "Bearer wrong"}):
                with pytest.raises(triton.InferenceServerException, match="requires a key") as caught:
                    client.infer("m", [tensor(triton)], headers=headers)
                assert caught.value.status() == "StatusCode.UNAUTHENTICATED"
            headers = {"authorization": f"Bearer {KEY}"}
            assert client.infer("m", [tensor(triton)], headers=headers).as_numpy("class_id").shape == (2,)
            with pytest.raises(triton.InferenceServerException, match=r"more than 0\.001 requests a second") as caught:
                client.infer("m", [tensor(triton)], headers=headers)
            assert caught.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
        with grpc.insecure_channel(server.grpc) as channel:
            with pytest.raises(grpc.RpcError) as caught:
                ProtoReflectionDescriptorDatabase(channel).get_services()
            assert caught.value.code() == CODE.UNAUTHENTICATED
            assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status == 1
        serve.until(lambda: any("ModelInfer" in line for line in server.output))
        entry = json.loads(next(line for line in server.output if "ModelInfer" in line))
        assert (entry["method"], entry["status"], entry["model"], entry["rows"]) == ("gRPC", 200, "m", 2)


def test_requests_under_way_are_counted_for_each_key(export, tmp_path):
    """Over both protocols together; a request that ends, however it does, makes room."""
    other = "another-key-of-somebody"
    (tmp_path / "keys").write_text(f"{KEY}\n{other}")
    body = json.dumps({"instances": [np.zeros(SPEC.shape, int).tolist()]}).encode()
    once = ("--api-key-file", tmp_path / "keys", "--concurrency", 1)
    with serve.Server(export, "--grpc-port", 0, *once) as server, grpc.insecure_channel(server.grpc) as channel:

        def infer_with(key, scheme="Bearer"):
            method = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            return method(infer(), metadata=[("authorization", f"{scheme} {key}")])

        def half():
            connection = server.connect()
            connection.putrequest("POST", "/v1/models/m:predict")
            connection.putheader("Authorization", f"Bearer {KEY}")
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body[:10])
            return connection

        def status(key):
            return server.request("GET", "/v1/models/m", headers={"Authorization": f"Bearer {key}"})

        begun = half()
        serve.until(lambda: status(KEY)[0] == 429)
        answer, headers, text = status(KEY)
        assert (answer, headers["retry-after"]) == (429, "1")
        assert json.loads(text) == {"error": "more than 1 requests under way with this key; try again"}
        for scheme in ("Bearer", "bearer"):
            with pytest.raises(grpc.RpcError) as caught:
                infer_with(KEY, scheme)
            assert caught.value.code() == CODE.RESOURCE_EXHAUSTED
            assert caught.value.details() == "more than 1 requests under way with this key; try again"
        assert infer_with(other).model_name == "m"
        assert status(other)[0] == server.request("GET", "/v2/health/ready")[0] == 200
        begun.send(body[10:])
        assert begun.getresponse().status == 200
        begun.close()
        assert infer_with(KEY).model_name == "m"
        half().close()  # a client that goes away
        serve.until(lambda: status(KEY)[0] == 200)
        page = server.request("GET", "/metrics", headers={"Authorization": f"Bearer {other}"})[2].decode()
        assert 'tfsoftmax_requests_total{code="429",model="",verb="ModelInfer"} 2.0' in page


@pytest.mark.parametrize("workers", [1, 2])
def test_no_call_is_lost_to_a_new_version(export, workers):
    found, failures, over = [], [], threading.Event()

    def ask():
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            method = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer
            while not over.is_set():
                try:
                    answer = method(infer(), wait_for_ready=not found)
                    found.append((answer.model_version, answer.raw_output_contents[0]))
                except grpc.RpcError as error:
                    failures.append(error)
                    return

    with serve.Server(export, "--grpc-port", 0, "--workers", workers) as server:
        address = server.grpc
        clients = [threading.Thread(target=ask) for _ in range(4)]
        for thread in clients:
            thread.start()
        serve.until(lambda: len(found) > 50)
        serve.write_version(export, 2, SPEC, *weights(2))
        serve.until(lambda: found[-1][0] == "2")
        over.set()
        for thread in clients:
            thread.join()
    assert failures == []
    assert len(set(found)) == 2, "every answer is of one whole version"


def test_calls_under_way_are_answered_before_the_end(export):
    with serve.Server(export, "--grpc-port", 0) as server, grpc.insecure_channel(server.grpc) as channel:
        begun = threading.Event()

        def message():
            begun.set()
            serve.until(lambda: stub.ended)
            yield infer().SerializeToString()

        health = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(health).status == health_pb2.HealthCheckResponse.SERVING
        stub = channel.stream_unary(f"{V2}ModelInfer")
        stub.ended = False
        call = stub.future(message())
        begun.wait(10)
        server.get("/v2/health/live")  # the call has arrived before the answer
        server.process.terminate()
        assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert list(health) == []
        stub.ended = True
        answer = service_pb2.ModelInferResponse.FromString(call.result(10))
        assert len(answer.raw_output_contents) == 4
        assert server.process.wait(10) == 0
        assert refused(channel.unary_unary(f"{V2}ModelInfer"), infer().SerializeToString())[0] == CODE.UNAVAILABLE


def test_a_port_in_use(export, tfsoftmax_cli):
    with serve.Server(export, "--grpc-port", 0) as server:
        port = server.grpc.rpartition(":")[2]
        status, _, text = tfsoftmax_cli("serve", export, "--port", 0, "--grpc-port", port)
        assert status == 2
        assert f"cannot listen on 127.0.0.1:{port}" in text
        assert text.rstrip().endswith("choose another with --grpc-port")
