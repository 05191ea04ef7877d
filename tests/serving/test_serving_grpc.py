"""gRPC: what clients and stubs of others get, held against HTTP's answers and the public protos."""

import base64

import numpy as np
import ovmsclient
import pytest
import serve
import tritonclient.grpc as triton
import tritonclient.http
from calls import CODE, PEOPLE, ROWS, V2, infer, picture, refused, request, tensor
from google.protobuf import descriptor_pool, json_format
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serve import SPEC
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tfsoftmax.serving import protos


@pytest.fixture(scope="module")
def server(grpc_server):
    return grpc_server


@pytest.fixture(scope="module")
def client(server):
    with triton.InferenceServerClient(server.grpc) as made:
        yield made


@pytest.fixture(scope="module")
def stubs(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel), model_service_pb2_grpc.ModelServiceStub(channel)


# ---- protos


def test_the_protos_are_the_public_ones_field_by_field():
    public, compared = descriptor_pool.Default(), 0
    assert {prediction_service_pb2.DESCRIPTOR.pool, model_service_pb2.DESCRIPTOR.pool} == {public}

    def shape(field):
        kind = field.message_type or field.enum_type
        oneof = field.containing_oneof and field.containing_oneof.name
        return field.number, field.type, field.is_repeated, kind and kind.full_name, oneof

    def compare(ours):
        nonlocal compared
        theirs = public.FindMessageTypeByName(ours.full_name)
        for field in ours.fields:
            assert shape(field) == shape(theirs.fields_by_name[field.name]), (ours.full_name, field.name)
            compared += 1
        for enum in ours.enum_types:
            same_values(enum, theirs.enum_types_by_name[enum.name])
        for nested in ours.nested_types:
            compare(nested)

    def same_values(ours, theirs):
        for value in ours.values:
            assert value.number == theirs.values_by_name[value.name].number

    for package in set(protos.FILES) - {"tfsoftmax"}:
        file = protos.POOL.FindFileByName(f"tfsoftmax/{package}.proto")
        for message in file.message_types_by_name.values():
            compare(message)
        for enum in file.enum_types_by_name.values():
            same_values(enum, public.FindEnumTypeByName(enum.full_name))
    assert compared > 150
    for name in protos.SERVICES:
        theirs = public.FindServiceByName(name)
        for method in protos.POOL.FindServiceByName(name).methods:
            other = theirs.methods_by_name[method.name]
            for attribute in ("input_type", "output_type"):
                assert getattr(method, attribute).full_name == getattr(other, attribute).full_name
            assert method.server_streaming == other.server_streaming


# ---- the Open Inference Protocol


@pytest.mark.parametrize("count", [1, 7, 300, 2000])
def test_tritonclient_answers_are_those_of_http_bit_for_bit(server, client, count):
    """2,000 rows are computed in the helper process."""
    rows = np.resize(ROWS, (count, *SPEC.shape))
    with tritonclient.http.InferenceServerClient(server.address) as other:
        wanted = other.infer("m", [tensor(tritonclient.http, rows)])
    found = client.infer("m", [tensor(triton, rows)], request_id="42")
    answer = found.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("m", "4", "42")
    assert [output.name for output in answer.outputs] == ["logits", "probabilities", "class_id", "label"]
    for output in answer.outputs:
        values = found.as_numpy(output.name)
        assert values.shape == tuple(output.shape)
        assert values.tobytes() == wanted.as_numpy(output.name).tobytes() or output.name == "label"
    assert found.as_numpy("label").tolist() == wanted.as_numpy("label").tolist()


def test_tritonclient_asks_for_outputs_and_classes(server, client):
    asked = [triton.InferRequestedOutput("class_id"), triton.InferRequestedOutput("probabilities", class_count=2)]
    found = client.infer("m", [tensor(triton)], model_version="4", outputs=asked)
    with tritonclient.http.InferenceServerClient(server.address) as other:
        output = tritonclient.http.InferRequestedOutput("probabilities", class_count=2)
        wanted = other.infer("m", [tensor(tritonclient.http)], outputs=[output])
    assert found.as_numpy("probabilities").tolist() == wanted.as_numpy("probabilities").tolist()
    assert found.as_numpy("class_id").shape == (2,)
    assert found.as_numpy("logits") is None


def test_typed_contents_are_answered_in_typed_contents(channel):
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
    raw = stub.ModelInfer(infer())
    item = infer().inputs[0]
    item.contents.uint_contents.extend(ROWS[:2].ravel().tolist())
    typed = stub.ModelInfer(infer(inputs=[item], raw_input_contents=[]))
    assert not typed.raw_output_contents
    logits, _, class_id, label = (output.contents for output in typed.outputs)
    assert np.float32(logits.fp32_contents).tobytes() == raw.raw_output_contents[0]
    assert np.int64(class_id.int64_contents).tobytes() == raw.raw_output_contents[2]
    assert (
        b"".join(len(text).to_bytes(4, "little") + text for text in label.bytes_contents) == raw.raw_output_contents[3]
    )
    item.contents.uint_contents[3] = 256
    code, text = refused(stub.ModelInfer, infer(inputs=[item], raw_input_contents=[]))
    assert (code, text) == (CODE.INVALID_ARGUMENT, "'image' must hold whole numbers from 0 to 255")


