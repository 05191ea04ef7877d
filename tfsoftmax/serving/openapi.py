"""The OpenAPI document, generated from the served models: exactly what is accepted."""

from __future__ import annotations

import math
from typing import Any

import msgspec

import tfsoftmax
from tfsoftmax.pictures import PICTURES
from tfsoftmax.serving.models import Version, outputs_of
from tfsoftmax.serving.settings import Settings
from tfsoftmax.serving.tables import DATATYPES
from tfsoftmax.serving.tensors import LARGEST
from tfsoftmax.spec import Column

Schema = dict[str, Any]

_ERRORS = {
    400: "The request does not fit.",
    401: "A key is needed.",
    404: "No such model or version.",
    408: "The request did not arrive in time.",
    413: "The body is too large, counted after decompression.",
    415: "The content encoding is not gzip, deflate or identity.",
    429: "More requests a second than a key may send.",
    503: "Too many large requests at once.",
    504: "No answer in time.",
}
KEYED = (401, 429)  # of servers that require a key
_TEXT: Schema = {"type": "string"}
_NUMBER: Schema = {"type": "number"}
_FLOAT: Schema = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
_WHOLE: Schema = {"type": "integer"}
_TRUTH: Schema = {"type": "boolean"}
_VALUE: Schema = {"type": ["number", "string", "boolean", "null"]}  # of a column that the model lacks
_JSON_TYPES = {"float32": _NUMBER, "int64": _WHOLE, "object": _TEXT}
_PICTURE: Schema = {
    "type": "string",
    "format": "picture-base64",
    "description": "A picture file in base64: PNG, JPEG, WebP, GIF, BMP or TIFF.",
}


_STATISTICS: Schema = {"type": "object", "properties": {"model_stats": {"type": "array"}}, "required": ["model_stats"]}


def document(models: list[Version], settings: Settings) -> bytes:
    """The document as JSON, for the models as they are now."""
    keyed = bool(settings.api_keys)
    health = {"ready": _object({"ready": _TRUTH}), "live": _object({"live": _TRUTH})}
    server = _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)})
    listed = KEYED if keyed else ()
    paths = {
        "/v1/models": {"get": _get("Names of the models", _object({"models": _list(_TEXT)}), *listed)},
        "/v2/models/stats": {"get": _get("Statistics of all models", _STATISTICS, *listed)},
        "/v2/repository/index": {"post": _index(keyed)},
        "/v2": {"get": _get("Metadata of the server", server)},
        "/v2/health/live": {"get": _get("Whether the process answers", health["live"])},
        "/v2/health/ready": {"get": _get("Whether every model answers", health["ready"], 503)},
        "/page/models": {"get": _get("Names of the models", _list(_TEXT), *listed)},
    }
    for version in models:
        paths |= _model(version, keyed)
    components: Schema = {"schemas": {"Error": _object({"error": _TEXT})}}
    if keyed:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "tfsoftmax",
                "version": tfsoftmax.__version__,
                "description": "TensorFlow Serving's REST protocol and the Open Inference Protocol, version 2.",
            },
            "paths": paths,
            "components": components,
        }
    )


