"""Messages of gRPC clients, in the stubs of tritonclient and of tensorflow-serving-api."""

import grpc
import numpy as np
import pytest
from serve import SPEC
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import predict_pb2
from tritonclient.grpc import service_pb2

from tfsoftmax.serving import protos
from tfsoftmax.spec import Column, ModelSpec

V2, PREDICTION, MODEL, HEALTH = (f"/{name}/" for name in protos.SERVICES)
CODE = grpc.StatusCode
ROWS = np.random.default_rng(5).integers(0, 256, (300, *SPEC.shape)).astype(np.uint8)
COLUMNS = (
    Column("age", "number", "float32", offset=40, scale=0.1, fill=41.0, gaps=True),
    Column("job", "category", "string", values=("clerk", "cook", "größe"), gaps=True),
    Column("shop", "category", "int64", values=("3", "200")),
)
TABLE = ModelSpec("t", (3,), "float32", ("a", "b"), "standardize", 0, 1, COLUMNS, "impute")
PEOPLE = {"age": [39.1, 50.0], "job": ["größe", "pilot"], "shop": [200, 3]}


def refused(call, *arguments, **options):
    """Code and text of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        call(*arguments, **options)
    return caught.value.code(), caught.value.details()


def tensor(module, rows=ROWS[:2], name="image"):
    kind = {"uint8": "UINT8", "float32": "FP32", "int64": "INT64", "object": "BYTES"}[rows.dtype.name]
    made = module.InferInput(name, rows.shape, kind)
    made.set_data_from_numpy(rows)
    return made


def infer(rows=ROWS[:2], **changed):
    """The message of a request with raw tensors."""
    item = service_pb2.ModelInferRequest.InferInputTensor(name="image", datatype="UINT8", shape=rows.shape)
    message = service_pb2.ModelInferRequest(model_name="m", inputs=[item], raw_input_contents=[rows.tobytes()])
    for name, value in changed.items():
        if isinstance(value, list):
            message.ClearField(name)
            getattr(message, name).extend(value)
        else:
            setattr(message, name, value)
    return message


def picture(rows=ROWS[:2], **fields):
    made = tensor_pb2.TensorProto(dtype=types_pb2.DT_UINT8, **fields)
    for size in rows.shape:
        made.tensor_shape.dim.add(size=size)
    if not fields:
        made.tensor_content = rows.tobytes()
    return made


def request(tensor=None, **spec):
    message = predict_pb2.PredictRequest(inputs={"image": tensor or picture()})
    message.model_spec.name = spec.pop("name", "m")
    for name, value in spec.items():
        if name == "version":
            message.model_spec.version.value = value
        else:
            setattr(message.model_spec, name, value)
    return message
