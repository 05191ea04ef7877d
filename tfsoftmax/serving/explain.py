"""Why: the evidence of a linear model, element by element, and what the page shows of a model."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from tfsoftmax.exporting.reference import Reference
from tfsoftmax.serving import tfserving
from tfsoftmax.serving.effort import Effort, Refused
from tfsoftmax.serving.models import Version
from tfsoftmax.serving.pictures import Convert

PER_CLASS = 3  # sample rows of each class that the page offers


def explain(body: bytes, version: Version, convert: Convert, effort: Effort) -> tuple[bytes, int]:
    """Answer the body of ``:explain``, which is that of ``:predict``.

    For a linear model the difference of two logits is a sum over the elements of the input, exactly: with ``x`` the
    preprocessed input, ``w`` the weights and ``b`` the biases of the predicted class and of the runner-up,
    ``margin = sum(x * (w_first - w_second)) + (b_first - b_second)``. The terms are the evidence.
    """
    kernel, bias = _weights(version)
    _, raw = tfserving.read(body, version, convert, effort)
    effort.answer(len(raw) * 2 * (version.readers[0].size + len(version.spec.classes)))
    found = version.answer(raw, ("logits", "probabilities"))
    x = preprocess(version, raw)
    rows = []
    for i, (logits, probabilities) in enumerate(zip(found["logits"], found["probabilities"], strict=True)):
        first, second = (int(k) for k in np.argsort(-logits, kind="stable")[:2])
        evidence = x[i] * (kernel[:, first] - kernel[:, second])
        rows.append(
            {
                "class_id": first,
                "label": version.spec.classes[first],
                "runner_up": version.spec.classes[second],
                "runner_up_id": second,
                "logits": logits.tolist(),
                "probabilities": probabilities.tolist(),
                "input": raw[i].tolist(),
                "evidence": evidence.reshape(version.spec.shape).tolist(),
                "total": float(evidence.sum()),
                "bias": float(bias[first] - bias[second]),
                "margin": float(np.float64(logits[first]) - np.float64(logits[second])),
            }
        )
    return msgspec.json.encode({"version": str(version.number), "explanations": rows}), len(raw)


def _weights(version: Version) -> tuple[np.ndarray, np.ndarray]:
    if version.reference is None:
        text = f"model {version.name!r} was exported without reference.npz: export it again to see evidence"
        raise Refused(404, text)
    return version.reference.kernel.astype(np.float64), version.reference.bias.astype(np.float64)


def preprocess(version: Version, raw: np.ndarray) -> np.ndarray:
    """``(raw - offset) * scale`` in float64, as ``(n, elements)``."""
    spec = version.spec
    return (raw.reshape(len(raw), -1).astype(np.float64) - np.asarray(spec.offset)) * np.asarray(spec.scale)


def card(version: Version) -> bytes:
    """Everything that the page shows of a model: figures of its manifest, sample rows, a template for each class."""
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
        "samples": [],
        "templates": [],
    }
    if version.reference is not None:
        kernel, _ = _weights(version)
        # the effect of one raw unit, rounded to what a picture can show
        templates = (kernel * np.reshape(spec.scale, (-1, 1))).T
        digits = 6 - int(np.floor(np.log10(np.abs(templates).max() or 1)))
        answer["templates"] = np.round(templates, digits).reshape(-1, *spec.shape).tolist()
        answer["samples"] = _samples(version.reference, spec.classes)
    return msgspec.json.encode(answer)


def _samples(reference: Reference, classes: tuple[str, ...]) -> list[dict[str, Any]]:
    """The first few rows of each class among the reference rows: the right ones, then one that the model gets wrong."""
    raw, labels = reference.raw, reference.y
    predicted = reference.logits.argmax(axis=1)
    chosen: list[int] = []
    for label in range(len(classes)):
        right = np.flatnonzero((labels == label) & (predicted == label))
        wrong = np.flatnonzero((labels == label) & (predicted != label))
        chosen += [*right[: PER_CLASS - len(wrong[:1])], *wrong[:1]]
    return [{"raw": raw[i].tolist(), "label": classes[labels[i]]} for i in chosen[:60]]
