"""Predictor: an export folder answers through ONNX Runtime; TensorFlow is not imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tfsoftmax import columns
from tfsoftmax._checks import shown
from tfsoftmax._files import read_json
from tfsoftmax._kinds import EXPORT, not_a
from tfsoftmax.encoding import Encoder
from tfsoftmax.errors import InputError
from tfsoftmax.exporting.versions import versions
from tfsoftmax.spec import ModelSpec

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")  # operators that are ONNX's own
_TYPES = {"float32": "tensor(float)", "bool": "tensor(float)", "string": "tensor(string)", "int64": "tensor(int64)"}
Answer = Callable[..., dict[str, np.ndarray]]  # of raw inputs and, for ONNX, of the outputs to compute


class Predictor:
    """Answers for raw inputs, by the newest version of an export folder.

    Args:
        path: an export folder, or one version folder in it.
        threads: threads of ONNX Runtime; ``None``: one per core. One is fastest for few rows at a time.

    It can be pickled, for the processes of a pool or a cluster: the copy holds the model's file and reads no folder.

    Attributes:
        folder: the version folder.
        spec: what the model takes and returns.

    Raises:
        InputError: no export that can be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None):
        self.folder = Path(path)
        if found := versions(self.folder):
            self.folder = self.folder / str(found[-1])
        if not (self.folder / "manifest.json").is_file():
            text = f"there is no export in {str(path)!r}; `tfsoftmax export RUN --to {path}` makes one"
            raise not_a(EXPORT, Path(path), text)
        path = self.folder / "manifest.json"
        spec = read_json(path, "manifest").get("spec")
        self.spec: ModelSpec = ModelSpec.from_dict(spec, f"manifest {str(path)!r}.spec")
        self._threads = threads
        self._content = _read(self.folder / "model.onnx")
        self._answer = _session(self._content, self.folder / "model.onnx", threads, self.spec)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_answer"}  # a session cannot be pickled

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._answer = _session(self._content, self.folder / "model.onnx", self._threads, self.spec)

    def answer(self, raw: np.ndarray, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        """Answer for raw inputs that are known to fit ``spec``; :meth:`__call__` checks them first.

        Args:
            raw: ``(n, *spec.shape)`` of dtype ``spec.dtype``.
            names: the outputs to compute; empty: all.

        Returns:
            ``logits`` and ``probabilities``, float32 ``(n, classes)``; ``class_id``, int64 ``(n,)``; ``label``, strings
            ``(n,)``.

        Raises:
            InputError: the inputs are so large that the logits are beyond float32. Pictures cannot be.
        """
        if self.spec.dtype == "uint8":
            return self._answer(raw, names)
        found = self._answer(raw, tuple(dict.fromkeys(("logits", *names))) if names else ())
        finite = np.isfinite(found["logits"]).all(axis=1)
        if not finite.all():
            raise InputError(
                f"row {finite.argmin()} of {self.spec.input_name} has numbers so large that its logits are beyond "
                "float32; pass them in the units of the training rows"
            )
        return {name: found[name] for name in names or found}

    def __call__(self, raw: Any) -> dict[str, np.ndarray]:
        """Answer for raw inputs ``(n, *spec.shape)``, or for one of shape ``spec.shape``; see :meth:`answer`.

        Raises:
            InputError: another shape, another type, values out of range, or logits beyond float32.
        """
        return self.answer(conform(raw, self.spec))


def open_onnx(path: Path, threads: int | None = None, spec: ModelSpec | None = None) -> Answer:
    """Open an ONNX file that is whole in itself; returns the function of :meth:`Predictor.answer`.

    ``spec`` is what it must take and return; that of a table must be given.

    Raises:
        InputError: it cannot be read, or needs other files or operators that are not ONNX's own.
    """
    return _session(_read(path), path, threads, spec)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _session(content: bytes, path: Path, threads: int | None, spec: ModelSpec | None = None) -> Answer:
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # releases from 1.29 on report each session to Microsoft
    import onnxruntime

    _check_onnx(content, path)
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = options.inter_op_num_threads = threads
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base but Exception
        raise InputError(f"ONNX Runtime cannot open {str(path)!r}: {str(error).splitlines()[0]}") from error
    if spec is not None:
        _check_session(session, path, spec)
    run, source = session.run, session.get_inputs()[0].name
    known = tuple(output.name for output in session.get_outputs())
    table = spec if spec is not None and spec.columns else None

    def answer(raw: np.ndarray, names: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
        names = names or known
        given = {source: raw} if table is None else columns.named(table, raw)
        return dict(zip(names, run(names, given), strict=True))

    return answer


def _check_session(session: Any, path: Path, spec: ModelSpec) -> None:
    """Raise InputError unless the model takes and returns what ``spec`` says."""
    if spec.columns:
        found = {given.name: given.type for given in session.get_inputs()}
        types = {column.name: _TYPES[column.dtype] for column in spec.columns}
        if found != types:
            raise InputError(
                f"{str(path)!r} takes other columns than the manifest beside it says: "
                f"{shown(sorted(found.items() ^ types.items())[0][0])} differs; export the run again"
            )
        return
    taken, returned = session.get_inputs()[0], {output.name: output.shape for output in session.get_outputs()}
    has = taken.type, taken.shape[1:], returned.get("logits", [])[1:]
    wanted = f"tensor({spec.dtype.removesuffix('32')})", [*spec.shape], [len(spec.classes)]
    if has != wanted:
        raise InputError(
            f"{str(path)!r} takes {has[0]} {has[1]} and returns logits {has[2]}, and the manifest beside it says "
            f"{wanted[0]} {wanted[1]} and {wanted[2]}; export the run again"
        )


def _check_onnx(content: bytes, path: Path) -> None:
    import onnx
    from google.protobuf.message import DecodeError, Message

    try:
        model = onnx.ModelProto.FromString(content)
    except DecodeError as error:
        raise InputError(f"{str(path)!r} is not an ONNX file: {error}") from error
    waiting: list[Message] = [model]
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.NodeProto) and message.domain not in _DOMAINS:
            raise InputError(
                f"{str(path)!r} has the operator {message.op_type!r} of domain {message.domain!r}: only ONNX's own "
                "operators are opened; export the run again"
            )
        if isinstance(message, onnx.TensorProto) and (
            message.external_data or message.data_location == onnx.TensorProto.EXTERNAL
        ):
            raise InputError(
                f"{str(path)!r} keeps the tensor {message.name!r} in another file: only files that hold all of their "
                "data are opened; export the run again"
            )
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, Message) else value)


