"""A server process to talk to, and versions of a model written without TensorFlow, in milliseconds."""

import asyncio
import dataclasses
import http.client
import io
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tfsoftmax.exporting import manifest
from tfsoftmax.exporting.reference import Reference, hard_rows
from tfsoftmax.spec import ModelSpec

# a small model of pictures, called `m` where it is served
SPEC = ModelSpec("tiny", (6, 5), "uint8", ("round", "square", "flat"), "unit", 0.0, 1 / 255)
ROW = np.zeros(SPEC.shape, int).tolist()
BODY = {"instances": [ROW]}
INFER = {"inputs": [{"name": "image", "shape": [1, *SPEC.shape], "datatype": "UINT8", "data": [0] * 30}]}

# importing TensorFlow in the server would be an error, and OpenTelemetry where no traces are wanted
PROGRAM = """
import sys
sys.modules["tensorflow"] = sys.modules["keras"] = None
if "--traces" not in sys.argv:
    sys.modules["opentelemetry"] = None
from tfsoftmax import cli
cli.main()
"""


class Server:
    """`tfsoftmax serve …` in a process of its own, on a free port."""

    def __init__(self, *arguments, wrapper=()):
        command = [*wrapper, sys.executable, "-c", PROGRAM, "serve", *map(str, arguments), "--port", "0"]
        self.begin = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines, self.output = [], []
        self.listening = threading.Event()
        streams = ((self.process.stderr, self.lines), (self.process.stdout, self.output))
        self.readers = [threading.Thread(target=self._read, args=pair, daemon=True) for pair in streams]
        for reader in self.readers:
            reader.start()
        if not self.listening.wait(60):
            self.process.kill()
            raise RuntimeError("the server did not start:\n" + "\n".join(self.lines))
        self.url = next(line for line in self.lines if line.startswith("serving on ")).split()[-1]
        self.host, _, port = self.url.removeprefix("http://").rpartition(":")
        self.port = int(port)
        self.address = f"{self.host}:{self.port}"

    def _read(self, stream, kept):
        with stream:
            for line in stream:
                kept.append(line.rstrip("\n"))
                if line.startswith("serving on "):
                    self.listening.set()
        self.listening.set()

    @property
    def grpc(self):
        """The address of gRPC, once the server answers there."""
        said = "answering gRPC on "
        until(lambda: any(said in line for line in self.lines))
        return next(line for line in self.lines if said in line).rpartition(" ")[2]

    def connect(self, timeout=60):
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout)

    def request(self, method, path, body=None, headers=None):
        """(status, headers, body) of one request on a connection of its own; a dict or list goes as JSON."""
        if isinstance(body, dict | list):
            body = json.dumps(body).encode()
        connection = self.connect()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path, headers=None):
        """The JSON of a GET that must succeed."""
        status, _, body = self.request("GET", path, headers=headers)
        assert status == 200, (status, body)
        return json.loads(body)

    def post(self, path, body, headers=None):
        """The JSON of a POST that must succeed."""
        status, _, answer = self.request("POST", path, body, headers)
        assert status == 200, (status, answer)
        return json.loads(answer)

    def error(self, method, path, body=None, headers=None):
        """(status, text) of a request that must be refused in the one form of errors."""
        status, found, answer = self.request(method, path, body, headers)
        assert 400 <= status < 600, (status, answer)
        assert found["content-type"] == "application/json"
        error = json.loads(answer)
        assert list(error) == ["error"]
        return status, error["error"]

    def memory(self):
        """Resident memory in MB."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def stop(self, timeout=60):
        """SIGTERM; gives the exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(timeout)
        for reader in self.readers:
            reader.join(timeout)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.stop()
        finally:
            self.process.kill()
            self.process.wait()


def png(array):
    """A picture as the content of a file."""
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def until(condition, seconds=60):
    """Wait for ``condition()``; how long it took."""
    begin = time.perf_counter()
    while not condition():
        assert time.perf_counter() - begin < seconds, "it did not happen in time"
        time.sleep(0.02)
    return time.perf_counter() - begin


def weights(seed):
    """Kernel and bias for SPEC."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(30, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)


def version(server):
    """The version of `m` that answers."""
    return server.post("/v2/models/m/infer", INFER)["model_version"]


def write_version(export, number, spec, kernel, bias, break_it=lambda folder: None):
    """A version folder with this model, made from ONNX's own helpers, beside and renamed; its reference answers."""
    aside = export / f".aside-{number}"
    aside.mkdir(parents=True)
    onnx.save(_graph(spec, kernel, bias), aside / "model.onnx")
    raw = hard_rows(spec)
    x = (raw.reshape(len(raw), -1).astype(np.float64) - np.array(spec.offset)) * np.array(spec.scale)
    logits = (x @ kernel + bias).astype(np.float32)
    Reference(raw, np.full(len(raw), -1), logits, kernel, bias).write(aside)
    manifest.write(aside, {"spec": dataclasses.asdict(spec), "metrics": None, "tools": {}, "parity": []})
    break_it(aside)
    return aside.rename(export / str(number))


def _graph(spec, kernel, bias):
    arrays = {
        "kernel": kernel,
        "bias": bias,
        "offset": np.ravel(np.float32(spec.offset)),
        "scale": np.ravel(np.float32(spec.scale)),
        "flat": np.array([-1, len(kernel)]),
        "names": np.array(spec.classes, object),
    }
    nodes = [
        helper.make_node("Cast", [spec.input_name], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["cast", "flat"], ["x"]),
        helper.make_node("Sub", ["x", "offset"], ["shifted"]),
        helper.make_node("Mul", ["shifted", "scale"], ["scaled"]),
        helper.make_node("Gemm", ["scaled", "kernel", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["class_id"], axis=1, keepdims=0),
        helper.make_node("Gather", ["names", "class_id"], ["label"]),
    ]
    kind = TensorProto.UINT8 if spec.dtype == "uint8" else TensorProto.FLOAT
    given = helper.make_tensor_value_info(spec.input_name, kind, ["n", *spec.shape])
    answers = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(spec.classes)]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", len(spec.classes)]),
        helper.make_tensor_value_info("class_id", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("label", TensorProto.STRING, ["n"]),
    ]
    kept = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "softmax", [given], answers, kept)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ask(app, method, path, headers=None, body=b""):
    """(status, headers, body) of an ASGI app that is called here, without a server; header names in small letters."""
    sent, given = [], [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        return given.pop() if given else {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    path, _, query = path.partition("?")
    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": pairs}
    asyncio.run(app({**scope, "http_version": "1.1", "scheme": "http", "root_path": ""}, receive, send))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:])
