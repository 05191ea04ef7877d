"""The public protos that gRPC clients use, as far as this server answers them; kept here because TensorFlow stays out.

Names and field numbers are those of triton-inference-server/common (``grpc_service.proto``), tensorflow/serving
(``apis/*.proto``), tensorflow (``core/framework``, ``core/example``) and grpc (``health/v1/health.proto``). The pool is
our own: a process that also imports the originals keeps both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, wrappers_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from tfsoftmax.errors import InputError

_TENSORFLOW = """
enum DataType {
  DT_INVALID = 0; DT_FLOAT = 1; DT_DOUBLE = 2; DT_INT32 = 3; DT_UINT8 = 4; DT_INT16 = 5; DT_INT8 = 6; DT_STRING = 7;
  DT_INT64 = 9; DT_BOOL = 10; DT_UINT16 = 17; DT_HALF = 19; DT_UINT32 = 22; DT_UINT64 = 23;
}
message TensorShapeProto {
  message Dim { int64 size = 1; string name = 2; }
  repeated Dim dim = 2; bool unknown_rank = 3;
}
message TensorProto {
  DataType dtype = 1; TensorShapeProto tensor_shape = 2; int32 version_number = 3; bytes tensor_content = 4;
  repeated int32 half_val = 13; repeated float float_val = 5; repeated double double_val = 6;
  repeated int32 int_val = 7; repeated bytes string_val = 8; repeated int64 int64_val = 10; repeated bool bool_val = 11;
  repeated uint32 uint32_val = 16; repeated uint64 uint64_val = 17;
}
message TensorInfo { oneof encoding { string name = 1; } DataType dtype = 2; TensorShapeProto tensor_shape = 3; }
message SignatureDef {
  map<string, TensorInfo> inputs = 1; map<string, TensorInfo> outputs = 2; string method_name = 3;
  map<string, TensorProto> defaults = 4;
}
message BytesList { repeated bytes value = 1; }
message FloatList { repeated float value = 1; }
message Int64List { repeated int64 value = 1; }
message Feature { oneof kind { BytesList bytes_list = 1; FloatList float_list = 2; Int64List int64_list = 3; } }
message Features { map<string, Feature> feature = 1; }
message Example { Features features = 1; }
"""

_ERROR = """
enum Code {
  OK = 0; CANCELLED = 1; UNKNOWN = 2; INVALID_ARGUMENT = 3; DEADLINE_EXCEEDED = 4; NOT_FOUND = 5; ALREADY_EXISTS = 6;
  PERMISSION_DENIED = 7; UNAUTHENTICATED = 16; RESOURCE_EXHAUSTED = 8; FAILED_PRECONDITION = 9; ABORTED = 10;
  OUT_OF_RANGE = 11; UNIMPLEMENTED = 12; INTERNAL = 13; UNAVAILABLE = 14; DATA_LOSS = 15;
}
"""

_SERVING = """
message ModelSpec {
  string name = 1; oneof version_choice { google.protobuf.Int64Value version = 2; string version_label = 4; }
  string signature_name = 3;
}
message PredictRequest {
  ModelSpec model_spec = 1; map<string, TensorProto> inputs = 2; repeated string output_filter = 3;
}
message PredictResponse { ModelSpec model_spec = 2; map<string, TensorProto> outputs = 1; }
message ExampleList { repeated Example examples = 1; }
message ExampleListWithContext { repeated Example examples = 1; Example context = 2; }
message Input {
  oneof kind { ExampleList example_list = 1; ExampleListWithContext example_list_with_context = 2; }
}
message Class { string label = 1; float score = 2; }
message Classifications { repeated Class classes = 1; }
message ClassificationResult { repeated Classifications classifications = 1; }
message ClassificationRequest { ModelSpec model_spec = 1; Input input = 2; }
message ClassificationResponse { ModelSpec model_spec = 2; ClassificationResult result = 1; }
message SignatureDefMap { map<string, SignatureDef> signature_def = 1; }
message GetModelMetadataRequest { ModelSpec model_spec = 1; repeated string metadata_field = 2; }
message GetModelMetadataResponse { ModelSpec model_spec = 1; map<string, google.protobuf.Any> metadata = 2; }
message StatusProto { tensorflow.error.Code error_code = 1; string error_message = 2; }
message ModelVersionStatus {
  enum State { UNKNOWN = 0; START = 10; LOADING = 20; AVAILABLE = 30; UNLOADING = 40; END = 50; }
  int64 version = 1; State state = 2; StatusProto status = 3;
}
message GetModelStatusRequest { ModelSpec model_spec = 1; }
message GetModelStatusResponse { repeated ModelVersionStatus model_version_status = 1; }
service PredictionService {
  rpc Classify(ClassificationRequest) returns (ClassificationResponse);
  rpc Predict(PredictRequest) returns (PredictResponse);
  rpc GetModelMetadata(GetModelMetadataRequest) returns (GetModelMetadataResponse);
}
service ModelService { rpc GetModelStatus(GetModelStatusRequest) returns (GetModelStatusResponse); }
"""

_INFERENCE = """
message ServerLiveRequest {}
message ServerLiveResponse { bool live = 1; }
message ServerReadyRequest {}
message ServerReadyResponse { bool ready = 1; }
message ModelReadyRequest { string name = 1; string version = 2; }
message ModelReadyResponse { bool ready = 1; }
message ServerMetadataRequest {}
message ServerMetadataResponse { string name = 1; string version = 2; repeated string extensions = 3; }
message ModelMetadataRequest { string name = 1; string version = 2; }
message ModelMetadataResponse {
  message TensorMetadata { string name = 1; string datatype = 2; repeated int64 shape = 3; }
  string name = 1; repeated string versions = 2; string platform = 3;
  repeated TensorMetadata inputs = 4; repeated TensorMetadata outputs = 5;
}
message InferParameter {
  oneof parameter_choice {
    bool bool_param = 1; int64 int64_param = 2; string string_param = 3; double double_param = 4;
    uint64 uint64_param = 5;
  }
}
message InferTensorContents {
  repeated bool bool_contents = 1; repeated int32 int_contents = 2; repeated int64 int64_contents = 3;
  repeated uint32 uint_contents = 4; repeated uint64 uint64_contents = 5; repeated float fp32_contents = 6;
  repeated double fp64_contents = 7; repeated bytes bytes_contents = 8;
}
message ModelInferRequest {
  message InferInputTensor {
    string name = 1; string datatype = 2; repeated int64 shape = 3; map<string, InferParameter> parameters = 4;
    InferTensorContents contents = 5;
  }
  message InferRequestedOutputTensor { string name = 1; map<string, InferParameter> parameters = 2; }
  string model_name = 1; string model_version = 2; string id = 3; map<string, InferParameter> parameters = 4;
  repeated InferInputTensor inputs = 5; repeated InferRequestedOutputTensor outputs = 6;
  repeated bytes raw_input_contents = 7;
}
message ModelInferResponse {
  message InferOutputTensor {
    string name = 1; string datatype = 2; repeated int64 shape = 3; map<string, InferParameter> parameters = 4;
    InferTensorContents contents = 5;
  }
  string model_name = 1; string model_version = 2; string id = 3; map<string, InferParameter> parameters = 4;
  repeated InferOutputTensor outputs = 5; repeated bytes raw_output_contents = 6;
}
message ModelStatisticsRequest { string name = 1; string version = 2; }
message StatisticDuration { uint64 count = 1; uint64 ns = 2; }
message InferStatistics {
  StatisticDuration success = 1; StatisticDuration fail = 2; StatisticDuration queue = 3;
  StatisticDuration compute_input = 4; StatisticDuration compute_infer = 5; StatisticDuration compute_output = 6;
  StatisticDuration cache_hit = 7; StatisticDuration cache_miss = 8;
}
message ModelStatistics {
  string name = 1; string version = 2; uint64 last_inference = 3; uint64 inference_count = 4;
  uint64 execution_count = 5; InferStatistics inference_stats = 6;
}
message ModelStatisticsResponse { repeated ModelStatistics model_stats = 1; }
message RepositoryIndexRequest { string repository_name = 1; bool ready = 2; }
message RepositoryIndexResponse {
  message ModelIndex { string name = 1; string version = 2; string state = 3; string reason = 4; }
  repeated ModelIndex models = 1;
}
service GRPCInferenceService {
  rpc ServerLive(ServerLiveRequest) returns (ServerLiveResponse);
  rpc ServerReady(ServerReadyRequest) returns (ServerReadyResponse);
  rpc ModelReady(ModelReadyRequest) returns (ModelReadyResponse);
  rpc ServerMetadata(ServerMetadataRequest) returns (ServerMetadataResponse);
  rpc ModelMetadata(ModelMetadataRequest) returns (ModelMetadataResponse);
  rpc ModelInfer(ModelInferRequest) returns (ModelInferResponse);
  rpc ModelStatistics(ModelStatisticsRequest) returns (ModelStatisticsResponse);
  rpc RepositoryIndex(RepositoryIndexRequest) returns (RepositoryIndexResponse);
}
"""

_HEALTH = """
message HealthCheckRequest { string service = 1; }
message HealthCheckResponse {
  enum ServingStatus { UNKNOWN = 0; SERVING = 1; NOT_SERVING = 2; SERVICE_UNKNOWN = 3; }
  ServingStatus status = 1;
}
service Health {
  rpc Check(HealthCheckRequest) returns (HealthCheckResponse);
  rpc Watch(HealthCheckRequest) returns (stream HealthCheckResponse);
}
"""

# the beginning of requests: enough to know the model, whatever else is in them
_HEADS = """
message InferHead { string model_name = 1; string model_version = 2; }
message SpecHead { tensorflow.serving.ModelSpec model_spec = 1; }
"""

# package -> its text, after those that it uses
FILES = {
    "tensorflow.error": _ERROR,
    "tensorflow": _TENSORFLOW,
    "tensorflow.serving": _SERVING,
    "inference": _INFERENCE,
    "grpc.health.v1": _HEALTH,
    "tfsoftmax": _HEADS,
}
SERVICES = (
    "inference.GRPCInferenceService",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "grpc.health.v1.Health",
)
_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: _Field.Type.Value(f"TYPE_{name.upper()}")
    for name in ("double", "float", "int64", "uint64", "int32", "uint32", "bool", "string", "bytes")
}


class _Reader:
    """Reads the part of proto3 that the texts above are written in."""

    def __init__(self, text: str):
        self.tokens: Iterator[str] = iter(re.findall(r"[\w.]+|[^\s\w]", text))

    def skip(self, count: int) -> str:
        """The last of the next ``count`` tokens; empty at the end."""
        for _ in range(count - 1):
            next(self.tokens)
        return next(self.tokens, "")

    def file(self, file: Any) -> None:
        """Everything, into a FileDescriptorProto."""
        while word := self.skip(1):
            if word == "message":
                self.message(file.message_type.add())
            elif word == "enum":
                self.enum(file.enum_type.add())
            else:
                self.service(file.service.add())

    def message(self, message: Any) -> None:
        """From the name to the closing brace."""
        message.name = self.skip(1)
        self.skip(1)
        oneof = None
        while (word := self.skip(1)) != "}" or oneof is not None:
            if word == "}":
                oneof = None
            elif word == "message":
                self.message(message.nested_type.add())
            elif word == "enum":
                self.enum(message.enum_type.add())
            elif word == "oneof":
                message.oneof_decl.add().name = self.skip(1)
                oneof = len(message.oneof_decl) - 1
                self.skip(1)
            else:
                self.field(message, word, oneof)

    def field(self, message: Any, word: str, oneof: int | None) -> None:
        """One field whose first word has been read."""
        field = message.field.add(label=_Field.LABEL_REPEATED if word in ("repeated", "map") else _Field.LABEL_OPTIONAL)
        kind = self.skip(1) if word == "repeated" else word
        entry = None
        if word == "map":
            entry = message.nested_type.add()
            entry.options.map_entry = True
            for number, (name, before) in enumerate((("key", 2), ("value", 2)), 1):
                _typed(entry.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL), self.skip(before))
            self.skip(1)
        field.name = self.skip(1)
        field.number = int(self.skip(2))
        self.skip(1)
        if entry is not None:
            kind = entry.name = "".join(part.capitalize() for part in field.name.split("_")) + "Entry"
        _typed(field, kind)
        if oneof is not None:
            field.oneof_index = oneof

    def enum(self, enum: Any) -> None:
        """From the name to the closing brace."""
        enum.name = self.skip(1)
        self.skip(1)
        while (name := self.skip(1)) != "}":
            enum.value.add(name=name, number=int(self.skip(2)))
            self.skip(1)

    def service(self, service: Any) -> None:
        """From the name to the closing brace."""
        service.name = self.skip(1)
        self.skip(1)
        while self.skip(1) == "rpc":
            method = service.method.add(name=self.skip(1), input_type=self.skip(2))
            word = self.skip(4)
            method.server_streaming = word == "stream"
            method.output_type = self.skip(1) if method.server_streaming else word
            self.skip(2)


def _typed(field: Any, kind: str) -> None:
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type_name = kind


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    known = [any_pb2.DESCRIPTOR, wrappers_pb2.DESCRIPTOR]
    for library in known:
        pool.AddSerializedFile(library.serialized_pb)
    names = [library.name for library in known]
    for package, text in FILES.items():
        file = descriptor_pb2.FileDescriptorProto(
            name=f"tfsoftmax/{package}.proto", package=package, syntax="proto3", dependency=names
        )
        _Reader(text).file(file)
        pool.AddSerializedFile(file.SerializeToString())
        names = [*names, file.name]
    return pool


POOL = _pool()


def message(name: str) -> Any:
    """The class of a message, by its full name."""
    return GetMessageClass(POOL.FindMessageTypeByName(name))


def parsed(kind: Any, body: bytes) -> Any:
    """A serialized message. Raises InputError."""
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise InputError(f"the message is no {kind.DESCRIPTOR.full_name}: {error}") from error