def conform(raw: Any, spec: ModelSpec, what: str = "the input") -> np.ndarray:
    """Raw inputs as an array ``(n, *spec.shape)`` of dtype ``spec.dtype``.

    Args:
        raw: rows of one of ``spec.row_shapes``, or one such row. Of a table: a data frame, a list of dictionaries, a
            dictionary of columns, or raw rows as ``tfsoftmax.columns`` has them.
        spec: what the model takes.
        what: names the inputs in errors.

    Raises:
        InputError: another shape, another type, or values that ``spec.dtype`` does not hold.
    """
    if spec.columns and not isinstance(raw, np.ndarray):
        return _by_name(raw, spec, what)
    try:
        array = np.asarray(raw)
    except ValueError as error:
        raise InputError(f"{what} is ragged; expected shape {_shape(spec)}") from error
    if spec.columns:
        return columns.conform(array, spec, what)
    if array.dtype == object and not array.shape:  # a sparse matrix, a data set
        raise InputError(f"{what} must be an array of shape {_shape(spec)}, got {type(raw).__name__}")
    if array.shape in spec.row_shapes:
        array = array[None]
    if array.shape[1:] not in spec.row_shapes:
        raise InputError(f"{what} has shape {array.shape}, expected {_shape(spec)}")
    array = array.reshape(len(array), *spec.shape)
    if spec.dtype == "uint8":
        if array.dtype.kind not in "iu":
            raise InputError(f"{what} has values of type {array.dtype}, expected whole numbers from 0 to 255")
        if array.dtype != np.uint8 and array.size and (array.min() < 0 or array.max() > 255):
            raise InputError(f"{what} has values from {array.min()} to {array.max()}, expected 0 to 255")
        return np.ascontiguousarray(array, np.uint8)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{what} must hold numbers, got type {array.dtype}")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(array).all():
        raise InputError(f"{what} must hold finite numbers within float32's range")
    return array


def _by_name(raw: Any, spec: ModelSpec, what: str) -> np.ndarray:
    """Rows of a table: a data frame, a list of dictionaries, or a dictionary of columns."""
    if isinstance(raw, list) and all(isinstance(row, dict) for row in raw):
        return Encoder(spec).by_row(raw, what)
    if isinstance(raw, dict):
        return Encoder(spec).by_column(raw, what)
    from tfsoftmax.sources import tables

    rows, _ = tables.raw_rows(tables.of_frame(raw), spec, what)
    return rows


def _shape(spec: ModelSpec) -> str:
    return f"(n, {', '.join(map(str, spec.shape))})"
