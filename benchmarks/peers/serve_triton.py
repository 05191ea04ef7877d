"""Triton, from the package nvidia-pytriton, with the same ONNX file in its Python backend.

The package has no backend for ONNX. Of the export's own ``config.pbtxt`` the backend alone is another.
"""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

MODEL = '''
import numpy as np
import onnxruntime
import triton_python_backend_utils as triton

NAMES = ["logits", "probabilities", "class_id", "label"]


class TritonPythonModel:
    """All outputs, of all requests of a batch at once."""

    def initialize(self, args):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(ONNX, options, providers=["CPUExecutionProvider"])

    def execute(self, requests):
        """One answer a request."""
        rows = [triton.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        found = self.session.run(NAMES, {"image": np.concatenate(rows)})
        cuts = np.cumsum([len(part) for part in rows])[:-1]
        parts = zip(*(np.split(values, cuts) for values in found))
        return [triton.InferenceResponse([triton.Tensor(*pair) for pair in zip(NAMES, part)]) for part in parts]
'''

case = json.loads(sys.argv[1])
package = Path(importlib.util.find_spec("pytriton").submodule_search_locations[0])
server = package / "tritonserver"
folder = Path(case["folder"], "triton")
shutil.rmtree(folder, ignore_errors=True)
backend = shutil.copytree(server / "backends" / "python", folder / "backends" / "python")
version = f"{sys.version_info.major}.{sys.version_info.minor}"
shutil.copy(server / "python_backend_stubs" / version / "triton_python_backend_stub", backend)
export = Path(case["export"])
model = folder / "models" / export.name
shutil.copytree(export / "1" / "assets", model / "1" / "assets")
(model / "1" / "model.py").write_text(f"ONNX = {case['onnx']!r}\n{MODEL}")
config = (export / "config.pbtxt").read_text()
(model / "config.pbtxt").write_text(config.replace('backend: "onnxruntime"', 'backend: "python"'))
libraries = [str(package.parent / "nvidia_pytriton.libs"), os.environ.get("LD_LIBRARY_PATH", "")]
environment = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # the Python of the model
    "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
}
options = {
    "model-repository": folder / "models",
    "backend-directory": folder / "backends",
    "http-address": "127.0.0.1",
    "http-port": case["port"],
    "grpc-address": "127.0.0.1",
    "grpc-port": case["grpc_port"],
    "allow-metrics": "false",
    "log-info": "false",
}
program = str(server / "bin" / "tritonserver")
os.execve(program, [program, *(f"--{name}={value}" for name, value in options.items())], environment)
