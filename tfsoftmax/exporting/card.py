"""The files beside the versions of an export folder: the model card README.md, and config.pbtxt for Triton."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tfsoftmax.exporting.manifest import digest
from tfsoftmax.runs.evaluation import proof


def model_card(name: str, version: int, values: dict[str, Any]) -> str:
    """The model card of a version, in Markdown, from its manifest."""
    return (
        "\n\n".join(
            [
                f"# {name}",
                _about(version, values),
                "## Data and training",
                _data(values),
                "## Figures",
                *_figures(values["metrics"]),
                *_columns(values["spec"]),
                "## Limits",
                _limits(values),
                "## Files, compared with the model",
                _parity(values["parity"]),
                "## How to serve it",
                _serving(name, version, values),
            ]
        )
        + "\n"
    )


def triton(name: str, version: int, values: dict[str, Any]) -> str:
    """Triton's ``config.pbtxt``: the ONNX file, batched by Triton, which takes the model's name from the folder."""
    spec = values["spec"]
    pictures = spec["dtype"] == "uint8"
    # for each row: an output without further dimensions is shown as one of a single element
    one = "dims: [ 1 ] reshape { shape: [ ] }"
    # Triton names the classes itself where a client asks for the best of them
    many = f'dims: [ {len(spec["classes"])} ] label_filename: "{version}/assets/labels.txt"'
    shape = ", ".join(map(str, spec["shape"]))
    types = {"string": "TYPE_STRING", "int64": "TYPE_INT64"}
    if not (columns := spec.get("columns")):
        kind = "TYPE_UINT8" if pictures else "TYPE_FP32"
        inputs = [f'  {{ name: "{_input(spec)}" data_type: {kind} dims: [ {shape} ] }}']
    else:
        inputs = [
            f"  {{ name: {json.dumps(column['name'], ensure_ascii=False)} "
            f"data_type: {types.get(column['dtype'], 'TYPE_FP32')} {one} }}"
            for column in columns
        ]
    lines = [
        'backend: "onnxruntime"',
        "max_batch_size: 1024",
        "input [",
        ",\n".join(inputs),
        "]",
        "output [",
        f'  {{ name: "logits" data_type: TYPE_FP32 {many} }},',
        f'  {{ name: "probabilities" data_type: TYPE_FP32 {many} }},',
        f'  {{ name: "class_id" data_type: TYPE_INT64 {one} }},',
        f'  {{ name: "label" data_type: TYPE_STRING {one} }}',
        "]",
        "dynamic_batching { }",
    ]
    return "\n".join(lines) + "\n"


# file name -> function that makes its text from the model's name, the version and the manifest
FILES: dict[str, Callable[[str, int, dict[str, Any]], str]] = {"README.md": model_card, "config.pbtxt": triton}


_COMMENTS = {"README.md": "<!-- {} -->", "config.pbtxt": "# {}"}


def signed(name: str, text: str) -> str:
    """The text of one of ``FILES`` with a last line that marks what is above it as ours."""
    return f"{text}{_COMMENTS[name].format(f'written by tfsoftmax, SHA-256 of all above: {digest(text.encode())}')}\n"


def is_ours(name: str, content: bytes) -> bool:
    """Whether that is how :func:`signed` left it."""
    text = content.decode(errors="replace")
    above = "".join(text.splitlines(keepends=True)[:-1])
    return signed(name, above) == text


def _input(spec: dict[str, Any]) -> str:
    return "image" if spec["dtype"] == "uint8" else "features"


def _about(version: int, values: dict[str, Any]) -> str:
    spec = values["spec"]
    shape = " x ".join(map(str, spec["shape"]))
    given = "pictures of whole numbers from 0 to 255" if spec["dtype"] == "uint8" else "rows of float32 numbers"
    takes = f"`{_input(spec)}`, {given}, {shape}, as they are"
    if spec.get("columns"):
        takes = f"one input per column of a table ({len(spec['columns'])}, listed below), values as they are"
    return (
        f"Version {version}. Softmax regression: one linear layer, {len(spec['classes'])} classes. It takes "
        f"{takes}: the preprocessing is inside. It returns `logits`, "
        "`probabilities`, `class_id` and `label`. Made by "
        + ", ".join(f"{tool} {number}" for tool, number in values["tools"].items())
        + "."
    )


def _data(values: dict[str, Any]) -> str:
    spec, config, metrics = values["spec"], values["config"], values["metrics"]
    lines = [
        f"- Data: {spec['name']}. Classes: {', '.join(map(_cut, spec['classes']))}.",
        f"- Preprocessing: {spec['preprocess']}.",
    ]
    if config:
        if config["refit"] or config["val"] == 0:
            split = "no validation rows: trained on all training rows"
        elif config["val"] == "test":
            split = "validated on the test split, so nothing unseen was left to measure on"
        else:
            split = f"{config['val']:,} validation rows, drawn from the training split by seed {config['seed']}"
        lines.append(f"- Split: {split}. The test split was read once, after training.")
        settings = {key: value for key, value in config.items() if key not in ("data", "fingerprint")}
        lines.append(f"- Settings: {', '.join(f'{key} {value}' for key, value in settings.items())}.")
    if metrics and (temperature := metrics.get("temperature")):
        lines.append(
            f"- Calibrated: the logits are divided by the temperature {temperature:.4g}, fitted on the validation rows."
        )
    if metrics and metrics.get("optimum"):
        lines.append(f"- Solved in {metrics['seconds']:.1f} s: {proof(metrics['optimum'])}.")
    elif metrics and metrics.get("epochs"):
        lines.append(f"- Trained for {metrics['epochs']} epochs in {metrics['seconds']:.1f} s.")
    return "\n".join(lines)


def _figures(metrics: dict[str, Any] | None) -> list[str]:
    known = [(split, metrics[split]) for split in ("val", "test") if metrics and metrics.get(split)]
    if not known:
        return ["Not measured: this model was exported without the figures of a run."]
    rows = [
        [
            split,
            f"{figures['rows']:,}",
            f"{figures['loss']:.4f}",
            f"{figures['accuracy']:.4f}",
            "{:.4f} to {:.4f}".format(*figures["accuracy_95"]),
        ]
        for split, figures in known
    ]
    split, last = known[-1]
    classes = [
        [_cut(row["name"]), f"{row['count']:,}", _figure(row["precision"]), _figure(row["recall"])]
        for row in last["classes"]
    ]
    return [
        _table(["split", "rows", "loss (nats)", "accuracy", "95 % interval"], rows),
        f"By class, {split} rows:",
        _table(["class", "rows", "precision", "recall"], classes),
    ]


def _columns(spec: dict[str, Any]) -> list[str]:
    """The columns of a table, and how a row is given to the files that take numbers alone."""
    columns = spec.get("columns")
    if not columns:
        return []
    takes = {"float32": "float32", "bool": "float32, 0 or 1", "string": "string", "int64": "int64"}
    rows = []
    for column in columns:
        known = f"{len(column['values']):,} values: {_cut(', '.join(column['values']))}"
        said = (
            known
            if column["kind"] == "category"
            else f"numbers; less {column['offset']:.6g}, times {column['scale']:.6g}"
        )
        rows.append([_cut(column["name"]), takes[column["dtype"]], said])
    missing = {
        "refuse": "The training rows had no missing values, and the server and `predict` refuse them.",
        "impute": "A missing value is NaN, the empty string, or the smallest int64.",
    }[spec["missing"]]
    return [
        "## Columns",
        _table(["column", "takes", "what training saw"], rows),
        f"Shapes are (batch,). {missing} A value that training did not see speaks for no class.",
        "The LiteRT files take `features`, float32 (batch, columns), the columns in this order: a number as it is, "
        "another value as its place among those that training saw, from 0, in the order of `manifest.json` and of the "
        "file's metadata `tfsoftmax_spec`; -1 where training did not see it, NaN where it is missing.",
    ]


def _cut(text: str) -> str:
    """One line of at most 100 characters, as text in Markdown."""
    line = " ".join(text.split())
    line = line if len(line) <= 100 else f"{line[:97]}..."
    return line.replace("&", "&amp;").replace("<", "&lt;").replace("`", "&#96;")


def _limits(values: dict[str, Any]) -> str:
    metrics = values["metrics"]
    lines = [
        "- Linear in its inputs: it knows no shift, turn or scale of what it was trained on.",
        "- It always names one of its classes, whatever the input shows. Its probabilities are not calibrated.",
    ]
    last = metrics and (metrics.get("test") or metrics.get("val"))
    if last:
        if last["mistakes"]:
            worst = last["mistakes"][0]
            of = next(row["count"] for row in last["classes"] if row["name"] == worst["true"])
            lines.append(
                f"- Its most frequent mistake: {worst['rows']:,} of {of:,} rows of {_cut(worst['true'])} were called "
                f"{_cut(worst['predicted'])}."
            )
        recalls = [(row["recall"], _cut(row["name"])) for row in last["classes"] if row["recall"] is not None]
        lines.append("- It finds least of {1}: {0:.1%}.".format(*min(recalls)))
    lines.append("- The int8 files answer nearly, not exactly, as the others; the table says how nearly.")
    return "\n".join(lines)


def _parity(parity: list[dict[str, Any]]) -> str:
    first = parity[0]
    text = (
        f"Each file was opened in its own runtime on {first['rows']:,} rows, in batches of 1, 7 and all. Largest "
        "differences of logits and probabilities, rows whose class differs, microseconds a row in batches of 1 and "
        "1,024"
    )
    if first["model_accuracy"] is not None:
        text += f"; the model's own accuracy on those rows that have labels is {first['model_accuracy']:.4f}"
    header = ["file", "runtime", "bytes", "logits", "probabilities", "classes", "accuracy", "us, 1", "us, 1,024"]
    rows = [
        [
            f"`{row['file']}`",
            row["runtime"],
            f"{row['bytes']:,}",
            f"{row['logits']:.1e}",
            f"{row['probabilities']:.1e}",
            f"{row['classes']:,}",
            _figure(row["accuracy"], 4),
            f"{row['microseconds']['1']:.1f}",
            f"{row['microseconds']['1024']:.2f}",
        ]
        for row in parity
    ]
    return f"{text}.\n\n{_table(header, rows)}\n\n`tfsoftmax verify .` checks all of this again."


def _serving(name: str, version: int, values: dict[str, Any]) -> str:
    source = _input(values["spec"])
    rows = f'{{"{source}": rows}}'
    if columns := values["spec"].get("columns"):
        rows = f"{{{json.dumps(columns[0]['name'], ensure_ascii=False)}: array, …}}"
    return "\n".join(
        [
            "`FOLDER` is the path of this folder, `PARENT` that of the one around it.",
            "",
            "- tfsoftmax: `tfsoftmax serve FOLDER`, or `tfsoftmax predict FOLDER FILE` for files.",
            f"- TensorFlow Serving: `tensorflow_model_server --model_name={name} --model_base_path=FOLDER "
            "--rest_api_port=8501`",
            f"- Triton: `tritonserver --model-repository=PARENT --model-control-mode=explicit --load-model={name}`",
            "- KServe: an InferenceService whose model has `modelFormat: {name: tensorflow}` and `storageUri` FOLDER; "
            "with `modelFormat: {name: onnx}` and `runtime: kserve-tritonserver` it is PARENT.",
            f'- ONNX Runtime: `onnxruntime.InferenceSession("FOLDER/{version}/model.onnx").run(None, {rows})`',
            f'- LiteRT: `ai_edge_litert.interpreter.Interpreter("FOLDER/{version}/model.tflite")'
            f'.get_signature_runner("serving_default")({source}=rows)`; labels are in `assets/labels.txt`.',
        ]
    )


def _table(header: list[str], rows: list[list[str]]) -> str:
    cells = [header, ["---"] * len(header), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _figure(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
