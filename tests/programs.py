"""One compilation for each program.

TensorFlow numbers the functions that it traces, and XLA keeps what it has compiled by their names: the same program in
another model is compiled again, which takes most of the time of a small fit. Here a function is named by what it does,
so that models that do the same share what is compiled: what runs is what would have run.
"""

import hashlib
import re

from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.ops import control_flow_util_v2

_made = atomic_function.from_func_graph


def _named(name, graph, attrs, *args, **kwargs):
    if "_XlaMustCompile" not in (attrs or {}) and not re.search("(body|cond|true|false)_?[0-9]*$", name):
        return _made(name, graph, attrs, *args, **kwargs)  # a saved model wants each of its functions once
    operations = graph.get_operations()
    if any(op.type.startswith("Assign") for op in operations):  # a step of training: nobody differentiates it
        for op in operations:
            if op.type == "IdentityN" and "_gradient_op_type" in op.node_def.attr:
                op._clear_attr("_gradient_op_type")  # has a number
    ends = [[tensor.name for tensor in tensors] for tensors in (graph.inputs, graph.outputs)]
    does = graph.as_graph_def().SerializeToString(deterministic=True), str(attrs)
    graph.name = f"{re.sub(r'_[0-9]+$', '', name)}_{hashlib.sha256(repr((does, ends)).encode()).hexdigest()[:16]}"
    return _made(graph.name, graph, attrs, *args, **kwargs)


def share():
    """Begin to do so, in this process."""
    atomic_function.from_func_graph = _named
    control_flow_util_v2.unique_fn_name = lambda scope, name: f"{scope}{name}".replace("/", "_")
