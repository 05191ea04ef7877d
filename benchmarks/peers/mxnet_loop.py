"""MXNet Gluon (the chapter's second framework; its last release was in 2022): a loop over arrays in memory."""

import json
import sys
import time

import numpy as np
from mxnet import autograd, gluon, init, npx
from mxnet import np as mnp

npx.set_np()
case = json.loads(sys.argv[1])
x = np.load(case["folder"] + "/x_train.npy")
x, y = mnp.array(x.reshape(len(x), -1) / 255, dtype="float32"), mnp.array(np.load(case["folder"] + "/y_train.npy"))
model = gluon.nn.Dense(10)
model.initialize(init.Zero())
model.hybridize()
loss = gluon.loss.SoftmaxCrossEntropyLoss()
trainer = gluon.Trainer(model.collect_params(), "sgd", {"learning_rate": 0.1})
rng, seconds = np.random.default_rng(0), []
for _ in range(case["epochs"]):
    begin = time.perf_counter()
    order = mnp.array(rng.permutation(len(x)), dtype="int32")
    for i in range(0, len(x), 256):
        rows = order[i : i + 256]
        with autograd.record():
            value = loss(model(x[rows]), y[rows])
        value.backward()
        trainer.step(len(rows))
    npx.waitall()
    seconds.append(time.perf_counter() - begin)
print(json.dumps({"seconds": seconds}))
