"""Explanations: the evidence of a linear model, element by element, and the page's view of a model."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from tfsoftmax.columns import constants, dense
from tfsoftmax.encoding import decoded
from tfsoftmax.exporting.reference import Reference
from tfsoftmax.serving import tables, tfserving
from tfsoftmax.serving.effort import Effort, Refused
from tfsoftmax.serving.models import Version
from tfsoftmax.serving.pictures import Convert

PER_CLASS = 3  # sample rows of each class that the page offers


def explain(body: bytes, version: Version, convert: Convert, effort: Effort) -> tfserving.Answered:
    """Answer the body of ``:explain``, which is that of ``:predict``.

    For a linear model the difference of two logits is a sum over the elements of the input, exactly: with ``x`` the
    preprocessed input, ``w`` the weights and ``b`` the biases of the predicted class and of the runner-up,
    ``margin = sum(x * (w_first - w_second)) + (b_first - b_second)``. The terms are the evidence.
    """
    kernel, bias = _weights(version)
    _, raw, unseen = tfserving.read(body, version, convert, effort)
    effort.answer(len(raw) * 2 * (math.prod(version.spec.shape) + len(version.spec.classes)))
    found = version.answer(raw, ("logits", "probabilities"))
    x = preprocess(version, raw)
    shown = raw.tolist() if version.table is None else decoded(version.spec, raw)
    rows: list[dict[str, Any]] = []
    for i, (logits, probabilities) in enumerate(zip(found["logits"], found["probabilities"], strict=True)):
        first, second = (int(k) for k in np.argsort(-logits, kind="stable")[:2])
        terms = x[i] * (kernel[:, first] - kernel[:, second])
        evidence = terms if version.table is None else tables.evidence(version, terms)
        rows.append(
            {
                "class_id": first,
                "label": version.spec.classes[first],
                "runner_up": version.spec.classes[second],
                "runner_up_id": second,
                "logits": logits.tolist(),
                "probabilities": probabilities.tolist(),
                "input": shown[i],
                "evidence": evidence.reshape(version.spec.shape).tolist(),
                "total": float(evidence.sum()),
                "bias": float(bias[first] - bias[second]),
                "margin": float(np.float64(logits[first]) - np.float64(logits[second])),
            }
        )
    return msgspec.json.encode({"version": str(version.number), "explanations": rows}), len(raw), unseen


def _weights(version: Version) -> tuple[np.ndarray, np.ndarray]:
    if version.reference is None:
        text = f"model {version.name!r} was exported without reference.npz: export it again to see evidence"
        raise Refused(404, text)
    return version.reference.kernel.astype(np.float64), version.reference.bias.astype(np.float64)


def preprocess(version: Version, raw: np.ndarray) -> np.ndarray:
    """``(features - offset) * scale`` in float64, as ``(n, features)``."""
    offset, scale = (np.asarray(value) for value in constants(version.spec))
    return (dense(version.spec, raw).astype(np.float64) - offset) * scale


def card(version: Version) -> bytes:
    """Everything that the page shows about a model: figures of its manifest, sample rows, a template for each class."""
    spec, manifest = version.spec, version.manifest
    answer: dict[str, Any] = {
        "name": version.name,
        "version": str(version.number),
        "data": spec.name,
        "input": spec.input_name,
        "shape": spec.shape,
        "classes": spec.classes,
        "preprocess": spec.preprocess,
        "metrics": manifest.get("metrics"),
        "parity": manifest.get("parity"),
        "tools": manifest.get("tools"),
        "columns": [
            {"name": column.name, "kind": column.kind, "dtype": column.dtype, "values": column.values}
            for column in spec.columns
        ],
        "samples": [],
        "templates": [],
    }
    if version.reference is not None:
        answer["samples"] = _samples(version, version.reference)
    if version.reference is not None and version.table is None:
        kernel, _ = _weights(version)
        # the effect of one raw unit, rounded to what a picture can show
        templates = (kernel * np.reshape(spec.scale, (-1, 1))).T
        digits = 6 - int(np.floor(np.log10(np.abs(templates).max() or 1)))
        answer["templates"] = np.round(templates, digits).reshape(-1, *spec.shape).tolist()
    return msgspec.json.encode(answer)


def _samples(version: Version, reference: Reference) -> list[dict[str, Any]]:
    """The first few rows of each class among the reference rows: correct ones, then one that the model gets wrong."""
    classes = version.spec.classes
    raw, labels = reference.raw, reference.y
    predicted = reference.logits.argmax(axis=1)
    chosen: list[int] = []
    for label in range(len(classes)):
        right = np.flatnonzero((labels == label) & (predicted == label))
        wrong = np.flatnonzero((labels == label) & (predicted != label))
        chosen += [*right[: PER_CLASS - len(wrong[:1])], *wrong[:1]]
    chosen = chosen[:60]
    shown = raw[chosen].tolist() if version.table is None else decoded(version.spec, raw[chosen])
    return [{"raw": row, "label": classes[labels[i]]} for row, i in zip(shown, chosen, strict=True)]
