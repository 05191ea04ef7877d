"""Softmax regression in MXNet Gluon."""

import given
import mxnet
from mxnet import autograd, gluon, npx
from mxnet import np as mnp

npx.set_np()
x, y = mnp.array(given.x), mnp.array(given.y)
x_val, y_val = mnp.array(given.x_val), mnp.array(given.y_val)
model = gluon.nn.Dense(10, in_units=784)
model.initialize()
model.weight.set_data(mnp.array(given.kernel.T))
model.bias.set_data(mnp.array(given.bias))
model.hybridize()
cross_entropy = gluon.loss.SoftmaxCrossEntropyLoss()
trainer = gluon.Trainer(model.collect_params(), "sgd", {"learning_rate": given.RATE})


def step(rows):
    """One step of gradient descent; Gluon divides the sum of the losses by the rows."""
    rows = mnp.array(rows, dtype="int32")
    with autograd.record():
        loss = cross_entropy(model(x[rows]), y[rows])
    loss.backward()
    trainer.step(len(rows))
    return loss.mean()


def evaluate():
    """Mean loss over the validation rows."""
    return cross_entropy(model(x_val), y_val).mean()


given.train(step, evaluate, lambda: (model.weight.data().asnumpy().T, model.bias.data().asnumpy()), mxnet.nd.waitall)