def _model(version: Version, keyed: bool) -> dict[str, Any]:
    spec, name, size = version.spec, version.spec.input_name, len(version.spec.classes)
    pictures = spec.dtype == "uint8" and len(spec.shape) in (2, 3) and spec.shape[2:] in ((), (1,), (3,))
    element: Schema = {"type": "integer", "minimum": 0, "maximum": 255} if spec.dtype == "uint8" else _FLOAT
    row = _shaped(element, spec.shape)
    b64 = [_object({"b64": _PICTURE})] if pictures else []
    value = {"anyOf": [row, *b64]}
    column = _list(value, 1, version.max_rows)
    signature = {"signature_name": {"enum": ["serving_default", "", None]}}
    instance = {"anyOf": [row, *b64, _object({name: value})]}
    named = _object({name: column})
    if spec.columns:
        cells = {column.name: _cell(column, spec.missing == "impute") for column in spec.columns}
        row = instance = _object(cells, more=_VALUE)
        lists = {key: _list(cell, 1, version.max_rows) for key, cell in cells.items()}
        named = _object(lists, more=_list(_VALUE, 1, version.max_rows))
        column = _list(row, 1, version.max_rows)
    rows = _object({"instances": _list(instance, 1, version.max_rows)}, signature, more=True)
    columns = _object({"inputs": {"anyOf": [column, named]}}, signature, more=True)
    predicted = {key: _tensor(dtype, shape[1:]) for key, dtype, shape in outputs_of(size)}
    prediction = {
        "anyOf": [
            _object({"predictions": _list(_object(predicted))}),
            _object({"outputs": _object({key: _list(schema) for key, schema in predicted.items()})}),
        ]
    }
    flags = [
        {"name": flag, "in": "query", "schema": _TRUTH, "description": text}
        for flag, text in {"fit": "Convert pictures of another size or colour.", "invert": "Light to dark."}.items()
        if pictures
    ]
    bodies = {"application/json": {"schema": {"anyOf": [rows, columns]}}}
    if pictures:
        images = {f"image/{kind.lower()}": {"schema": {"type": "string", "format": "binary"}} for kind in PICTURES}
    else:
        images = {}
    explanation = _object(
        {
            "class_id": _WHOLE,
            "label": _TEXT,
            "runner_up": _TEXT,
            "runner_up_id": _WHOLE,
            "logits": _list(_NUMBER),
            "probabilities": _list(_NUMBER),
            "input": row,
            "evidence": _shaped(_NUMBER, spec.shape),
            "total": _NUMBER,
            "bias": _NUMBER,
            "margin": _NUMBER,
        }
    )
    explained = _object({"version": _TEXT, "explanations": _list(explanation)})
    features = {name: {"anyOf": [row, _list(element, math.prod(spec.shape), math.prod(spec.shape)), *b64]}}
    if spec.columns:
        features = cells
    others = _VALUE if spec.columns else False
    whole, partial = _object(features, more=others), _object({}, features, more=others)
    signature = {"signature_name": {"enum": ["classify", "", None]}}
    examples = {
        "anyOf": [  # each example has its features, or the context has them for those that do not
            _object({"examples": _list(whole, 1, version.max_rows)}, {"context": partial, **signature}, more=True),
            _object({"examples": _list(partial, 1, version.max_rows), "context": whole}, signature, more=True),
        ]
    }
    results = _object({"results": _list(_list({"type": "array"}))})
    status = _object({"error_code": _TEXT, "error_message": _TEXT})
    states = _list(_object({"version": _TEXT, "state": _TEXT, "status": status}))
    tensor = {"name": _TEXT, "datatype": _TEXT, "shape": _list(_WHOLE)}
    metadata = _object(
        {
            "name": _TEXT,
            "versions": _list(_TEXT),
            "platform": _TEXT,
            "inputs": _list(_object(tensor)),
            "outputs": _list(_object(tensor)),
        }
    )
    first, second = f"/v1/models/{version.name}", f"/v2/models/{version.name}"
    codes = (404, *(KEYED if keyed else ()))
    paths = {
        f"{first}:predict": {"post": _post("Predict", bodies | images, prediction, keyed, flags)},
        f"{first}:explain": {"post": _post("Predict, and say why", bodies | images, explained, keyed, flags)},
        f"{first}:classify": {
            "post": _post(
                "Probabilities by name", {"application/json": {"schema": examples}} | images, results, keyed, flags
            )
        },
        first: {"get": _get("States of the versions", _object({"model_version_status": states}), *codes)},
        f"{first}/metadata": {"get": _get("Signatures", {"type": "object"}, *codes)},
        second: {"get": _get("Metadata of the model", metadata, *codes)},
        f"{second}/config": {"get": _get("Configuration, as Triton shows it", {"type": "object"}, *codes)},
        f"{second}/stats": {"get": _get("Statistics, as Triton counts", _STATISTICS, *codes)},
        f"{second}/ready": {"get": _get("Whether it answers", _object({"name": _TEXT, "ready": _TRUTH}), *codes)},
        f"{second}/infer": {"post": _infer(version, element, keyed)},
        f"/page/models/{version.name}": {"get": _get("What the page shows", {"type": "object"}, *codes)},
    }
    if keyed:
        for path in paths.values():
            for operation in path.values():
                operation["security"] = [{"key": []}]
    return paths


