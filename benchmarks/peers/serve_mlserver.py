"""MLServer with the same ONNX file, no worker pool."""

import asyncio
import json
import os
import socket
import sys
import tempfile

case = json.loads(sys.argv[1])
if "onnx" in case:
    os.environ["ONNX_FILE"] = case["onnx"]

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
from mlserver import MLModel, MLServer, ModelSettings, Settings  # noqa: E402
from mlserver.codecs import NumpyCodec  # noqa: E402
from mlserver.types import InferenceResponse  # noqa: E402


class Softmax(MLModel):
    """One tensor in, one out."""

    async def load(self):
        """Open the file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            os.environ["ONNX_FILE"], options, providers=["CPUExecutionProvider"]
        )
        return True

    async def predict(self, payload):
        """Rows in, probabilities out."""
        rows = NumpyCodec.decode_input(payload.inputs[0]).astype(np.uint8)
        (probabilities,) = self.session.run(["probabilities"], {"image": rows})
        output = NumpyCodec.encode_output("probabilities", probabilities)
        return InferenceResponse(model_name=self.name, outputs=[output])


def free():
    """A port nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


async def main():
    """Serve until the end."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp()
    settings = Settings(
        host="127.0.0.1",
        http_port=case["port"],
        grpc_port=free(),
        metrics_port=free(),
        parallel_workers=0,
        debug=False,
        metrics_dir=os.environ["PROMETHEUS_MULTIPROC_DIR"],
    )
    server = MLServer(settings)
    await server.start([ModelSettings(name="fashion_mnist", implementation=Softmax)])


asyncio.run(main())
