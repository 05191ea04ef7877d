"""The smallest possible Starlette handler: no check, no metrics, one output."""

import json
import sys

import msgspec
import numpy as np
import onnxruntime
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

case = json.loads(sys.argv[1])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(case["onnx"], options, providers=["CPUExecutionProvider"])


async def predict(request):
    """Rows in, probabilities out."""
    rows = np.array(msgspec.json.decode(await request.body())["instances"], np.uint8)
    (probabilities,) = session.run(["probabilities"], {"image": rows})
    return Response(msgspec.json.encode({"predictions": probabilities.tolist()}), media_type="application/json")


app = Starlette(routes=[Route("/v1/models/fashion_mnist:predict", predict, methods=["POST"])])
uvicorn.run(app, port=case["port"], log_level="error", access_log=False)