def _infer(version: Version, element: Schema, keyed: bool) -> Schema:
    spec = version.spec
    null = {"type": "null"}
    free = {"type": ["boolean", "integer", "string", "null"], "maximum": 2**63 - 1, "minimum": -(2**63)}

    def parameters(**known: Schema) -> dict[str, Schema]:
        return {"parameters": {"type": ["object", "null"], "properties": known, "additionalProperties": free}}

    shape = {
        "type": "array",
        "prefixItems": [
            {"type": "integer", "minimum": 1, "maximum": version.max_rows},
            *({"const": n} for n in spec.shape),
        ],
        "items": False,
        "minItems": 1 + len(spec.shape),
    }
    if spec.columns:
        of_columns = [_tensor_of(column, version.max_rows) for column in spec.columns]
        listed = {
            "type": "array",
            "items": {"anyOf": of_columns},
            "minItems": len(of_columns),
            "maxItems": len(of_columns),
        }
    tensor = _object(
        {
            "name": {"const": spec.input_name},
            "shape": shape,
            "datatype": {"const": "UINT8" if spec.dtype == "uint8" else "FP32"},
            "data": _list({}, 1),
        },
        parameters(binary_data_size=null, shared_memory_region=null),
        more=True,
    )
    named = {"name": {"enum": [name for name, _, _ in outputs_of(0)]}}
    flag = {"type": ["boolean", "null"]}
    classes = {"type": ["integer", "null"], "minimum": 0, "maximum": 2**62}
    chosen = parameters(binary_data=flag, classification=classes, shared_memory_region=null)
    outputs = _list(_object(named, chosen, more=True), 0, 4)
    optional: dict[str, Any] = {"id": {"type": ["string", "null"]}, "outputs": {"anyOf": [outputs, null]}}
    inputs = listed if spec.columns else _list(tensor, 1, 1)
    request = _object({"inputs": inputs}, optional | parameters(binary_data_output=flag), more=True)
    output = _object({"name": _TEXT, "datatype": _TEXT, "shape": _list(_WHOLE)}, {"data": _list({}), **parameters()})
    answer = _object({"model_name": _TEXT, "model_version": _TEXT, "outputs": _list(output)}, {"id": _TEXT})
    header = {
        "name": "Inference-Header-Content-Length",
        "in": "header",
        "schema": {"type": "integer", "minimum": 0},
        "description": "Length of the JSON part where tensors follow it in binary.",
    }
    operation = _post("Infer", {"application/json": {"schema": request}}, answer, keyed, [header])
    operation["description"] = f"data holds the elements of shape, flat or nested: {element}."
    operation["responses"]["200"]["content"]["application/octet-stream"] = {"schema": {}}
    return operation


def _cell(column: Column, missing: bool) -> Schema:
    """One value of a table's column."""
    types = {"float32": ["number"], "bool": ["boolean", "number"], "string": ["string"], "int64": ["integer"]}
    numbers = {"minimum": -LARGEST, "maximum": LARGEST} if column.kind == "number" else {}
    words = {} if missing or column.kind == "number" else {"minLength": 1}
    return {"type": [*types[column.dtype], *(["null"] if missing else [])], **numbers, **words}


def _tensor_of(column: Column, max_rows: int) -> Schema:
    """One tensor of a table's column."""
    shape = {
        "type": "array",
        "prefixItems": [{"type": "integer", "minimum": 1, "maximum": max_rows}, {"const": 1}],
        "items": False,
        "minItems": 1,
    }
    tensor: dict[str, Any] = {
        "name": {"const": column.name},
        "shape": shape,
        "datatype": {"const": DATATYPES[column.dtype]},
    }
    return _object({**tensor, "data": _list({}, 1)}, more=True)


def _index(keyed: bool) -> Schema:
    request = _object({}, {"ready": {"type": ["boolean", "null"]}}, more=True)
    entry = _object({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT})
    operation = _post("Models and versions", {"application/json": {"schema": request}}, _list(entry), keyed, [])
    operation["requestBody"]["required"] = False
    return operation


def _object(
    required: dict[str, Schema], optional: dict[str, Schema] | None = None, more: bool | Schema = False
) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": more,
    }


def _list(items: Schema, least: int = 0, most: int | None = None) -> Schema:
    return {"type": "array", "items": items, "minItems": least, **({} if most is None else {"maxItems": most})}


def _shaped(element: Schema, shape: tuple[int, ...]) -> Schema:
    for length in reversed(shape):
        element = _list(element, length, length)
    return element


def _tensor(dtype: str, shape: tuple[int, ...]) -> Schema:
    return _shaped(_JSON_TYPES[dtype], shape)


def _responses(answer: Schema, codes: tuple[int, ...]) -> Schema:
    error = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    found = {"200": {"description": "Done.", "content": {"application/json": {"schema": answer}}}}
    return found | {str(code): {"description": _ERRORS[code], "content": error} for code in codes}


def _get(summary: str, answer: Schema, *codes: int) -> Schema:
    return {"summary": summary, "responses": _responses(answer, codes)}


def _post(summary: str, bodies: Schema, answer: Schema, keyed: bool, parameters: list[Schema]) -> Schema:
    codes = tuple(code for code in _ERRORS if keyed or code not in KEYED)
    return {
        "summary": summary,
        "parameters": parameters,
        "requestBody": {"required": True, "content": bodies},
        "responses": _responses(answer, codes),
    }
