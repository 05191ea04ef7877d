"""A SavedModel through TensorFlow's C library, which the wheel ships; no Python of TensorFlow is imported.

Usage: c_library.py LIBRARY SAVED_MODEL INPUT_OPERATION OUTPUT_OPERATION OUTPUT_INDEX IMAGES RESULT
IMAGES is an NPY file of uint8 rows, RESULT becomes one of int64 class numbers.
"""

import ctypes
import sys

import numpy as np

library, folder, source, target, index, images, result = sys.argv[1:]
tf = ctypes.CDLL(library)


class Output(ctypes.Structure):
    """TF_Output: an operation and which of its outputs."""

    _fields_ = [("operation", ctypes.c_void_p), ("index", ctypes.c_int)]


pointer = ctypes.c_void_p
for name, arguments in {
    "TF_NewStatus": [],
    "TF_NewGraph": [],
    "TF_NewSessionOptions": [],
    "TF_LoadSessionFromSavedModel": [pointer, pointer, ctypes.c_char_p, pointer, ctypes.c_int] + [pointer] * 3,
    "TF_GraphOperationByName": [pointer, ctypes.c_char_p],
    "TF_AllocateTensor": [ctypes.c_int, pointer, ctypes.c_int, ctypes.c_size_t],
    "TF_TensorData": [pointer],
}.items():
    getattr(tf, name).argtypes, getattr(tf, name).restype = arguments, pointer
tf.TF_Message.argtypes, tf.TF_Message.restype = [pointer], ctypes.c_char_p
tf.TF_GetCode.argtypes = [pointer]
tf.TF_SessionRun.argtypes = (
    [pointer] * 4 + [ctypes.c_int] + [pointer] * 2 + [ctypes.c_int, pointer, ctypes.c_int] + [pointer] * 2
)
tf.TF_SessionRun.restype = None

status, graph = tf.TF_NewStatus(), tf.TF_NewGraph()


def check():
    """Stop with the library's own message if the last call failed."""
    if tf.TF_GetCode(status):
        sys.exit(tf.TF_Message(status).decode())


tags = (ctypes.c_char_p * 1)(b"serve")
session = tf.TF_LoadSessionFromSavedModel(
    tf.TF_NewSessionOptions(), None, folder.encode(), tags, 1, graph, None, status
)
check()
rows = np.load(images)
shape = (ctypes.c_int64 * rows.ndim)(*rows.shape)
UINT8 = 4
tensor = tf.TF_AllocateTensor(UINT8, shape, rows.ndim, rows.nbytes)
ctypes.memmove(tf.TF_TensorData(tensor), rows.ctypes.data, rows.nbytes)
inputs = (Output * 1)(Output(tf.TF_GraphOperationByName(graph, source.encode()), 0))
outputs = (Output * 1)(Output(tf.TF_GraphOperationByName(graph, target.encode()), int(index)))
answers = (pointer * 1)()
tf.TF_SessionRun(session, None, inputs, (pointer * 1)(tensor), 1, outputs, answers, 1, None, 0, None, status)
check()
ids = (ctypes.c_int64 * len(rows)).from_address(tf.TF_TensorData(answers[0]))
np.save(result, np.array(ids))
print(sorted(name for name in sys.modules if name.startswith(("tensorflow", "keras"))))
