"""The KServe SDK's ModelServer with the same ONNX file."""

import json
import logging
import sys

import kserve
import numpy as np
import onnxruntime
from kserve import InferOutput, InferResponse

case = json.loads(sys.argv[1])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(case["onnx"], options, providers=["CPUExecutionProvider"])


class Softmax(kserve.Model):
    """Both of its protocols."""

    def __init__(self):
        super().__init__("fashion_mnist")
        self.ready = True

    def predict(self, payload, headers=None, response_headers=None):
        """Version 1: a dict; version 2: an InferRequest."""
        if isinstance(payload, dict):
            rows = np.array(payload["instances"], np.uint8)
            return {"predictions": session.run(["probabilities"], {"image": rows})[0].tolist()}
        (probabilities,) = session.run(["probabilities"], {"image": payload.inputs[0].as_numpy()})
        output = InferOutput("probabilities", list(probabilities.shape), "FP32")
        output.set_data_from_numpy(probabilities, binary_data=True)
        return InferResponse(payload.id, self.name, [output])


logging.disable(logging.INFO)
kserve.ModelServer(http_port=case["port"], enable_grpc=False, workers=1, access_log_format=None).start([Softmax()])