def test_health_and_metadata(server, client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("m")
    assert not client.is_model_ready("m", "9")
    assert not client.is_model_ready("unknown")
    about = client.get_server_metadata(as_json=True)
    assert about["name"] == "tfsoftmax"
    assert set(about["extensions"]) < set(server.get("/v2")["extensions"])
    for name in ("m", "people"):
        found = client.get_model_metadata(name, as_json=True)
        for item in (*found["inputs"], *found["outputs"]):
            item["shape"] = [int(n) for n in item["shape"]]
        assert found == server.get(f"/v2/models/{name}")
    assert client.get_model_repository_index(as_json=True)["models"] == [
        {key: value for key, value in entry.items() if value} for entry in server.post("/v2/repository/index", {})
    ]


def test_statistics_count_both_protocols(server, client):
    def count():
        (found,) = client.get_inference_statistics("m", as_json=True)["model_stats"]
        return int(found["inference_count"])

    before = count()
    client.infer("m", [tensor(triton)])
    server.post("/v1/models/m:predict", {"instances": ROWS[:3].tolist()})
    assert count() == before + 5
    assert len(client.get_inference_statistics(as_json=True)["model_stats"]) == 2


# ---- TensorFlow Serving


def predicted(server, body):
    return server.post("/v1/models/m:predict", body)["predictions"]


def test_ovmsclient(server):
    client = ovmsclient.make_grpc_client(server.grpc)
    found = client.predict({"image": ROWS[:5]}, "m", 4)
    wanted = predicted(server, {"instances": ROWS[:5].tolist()})
    for name in ("logits", "probabilities"):
        assert found[name].tobytes() == np.float32([row[name] for row in wanted]).tobytes()
    assert found["class_id"].tolist() == [row["class_id"] for row in wanted]
    assert [text.decode() for text in found["label"]] == [row["label"] for row in wanted]
    assert client.get_model_status("m")[4]["state"] == "AVAILABLE"
    assert client.get_model_metadata("m")["inputs"]["image"]["shape"] == [-1, 6, 5]
    with pytest.raises(ovmsclient.tfs_compat.base.errors.ModelNotFoundError):
        client.predict({"image": ROWS[:5]}, "unknown")


def test_predict(server, stubs):
    wanted = predicted(server, {"instances": ROWS[:2].tolist()})
    logits = np.float32([row["logits"] for row in wanted]).tobytes()
    values = ROWS[:2].ravel().tolist()
    for message in (
        request(),
        request(picture(int_val=values)),
        request(version=4, signature_name="serving_default"),
        request(version=0),
    ):
        answer = stubs[0].Predict(message)
        assert answer.outputs["logits"].tensor_content == logits
        assert (answer.model_spec.name, answer.model_spec.version.value) == ("m", 4)
        assert [text.decode() for text in answer.outputs["label"].string_val] == [row["label"] for row in wanted]
    message = request(picture(int_val=[7]))
    message.output_filter.append("probabilities")
    answer = stubs[0].Predict(message)
    (row,) = predicted(server, {"instances": np.full((1, 6, 5), 7).tolist()})
    assert list(answer.outputs) == ["probabilities"]
    assert answer.outputs["probabilities"].tensor_content == np.float32([row["probabilities"]] * 2).tobytes()


def test_classify(server, stubs):
    png = serve.png(ROWS[1])
    examples = [example_pb2.Example(), example_pb2.Example()]
    examples[0].features.feature["image"].int64_list.value.extend(ROWS[0].ravel().tolist())
    examples[1].features.feature["image"].bytes_list.value.append(png)
    body = {"examples": [{"image": ROWS[0].tolist()}, {"image": {"b64": base64.b64encode(png).decode()}}]}
    wanted = server.post("/v1/models/m:classify", body)["results"]
    message = classification_pb2.ClassificationRequest()
    message.model_spec.name = "m"
    message.input.example_list.examples.extend(examples)
    found = stubs[0].Classify(message)
    rows = [[(one.label, one.score) for one in row.classes] for row in found.result.classifications]
    assert rows == [[(label, np.float32(score)) for label, score in row] for row in wanted]
    assert found.model_spec.version.value == 4
    message.input.Clear()
    assert refused(stubs[0].Classify, message)[0] == CODE.INVALID_ARGUMENT


@pytest.mark.parametrize("name", ["m", "people"])
def test_metadata_and_status_are_those_of_http(server, stubs, name):
    asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    asked.model_spec.name = name
    answer = stubs[0].GetModelMetadata(asked)
    found = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(found)
    wanted = server.get(f"/v1/models/{name}/metadata")["metadata"]["signature_def"]
    assert found == json_format.ParseDict(wanted, get_model_metadata_pb2.SignatureDefMap())
    asked.metadata_field.append("more")
    assert refused(stubs[0].GetModelMetadata, asked)[0] == CODE.INVALID_ARGUMENT
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = name
    wanted = json_format.ParseDict(server.get(f"/v1/models/{name}"), get_model_status_pb2.GetModelStatusResponse())
    assert stubs[1].GetModelStatus(status) == wanted
    status.model_spec.version.value = 77
    assert refused(stubs[1].GetModelStatus, status)[0] == CODE.NOT_FOUND


# ---- tables


def test_a_table_by_names_in_any_order(server, client, stubs):
    wanted = server.post("/v1/models/people:predict", {"inputs": PEOPLE})["outputs"]
    dtypes = {"age": np.float32, "job": object, "shop": np.int64}
    logits = np.float32(wanted["logits"]).tobytes()
    for names in (list(PEOPLE), list(reversed(PEOPLE))):
        arrays = {name: np.array(PEOPLE[name], dtypes[name]) for name in names}
        inputs = [tensor(triton, array.reshape(2, 1), name) for name, array in arrays.items()]
        assert client.infer("people", inputs).as_numpy("logits").tobytes() == logits
        message = predict_pb2.PredictRequest()
        message.model_spec.name = "people"
        for name, array in arrays.items():
            column = message.inputs[name]
            column.tensor_shape.dim.add(size=2)
            if name == "job":
                column.dtype = types_pb2.DT_STRING
                column.string_val.extend([text.encode() for text in PEOPLE[name]])
            else:
                column.dtype = types_pb2.DT_FLOAT if name == "age" else types_pb2.DT_INT64
                column.tensor_content = array.tobytes()
        assert stubs[0].Predict(message).outputs["logits"].tensor_content == logits
    metrics = server.request("GET", "/metrics")[2].decode()
    assert 'tfsoftmax_unseen_values_total{column="job",model="people"} 5.0' in metrics


def test_a_table_in_typed_contents_and_in_examples(server, channel, stubs):
    wanted = server.post("/v1/models/people:predict", {"inputs": PEOPLE})["outputs"]
    message = service_pb2.ModelInferRequest(model_name="people")
    for name, datatype in (("shop", "INT64"), ("job", "BYTES"), ("age", "FP32")):
        item = message.inputs.add(name=name, datatype=datatype, shape=[2])
        field = {"INT64": "int64_contents", "BYTES": "bytes_contents", "FP32": "fp32_contents"}[datatype]
        values = [text.encode() for text in PEOPLE[name]] if name == "job" else PEOPLE[name]
        getattr(item.contents, field).extend(values)
    found = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message)
    assert found.outputs[0].contents.fp32_contents == np.float32(wanted["logits"]).ravel().tolist()
    classify = classification_pb2.ClassificationRequest()
    classify.model_spec.name = "people"
    listed = classify.input.example_list_with_context
    listed.context.features.feature["shop"].int64_list.value.append(200)
    example = listed.examples.add()
    example.features.feature["job"].bytes_list.value.append("größe".encode())
    example.features.feature["age"].float_list.value.append(39.1)
    row = stubs[0].Classify(classify).result.classifications[0]
    assert [one.score for one in row.classes] == np.float32(wanted["probabilities"][0]).tolist()


# ---- reflection and health


def test_reflection_is_enough_to_ask(channel):
    """As grpcurl does: no stub, no proto file."""
    database = ProtoReflectionDescriptorDatabase(channel)
    assert set(protos.SERVICES) < set(database.get_services())
    pool = descriptor_pool.DescriptorPool(database)
    method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelMetadata")
    from google.protobuf.message_factory import GetMessageClass

    asked = GetMessageClass(method.input_type)(name="m").SerializeToString()
    answer = GetMessageClass(method.output_type).FromString(channel.unary_unary(f"{V2}ModelMetadata")(asked))
    assert answer.versions == ["4"]
    assert pool.FindServiceByName("tensorflow.serving.PredictionService").FindMethodByName("Predict")


def test_grpc_health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", *protos.SERVICES):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name)).status == serving
    unknown = health_pb2.HealthCheckRequest(service="unknown")
    assert refused(stub.Check, unknown)[0] == CODE.NOT_FOUND
    assert next(stub.Watch(health_pb2.HealthCheckRequest())).status == serving
    assert next(stub.Watch(unknown)).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
